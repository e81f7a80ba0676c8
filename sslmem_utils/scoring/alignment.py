"""Alignment tables: the loss of every image under one encoder, from the views that all encoders share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..allocation import keep_freed_memory
from ..encoders import LAYER, Encoder
from ..encoders.parts import BATCH_NORMS, folded
from ..errors import DataError, SpecError
from ..methods import Method
from ..specs import ScoreSpec, ViewSpec, seed_of
from ..views import mask as draw_mask
from ..views import view_shape
from ..views import views as draw_views

# Rows of one forward pass, fewer for large images. Every pass has exactly as many (the last one is padded), because
# matrix kernels choose their order of summation by shape: with one shape an image's features cannot depend on its
# neighbours.
BLOCK = 320
PASS = 20_000_000  # bytes of the pixels of one pass at most, unless it has a tenth of BLOCK rows
VIEWS = 256_000_000  # bytes of views in memory at a time, unless those of one image are more
PDIST = 10_000  # from this product k k d on, pdist of one image after the other takes a CPU less time than cdist


def _distances(
    a: Float[Tensor, "n p d"], distance: str, b: Float[Tensor, "n q d"] | None = None
) -> Float[Tensor, "n p q"]:
    """All distances between the rows of `a` and of `b` (of `a` without it); exactly 0 between equal rows, which a Gram
    form is not."""
    if distance in ("cosine", "angular"):
        a, b = (None if x is None else torch.nn.functional.normalize(x, dim=-1) for x in (a, b))
    direct = _direct(a, 1.0 if distance == "l1" else 2.0, b)
    match distance:
        case "l1" | "l2":
            return direct
        case "cosine":  # 1 - cos, through the chord so that it is exact near 0
            return direct.square() / 2
        case "angular":  # angle over pi, in [0, 1]
            return 2 / math.pi * torch.asin((direct / 2).clamp(max=1))
    raise SpecError(f"distance must be l2, cosine, l1 or angular, found {distance!r}.")


def _direct(a: Float[Tensor, "n p d"], power: float, b: Float[Tensor, "n q d"] | None) -> Float[Tensor, "n p q"]:
    """Distances of the norm of this power."""
    n, p, d = a.shape
    if b is not None or a.device.type != "cpu" or p * p * d < PDIST:
        return torch.cdist(a, a if b is None else b, p=power, compute_mode="donot_use_mm_for_euclid_dist")
    found, (first, second) = a.new_zeros(n, p, p), torch.triu_indices(p, p, 1)
    found[:, first, second] = torch.stack([torch.nn.functional.pdist(rows, power) for rows in a])
    return found + found.mT


def align_features(
    features: Float[Tensor, "n k d"], distance: str = "l2", clean: Float[Tensor, "n d"] | None = None
) -> dict[str, Float[Tensor, "..."]]:
    """Alignment loss of n images from the representations of K views each.

    Without `clean` all K(K-1)/2 pairs of views are compared: an unbiased estimate of E d(h(x'), h(x'')) (the
    definition). With `clean` each view is compared with the clean image (the authors' code). Returns float64 tensors:
    `align` (n,), `without` (n, k): the estimate with one view left out, `half_0`, `half_1` (n,): from the even and the
    odd views alone. Units: those of the distance.
    """
    k = features.shape[1]
    if k < 2:
        raise SpecError(f"alignment compares views in pairs and needs at least 2 of them, found {k}; raise `views`.")
    if clean is not None:
        d = _distances(clean[:, None], distance, features)[:, 0].double()
        total = d.sum(1)
        halves = d[:, 0::2].mean(1), d[:, 1::2].mean(1)
        return {
            "align": total / k,
            "without": (total[:, None] - d) / (k - 1),
            "half_0": halves[0],
            "half_1": halves[1],
        }
    d = _distances(features, distance).double()
    rows = d.sum(2)
    total = rows.sum(1)

    def mean_of(part: Float[Tensor, "n p p"]) -> Float[Tensor, " n"]:
        p = part.shape[1]
        return part.sum((1, 2)) / (p * (p - 1)) if p > 1 else torch.full_like(total, torch.nan)

    left = (k - 1) * (k - 2)
    without = (total[:, None] - 2 * rows) / left if left else torch.full_like(rows, torch.nan)
    return {
        "align": total / (k * (k - 1)),
        "without": without,
        "half_0": mean_of(d[:, 0::2, 0::2]),
        "half_1": mean_of(d[:, 1::2, 1::2]),
    }


def jackknife(without: np.ndarray) -> np.ndarray:
    """Delete-one-view standard error, sqrt((K-1)/K sum (t_-j - mean)^2), along the last axis: (..., k) -> (...)."""
    k = without.shape[-1]
    centred = without - without.mean(-1, keepdims=True)
    return np.sqrt((k - 1) / k * np.square(centred).sum(-1))


def rows_of_pass(shape: Sequence[int]) -> int:
    """Rows of one forward pass of images of this shape (c, h, w)."""
    size = 4 * math.prod(shape)
    return next((rows for rows in (BLOCK, BLOCK // 2, BLOCK // 5) if rows * size <= PASS), BLOCK // 10)


def _blocks(
    model: torch.nn.Module, x: Tensor, representation: str, hidden: Bool[Tensor, "b t"] | None = None
) -> Float[Tensor, "b d"]:
    """Representations of a batch, in forward passes of equally many rows; `hidden` marks patches not to be seen."""
    out, rows = [], rows_of_pass(x.shape[1:])
    inputs = (x,) if hidden is None else (x, hidden)
    for parts in zip(*(values.split(rows) for values in inputs), strict=True):
        count = len(parts[0])
        if count < rows:
            parts = [torch.cat([part, part[:1].expand(rows - count, *part.shape[1:])]) for part in parts]
        out.append(model.features(parts[0], representation, *parts[1:])[:count].float())
    return torch.cat(out)


def align(
    model: torch.nn.Module,
    images: Tensor,
    ids: Int[Tensor, " n"],
    spec: ScoreSpec,
    *,
    view: ViewSpec,
    fingerprint: str,
    rows: np.ndarray | None = None,
) -> pd.DataFrame:
    """Alignment table of one encoder: one row an image, `row, align, se_views, half_0, half_1, without_00, ...`.

    images (n, c, h, w) uint8 with stable `ids`; `rows` picks some of them (all by default). Views come from a
    counter-based generator keyed by (dataset fingerprint, id, view number, view seed), so that every encoder sees the
    same ones and neither batch size, order nor subset changes a bit on a CPU. Views take 256 MB at a time at most (more
    if those of one image do), activations those of one forward pass, and the representations of these views come on
    top. Raises DataError without rows and when a representation is not finite, SpecError for an
    encoder of this package whose weights are not float32.
    """
    return align_each([model], images, ids, spec, view=view, fingerprint=fingerprint, rows=rows)[0]


@torch.no_grad()
def align_each(
    models: Sequence[torch.nn.Module],
    images: Tensor,
    ids: Int[Tensor, " n"],
    spec: ScoreSpec,
    *,
    view: ViewSpec,
    fingerprint: str,
    rows: np.ndarray | None = None,
) -> list[pd.DataFrame]:
    """`align` of several encoders; the views, which they share anyway, are drawn once."""
    keep_freed_memory()
    torch.set_num_threads(spec.compute.threads)
    shape = view_shape(view, tuple(images.shape[1:]))
    models = [faster(_float32(model.to(spec.compute.device).eval()), spec.representation, shape) for model in models]
    half = torch.autocast(spec.compute.device, dtype=torch.bfloat16, enabled=spec.compute.precision == "bf16")
    rows = np.arange(len(images)) if rows is None else np.ascontiguousarray(rows)
    if not len(rows):
        raise DataError("scoring needs at least one image, found none; give other rows.")
    device = torch.device(spec.compute.device)
    seed = seed_of("score views", fingerprint, spec.view_seed)
    numbers = torch.arange(spec.views, device=device)
    chunk = max(1, min(16 * BLOCK, VIEWS // (4 * math.prod(shape))) // spec.views)  # images at a time
    parts: list[list[dict[str, Tensor]]] = [[] for _ in models]
    for start in range(0, len(rows), chunk):
        some = torch.as_tensor(rows[start : start + chunk])
        x, key = images[some].to(device), ids[some].to(device)
        with half:
            drawn = draw_views(x, key, view, numbers, seed).flatten(0, 1)
            hidden = draw_mask(view, key, numbers, seed, tuple(images.shape[1:])).flatten(0, 1) if view.mask else None
            clean = x.float() / 255 if spec.comparison == "anchor" else None
        for model, found in zip(models, parts, strict=True):
            with half:
                z = _blocks(model, drawn, spec.representation, hidden)
                anchor = None if clean is None else _blocks(model, clean, spec.representation)
            if spec.normalize:
                z = torch.nn.functional.normalize(z, dim=-1, out=z)
                anchor = None if anchor is None else torch.nn.functional.normalize(anchor, dim=-1)
            losses = align_features(z.unflatten(0, (len(some), -1)), spec.distance, anchor)
            if not (finite := torch.isfinite(losses["align"])).all():
                bad = int(key[~finite][0])
                raise DataError(f"the representation of image {bad} is not finite; the encoder cannot be scored.")
            found.append({name: values.cpu() for name, values in losses.items()})
    return [_table(rows, found) for found in parts]


def _ours(model: torch.nn.Module) -> bool:
    return isinstance(model, Encoder | Method) or getattr(model, "own", False)


def _float32(model: torch.nn.Module) -> torch.nn.Module:
    """An encoder of this package is scored with float32 weights; others take care of theirs."""
    if _ours(model) and (dtype := next(model.parameters()).dtype) != torch.float32:
        raise SpecError(f"scoring needs float32 weights, found {dtype}; give model.float().")
    return model


@torch.no_grad()
def faster(model: torch.nn.Module, representation: str, shape: tuple[int, int, int]) -> torch.nn.Module:
    """An encoder of this package, in evaluation mode, with its batch norms folded where that changes its representation
    of images of this shape (c, h, w) by rounding alone; any other model, and one without batch norms, as it is."""
    if (
        not _ours(model)
        or representation.startswith(LAYER)
        or not any(isinstance(m, BATCH_NORMS) for m in model.modules())
    ):
        return model
    x, fast = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0)), folded(model)
    one, other = (each.features(x.to(next(model.parameters())), representation) for each in (model, fast))
    return fast if torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max())) else model


def _table(rows: np.ndarray, parts: list[dict[str, Tensor]]) -> pd.DataFrame:
    joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    without = joined.pop("without")
    table = pd.DataFrame({"row": rows, "align": joined["align"], "se_views": jackknife(without), **joined})
    left_out = {f"without_{j:02d}": without[:, j] for j in range(without.shape[1])}
    return pd.concat([table.loc[:, ~table.columns.duplicated()], pd.DataFrame(left_out)], axis=1)
