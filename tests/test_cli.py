"""The command line: exit codes, one-sentence errors, and what it must not load."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from projects import TOY, environment, inside, sslmem, write_notebook

from sslmem_utils import batch, book, claims, cli, data, paths
from sslmem_utils.cli import diagnosis
from sslmem_utils.errors import DataError, StoreError
from sslmem_utils.runs import tables
from sslmem_utils.store import write_json


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_notebook(tmp_path, "01_toy", TOY)
    inside(monkeypatch, tmp_path)
    return tmp_path


def write_claims(folder: Path, profile: str, values: list[float], **facts: object) -> None:
    claim = claims.judge("01.1", "It rises | falls.", claims.measure("slope", values, 0.1), notebook="01_toy")
    hardware = {"cpu": "Toy", "cores": 1, "gpu": None}
    record = {"commit": "abc123", "created": "2026-01-02T03:04:05", "hardware": hardware, **facts}
    write_json(folder / tables.CLAIMS, record | {"claims": [claim.but(profile=profile).model_dump(mode="json")]})


TRAIN = [  # these load torch and lightly
    (["train", "digts"], 2, "did you mean digits?"),
    (["train", "digits", "--candidates", "2000"], 2, "exceed the 1797 images of digits"),
    (["train", "digits", "--method", "simclrr"], 2, "did you mean 'simclr'?"),
    (["train", "digits", "--view", "wek"], 2, "error: "),
    (["train", "digits", "--batch", "500"], 2, "batch (500) exceeds the 250 training images"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "9"], 2, "error: unknown notebook '9'; there are: 01_toy."),
        (["run", "--profile", "quik"], 2, "error: notebook 01_toy: unknown profile 'quik'; did you mean quick?"),
        (["run", "-p", "m=1"], 2, "error: notebook 01_toy: unknown parameter 'm'"),
        (["run", "-p", "n=true"], 2, "error: notebook 01_toy: parameter 'n' must be a whole number, found 'true'."),
        (["run", "--bogus"], 2, "No such option"),
        (["runs"], 2, "No such command"),
        (["book", "--profile", "quik"], 2, "error: unknown profile 'quik'; did you mean quick?"),
        (["book", "--profile", "quick"], 1, "error: notebook 01_toy was not run here with profile quick; run `sslmem"),
        (["book"], 1, "error: there are no results of notebook 01_toy to show; run `make paper`"),
        (["book", "--profile", "quick", "--committed"], 2, "choose one of"),
        (["data", "show", "digit"], 2, "error: unknown dataset 'digit'; did you mean digits?"),
        (["data", "import", "new", "missing.zip"], 1, "error: "),
        (["results", "export"], 1, "error: no notebook was run here with profile quick"),
        (["train", "digits", "--output", "scores.txt"], 2, "written as .csv or .parquet"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in TRAIN),
    ],
)
def test_errors_are_one_sentence(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert cli.main(arguments) == code
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors
    if errors.startswith("error:"):
        assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["data", "--help"]])
def test_help_is_there(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.main(arguments) == 0
    assert "sslmem" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/somewhere/x"), 1, "error: /somewhere/x: no space left"),
        (OSError(errno.EROFS, "Read-only file system", "x"), 1, "error: x: read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "error: x: permission denied"),
        (DataError("it is broken."), 1, "error: it is broken."),
        (KeyboardInterrupt(), 130, "error: interrupted; finished work is kept"),
    ],
)
def test_failures_of_the_machine_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    def fail() -> list[dict]:
        raise error

    monkeypatch.setattr(data, "catalogue", fail)
    monkeypatch.delenv("SSLMEM_DEBUG", raising=False)
    assert cli.main(["data", "list"]) == code
    errors = capsys.readouterr().err
    assert errors.startswith(message) and errors.count("\n") == 1


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setenv("SSLMEM_DEBUG", "1")
    with pytest.raises(Exception, match="unknown notebook"):
        cli.main(["run", "9"])


def test_dry_run_says_what_it_takes_and_starts_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "0.5" in text and "1.0 GB" in text and "in all about 0.5 minutes" in text
    assert cli.main(["run", "--dry-run", "-p", "n=7"]) == 0
    text = capsys.readouterr().out
    assert '"n": 7' in text and "never run with these parameters" in text and "and those marked ?" in text
    assert not (project / "_build").exists()


def test_a_failed_notebook_is_exit_code_1(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(jobs: list[batch.Job], force: bool, minutes: float | None, together: int) -> list[batch.Outcome]:
        assert force and minutes == 2.0 and together == 3
        return [batch.Outcome(job, "failed", 1.0, message="ValueError: no") for job in jobs]

    monkeypatch.setattr(batch, "run", failing)
    assert cli.main(["run", "--force", "--timeout", "2", "--jobs", "3"]) == 1
    captured = capsys.readouterr()
    assert "ValueError: no" in captured.out and "error: 1 of 1 notebooks failed" in captured.err


def test_claims_of_this_machine_stand_beside_the_committed_ones(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["claims"]) == 0
    assert "There are no claims yet" in capsys.readouterr().out
    write_claims(paths.BUILD / "runs/quick/01_toy", "quick", [0.1, 0.9, -0.4])
    write_claims(paths.RESULTS / "01_toy/laptop", "laptop", [0.9, 1.0, 1.1])
    assert cli.main(["claims"]) == 0
    text = capsys.readouterr().out
    here, committed = text.index("here, quick"), text.index("committed, laptop (Toy, 1 core, no GPU, commit abc123")
    assert here < text.index("inconclusive") < committed < text.index("supported")
    assert cli.main(["claims", "--json", "--profile", "laptop"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["source"] for record in records] == ["committed, laptop"]
    assert records[0]["claims"][0]["verdict"] == "supported"


@pytest.mark.parametrize("record", ["{}", "[]", '{"claims": {}}'])
def test_a_record_without_claims_is_named(project: Path, record: str) -> None:
    file = paths.RESULTS / "01_toy/quick" / tables.CLAIMS
    file.parent.mkdir(parents=True)
    file.write_text(record)
    with pytest.raises(StoreError, match=r"claims.json holds no list of claims; delete it"):
        book.sources()


def test_data_is_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("digits"))
    assert "1,797" in line and "1 x 8 x 8" in line and "CC BY 4.0" in line
    assert cli.main(["data", "show", "digits"]) == 0
    assert "scikit-learn" in capsys.readouterr().out


def test_the_doctor_shows_facts_and_problems(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("python", "torch", "torchvision", "processor", "precision", "device", "store", "data found", "digits"):
        assert word in text
    monkeypatch.setattr(diagnosis, "_LEAST_FREE", 10**18)
    assert cli.main(["doctor"]) == 1
    errors = capsys.readouterr().err
    assert "problem: only" in errors and "error: 4 problems" in errors


@pytest.mark.slow
def test_train_scores_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scores.csv"
    sizes = ["--candidates", "10", "--shared", "10", "--external", "20"]
    assert cli.main(["train", "digits", *sizes, "--epochs", "1", "--views", "2", "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert "most memorized images" in text and "pooled" in text
    folders = [Path(line.split(": ")[1]) for line in text.splitlines() if line.startswith("seed 0, ")]
    assert len(folders) == 2 and all((folder / "weights.safetensors").is_file() for folder in folders)
    header, *lines = output.read_text().splitlines()
    assert "m_rel" in header.split(",") and len(lines) == 2 * 50  # four sets, two representations
    sidecar = json.loads(output.with_suffix(".json").read_text())
    assert sidecar["settings"]["f"]["epochs"] == 1 and sidecar["settings"]["seconds_per_encoder"] > 0


def test_light_commands_load_no_torch(tmp_path: Path) -> None:
    write_notebook(tmp_path, "01_toy", TOY)
    code = """
import sys
from sslmem_utils.cli import main
commands = (["--help"], ["run", "--dry-run"], ["claims"], ["data", "list"], ["run", "9"], ["book"])
codes = [main(command) for command in commands]
assert codes == [0, 0, 0, 0, 2, 1], codes
sys.exit("torch" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    write_notebook(tmp_path, "01_toy", TOY)
    (tmp_path / "file").write_text("")
    result = sslmem(tmp_path, "run", SSLMEM_BUILD=str(tmp_path / "file" / "below"))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "cannot write to" in result.stdout
