"""Grids go on whatever is killed, hangs, floods or fills the disk; what fails is named and the rest is done."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from projects import TOY, environment, inside, write_notebook

from sslmem_utils import grid
from sslmem_utils.batch import kernel
from sslmem_utils.grid import driver, engines, jobs, state, view, worker
from sslmem_utils.grid.options import Options
from sslmem_utils.store import Store

SMALL = {"dataset": "digits", "shared": 20, "candidate": 20, "external": 40, "epochs": 2, "device": "cpu"}
ENDLESS = SMALL | {"epochs": 10**7}
PLACE = "import os, signal, time\nfrom pathlib import Path\n\nfrom sslmem_utils import paths\n\nroot = paths.ROOT\n"
COUNTED = PLACE + 'with (root / "executions.txt").open("a") as file:\n    file.write(f"{n}\\n")\n'
SLEEPS = COUNTED + '(root / f"asleep-{n}").write_text(f"{os.getpid()} {os.getppid()}")\n'
WAITS = SLEEPS + 'while not (root / "go").exists():\n    time.sleep(0.1)'
KILLS_KERNEL = PLACE + 'if not (root / "killed").exists():\n    (root / "killed").touch()\n    os.kill(os.getpid(), 9)'
KILLS_WORKER = PLACE + (
    'if not (root / "killed").exists():\n    (root / "killed").write_text(str(os.getpid()))\n'
    "    os.kill(os.getppid(), 9)\n    time.sleep(600)"
)
HEAD, END = "the first line", "the last line"
FLOODS = f'print("{HEAD}")\nfor line in range(n):\n    print(line, "." * 1000)\nprint("{END}")'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inside(monkeypatch, tmp_path)
    return tmp_path


def book(root: Path, name: str, code: str = "", with_table: bool = True) -> None:
    cells = TOY | ({"extra": code} if code else {})
    first = {part: cells[part] for part in ("parameters", "start")}
    rest = {"extra": code, "table": TOY["table"]} if with_table else {"extra": code}
    write_notebook(root, name, first | {part: text for part, text in rest.items() if text})


def plan_of(root: Path, entries: list[dict], name: str = "tiny") -> Path:
    file = root / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"jobs": entries}))
    return file


def trains(*seeds: int, **params: object) -> dict:
    return {"compute": "train", "params": SMALL | params, "grid": {"seed": list(seeds)}}


def start(root: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`sslmem grid` in a process of its own."""
    code = "import sys; from sslmem_utils.cli import main; sys.exit(main())"
    command = [*before, sys.executable, "-c", code, "grid", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(root), cwd=root, **pipes)


def ended(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    _, told = process.communicate(timeout=seconds)
    return process.returncode, told


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def by_label(found: list[state.JobState]) -> dict[str, state.JobState]:
    return {one.label: one for one in found}


# ---------------------------------------------------------------- killed
@pytest.mark.grid
@pytest.mark.slow
def test_a_killed_kernel_and_a_killed_worker_cost_an_attempt(project: Path) -> None:
    book(project, "01_kernel", KILLS_KERNEL)
    (project / "killed").unlink(missing_ok=True)
    done, told = ended(start(project, str(plan_of(project, [{"notebook": 1}])), "--jobs", "1"))
    assert done == 0, told
    (job,) = state.load("tiny").jobs
    assert (job.status, job.attempts, job.message) == ("done", 2, "") and "its kernel was killed" in told

    (project / "killed").unlink()
    book(project, "02_worker", KILLS_WORKER)
    entries = [{"notebook": 2}, trains(0, 1)]
    done, told = ended(start(project, str(plan_of(project, entries)), "--jobs", "2"))
    assert done == 0, told
    known = by_label(state.load("tiny").jobs)
    assert known["02_worker quick"].attempts == 2 and "its worker was killed" in told
    assert {one.status for one in known.values()} == {"done"}
    assert "02_worker quick: attempt 2 started on " in told
    assert [one.attempts for one in known.values() if one.kind == "train"] == [1, 1], "the other worker went on"
    assert gone(int((project / "killed").read_text())), "the kernel of a killed worker ends"


def test_a_job_that_is_always_killed_is_named_and_the_rest_is_done(project: Path) -> None:
    book(project, "01_dies", PLACE + "os.kill(os.getpid(), 9)")
    book(project, "02_silent", "pass", with_table=False)
    book(project, "03_wrong", 'import time\ntime.sleep(1.2)\nraise ValueError("no such thing")')
    entries = [*({"notebook": number} for number in (1, 2, 3)), trains(0)]
    found = grid.run(grid.read(plan_of(project, entries)), grid.Options(retries=1), say=lambda text: None)
    dies, silent, wrong, train = found
    assert (dies.status, dies.attempts) == ("failed", 2) and "its kernel was killed" in dies.message
    assert (silent.status, silent.attempts) == ("failed", 1) and "made no table" in silent.message
    assert (wrong.status, wrong.attempts) == ("failed", 1) and "ValueError: no such thing" in wrong.message
    assert train.status == "done" and wrong.memory_mb > 10, "memory is told of what fails above all"
    assert (Path(wrong.folder) / "run" / "failed.ipynb").is_file() and "no such thing" in _log(wrong)


def test_a_worker_is_named_while_it_works_and_leaves_its_notebook(project: Path) -> None:
    """Both attempts at a notebook lose their worker; the copy that the second one was at is kept."""
    book(project, "01_toy")
    lone = driver._Driver(grid.read(plan_of(project, [{"notebook": 1}])), Options(retries=1), lambda text: None)
    (job,), (known,) = lone.jobs.values(), lone.state.jobs
    seen: list[str] = []

    class Dying(engines.Engine):
        def submit(self, job: jobs.GridJob, attempt: int) -> str:
            job.outputs.mkdir(parents=True, exist_ok=True)
            (job.outputs / "executing.ipynb").write_text(f"attempt {attempt}")
            return f"here:{attempt}"

        def ended(self, timeout: float) -> engines.Ended:
            seen.append(known.worker)
            return [(job, None, engines.DIED)]

    lone.skip_done()
    lone.work(Dying())
    lone.unlock()
    assert seen == ["here:1", "here:2"] and known.status == "failed"
    assert [file.name for file in job.outputs.iterdir()] == ["failed.ipynb"]
    assert (job.outputs / "failed.ipynb").read_text() == "attempt 2"


def _log(job: state.JobState) -> str:
    return (Path(job.folder) / "log.txt").read_text()


@pytest.mark.grid
@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_and_its_successor_does_what_is_missing(project: Path) -> None:
    book(project, "01_waits", WAITS)
    plan = plan_of(project, [trains(0), {"notebook": 1, "grid": {"n": [1, 2, 3]}}])
    first = start(project, str(plan), "--jobs", "2")
    wait_for(lambda: len(list(project.glob("asleep-*"))) == 2)
    assert state.is_running(state.load("tiny"))
    pids = [int(pid) for file in project.glob("asleep-*") for pid in file.read_text().split()]
    assert len(set(pids)) == 4 and not any(gone(pid) for pid in pids), "two kernels, two workers"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    wait_for(lambda: all(gone(pid) for pid in pids), 30)
    left = state.load("tiny")
    assert left.finished is None and not state.is_running(left)
    assert left.counts() == {"done": 1, "running": 2, "waiting": 1}

    (project / "go").touch()
    done, told = ended(start(project, str(plan), "--jobs", "2"))
    assert done == 0, told
    assert state.load("tiny").counts() == {"cached": 1, "done": 3}
    counted = (project / "executions.txt").read_text().split()
    assert sorted(counted) == ["1", "1", "2", "2", "3"], "the two that were cut off, and nothing else, again"


@pytest.mark.grid
@pytest.mark.slow
def test_two_drivers_share_the_work_and_do_nothing_twice(project: Path) -> None:
    book(project, "01_counted", COUNTED + "time.sleep(1)")
    entries = [{"notebook": 1, "grid": {"n": [1, 2, 3, 4]}}]
    same = plan_of(project, entries)
    drivers = [start(project, str(same), "--jobs", "2") for _ in range(2)]
    assert [ended(driver)[0] for driver in drivers] == [0, 0]
    assert sorted((project / "executions.txt").read_text().split()) == ["1", "2", "3", "4"]
    assert state.load("tiny").finished and set(state.load("tiny").counts()) <= {"done", "cached"}

    plans = [plan_of(project, [trains(*range(4), epochs=600)], name) for name in ("one", "two")]  # one store
    drivers = [start(project, str(plan), "--jobs", "1") for plan in plans]
    assert [ended(driver)[0] for driver in drivers] == [0, 0]
    found = [job.status for name in ("one", "two") for job in state.load(name).jobs]
    assert sorted(found) == ["cached"] * 4 + ["done"] * 4
    logs = [(project / "_build/grid" / name / "driver.log") for name in ("one", "two")]
    assert "done by another run" in "".join(log.read_text() for log in logs if log.is_file())


def test_a_job_that_another_run_is_at_is_left_to_it(project: Path) -> None:
    plan = grid.read(plan_of(project, [trains(0)]))
    (job,) = plan.jobs()
    with worker.lock_of(job, Store()):
        assert json.loads(worker.work(job.canonical(), 1))["status"] == "busy"
    assert json.loads(worker.work(job.canonical(), 1))["status"] == "done"
    assert json.loads(worker.work(job.canonical(), 1))["status"] == "cached"


# ---------------------------------------------------------------- too long, too much
@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "process"])
def test_a_computation_that_does_not_end_is_stopped(project: Path, engine: str) -> None:
    entries = [{"compute": "probe", "params": ENDLESS}, trains(0)]
    options = ["--engine", engine, "--timeout", "0.4", "--retries", "0"]
    done, told = ended(start(project, str(plan_of(project, entries)), *options))
    assert done == 1 and "error: 2 of 3 jobs failed or were skipped" in told
    found = state.load("tiny").jobs
    assert len(by_label(found)) == 3, "two encoders of seed 0 are told apart"
    assert [one.status for one in found] == ["failed", "skipped", "done"]
    assert "longer than the 0.4 minutes allowed" in found[0].message and "which failed" in found[1].message


@pytest.mark.grid
@pytest.mark.slow
def test_a_notebook_that_hangs_is_stopped_and_kept(project: Path) -> None:
    book(project, "01_hangs", SLEEPS + "time.sleep(600)")
    book(project, "02_toy")
    plan = plan_of(project, [{"notebook": 1}, {"notebook": 2}])
    done, told = ended(start(project, str(plan), "--timeout", "0.5", "--retries", "1", "--jobs", "2"))
    assert done == 1 and "waits for another attempt: it took longer" in told
    hangs, toy = state.load("tiny").jobs
    assert (hangs.status, hangs.attempts, toy.status) == ("failed", 2, "done")
    assert "longer than the 0.5 minutes allowed" in hangs.message
    assert (Path(hangs.folder) / "run" / "failed.ipynb").is_file()
    assert all(gone(int(file.read_text().split()[0])) for file in project.glob("asleep-*"))


def test_a_flood_of_output_is_cut_in_the_middle(project: Path) -> None:
    book(project, "01_floods", FLOODS)
    (job,) = grid.run(grid.read(plan_of(project, [{"notebook": 1, "params": {"n": 20_000}}])))
    assert job.status == "done"
    executed = Path(job.folder) / "run" / "executed.ipynb"
    for file, limit in ((Path(job.folder) / "log.txt", worker.LOG_LIMIT), (executed, kernel.OUTPUT_LIMIT)):
        text = file.read_text()
        assert limit / 2 < len(text) < 1.3 * limit, "of 20 MB"
        assert HEAD in text and END in text and text.count(kernel.LEFT_OUT.strip()) == 1
        assert text.index(HEAD) < text.index(kernel.LEFT_OUT.strip()) < text.index(END)


# ---------------------------------------------------------------- disks, damage, clocks
def on_small_disk(root: Path, size: str) -> tuple[str, ...]:
    """Words before a command that runs it with a small disk of its own as the store."""
    store = Path(os.environ["SSLMEM_STORE"])
    store.mkdir(parents=True, exist_ok=True)
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    before = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, str(store))
    tried = subprocess.run([*before, "true"], capture_output=True)
    if tried.returncode:
        pytest.skip("needs the right to mount a disk in a name space of its own")
    return before


@pytest.mark.grid
@pytest.mark.slow
def test_a_full_disk_is_named_and_the_rest_is_done(project: Path) -> None:
    book(project, "01_toy")
    plan = plan_of(project, [trains(*range(8)), {"notebook": 1}])
    before = on_small_disk(project, "1500k")
    done, told = ended(start(project, str(plan), "--engine", "serial", before=before))
    found = state.load("tiny")
    assert done == 1 and "no space is left on the device; free some space" in told
    assert found.counts().keys() == {"done", "failed"} and found.jobs[0].status == "done"
    assert by_label(found.jobs)["01_toy quick"].status == "done", "it writes elsewhere"
    full = [one for one in found.jobs if one.status == "failed"]
    assert all("no space is left" in one.message and one.attempts == 1 for one in full)


@pytest.mark.grid
@pytest.mark.slow
def test_a_store_made_read_only_midway_is_named_and_the_rest_is_done(project: Path) -> None:
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
    remount = f"import subprocess\nsubprocess.run(['sh', '-c', {script!r}, str(paths.store_dir())], check=True)"
    book(project, "01_remounts", PLACE + remount)
    book(project, "02_toy")
    plan = plan_of(project, [trains(0), {"notebook": 1}, trains(1), {"notebook": 2}])
    before = on_small_disk(project, "50m")
    done, told = ended(start(project, str(plan), "--engine", "serial", before=before))
    found = state.load("tiny").jobs
    assert done == 1 and "the file system is read-only; make it writable" in told
    assert [one.status for one in found] == ["done", "done", "failed", "done"], told


def test_a_damaged_checkpoint_is_named_and_the_rest_is_done(project: Path) -> None:
    plan = grid.read(plan_of(project, [trains(0, 1)]))
    file = Store().checkpoint("encoders", plan.jobs()[0].id)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half of a checkpo")
    one, other = grid.run(plan, say=lambda text: None)
    assert (one.status, other.status) == ("failed", "done")
    assert f"{file} is damaged; delete it and run again" in one.message and one.memory_mb > 10
    file.unlink()
    assert [job.status for job in grid.run(plan)] == ["done", "cached"]


def test_jumps_of_the_clock_change_no_duration(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(count) * 10**7)
    times = iter([f"{year}-01-01T00:00:00+00:00" for year in range(2030, 2000, -1)])
    monkeypatch.setattr(state, "now", lambda: next(times))
    (job,) = grid.run(grid.read(plan_of(project, [trains(0)])), grid.Options(timeout=5.0))
    assert job.status == "done" and 0 < job.seconds < 300
    assert 0 < state.load("tiny").seconds < 300


def test_a_state_that_cannot_be_written_does_not_stop_the_jobs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "_build/grid").mkdir(parents=True)
    (project / "_build/grid/tiny").write_text("a file where the folder should be")
    heard: list[str] = []
    (job,) = grid.run(grid.read(plan_of(project, [trains(0)])), say=heard.append)
    assert "the state of the grid cannot be written" in heard[0] and len(heard) < 5
    assert pd.notna(job.seconds) and job.status in ("done", "failed")


def test_a_view_does_not_hide_that_the_state_cannot_be_written(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "_build/grid").mkdir(parents=True)
    (project / "_build/grid/tiny").write_text("a file where the folder should be")
    with view.Live(io.StringIO()) as live:
        grid.run(grid.read(plan_of(project, [trains(0)])), view=live)
    assert capsys.readouterr().err.count("the state of the grid cannot be written") == 1


def test_an_interrupted_grid_says_so(project: Path) -> None:
    book(project, "01_waits", WAITS)
    process = start(project, str(plan_of(project, [{"notebook": 1}])), "--jobs", "1")
    wait_for(lambda: (project / "asleep-4").exists())
    process.send_signal(signal.SIGINT)
    done, told = ended(process, 60)
    assert done == 130 and "finished work is kept" in told
    assert state.load("tiny").counts() == {"waiting": 1}
    kernel_, worker_ = map(int, (project / "asleep-4").read_text().split())
    wait_for(lambda: gone(kernel_) and gone(worker_), 30)
