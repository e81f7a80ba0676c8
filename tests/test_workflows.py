"""What runs on GitHub: valid, pinned, with no more rights than needed, through the same commands as by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from sslmem_utils import cli
from sslmem_utils.paths import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RIGHTS = {"book": {"publish": {"pages": "write", "id-token": "write"}}}  # beyond reading the repository
WITHOUT_MAKE = {"publish"}  # jobs that only hand on what another has made


def workflow(path: Path) -> dict[str, Any]:
    found = yaml.load(path.read_text(), yaml.BaseLoader)  # a plain loader: `on` stays a word
    assert set(found) >= {"name", "on", "permissions", "jobs"} and found["name"] == path.stem
    return found


def steps(path: Path) -> list[dict[str, str]]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


def test_there_are_workflows_for_tests_book_and_full_runs() -> None:
    assert {path.stem for path in FILES} == {"tests", "book", "weekly"}
    assert "schedule" in workflow(ROOT / ".github/workflows/weekly.yml")["on"]
    used = {path.stem: " ".join(step.get("run", "") for step in steps(path)) for path in FILES}
    assert "make test" in used["tests"] and "make book" in used["book"] and "make paper" in used["weekly"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_actions_are_pinned_to_commits(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_jobs_have_a_time_limit_and_no_more_rights_than_needed(path: Path) -> None:
    found = workflow(path)
    assert found["permissions"] == {"contents": "read"}
    for name, job in found["jobs"].items():
        assert int(job["timeout-minutes"]) <= 300 and re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"])
        assert job.get("permissions", {}) == RIGHTS.get(path.stem, {}).get(name, {})
        assert any("make " in step.get("run", "") for step in job["steps"]) != (name in WITHOUT_MAKE)
    for step in steps(path):
        if "actions/checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] == "false"
        assert "${{" not in step.get("run", ""), "a value from outside reaches a shell through a variable only"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_commands_exist(path: Path) -> None:
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
    variables = set(re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.M))
    found = workflow(path)
    for job in found["jobs"].values():
        assert (found.get("env", {}) | job.get("env", {})).keys() <= variables, "the Makefile knows no such variable"
    for step in steps(path):
        for name in re.findall(r"\bmake (\w+)", step.get("run", "")):
            assert name in targets, f"the Makefile has no target {name}"
        for words in re.findall(r"\bsslmem ((?:[a-z]+ ?)+)", step.get("run", "")):
            command: Any = typer.main.get_command(cli.app)
            for word in words.split():
                if not hasattr(command, "commands"):
                    break
                assert word in command.commands, f"there is no command sslmem {words}"
                command = command.commands[word]
