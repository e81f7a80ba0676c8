"""Rules of the tree that no single module can keep: what may be committed, who imports whom, how notebooks look."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import yaml

from sslmem_utils.batch.planning import CALLERS
from sslmem_utils.paths import NOTEBOOKS, PACKAGE, PROFILES, RESULTS, ROOT

# Imports run from left to right only (the same order as in CONTRIBUTING.md).
ORDER = (
    *("errors", "versions", "allocation", "wording", "paths", "specs", "registry", "store"),
    *("data", "splits", "canaries", "views", "encoders", "methods", "recipes", "training", "scoring", "probes"),
    *("stats", "pairs", "ensembles", "rivals", "typicality"),
    *("validation", "comparison", "policies", "lengths"),
    *("labels", "joint", "dejavu", "privacy", "units", "removal", "limiting", "generalization", "theory"),
    *("figures", "claims", "own", "runs", "batch", "grid", "sharing", "exercises", "book"),
    *("cli", "__main__"),
)
# What a module must not know although the order would allow it.
NEVER = {
    "paths": {"torch"},
    "specs": {"torch"},
    "data": {"sslmem_utils.views"},
    "views": {"PIL"},
    "training": {"matplotlib", "seaborn"},
    "scoring": {"sslmem_utils.training"},
    "stats": {"torch"},
    "figures": {"torch", "sslmem_utils.training", "sslmem_utils.pairs"},
    "claims": {"torch"},
}
# Loaded by every command and by every page rendered from committed results.
WITHOUT_TORCH = (
    *("paths", "specs", "versions", "store", "stats", "joint", "figures", "claims"),
    *("runs", "batch", "grid", "sharing", "exercises", "cli"),
)
BOOKS = sorted(NOTEBOOKS.glob("*.ipynb"))


@cache
def files() -> tuple[Path, ...]:
    """What is committed or would be: all files that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return tuple(path for name in found.split("\0") if name and (path := ROOT / name).is_file())


in_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout: nothing tells what is committed")


@cache
def texts() -> dict[str, str]:
    """Committed text files by their path."""
    out = {}
    for path in files():
        raw = path.read_bytes()
        if b"\0" not in raw[:8192]:
            out[path.relative_to(ROOT).as_posix()] = raw.decode("utf-8")
    return out


# ---------------------------------------------------------------- what may be committed
@in_git
def test_no_machine_paths_and_no_registry_addresses() -> None:
    words = [
        r"(?<![\w.])/(?:root|work|farm|opt|Users)/\w",
        r"(?<![\w.])/home/(?!user\b)\w",
        r"(?<![\w.])/tmp/\w",
        "index" + r"[-_]url *[=:]? *\S*//",
        "python" + "hosted",
        r"pypi\." + r"org/simple",
        r'"resolved": *"' + "https?:",
    ]
    pattern = re.compile("|".join(words), re.IGNORECASE)
    found = {name: match[0] for name, text in texts().items() if (match := pattern.search(text))}
    found.pop("tests/test_tree.py", None)
    assert not found


@in_git
def test_sizes() -> None:
    large = {path.name: path.stat().st_size for path in files() if path.stat().st_size > 2_000_000}
    assert not large
    assert sum(path.stat().st_size for path in files() if RESULTS in path.parents) < 20_000_000


@in_git
def test_nothing_is_left_to_fill_in() -> None:
    """Numbers and pictures that only a run can give are marked with this word until they are there."""
    mark = re.compile(r"\b(" + "FI" + "LL|TO" + r"DO|FIX" + r"ME)\b")
    assert not {name: match[0] for name, text in texts().items() if (match := mark.search(text))}


@in_git
def test_relative_links_lead_somewhere() -> None:
    dead = []
    for name, text in texts().items():
        if not name.endswith(".md"):
            continue
        prose = re.sub(r"^(```+|~~~+).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|href)=\"([^\"#]+)\"", prose):
            link = "".join(target)
            slides = re.fullmatch(r"[./]+/slides/(\w+)\.html", link)  # made by the build
            place = ROOT / f"book/slides/{slides[1]}.md" if slides else (ROOT / name).parent / link
            if not re.match(r"[a-z]+:", link) and not place.exists():
                dead.append(f"{name}: {link}")
    assert not dead


# ---------------------------------------------------------------- the package
def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The top-level module or subpackage that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything a file imports, inside functions too."""
    package = ("sslmem_utils", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*base, *(node.module or "").split("."))).strip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_from_left_to_right(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        assert not list(imports(path)), "importing the package must stay free of cost"
        return
    assert here in ORDER, "a new module needs its place in ORDER"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "sslmem_utils" and len(parts) > 1 and parts[1] != here:
            assert ORDER.index(parts[1]) < ORDER.index(here), f"{here} must not import {parts[1]}"
        for banned in NEVER.get(here, ()):
            assert name != banned and not name.startswith(banned + "."), f"{here} must not import {banned}"


def test_what_notebooks_cannot_use_is_not_part_of_their_digest() -> None:
    """`sslmem_utils.batch.planning` leaves these rooms out: none that a notebook uses may import them."""
    last = ORDER[min(map(ORDER.index, CALLERS)) :]
    assert set(last) == CALLERS | {"__main__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 450, "make it a package with the same public names"


def test_no_pickles() -> None:
    banned = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    for path in modules():
        assert not {name.split(".")[0] for name in imports(path)} & banned, path.name
        for call in re.findall(r"torch\.load\(([^)]*)\)", path.read_text()):
            assert "weights_only=True" in call, path.name


def test_light_modules_load_no_torch() -> None:
    code = "import sys\nfor n in sys.argv[1:]: __import__(n); assert 'torch' not in sys.modules, n"
    names = ["sslmem_utils", *(f"sslmem_utils.{name}" for name in WITHOUT_TORCH)]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_style() -> None:
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- the notebooks
def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def declared(path: Path) -> dict[str, ast.AnnAssign]:
    """The annotated assignments of the parameters cell, by name."""
    body = ast.parse(source(code_cells(path)[0])).body
    assert all(isinstance(node, ast.AnnAssign) and node.value is not None for node in body), "only `name: type = value`"
    return {node.target.id: node for node in body if isinstance(node, ast.AnnAssign)}


def test_the_notebooks_are_the_books() -> None:
    assert {path.stem for path in BOOKS} >= {"01_score_definition", "02_mnist_toy", "03_four_sets"}
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = re.findall(r"notebooks/(\w+)", json.dumps(toc))
    assert sorted(listed) == [path.stem for path in BOOKS]
    assert {path.name for path in PROFILES.iterdir()} == {path.stem for path in BOOKS}


def test_figures_of_two_pages_never_have_one_name() -> None:
    """Also where both are made of the same datasets, as in `make paper`: a name twice stops the build of the book."""
    names = {path.stem: set(re.findall(r'"(fig-[^"]+)"', path.read_text().replace('\\"', '"'))) for path in BOOKS}
    names = {page: {re.sub(r"\{.*?\}", "*", name) for name in some} for page, some in names.items()}
    for page, other in itertools.combinations(names, 2):
        both = [pair for pair in itertools.product(names[page], names[other]) if fnmatch(*pair) or fnmatch(*pair[::-1])]
        assert not both, (page, other, both)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_notebook_is_stripped(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert notebook["metadata"].keys() <= {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in code_cells(path):
        assert not cell["outputs"] and cell["execution_count"] is None, "run nbstripout"
        assert cell["metadata"].keys() <= {"tags", "mystnb"}


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_notebook_anatomy(path: Path) -> None:
    first = json.loads(path.read_text())["cells"][0]
    assert first["cell_type"] == "markdown" and source(first).startswith("# ")
    cells = code_cells(path)
    assert ["parameters" in cell["metadata"].get("tags", []) for cell in cells] == [True] + [False] * (len(cells) - 1)
    assert ast.unparse(declared(path)["profile"]) == "profile: str = 'quick'"
    assert f'runs.start("{path.stem}", globals())' in source(cells[1])
    for cell in cells[1:]:  # parameters take a line each
        assert len(source(cell).splitlines()) <= 15, "longer code belongs in the package"


@pytest.mark.parametrize("profile", ["smoke", "quick", "classroom", "laptop"])
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_profiles_name_every_parameter(path: Path, profile: str) -> None:
    text = (PROFILES / path.stem / f"{profile}.yaml").read_text()
    values = yaml.safe_load(text)
    assert values.keys() == declared(path).keys()
    assert values["profile"] == profile, "plain papermill takes it from the file"
    assert re.search(r"^# about: [\d.]+ min, [\d.]+ GB", text, re.MULTILINE), "the estimate that --dry-run prints"
