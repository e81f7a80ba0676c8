"""Shared fixtures: no test sees the data or artifacts of the machine it runs on, or leaves any there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    """Datasets and artifacts of this test only."""
    folder = tmp_path_factory.mktemp("sslmem")
    monkeypatch.setenv("SSLMEM_DATA", str(folder / "data"))
    monkeypatch.setenv("SSLMEM_STORE", str(folder / "store"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images for development beside the checkout: cifar10.zip, mnist10k.zip and others."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "cifar10.zip").is_file():
        pytest.skip("needs the development images in ../shared/data, which are not part of the project")
    return folder


@pytest.fixture(scope="session")
def book_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the committed results, built once for all workers; SSLMEM_PAGES names pages that are there."""
    if given := os.environ.get("SSLMEM_PAGES"):
        return Path(given).resolve()
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    html = shared / "site/_build/html"
    folders = {"SSLMEM_BUILD": html.parent, "SSLMEM_DATA": shared / "site/data", "SSLMEM_STORE": shared / "site/store"}
    with FileLock(shared / "site.lock"):
        if not (html / "index.html").is_file():
            command = [sys.executable, "-m", "sslmem_utils", "book", "--committed"]
            environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
            result = subprocess.run(
                command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True
            )
            assert result.returncode == 0, result.stderr
    return html
