"""Exercises: every check knows right from wrong, and every page has what it should have."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import answers_experiments
import answers_instrument
import answers_score
import pandas as pd
import pytest
import yaml

from sslmem_utils import batch, exercises, runs
from sslmem_utils.errors import SpecError
from sslmem_utils.exercises import check, core
from sslmem_utils.exercises.comparing import Hint, aligned, near, numbers, one_of
from sslmem_utils.paths import NOTEBOOKS, PROFILES

BOOKS = sorted(NOTEBOOKS.glob("*.ipynb"))
CASES = answers_score.CASES | answers_instrument.CASES | answers_experiments.CASES
TABLE = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=["x", "y"])
KINDS = {"conceptual", "code", "open"}


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exercise whose answer is two, and one that takes a table of the page."""
    exercises.known()
    monkeypatch.setattr(core, "_register", dict(core._register))
    exercises.exercise("99.1")(lambda answer: None if answer + 0 == 2 else "count again.")
    exercises.exercise("99.2")(lambda answer, table: None if answer == len(table) else "count the rows.")


def test_right_wrong_and_no_answer(two: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("99.1", 2) and not check("99.1", 3) and not check("99.1", ...)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "99.1: right." and said[1] == "99.1: not yet: count again." and "no answer yet" in said[2]
    assert check("99.2", 3, table=pd.DataFrame(index=range(3)))


def test_answers_of_another_kind_are_refused_in_a_sentence(two: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert not check("99.1", "two")
    assert "this str is not the kind of answer" in capsys.readouterr().out


def test_unknown_numbers_and_missing_tables(two: None) -> None:
    with pytest.raises(SpecError, match="99.2"):
        check("99.3", 1)
    with pytest.raises(SpecError, match=r'check\("99.2", answer, table=table\), found the answer alone'):
        check("99.2", 3)
    with pytest.raises(SpecError, match="two exercises 99.1"):
        exercises.exercise("99.1")(print)


def test_tables_are_compared_by_name() -> None:
    assert near(aligned(TABLE.loc[["y", "x"], ["b", "a"]], TABLE), TABLE)
    assert near(1.001, 1) and not near(1.1, 1) and not near("one", 1) and near(float("nan"), float("nan"))


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: aligned(TABLE["a"], TABLE), "should be a DataFrame"),
        (lambda: aligned(TABLE[["a"]], TABLE), "'b' is missing"),
        (lambda: aligned(TABLE.iloc[:1], TABLE), "2 rows, named x, y"),
        (lambda: aligned(TABLE.astype(str).replace("1.0", "one"), TABLE), "numbers only"),
        (lambda: numbers("some", 2), "2 numbers"),
        (lambda: numbers(1, 2), "found 1"),
        (lambda: one_of("left", ("up", "down")), "'up', 'down'"),
    ],
)
def test_answers_of_another_form_get_a_hint(call: Callable[[], object], hint: str) -> None:
    with pytest.raises(Hint, match=hint):
        call()


def test_numbers_and_words_as_they_may_be_written() -> None:
    assert numbers(3, 1) == [3.0] and numbers((1, 2), 2) == [1.0, 2.0]
    one_of("up", ("up", "down"))


@pytest.mark.parametrize("number", CASES)
def test_the_right_answer_is_accepted_and_wrong_ones_get_a_hint(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right, given, wrong = CASES[number]
    assert check(number, right, **given), capsys.readouterr().out
    for hint, answer in wrong.items():
        assert not check(number, answer, **given), hint
        assert hint.lower() in capsys.readouterr().out.lower()


def test_every_check_is_tested() -> None:
    assert set(CASES) == set(exercises.known())
    assert all(len(wrong) >= 2 for _, _, wrong in CASES.values())


def told(path: Path, tag: str = "") -> list[str]:
    """The sources of the markdown cells of a notebook, or of its cells with this tag."""
    cells = json.loads(path.read_text())["cells"]
    kept = (cell for cell in cells if (tag in cell["metadata"].get("tags", []) if tag else cell["cell_type"] != "code"))
    return ["".join(cell["source"]) for cell in kept]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_every_page_has_its_exercises(path: Path) -> None:
    page, text = path.stem[:2], "\n".join(told(path))
    assert text.count("\n## Exercises\n") + text.startswith("## Exercises\n") == 1
    found = re.findall(
        r"^```{exercise} \S.*\n:label: (ex-\S+)\n:nonumber:\n\n\*\*([\d.]+)\*\* \((\w+)\)\. ", text, re.M
    )
    labels, numbers, kinds = zip(*found, strict=True)
    assert len(found) == text.count("{exercise}") and 3 <= len(found) <= 5
    assert list(numbers) == [f"{page}.{place}" for place in range(1, len(found) + 1)]
    assert set(kinds) <= KINDS and len(set(kinds)) >= 2 and "code" in kinds
    assert list(labels) == re.findall(r"^```{solution(?:-start)?} (\S+)$", text, re.M)
    assert text.count("{solution-start}") == text.count("{solution-end}")
    checked = [number for number in exercises.known() if number.startswith(page)]
    for tag in ("exercise", "solution"):
        assert re.findall(r'^check\("([\d.]+)", ', "\n".join(told(path, tag)), re.M) == checked
    assert all("answer = ...  # " in blank for blank in told(path, "exercise"))
    assert [each.startswith("**For teachers.** Time: ") for each in told(path, "instructor")] == [True]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_solutions_run_on_committed_tables_and_are_accepted(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSLMEM_RENDER", "1")
    monkeypatch.setattr(runs.Run, "show", lambda *_: None)  # figures take the time and are tested elsewhere
    here: dict[str, object] = {"__name__": "__main__"}
    profile = batch.committed_profiles(path.stem)[0]
    for cell in json.loads(path.read_text())["cells"]:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and "exercise" not in tags:
            exec("".join(cell["source"]), here)
        if "parameters" in tags:
            here |= yaml.safe_load((PROFILES / path.stem / f"{profile}.yaml").read_text())
    page = path.stem[:2]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{page}.")]
    assert said == [f"{number}: right." for number in exercises.known() if number.startswith(page)]
