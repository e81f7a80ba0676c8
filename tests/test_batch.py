"""Plans are checked before anything runs; notebooks run in fresh kernels, resume, fail and stop as they should."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from projects import TOY, environment, inside, sslmem, write_notebook

from sslmem_utils import batch, paths, runs
from sslmem_utils.batch import export, kernel, planning, progress, warm
from sslmem_utils.errors import RunError, SpecError
from sslmem_utils.runs import tables

KILLED = """import os, signal, subprocess
from pathlib import Path

child = subprocess.Popen(["sleep", "300"])
(run.folder / "child.txt").write_text(str(child.pid))
os.kill(os.getpid(), signal.SIGKILL)"""
SLEEPS = """import os, time

cores = (os.environ.get(name) for name in ("SSLMEM_JOBS", "OMP_NUM_THREADS"))
(run.folder / "kernel.txt").write_text(" ".join(map(str, (os.getpid(), *cores))))
print("asleep", file=sys.stderr, flush=True)
time.sleep(300)"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_notebook(tmp_path, "01_toy", TOY, quick="", laptop="profile: laptop\nn: 7\nrate: 2\n")
    write_notebook(tmp_path, "03_other", TOY)
    inside(monkeypatch, tmp_path)
    return tmp_path


def gone(pid: int) -> bool:
    """Whether a process has ended (or waits only for its parent to notice)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def wait_for(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


# ---------------------------------------------------------------- plans
def test_a_plan_holds_checked_parameters(project: Path) -> None:
    job, other = batch.plan([], "quick", ["n=5", "seeds=1,2,3"])
    assert (job.notebook, other.notebook) == ("01_toy", "03_other")
    assert job.params == {"profile": "quick", "n": 5, "seeds": [1, 2, 3]}
    assert batch.plan([], "laptop")[0].params == {"profile": "laptop", "n": 7, "rate": 2}
    assert [job.notebook for job in batch.plan([], "laptop")] == ["01_toy"]  # the other has no such profile


@pytest.mark.parametrize("name", ["3", "03", "03_other", "03_other.ipynb", "notebooks/03_other.ipynb"])
def test_notebooks_are_named_in_several_ways(project: Path, name: str) -> None:
    assert batch.select([name]) == ["03_other"]


@pytest.mark.parametrize(
    ("names", "profile", "overrides", "message"),
    [
        (["2"], "quick", [], "unknown notebook '2'; there are: 01_toy, 03_other"),
        (["01_tod"], "quick", [], "did you mean 01_toy"),
        ([], "quik", [], "unknown profile 'quik'; did you mean quick"),
        (["03"], "laptop", [], "notebook 03_other: unknown profile 'laptop'"),
        ([], "quick", ["seed=1"], "unknown parameter 'seed'; did you mean seeds"),
        ([], "quick", ["n=3.0"], "parameter 'n' must be a whole number, found '3.0'"),
        ([], "quick", ["n"], "name=value"),
        ([], "quick", ["profile=laptop"], "--profile laptop"),
    ],
)
def test_a_wrong_plan_is_one_sentence(
    project: Path, names: list[str], profile: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        batch.plan(names, profile, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: quick\nrows: 3\n", "unknown parameter 'rows'"),
        ("profile: quick\nn: '3'\n", "'n' must be a whole number"),
        ("profile: laptop\n", "says profile 'laptop'"),
        ("- 1\n", "must hold lines"),
        ("n: [1\n", "not valid YAML"),
    ],
)
def test_a_wrong_profile_is_one_sentence(project: Path, text: str, message: str) -> None:
    (project / "notebooks/profiles/01_toy/quick.yaml").write_text(text)
    with pytest.raises(SpecError, match=message):
        batch.plan(["1"], "quick")


def test_a_damaged_notebook_is_one_sentence(project: Path) -> None:
    (project / "notebooks/01_toy.ipynb").write_text('{"cells": ')
    with pytest.raises(SpecError, match="not a Jupyter notebook"):
        batch.plan(["1"], "quick")


def test_estimates_come_from_the_profile_then_from_the_longest_run(project: Path) -> None:
    job, other = batch.plan([], "quick")
    assert batch.estimate(job) == batch.Estimate(0.5, 1.0, "profile")
    assert batch.estimate(batch.plan(["1"], "laptop")[0]) == batch.Estimate(None, None, "unknown")
    planning.history_file().parent.mkdir(parents=True)
    planning.history_file().write_text(json.dumps({planning.cost_key(job): {"seconds": 90.0, "memory_mb": 2048}}))
    assert batch.estimate(job) == batch.Estimate(1.5, 2.0, "longest run here")
    text = batch.forecast([job, other])
    assert "in all about 2.0 minutes and at most 2.0 GB" in text and "1.5" in text.splitlines()[1]
    assert "in all about 1.5 minutes and at most 3.0 GB" in batch.forecast([job, other], together=2)
    assert "in all about 1.5 minutes" in batch.forecast([other, other, job], together=2), "the longest starts first"


def test_the_digest_follows_source_and_parameters_only(project: Path) -> None:
    digest = planning.run_digest(batch.plan(["1"], "quick")[0])
    assert planning.run_digest(batch.plan(["1"], "quick", ["n=5"])[0]) != digest
    file = project / "notebooks/01_toy.ipynb"
    notebook = json.loads(file.read_text())
    notebook["cells"][2].update(outputs=[], execution_count=7)
    file.write_text(json.dumps(notebook, indent=2))
    assert planning.run_digest(batch.plan(["1"], "quick")[0]) == digest
    notebook["cells"][2]["source"] += "\n"
    file.write_text(json.dumps(notebook))
    assert planning.run_digest(batch.plan(["1"], "quick")[0]) != digest


def test_relative_folders_are_those_of_the_command_not_of_the_notebook(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("SSLMEM_STORE", "mine")
    assert kernel._environment(False, project, None)["SSLMEM_STORE"] == str((project / "mine").resolve())


# ---------------------------------------------------------------- runs in real kernels
# The tests that use `ran` start kernels, some seconds each; together they take about half a minute of one core.
@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """One good notebook and three that fail, each in another way, run by the command line."""
    root = tmp_path_factory.mktemp("ran")
    start = {name: TOY[name] for name in ("parameters", "start")}
    write_notebook(root, "01_toy", TOY)
    write_notebook(root, "02_broken", {**TOY, "figure": "raise ValueError('first\\nlast line')"})
    write_notebook(root, "03_killed", {**start, "kill": KILLED})
    write_notebook(root, "04_silent", start)
    write_notebook(root, "05_sleeps", {**start, "sleep": SLEEPS}, slow="")
    write_notebook(root, "06_sleeps", {**start, "sleep": SLEEPS}, slow="")
    yield root, sslmem(root, "run")


def test_a_failure_does_not_stop_the_others(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    root, result = ran
    assert result.returncode == 1
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert "ok" in lines["01_toy"] and "1 supported" in lines["01_toy"]
    assert "ValueError: last line (see _build/runs/quick/02_broken/failed.ipynb)" in lines["02_broken"]
    assert "its kernel was killed" in lines["03_killed"]
    assert "it made no table" in lines["04_silent"]
    assert "error: 3 of 4 notebooks failed" in result.stderr
    assert "Traceback" not in result.stderr and "WARNING" not in result.stderr
    assert "[01_toy] epoch 1 of 1" in result.stderr
    assert (root / "_build/runs/quick/02_broken/failed.ipynb").is_file()
    assert not (root / "_build/runs/quick/02_broken/executed.ipynb").exists()


def test_nothing_of_a_dead_kernel_stays_behind(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    child = int((ran[0] / "_build/runs/quick/03_killed/child.txt").read_text())
    wait_for(lambda: gone(child), 10)


def test_the_executed_copy_hides_what_was_injected(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    text = (ran[0] / "_build/runs/quick/01_toy/executed.ipynb").read_text()
    notebook = json.loads(text)
    injected = [cell for cell in notebook["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]
    assert len(injected) == 1 and "remove-cell" in injected[0]["metadata"]["tags"]
    assert "papermill" not in notebook["metadata"] and str(ran[0]) not in text


def test_a_finished_run_is_left_alone(
    ran: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, ran[0])
    job = batch.plan(["1"], "quick")[0]
    said: list[str] = []
    assert [outcome.status for outcome in batch.run([job], say=said.append)] == ["cached"]
    assert said == ["[1/1] 01_toy: done before, nothing has changed"]
    assert "done before" in batch.forecast([job]) and "longest run here" in batch.forecast([job], force=True)
    assert batch.estimate(job).minutes > 0 and batch.estimate(job).gigabytes > 0.05
    assert not batch.is_finished(batch.plan(["1"], "quick", ["n=9"])[0])
    file = job.folder / "points.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert not batch.is_finished(job)
    file.write_bytes(content)
    assert batch.is_finished(job)
    claims = job.folder / tables.CLAIMS
    content = claims.read_bytes()
    claims.unlink()
    assert not batch.is_finished(job)
    claims.write_bytes(content)
    assert batch.is_finished(job)


@pytest.mark.slow
def test_a_failed_run_leaves_the_finished_one_as_it_was(
    ran: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, ran[0])
    job = batch.plan(["1"], "quick")[0]
    before = {path.name: path.read_bytes() for path in job.folder.iterdir()}
    worse = batch.plan(["1"], "quick", ["n=0"])  # an empty table is refused
    assert [outcome.status for outcome in batch.run(worse, say=lambda _: None)] == ["failed"]
    after = {path.name: path.read_bytes() for path in job.folder.iterdir()}
    assert "failed.ipynb" in after and {name: after.get(name) for name in before} == before
    assert batch.is_finished(job)
    (job.folder / "failed.ipynb").unlink()


def test_two_runs_of_one_notebook_do_not_mix(
    ran: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    inside(monkeypatch, ran[0])
    job = batch.plan(["1"], "quick")[0]
    with FileLock(paths.BUILD / "locks" / f"{job.profile}-{job.notebook}.lock"):
        (outcome,) = batch.run([job], force=True, say=lambda text: None)
    assert outcome.status == "failed" and "another run of 01_toy" in outcome.message
    assert batch.is_finished(job)


def test_time_is_limited(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    result = sslmem(ran[0], "run", "5", "--profile", "slow", "--timeout", "0.05")
    assert result.returncode == 1 and "longer than the 0.05 minutes allowed" in result.stdout
    assert "Traceback" not in result.stderr


def test_two_at_a_time_share_the_cores_and_ctrl_c_ends_both(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    command = ["run", "5", "6", "--profile", "slow", "--jobs", "2"]
    code = f"import sys; from sslmem_utils.cli import main; sys.exit(main({command}))"
    kernels = [ran[0] / f"_build/runs/slow/{name}_sleeps/kernel.txt" for name in ("05", "06")]
    for number in kernels:
        number.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(ran[0]) | {"SSLMEM_JOBS": "5"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: all(number.is_file() and number.read_text() != "" for number in kernels))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: interrupted; finished work is kept" in errors and "Traceback" not in errors
    found = [number.read_text().split() for number in kernels]
    assert [cores for _, *cores in found] == [["2", "2"], ["2", "2"]]
    wait_for(lambda: all(gone(int(pid)) for pid, *_ in found), 10)


def test_plain_papermill_is_as_strict(ran: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    source, profile = ran[0] / "notebooks/01_toy.ipynb", ran[0] / "notebooks/profiles/01_toy/quick.yaml"
    command = [sys.executable, "-m", "papermill", str(source), str(tmp_path / "out.ipynb"), "-f", str(profile)]
    result = subprocess.run(
        [*command, "-p", "rates", "3"],
        env=environment(ran[0]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.returncode == 1
    assert "SpecError: notebook 01_toy: unknown parameter 'rates'; did you mean rate" in result.stderr


# ---------------------------------------------------------------- results
def published(root: Path) -> Path:
    return root / "results/01_toy/quick"


def test_export_and_render(ran: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    inside(monkeypatch, ran[0])
    assert export.export("quick", [])[0].startswith("results/01_toy/quick: 1 tables")
    assert sorted(path.name for path in published(ran[0]).iterdir()) == ["claims.json", "points.json", "points.parquet"]
    page = batch.render("01_toy", "quick")
    assert "committed results" in page.read_text()
    outputs = [output for cell in json.loads(page.read_text())["cells"] for output in cell.get("outputs", [])]
    assert outputs and not any(output["output_type"] == "stream" for output in outputs), "it computed"
    before = page.stat().st_mtime_ns
    assert batch.render("01_toy", "quick") == page and page.stat().st_mtime_ns == before


RENDERS = """import os, time
from pathlib import Path

(Path("{folder}") / "kernel.txt").write_text(f"{os.getpid()} {os.getppid()}")
time.sleep({seconds} if run.render else 0)"""


def slow_page(root: Path, seconds: int) -> list[str]:
    """A project whose page takes its time to render, with results; the command that renders it."""
    sleeps = RENDERS.replace("{folder}", str(root)).replace("{seconds}", str(seconds))
    write_notebook(root, "01_toy", TOY | {"sleeps": sleeps})
    for command in (("run", "1"), ("results", "export", "--notebook", "1")):
        done = sslmem(root, *command)
        assert done.returncode == 0, done.stderr
    (root / "kernel.txt").unlink()
    return [sys.executable, "-c", "from sslmem_utils import batch; print(batch.render('01_toy', 'quick'))"]


@pytest.mark.skipif(not warm.AVAILABLE, reason="kernels are forked on Linux only")
def test_a_killed_rendering_leaves_no_process(tmp_path: Path) -> None:
    renderer = subprocess.Popen(slow_page(tmp_path, 300), cwd=tmp_path, env=environment(tmp_path))
    wait_for(lambda: (tmp_path / "kernel.txt").is_file() and (tmp_path / "kernel.txt").read_text().count(" "))
    kernel, server = map(int, (tmp_path / "kernel.txt").read_text().split())
    assert server != renderer.pid and not gone(kernel) and not gone(server)
    renderer.send_signal(signal.SIGKILL)
    renderer.wait()
    wait_for(lambda: gone(kernel) and gone(server))


@pytest.mark.skipif(not warm.AVAILABLE, reason="kernels are forked on Linux only")
def test_warm_kernels_share_a_server_but_no_state(tmp_path: Path) -> None:
    [*start, _] = slow_page(tmp_path, 0)
    twice = """import shutil
from pathlib import Path
from sslmem_utils import batch
for _ in range(2):
    shutil.rmtree("_build/rendered", ignore_errors=True)
    batch.render("01_toy", "quick")
    print(Path("kernel.txt").read_text())"""
    done = subprocess.run(
        [*start, twice], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=240
    )
    first, second = (list(map(int, line.split())) for line in done.stdout.splitlines())
    assert first[0] != second[0] and first[1] == second[1]
    assert all(gone(pid) for pid in (*first, *second))
    assert done.stderr == ""


def test_export_refuses_what_does_not_belong(
    ran: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, ran[0])
    with pytest.raises(RunError, match="02_broken was not run here"):
        export.export("quick", ["2"])
    with pytest.raises(RunError, match="no notebook was run here with profile slow"):
        export.export("slow", [])
    record = runs.folder_of("01_toy", "quick") / batch.RECORD
    text = record.read_text()
    record.write_text(text.replace('"profile": "quick"\n', '"n": 9,\n  "profile": "quick"\n', 1))
    with pytest.raises(SpecError, match="other parameters"):
        export.export("quick", ["1"])
    record.write_text(text)
    monkeypatch.setattr(export, "FILE_LIMIT", 100)
    with pytest.raises(RunError, match="more than"):
        export.export("quick", ["1"])
    assert list((ran[0] / "results/01_toy").iterdir()) in ([], [published(ran[0])])  # nothing half done


@pytest.mark.parametrize(("dataset", "allowed"), [("digits", True), ("fashion_mnist", True), ("cifar10", False)])
def test_pictures_are_exported_only_where_allowed(project: Path, dataset: str, allowed: bool) -> None:
    job = batch.plan(["1"], "quick")[0]
    pixels = [np.arange(4, dtype=np.uint8), np.arange(4, dtype=np.uint8)]
    frame = pd.DataFrame({"score": [1.0, 2.0], "pixels": pixels, "png": [b"abc", b"d"]})
    facts = {"pictures": ["pixels", "png"], "pictures_of": dataset, "notebook": "01_toy", "profile": "quick"}
    tables.write(job.folder, "gallery", frame, facts | tables.origin())
    (job.folder / batch.RECORD).write_text(json.dumps({"params": job.params}))
    (job.folder / "executed.ipynb").write_text("{}")
    if not allowed:
        with pytest.raises(SpecError, match="pictures of cifar10, which may not be redistributed"):
            export.export("quick", ["1"])
    export.export("quick", ["1"], without_pictures=True)
    found, sidecar = tables.read(published(project), "gallery", "")
    assert found["score"].tolist() == [1.0, 2.0]
    assert found["pixels"][0].tolist() == ([0, 1, 2, 3] if allowed else [128] * 4)
    assert found["png"][0] == (b"abc" if allowed else b"\x80\x80\x80")
    assert ("withheld" in sidecar) is not allowed


def test_committed_results_do_not_pass_for_a_run(project: Path) -> None:
    job = batch.plan(["1"], "quick")[0]
    tables.write(published(project), "points", pd.DataFrame({"x": [1]}), {"params": job.params})
    assert batch.committed_profiles("01_toy") == ["quick"]
    assert not batch.is_finished(job) and batch.executed("01_toy", "quick") is None


def test_lines_keep_the_last_state_only() -> None:
    stream = io.StringIO()
    with progress.Lines("01_toy", stream) as lines:
        for piece in ("epoch 1\n", "10 %\r20", " %\r", "30 %\n\n", "no end"):
            lines.write(piece)
    assert stream.getvalue().splitlines() == ["[01_toy] epoch 1", "[01_toy] 30 %", "[01_toy] no end"]


def test_the_bar_takes_any_text() -> None:
    with progress.Bar("01_toy") as bar:
        bar.write("epoch 1 [of] 2 [/bold]\n")
        bar.cell(1, 2)


def test_other_images_under_the_same_name_are_a_reason_to_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from sslmem_utils import data

    job = batch.Job("03_four_sets", tmp_path / "x.ipynb", "quick", {"datasets": ["mine", "digits"]})
    found = []
    for grey in (10, 20):
        for number in range(3):
            picture = tmp_path / "images" / "a" / f"{number}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), grey + number).save(picture)
        data.import_images("mine", tmp_path / "images", replace=True)
        found.append(batch.data_of(job))
    assert set(found[0]) == {"mine", "digits"} and found[0] != found[1]
