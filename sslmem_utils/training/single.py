"""One encoder from its spec: where it is stored, loading it, training it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from .. import canaries, data, encoders, methods, splits, views
from ..data import ImageSet
from ..errors import SpecError, StoreError
from ..methods import Method
from ..specs import ComputeSpec, TrainSpec, digest
from ..store import Store, explained, write_atomic
from ..versions import version_of
from . import loop, private
from .monitor import Monitor
from .ranks import here, join
from .state import Training

KIND = "encoders"
VERSIONS = ("views", "encoders", "methods", "training", "splits")
SAME = "the view policy changes no pixel, so that all views of an image are equal; choose another one."
CHECKPOINT_SECONDS = 20.0  # a kill loses at most this much work; writing a small encoder takes milliseconds
Progress = Callable[[int, int, dict[str, float]], None]  # epoch, epochs, that epoch's metrics


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

    Raises SpecError for what the method cannot train, and for a view policy that changes nothing or that the method
    would ignore: every score would be 0.
    """
    method = methods.METHODS.get(spec.method.name)
    if spec.view.mask and not method.masks:
        raise SpecError(f"{spec.method.name} does not mask its views; set mask to 0 in the view policy.")
    if not views.changes(spec.view):
        raise SpecError(SAME)
    spec = spec.but(
        encoder=spec.encoder.but(options=encoders.options(spec.encoder)),
        method=spec.method.but(options=methods.options(spec.method)),
    )
    method.check(spec)
    if spec.private is not None:
        private.check(spec)
    return spec


def key(spec: TrainSpec, fingerprint: str) -> str:
    """Where the encoder of this spec is stored. Pretrained weights count by their content, wherever they lie."""
    spec = resolved(spec)
    spec = spec.but(encoder=spec.encoder.but(weights=encoders.weights_digest(spec.encoder) or None))
    marks = [data.load(plant.dataset).fingerprint for plant in spec.plants if plant.dataset is not None]
    parts = {"canaries": spec.plants, "privacy": spec.private, "warmup": (loop.warm_up(spec) % 1) > 0}
    more = [name for name, part in parts.items() if part]
    return digest(spec.key(), fingerprint, *marks, version_of(*VERSIONS, *more))


@dataclass(frozen=True)
class Inputs:
    """What the spec of one encoder comes down to: the images with canaries planted, their four sets, what it sees."""

    images: ImageSet
    split: splits.Split
    rows: np.ndarray  # of the images it trains on, sorted


def split_of(spec: TrainSpec) -> splits.Split:
    """The four sets of a spec, canaries or not. SplitError or DataError when they cannot be had."""
    images = data.load(spec.dataset)
    return splits.draw(images.labels.numpy(), spec.split, dataset=spec.dataset.name, fingerprint=images.fingerprint)


def rows_of(spec: TrainSpec) -> np.ndarray:
    """The sorted rows of the dataset that an encoder trains on."""
    images, rows = data.load(spec.dataset), split_of(spec).rows(*spec.sets)
    return splits.subset(rows, images.labels.numpy(), spec.subset, fingerprint=images.fingerprint)


def inputs(spec: TrainSpec) -> Inputs:
    """The images, sets and training rows of a spec. SplitError or DataError when they cannot be had, SpecError for
    views that change nothing in images of their colours."""
    if not views.changes(spec.view, data.load(spec.dataset).shape[0]):
        raise SpecError(SAME)
    split = split_of(spec)
    return Inputs(canaries.plant(data.load(spec.dataset), split, spec.plants), split, rows_of(spec))


def load(spec: TrainSpec, store: Store | None = None) -> Method | None:
    """The stored encoder of a spec with its heads, in evaluation mode on the spec's device; None when not trained."""
    images = data.load(spec.dataset)
    folder = (store or Store()).get(KIND, key(spec, images.fingerprint))
    if folder is None:
        return None
    spec = resolved(spec)
    state = Training.start(spec.but(encoder=spec.encoder.but(weights=None)), images.shape)
    state.model.load_state_dict(load_file(folder / "weights.safetensors"))
    return state.model.eval()


def train(spec: TrainSpec, store: Store | None = None, progress: Progress | None = None, knn_every: int = 0) -> Path:
    """Train the encoder of a spec unless it is stored; its folder (weights, metrics, split).

    `progress(epoch, epochs, metrics)` is called after each epoch; every `knn_every` epochs (0: never) the kNN accuracy
    on external images and the spread of their features are measured, which does not change the training. Raises
    SpecError, SplitError or DataError before anything is trained, TrainingError when the loss is not finite,
    StoreError when the result cannot be kept.
    """
    store, spec = store or Store(), resolved(spec)
    images = data.load(spec.dataset)
    name = key(spec, images.fingerprint)
    if here() == 1 and (found := store.get(KIND, name)) is not None:  # whatever the number of those that trained it
        store.forget(KIND, name)
        return found
    ranks = join(spec.compute)
    torch.set_num_threads(spec.compute.threads)
    if ranks.agree((found := store.get(KIND, name)) is not None):
        if ranks.first:
            store.forget(KIND, name)  # a kill may have come between storing and forgetting
        return found or store.path(KIND, name)
    given = inputs(spec)
    images, split = given.images, given.split
    source = loop.Source.of(images, torch.from_numpy(given.rows))
    if methods.METHODS.get(spec.method.name).labelled:
        if int(source.labels.min()) < 0:
            raise SpecError(f"{spec.method.name} needs labels, and {spec.dataset.name} has images without; label them.")
        if (most := int(source.labels.max()) + 1) > (classes := spec.method.options.get("classes", most)):
            raise SpecError(f"{spec.method.name} is for {classes} classes, found {most}; set its option classes.")
    if spec.compute.device == "cuda" and not torch.cuda.is_available():
        raise SpecError("the spec's device is cuda, and torch finds no GPU here; set compute.device to cpu.")
    with store.lock(KIND, name) if ranks.first else nullcontext():
        if ranks.agree((found := store.get(KIND, name)) is not None):
            return found or store.path(KIND, name)
        state = Training.start(spec, images.shape)
        _try(state, images.shape)
        checkpoint, saved, began = store.checkpoint(KIND, name), time.monotonic(), time.monotonic()
        if ranks.agree(checkpoint.is_file()):
            state.restore(_checkpoint(checkpoint, name))

        def after_epoch(state: Training) -> None:
            nonlocal saved
            if not ranks.first:
                return
            if progress is not None:
                progress(state.epoch, spec.epochs, state.table().iloc[-1].to_dict())
            if time.monotonic() - saved > CHECKPOINT_SECONDS and state.epoch < spec.epochs:
                write_atomic(checkpoint, lambda file: _save(state.tensors(), file, name))
                saved = time.monotonic()

        loop.run(state, source, after_epoch, Monitor.of(images, given.rows, split.external, knn_every), ranks)
        if ranks.first:
            meta = {
                "spec": json.loads(spec.canonical()),
                "fingerprint": images.fingerprint,
                "seconds": round(time.monotonic() - began, 2),
                "torch": torch.__version__,
            }
            store.put(KIND, name, lambda folder: _write(folder, state, split, name), meta)
            store.forget(KIND, name)
        ranks.agree(True)  # the others go on once it is stored
    return store.path(KIND, name)


@torch.no_grad()
def _try(state: Training, shape: tuple[int, int, int]) -> None:
    """SpecError when the encoder cannot read the views of a step, or when their masks hide nothing."""
    encoder = state.model.encoder.eval()  # statistics stay as they are; the loop sets it to training
    for view, _ in state.model.plan(state.spec.view):
        seen = views.view_shape(view, shape)
        if view.mask and not bool(views.mask(view, torch.zeros(1, dtype=torch.int64), torch.arange(1), 0, seen).any()):
            raise SpecError(f"mask {view.mask:g} hides no patch of views of {seen[1]} x {seen[2]} pixels; raise it.")
        x = torch.zeros(2, *seen, device=next(encoder.parameters()).device)
        try:
            encoder(x)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")[:200]
            raise SpecError(f"{state.spec.encoder.name} cannot read views of {seen} (c, h, w): {reason}.") from error


def _save(tensors: dict[str, Tensor], file: Path, name: str) -> None:
    """As safetensors' own `save_file`, whose errors hide that a disk is full; `name` says what they belong to."""
    file.write_bytes(save(tensors, {"key": name}))


def _checkpoint(file: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint; StoreError when it is damaged or another encoder's."""
    try:
        with safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("key") == name:
                return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dictionary)
        what = "is a checkpoint of another spec"
    except SafetensorError:
        what = "is damaged"
    raise StoreError(f"{file} {what}; delete it and run again to train from the start.")


def _write(folder: Path, state: Training, split: splits.Split, name: str) -> None:
    with explained(folder):
        weights = {name: value.detach().cpu().contiguous() for name, value in state.model.state_dict().items()}
        _save(weights, folder / "weights.safetensors", name)
        state.table().to_parquet(folder / "metrics.parquet")
        (folder / "split.json").write_text(split.to_json())
