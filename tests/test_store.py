"""The store: whole artifacts or nothing, checked on every read, whatever is killed, damaged or full."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sslmem_utils.errors import StoreError
from sslmem_utils.store import Store, write_atomic, write_json


def put(store: Store, text: str = "hello", key: str = "k") -> Path:
    return store.put("tables", key, lambda folder: (folder / "a.txt").write_text(text) and None, {"n": 1})


def test_what_was_put_is_got_with_its_meta(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get("tables", "k") is None
    put(store)
    assert (store.get("tables", "k") / "a.txt").read_text() == "hello"
    assert store.meta("tables", "k") == {"n": 1}
    put(store, "other")  # an artifact is never replaced
    assert (store.get("tables", "k") / "a.txt").read_text() == "hello"


@pytest.mark.parametrize("damage", ["change", "remove", "manifest"])
def test_a_damaged_artifact_is_never_served(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    folder = put(store)
    if damage == "change":
        (folder / "a.txt").write_text("hallo")
    elif damage == "remove":
        (folder / "a.txt").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="delete the folder .* and run again") as caught:
        store.get("tables", "k")
    assert "\n" not in str(caught.value)


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fails(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.compute("tables", "k", fails, {})
    assert store.get("tables", "k") is None and not list((tmp_path / "unfinished").iterdir())


def _slow(root: str, key: str, count: str) -> None:
    def write(folder: Path) -> None:
        with Path(count).open("a") as file:
            file.write("x")
        time.sleep(0.3)
        (folder / "a.txt").write_text("done")

    Store(Path(root)).compute("tables", key, write, {})


def test_two_processes_compute_an_artifact_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    count = tmp_path / "count"
    workers = [context.Process(target=_slow, args=(str(tmp_path), "k", str(count))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert count.read_text() == "x" and [worker.exitcode for worker in workers] == [0, 0, 0]


def test_a_killed_writer_leaves_nothing_and_frees_its_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sslmem_utils.store import Store\n"
        "def write(folder):\n"
        "    (folder / 'a.txt').write_text('half'); print('writing', flush=True); time.sleep(60)\n"
        "Store(Path(sys.argv[1])).compute('tables', 'k', write, {})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    store = Store(tmp_path)
    assert store.get("tables", "k") is None and len(list((tmp_path / "unfinished").iterdir())) == 1
    folder = store.compute("tables", "k", lambda folder: (folder / "a.txt").write_text("whole") and None, {})
    assert (folder / "a.txt").read_text() == "whole" and not list((tmp_path / "unfinished").iterdir())


def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_stored() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full (Linux)")
    with pytest.raises(StoreError, match="no space is left on the device.*finished work is kept") as caught:
        write_atomic(Path("/dev/shm/sslmem-test"), lambda _: Path("/dev/full").write_text("x"))
    assert "\n" not in str(caught.value)


def test_a_file_size_limit_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"kept": True})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(StoreError, match="file size limit"):
            write_json(file, ["x" * 1000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert json.loads(file.read_text()) == {"kept": True} and len(list(tmp_path.iterdir())) == 1


def test_a_read_only_store_is_one_sentence(tmp_path: Path) -> None:
    # root may write to any folder but those of the kernel
    target = Path("/proc/sslmem") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        target.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot write to .*choose another folder") as caught:
        put(Store(target / "store"))
    assert "\n" not in str(caught.value)


def test_what_is_removed_is_gone_and_can_be_computed_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for text in ("one", "two"):
        store.compute("things", "k", lambda folder, text=text: (folder / "a.txt").write_text(text), {})
        assert (store.get("things", "k") / "a.txt").read_text() == text
        store.remove("things", "k")
        assert store.get("things", "k") is None and not list((tmp_path / "unfinished").iterdir())
    store.remove("things", "never stored")
