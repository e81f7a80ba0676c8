"""pyproject.toml, requirements.lock and environment.yml describe one environment."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from sslmem_utils.paths import PACKAGE, ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PYPROJECT["optional-dependencies"]
DECLARED = [Requirement(text) for text in PYPROJECT["dependencies"] + [r for group in EXTRAS.values() for r in group]]
LOCK_TEXT = (ROOT / "requirements.lock").read_text()
PYTHONS = ("3.11", "3.12", "3.13")


def key(requirement: Requirement) -> tuple[str, frozenset[str], frozenset[str]]:
    """What must be equal for two requirements to say the same: name, extras and bounds."""
    bounds = frozenset(str(bound) for bound in requirement.specifier)
    return canonicalize_name(requirement.name), frozenset(requirement.extras), bounds


def lock_entries(text: str) -> list[tuple[Requirement, str]]:
    """Each locked requirement with the lines that belong to it (hashes and the comment that says who wants it)."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    return [(Requirement(block.splitlines()[0].rstrip("\\ ")), block) for block in blocks]


LOCK = lock_entries(LOCK_TEXT)


def test_conda_file_repeats_names_and_bounds() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    base = [entry for entry in conda["dependencies"] if isinstance(entry, str)]
    [pip] = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert f"python {PYPROJECT['requires-python']}" in base
    assert pip[-1] == "--editable ."
    listed = [key(Requirement(text)) for text in pip[:-1]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {key(requirement) for requirement in DECLARED}, "mend environment.yml"


def test_lock_serves_what_is_declared() -> None:
    wanted_by_us = {canonicalize_name(r.name) for r, block in LOCK if re.search(r"^ +# +(via )?sslmem\b", block, re.M)}
    assert wanted_by_us == {canonicalize_name(r.name) for r in DECLARED}, "pyproject.toml changed: run `make lock`"


@pytest.mark.parametrize("python", PYTHONS)
def test_locked_versions_are_in_bounds(python: str) -> None:
    here = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    locked: dict[str, Version] = {}
    for requirement, _ in LOCK:
        if requirement.marker is None or requirement.marker.evaluate(here):
            name = canonicalize_name(requirement.name)
            assert name not in locked, f"two versions of {name} on Python {python}"
            [pin] = requirement.specifier
            assert pin.operator == "=="
            locked[name] = Version(pin.version)
    for requirement in DECLARED:
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is locked at {version}"


def test_lock_has_hashes_and_no_addresses() -> None:
    assert len(LOCK) > 100
    for requirement, block in LOCK:
        assert "--hash=sha256:" in block, f"{requirement.name} has no hash; run `make lock`"
        assert requirement.url is None
    assert not re.search(r"://|--find-links|--(extra-)?index| @ |/tmp|/home|/root", LOCK_TEXT)


def test_every_import_of_the_package_is_declared() -> None:
    """A module that works only because some other package pulled in its dependency breaks when that one lets go."""
    owners = packages_distributions()
    runtime = {canonicalize_name(Requirement(text).name) for text in PYPROJECT["dependencies"]}
    optional = {canonicalize_name(Requirement(text).name) for group in EXTRAS.values() for text in group}
    # Parts of a declared package that is bound to bring them: jupyter-book its Sphinx, papermill its notebook format.
    bundled = {"sphinx": "jupyter-book", "docutils": "jupyter-book", "myst-nb": "jupyter-book", "timm": "lightly"}
    bundled |= {"nbformat": "papermill", "nbclient": "papermill", "ipython": "ipykernel"}
    bundled |= {"jupyter-client": "ipykernel", "jupyter-core": "ipykernel", "jinja2": "nbconvert"}
    assert set(bundled.values()) <= runtime
    undeclared: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"sslmem_utils"}:
                found = {canonicalize_name(owner) for owner in owners.get(top, [top])}
                if not found & (runtime | optional | bundled.keys()):
                    undeclared.setdefault(top, []).append(path.name)
    assert not undeclared, "declare these in pyproject.toml and environment.yml"


def test_makefile_and_citation_agree_with_the_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PYPROJECT["version"]
    assert citation["license"] == PYPROJECT["license"]
    minors = re.findall(r"python(3\.\d+)", re.search(r"^PYTHON \?= (.*)$", (ROOT / "Makefile").read_text(), re.M)[1])
    assert sorted(minors) == sorted(PYTHONS)
    assert PYPROJECT["requires-python"] == ">=3.11,<3.14"
