"""Train encoders from specs: one loop, resumable to the bit, several encoders at a time.

    from sslmem_utils import training
    model = training.train(spec)                 # load or train one encoder
    training.train_all([f_spec, g_spec])         # load or train several: one-thread processes on a CPU

A finished encoder is an artifact of the store under the hash of its spec, the data's fingerprint and result versions.
On a CPU two processes of one thread each beat one of two threads by 1.35 to 2.2 for the small encoders here. A killed
training goes on from its last checkpoint and ends in the same bits, because every random draw is a function of (seed,
epoch, image) and nothing depends on time or on the number of processes.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_all_start_methods, get_context, parent_process
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from . import data, encoders, methods, paths, splits, views
from .errors import SpecError, SSLMemError, TrainingError
from .methods import Method
from .specs import ComputeSpec, TrainSpec, ViewSpec, digest, seed_of
from .store import Store, explained, write_atomic
from .versions import version_of

KIND = "encoders"
CHECKPOINT_SECONDS = 20.0  # a kill loses at most this much work; writing a small encoder takes milliseconds
VIEWS_AT_ONCE = 2**22  # pixels of views drawn in one go: amortises dispatch on tiny images, bounds memory (16 MB)


# ---------------------------------------------------------------- decisions taken once, at the top of a run
def compute_here() -> ComputeSpec:
    """Device and precision by capability: bf16 on CUDA devices that have it and on a CPU with AMX, else fp32.

    Without hardware support bf16 on a CPU is emulated and about 80 times slower than fp32.
    """
    if torch.cuda.is_available():
        return ComputeSpec(device="cuda", precision="bf16" if torch.cuda.is_bf16_supported(False) else "fp32")
    amx = getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False)
    return ComputeSpec(device="cpu", precision="bf16" if amx else "fp32")


def resolved(spec: TrainSpec) -> TrainSpec:
    """The spec with every option of encoder and method filled in, so that a changed default changes the key.

    Raises SpecError for a view policy that changes nothing or that the method would ignore: every score would be 0.
    """
    if spec.view.but(mask=0.0) == ViewSpec():
        raise SpecError(
            "the view policy changes no pixel, so that all views of an image are equal; choose another one."
        )
    if spec.view.mask:
        raise SpecError(f"{spec.method.name} does not mask its views; set mask to 0 in the view policy.")
    return spec.but(
        encoder=spec.encoder.but(options=encoders.options(spec.encoder)),
        method=spec.method.but(options=methods.options(spec.method)),
    )


def key(spec: TrainSpec, fingerprint: str) -> str:
    """Where the encoder of this spec is stored."""
    return digest(resolved(spec).key(), fingerprint, version_of("views", "encoders", "methods", "training", "splits"))


# ---------------------------------------------------------------- the state of one training
@dataclass
class Training:
    """Everything that changes while an encoder is trained; `tensors` and `restore` make it resumable."""

    spec: TrainSpec
    model: Method
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    losses: list[float] | None = None

    @staticmethod
    def start(spec: TrainSpec, shape: tuple[int, int, int]) -> Training:
        """A fresh model and optimizer. torch's global generator is seeded, because layers initialise from it."""
        device = torch.device(spec.compute.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("init", spec.seed))
            model = methods.build(spec.method, encoders.build(spec.encoder, shape))
        if any(p.dim() == 4 for p in model.parameters()):
            model = model.to(memory_format=torch.channels_last)
        model = model.to(device)
        if spec.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                model.parameters(), spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
            )
        else:
            optimizer = torch.optim.AdamW(model.parameters(), spec.lr, weight_decay=spec.weight_decay, fused=True)
        return Training(spec, model, optimizer, losses=[])

    def tensors(self) -> dict[str, Tensor]:
        """Model, optimizer, epoch and losses as one flat dictionary of tensors."""
        flat = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            flat |= {f"optimizer.{number}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        flat["epoch"] = torch.tensor(self.epoch)
        flat["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        return {name: value.detach().cpu().contiguous() for name, value in flat.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from the state written by `tensors`."""
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        whole = self.optimizer.state_dict()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, entry = name.split(".", 2)
                like = parameters[int(number)]
                if value.shape == like.shape:  # fused steps ask for the parameter's own memory format
                    value = torch.empty_like(like).copy_(value)
                state.setdefault(int(number), {})[entry] = value
        self.optimizer.load_state_dict({**whole, "state": state})
        self.epoch, self.losses = int(tensors["epoch"]), tensors["losses"].tolist()


def learning_rate(spec: TrainSpec, step: int, steps: int) -> float:
    """Linear warm-up to `lr` over the first `warmup` share of all steps, then half a cosine down to 0."""
    rise = spec.warmup * steps
    if step < rise:
        return spec.lr * (step + 1) / rise
    return spec.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))


# ---------------------------------------------------------------- the loop
def batches(spec: TrainSpec, ids: Tensor, epoch: int) -> Tensor:
    """Positions of the training images in this epoch's batches: (steps, batch), the last incomplete one dropped."""
    keys = splits.shuffle_keys(seed_of("order", spec.seed, epoch), ids.numpy())
    order = torch.from_numpy(keys.argsort(kind="stable"))
    steps = len(ids) // spec.batch
    return order[: steps * spec.batch].view(steps, spec.batch)


def stream(spec: TrainSpec, images: Tensor, ids: Tensor, first: int, views_each: int) -> Iterator[tuple[int, Tensor]]:
    """(epoch, views (batch, k, c, h, w)) of every step from epoch `first` on, drawn for many steps at once.

    A view depends on (seed, image, epoch, view number) alone: neither batch nor resume changes it.
    """
    device, seed = torch.device(spec.compute.device), seed_of("views", spec.seed)
    images, ids = images.to(device), ids.to(device)
    per_epoch = len(ids) // spec.batch
    per_draw = max(1, VIEWS_AT_ONCE // (spec.batch * views_each * images[0].numel()))
    plan = ((epoch, rows) for epoch in range(first, spec.epochs) for rows in batches(spec, ids.cpu(), epoch))
    left = (spec.epochs - first) * per_epoch
    while left > 0:
        some = [next(plan) for _ in range(min(per_draw, left))]
        left -= len(some)
        rows = torch.cat([rows for _, rows in some]).to(device)
        epochs = torch.tensor([epoch for epoch, _ in some], device=device).repeat_interleave(spec.batch)
        numbers = epochs[:, None] * views_each + torch.arange(views_each, device=device)
        drawn = views.views(images[rows], ids[rows], spec.view, numbers, seed)
        yield from ((epoch, x) for (epoch, _), x in zip(some, drawn.split(spec.batch), strict=True))


def run(state: Training, images: Tensor, ids: Tensor, after_epoch: Callable[[Training], None]) -> None:
    """Train to the last epoch. images (n, c, h, w) uint8, ids (n,). TrainingError when the loss is not finite."""
    spec, model, optimizer = state.spec, state.model, state.optimizer
    per_epoch, half = len(ids) // spec.batch, spec.compute.precision == "bf16"
    model.train()
    step, losses = state.epoch * per_epoch, []
    for epoch, x in stream(spec, images, ids, state.epoch, model.views):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, step, spec.epochs * per_epoch)
        with torch.autocast(spec.compute.device, dtype=torch.bfloat16, enabled=half):
            loss = model.loss(x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        step += 1
        if step % per_epoch == 0:
            mean = float(torch.stack(losses).mean())
            if not math.isfinite(mean):
                raise TrainingError(
                    f"the loss became {mean} in epoch {epoch + 1} of {spec.epochs} at learning rate {spec.lr:g}; "
                    "lower the learning rate or raise the batch size."
                )
            losses = []
            state.losses.append(mean)
            state.epoch = epoch + 1
            after_epoch(state)


# ---------------------------------------------------------------- load or train
def load(spec: TrainSpec, store: Store | None = None) -> Method | None:
    """The stored encoder of a spec with its heads, in evaluation mode on the spec's device; None when not trained."""
    images = data.load(spec.dataset)
    folder = (store or Store()).get(KIND, key(spec, images.fingerprint))
    if folder is None:
        return None
    state = Training.start(resolved(spec), tuple(images.images.shape[1:]))
    state.model.load_state_dict(load_file(folder / "weights.safetensors"))
    return state.model.eval()


Progress = Callable[[int, int, float], None]


def train(spec: TrainSpec, store: Store | None = None, progress: Progress | None = None) -> Path:
    """Train the encoder of a spec unless it is stored; its folder (weights, losses, spec).

    `progress(epoch, epochs, loss)` is called after each epoch. Raises SpecError, SplitError or DataError before
    anything is trained, TrainingError when the loss is not finite, StoreError when the result cannot be kept.
    """
    store, spec = store or Store(), resolved(spec)
    torch.set_num_threads(spec.compute.threads)
    images = data.load(spec.dataset)
    name = key(spec, images.fingerprint)
    if (found := store.get(KIND, name)) is not None:
        store.forget(KIND, name)  # a kill may have come between storing and forgetting
        return found
    split = splits.draw(images.labels.numpy(), spec.split, dataset=spec.dataset.name, fingerprint=images.fingerprint)
    rows = torch.from_numpy(split.rows(*spec.sets))
    with store.lock(KIND, name):
        if (found := store.get(KIND, name)) is not None:
            return found
        state = Training.start(spec, tuple(images.images.shape[1:]))
        checkpoint, saved, began = store.checkpoint(KIND, name), time.monotonic(), time.monotonic()
        if checkpoint.is_file():
            state.restore(load_file(checkpoint))

        def after_epoch(state: Training) -> None:
            nonlocal saved
            if progress is not None:
                progress(state.epoch, spec.epochs, state.losses[-1])
            if time.monotonic() - saved > CHECKPOINT_SECONDS and state.epoch < spec.epochs:
                write_atomic(checkpoint, lambda file: _save(state.tensors(), file))
                saved = time.monotonic()

        run(state, images.images[rows], images.ids[rows], after_epoch)
        meta = {
            "spec": json.loads(spec.canonical()),
            "fingerprint": images.fingerprint,
            "seconds": round(time.monotonic() - began, 2),
            "torch": torch.__version__,
        }
        folder = store.put(KIND, name, lambda folder: _write(folder, state, split), meta)
        store.forget(KIND, name)
    return folder


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    """As safetensors' own `save_file`, whose errors hide that a disk is full."""
    file.write_bytes(save(tensors))


def _write(folder: Path, state: Training, split: splits.Split) -> None:
    with explained(folder):
        weights = {name: value.detach().cpu().contiguous() for name, value in state.model.state_dict().items()}
        _save(weights, folder / "weights.safetensors")
        epochs = pd.DataFrame({"epoch": range(1, state.epoch + 1), "loss": state.losses})
        epochs.to_parquet(folder / "losses.parquet")
        (folder / "split.json").write_text(split.to_json())


# ---------------------------------------------------------------- several encoders at a time
_pool: ProcessPoolExecutor | None = None
_events: Any = None  # queue from the workers: (number, epoch, epochs, loss)


def _begin_worker(events: Any) -> None:
    """End this worker when its parent is gone or it is interrupted: checkpoints make that safe at any moment."""
    global _events
    _events, parent = events, parent_process()
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

    def watch() -> None:
        parent.join()  # the process that asked for workers; the fork server between is not told of its end
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _workers() -> ProcessPoolExecutor:
    """One pool of workers a process, kept, because importing torch takes seconds.

    A fork server imports it once for all workers; plain forks of a process that has used torch's threads may hang.
    """
    global _pool, _events
    if _pool is None:
        server = "forkserver" in get_all_start_methods()
        context = get_context("forkserver" if server else "spawn")
        if server:
            context.set_forkserver_preload([__name__])
        _events = context.SimpleQueue()
        _pool = ProcessPoolExecutor(paths.jobs(), context, _begin_worker, (_events,))
    return _pool


def _close() -> None:
    global _pool
    if _pool is not None:
        _pool.shutdown(wait=False, cancel_futures=True)
        _pool = None


def _at_most_every_second(report: Progress) -> Progress:
    """Pass on the last epoch and at most one epoch a second: small encoders have fifty."""
    last = -math.inf

    def progress(epoch: int, epochs: int, loss: float) -> None:
        nonlocal last
        if epoch == epochs or time.monotonic() - last >= 1:
            last = time.monotonic()
            report(epoch, epochs, loss)

    return progress


def _train_in_worker(number: int, text: str, root: str) -> None:
    report = _at_most_every_second(lambda *event: _events.put((number, *event)))
    train(TrainSpec.model_validate_json(text), Store(Path(root)), report)


class _Watch:
    """Shows how several encoders get on: a bar in a terminal, else one line an epoch on stderr."""

    def __init__(self, total: int) -> None:
        self.total, self.began = total, time.monotonic()
        self.bar = tqdm(total=total, unit="encoder", leave=False) if sys.stderr.isatty() else None

    def epoch(self, number: int, epoch: int, epochs: int, loss: float) -> None:
        text = f"encoder {number} of {self.total}: epoch {epoch} of {epochs}, loss {loss:.3f}"
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def finished(self, done: int, failed: int) -> None:
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        else:
            seconds = time.monotonic() - self.began
            of = f"trained {done - failed} of {self.total} encoders" + (f", {failed} failed" if failed else "")
            print(f"{of}, {seconds:.0f} s", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def train_all(specs: Sequence[TrainSpec], store: Store | None = None) -> list[Path]:
    """Train every encoder that is not stored yet; their folders in the order of `specs`.

    On a CPU they run in `paths.jobs()` processes; on a GPU one after the other. When one fails, the others are
    finished and kept before its error is raised.
    """
    store = store or Store()
    missing = [spec for spec in dict.fromkeys(specs) if not _stored(spec, store)]
    parallel = len(missing) > 1 and paths.jobs() > 1 and all(spec.compute.device == "cpu" for spec in missing)
    watch = _Watch(len(missing))
    try:
        failed = (_in_parallel if parallel else _in_turn)(missing, store, watch)
    finally:
        watch.close()
    if failed:
        if isinstance(failed[0], BrokenProcessPool):
            _close()
            raise TrainingError("a training process was killed (out of memory?); run again to go on where it stopped.")
        raise failed[0]
    return [train(spec, store) for spec in specs]


def _in_parallel(specs: Sequence[TrainSpec], store: Store, watch: _Watch) -> list[BaseException]:
    pool, root = _workers(), str(store.root)
    futures = {pool.submit(_train_in_worker, number, spec.canonical(), root) for number, spec in enumerate(specs, 1)}
    failed, total = [], len(futures)
    while futures:
        done, futures = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED)
        while not _events.empty():
            watch.epoch(*_events.get())
        if done:
            failed += [error for future in done if (error := future.exception()) is not None]
            watch.finished(total - len(futures), len(failed))
    return failed


def _in_turn(specs: Sequence[TrainSpec], store: Store, watch: _Watch) -> list[BaseException]:
    failed: list[BaseException] = []
    for number, spec in enumerate(specs, 1):
        try:
            train(spec, store, _at_most_every_second(partial(watch.epoch, number)))
        except SSLMemError as error:
            failed.append(error)
        watch.finished(number, len(failed))
    return failed


def _stored(spec: TrainSpec, store: Store) -> bool:
    return store.get(KIND, key(spec, data.load(spec.dataset).fingerprint)) is not None
