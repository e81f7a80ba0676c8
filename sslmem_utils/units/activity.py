"""How strongly every unit of some layers fires for every image: mean activations over views."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from .. import views as drawing
from ..data import ImageSet
from ..errors import DataError, SpecError
from ..methods import Method
from ..specs import ViewSpec, seed_of

VIEWS = 10  # of an image, as in the paper
_ROWS = 320  # views of one forward pass


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode inside, each of its modules in its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def activity(
    model: Method,
    images: ImageSet,
    rows: Int64[np.ndarray, " n"],
    layers: Sequence[str],
    view: ViewSpec,
    *,
    views: int = VIEWS,
    seed: int = 0,
) -> dict[str, Float64[np.ndarray, "n u"]]:
    """Mean activation mu_u(x) of the u units of each layer for n images, over `views` augmented views (Eq. 5).

    Maps are averaged over positions, tokens over visible patches; without views (0) the images themselves are shown.
    In evaluation mode, through hooks (`Encoder.activations`); the model is left as it was. The views depend on dataset,
    image and `seed` alone. SpecError with the nearest names for a layer that does not exist, DataError when an
    activation is not finite.
    """
    with evaluating(model):
        return _mean_activity(model, images, rows, layers, view, views, seed, _ROWS)


def as_published(
    model: Method,
    images: ImageSet,
    rows: Int64[np.ndarray, " n"],
    layers: Sequence[str],
    view: ViewSpec,
    *,
    views: int = VIEWS,
    seed: int = 0,
) -> tuple[dict[str, Float64[np.ndarray, "n u"]], float]:
    """The same as the released UnitMem.py measures it, to be warned of: batch norm in training mode, one view a batch.

    Every map is then normalised by its own mean and deviation, and the running statistics drift while it is measured.
    Returns the activations and that drift: the largest change of a running mean, in running deviations. It works on a
    copy of the model. SpecError for an encoder without batch norm on maps, which has no such bug.
    """
    model = copy.deepcopy(model)
    norms = [module for module in model.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise SpecError(
            f"{type(model.encoder).__name__} has no batch norm on maps, which this warning is about; show it on a cnn "
            "or a ResNet."
        )
    before = [(norm.running_mean.clone(), norm.running_var.sqrt()) for norm in norms]
    model.train()
    found = _mean_activity(model, images, rows, layers, view, views, seed, 1)
    drifts = [(norm.running_mean - mean).abs() / std for norm, (mean, std) in zip(norms, before, strict=True)]
    return found, float(torch.cat(drifts).max())


def check_views(views: int) -> None:
    """SpecError for a number of views below 0."""
    if views < 0:
        raise SpecError(f"views must be 0 (the images themselves) or more, found {views}; raise it.")


@torch.no_grad()
def _mean_activity(
    model: Method,
    images: ImageSet,
    rows: np.ndarray,
    layers: Sequence[str],
    view: ViewSpec,
    views: int,
    seed: int,
    batch: int,
) -> dict[str, np.ndarray]:
    """Means over views; `batch` views at a time pass through the model in whatever mode it is."""
    check_views(views)
    device = next(model.parameters()).device
    key, numbers = seed_of("unit views", images.fingerprint, seed), torch.arange(views, device=device)
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    step = max(1, _ROWS // max(1, views))
    for at in range(0, len(rows), step):
        some = torch.as_tensor(rows[at : at + step])
        x, ids = images.rows(some).to(device), images.ids[some].to(device)
        hidden = None
        if views:
            drawn = drawing.views(x, ids, view, numbers, key).flatten(0, 1)
            if view.mask:
                hidden = drawing.mask(view, ids, numbers, key, images.shape).flatten(0, 1)
        else:
            drawn = x.float() / 255
        passes = zip(drawn.split(batch), [None] * len(drawn) if hidden is None else hidden.split(batch), strict=False)
        outs = [model.encoder.activations(one, layers, mask) for one, mask in passes]
        for name in layers:
            z = torch.cat([out[name] for out in outs]).double().cpu()
            parts[name].append(z.unflatten(0, (len(some), -1)).mean(1))
    found = {name: torch.cat(part).numpy() for name, part in parts.items()}
    for name, mu in found.items():
        if not np.isfinite(mu).all():
            raise DataError(f"an activation of layer {name!r} is not finite; its units cannot be measured.")
    return found
