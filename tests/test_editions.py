"""Editions of the book: who gets which cells, notebooks to take away, slides, and builds that must fail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from projects import inside, sslmem
from test_book import write_book

from sslmem_utils import batch, book, paths
from sslmem_utils.book import downloads, editions, printing, slides
from sslmem_utils.errors import RunError, SpecError

ADDRESS = "https://github.com/someone/sslmem"
EXERCISE = "```{exercise} Slope\n:label: ex-slope\n\n**01.1** (code). How steep?\n```"
START = "```{solution-start} ex-slope\n:class: dropdown\n```\n\nHALFWAY UP."
WHY = "```{exercise} Why\n:label: ex-why\nWhy?\n```"
WHOLE = WHY + "\n\n```{solution} ex-why\n:class: dropdown\n\nBECAUSEOF.\n```\n\nAfter."


def cell(kind: str, text: str, identity: str, *tags: str) -> dict:
    made = {"cell_type": kind, "id": identity, "metadata": {"tags": list(tags)} if tags else {}, "source": text}
    return made if kind == "markdown" else {**made, "outputs": [], "execution_count": None}


CELLS = [
    cell("markdown", "## Exercises", "e0"),
    cell("markdown", EXERCISE, "e1"),
    cell("code", "answer = ...  # BLANKHERE", "e2", "exercise"),
    cell("markdown", START, "e3"),
    cell("code", "answer = 0.5  # STEEPNESS", "e4", "solution"),
    cell("markdown", "```{solution-end}\n```", "e5"),
    cell("markdown", WHOLE, "e6"),
    cell("markdown", "COMMONMISTAKE", "e7", "instructor"),
]
ANSWERS = ("HALFWAY", "STEEPNESS", "BECAUSEOF", "COMMONMISTAKE")


def shown(edition: str) -> str:
    return "\n".join(editions.text_of(one) for one in editions.cells(CELLS, edition))


# ---------------------------------------------------------------- without a build
def test_the_student_has_blanks_and_no_answers() -> None:
    text = shown("student")
    assert not [word for word in ANSWERS if word in text]
    assert "BLANKHERE" in text and "ex-slope" in text and "After." in text and "solution" not in text


def test_readers_have_folded_and_teachers_open_solutions() -> None:
    for name in ("reader", "offline"):
        text = shown(name)
        assert [word in text for word in ANSWERS] == [True, True, True, False] and "BLANKHERE" not in text
        assert text.count(":class: dropdown") == 2
    text = shown("instructor")
    assert all(word in text for word in ANSWERS) and "dropdown" not in text


def test_text_pages_go_through_the_same_filter() -> None:
    page = f"# Page\n\n{WHOLE}\n"
    assert "BECAUSEOF" not in editions.prose(page, "student") and "After." in editions.prose(page, "student")
    assert editions.prose(page, "reader") == page
    assert "dropdown" not in editions.prose(page, "instructor")


def test_there_is_no_other_edition() -> None:
    with pytest.raises(SpecError, match="teacher"):
        editions.checked("teacher")


def test_notebooks_to_take_away(tmp_path: Path) -> None:
    path = tmp_path / "01_toy.ipynb"
    path.write_text(json.dumps({"cells": [cell("markdown", "# Title", "t"), *CELLS], "metadata": {}}))
    reader, student = (downloads.notebook(path, name, "") for name in ("reader", "student"))
    assert "COMMONMISTAKE" not in reader and "BECAUSEOF" in reader and "BLANKHERE" in reader and "%pip" not in reader
    assert not [word for word in ANSWERS if word in student] and "BLANKHERE" in student
    cells = json.loads(downloads.notebook(path, "instructor", ADDRESS))["cells"]
    assert f"git+{ADDRESS}" in cells[1]["source"] and "find_spec" in cells[1]["source"]
    assert "COMMONMISTAKE" in cells[-1]["source"]


def test_other_hosts_are_found(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<a href="https://a.example/">a</a><script src="x.js"></script><img alt="" src="https://b.example/b.png">'
        '<link rel="canonical" href="https://c.example/"><link rel="stylesheet" href="//d.example/d.css">'
    )
    (tmp_path / "style.css").write_text(
        "@font-face { src: url(https://e.example/e.woff2) } p { background: url(f.png) }"
    )
    found = printing.strangers(tmp_path)
    assert [re.search(r"\w\.example", line)[0] for line in found] == ["b.example", "d.example", "e.example"]
    with pytest.raises(RunError, match="page.html: https://b.example/b.png"):
        printing.refuse(found)
    printing.refuse([])


def test_slides_need_their_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = paths.PACKAGE.parent / "book/slides"
    target = tmp_path / "book/slides"
    inside(monkeypatch, tmp_path)
    assert slides.write(tmp_path / "none", {}) == []
    (target / "reveal").mkdir(parents=True)
    for name in ("slides.css", "slides.html.j2", "reveal/reveal.js", "reveal/reveal.css", "reveal/LICENSE"):
        (target / name).write_bytes((source / name).read_bytes())
    (target / "deck.md").write_text("# Deck\n\n---\n\n## Line\n\n![fig-line](../../notebooks/01_toy.ipynb)\n")
    output = {"output_type": "display_data", "data": {"text/html": '<img src="data:image/svg+xml;base64,AA">'}}
    output["metadata"] = {"sslmem": {"alt": "A <line>", "caption": "", "name": "fig-line-one"}}
    copy = tmp_path / "executed.ipynb"
    copy.write_text(json.dumps({"cells": [{"outputs": [output]}]}))
    (file,) = slides.write(tmp_path / "out", {"01_toy": copy})
    text = file.read_text()
    assert text.count("<section") == 4 and 'alt="A &lt;line&gt;"' in text and "<title>Deck</title>" in text
    assert not printing.strangers(tmp_path / "out") and (tmp_path / "out/LICENSE").is_file()
    copy.write_text(json.dumps({"cells": []}))
    with pytest.raises(RunError, match="deck.md show a figure 'fig-line' of notebook 01_toy"):
        slides.write(tmp_path / "out", {"01_toy": copy})


# ---------------------------------------------------------------- with builds
@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small book with exercises and committed results."""
    root = tmp_path_factory.mktemp("editions")
    write_book(root)
    file = root / "notebooks/01_toy.ipynb"
    notebook = json.loads(file.read_text())
    notebook["cells"] = [one for one in notebook["cells"] if one["id"] != "prose"] + CELLS
    file.write_text(json.dumps(notebook))
    for arguments in (["run"], ["results", "export"]):
        result = sslmem(root, *arguments)
        assert result.returncode == 0, result.stderr
    yield root


def configure(root: Path, address: str) -> None:
    config = yaml.safe_load((root / "_config.yml").read_text())
    config["repository"]["url"] = address
    (root / "_config.yml").write_text(yaml.safe_dump(config))


@pytest.mark.slow
def test_a_students_book_once_there_is_an_address(project: Path) -> None:
    configure(project, ADDRESS)
    result = sslmem(project, "book", "--edition", "student")
    configure(project, "")
    assert result.returncode == 0, result.stderr
    html = project / "_build/student/_build/html"
    files = [path for path in html.rglob("*") if path.suffix in (".html", ".js", ".ipynb", ".md", ".txt")]
    assert not [(path, word) for path in files for word in ANSWERS if word in path.read_text(errors="replace")]
    page = (html / "notebooks/01_toy.html").read_text()
    assert "BLANKHERE" in page and "student edition" in page
    assert f"colab.research.google.com/github/someone/sslmem/blob/{downloads.LAUNCH}/notebooks/01_toy.ipynb" in page
    assert f"mybinder.org/v2/gh/someone/sslmem/{downloads.LAUNCH}?urlpath=tree/notebooks/01_toy.ipynb" in page
    assert f"git+{ADDRESS}" in (html / "_sources/notebooks/01_toy.ipynb").read_text()


@pytest.mark.slow
def test_an_offline_book_folds_code_and_asks_nobody(project: Path) -> None:
    result = sslmem(project, "book", "--edition", "offline")
    assert result.returncode == 0, result.stderr
    html = project / "_build/offline/_build/html"
    page = (html / "notebooks/01_toy.html").read_text()
    assert "BECAUSEOF" in page and "COMMONMISTAKE" not in page and "colab" not in page and "mybinder" not in page
    assert page.count("<summary") > 1 and re.search(r"<details[^>]*>\s*<summary.*?matplotlib", page, re.DOTALL)
    assert printing.strangers(html) == []


def test_a_teachers_page_has_timings(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside(monkeypatch, project)
    (path,) = book.pages(["01_toy"]).values()
    text = book.page(path, "instructor", "01_toy")
    assert "how long the committed results took" in text and "profile `quick`: 0 s" in text and "COMMONMISTAKE" in text


@pytest.mark.slow
def test_what_is_wrong_on_text_pages_is_named(project: Path) -> None:
    preface = project / "book/preface.md"
    text = preface.read_text()
    (project / "book/_static/dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    preface.write_text(text + "\n![](_static/dot.svg) {ref}`nowhere` {sslmem-verdict}`77.7`\n")
    result = sslmem(project, "book", "--edition", "offline")
    preface.write_text(text)
    assert result.returncode == 1
    for words in (
        r"preface.md.*dot\.svg has no alt text",
        r"preface.md.*undefined label: 'nowhere'",
        r"preface.md.*claim 77\.7 stands in no committed result",
    ):
        assert re.search(words, result.stderr), result.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('points[\\"x\\"]', 'points[\\"z\\"]', "KeyError: 'z'"),
        ('run.table(\\"points\\"', 'run.table(\\"dots\\"', "dots"),
        ('rises.\\", endpoint', 'rises.\\", []', "Claim endpoints"),
        ('alt=\\"A line <b> & more\\"', 'alt=\\"\\"', "alt text"),
    ],
    ids=["broken", "no table", "no rule", "no alt text"],
)
def test_a_notebook_that_is_wrong_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    inside(monkeypatch, project)
    file = project / "notebooks/01_toy.ipynb"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    try:
        with pytest.raises(RunError, match=rf"(?s)the page of 01_toy .*{message}"):
            batch.render_all([("01_toy", "quick")])
    finally:
        file.write_text(text)
