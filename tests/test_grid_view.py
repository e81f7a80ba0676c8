"""What people see of a grid: lines, a table, the status from another shell, the report."""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from projects import environment, inside

from sslmem_utils import cli
from sslmem_utils.grid import jobs as grid_jobs
from sslmem_utils.grid import report, view
from sslmem_utils.grid import state as states
from sslmem_utils.grid.state import GridState, JobState


def job(number: int, kind: str = "score", **facts: object) -> JobState:
    params = {"method": "simclr", "seed": number}
    known = {"id": f"{number:020x}", "kind": kind, "label": f"{kind} simclr seed={number}", "params": params}
    return JobState(**{**known, "needs": [], "folder": "", **facts})


def grid(*jobs: JobState, **facts: object) -> GridState:
    known = {"plan": "methods", "engine": "process", "slots": 2, "started": "2026-11-22T10:00:00+00:00"}
    known |= {"updated": "2026-11-22T10:01:05+00:00", "finished": None, "pid": os.getpid(), "host": "box"}
    return GridState(**{**known, "command": "sslmem grid methods.yaml --engine process", "jobs": list(jobs), **facts})


command = importlib.import_module("sslmem_utils.cli.grid")  # the package has a function of this name


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# ---------------------------------------------------------------- live
def test_each_event_is_one_line() -> None:
    stream, state = io.StringIO(), grid(*map(job, range(4)), job(4, status="cached"))
    with view.Live(stream) as live:

        def told(number: int, **facts: object) -> list[str]:
            for name, value in facts.items():
                setattr(state.jobs[number], name, value)
            start = stream.tell()
            live.update(copy.deepcopy(state))
            return stream.getvalue()[start:].splitlines()

        assert told(0) == ["grid methods: 5 jobs, 1 cached, 4 waiting; process, 2 at a time"]
        assert told(0, status="running", attempts=1, worker="box:7") == ["[1/5] score simclr seed=0: started on box:7"]
        assert told(0) == []  # nothing has happened
        assert told(0, status="done", seconds=4.2) == ["[2/5] score simclr seed=0: done in 4.2 s (6.3 s left)"]
        assert told(1, status="waiting", attempts=1, message="its worker was killed.")[0].startswith(
            "[2/5] score simclr seed=1: waits for another attempt: its worker was killed."
        )
        assert "attempt 2 started" in told(1, status="running", attempts=2)[0]
        assert "failed in 3.0 s: no." in told(1, status="failed", seconds=3.0, message="no.")[0]
        state.jobs[2].status, state.jobs[2].message = "skipped", "needs score simclr seed=1, which failed."
        state.finished, state.seconds = "2026-11-22T10:03:05+00:00", 185.0
        assert told(3, status="done", seconds=1.0, verdicts={"supported": 2}) == [
            "[5/5] score simclr seed=2: skipped: needs score simclr seed=1, which failed.",
            "[5/5] score simclr seed=3: done in 1.0 s: 2 supported",
            "grid methods: 5 jobs, 2 done, 1 cached, 1 failed, 1 skipped in 3:05 min",
        ]
        assert told(0) == []


def test_a_terminal_shows_one_table_and_leaves_it_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, state = (
        Terminal(),
        grid(job(0, status="running", attempts=1, label="a [bold] label"), *map(job, range(1, 90))),
    )
    with view.Live(stream) as live:
        live.update(state)
        for one in state.jobs:
            one.status, one.seconds = "done", 2.0
        state.jobs[3].status, state.jobs[3].message = "failed", "it said [red]no[/red]."
        state.finished = state.updated
        live.update(state)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "a [bold] label" in text and "it said [red]no[/red]." in text and "89 done" in text and "90/90" in text
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.parametrize("moment", ["2026-11-22T09:00:00+00:00", "2027-12-27T10:00:00+00:00"])
def test_clocks_that_jump_change_no_duration(moment: str) -> None:
    state = grid(job(0, status="running"), updated=moment, seconds=65.0)
    assert "runs: 1:05 min" in view.status_text(state, True)
    state.finished = moment
    assert "after 1:05 min." in view.status_text(state, False)


# ---------------------------------------------------------------- status from another shell
DRIVES = """
import os, socket, time
from sslmem_utils.grid import state as states
from sslmem_utils.grid.state import GridState, JobState
jobs = [JobState(f"{n:020x}", "score", f"score {n}", {}, [], "", status="running" if n else "done") for n in range(3)]
lock = states.driver_lock("methods")
lock.acquire()
now, host = states.now(), socket.gethostname()
states.save(GridState("methods", "process", 2, now, now, None, os.getpid(), host, "sslmem grid methods.yaml", jobs))
print("runs", flush=True)
time.sleep(300)
"""


def test_status_tells_a_running_driver_from_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside(monkeypatch, tmp_path)
    assert cli.main(["status"]) == 1 and "no grid was run here" in capsys.readouterr().err
    command = [sys.executable, "-c", DRIVES]
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None and driver.stdout.readline() == "runs\n"
            assert cli.main(["status"]) == 0
            text = capsys.readouterr().out
            assert f"(process {driver.pid} on {socket.gethostname()}) runs" in text
            assert "3 jobs, 1 done, 2 running" in text
            assert cli.main(["status", "methods", "--json"]) == 0
            found = json.loads(capsys.readouterr().out)
            assert found["running"] is True and len(found["jobs"]) == 3
        finally:
            driver.send_signal(signal.SIGKILL)
    assert cli.main(["status"]) == 1
    told = capsys.readouterr()
    assert "is gone since" in told.out and "2 jobs are left; run `sslmem grid methods.yaml` to go on." in told.err
    page = grid_jobs.grid_folder("methods") / report.REPORT  # which a killed driver has not written
    assert told.out.endswith("report: _build/grid/methods/report.html\n") and "is gone" in page.read_text()
    assert cli.main(["status", "--watch"]) == 1  # it does not wait for a driver that is gone
    capsys.readouterr()
    assert cli.main(["status", "--json"]) == 1 and json.loads(capsys.readouterr().out)["running"] is False
    assert cli.main(["status", "method"]) == 1 and "did you mean methods?" in capsys.readouterr().err
    (grid_jobs.grid_folder("methods") / states.STATE).write_text("{")
    assert cli.main(["status"]) == 1
    told = capsys.readouterr()
    assert "state.json is damaged" in told.err and told.err.count("\n") == 1


def test_a_driver_on_another_machine_is_alive_while_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside(monkeypatch, tmp_path)
    states.save(grid(job(0), host="elsewhere", updated=states.now()))
    assert cli.main(["status"]) == 0 and "on elsewhere) runs" in capsys.readouterr().out
    states.save(grid(job(0), host="elsewhere"))
    assert cli.main(["status"]) == 1


# ---------------------------------------------------------------- report
class Page(HTMLParser):
    """What a page refers to, its ids, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(str(value))
            if name == "id":
                self.ids.append(str(value))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[GridState, Path]:
    """A grid in which much happened, and its report."""
    inside(monkeypatch, tmp_path)
    hostile = "<script>alert(1)</script>"
    jobs = [
        job(0, "train", status="done", seconds=61.0, memory_mb=1500.0, worker="box:1", device="0", label=hostile),
        job(1, "notebook", status="done", seconds=3.0, verdicts={"supported": 2, "inconclusive": 1}),
        job(2, "notebook", status="failed", attempts=3, message=f"ValueError: {hostile}", needs=[f"{0:020x}"]),
        job(3, status="failed", message="its worker was killed; if memory ran out, give fewer --jobs."),
        job(4, status="skipped", message="needs score simclr seed=3, which failed."),
        job(5),
        job(6, status="cached"),
    ]
    state = grid(*jobs)
    folders = [grid_jobs.grid_folder("methods") / "jobs" / one.id for one in jobs]
    for folder in folders[:4]:
        (folder / "run").mkdir(parents=True)
        (folder / "log.txt").write_text("".join(f"line {number}\n" for number in range(300_000)))
    (folders[1] / "run" / "executed.ipynb").write_text("{}")
    said = [{"id": "01.1", "verdict": "contradicted", "sentence": hostile}, {"id": "01.2", "verdict": "supported"}]
    said[1]["sentence"] = "The line rises."
    (folders[1] / "run" / "claims.json").write_text(json.dumps({"params": {"seed": 1, "rows": 9}, "claims": said}))
    folders[6].mkdir()
    past = {"seconds": 7.5, "memory_mb": 321.0, "verdicts": {"contradicted": 1}, "host": "old", "pid": 9, "device": ""}
    (folders[6] / grid_jobs.REPORT).write_text(json.dumps(past))
    error = {
        "output_type": "error",
        "traceback": ["\x1b[31mTraceback\x1b[0m\nline 7, in train", f"ValueError: {hostile}"],
    }
    (folders[2] / "run" / "failed.ipynb").write_text(json.dumps({"cells": [{"outputs": [error]}, {}]}))
    path = grid_jobs.grid_folder("methods") / report.REPORT
    report.write_report(state, path)
    return state, path


def test_the_report_says_all_that_is_known_of_each_job(written: tuple[GridState, Path]) -> None:
    state, path = written
    text = path.read_text()
    page = Page(text)
    assert [f"job-{one.id}" for one in state.jobs] == page.ids
    for words in (
        "1:01 min",
        "1.5 GB",
        "GPU 0",
        "2 supported",
        "line 299999",
        "line 7, in train",
        "3 attempts",
        "7.5 s",
        "321 MB",
        "1 contradicted",
        "old:9",
        "01.1 contradicted",
        "01.2 supported The line rises.",
        "rows: 9",
    ):
        assert words in page.words, words
    assert "line 299950" not in page.words and len(text) < 100_000  # the end of a log only
    assert "where it stopped" in page.words and "Mend the job that it needs." in page.words
    assert "stopped" in page.words and state.command in page.words
    for link in page.links:
        target = link.removeprefix("#") in page.ids if link.startswith("#") else (path.parent / link).is_file()
        assert target, link
    assert sum(link.endswith("failed.ipynb") for link in page.links) == 1
    assert sum(link.endswith("executed.ipynb") for link in page.links) == 1
    assert sum(link.endswith("run/claims.json") for link in page.links) == 1


def test_the_report_needs_no_network_and_runs_no_text_of_jobs(written: tuple[GridState, Path]) -> None:
    text = written[1].read_text()
    assert not re.search(r"https?:|@import|url\(|<link|src=", text)
    assert Page(text).tags.count("script") == 1 and "<script>alert" not in text
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_a_report_of_nothing_done_and_of_damaged_traces_is_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, tmp_path)
    state = grid(job(0, status="failed", message=""), job(1), finished="2026-11-22T10:00:00+00:00")
    folder = grid_jobs.grid_folder("methods") / "jobs" / state.jobs[0].id / "run"
    folder.mkdir(parents=True)
    (folder / "failed.ipynb").write_text('{"cells": [{"outputs": [{"output_type": "error"}]}]}')
    (folder / "claims.json").write_text('{"claims": [1]}')
    (folder.parent / "log.txt").write_bytes(b"\xff\xfe10%\r20%\r30%\n")
    report.write_report(state, tmp_path / "page.html")
    words = Page((tmp_path / "page.html").read_text()).words
    assert "no reason was given" in words and "30%" in words and "10%" not in words
    report.write_report(grid(), tmp_path / "empty.html")


def test_a_grid_that_runs_has_a_page_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside(monkeypatch, tmp_path)
    page, state = grid_jobs.grid_folder("methods") / report.REPORT, grid(job(0, status="running"))
    with states.driver_lock("methods"):
        states.save(state)
        shown = command._Shown(view.Live(io.StringIO()))
        shown.update(state)
        assert not page.exists()  # a short grid has one page, at its end
        monkeypatch.setattr(command, "_PAGE_SECONDS", 0.0)
        command._Shown(view.Live(io.StringIO())).update(state)
        assert "Grid methods: running" in page.read_text()
    assert cli.main(["status"]) == 1 and "Grid methods: stopped" in page.read_text()
    states.save(grid(job(0, status="done"), finished="2026-11-22T10:03:05+00:00"))
    assert cli.main(["status"]) == 0 and "Grid methods: finished" in page.read_text()
    made = page.stat()
    assert cli.main(["status"]) == 0 and page.stat().st_mtime_ns == made.st_mtime_ns  # nothing is new
    page.unlink()
    page.mkdir()
    states.save(state)
    capsys.readouterr()
    command._report("methods")
    assert "no report: cannot write to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("OutOfMemoryError: CUDA out of memory.", "more of a GPU"),
        ("MemoryError: Unable to allocate 3 GiB", "fewer jobs at a time"),
        ("cannot write to x: no space is left on the device; free some space, or", "sslmem store prune"),
        ("OSError: [Errno 28] No space left on device", "sslmem store prune"),
        ("x should have checksum abc, found def; delete the folder", "sslmem store verify"),
        ("it made no table in x; does it say", "which cell it did not reach"),
        ("needs score 3, which failed.", "Mend the job that it needs"),
        ("it took longer than the 2 minutes allowed; raise --timeout.", ""),
        ("it took longer than the 2 minutes allowed. (see _build/x/failed.ipynb)", "Raise --timeout"),
        ("ValueError: no", "where it stopped"),
        ("unknown method 'x'; there are: simclr.", ""),
    ],
)
def test_each_kind_of_error_comes_with_what_to_do(message: str, told: str) -> None:
    assert told in report.advice(message) and bool(told) == bool(report.advice(message))
