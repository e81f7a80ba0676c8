"""Training: resumable to the bit, parallel without a difference, errors in one sentence."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from sslmem_utils import data, pairs, splits, stats, training, views
from sslmem_utils.errors import SpecError, SplitError, StoreError, TrainingError
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import ComputeSpec, ScoreSpec, TrainSpec
from sslmem_utils.store import Store

SETTINGS = (ScoreSpec(views=6), ScoreSpec(views=6, representation="projector"))


def spec(**changes: object) -> TrainSpec:
    return recipe("digits", **{"shared": 40, "candidate": 40, "external": 80, "epochs": 6, "batch": 40} | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_is_deterministic_and_seeds_differ(tmp_path: Path) -> None:
    one, again = (training.train(spec(), Store(tmp_path / name)) for name in ("a", "b"))
    assert equal(weights(one), weights(again)) and one.name == again.name
    other = training.train(spec(seed=1), Store(tmp_path / "a"))
    assert not equal(weights(one), weights(other))


def test_two_processes_train_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [spec(seed=seed) for seed in range(3)]
    monkeypatch.setenv("SSLMEM_JOBS", "1")
    alone = training.train_all(specs, Store(tmp_path / "one"))
    monkeypatch.setenv("SSLMEM_JOBS", "2")
    together = training.train_all(specs, Store(tmp_path / "two"))
    assert all(equal(weights(a), weights(b)) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("encoder", ["mlp", "cnn"])
def test_a_stopped_training_goes_on_to_the_same_bits(optimizer: str, encoder: str) -> None:
    settings = training.resolved(spec(optimizer=optimizer, encoder=encoder, lr=0.01, epochs=4))
    images = data.load(settings.dataset)
    rows = torch.from_numpy(pairs.split_of(settings).rows(*settings.sets))
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def state() -> training.Training:
        return training.Training.start(settings, (1, 8, 8))

    whole = state()

    def keep(state: training.Training) -> None:
        kept[state.epoch] = {name: value.clone() for name, value in state.tensors().items()}

    training.run(whole, images.images[rows], images.ids[rows], keep)
    resumed = state()
    resumed.restore(kept[2])
    training.run(resumed, images.images[rows], images.ids[rows], lambda _: None)
    assert resumed.losses == whole.losses and equal(resumed.tensors(), whole.tensors())


KILLED = """
import sys
from pathlib import Path
from sslmem_utils import pairs, training
from sslmem_utils.specs import ScoreSpec, TrainSpec
from sslmem_utils.store import Store
training.CHECKPOINT_SECONDS = 0.0
base = TrainSpec.model_validate_json(sys.argv[2])
settings = ScoreSpec(views=6), ScoreSpec(views=6, representation="projector")
table = pairs.scores(base, [0], settings, store=Store(Path(sys.argv[1])))
table.to_parquet(sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_killed_at_any_moment_the_final_scores_are_the_same_bits(tmp_path: Path, jobs: str) -> None:
    base, out = spec(epochs=40), tmp_path / "scores.parquet"
    undisturbed = pairs.scores(base, [0], SETTINGS, store=Store(tmp_path / "calm"))
    store = Store(tmp_path / "killed")
    command = [sys.executable, "-c", KILLED, str(store.root), base.canonical(), str(out)]
    environment = os.environ | {"SSLMEM_JOBS": jobs, "SSLMEM_TEST": str(tmp_path)}
    kills = 0
    for moment in ("checkpoints/*", "encoders/*", "alignments/*"):  # in training, between encoders, in scoring
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and not list(store.root.glob(moment)) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        _wait_until_all_have_ended(str(tmp_path))
    assert kills >= 2, "the process was too fast to be killed"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    pd.testing.assert_frame_equal(pd.read_parquet(out), undisturbed, check_exact=True)
    assert not list((store.root / "checkpoints").glob("*"))


def _wait_until_all_have_ended(mark: str) -> None:
    """A killed run leaves no process behind: workers notice the end of the one that asked for them."""

    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SSLMEM_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    deadline = time.monotonic() + 30
    while left() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left()


NO_SPACE = """
import resource, signal, sys
from pathlib import Path
from sslmem_utils import training
from sslmem_utils.specs import TrainSpec
from sslmem_utils.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spec = TrainSpec.model_validate_json(sys.argv[2])
training.data.load(spec.dataset)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
training.CHECKPOINT_SECONDS = float(sys.argv[3])
try:
    training.train(spec, Store(Path(sys.argv[1])))
except training.SSLMemError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("seconds", ["0", "99"])  # the checkpoint, the finished weights
def test_weights_that_do_not_fit_are_one_sentence(tmp_path: Path, seconds: str) -> None:
    command = [sys.executable, "-c", NO_SPACE, str(tmp_path / "store"), spec().canonical(), seconds]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("StoreError cannot write to") and "file size limit" in done.stdout
    assert done.stdout.count("\n") == 1 and not list((tmp_path / "store" / "encoders").glob("*"))


@pytest.mark.parametrize(("policy", "sentence"), [("none", "changes no pixel"), ("mae", "changes no pixel")])
def test_views_that_are_all_equal_are_refused(tmp_path: Path, policy: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        training.train(spec(view=views.named(policy)), Store(tmp_path))
    with pytest.raises(SpecError, match="does not mask"):
        training.train(spec(view=views.named("digits").but(mask=0.5)), Store(tmp_path))


def test_a_stored_encoder_is_loaded_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    folder = training.train(spec(), store)
    monkeypatch.setattr(training, "run", lambda *_: pytest.fail("trained again"))
    assert training.train(spec(), store) == folder
    model = training.load(spec(), store)
    assert not model.training and equal(model.state_dict(), weights(folder))
    assert training.load(spec(seed=5), store) is None
    assert len(pd.read_parquet(folder / "losses.parquet")) == 6
    assert splits.Split.from_json((folder / "split.json").read_text()).stratified


def test_a_changed_default_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from sslmem_utils.methods.simclr import SimCLR

    before = training.key(spec(method="simclr"), "data")
    monkeypatch.setattr(SimCLR, "DEFAULTS", {**SimCLR.DEFAULTS, "output": 32})
    assert training.key(spec(method="simclr"), "data") != before


def test_batches_cover_every_image_once_an_epoch() -> None:
    settings = spec()
    ids = torch.arange(80) * 3
    first, second = (training.batches(settings, ids, epoch) for epoch in (0, 1))
    assert first.shape == (2, 40) and sorted(first.flatten().tolist()) == list(range(80))
    assert not torch.equal(first, second)


def test_views_of_a_batch_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = spec(epochs=2)
    images = data.load(settings.dataset)
    x, ids = images.images[:80], images.ids[:80]
    whole = [views for _, views in training.stream(settings, x, ids, 0, 2)]
    monkeypatch.setattr(training, "VIEWS_AT_ONCE", 1)
    single = [views for _, views in training.stream(settings, x, ids, 0, 2)]
    assert all(torch.equal(a, b) for a, b in zip(whole, single, strict=True))
    later = [views for _, views in training.stream(settings, x, ids, 1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], later, strict=True))


def test_learning_rate_rises_and_falls() -> None:
    settings = spec(lr=0.5, warmup=0.1)
    rates = [training.learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05) and max(rates) == pytest.approx(0.5) and rates[-1] < 0.001
    assert rates.index(max(rates)) in (9, 10)


def test_a_loss_that_is_not_finite_stops_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss became (nan|inf) in epoch .* lower the learning rate") as caught:
        training.train(spec(lr=1e30, optimizer="sgd"), Store(tmp_path))
    assert "\n" not in str(caught.value)


def test_an_error_in_a_worker_keeps_what_the_others_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "2")
    store, good = Store(tmp_path), spec()
    with pytest.raises(TrainingError, match="lower the learning rate"):
        training.train_all([spec(lr=1e30, optimizer="sgd"), good, spec(seed=1)], store)
    assert training.load(good, store) is not None and training.load(spec(seed=1), store) is not None


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"encoder": "resnet81"}, SpecError, "unknown encoder"),
        ({"method": "simsalabim"}, SpecError, "unknown method"),
        ({"shared": 5000}, SplitError, "exceed the 1797 images of digits"),
        ({"epoch": 3}, SpecError, "no field 'epoch'"),
    ],
)
def test_bad_specs_fail_before_training(tmp_path: Path, changes: dict, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        training.train(spec(**changes), Store(tmp_path))
    assert not (tmp_path / "encoders").exists()


def test_a_damaged_encoder_is_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = training.train(spec(), store)
    (folder / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(StoreError, match="checksum"):
        training.load(spec(), store)


def test_two_encoders_that_never_saw_an_image_score_it_zero_on_average(tmp_path: Path) -> None:
    table = pairs.scores(spec(epochs=20), range(8), SETTINGS[:1], store=Store(tmp_path))
    means = table[table["set"] == "external"].groupby("seed")["m_rel"].mean()
    found = stats.interval(means)
    assert found.low < 0 < found.high
    sets = stats.interval(stats.summary(table)["candidate"])
    assert sets.low > 0  # and the same encoders do show memorization of what only f saw


def test_coupled_pairs_share_initialisation_and_order() -> None:
    f, g = pairs.pair_specs(spec(), 3)
    assert (f.seed, g.seed) == (6, 7) and f.split == g.split and f.split.seed == 3
    f, g = pairs.pair_specs(spec(), 3, coupled=True)
    assert f.seed == g.seed == 6 and f.sets != g.sets


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_lowers_the_loss(tmp_path: Path) -> None:
    compute = ComputeSpec(device="cuda", precision="bf16")
    folder = training.train(spec(compute=compute, epochs=30), Store(tmp_path))
    losses = pd.read_parquet(folder / "losses.parquet")["loss"]
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]


GOLDEN = {"weights": 0.04109649, "align": 0.43771683}


def test_numbers_move_only_with_a_raised_result_version(tmp_path: Path) -> None:
    """When this fails on purpose, raise the module's number in versions.py and write the new values here."""
    store = Store(tmp_path)
    f, _ = pairs.pair_specs(spec(), 0)
    folder = training.train(f, store)
    found = {
        "weights": float(weights(folder)["projector.layers.0.weight"].double().abs().mean()),
        "align": float(pairs.alignment(f, ScoreSpec(views=6), store)["align"].mean()),
    }
    assert found == pytest.approx(GOLDEN, rel=1e-3)  # other processors round differently
