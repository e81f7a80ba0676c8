"""Pages about the book itself: results against tables, API against rooms, commands that work, one citation."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import yaml

from sslmem_utils import batch, paths
from sslmem_utils.book import sheets
from sslmem_utils.errors import SpecError, StoreError
from sslmem_utils.paths import NOTEBOOKS, PACKAGE, PROFILES, RESULTS, ROOT

BOOK = ROOT / "book"
BOOKS = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
# Rooms without a page of their own: the command line and the book itself, and what only other rooms call.
INTERNAL = {"cli", "book", "explorer", "allocation", "wording", "__main__", "__init__"}


# ---------------------------------------------------------------- results
def listed() -> dict[str, str]:
    """Names in the `{sslmem-results}` of each page by name: the page's stem."""
    found = {}
    for page in sorted((BOOK / "results").glob("*.md")):
        for names in re.findall(r"^```\{sslmem-results\} (.+)$", page.read_text(), re.MULTILINE):
            found |= dict.fromkeys(names.split(), page.stem)
    return found


def test_every_folder_of_results_is_on_a_page_of_results() -> None:
    scores = {f"scores/{path.name}" for path in (RESULTS / "scores").iterdir()}
    assert listed().keys() == set(BOOKS) | scores


@pytest.mark.parametrize("name", ["03_four_sets", "10_removal", "scores/digits"])
def test_a_page_of_results_has_every_table_with_its_origin(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    text = sheets.results(name, BOOK / "results")
    for file in (RESULTS / name).rglob("*.parquet"):
        for one in (file, file.with_suffix(".json")):
            where = one.relative_to(ROOT)
            assert f"<../../{where}>" in text or f"in `{where}`" in text
    if name in BOOKS:
        best = batch.committed_profiles(name)[0]
        assert text.index(f"{{margin}} {best}") < text.index(f"`sslmem run {name[:2]} --profile {best}`")
        assert all(f"--profile {profile}`" in text for profile in batch.committed_profiles(name))
    csvs = sorted(tmp_path.rglob("*.csv"))
    for csv in csvs:
        source = RESULTS / csv.relative_to(tmp_path / "tables").with_suffix(".parquet")
        assert len(pd.read_csv(csv)) == len(pd.read_parquet(source))
    assert csvs or name.startswith("scores")
    assert len(text) < 150_000, "pages stay light"


def test_missing_tables_and_sidecars_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    with pytest.raises(SpecError, match="there are no committed tables in results/03_four_sets; run the notebook"):
        sheets.results("03_four_sets", BOOK)
    (tmp_path / "scores/toy").mkdir(parents=True)
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "scores/toy/a.parquet")
    with pytest.raises(StoreError, match=r"a\.parquet lacks its sidecar; restore it"):
        sheets.results("scores/toy", BOOK)


# ---------------------------------------------------------------- API, citation, contents
def test_the_api_has_every_public_room_once() -> None:
    text = "\n".join(page.read_text() for page in sorted((BOOK / "api").glob("*.md")))
    rooms = re.findall(r"^\.\. automodule:: sslmem_utils\.(\w+)$", text, re.MULTILINE)
    assert len(rooms) == len(set(rooms))
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(rooms) == there - INTERNAL, "a new room needs a heading in book/api, or a place in INTERNAL"


def test_docstrings_are_shown_as_they_are_meant() -> None:
    lines = ["A room |x| of t_-j and `a | b_`.", "", "    import this", "", "    import that", "", "More."]
    sheets._as_text(None, "module", "", None, None, lines)
    assert lines[0] == r"A room \|x\| of t\_-j and `a | b_`."
    assert lines[2:5] == [".. code-block:: python", "   :force:", ""] and lines.count(".. code-block:: python") == 1


def test_there_is_one_citation() -> None:
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    made = sheets.citation()
    for title in (about["title"], about["preferred-citation"]["title"]):
        assert title in made
    assert made in (ROOT / "README.md").read_text(), "README.md shows what {sslmem-citation} makes of CITATION.cff"


def test_every_chapter_ends_with_a_summary() -> None:
    apart = {"bibliography", "benchmarks", "changelog", "cite", "glossary", "notation", "scorecard", "explorer"}
    for page in BOOK.rglob("*.md"):
        if page.stem not in apart and page.parent.name not in ("api", "results", "slides", "_static"):
            headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
            assert headings and headings[-1] == "Summary", page.relative_to(ROOT)


def test_every_prose_page_is_in_the_contents() -> None:
    toc = (ROOT / "_toc.yml").read_text()
    for page in BOOK.rglob("*.md"):
        name = page.relative_to(ROOT).with_suffix("").as_posix()
        assert {"_static", "slides"} & set(page.parts) or re.search(rf"(file|root): {name}$", toc, re.MULTILINE), name


def test_the_courses_name_exercises_that_exist() -> None:
    there = set(re.findall(r"\*\*(\d\d\.\d)\*\*", "".join((NOTEBOOKS / f"{name}.ipynb").read_text() for name in BOOKS)))
    text = (BOOK / "teaching/syllabus.md").read_text()
    asked = {one for some in re.findall(r"[Ee]xercises? ([\d. and]+)", text) for one in re.findall(r"\d\d\.\d", some)}
    assert len(asked) >= 8
    numbered = {one[:2] for one in there}
    assert {one for one in asked if one[:2] in numbered} <= there


# ---------------------------------------------------------------- what a class and an extension need
@pytest.mark.parametrize("name", BOOKS)
def test_the_classroom_profile_says_what_it_is(name: str) -> None:
    text = (PROFILES / name / "classroom.yaml").read_text()
    assert "at most 90 s a figure. Not timed on a GPU" in text
    minutes = float(re.search(r"^# about: ([\d.]+) min", text, re.MULTILINE)[1])
    figures = (NOTEBOOKS / f"{name}.ipynb").read_text().count("run.show(")
    assert minutes <= 1.5 * figures
    values = yaml.safe_load(text)
    used = {*values.get("datasets", []), values.get("dataset"), values.get("colour"), values.get("masked")}
    assert used <= {None, "", "digits", "digits_folder", "mnist", "fashion_mnist"}, "data that a class can get"


def test_the_files_of_the_page_on_extending_work() -> None:
    """The method and the encoder printed there train a pair on the digits."""
    blocks = re.findall(r"```python\n(.*?)```", (BOOK / "extend.md").read_text(), re.DOTALL)
    from sslmem_utils import encoders, methods, recipes, training

    for code, room in zip(blocks, (methods, encoders), strict=True):
        module = ModuleType(f"{room.__name__}.printed")
        module.__package__ = room.__name__
        sys.modules[module.__name__] = module
        exec(compile(code, f"{room.__name__}/printed.py", "exec"), module.__dict__)
    try:
        spec = recipes.recipe("digits", shared=32, candidate=32, external=64, epochs=2, batch=32, method="spread")
        trained = training.train(spec.but(encoder=spec.encoder.but(name="shallow", options={"width": 32})))
        assert trained is not None
    finally:
        for registry, entry in ((methods.METHODS, "spread"), (encoders.ENCODERS, "shallow")):
            registry._entries.pop(entry)
        for room in (methods, encoders):
            sys.modules.pop(f"{room.__name__}.printed")
