"""Results in one file: whole or refused, whatever is damaged, named wrongly or killed; `results/` filled from it."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from projects import TOY, environment, inside, write_notebook

from sslmem_utils import batch, cli, paths, sharing
from sslmem_utils.batch import export
from sslmem_utils.errors import DataError, RunError, SpecError, SSLMemError, StoreError
from sslmem_utils.grid import jobs as grid_jobs
from sslmem_utils.grid import state as grid_state
from sslmem_utils.runs import tables
from sslmem_utils.store import Store, write_json

ENDINGS = ("zip", "tar.gz")
KEY = "0123456789abcdef0123"


def finish(job: batch.Job, value: float = 1.0) -> None:
    """A finished run of a notebook as a batch leaves it, with two tables and no claims."""
    facts = {"pictures": [], "pictures_of": None, "notebook": job.notebook, "profile": job.profile}
    facts |= {"params": job.params, **tables.origin()}
    for name in ("points", "means"):
        tables.write(job.folder, name, pd.DataFrame({"x": np.arange(200), "y": value}), facts | {"table": name})
    write_json(job.folder / tables.CLAIMS, {"claims": []})
    (job.folder / "executed.ipynb").write_text("{}")
    record = {"notebook": job.notebook, "profile": job.profile, "params": job.params}
    write_json(job.folder / batch.RECORD, record)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with finished runs of two notebooks."""
    for name in ("01_toy", "02_toy"):
        write_notebook(tmp_path, name, TOY)
    inside(monkeypatch, tmp_path)
    for job in batch.plan([], "quick"):
        finish(job)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def archive(project: Path, ending: str = "zip") -> Path:
    file = project / f"results.{ending}"
    sharing.export(file, "quick", [])
    return file


# ---------------------------------------------------------------- there and back
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_packed_fills_results_like_a_direct_export(project: Path, ending: str) -> None:
    file = archive(project, ending)
    export.export("quick", [])
    direct = tree(paths.RESULTS)
    assert set(direct) == {f"{name}/quick/{file}" for name in ("01_toy", "02_toy") for file in (
        "claims.json", "means.json", "means.parquet", "points.json", "points.parquet"
    )}  # fmt: skip
    for path in paths.RESULTS.rglob("*.parquet"):
        path.unlink()
    lines = sharing.import_results(file)
    assert [line.split(":")[0] for line in lines] == ["results/01_toy/quick", "results/02_toy/quick"]
    assert tree(paths.RESULTS) == direct
    assert not list(paths.BUILD.glob("importing")) and not list(paths.BUILD.glob("staged-*"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_equal_contents_make_equal_archives_which_other_programs_read(project: Path, ending: str) -> None:
    first = archive(project, ending).read_bytes()
    assert archive(project, ending).read_bytes() == first
    reader = zipfile.ZipFile if ending == "zip" else tarfile.open
    with reader(project / f"results.{ending}") as opened:
        opened.extractall(project / "by hand", **({} if ending == "zip" else {"filter": "data"}))
    found = tables.read(project / "by hand/results/02_toy/quick", "points", "")[0]
    assert len(found) == 200


def test_the_commands(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = project / "one.tar.gz"
    assert cli.main(["results", "export", str(file), "--notebook", "2"]) == 0
    assert "results/02_toy/quick: 5 files" in capsys.readouterr().out
    assert cli.main(["results", "import", str(file)]) == 0
    assert sorted(path.name for path in paths.RESULTS.iterdir()) == ["02_toy"]
    assert cli.main(["results", "export"]) == 0
    assert sorted(path.name for path in paths.RESULTS.iterdir()) == ["01_toy", "02_toy"]
    for arguments, code, message in (
        (["export", "x.rar"], 2, "an archive is named *.zip or *.tar.gz, found x.rar"),
        (["export", "x.zip", "--profile", "quik"], 2, "did you mean quick?"),
        (["export", "x.zip", "--weights"], 2, "name both, FILE and --grid PLAN"),
        (["export", "x.zip", "--grid", "methods"], 1, "unknown grid 'methods'"),
        (["import", "nothing.zip"], 2, "there is no file nothing.zip"),
        (["import", str(file), "--into", "stor"], 2, "imported into results or store, found 'stor'"),
        (["import", str(file), "--into", "store"], 2, "holds nothing for store"),
    ):
        assert cli.main(["results", *arguments]) == code, arguments
        errors = capsys.readouterr().err
        assert message in errors and errors.count("\n") == 1


# ---------------------------------------------------------------- grids: tables of the store, weights when asked
@pytest.fixture
def grid(project: Path) -> grid_state.GridState:
    """A finished grid of a notebook, an encoder and a table of scores, and a job that failed."""
    store = Store()
    store.put("encoders", KEY, lambda folder: (folder / "weights.safetensors").write_bytes(b"w" * 999) and None, {})
    store.put("scores", KEY, lambda folder: pd.DataFrame({"m": [1.0]}).to_parquet(folder / "s.parquet"), {"seed": 1})
    kinds = {"notebook": "done", "train": "done", "score": "cached", "probe": "failed"}
    jobs = [grid_state.JobState(KEY, kind, f"{kind} 1", {}, [], "", status=status) for kind, status in kinds.items()]
    now = grid_state.now()
    state = grid_state.GridState("methods", "serial", 1, now, now, now, os.getpid(), "here", "sslmem grid m.yaml", jobs)
    grid_state.save(state)
    outputs = grid_jobs.grid_folder("methods") / "jobs" / KEY / "run"
    job = batch.plan(["1"], "quick", ["n=9"])[0]
    finish(batch.Job(job.notebook, job.path, job.profile, job.params, outputs))
    return state


def test_a_grid_is_packed_without_weights_unless_asked(
    grid: grid_state.GridState, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = project / "small.zip", project / "large.zip"
    sharing.export(small, "quick", [], grid="methods")
    sharing.export(large, "quick", [], grid="methods", weights=True)
    names = {file: set(zipfile.ZipFile(file).namelist()) for file in (small, large)}
    assert not [name for name in names[small] if name.endswith(".safetensors")]
    assert names[large] - names[small] == {
        f"store/encoders/{KEY}/{name}" for name in ("manifest.json", "weights.safetensors")
    }
    monkeypatch.setenv("SSLMEM_STORE", str(project / "other store"))
    lines = sharing.import_results(large)
    assert sum("stored" in line for line in lines) == 2
    assert (Store().get("encoders", KEY) / "weights.safetensors").read_bytes() == b"w" * 999
    assert Store().meta("scores", KEY) == {"seed": 1}
    found, sidecar = tables.read(paths.RESULTS / "grids/methods" / KEY, "points", "")
    assert len(found) == 200 and sidecar["params"]["n"] == 9
    assert all("in the store already" in line for line in sharing.import_results(large, "store"))


def test_a_damaged_artifact_here_stops_an_import_before_anything_changes(
    grid: grid_state.GridState, project: Path
) -> None:
    file = project / "grid.zip"
    sharing.export(file, "quick", [], grid="methods")
    (Store().path("scores", KEY) / "s.parquet").write_text("x")
    with pytest.raises(StoreError, match="delete the folder"):
        sharing.import_results(file)
    assert not paths.RESULTS.exists()


# ---------------------------------------------------------------- damaged and hostile archives
@pytest.mark.parametrize("ending", ENDINGS)
def test_damage_anywhere_is_one_sentence_and_changes_nothing(project: Path, ending: str) -> None:
    whole = archive(project, ending).read_bytes()
    sharing.import_results(project / f"results.{ending}")
    before, rng, refused = tree(paths.RESULTS), random.Random(0), 0
    for round in range(120):
        broken = bytearray(whole)
        if round % 3 == 0:
            del broken[rng.randrange(len(broken)) :]
        else:
            for _ in range(rng.choice([1, 1, 20])):
                broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        file = project / f"broken.{ending}"
        file.write_bytes(broken)
        try:
            sharing.import_results(file)  # a date or a flag that does not matter may have changed
        except SSLMemError as error:
            assert "\n" not in str(error) and "broken" in str(error)
            refused += 1
        assert tree(paths.RESULTS) == before
    assert refused > 100


def rewritten(project: Path, change: Callable[[dict[str, bytes]], None], listed: bool = True) -> Path:
    """An archive with changed files; its manifest is made to fit unless `listed` is False."""
    with zipfile.ZipFile(archive(project)) as opened:
        found = {name: opened.read(name) for name in opened.namelist()}
    head = json.loads(found.pop("manifest.json"))
    change(found)
    if listed:
        import hashlib

        sums = {name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in found.items()}
        head["files"] = sums
    file = project / "changed.zip"
    with zipfile.ZipFile(file, "w") as opened:
        for name, raw in {"manifest.json": json.dumps(head).encode(), **found}.items():
            opened.writestr(name, raw)
    return file


TABLE = "results/01_toy/quick/points"
NAMES = (
    *("../evil.parquet", "results/../../evil.parquet", "/evil.parquet", "results/01_toy/quick/../../../evil.json"),
    *("results\\01_toy\\quick\\evil.json", "C:evil.json", "results/01_toy/quick/.evil.json", "store/encoders/x/a.json"),
    *("results/01_toy/quick/evil.py", "results/01_toy/evil.json", "store/Encoders/0123456789abcdef/a.json"),
    *("results/01_toy/quick/evil.json\n", "results/01_toy/quick/e\u0301vil.json", "results/01_toy//quick/evil.json"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_refused(project: Path, name: str) -> None:
    file = rewritten(project, lambda found: found.update({name: b"{}"}))
    before = tree(project)
    with pytest.raises(DataError, match="is no name of a table or artifact|not those that its manifest lists"):
        sharing.import_results(file)
    after = tree(project)
    assert {name: raw for name, raw in after.items() if "lock" not in name} == before
    assert not (project.parent / "evil.parquet").exists()


def changed_sidecar(**facts: object) -> Callable[[dict[str, bytes]], None]:
    def change(found: dict[str, bytes]) -> None:
        found[f"{TABLE}.json"] = json.dumps(json.loads(found[f"{TABLE}.json"]) | facts).encode()

    return change


@pytest.mark.parametrize(
    ("change", "listed", "message"),
    [
        (lambda found: found.update({f"{TABLE}2.json": b"{}"}), False, "not those that its manifest lists"),
        (lambda found: found.pop(f"{TABLE}.json"), False, "not those that its manifest lists"),
        (lambda found: found.update({f"{TABLE}.parquet": b"x"}), False, "does not match its checksum"),
        (lambda found: found.update({f"{TABLE}.parquet": b"x" * 10**7}), False, "does not match its checksum"),
        (lambda found: found.pop(f"{TABLE}.json"), True, "do not fit their sidecars"),
        (lambda found: found.pop(f"{TABLE}.parquet"), True, "points.json belongs to no table"),
        (lambda found: found.update({f"{TABLE}.json": b"[]"}), True, "do not fit their sidecars"),
        (lambda found: found.update({"results/01_toy/quick/claims.json": b"{}"}), True, "do not fit their sidecars"),
        (changed_sidecar(sha256="0" * 64), True, "do not fit their sidecars"),
        (changed_sidecar(profile="laptop"), True, "do not fit their sidecars"),
        (changed_sidecar(params=None), True, "do not fit their sidecars"),
        (lambda found: found.update({"store/scores/0123456789abcdef/a.json": b"{}"}), True, "own manifest"),
    ],
)
def test_contents_that_do_not_fit_are_refused(
    project: Path, change: Callable[[dict[str, bytes]], None], listed: bool, message: str
) -> None:
    file = rewritten(project, change, listed)
    with pytest.raises(DataError, match=message):
        sharing.import_results(file)
    assert not paths.RESULTS.exists() and not Store().pieces()


def test_an_unknown_notebook_and_a_newer_format_are_named(project: Path) -> None:
    file = archive(project)
    (paths.NOTEBOOKS / "02_toy.ipynb").rename(project / "elsewhere.ipynb")
    with pytest.raises(SpecError, match="cannot be imported: unknown notebook '02_toy'"):
        sharing.import_results(file)
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("manifest.json", '{"format": 2, "files": {}}')
    with pytest.raises(DataError, match="has format 2, and this version reads 1"):
        sharing.import_results(file)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(project: Path, kind: bytes) -> None:
    file = project / "links.tar.gz"
    with tarfile.open(archive(project, "tar.gz")) as old, tarfile.open(file, "w:gz") as new:
        for member in old.getmembers():
            if member.name == f"{TABLE}.json":
                member.type, member.linkname, member.size = kind, "/etc/passwd", 0
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    with pytest.raises(DataError, match="link or a device"):
        sharing.import_results(file)
    assert not paths.RESULTS.exists()


def test_a_file_that_is_there_twice_is_refused(project: Path) -> None:
    file = archive(project, "tar.gz")
    twice = project / "twice.tar.gz"
    with tarfile.open(file) as old, tarfile.open(twice, "w:gz") as new:
        for member in old.getmembers():
            new.addfile(member, old.extractfile(member))
        new.addfile(member, io.BytesIO(b"x" * member.size))
    with pytest.raises(DataError, match="not those that its manifest lists"):
        sharing.import_results(twice)


def test_what_results_cannot_hold_is_refused_whole(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = archive(project)
    sharing.import_results(file)
    before = tree(paths.RESULTS)
    for job in batch.plan([], "quick"):
        finish(job, value=2.0)
    archive(project)
    for limit, words in (("FILE_LIMIT", "more than the"), ("TOTAL_LIMIT", "results/ would grow")):
        with monkeypatch.context() as patch, pytest.raises(RunError, match=words):
            patch.setattr(export, limit, 1000)
            sharing.import_results(file)
        assert tree(paths.RESULTS) == before
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="make room"):
        patch.setattr(sharing.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
        sharing.import_results(file)
    assert tree(paths.RESULTS) == before


# ---------------------------------------------------------------- killed
KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from sslmem_utils import paths, sharing
archives, rng, killed, caught = [Path(name) for name in sys.argv[1:]], random.Random(0), 0, 0
whole = []
def look(name):
    place = paths.RESULTS / name / "quick"
    if not place.is_dir():  # killed between two steps of the exchange: the next import puts it back
        place = place.with_name(".quick.old")
    return {path.name: path.read_bytes() for path in place.iterdir()}
for archive in archives:
    sharing.import_results(archive)
    whole.append({name: look(name) for name in ("01_toy", "02_toy")})
for round in range(25):
    child = os.fork()
    if child == 0:
        while True:
            for archive in archives:
                sharing.import_results(archive)
    time.sleep(rng.uniform(0.02, 0.12))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    for name in ("01_toy", "02_toy"):
        assert look(name) in [one[name] for one in whole], name
    caught += bool(list(paths.BUILD.glob("importing/*")) or list(paths.RESULTS.rglob(".*")))
    if round % 4 == 0:
        sharing.import_results(archives[0])
        assert {name: look(name) for name in whole[0]} == whole[0]
        assert not list(paths.RESULTS.rglob(".*")) and not (paths.BUILD / "importing").exists()
rename = Path.rename
for last in range(1, 5):  # in the middle of an exchange
    if (child := os.fork()) == 0:
        calls = iter(range(1, last))
        Path.rename = lambda *given: rename(*given) if next(calls, None) else os.kill(os.getpid(), signal.SIGKILL)
        sharing.import_results(archives[1])
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = {name: look(name) for name in whole[0]}
    assert all(left[name] in [one[name] for one in whole] for name in left)
    sharing.import_results(archives[0])
    assert {name: look(name) for name in whole[0]} == whole[0] and not list(paths.RESULTS.rglob(".*"))
print(killed, caught)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_killed_import_leaves_each_folder_as_it_was_or_as_it_becomes(project: Path) -> None:
    archives = []
    for number, ending in enumerate(ENDINGS):
        for job in batch.plan([], "quick"):
            finish(job, value=float(number))
        archives.append(str(archive(project, ending)))
    command = [sys.executable, "-c", KILLS, *archives]
    done = subprocess.run(command, env=environment(project), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    killed, caught = map(int, done.stdout.split())
    assert killed == 25 and caught >= 5, "hardly any kill came while it imported"
