"""Training f and g on two cores: our two one-thread processes against one process of two threads and two loaders.

One round of ours is an epoch of `training.run` in both processes at once, as `training.train_all` runs them; its
batches, views and metrics are in it, but for the ResNets' views, which are drawn ahead for ten steps and take a
thousandth of their time. The usual pipeline trains f, then g, so that the images a second through both are those
through one. Both sides sleep while the other is measured and keep to the same two cores. Process start, imports, the
first round, and batches that the loader got ready while it slept are not in the numbers.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from sslmem_utils import encoders, methods, training
from sslmem_utils.specs import ComputeSpec, seed_of

from . import cases, measure, roofline, table, usual
from .cases import Case

LINE = "training"
# Models and images as in the recipes: the MLP on grey images, the others on colour. The ResNets' batch is small because
# a step takes seconds on one core; with larger ones neither side becomes faster.
CASES = (
    Case("mlp", (1, 28, 28), batch=125, ours=40, usual=16, target=15),
    Case("cnn", (3, 32, 32), batch=125, ours=5, usual=6, target=5),
    Case("resnet9", (3, 32, 32), batch=32, target=3),
    Case("resnet18", (3, 32, 32), batch=32, target=3),
)


def tasks(effort: table.Effort, chosen: tuple[Case, ...] = CASES) -> Iterator[tuple[str, Callable]]:
    """One comparison for each model."""
    cores = measure.two_cores()
    with measure.Crew(2, cores) as ours, measure.Crew(1, cores) as theirs:
        for case in chosen:
            yield f"{LINE} {case.name}", partial(compare, case, effort, ours, theirs)


def compare(case: Case, effort: table.Effort, ours: measure.Crew, theirs: measure.Crew) -> list[table.Row]:
    """Rates of both sides, their ratio, the ratio that the measured peak would allow, and what a compiler adds."""
    compute = cases.compute_on_cpu()
    _, source = cases.pictures(case.shape, 1)
    ours.give(train, *((case, compute, seed) for seed in range(2)))
    theirs.give(usual_training, (case, "cpu", 2, 2))
    images = {"ours": 2 * case.steps() * case.batch, "usual": case.usual * case.batch}
    sides = {"ours": lambda: images["ours"] / ours.seconds(), "usual": lambda: images["usual"] / theirs.seconds()}
    about = {"setting": f"{compute.precision}, {roofline.where('cpu', 2)}", "images": source}
    with compiling(case, compute) as (crew, extra):
        if crew is not None:
            sides["compiled"] = lambda: images["ours"] / crew.seconds()
        rates = measure.by_turns(sides, effort.repeats)
    ours.stop(), theirs.stop()
    flops = roofline.flops(case)
    peak = max(roofline.peak("cpu", compute.precision, 2, effort))
    rows = table.compared(
        LINE, case.name, "images/s", rates["ours"], rates["usual"], case.target, note=_note(case, compute), **about
    )
    reached = [rate * flops / 1e9 for rate in rates["ours"]]
    bound = [peak * 1e9 / flops / rate for rate in rates["usual"]]
    rows += [
        table.row(LINE, case.name, "bound", "x", bound, note="ratio at the measured peak of matrix products", **about),
        table.row(LINE, case.name, "achieved", "GFLOP/s", reached, note="views and loop included", **about),
    ]
    if "compiled" in rates:
        gain = [one / plain for one, plain in zip(rates["compiled"], rates["ours"], strict=True)]
        extra.append(table.row(LINE, case.name, "compiled", "x", gain, note="rate over ours not compiled", **about))
    return rows + extra


@contextmanager
def compiling(case: Case, compute: ComputeSpec) -> Iterator[tuple[measure.Crew | None, list[table.Row]]]:
    """Our two processes with the model compiled, after their first round, and the seconds that this took; no crew and
    the reason where it fails."""
    with measure.Crew(2, measure.two_cores()) as crew:
        about, found = {"setting": "compiled"}, crew
        try:
            crew.give(train, *((case, compute.but(compiled=True), seed) for seed in range(2)))
            note = "seconds of the first round, which compiles; no cached code"
            rows = [table.row(LINE, case.name, "start", "s", [crew.seconds()], note=note, **about)]
        except (RuntimeError, EOFError) as error:  # EOFError: a process was killed
            why = str(error) or "a process was killed"
            found, rows = None, [table.left_out(LINE, case.name, f"torch.compile: {why}", **about)]
        yield found, rows


def _note(case: Case, compute: ComputeSpec) -> str:
    return f"batch {case.batch}" + (f"; {cases.AMX}" if compute.precision == "fp32" else "")


# ---------------------------------------------------------------- what the processes do
def train(pause: measure.Pause, case: Case, compute: ComputeSpec, seed: int) -> None:
    """Our training of one encoder; a round is an epoch. A compiler starts with an empty cache."""
    torch.set_num_threads(compute.threads)
    spec = case.spec(compute, seed)
    state = training.Training.start(training.resolved(spec), case.shape)
    source = training_images(case)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        pause()
        training.run(state, source, lambda _: pause())


def training_images(case: Case) -> training.Source:
    """The images of one epoch."""
    n = case.steps() * case.batch
    images, _ = cases.pictures(case.shape, n)
    return training.Source(images, torch.arange(n), torch.arange(n), torch.zeros(n, dtype=torch.int64))


def trainer(case: Case, device: str) -> usual.Trainer:
    """The usual pipeline's model, with the loss and optimizer of `Case.spec`."""
    spec = training.resolved(case.spec(ComputeSpec()))
    head = methods.options(spec.method)
    torch.manual_seed(seed_of("init", spec.seed))
    model = usual.SimCLR(encoders.build(spec.encoder, case.shape), head["hidden"], head["output"]).to(device)
    return usual.Trainer(model, head["temperature"], spec.lr, spec.momentum, spec.weight_decay)


def usual_training(pause: measure.Pause, case: Case, device: str, threads: int, workers: int) -> None:
    """The usual training of one encoder; a round is `case.usual` steps.

    Unless steps are slow, those that use up what the loader has in its queue go before, untimed.
    """
    torch.set_num_threads(threads)
    one, images = trainer(case, device), cases.pictures(case.shape, 10_000)[0]
    loader = usual.loader(images, cases.policy(case.shape), case.batch, workers, pin=device == "cuda")
    queue = (loader.prefetch_factor or 0) * workers if case.usual > 1 else 0
    batches, seconds = iter(loader), None
    while True:
        pause(seconds)
        for steps in (queue, case.usual):
            start = time.perf_counter()
            for x0, x1 in itertools.islice(batches, steps):
                one.step(x0, x1)
            if device == "cuda":
                torch.cuda.synchronize()
        seconds = time.perf_counter() - start
