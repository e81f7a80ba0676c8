"""Shared fixtures: no test sees the data or artifacts of the machine it runs on, or leaves any there."""

from pathlib import Path

import pytest


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
