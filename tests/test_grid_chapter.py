"""The chapter on grids holds: its plan, its lists of parameters and options, its lines of Python and of the shell."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml
from projects import inside

from sslmem_utils import cli, encoders, grid, methods, paths
from sslmem_utils.cli.grid import grid as command
from sslmem_utils.grid import computations
from sslmem_utils.grid import jobs as grid_jobs
from sslmem_utils.store import Store
from sslmem_utils.views.policies import POLICIES

CHAPTER = (paths.ROOT / "book/running/cluster.md").read_text(encoding="utf-8")
SMALL = {"dataset": "digits", "shared": 20, "candidate": 20, "external": 40, "epochs": 1, "device": "cpu"}


def block(start: str) -> str:
    """The block of code that begins so."""
    [found] = [text for text in re.findall(r"^```\w+\n(.*?)^```", CHAPTER, re.M | re.S) if text.startswith(start)]
    return found


def listed(head: str) -> dict[str, list[str]]:
    """The rows of the table with this first column, by what stands there."""
    text = CHAPTER[CHAPTER.index(f"| {head} |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def in_code(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_the_plan_makes_as_many_jobs_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(block("# methods.yaml"))
    plan = grid.read(tmp_path / "plan.yaml")
    entries = Counter(wanted.kind for wanted in plan.wanted)
    told = [int(number) for number in re.findall(r": (\d+) jobs", block("# methods.yaml"))]
    assert list(entries.values()) == told == [4, 9, 4]
    train = sum(job.kind == "train" for job in plan.jobs())
    assert f"These {sum(told)} jobs need {train} encoders" in CHAPTER


def test_the_parameters_of_computations_are_those_of_the_code() -> None:
    rows = listed("parameter")
    for kind, spec in computations.COMPUTATIONS.items():
        names = {name for name, (of, *_) in rows.items() if of == "all" or kind in of}
        assert names == set(computations.names_of(kind))
        for name in names:
            field, (_, default, what) = spec.model_fields[name], rows[name]
            given = "needed" if field.is_required() else f"`{field.default}`" if field.default is not None else ""
            assert default == given or (not given and not in_code(default) and default != "needed"), name
            kinds = [field.annotation, *get_args(field.annotation)]
            choices = {one for some in kinds if get_origin(some) is Literal for one in get_args(some)}
            assert not choices or in_code(what) == choices, name
    policies = set(POLICIES) - {"none"}  # with which nothing can be trained
    named = {"method": methods.METHODS.names(), "encoder": encoders.ENCODERS.names(), "view": policies}
    assert all(in_code(rows[name][-1]) == set(known) for name, known in named.items())
    known = {"projector", *(name for one in named["encoder"] for name in encoders.ENCODERS.get(one).representations)}
    assert in_code(rows["representation"][-1]) == known


def test_the_options_are_those_of_the_command() -> None:
    rows = listed("option")
    options = {name: one.default for name, one in inspect.signature(command).parameters.items() if name != "plan"}
    assert set(rows) == {f"--{name.replace('_', '-')}" for name in options}
    for name, default in options.items():
        told = rows[f"--{name.replace('_', '-')}"][0]
        assert told == ("off" if default is False else f"`{default}`") or (default is None and not in_code(told)), name


def test_tables_are_read_and_explained_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside(monkeypatch, tmp_path)
    fixed = SMALL | {"method": "byol", "batch": 16}
    jobs = [{"compute": "score", "params": fixed, "grid": {"seed": [0, 1]}}, {"compute": "probe", "params": fixed}]
    (tmp_path / "methods.yaml").write_text(yaml.safe_dump({"jobs": jobs}))
    found = grid.run(grid.read(tmp_path / "methods.yaml"), say=lambda text: None)
    assert {job.status for job in found} == {"done"}
    names: dict[str, object] = {}
    exec(block("import pandas"), names)
    scores, store = names["scores"], Store()
    assert set(scores["seed"]) == {0, 1} and set(scores["method"]) == {"byol"} and len(scores) == 200
    for job in found:
        if job.kind == "train":
            continue
        meta = store.meta(grid_jobs.STORED[job.kind], job.id)
        assert [one["key"] for one in meta["encoders"].values()] == job.needs
        assert list(meta["encoders"]) == (["f", "g"] if job.kind == "score" else ["f"])
        assert meta["label"] == job.label and meta["params"] == job.params
        for spec in [one["spec"] for one in meta["encoders"].values()]:
            assert spec["method"]["name"] == "byol" and spec["method"]["options"] and spec["encoder"]["options"]
            assert spec["batch"] == 16 and spec["lr"] > 0 and spec["view"] and spec["split"]["independent"] == 20
        assert meta["versions"]["torch"] and meta["hardware"]["cores"] and meta["commit"] and meta["result_version"]
        assert (meta["score"] or {}).get("views") == (20 if job.kind == "score" else None)
        assert (meta["score"] is None) or (meta["score"]["view"] == spec["view"])
        assert len(meta["fingerprint"]) > 10
    [probe] = [job for job in found if job.kind == "probe"]
    assert (store.get("probes", probe.id) / computations.TABLE).is_file()
    assert cli.main(["store", "list", "--kind", "scores"]) == 0
    assert "  score digits byol seed=1\n" in capsys.readouterr().out
    assert cli.main(["results", "export", str(tmp_path / "x.zip"), "--grid", "methods"]) == 0
    with zipfile.ZipFile(tmp_path / "x.zip") as packed:
        assert b'"result_version"' in packed.read(f"store/probes/{probe.id}/manifest.json")


def test_an_object_store_gives_back_what_it_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, store = f"file://{tmp_path}/bucket/store/", Store()
    store.put("tables", "0" * 20, lambda folder: (folder / "a.txt").write_text("x") and None, {})

    def typed(words: str, *places: str) -> None:
        [line] = [text for text in re.findall(r"python -c .*\\\n", CHAPTER) if words in text]
        _, *options = shlex.split(line.replace("\\\n", ""))
        subprocess.run([sys.executable, *options, *places], check=True, timeout=100)

    typed("files.put", f"{store.root}/", there)
    back = tmp_path / "back"
    for _ in range(2):  # into a folder that is there too
        typed("files.get", there, f"{back}/")
        assert [piece.key for piece in Store(back).pieces()] == ["0" * 20]
    assert Store(back).get("tables", "0" * 20) is not None
