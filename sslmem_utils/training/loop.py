"""The one training loop: batches, their views on the device, steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from .. import splits, views
from ..allocation import keep_freed_memory
from ..data import ImageSet, gather
from ..errors import TrainingError
from ..methods import Batch
from ..specs import TrainSpec, ViewSpec, seed_of
from .monitor import Monitor
from .private import Clipped, Private
from .ranks import ALONE, Ranks
from .state import Training, learning_rate

VIEWS_AT_ONCE = 2**22  # pixels of views drawn in one go: amortises dispatch on tiny images, bounds memory (16 MB)
RESIDENT = {"cpu": 2**30, "cuda": 2**33}  # bytes of training images kept on the device; more are read batch by batch


@dataclass(frozen=True)
class Source:
    """The training images: those at `places` (m,) of `pixels` (n, c, h, w) uint8, which may lie over a memory map."""

    pixels: UInt8[Tensor, "n c h w"]
    places: Int64[Tensor, " m"]
    ids: Int64[Tensor, " m"]
    labels: Int64[Tensor, " m"]

    @staticmethod
    def of(images: ImageSet, rows: Int64[Tensor, " m"]) -> Source:
        """The images of a dataset at `rows` (m,); nothing is read yet."""
        return Source(images.pixels, images.places[rows], images.ids[rows], images.labels[rows])

    def __len__(self) -> int:
        return len(self.places)

    def on(self, device: torch.device) -> Source:
        """With all that fits on the device copied there, so that no step waits for the host."""
        ids, labels = self.ids.to(device), self.labels.to(device)
        if len(self) * self.pixels[0].numel() > RESIDENT[device.type]:
            return Source(self.pixels, self.places, ids, labels)
        return Source(gather(self.pixels, self.places).to(device), torch.arange(len(self)), ids, labels)

    def take(self, at: Int64[Tensor, " b"], device: torch.device) -> UInt8[Tensor, "b c h w"]:
        """The images at positions `at` (b,) of the training set, on the device."""
        places = self.places[at]
        if self.pixels.device.type != "cpu":
            return self.pixels[moved(places, device)]
        return moved(gather(self.pixels, places), device)


def moved(x: Tensor, device: torch.device) -> Tensor:
    """`x` from the host's memory on the device, for whose earlier work the host does not wait."""
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)


def batches(spec: TrainSpec, ids: Int64[Tensor, " m"], epoch: int) -> Int64[Tensor, "batches batch"]:
    """Positions of the training images in this epoch's batches: (batches, batch); those short of a step are dropped."""
    keys = splits.shuffle_keys(seed_of("order", spec.seed, epoch), ids.numpy())
    order = torch.from_numpy(keys.argsort(kind="stable"))
    count = steps_an_epoch(spec, len(ids)) * spec.accumulate
    return order[: count * spec.batch].view(count, spec.batch)


def poisson(spec: TrainSpec, ids: Int64[Tensor, " m"], epoch: int) -> list[Int64[Tensor, " _"]]:
    """Positions of the training images in this epoch's Poisson batches, as many as `batches` gives; some may be empty.

    Every image is in every batch with probability spec.batch / m, whatever the others do.
    """
    rate, found = spec.batch / len(ids), []
    for step in range(steps_an_epoch(spec, len(ids))):
        keys = splits.shuffle_keys(seed_of("poisson", spec.seed, epoch, step), ids.numpy())
        found.append(torch.from_numpy(((keys >> 11) * 2.0**-53 < rate).nonzero()[0]))
    return found


def steps_an_epoch(spec: TrainSpec, images: int) -> int:
    """Optimizer steps of one pass over the training images."""
    return images // (spec.batch * spec.accumulate)


def warm_up(spec: TrainSpec) -> float:
    """Steps in which the learning rate rises, which need not be whole ones."""
    return spec.warmup * spec.epochs * steps_an_epoch(spec, spec.images)


def stream(
    spec: TrainSpec, source: Source, first: int, plan: tuple[tuple[ViewSpec, int], ...], ranks: Ranks = ALONE
) -> Iterator[tuple[int, Batch]]:
    """(epoch, this rank's part of the batch) of every batch from epoch `first` on, views drawn for many at once.

    A view depends on (seed, image, epoch, view number) alone: neither batch, nor resume, nor ranks change it. In
    private training, where an image may be in several batches of an epoch, the step takes the place of the epoch.
    """
    device, seed = torch.device(spec.compute.device), seed_of("views", spec.seed)
    ids = source.ids.cpu()
    source = source.on(device)
    shape, each = tuple(source.pixels.shape[1:]), spec.batch // ranks.size
    total = sum(k for _, k in plan)
    pixels = each * sum(k * math.prod(views.view_shape(view, shape)) for view, k in plan)
    draw, steps = (batches, 0) if spec.private is None else (poisson, steps_an_epoch(spec, len(ids)))
    positions = (
        (epoch, epoch * max(1, steps) + number * (steps > 0), ranks.share(at))
        for epoch in range(first, spec.epochs)
        for number, at in enumerate(draw(spec, ids, epoch))
    )

    on_device = torch.cuda.stream(torch.cuda.current_stream() if device.type == "cuda" else None)

    def read() -> tuple[list[tuple[int, int]], Tensor, Tensor, Tensor] | None:
        some = list(islice(positions, max(1, VIEWS_AT_ONCE // pixels)))
        if not some:
            return None
        at, sizes = torch.cat([at for *_, at in some]), [len(at) for *_, at in some]
        begin = torch.tensor([number for _, number, _ in some]).repeat_interleave(torch.tensor(sizes)) * total
        with on_device:  # a new thread has the first device and that device's own stream
            images, at, begin = source.take(at, device), moved(at, device), moved(begin, device)
        return [(epoch, len(part)) for epoch, _, part in some], images, at, begin[:, None]

    with ThreadPoolExecutor(1) as ahead:  # reads the next images while a step computes
        waiting = ahead.submit(read)
        while (found := waiting.result()) is not None:
            waiting = ahead.submit(read)
            parts, images, at, begin = found
            epochs, sizes = zip(*parts, strict=True)
            keys, labels = source.ids[at], source.labels[at]
            drawn, hidden = [], None
            for view, k in plan:
                numbers = begin + torch.arange(k, device=device)
                drawn.append(views.views(images, keys, view, numbers, seed).split(sizes))
                if view.mask:
                    hidden = views.mask(view, keys, numbers, seed, shape).split(sizes)
                begin = begin + k
            for i, epoch in enumerate(epochs):
                mask = None if hidden is None else hidden[i]
                these = slice(sum(sizes[:i]), sum(sizes[: i + 1]))
                yield epoch, Batch(tuple(part[i] for part in drawn), labels[these], mask, keys[these])


def run(
    state: Training,
    source: Source,
    after_epoch: Callable[[Training], None],
    monitor: Monitor | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train to the last epoch. TrainingError when the loss is not finite."""
    keep_freed_memory()
    spec, model, optimizer = state.spec, state.model, state.optimizer
    per_epoch, half = steps_an_epoch(spec, len(source)), spec.compute.precision == "bf16"
    steps, scale = spec.epochs * per_epoch, 1 / spec.accumulate
    forward = _forward(state, ranks)
    if spec.private is not None:
        forward = optimizer = (Clipped if spec.private.clips else Private)(state, state.epoch * per_epoch)
    model.train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    done, losses = state.epoch * per_epoch * spec.accumulate, []
    for epoch, batch in stream(spec, source, state.epoch, model.plan(spec.view), ranks):
        with torch.autocast(spec.compute.device, dtype=torch.bfloat16, enabled=half):
            loss = forward(batch)
        (loss * scale if spec.accumulate > 1 else loss).backward()
        losses.append(loss.detach())
        done += 1
        if done % spec.accumulate:
            continue
        step = done // spec.accumulate
        rate = learning_rate(spec, step - 1, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.before_step((step - 1) / steps)
        if spec.clip is not None:
            nn.utils.clip_grad_norm_(parameters, spec.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.after_step(step / steps)
        if step % per_epoch == 0:
            mean = float(ranks.mean(torch.stack(losses).mean()))
            if not math.isfinite(mean):
                raise TrainingError(
                    f"the loss became {mean} in epoch {epoch + 1} of {spec.epochs} at learning rate {spec.lr:g}; "
                    "lower the learning rate or raise the batch size."
                )
            losses = []
            watched = monitor is not None and monitor.due(epoch + 1, spec.epochs)
            seen = monitor.look(model) if watched else (math.nan, math.nan)
            state.metrics.append((epoch + 1, mean, rate, *seen))
            state.epoch = epoch + 1
            after_epoch(state)


def _forward(state: Training, ranks: Ranks) -> Callable[[Batch], Tensor]:
    """The model as it is called in a step: shared among ranks, compiled, or as it is."""
    model, compute = state.model, state.spec.compute
    if ranks.size > 1:
        if compute.device == "cuda":  # gloo cannot
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model = nn.parallel.DistributedDataParallel(model)
    return torch.compile(model) if compute.compiled else model
