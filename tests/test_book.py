"""A tiny book: built without a warning, with figures, alt text, scorecard and an answer to everything missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from projects import TOY, environment, inside, sslmem, write_notebook

from sslmem_utils import book, paths
from sslmem_utils.errors import RunError

pytestmark = pytest.mark.slow  # four builds of a book
PROSE = "See {numref}`fig-line`.\n\n```{exercise}\n:label: ex-toy\nWhy?\n```\n\n```{solution} ex-toy\nSo.\n```"
SCORECARD = "# Scorecard\n\n```{sslmem-scorecard}\n```\n"
JUPYTER_BOOK = "import sys; from jupyter_book.cli.main import main; main()"


class Images(HTMLParser):
    """Attributes of all images of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def write_book(root: Path) -> None:
    """The project's own configuration around one notebook and a scorecard."""
    write_notebook(root, "01_toy", TOY, prose=PROSE, quick="", other="")
    for folder in ("_static", "_templates"):
        shutil.copytree(paths.PACKAGE.parent / "book" / folder, root / "book" / folder)
    (root / "book/preface.md").write_text("# Preface\n\nRead {doc}`/notebooks/01_toy`, {cite:t}`holm1979simple`.\n")
    (root / "book/scorecard.md").write_text(SCORECARD)
    (root / "book/bibliography.md").write_text("# Bibliography\n\n```{bibliography}\n```\n")
    for file in ("_config.yml", "book/references.bib"):
        shutil.copy(paths.PACKAGE.parent / file, root / file)
    chapters = [{"file": f"book/{name}"} for name in ("scorecard", "bibliography")]
    parts = [{"caption": "Part", "chapters": [{"file": "notebooks/01_toy"}]}, {"caption": "Back", "chapters": chapters}]
    (root / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "book/preface", "parts": parts}))


def plain(root: Path) -> subprocess.CompletedProcess[str]:
    """What `jupyter-book build .` does."""
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", ".", "-n", "-W", "--keep-going"]
    env = environment(root)
    del env["SSLMEM_BUILD"]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, subprocess.CompletedProcess]]]:
    """Build with nothing, then run and build from that run, then publish and build from committed results."""
    root = tmp_path_factory.mktemp("book")
    write_book(root)
    steps = {"nothing": plain(root), "run": sslmem(root, "run"), "here": sslmem(root, "book", "--profile", "quick")}
    html = root / "_build/html"
    shutil.copytree(html, root / "here")
    steps["export"] = sslmem(root, "results", "export")
    steps["committed"] = plain(root)
    yield root, steps


def test_without_results_one_sentence_says_what_to_run(built: tuple[Path, dict]) -> None:
    result = built[1]["nothing"]
    assert result.returncode == 1
    assert "error: there are no results of notebook 01_toy to show; run `make paper`" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_the_book_of_this_machine(built: tuple[Path, dict]) -> None:
    root, steps = built
    assert steps["here"].returncode == 0, steps["here"].stderr
    assert steps["here"].stdout.strip() == f"open {root / '_build/html/index.html'}"
    page = (root / "here/notebooks/01_toy.html").read_text()
    assert "computed here" in page and "committed results" not in page
    assert "url=book/preface.html" in (root / "here/index.html").read_text()


def test_figures_have_alt_text_number_and_the_class_of_dark_pages(built: tuple[Path, dict]) -> None:
    page = built[0] / "here/notebooks/01_toy.html"
    image = next(image for image in Images(page).found if image.get("alt") == "A line <b> & more")
    assert image["class"] == "dark-light" and image["src"].endswith(".svg")
    assert (page.parent / image["src"]).resolve().is_file()
    text = page.read_text()
    assert 'id="fig-line"' in text and "Fig. 1" in text
    assert re.search(r'href="#fig-line">.*?Fig. 1', text), "prose refers to it"
    assert 'download="points.csv"' in text and "Points on a line" in text


def test_pages_hide_what_is_not_for_readers(built: tuple[Path, dict]) -> None:
    text = (built[0] / "here/notebooks/01_toy.html").read_text()
    assert "# Parameters" not in text, "the injected cell"
    assert "epoch 1 of 1\n" not in text, "progress"
    assert "# output" not in text and "papermill" not in text


def test_pages_ask_no_other_host_for_anything(built: tuple[Path, dict]) -> None:
    for page in (built[0] / "here").rglob("*.html"):
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert "THEBE_JS_URL" not in page.read_text()
    assert (built[0] / "here/_static/tex-svg.js").stat().st_size > 1_000_000


def test_the_scorecard_shows_claims(built: tuple[Path, dict]) -> None:
    text = (built[0] / "here/book/scorecard.html").read_text()
    assert "here, quick" in text and "committed" not in text.split("<h1>")[1]
    assert 'class="sslmem-supported"' in text and "The line rises." in text
    assert 'href="../notebooks/01_toy.html"' in text


def test_plain_jupyter_book_renders_committed_results(built: tuple[Path, dict]) -> None:
    root, steps = built
    assert steps["export"].returncode == 0, steps["export"].stderr
    assert steps["committed"].returncode == 0, steps["committed"].stdout + steps["committed"].stderr
    page = (root / "_build/html/notebooks/01_toy.html").read_text()
    assert "committed results" in page and "computed here" not in page
    assert "committed, quick" in (root / "_build/html/book/scorecard.html").read_text()


def test_a_second_build_notices_new_results_and_warnings(built: tuple[Path, dict]) -> None:
    root = built[0]
    results = root / "results/01_toy/quick"
    for file in (results / "points.json", results / "claims.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"commit": "fedcba"}))
    preface = root / "book/preface.md"
    text = preface.read_text()
    preface.write_text(text + "\n{ref}`nowhere`, {sslmem-verdict}`01.1`, {sslmem-verdict}`77.7`\n")
    result = sslmem(root, "book")
    preface.write_text(text)
    assert result.returncode == 1
    assert "error: the book was not built:" in result.stderr and "undefined label: 'nowhere'" in result.stderr
    assert "claim 77.7 stands in no committed result" in result.stderr
    shown = (root / "_build/html/book/preface.html").read_text()
    assert 'class="sslmem-supported"' in shown and ", quick)" in shown
    assert "commit fedcba" in (root / "_build/html/notebooks/01_toy.html").read_text()
    assert "commit fedcba" in (root / "_build/html/book/scorecard.html").read_text()


def test_a_notebook_that_does_not_fit_its_results_stops_the_build(
    built: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = built[0]
    inside(monkeypatch, root)
    file = root / "notebooks/01_toy.ipynb"
    text = file.read_text()
    file.write_text(text.replace('points[\\"x\\"]', 'points[\\"z\\"]'))
    with pytest.raises(RunError, match="the page of 01_toy cannot be made from results/01_toy/quick: KeyError: 'z'"):
        book.build()
    file.write_text(text)


# ---------------------------------------------------------------- without a build
def executed(outputs: list[dict], **metadata: object) -> dict:
    cell = {"cell_type": "code", "id": "c", "source": "x", "metadata": metadata, "outputs": outputs}
    return {"cells": [cell], "metadata": {"kernelspec": {}, "papermill": {}}, "nbformat": 4, "nbformat_minor": 5}


def figure(name: str) -> dict:
    data = {"image/svg+xml": f"<svg>{name}</svg>", "text/html": "<figure>", "text/plain": name}
    about = {"sslmem": {"alt": name, "caption": name if name == "first" else "", "name": ""}}
    return {"output_type": "display_data", "data": data, "metadata": about}


def test_a_cell_is_cut_at_its_figures(tmp_path: Path) -> None:
    words = {"output_type": "stream", "name": "stdout", "text": "words"}
    file = tmp_path / "executed.ipynb"
    file.write_text(json.dumps(executed([words, figure("first"), words, figure("second")])))
    notebook = json.loads(book.page(file))
    assert notebook["metadata"].keys() == {"kernelspec"}
    cells = notebook["cells"]
    assert [len(cell["outputs"]) for cell in cells] == [1, 1, 1, 1]
    assert [cell["metadata"].get("mystnb", {}).get("image", {}).get("alt") for cell in cells] == [
        *(None, "first"),
        *(None, "second"),
    ]
    assert (
        cells[1]["metadata"]["mystnb"]["figure"] == {"caption": "first"}
        and "figure" not in cells[3]["metadata"]["mystnb"]
    )
    assert cells[1]["outputs"][0]["data"].keys() == {"image/svg+xml", "text/plain"}
    assert len({cell["id"] for cell in cells}) == 4
    file.write_text(json.dumps(executed([figure("first")], tags=["hide-output"])))
    assert len(json.loads(book.page(file))["cells"]) == 1


def test_a_page_never_takes_another_machines_results_for_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notebook(tmp_path, "01_toy", TOY)
    inside(monkeypatch, tmp_path)
    (tmp_path / "results/01_toy/quick").mkdir(parents=True)
    (tmp_path / "results/01_toy/quick/points.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="was not run here with profile quick; run `sslmem run 01 --profile quick`"):
        book.pages(["01_toy"], "quick")
