"""Exercises: every check knows right from wrong, and every page has what it should have."""

import pandas as pd
import pytest

from sslmem_utils import exercises
from sslmem_utils.errors import SpecError
from sslmem_utils.exercises import check, core
from sslmem_utils.exercises.comparing import aligned, near, numbers, word


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
    assert said[0] == "99.1: right." and said[1] == "99.1: not yet. Count again." and "no answer yet" in said[2]
    assert check("99.2", 3, table=pd.DataFrame(index=range(3)))


def test_answers_of_another_kind_are_refused_in_a_sentence(two: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert not check("99.1", "two")
    assert "This str is not the kind of answer" in capsys.readouterr().out


def test_unknown_numbers_and_missing_tables(two: None) -> None:
    with pytest.raises(SpecError, match="99.2"):
        check("99.3", 1)
    with pytest.raises(SpecError, match=r'check\("99.2", answer, table=table\), found the answer alone'):
        check("99.2", 3)
    with pytest.raises(SpecError, match="two exercises 99.1"):
        exercises.exercise("99.1")(print)


def test_tables_are_compared_by_name() -> None:
    wanted = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=["x", "y"])
    assert near(aligned(wanted.loc[["y", "x"], ["b", "a"]], wanted), wanted)
    assert "should be a DataFrame" in str(aligned(wanted["a"], wanted))
    assert "'b' is missing" in str(aligned(wanted[["a"]], wanted))
    assert "2 rows, named x, y" in str(aligned(wanted.iloc[:1], wanted))
    assert "numbers only" in str(aligned(wanted.astype(str).replace("1.0", "one"), wanted))


def test_numbers_and_words() -> None:
    assert numbers(3, 1) == [3.0] and numbers((1, 2), 2) == [1.0, 2.0]
    assert "2 numbers" in str(numbers("some", 2)) and "found 1" in str(numbers(1, 2))
    assert word("up", ("up", "down")) is None and "'up', 'down'" in str(word("left", ("up", "down")))
    assert near(1.001, 1) and not near(1.1, 1) and not near("one", 1) and near(float("nan"), float("nan"))
