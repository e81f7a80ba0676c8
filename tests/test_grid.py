"""Plans are checked before anything starts; their jobs share what they can, and all engines make the same tables."""

from __future__ import annotations

import json
import math
import pkgutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from projects import TOY, environment, inside, sslmem, write_notebook

from sslmem_utils import grid, pairs, probes, splits, training
from sslmem_utils.data import cache
from sslmem_utils.errors import DataError, RunError, SpecError, StoreError
from sslmem_utils.grid import computations, costs, jobs, state
from sslmem_utils.grid import plan as plan_module
from sslmem_utils.grid.options import Options
from sslmem_utils.store import Store

SMALL = {"dataset": "digits", "shared": 20, "candidate": 20, "external": 40, "epochs": 2, "device": "cpu"}


def write_plan(root: Path, entries: object, name: str = "tiny") -> Path:
    file = root / f"{name}.yaml"
    file.write_text(entries if isinstance(entries, str) else yaml.safe_dump({"jobs": entries}, sort_keys=False))
    return file


def compute(kind: str, given: dict[str, object] | None = None, **more: object) -> dict[str, object]:
    return {"compute": kind, "params": SMALL | (given or {}), **more}


def tables(found: list[state.JobState]) -> dict[str, pd.DataFrame]:
    """The stored table of every score and probe by its label."""
    kinds = {"score": "scores", "probe": "probes"}
    return {
        one.label: pd.read_parquet(Store().get(kinds[one.kind], one.id) / computations.TABLE)
        for one in found
        if one.kind in kinds
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_notebook(tmp_path, "01_toy", TOY, quick="", laptop="profile: laptop\nn: 7\nrate: 2\n")
    inside(monkeypatch, tmp_path)
    return tmp_path


# ---------------------------------------------------------------- plans
def test_a_plan_is_the_product_of_grid_and_zip_without_what_is_excluded(project: Path) -> None:
    text = """
name: toys
jobs:
  - notebook: 1
    profile: laptop
    params: {rate: 1e-3}
    grid: {seeds: [2, [3, 4]]}
    zip: {n: [1, 2, 3]}
    exclude: [{seeds: 2, n: 3}, {n: 1}]
"""
    found = grid.read(write_plan(project, text))
    values = [(one.params["seeds"], one.params["n"]) for one in found.wanted]
    assert values == [([2], 2), ([3, 4], 2), ([3, 4], 3)]
    assert found.name == "toys" and all(one.params["rate"] == 0.001 for one in found.wanted)
    assert {one.notebook for one in found.wanted} == {"01_toy"} and found.wanted[0].params["profile"] == "laptop"
    assert found.wanted[0].varied == ("seeds", "n")


def test_the_same_job_is_wanted_once(project: Path) -> None:
    entry = compute("train", grid={"seed": [0, 1]})
    assert len(grid.read(write_plan(project, [entry, entry, compute("train", {"seed": 1})])).wanted) == 2


LONG = [*range(1000)]
WRONG = {
    "unknown key 'parms'; did you mean params": [{"compute": "train", "parms": {}}],
    "unknown computation 'scor'; did you mean score": [{"compute": "scor"}],
    "`compute` must be one name, found a list": [{"compute": ["train"]}],
    "`compute` must be one name, found a mapping": [{"compute": {"train": 1}}],
    "one of `notebook` and `compute`, found profile": [{"profile": "quick"}],
    "entry 2: unknown notebook '01_tyo'; did you mean 01_toy": [compute("train"), {"notebook": "01_tyo"}],
    "unknown profile 'quik'; did you mean quick": [{"notebook": 1, "profile": "quik"}],
    "01_toy: unknown parameter 'seed'; did you mean seeds": [{"notebook": 1, "params": {"seed": 1}}],
    "parameter 'n' must be a whole number": [{"notebook": 1, "grid": {"n": [1, 2.5]}}],
    "chosen with `profile: NAME`": [{"notebook": 1, "params": {"profile": "laptop"}}],
    "train: unknown parameter 'epoch'; did you mean epochs": [compute("train", {"epoch": 1})],
    "score: unknown parameter 'which'": [compute("score", {"which": "g"})],
    "epochs: Input should be a valid integer": [compute("train", {"epochs": "many"})],
    "train needs a value for shared, candidate, external": [{"compute": "train", "params": {"dataset": "digits"}}],
    "found an empty list": [compute("train", grid={"seed": []})],
    "`grid` is empty": [compute("train", grid={})],
    "list of values for 'seed', found 3": [compute("train", grid={"seed": 3})],
    "has 0 twice for 'seed'": [compute("train", grid={"seed": [0, 1, 0]})],
    "in `params` and in `grid`": [compute("train", grid={"epochs": [1, 2]})],
    "in `grid` and in `zip`": [compute("train", grid={"seed": [0]}, zip={"seed": [1]})],
    "1 of 'seed', 2 of 'lr'": [compute("train", zip={"seed": [0], "lr": [0.1, 0.2]})],
    "true of no job": [compute("train", grid={"seed": [0, 1]}, exclude=[{"seed": 2}])],
    "which neither `grid` nor `zip` varies": [compute("train", grid={"seed": [0, 1]}, exclude=[{"epochs": 2}])],
    "leaves no job": [compute("train", grid={"seed": [0]}, exclude=[{"seed": 0}])],
    "`profile` belongs to notebooks": [compute("train", profile="quick")],
    "1,000,000 jobs, more than 10,000; make it smaller or add --yes": [
        compute("train", grid={"seed": LONG, "batch": [one + 2 for one in LONG]})
    ],
    "at least one entry, found a list": [],
    "alias that contains itself": "jobs: &a\n- *a\n",
    "more than 200,000 values": "a: &a [" + "1," * 999 + "1]\nb: &b [" + "*a," * 999 + "*a]\njobs: [*b]\n",
    "'seed' is given twice": "jobs:\n- compute: train\n  grid: {seed: [0], seed: [1]}\n",
    r"not valid YAML \(line 3": "jobs:\n- notebook: [2\n",
    "a name has letters": "name: ../other\njobs:\n- notebook: 1\n",
    "must hold `jobs:`": "",
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_plan_is_one_sentence(project: Path, message: str) -> None:
    with pytest.raises(SpecError, match=message) as told:
        grid.read(write_plan(project, WRONG[message]))
    assert str(told.value).endswith((".", "?")) and "\n" not in str(told.value)


def test_wrong_plans_are_told_before_torch_is_loaded(project: Path) -> None:
    file = write_plan(project, WRONG["train: unknown parameter 'epoch'; did you mean epochs"])
    code = "import sys; from sslmem_utils.cli import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", f"{code}; sys.exit(code)", "grid"]
    for arguments in ([str(file)], ["missing.yaml"], [str(file), "--engine", "slurm"]):
        options = {"cwd": project, "env": environment(project), "capture_output": True, "text": True, "timeout": 120}
        done = subprocess.run([*command, *arguments], **options)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
    assert not (project / "_build").exists(), "something was started"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"dataset": "digitz"}, (SpecError, DataError)),
        ({"method": "simclrr"}, SpecError),
        ({"external": 4000}, SpecError),
        ({"view": "wek"}, SpecError),
        ({"batch": 4000}, SpecError),
        ({"representation": "poold"}, SpecError),
        ({"representation": "layer:nothing"}, SpecError),
    ],
)
def test_what_cannot_be_computed_is_told_before_anything_starts(project: Path, given: dict, error: type) -> None:
    with pytest.raises(error) as told:
        grid.run(grid.read(write_plan(project, [compute("train"), compute("score", given)])))
    assert "\n" not in str(told.value) and not Store().path("encoders", "").is_dir()


def test_a_gpu_that_is_not_there_is_told_before_anything_starts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plan = grid.read(write_plan(project, [compute("train"), compute("train", {"device": "cuda"})]))
    for start in (grid.forecast, grid.run):
        with pytest.raises(
            SpecError, match="'train f digits simclr.*' asks for the device cuda, and this machine has no"
        ):
            start(plan, Options("process"))
    assert "2 to do" in grid.forecast(plan, Options("ray")), "another machine may have one"


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "slurm"},
        {"jobs": 0},
        {"engine": "serial", "jobs": 2},
        {"engine": "process", "gpus_per_job": 0.5},
        {"retries": -1},
        *({"timeout": minutes} for minutes in (0.0, math.inf, math.nan, 1e15)),
        *({"engine": "ray", "gpus_per_job": share} for share in (-1.0, 1.5, math.inf, math.nan)),
    ],
)
def test_wrong_options_are_one_sentence(options: dict) -> None:
    with pytest.raises(SpecError, match=r"^[^\n]+[.?]$"):
        Options(**options)


def test_the_command_to_go_on_has_every_option(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "MANY", 1)
    file = write_plan(project, [compute("train", grid={"seed": [0, 1]})])
    options = Options("ray", jobs=3, gpus_per_job=0.25, retries=0, timeout=1.5)
    assert options.command(grid.read(file, yes=True)) == (
        f"sslmem grid {file} --engine ray --jobs 3 --gpus-per-job 0.25 --retries 0 --timeout 1.5 --yes"
    )
    assert Options().command(grid.read(write_plan(project, [{"notebook": 1}]))).endswith("tiny.yaml --engine serial")


# ---------------------------------------------------------------- jobs
def test_an_encoder_is_one_job_wherever_it_is_needed(project: Path) -> None:
    entries = [
        compute("score", grid={"views": [4, 6]}),
        compute("train", {"which": "g"}),
        compute("probe"),
    ]
    found = grid.read(write_plan(project, entries)).jobs()
    assert [job.kind for job in found] == ["train", "train", "score", "score", "probe"]
    f, g, one, two, probe = found
    assert one.needs == two.needs == (f.id, g.id) and probe.needs == (f.id,)
    assert g.wanted and not f.wanted, "only g is named by the plan"
    specs = pairs.pair_specs(computations.base_spec(computations.Train(**SMALL)), 0)
    assert [training.key(spec, training.inputs(spec).images.fingerprint) for spec in specs] == [f.id, g.id]
    assert jobs.STORED["train"] == training.KIND
    assert [jobs.from_json(job.canonical()) for job in found] == found
    assert len({job.label for job in found}) == 5 and all(len(job.id) == 20 for job in found)


def test_what_is_the_same_for_all_jobs_is_looked_up_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = grid.read(
        write_plan(project, [compute("score", {"representation": "projector"}, grid={"seed": [*range(9)]})])
    )
    plan.jobs()
    looked: list[str] = []
    for module, name in ((cache, "read"), (splits, "draw"), (pairs, "untrained"), (pkgutil, "iter_modules")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, name=name, **k: looked.append(name) or real(*a, **k))
    assert len(plan.jobs()) == 27
    assert looked.count("draw") == looked.count("untrained") == 1 and looked.count("iter_modules") == 0
    assert looked.count("read") < 9


def test_a_score_is_that_of_the_package_and_is_computed_once(project: Path) -> None:
    plan = grid.read(write_plan(project, [compute("score", {"views": 4}, grid={"seed": [0, 1]}), compute("probe")]))
    heard: list[str] = []
    found = grid.run(plan, say=heard.append)
    assert [one.status for one in found] == ["done"] * 7 and not heard
    base = computations.base_spec(computations.Score(**SMALL, views=4))
    setting = computations.setting_of(computations.Score(**SMALL, views=4))
    expected = pairs.scores(base, [1], [setting])
    pd.testing.assert_frame_equal(tables(found)["score digits simclr seed=1"], expected)
    knn = tables(found)["probe f digits simclr seed=0"]
    pd.testing.assert_frame_equal(knn, probes.of(pairs.pair_specs(base, 0)[0]))
    assert jobs.STORED["probe"] == probes.KIND and computations.TABLE == probes.TABLE
    known = state.load("tiny")
    assert known.finished and known.counts() == {"done": 7} and not state.is_running(known)
    assert all(one.attempts == 1 and one.memory_mb > 10 and one.worker for one in known.jobs)
    report = json.loads((Path(found[0].folder) / jobs.REPORT).read_text())
    assert report["status"] == "done" and "epoch 2 of 2" in (Path(found[0].folder) / jobs.LOG).read_text()

    again = grid.run(plan)
    assert [one.status for one in again] == ["cached"] * 7
    Store().remove("encoders", again[0].id)
    assert [one.status for one in grid.run(plan)] == ["cached"] * 7, "no one needs that encoder any more"
    Store().remove("scores", again[2].id)
    assert [one.status for one in grid.run(plan)] == ["done", "cached", "done", *["cached"] * 4]


def test_a_forecast_starts_nothing_and_learns_from_what_was_run(project: Path) -> None:
    entries = [compute("train", grid={"seed": [0, 1]}), {"notebook": 1}]
    plan = grid.read(write_plan(project, entries))
    told = grid.forecast(plan, Options("process", 2))
    assert "3 jobs, 0 done before, 3 to do" in told and "2 jobs that nothing is known of" in told
    assert "about 30.0 s, 2 at a time" in told, "the notebook as its profile says: the others cannot help it"
    alone = grid.read(write_plan(project, entries[1:], "alone"))
    assert grid.forecast(alone, Options("process", 16)).endswith("1 to do: about 30.0 s, 1 at a time")
    assert "how many Ray has room for" in grid.forecast(alone, Options("ray", gpus_per_job=1.0))
    assert not (project / "_build").exists()
    grid.run(grid.read(write_plan(project, entries[:1], "some")))
    told = grid.forecast(grid.read(write_plan(project, [compute("train", grid={"seed": [1, 2]}), {"notebook": 1}])))
    assert "3 jobs, 1 done before, 2 to do" in told and "nothing is known" not in told


def test_times_are_told_from_jobs_that_are_alike(project: Path) -> None:
    def job(kind: str = "train", **given: object) -> jobs.GridJob:
        return list(computations.jobs_of(kind, SMALL | given, (), "tiny"))[-1]

    four, five = grid.read(write_plan(project, [{"notebook": 1, "grid": {"n": [4, 5]}}])).jobs()
    first = costs.Costs()
    for one, seconds in ((job(), 4.0), (job("score", views=4), 1.0), (four, 9.0)):
        first.add(one, seconds)
    first.save()
    expected = costs.Costs().expected
    assert expected(job(seed=7)) == expected(job(which="g")) == 4.0
    assert expected(job(epochs=10)) == expected(job(epochs=10, method="vicreg")) == 20.0
    assert expected(job(shared=60)) == 8.0, "twice the images"
    assert expected(job(epochs=300)) is expected(job(encoder="cnn")) is expected(job("probe")) is None
    assert expected(job("score", views=8)) == 2.0 and expected(job("score", views=4, external=140)) == 2.0
    assert expected(four) == 9.0 and expected(five) is None


def test_a_damaged_table_is_computed_again(project: Path) -> None:
    plan = grid.read(write_plan(project, [compute("score", {"views": 4})]))
    first = tables(grid.run(plan))
    f, _, score = plan.jobs()
    for kind, key, name in (("scores", score.id, computations.TABLE), ("encoders", f.id, "weights.safetensors")):
        file = Store().path(kind, key) / name
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    found = grid.run(plan)
    assert [one.status for one in found] == ["done", "cached", "done"]
    assert "damaged, computed again" in (score.folder / jobs.LOG).read_text()
    (label,) = first
    pd.testing.assert_frame_equal(tables(found)[label], first[label])


# ---------------------------------------------------------------- state
def test_what_is_left_is_estimated_from_what_is_known() -> None:
    def job(status: str, seconds: float = 0.0, expected: float | None = None) -> state.JobState:
        return state.JobState("", "train", "", {}, [], "", status, seconds=seconds, expected_seconds=expected)

    def eta(*found: state.JobState) -> float | None:
        return state.eta_seconds(state.GridState("p", "process", 2, "", "", None, 1, "", "", list(found)))

    assert eta(job("waiting")) is None and eta(job("done", 4.0)) == 0
    assert eta(job("running", 4.0, 10.0), job("waiting", 0.0, 20.0), job("waiting", 0.0, 30.0)) == 30
    assert eta(job("done", 8.0), job("waiting"), job("waiting"), job("waiting"), job("failed", 99.0)) == 12


def test_states_are_found_by_name_and_damage_is_told(project: Path) -> None:
    with pytest.raises(RunError, match="no grid was run here"):
        state.latest()
    grid.run(grid.read(write_plan(project, [{"notebook": 1}])))
    assert state.latest() == "tiny" and state.load("tiny").jobs[0].verdicts
    with pytest.raises(RunError, match="unknown grid 'tinny'; did you mean tiny"):
        state.load("tinny")
    (project / "_build/grid/tiny/state.json").write_text('{"plan": ')
    with pytest.raises(StoreError, match="is damaged"):
        state.load("tiny")


# ---------------------------------------------------------------- the command
@pytest.mark.grid
@pytest.mark.slow
def test_processes_make_the_same_tables_as_one_and_resume(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        compute("score", {"views": 4}, grid={"method": ["simclr", "vicreg"], "seed": [0, 1]}),
        {"notebook": "01_toy", "grid": {"n": [3, 5]}},
    ]
    file = write_plan(project, entries)
    monkeypatch.setenv("SSLMEM_STORE", str(project / "one"))
    alone = grid.run(grid.read(file))
    assert {one.status for one in alone} == {"done"}
    expected = tables(alone)
    toys = [Path(one.folder) / "run" / "points.parquet" for one in alone if one.kind == "notebook"]
    frames = [pd.read_parquet(toy) for toy in toys]
    assert [len(frame) for frame in frames] == [3, 5], "each in a folder of its own"

    monkeypatch.setenv("SSLMEM_STORE", str(project / "two"))
    for toy in toys:
        toy.unlink()
    done = sslmem(project, "grid", str(file), "--engine", "process", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    known = state.load("tiny")
    assert known.counts() == {"done": 14} and known.engine == "process"
    assert len({one.worker for one in known.jobs}) == 2, "workers do many jobs each"
    found = tables(known.jobs)
    assert found.keys() == expected.keys() and len(found) == 4
    for label, table in expected.items():
        pd.testing.assert_frame_equal(found[label], table)
    for toy, frame in zip(toys, frames, strict=True):
        pd.testing.assert_frame_equal(pd.read_parquet(toy), frame)

    again = sslmem(project, "grid", str(file), "--dry-run")
    assert again.returncode == 0 and "14 jobs, 14 done before, 0 to do: nothing to do" in again.stdout
