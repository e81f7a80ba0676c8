"""One GPU: training end to end against a DataLoader on all cores, its profile, small encoders side by side.

The same code as on a CPU with device "cuda" and bf16. Everything here also runs on a CPU at a tiny size, which is how
it is tested.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.profiler import ProfilerActivity, profile

from sslmem_utils import paths, training, views
from sslmem_utils.specs import ComputeSpec, seed_of

from . import cases, measure, roofline, table
from .cases import Case
from .training import train, training_images, usual_training

LINE = "gpu"
SHAPE = (3, 32, 32)
WHOLE = (  # one round of ours is one pass over 48 x 1024 images
    Case("resnet9", SHAPE, batch=1024, ours=48, usual=12),
    Case("resnet18", SHAPE, batch=1024, ours=48, usual=12),
)
SMALL = Case("cnn", SHAPE, batch=256, ours=96)
TOGETHER = 8  # small encoders on one device
KERNELS = 5  # that take most of the device's time are named
PAIR_IMAGES, PAIR_EPOCHS = 45_000, 200  # CIFAR-10: 40,000 shared and 5,000 of one's own
PAIR = f"extrapolated: f and g, {PAIR_EPOCHS} epochs of {PAIR_IMAGES:,} images"
Ways = dict[str, tuple[int, Callable, list[tuple]]]  # name: processes, what they do, arguments of each


def here() -> ComputeSpec:
    """The GPU's precision."""
    return ComputeSpec(device="cuda", precision="bf16" if torch.cuda.is_bf16_supported(False) else "fp32")


def tasks(effort: table.Effort) -> Iterator[tuple[str, Callable]]:
    """Nothing without CUDA."""
    if not torch.cuda.is_available():
        return
    compute, cores = here(), paths.jobs()
    yield f"{LINE} matrix products", partial(peaks, compute.device, effort)
    for case in WHOLE:
        yield f"{LINE} {case.name}", partial(compare, case, effort, compute, cores)
        yield f"{LINE} {case.name}, profile", partial(profiled, case, compute)
    yield f"{LINE} {TOGETHER} small encoders", partial(together, SMALL, TOGETHER, effort, compute)


def peaks(device: str, effort: table.Effort) -> list[table.Row]:
    """GFLOP/s of products of large matrices; float32 without TF32."""
    return [
        table.row(LINE, "matrix products", "peak", "GFLOP/s", found, setting=f"{precision}, {device}")
        for precision in roofline.DTYPES
        for found in [roofline.peak(device, precision, 1, effort)]
    ]


# ---------------------------------------------------------------- one training, end to end
def compare(case: Case, effort: table.Effort, compute: ComputeSpec, cores: int) -> list[table.Row]:
    """Images a second from uint8 images to updated weights: ours, ours compiled, the usual way with `cores` loaders."""
    device, images = compute.device, case.steps() * case.batch
    about = {"images": cases.pictures(case.shape, 1)[1], "note": f"batch {case.batch}, {cores} loader workers"}
    compiled = f"{compute.precision}, compiled, {device}"
    ways = {
        "usual": (1, usual_training, [(case, device, max(1, cores // 4), cores)]),
        f"{compute.precision}, {device}": (1, train, [(case, compute, 0)]),
        compiled: (1, train, [(case, compute.but(compiled=True), 0)]),
    }
    with crews_of(ways, case.name) as (crews, rows):
        work = {name: case.usual * case.batch if name == "usual" else images for name in crews}
        rates = _rates(crews, work, effort)
    flops, peak = roofline.flops(case), max(roofline.peak(device, compute.precision, 1, effort))
    for setting, found in rates.items():
        about["setting"] = setting
        minutes = [2 * PAIR_EPOCHS * PAIR_IMAGES / rate / 60 for rate in found]
        rows.append(table.row(LINE, case.name, "time of a pair", "min", minutes, **{**about, "note": PAIR}))
        if setting == "usual":
            continue
        if "usual" in rates:
            rows += table.compared(LINE, case.name, "images/s", found, rates["usual"], **about)
        reached = [rate * flops / 1e9 for rate in found]
        rows.append(table.row(LINE, case.name, "achieved", "GFLOP/s", reached, **about))
        share = [100 * one / peak for one in reached]
        rows.append(table.row(LINE, case.name, "share of the peak", "%", share, **about))
    return rows


def profiled(case: Case, compute: ComputeSpec) -> list[table.Row]:
    """The second epoch under torch's profiler: how long the device does nothing, and what takes most of its time."""
    cuda = compute.device == "cuda"
    kind, activity = (DeviceType.CUDA, ProfilerActivity.CUDA) if cuda else (DeviceType.CPU, ProfilerActivity.CPU)
    spec = training.resolved(case.spec(compute).but(epochs=2))
    state, profiler = training.Training.start(spec, case.shape), profile(activities=[activity])

    def after_epoch(state: training.Training) -> None:  # the loss of the epoch was read: the device has nothing left
        (profiler.start if state.epoch == 1 else profiler.stop)()

    training.run(state, training_images(case), after_epoch)
    events = [one for one in profiler.events() if one.device_type == kind and not one.is_user_annotation]
    spans, spent = [(one.time_range.start, one.time_range.end) for one in events], Counter[str]()
    for one, (start, end) in zip(events, spans, strict=True):
        spent[one.name] += end - start
    about = {"setting": f"{compute.precision}, {compute.device}", "note": "an epoch under torch's profiler"}
    rows = [table.row(LINE, case.name, "idle", "%", [100 * idle(spans)], **about)]
    for name, time_ in spent.most_common(KERNELS):
        about["note"] = f"in {' '.join(name.split())[:80]}"
        rows.append(table.row(LINE, case.name, "time", "%", [100 * time_ / spent.total()], **about))
    return rows


def idle(spans: Sequence[tuple[float, float]]) -> float:
    """Share of the time from the first start to the last end in which nothing runs."""
    spans = sorted(spans)
    first, reached, busy = spans[0][0], spans[0][0], 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return 1 - busy / (reached - first)


@contextmanager
def crews_of(ways: Ways, case: str) -> Iterator[tuple[dict[str, measure.Crew], list[table.Row]]]:
    """A crew for each way, after its first round (which may compile); ways that fail, and rows that say why."""
    crews: dict[str, measure.Crew] = {}
    failed = []
    try:
        for name, (size, function, arguments) in ways.items():
            crews[name] = measure.Crew(size)
            try:
                crews[name].give(function, *arguments)
                crews[name].seconds()
            except (RuntimeError, EOFError) as error:  # EOFError: a process was killed
                why = str(error) or "a process was killed"
                failed.append(table.left_out(LINE, case, why, setting=name))
                crews.pop(name).close()
        yield crews, failed
    finally:
        for crew in crews.values():
            crew.close()


def _rates(crews: dict[str, measure.Crew], images: dict[str, int], effort: table.Effort) -> dict[str, list[float]]:
    """Images a second of each crew, whose rounds have so many."""
    sides = {name: lambda name=name, crew=crew: images[name] / crew.seconds() for name, crew in crews.items()}
    return measure.by_turns(sides, effort.repeats)


# ---------------------------------------------------------------- several small encoders on one device
def together(case: Case, count: int, effort: table.Effort, compute: ComputeSpec) -> list[table.Row]:
    """Images a second through all of `count` encoders, against one after the other in one process."""
    ways = {
        "alone": (1, train, [(case, compute, 0)]),
        "processes": (count, train, [(case, compute, seed) for seed in range(count)]),
        "streams": (1, in_streams, [(case, compute, count)]),
        "vmap": (1, stacked, [(case, compute, count)]),
    }
    name, one = f"{count} x {case.name}", case.steps() * case.batch
    with crews_of(ways, name) as (crews, rows):
        rates = _rates(crews, {way: one if way == "alone" else count * one for way in crews}, effort)
    about = {"images": cases.pictures(case.shape, 1)[1], "note": "against one encoder after the other in one process"}
    for way in list(rates)[1:]:
        about["setting"] = f"{way}, {compute.precision}"
        rows += table.compared(LINE, name, "images/s", rates[way], rates["alone"], **about)
    return rows


def in_streams(pause: measure.Pause, case: Case, compute: ComputeSpec, count: int) -> None:
    """`count` trainings in threads of one process, on a GPU each in its own stream; a round is an epoch of all."""
    torch.set_num_threads(1)
    states = [training.Training.start(training.resolved(case.spec(compute, seed)), case.shape) for seed in range(count)]
    source, barrier, failed = training_images(case), threading.Barrier(count, action=pause), []

    def work(state: training.Training) -> None:
        try:
            barrier.wait()
            with torch.cuda.stream(torch.cuda.Stream() if compute.device == "cuda" else None):
                training.run(state, source, lambda _: barrier.wait())
        except threading.BrokenBarrierError:  # another thread ended
            pass
        except BaseException as error:  # handed to the thread that waits
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raise failed[0]


class Projected(nn.Module):
    """Encoder and projector of a method as one module, which `vmap` can call."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = method.encoder, method.projector

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))


def nt_xent(z: Float[Tensor, "b p"], temperature: float) -> Float[Tensor, ""]:
    """NT-Xent of stacked first and second views: lightly's selects by boolean masks, which `vmap` cannot."""
    z = F.normalize(z, dim=1)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(own, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z) // 2))


def stacked(pause: measure.Pause, case: Case, compute: ComputeSpec, count: int) -> None:
    """`count` trainings whose weights are stacked and go through one vectorised step; a round is an epoch of all."""
    torch.set_num_threads(1)
    specs = [training.resolved(case.spec(compute, seed)) for seed in range(count)]
    models = [Projected(training.Training.start(spec, case.shape).model.train()) for spec in specs]
    skeleton = copy.deepcopy(models[0]).to("meta")
    weights, buffers = stack_module_state(models)
    spec, device = specs[0], torch.device(compute.device)
    optimizer = torch.optim.SGD(weights.values(), spec.lr, spec.momentum, weight_decay=spec.weight_decay)
    temperature = float(spec.method.options["temperature"])

    def loss(weights: dict, buffers: dict, x: Tensor) -> Tensor:
        with torch.autocast(compute.device, dtype=torch.bfloat16, enabled=compute.precision == "bf16"):
            z = functional_call(skeleton, (weights, buffers), (x,))
        return nt_xent(z.float(), temperature)

    gradients = vmap(grad(loss), randomness="different")
    source, numbers, seed = training_images(case).on(device), torch.arange(2, device=device), seed_of("views", 0)
    b, epoch = case.batch, 0
    pause()
    while True:
        start = time.perf_counter()
        orders = [training.batches(one, source.ids.cpu(), epoch) for one in specs]
        for at in torch.stack(orders, 1):  # (models, b)
            rows = at.flatten().to(device)
            drawn = views.views(source.take(rows, device), source.ids[rows], spec.view, numbers + 2 * epoch, seed)
            x = drawn.view(count, b, *drawn.shape[1:]).transpose(1, 2).flatten(1, 2)  # (models, 2 b, c, h, w)
            for name, gradient in gradients(weights, buffers, x).items():
                weights[name].grad = gradient
            optimizer.step()
        if compute.device == "cuda":
            torch.cuda.synchronize()
        epoch += 1
        pause(time.perf_counter() - start)
