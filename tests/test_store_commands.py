"""`sslmem store`: sizes and ages, every checksum, and removing that never takes what is whole or in use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sslmem_utils import cli
from sslmem_utils.store import CHECKPOINT, STORED, UNFINISHED, InUse, Store

KEYS = [f"{number:020x}" for number in range(8)]


def fill(store: Store, kind: str = "tables", keys: list[str] = KEYS) -> Store:
    for key in keys:
        store.put(kind, key, lambda folder, key=key: (folder / "a.txt").write_text(key * 50) and None, {"key": key})
    return store


def aged(store: Store, key: str, days: float, kind: str = "tables") -> None:
    """Set when an artifact was stored, as its manifest says."""
    file = store.path(kind, key) / "manifest.json"
    when = datetime.now(UTC) - timedelta(days=days)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"created": when.isoformat()}))


def files(root: Path) -> dict[str, bytes]:
    """Everything but the empty files of locks."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


DAMAGE = {
    "changed": lambda folder: (folder / "a.txt").write_text("x"),
    "missing": lambda folder: (folder / "a.txt").unlink(),
    "cut manifest": lambda folder: (folder / "manifest.json").write_text('{"files"'),
    "odd manifest": lambda folder: (folder / "manifest.json").write_text('{"files": ["a.txt"], "meta": {}}'),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
}


def test_list_and_show_tell_sizes_and_ages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "list"]) == 0 and "empty" in capsys.readouterr().out
    store = fill(fill(Store()), "encoders", KEYS[:1])
    aged(store, KEYS[3], days=12)
    checkpoint = store.checkpoint("encoders", KEYS[5])
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"x" * 3000)
    assert cli.main(["store", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if KEYS[3] in line).split()[-4:] == ["1.2", "kB", "12", "d"]
    assert any(line.split()[:5] == ["encoders", KEYS[5], "checkpoint", "3.0", "kB"] for line in lines)
    assert any(line.startswith("in all: 10, ") for line in lines)
    assert cli.main(["store", "list", "--kind", "encoder"]) == 2
    assert "did you mean encoders?" in capsys.readouterr().err
    assert cli.main(["store", "show", f"tables/{KEYS[3]}"]) == 0
    text = capsys.readouterr().out
    assert "12 d ago" in text and "a.txt:" in text and '"key": "00000000000000000003"' in text
    assert cli.main(["store", "show", "0000"]) == 2 and "names 9 artifacts" in capsys.readouterr().err
    assert cli.main(["store", "show", "ffff"]) == 2 and "there is no artifact 'ffff'" in capsys.readouterr().err


def test_list_says_what_artifacts_were_made_from(capsys: pytest.CaptureFixture[str]) -> None:
    spec = {"dataset": {"name": "digits"}, "method": {"name": "byol"}, "encoder": {"name": "cnn"}, "seed": 3}
    metas = ({"label": "score digits"}, {"spec": spec}, {"encoder": KEYS[7]}, {"spec": {"dataset": "odd"}})
    for key, meta in zip(KEYS, metas, strict=False):
        Store().put("tables", key, lambda folder: (folder / "a.txt").write_text("x") and None, meta)
    DAMAGE["no manifest"](fill(Store(), "encoders", KEYS[6:7]).path("encoders", KEYS[6]))
    assert cli.main(["store", "list"]) == 0
    ends = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("tables  ")}
    assert ends[KEYS[0]].endswith("  score digits") and ends[KEYS[1]].endswith("  digits byol cnn seed=3")
    assert ends[KEYS[2]].endswith(f"  of encoder {KEYS[7]}") and ends[KEYS[3]].endswith(" s")


def test_verify_names_what_is_damaged_and_prune_removes_only_that(capsys: pytest.CaptureFixture[str]) -> None:
    store = fill(Store())
    assert cli.main(["store", "verify"]) == 0 and "8 artifacts, 9.5 kB: none damaged" in capsys.readouterr().out
    for key, damage in zip(KEYS, DAMAGE.values(), strict=False):
        damage(store.path("tables", key))
    assert cli.main(["store", "verify"]) == 1
    told = capsys.readouterr()
    assert told.out.count("damaged: ") == 5 and all((key in told.out) == (key in KEYS[:5]) for key in KEYS)
    assert told.err.startswith("error: 5 of 8 artifacts") and told.err.count("\n") == 1
    before = files(store.root)
    assert cli.main(["store", "prune", "--dry-run"]) == 0 and "5 pieces" in capsys.readouterr().out
    assert files(store.root) == before
    assert cli.main(["store", "prune"]) == 0
    assert {piece.key for piece in store.pieces()} == set(KEYS[5:])
    assert cli.main(["store", "verify"]) == 0


def test_only_what_is_old_goes_and_only_of_the_kind_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    store = fill(fill(Store()), "encoders")
    for kind in ("tables", "encoders"):
        aged(store, KEYS[0], 40, kind)
        aged(store, KEYS[1], 20, kind)
        aged(store, KEYS[2], -3000, kind)  # the clock was wrong when it was stored
    assert cli.main(["store", "prune", "--older", "30", "--kind", "tables"]) == 0
    assert "older than 30 days" in capsys.readouterr().out
    assert store.get("tables", KEYS[0]) is None and store.get("encoders", KEYS[0]) is not None
    assert len(store.pieces("tables")) == 7 and len(store.pieces("encoders")) == 8
    assert cli.main(["store", "prune", "--older", "-1"]) == 2


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    (tmp_path / "photos" / "2024" / "a.jpg").write_text("x")
    store = fill(Store(tmp_path))
    assert {piece.kind for piece in store.pieces()} == {"tables"}


HOLDS = """
import sys, time
from pathlib import Path
from sslmem_utils.store import Store
store, key = Store(), sys.argv[1]
def write(folder):
    (folder / "a.txt").write_text("half")
    print("writing", flush=True)
    time.sleep(300)
store.checkpoint("tables", key).parent.mkdir(parents=True)
store.checkpoint("tables", key).write_text("state")
store.compute("tables", key, write, {})
"""


@contextmanager
def holder(key: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is at work on an artifact."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, key], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def test_what_a_running_process_holds_stays_until_it_is_dead(capsys: pytest.CaptureFixture[str]) -> None:
    store, key = Store(), "f" * 20
    with holder(key) as process:
        before = files(store.root)
        for options in (["--dry-run"], [], ["--older", "0"]):
            assert cli.main(["store", "prune", *options]) == 0
            text = capsys.readouterr().out
            assert "kept: a running process holds it" in text and "0 pieces, 0 B" in text
        assert files(store.root) == before
        with pytest.raises(InUse, match="in use by a running process"), store.lock("tables", key, wait=False):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {piece.state for piece in store.pieces()} == {CHECKPOINT, UNFINISHED}
    assert cli.main(["store", "verify"]) == 0 and "2 checkpoints and leftovers" in capsys.readouterr().out
    assert cli.main(["store", "prune"]) == 0  # what is unfinished goes, the checkpoint can be gone on from
    assert [piece.state for piece in store.pieces()] == [CHECKPOINT]
    assert cli.main(["store", "prune", "--older", "0"]) == 0 and not store.pieces()


def test_a_checkpoint_goes_when_its_computation_is_finished() -> None:
    store = fill(Store())
    file = store.checkpoint("tables", KEYS[0])
    file.parent.mkdir(parents=True)
    file.write_text("state")
    [piece] = [piece for piece in store.pieces() if piece.state == CHECKPOINT]
    assert store.prune(piece) == "its computation is finished"
    assert [piece.state for piece in store.pieces()] == [STORED] * 8


def test_what_was_computed_anew_meanwhile_is_not_removed() -> None:
    store = fill(Store())
    DAMAGE["changed"](store.path("tables", KEYS[0]))
    piece = next(piece for piece in store.pieces() if piece.key == KEYS[0])
    assert store.surplus(piece) == "damaged"
    store.remove("tables", KEYS[0])
    fill(store, keys=KEYS[:1])
    assert store.prune(piece) == "" and store.get("tables", KEYS[0]) is not None


PRUNES = """
import os, random, signal, sys, time
from sslmem_utils.store import Store
keys = [f"{number:020x}" for number in range(60)]
def write(folder):
    for name in "abcdefgh":
        (folder / f"{name}.txt").write_text(name * 2000)
store, rng, killed = Store(), random.Random(0), 0
for round in range(16):
    for key in keys:
        if store.get("tables", key) is None:
            store.compute("tables", key, write, {})
    child = os.fork()
    if child == 0:
        for piece in store.pieces():
            store.prune(piece, older=0.0)
        os._exit(0)
    time.sleep(rng.uniform(0.001, 0.06))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = [piece for piece in store.pieces() if piece.state == "stored"]
    assert not [store.damage(piece) for piece in left if store.damage(piece)]
for piece in store.pieces():
    store.prune(piece, older=0.0)
assert not store.pieces(), store.pieces()
print(killed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_killed_prune_leaves_whole_artifacts_or_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PRUNES], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 6, "hardly any kill came while it pruned"


def test_ages_do_not_depend_on_when_files_were_touched(tmp_path: Path) -> None:
    store = fill(Store(tmp_path), keys=KEYS[:1])
    aged(store, KEYS[0], 5)
    os.utime(store.path("tables", KEYS[0]) / "a.txt", (time.time(), time.time()))
    [piece] = store.pieces()
    assert 4.9 < piece.age / 86400 < 5.1


def test_a_store_goes_into_one_file_and_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a teacher packs and students unpack; what a student has already is left alone."""
    assert cli.main(["store", "export", str(tmp_path / "a.zip")]) == 2
    assert "there is nothing to pack in" in capsys.readouterr().err
    for key in KEYS[:3]:
        Store().put("encoders", key, lambda folder, key=key: (folder / "w.json").write_text(key) and None, {"key": key})
    assert cli.main(["store", "export", str(tmp_path / "course.zip"), "--kind", "encoders"]) == 0
    assert "encoders: 3" in capsys.readouterr().out
    before = files(Store().root / "encoders" / KEYS[1])
    monkeypatch.setenv("SSLMEM_STORE", str(tmp_path / "student"))
    Store().put("encoders", KEYS[0], lambda folder: (folder / "w.json").write_text(KEYS[0]) and None, {"key": KEYS[0]})
    assert cli.main(["store", "import", str(tmp_path / "course.zip")]) == 0
    assert f"2 artifacts stored in {tmp_path / 'student'}, 1 were there" in capsys.readouterr().out
    after = files(Store().root / "encoders" / KEYS[1])
    assert after["w.json"] == before["w.json"]
    assert cli.main(["store", "export", str(tmp_path / "course.rar")]) == 2
    assert "an archive is named *.zip or *.tar.gz" in capsys.readouterr().err
