"""Training: resumable to the bit, parallel without a difference, errors in one sentence."""

import ast
import contextlib
import dataclasses
import math
import os
import platform
import random
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file
from threadpoolctl import threadpool_info

from sslmem_utils import data, pairs, paths, splits, stats, training, versions, views
from sslmem_utils.errors import SpecError, SplitError, StoreError, TrainingError
from sslmem_utils.methods import METHODS
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import (
    SETS,
    ComputeSpec,
    DatasetSpec,
    EncoderSpec,
    MethodSpec,
    ScoreSpec,
    TrainSpec,
    ViewSpec,
)
from sslmem_utils.store import Store

SETTINGS = (ScoreSpec(views=6), ScoreSpec(views=6, representation="projector"))


def spec(**changes: object) -> TrainSpec:
    return recipe("digits", **{"shared": 40, "candidate": 40, "external": 80, "epochs": 6, "batch": 40} | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Same names and the same bits; metrics that were not measured are NaN on both sides."""
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a)


def source_of(settings: TrainSpec) -> training.Source:
    images = data.load(settings.dataset)
    return training.Source.of(images, torch.from_numpy(training.inputs(settings).rows))


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
    monkeypatch.setattr(training.several, "SMALL", 0)
    together = training.train_all(specs, Store(tmp_path / "two"))
    assert all(equal(weights(a), weights(b)) for a, b in zip(alone, together, strict=True))


def count_threads(settings: TrainSpec, store: Store) -> None:
    import sklearn.linear_model  # noqa: F401 (loads an OpenMP of its own)

    pools = threadpool_info()
    assert pools
    (store.root / f"threads-{settings.seed}").write_text(str([pool["num_threads"] for pool in pools]))


def test_workers_have_one_thread_in_every_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers with two threads each, on two cores, wait for each other in every small matrix product."""
    monkeypatch.setenv("SSLMEM_JOBS", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(training.several, "SMALL", 0)
    training.several._close()  # workers that were started before have the settings of that time
    training.train_all([spec(seed=seed) for seed in range(2)], Store(tmp_path), then=count_threads)
    for seed in range(2):
        assert set(ast.literal_eval((tmp_path / f"threads-{seed}").read_text())) == {1}


def test_what_another_run_trains_is_left_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two notebooks that share encoders do not wait for each other while there is something else to do."""
    monkeypatch.setenv("SSLMEM_JOBS", "1")
    store, (first, second) = Store(tmp_path), (spec(seed=0), spec(seed=1))
    names = [training.key(one, data.load(one.dataset).fingerprint) for one in (first, second)]
    held, waited = threading.Event(), []

    def another() -> None:
        with store.lock(training.KIND, names[0]):
            held.set()
            end = time.monotonic() + 60
            while store.get(training.KIND, names[1]) is None and time.monotonic() < end:
                time.sleep(0.05)
            waited.append(time.monotonic() >= end)

    thread = threading.Thread(target=another)
    thread.start()
    held.wait()
    folders = training.train_all([first, second], store)
    thread.join()
    assert waited == [False] and all((folder / "weights.safetensors").is_file() for folder in folders)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
@pytest.mark.parametrize("encoder", ["mlp", "cnn"])
def test_a_stopped_training_goes_on_to_the_same_bits(optimizer: str, encoder: str) -> None:
    settings = training.resolved(spec(optimizer=optimizer, encoder=encoder, lr=0.01, epochs=4, weight_decay=1e-4))
    source = source_of(settings)
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def state() -> training.Training:
        return training.Training.start(settings, (1, 8, 8))

    whole = state()

    def keep(state: training.Training) -> None:
        kept[state.epoch] = {name: value.clone() for name, value in state.tensors().items()}

    training.run(whole, source, keep)
    resumed = state()
    resumed.restore(kept[2])
    training.run(resumed, source, lambda _: None)
    assert resumed.table().equals(whole.table()) and equal(resumed.tensors(), whole.tensors())


def of_method(method: str, **changes: object) -> TrainSpec:
    """A small spec of a method, with an encoder it can train."""
    settings = {"lr": 0.001, "epochs": 4, "encoder": EncoderSpec(name="cnn", options={"width": 8})}
    if method == "mae":
        settings["encoder"] = EncoderSpec(name="vit", options={"patch": 2, "width": 16, "depth": 1})
    return spec(method=method, **settings | changes)


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_goes_on_from_a_checkpoint_to_the_same_bits(method: str) -> None:
    settings = training.resolved(of_method(method))
    source, checkpoints = source_of(settings), []
    whole = training.Training.start(settings, (1, 8, 8))
    training.run(whole, source, lambda state: checkpoints.append({n: v.clone() for n, v in state.tensors().items()}))
    resumed = training.Training.start(settings, (1, 8, 8))
    resumed.restore(checkpoints[1])
    training.run(resumed, source, lambda _: None)
    assert equal(resumed.tensors(), whole.tensors()) and resumed.epoch == settings.epochs


def _train_several(root: Path, texts: list[str]) -> None:
    training.single.CHECKPOINT_SECONDS = 0.0
    for text in texts:
        training.train(TrainSpec.model_validate_json(text), Store(root))


@pytest.mark.slow
def test_every_method_killed_at_random_moments_ends_in_the_same_bits(tmp_path: Path) -> None:
    specs = [of_method(method, epochs=12) for method in METHODS.names()]
    store, rng, kills = Store(tmp_path / "killed"), random.Random(0), 0
    context = get_context("forkserver")  # imports once, so that a process starts at once
    context.set_forkserver_preload(["sslmem_utils.training"])

    def start() -> BaseProcess:
        process = context.Process(target=_train_several, args=(store.root, [one.canonical() for one in specs]))
        process.start()
        return process

    for _ in range(4):
        process, before = start(), len(list(store.root.glob("encoders/*")))
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline:
            if len(list(store.root.glob("encoders/*"))) > before and list(store.root.glob("checkpoints/*")):
                time.sleep(rng.uniform(0, 0.2))
                break
            time.sleep(0.005)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    process = start()
    process.join()
    assert process.exitcode == 0
    assert kills >= 2, "the process was too fast to be killed"
    for one in specs:
        calm = training.train(one, Store(tmp_path / "calm"))
        assert equal(weights(calm), weights(store.root / "encoders" / calm.name)), one.method.name


KILLED = """
import sys
from pathlib import Path
from sslmem_utils import pairs, training
from sslmem_utils.specs import ScoreSpec, TrainSpec
from sslmem_utils.store import Store
training.single.CHECKPOINT_SECONDS = 0.0
training.several.SMALL = 0
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

    deadline = time.monotonic() + 180
    while left() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left()


NO_SPACE = """
import resource, signal, sys
from pathlib import Path
from sslmem_utils import training
from sslmem_utils.methods import METHODS
from sslmem_utils.errors import SSLMemError
from sslmem_utils.specs import TrainSpec
from sslmem_utils.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spec = TrainSpec.model_validate_json(sys.argv[2])
training.single.data.load(spec.dataset)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
training.single.CHECKPOINT_SECONDS = float(sys.argv[3])
try:
    training.train(spec, Store(Path(sys.argv[1])))
except SSLMemError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("seconds", ["0", "99"])  # the checkpoint, the finished weights
def test_weights_that_do_not_fit_are_one_sentence(tmp_path: Path, seconds: str) -> None:
    command = [sys.executable, "-c", NO_SPACE, str(tmp_path / "store"), spec().canonical(), seconds]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("StoreError cannot write to") and "file size limit" in done.stdout
    assert done.stdout.count("\n") == 1 and not list((tmp_path / "store" / "encoders").glob("*"))


def test_views_that_are_all_equal_or_not_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="changes no pixel"):
        training.train(spec(view=views.named("none")), Store(tmp_path))
    with pytest.raises(SpecError, match="does not mask"):
        training.train(spec(view=views.named("digits").but(mask=0.5)), Store(tmp_path))


def test_watching_an_encoder_does_not_change_it(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    calm = training.train(spec(), Store(tmp_path / "a"))
    watched = training.train(spec(), Store(tmp_path / "b"), lambda *event: seen.append(event[2]), knn_every=2)
    assert equal(weights(calm), weights(watched)) and calm.name == watched.name
    metrics = pd.read_parquet(watched / "metrics.parquet")
    assert metrics["knn"].notna().tolist() == [False, True, False, True, False, True]
    assert metrics["knn"].iloc[-1] > 0.3 and 0 < metrics["spread"].iloc[-1] < 1.1
    assert seen[-1]["knn"] == metrics["knn"].iloc[-1] and pd.read_parquet(calm / "metrics.parquet")["knn"].isna().all()


def test_knn_accuracy_and_collapse_by_hand() -> None:
    bank = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
    queries = torch.tensor([[3.0, 0.2], [0.1, 5.0], [1.0, 1.0]])
    labels = torch.tensor([0, 0, 1])
    assert training.knn_accuracy(bank, labels, queries, torch.tensor([0, 1, -1]), neighbours=1) == 1.0
    assert training.knn_accuracy(bank, labels, queries, torch.tensor([1, 1, -1]), neighbours=1) == 0.5
    assert math.isnan(training.knn_accuracy(bank, torch.tensor([-1, -1, -1]), queries, labels))
    model = training.Training.start(training.resolved(spec()), (1, 8, 8)).model
    images = data.load(spec().dataset)
    given = training.inputs(spec())
    monitor = training.Monitor.of(images, given.rows, given.split.external, 1)
    assert monitor.look(model)[1] > 0.1
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
        model.encoder.blocks[-1][1].bias.fill_(1.0)  # every image becomes the same point
    assert monitor.look(model)[1] == pytest.approx(0, abs=1e-6)


def test_biases_and_norms_do_not_decay_and_lars_scales_only_what_does() -> None:
    settings = training.resolved(spec(optimizer="lars", weight_decay=1e-4, encoder="cnn"))
    state = training.Training.start(settings, (1, 8, 8))
    decayed, rest = state.optimizer.param_groups
    assert decayed["weight_decay"] == 1e-4 and all(p.dim() > 1 for p in decayed["params"])
    assert rest["weight_decay"] == 0 and all(p.dim() <= 1 for p in rest["params"])
    assert len(decayed["params"]) + len(rest["params"]) == len(list(state.model.parameters()))
    weight, before = decayed["params"][0], decayed["params"][0].detach().clone()
    for parameter in (*decayed["params"], *rest["params"]):
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    ratio = before.norm() / (weight.grad.norm() + 1e-4 * before.norm())  # You et al. 2017, equation 6
    wanted = before - settings.lr * 0.001 * ratio * (weight.grad + 1e-4 * before)
    torch.testing.assert_close(weight.detach(), wanted)


def test_gradients_are_clipped_and_summed_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of two batches moves the weights by the mean of their gradients, cut to the norm that is allowed."""
    changes = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "warmup": 0.0, "epochs": 1, "batch": 40}
    settings = training.resolved(spec(**changes, accumulate=2, clip=0.01))
    source, state = source_of(settings), training.Training.start(settings, (1, 8, 8))
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    twin = training.Training.start(settings, (1, 8, 8)).model.train()
    for _, batch in training.stream(settings, source, 0, twin.plan(settings.view)):
        (twin(batch) / 2).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in twin.parameters()])
    training.run(state, source, lambda _: None)
    assert norm > 0.01
    for (name, p), q in zip(state.model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * q.grad * 0.01 / (norm + 1e-6))


TRAINED = """
import sys
from pathlib import Path
from sslmem_utils import training
from sslmem_utils.specs import TrainSpec
from sslmem_utils.store import Store
training.single.CHECKPOINT_SECONDS = 0.0
folder = training.train(TrainSpec.model_validate_json(sys.argv[2]), Store(Path(sys.argv[1])))
sys.stdout.write(f"{folder}\\n")  # in one piece: two ranks share the pipe
"""


FAULTS = """
import resource, sys
from sslmem_utils.allocation import keep_freed_memory
kept = sys.argv[1] == "kept" and keep_freed_memory()

def work():
    for number in range(10):
        block = bytes([number]) * (40 << 20)
        del block

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep memory")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    def faults(how: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
        ).stdout.split()

    (kept, few), (plain, many) = faults("kept"), faults("plain")
    assert (kept, plain) == ("True", "False") and int(few) * 20 < int(many)


def test_a_compiled_training_is_close_to_a_plain_one(tmp_path: Path) -> None:
    """Without its C++ stage, which takes minutes, and in a process of its own: there the tests' checks of shapes do not
    get into the compiler's way."""
    small = EncoderSpec(name="mlp", options={"width": 32, "depth": 1})
    plain = spec(epochs=1, encoder=small)
    compiled = plain.but(compute=ComputeSpec(compiled=True))
    backend = "import functools, torch\ntorch.compile = functools.partial(torch.compile, backend='aot_eager')"
    command = [sys.executable, "-c", backend + TRAINED, str(tmp_path), compiled.canonical()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    one, two = weights(training.train(plain, Store(tmp_path))), weights(Path(done.stdout.strip()))
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-3, atol=1e-4, msg=name)


def test_two_ranks_train_what_one_process_does(tmp_path: Path) -> None:
    """Equal global batch, gloo, norms without batch statistics; killed in between, they go on."""
    alone = spec(encoder=EncoderSpec(name="cnn", options={"norm": "group", "width": 8}), lr=0.001, epochs=8)
    shared = alone.but(compute=ComputeSpec(processes=2))
    script = tmp_path / "rank.py"
    script.write_text(TRAINED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command += [str(tmp_path / "two"), shared.canonical()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(paths.PACKAGE.parent)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store, deadline = Store(tmp_path / "two"), time.monotonic() + 120
    while process.poll() is None and not list(store.root.glob("checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    one = weights(training.train(alone, Store(tmp_path / "one")))
    folder = store.path(training.KIND, training.key(shared, data.load(shared.dataset).fingerprint))
    assert done.stdout.split() == [str(folder)] * 2
    for name, values in weights(folder).items():
        torch.testing.assert_close(values, one[name], rtol=1e-3, atol=1e-4, msg=name)
    with pytest.raises(SpecError, match="asks for 2 processes, found 1; start it with torchrun"):
        training.train(shared, Store(tmp_path / "one"))
    assert training.train(shared, store) == folder  # what two processes trained, one can use


def test_the_command_line_trains_and_scores_under_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["sslmem_utils", "train", "digits", "--encoder", "mlp", "--epochs", "3", "--candidates", "40"]
    command += ["--shared", "40", "--external", "60", "--views", "4", "--output", str(tmp_path / "scores.csv")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(paths.PACKAGE.parent)}
    environment |= {"SSLMEM_STORE": str(tmp_path / "store")}
    for _ in range(2):  # trained, then found in the store
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "most memorized images" in done.stdout
    table = pd.read_csv(tmp_path / "scores.csv", comment="#")
    assert table["m"].notna().all() and set(table["set"]) == set(SETS)


OPTIMIZERS = ("sgd", "adamw", "lars")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_last_layer_that_stands_still_at_first_suits_every_optimizer(optimizer: str, tmp_path: Path) -> None:
    method = MethodSpec(name="dino", options={"freeze": 0.5, "output": 32, "hidden": 16, "bottleneck": 8})
    settings = spec(method=method, optimizer=optimizer, lr=0.001, weight_decay=0.01, epochs=4)
    assert pd.read_parquet(training.train(settings, Store(tmp_path)) / "metrics.parquet")["loss"].notna().all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": EncoderSpec(name="mlp", options={"depth": 0})}, "'depth' of encoder 'mlp' must be at least 1"),
        ({"encoder": EncoderSpec(name="vit", options={"patch": 0})}, "'patch' of encoder 'vit' must be at least 1"),
        ({"encoder": EncoderSpec(name="cnn", options={"width": -1})}, "'width' of encoder 'cnn' must be at least 1"),
        ({"method": MethodSpec(options={"temperature": 0.0})}, "'temperature' of method 'simclr' must be above 0"),
        ({"method": MethodSpec(name="byol", options={"momentum": 2.0})}, "must be at least 0 and at most 1, found 2.0"),
        ({"method": MethodSpec(name="dino", options={"local_views": -1})}, "'local_views' of method 'dino'"),
        ({"method": MethodSpec(name="vicreg", options={"output": 1})}, "must be at least 2, found 1"),
        ({"method": MethodSpec(name="supervised", options={"classes": 4})}, "is for 4 classes, found 10; set"),
        ({"view": views.named("digits").but(size=16)}, "mlp cannot read views of (1, 16, 16) (c, h, w)"),
        ({"view": ViewSpec(jitter=0.8)}, "the view policy changes no pixel"),
        ({"view": ViewSpec(jitter=0.8, hue=0.1)}, "the view policy changes no pixel"),
        ({"view": ViewSpec(grayscale=0.5)}, "the view policy changes no pixel"),
        ({"view": ViewSpec(mask_patch=2, blur_kernel=5)}, "the view policy changes no pixel"),
        (
            {
                "method": MethodSpec(name="mae"),
                "encoder": EncoderSpec(name="vit", options={"patch": 4, "width": 16, "depth": 1}),
                "view": ViewSpec(mask=0.1, mask_patch=4),
            },
            "mask 0.1 hides no patch of views of 8 x 8 pixels",
        ),
        pytest.param(
            {"compute": ComputeSpec(device="cuda")},
            "torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_before_it(changes: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=re.escape(sentence)) as caught:
        training.train(spec(**changes), Store(tmp_path), progress=lambda *_: pytest.fail("an epoch was trained"))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_an_unknown_representation_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("projector", "nonsense", "layer:nowhere"):
        with pytest.raises(SpecError, match="projector|nowhere"):
            pairs.scores(spec(method=MethodSpec(name="supervised")), [0], [ScoreSpec(representation=name)], store=store)
    assert not list(store.root.glob("encoders/*"))


def test_a_stored_encoder_is_loaded_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    folder = training.train(spec(), store)
    monkeypatch.setattr(training.loop, "run", lambda *_: pytest.fail("trained again"))
    assert training.train(spec(), store) == folder
    model = training.load(spec(), store)
    assert not model.training and equal(model.state_dict(), weights(folder))
    assert training.load(spec(seed=5), store) is None
    assert len(pd.read_parquet(folder / "metrics.parquet")) == 6
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
    source = training.Source.of(data.load(settings.dataset), torch.arange(80))
    plan = ((settings.view, 2),)

    def drawn(first: int) -> list[torch.Tensor]:
        return [batch.views[0] for _, batch in training.stream(settings, source, first, plan)]

    whole = drawn(0)
    monkeypatch.setattr(training.loop, "VIEWS_AT_ONCE", 1)
    single = drawn(0)
    assert all(torch.equal(a, b) for a, b in zip(whole, single, strict=True))
    later = drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], later, strict=True))


def test_learning_rate_rises_and_falls() -> None:
    settings = spec(lr=0.5, warmup=0.1)
    rates = [training.learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05) and max(rates) == pytest.approx(0.5) and rates[-1] < 0.001
    assert rates.index(max(rates)) in (9, 10)
    for steps in (1, 2, 3, 5, 12, 15, 25, 55, 70, 101):
        rates = [training.learning_rate(settings, step, steps) for step in range(steps)]
        assert max(rates) == pytest.approx(0.5), steps  # the peak is reached and not passed
        assert rates == sorted(rates[: rates.index(max(rates))]) + sorted(rates[rates.index(max(rates)) :])[::-1]


def test_only_trainings_with_an_uneven_warm_up_have_its_version_in_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    even, uneven = (spec(epochs=epochs, batch=20, warmup=0.1) for epochs in (10, 7))
    before = [training.key(one, "data") for one in (even, uneven)]
    monkeypatch.setitem(versions.RESULT_VERSIONS, "warmup", 99)
    after = [training.key(one, "data") for one in (even, uneven)]
    assert before[0] == after[0] and before[1] != after[1]


def test_a_loss_that_is_not_finite_stops_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss became (nan|inf) in epoch .* lower the learning rate") as caught:
        training.train(spec(lr=1e30, optimizer="sgd"), Store(tmp_path))
    assert "\n" not in str(caught.value)


def test_an_error_in_a_worker_keeps_what_the_others_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "2")
    monkeypatch.setattr(training.several, "SMALL", 0)
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
        ({"batch": 50, "accumulate": 2}, SpecError, "2 batches of 50 exceed the 80 training images"),
        ({"encoder": EncoderSpec(name="vit", options={"patch": 3})}, SpecError, "sides divisible by its patch"),
        ({"method": "mae", "encoder": "cnn"}, SpecError, "does not read; use a ViT"),
        ({"optimizer": "lars", "weight_decay": 0.0}, SpecError, "LARS scales steps"),
        ({"encoder": EncoderSpec(name="mlp", weights="nowhere.safetensors")}, SpecError, "nowhere.safetensors"),
    ],
)
def test_bad_specs_fail_before_training(tmp_path: Path, changes: dict, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        training.train(spec(**changes), Store(tmp_path))
    assert not (tmp_path / "encoders").exists()


def test_supervised_training_needs_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = data.load(spec().dataset)
    nameless = dataclasses.replace(images, labels=torch.full_like(images.labels, -1))
    monkeypatch.setattr(training.single.data, "load", lambda _: nameless)
    with pytest.raises(SpecError, match="supervised needs labels, and digits has images without"):
        training.train(of_method("supervised"), Store(tmp_path))


def test_a_checkpoint_of_another_spec_or_damaged_is_refused(tmp_path: Path) -> None:
    store, settings = Store(tmp_path), spec()
    name = training.key(settings, data.load(settings.dataset).fingerprint)
    file = store.checkpoint(training.KIND, name)
    file.parent.mkdir(parents=True)
    state = training.Training.start(training.resolved(settings), (1, 8, 8))
    training.single._save(state.tensors(), file, "another")
    with pytest.raises(StoreError, match="is a checkpoint of another spec; delete it"):
        training.train(settings, store)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(StoreError, match="is damaged; delete it"):
        training.train(settings, store)


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


@pytest.mark.slow
def test_large_encoders_train_on_imagenet_photographs(tmp_path: Path, shared_data: Path) -> None:
    data.import_images("photographs", shared_data / "imagenet1k-sample.zip", size=224)
    sizes = {"candidate": 4, "shared": 4, "external": 4, "epochs": 2, "batch": 8, "lr": 1e-4}
    dataset = DatasetSpec(name="photographs", limit=32)
    assert data.load(dataset).pixels.shape[0] == 1000  # the file, not a copy of the 32
    stem = EncoderSpec(name="resnet50", options={"stem": "imagenet"})
    for method, encoder, count in (("simclr", stem, 23_508_032), ("mae", EncoderSpec(name="vit_base"), 85_798_656)):
        base = recipe(dataset, method=method, encoder=encoder, **sizes)
        folder = training.train(base, Store(tmp_path))
        assert pd.read_parquet(folder / "metrics.parquet")["loss"].map(math.isfinite).all()
        model = training.load(base, Store(tmp_path))
        assert sum(p.numel() for p in model.encoder.parameters()) == count


@pytest.mark.parametrize("resident", [2**30, 0])
def test_images_too_many_for_memory_are_read_batch_by_batch(resident: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training reads the same views from the file as from memory."""
    settings = spec(epochs=2)
    rows = torch.arange(0, 160, 2)
    source, plan = training.Source.of(data.load(settings.dataset), rows), ((settings.view, 2),)
    monkeypatch.setitem(training.loop.RESIDENT, "cpu", resident)
    reads = []
    monkeypatch.setattr(training.loop, "gather", lambda pixels, at: reads.append(len(at)) or data.gather(pixels, at))
    found = [batch.views[0] for _, batch in training.stream(settings, source, 0, plan)]
    assert reads[0] == (80 if resident else 160)  # all images once, or those of all batches drawn at once
    seed, ids = training.loop.seed_of("views", settings.seed), data.load(settings.dataset).ids
    at = training.batches(settings, ids[rows], 1)[1]
    wanted = views.views(
        data.load(settings.dataset).rows(rows[at]), ids[rows[at]], settings.view, torch.tensor([2, 3]), seed
    )
    assert torch.equal(found[3], wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_lowers_the_loss(tmp_path: Path) -> None:
    compute = ComputeSpec(device="cuda", precision="bf16")
    folder = training.train(spec(compute=compute, epochs=30), Store(tmp_path))
    losses = pd.read_parquet(folder / "metrics.parquet")["loss"]
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]


GOLDEN = {"weights": 0.03882257, "align": 0.44495667}


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
