"""What several methods share: norms of heads, losses in full precision and over all ranks, teachers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from lightly.models.modules.heads import ProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils import dist
from torch import Tensor, nn

from ..errors import SpecError
from . import gathers


def normed(head: ProjectionHead, norm: str) -> ProjectionHead:
    """The head with its batch norms ("batch") or with layer norms in their place ("layer").

    Batch norm mixes the images of a batch, which DP-SGD forbids and ranks under gloo cannot do together.
    """
    if norm not in ("batch", "layer"):
        raise SpecError(f"norm of a head must be 'batch' or 'layer', found {norm!r}; choose one of them.")
    for number, layer in enumerate(head.layers):
        if norm == "layer" and isinstance(layer, nn.BatchNorm1d):
            head.layers[number] = nn.LayerNorm(layer.num_features, elementwise_affine=layer.affine)
    return head


def in_full(loss: Callable[..., Tensor], *z: Tensor) -> Float[Tensor, ""]:
    """The loss of `z` in float32, outside of autocast: bf16 would leave three digits of it, fewer near 0."""
    with torch.autocast(z[0].device.type, enabled=False):
        return loss(*(x.to(torch.promote_types(x.dtype, torch.float32)) for x in z))


def swapped(z: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
    """Of stacked first and second views, the second ones first."""
    return torch.cat(z.chunk(2)[::-1])


def gathered(z: Float[Tensor, "b p"]) -> Float[Tensor, "r p"]:
    """The rows of all ranks, with gradients; the mean of the ranks' gradients is that of one process with all rows."""
    return torch.cat(dist.gather(z)) if gathers() else z


def without_diagonal(square: Float[Tensor, "n n"]) -> Float[Tensor, "n _"]:
    """The matrix less its diagonal, row by row. A boolean mask gives the same, but the host must wait until a GPU has
    counted what is left."""
    n = len(square)
    return square.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


def frozen_copy(student: nn.Module) -> nn.Module:
    """A teacher that starts as its student and gets no gradient."""
    teacher = copy.deepcopy(student)
    deactivate_requires_grad(teacher)
    return teacher


def follow(student: nn.Module, teacher: nn.Module, momentum: float, done: float) -> None:
    """Move the teacher's parameters towards the student's: teacher <- m teacher + (1 - m) student.

    m rises from `momentum` to 1 as half a cosine of `done` (Grill et al. 2020, arXiv 2006.07733, section 3.3).
    Buffers stay the teacher's own: its batch norms use and average the statistics of the batches that it sees, as in
    the papers' code, because averaged weights have other statistics than the student's.
    """
    update_momentum(student, teacher, 1 - (1 - momentum) * (math.cos(math.pi * done) + 1) / 2)
