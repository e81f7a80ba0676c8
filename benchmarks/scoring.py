"""Scoring on one core, K = 10 views: `scoring.align_each` of f and g against the official script, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch

from sslmem_utils import encoders, methods, scoring
from sslmem_utils.methods import Method
from sslmem_utils.specs import EncoderSpec, MethodSpec, ScoreSpec

from . import cases, measure, roofline, table, usual
from .cases import Case

LINE = "scoring"
K = 10
SLOW = 3  # repetitions where one takes half a minute
# Images of one measurement of ours and of the official way; ours are whole forward passes (scoring.BLOCK rows).
CASES = (
    Case("mlp", (1, 28, 28), batch=2, ours=1024, usual=16, target=50),
    Case("cnn", (3, 32, 32), batch=2, ours=256, usual=8, target=15),
    Case("resnet18", (3, 32, 32), batch=2, ours=32, usual=1, target=8),
)


def tasks(effort: table.Effort, chosen: tuple[Case, ...] = CASES) -> Iterator[tuple[str, Callable]]:
    """One comparison for each encoder, then the cost against the number of images."""
    for case in chosen:
        yield f"{LINE} {case.name}", partial(compare, case, effort)
    yield f"{LINE} {chosen[0].name} cost", partial(cost, chosen[0], effort)


def pair(case: Case) -> tuple[Method, Method]:
    """Two encoders with other weights, as f and g; trained or not makes no difference to speed."""
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = methods.build(MethodSpec(), encoders.build(EncoderSpec(name=case.encoder), case.shape)).eval()
        conv = any(p.dim() == 4 for p in model.parameters())  # as training.load gives it
        found.append(model.to(memory_format=torch.channels_last) if conv else model)
    return found[0], found[1]


def align(pair: tuple[Method, Method], images: torch.Tensor, comparison: str = "pairs") -> list[torch.Tensor]:
    """Ours: the alignment of every image under f and under g."""
    spec = ScoreSpec(views=K, comparison=comparison, compute=cases.compute_on_cpu())
    ids, view = torch.arange(len(images)), cases.policy(tuple(images.shape[1:]))
    found = scoring.align_each(pair, images, ids, spec, view=view, fingerprint="benchmark")
    return [torch.tensor(one["align"].to_numpy()) for one in found]


def compare(case: Case, effort: table.Effort) -> list[table.Row]:
    """Images a second, each with K views through f and g."""
    torch.set_num_threads(1)
    ours, theirs = effort.of(case.ours), effort.of(case.usual)
    images, source = cases.pictures(case.shape, ours)
    f, g = pair(case)
    augment = usual.one_view(cases.policy(case.shape), case.shape[-1])

    def official() -> None:
        for image in images[:theirs].split(1):
            usual.official(f.encoder, g.encoder, image.float() / 255, augment, K)

    sides = {
        "ours": measure.cpu_rate(lambda: align((f, g), images), ours),
        "usual": measure.cpu_rate(official, theirs),
    }
    rates = measure.by_turns(sides, min(effort.repeats, SLOW) if case.usual == 1 else effort.repeats)
    about = {"setting": _setting(), "images": source, "target": case.target}
    if cases.compute_on_cpu().precision == "fp32" and case.encoder != "mlp":
        about["note"] = cases.AMX
    rows = table.compared(LINE, case.name, "images/s", rates["ours"], rates["usual"], **about)
    most = max(roofline.peak("cpu", cases.compute_on_cpu().precision, 1, effort)) * 1e9
    bound = [most / (2 * K * roofline.forward_flops(case)) / rate for rate in rates["usual"]]
    return [*rows, table.row(LINE, case.name, "bound", "x", bound, **{**about, "target": math.nan})]


def _setting() -> str:
    return f"{cases.compute_on_cpu().precision}, K = {K}"


def cost(case: Case, effort: table.Effort) -> list[table.Row]:
    """Seconds of n, 2n and 4n images, and the power of n that they grow with."""
    torch.set_num_threads(1)
    counts = [effort.of(case.ours) * factor for factor in (1, 2, 4)]
    images, source = cases.pictures(case.shape, counts[-1])
    models = pair(case)
    sides = {str(m): measure.cpu_rate(lambda m=m: align(models, images[:m]), 1) for m in counts}
    rates = measure.by_turns(sides, effort.repeats)
    seconds = {m: [1 / rate for rate in rates[str(m)]] for m in counts}
    about = {"images": source}
    rows = [
        table.row(LINE, case.name, "time", "s", seconds[m], setting=f"{_setting()}, {m} images", **about)
        for m in counts
    ]
    grown = [math.log(b / a) / math.log(4) for a, b in zip(seconds[counts[0]], seconds[counts[-1]], strict=True)]
    setting, note = f"{_setting()}, {counts[0]} to {counts[-1]} images", "time grows with this power of the images"
    return [*rows, table.row(LINE, case.name, "exponent", "", grown, setting=setting, note=note, **about)]
