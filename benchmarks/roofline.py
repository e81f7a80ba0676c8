"""Measured peak of matrix products, and what each model's training step reaches of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from sslmem_utils import training
from sslmem_utils.methods import Batch
from sslmem_utils.specs import ComputeSpec

from . import cases, measure, table
from .cases import Case

LINE = "roofline"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SECONDS = 0.2  # of one measurement of the peak
LARGEST = {"cpu": 4096, "cuda": 8192}  # side of the matrices
CASES = (
    Case("mlp", (1, 28, 28), batch=125),
    Case("cnn", (3, 32, 32), batch=64),
    Case("resnet9", (3, 32, 32), batch=8),
    Case("resnet18", (3, 32, 32), batch=8),
)
EMULATED = "emulated: this processor has no AMX"


def tasks(effort: table.Effort, chosen: tuple[Case, ...] = CASES) -> Iterator[tuple[str, Callable]]:
    """The peaks of one and of all threads, then each model's step on one thread."""
    threads = len(measure.two_cores()) or 1
    for count in sorted({1, threads}):
        yield f"{LINE} matrix products, {where('cpu', count)}", partial(peaks, count, effort)
    for case in chosen:
        yield f"{LINE} {case.name}", partial(achieved, case, effort)


def where(device: str, threads: int = 1) -> str:
    """`1 core`, `2 cores` or `cuda`."""
    return device if device != "cpu" else f"{threads} core{'s' * (threads > 1)}"


def peaks(threads: int, effort: table.Effort) -> list[table.Row]:
    """GFLOP/s of float32 and bf16 products on so many threads."""
    rows = []
    for precision in DTYPES:
        slow = precision == "bf16" and cases.compute_on_cpu().precision == "fp32"
        about = {"setting": f"{precision}, {where('cpu', threads)}", "note": EMULATED if slow else ""}
        found = peak("cpu", precision, threads, effort)
        rows.append(table.row(LINE, "matrix products", "peak", "GFLOP/s", found, **about))
    return rows


@cache
def peak(device: str, precision: str, threads: int, effort: table.Effort) -> tuple[float, ...]:
    """GFLOP/s of products of square matrices, one number a repetition; of the best side up to LARGEST."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    seconds, side, best, fitting = SECONDS * min(1.0, effort.scale), 256, 0.0, 256
    while side <= LARGEST[device]:
        rate = _product(device, precision, side, seconds / 4)
        if rate > best:
            best, fitting = rate, side
        if 2 * side**3 / (rate * 1e9) > seconds:  # one product takes that long: larger ones tell nothing new
            break
        side *= 2
    found = tuple(_product(device, precision, fitting, seconds) for _ in range(effort.repeats))
    torch.set_num_threads(before)
    return found


def _product(device: str, precision: str, side: int, seconds: float) -> float:
    """GFLOP/s of the product of two random square matrices, repeated for so long; of one thread on its CPU clock."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    torch.mm(a, b)
    wait()
    times, start = 0, clock()
    while times == 0 or clock() - start < seconds:
        for _ in range(20 if device == "cuda" else 1):
            torch.mm(a, b)
            times += 1
        wait()
    return times * 2 * side**3 / (clock() - start) / 1e9


def step(case: Case, compute: ComputeSpec) -> Callable[[], None]:
    """One training step of a case on views that are there already: forward, backward, optimizer."""
    state = training.Training.start(training.resolved(case.spec(compute)), case.shape)
    views = torch.rand(case.batch, 2, *case.shape, generator=torch.Generator().manual_seed(0)).to(compute.device)
    batch = Batch((views,), torch.zeros(case.batch, dtype=torch.int64))

    def once() -> None:
        with torch.autocast(compute.device, dtype=torch.bfloat16, enabled=compute.precision == "bf16"):
            loss = state.model(batch)
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)

    state.model.train()
    return once


@cache
def flops(case: Case) -> float:
    """Floating-point operations of a training step for each image (both views), as torch counts them.

    Counted for two small batches: a step takes a b + c b^2 of them, the square being the loss that compares all pairs.
    """
    counts = []
    for b in (4, 8):
        once = step(replace(case, batch=b), ComputeSpec())
        with FlopCounterMode(display=False) as counter:
            once()
        counts.append(counter.get_total_flops() / b)
    return counts[0] + (counts[1] - counts[0]) * (case.batch - 4) / 4


@cache
def forward_flops(case: Case) -> float:
    """Floating-point operations of the encoder's forward pass of one view."""
    encoder = training.Training.start(training.resolved(case.spec(ComputeSpec())), case.shape).model.encoder.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.rand(1, *case.shape))
    return float(counter.get_total_flops())


def achieved(case: Case, effort: table.Effort) -> list[table.Row]:
    """GFLOP/s of the training step alone on one thread, in the precision of this processor, and its operations."""
    torch.set_num_threads(1)
    compute = cases.compute_on_cpu()
    once = step(case, compute)
    once()
    start = time.process_time()
    once()
    times = max(1, round(effort.of(20) * 0.05 / (time.process_time() - start)))  # about a second
    rate = measure.cpu_rate(once, case.batch, times)
    found = [rate() * flops(case) / 1e9 for _ in range(effort.repeats)]
    about = {"setting": f"{compute.precision}, {where('cpu')}"}
    return [
        table.row(LINE, case.name, "achieved", "GFLOP/s", found, note="step alone, without views", **about),
        table.row(LINE, case.name, "operations", "GFLOP an image", [flops(case) / 1e9], note="both views, one step"),
    ]
