"""The arms of the experiment: training without privacy, with a budget, and controls that share parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import comparison, data, recipes
from ..errors import SpecError
from ..specs import ComputeSpec, DatasetSpec, EncoderSpec, MethodSpec, PrivateSpec, TrainSpec, ViewSpec
from ..stats import Number
from .accounting import noise_for

NO_PRIVACY = "no privacy"


@dataclass(frozen=True)
class Arm:
    """One way to train: `family` (what is varied), `dose` (how much), `name` (both, as a reader sees them)."""

    name: str
    family: str
    dose: Number
    spec: TrainSpec


def experiment(
    dataset: str,
    method: str = "mae",
    *,
    grid: int = 4,
    width: int = 48,
    depth: int = 2,
    mask: Number = 0.5,
    compute: ComputeSpec | None = None,
    **fields: object,
) -> TrainSpec:
    """A small ViT trained by a method with a loss of single images: MAE with half of the patches hidden, or supervised.

    Images are read as `grid` x `grid` patches. MAE memorizes when few images are seen often and the mask is weak; its
    decoder has one block as wide as the encoder. All arms train in fp32, whatever the device. `fields` as for
    `recipes.recipe`. SpecError for a grid that does not divide the images.
    """
    side = data.load(DatasetSpec(name=dataset)).shape[1]
    if grid < 1 or side % grid:
        raise SpecError(f"grid must divide the side of the images, {side} pixels, found {grid}; choose another one.")
    patch = side // grid
    encoder = EncoderSpec(name="vit", options={"patch": patch, "width": width, "depth": depth})
    compute = (compute or ComputeSpec()).but(precision="fp32")
    if method != "mae":
        return comparison.experiment(dataset, method, encoder, compute=compute, **fields)
    decoder = MethodSpec(name="mae", options={"width": width, "depth": 1})
    view = ViewSpec(mask=float(mask), mask_patch=patch)
    return recipes.recipe(dataset, method=decoder, encoder=encoder, view=view, compute=compute, **fields)


def design(
    base: TrainSpec,
    epsilons: Sequence[Number],
    delta: Number,
    norm: Number,
    *,
    noises: Sequence[Number] = (),
    norms: Sequence[Number] = (),
    early: Sequence[Number] = (),
) -> list[Arm]:
    """The arms of an experiment. All draw the same Poisson batches and differ in what is said here.

    - no privacy: no noise, no clipping (epsilon is infinite);
    - private, one for each of `epsilons`: gradients of single images clipped to `norm`, noise for the budget;
    - noise only: the noise of the smallest epsilon times each of `noises`, nothing clipped;
    - clipping only: gradients clipped to each of `norms`, no noise;
    - early stop: no privacy, each of the shares `early` of the epochs, the schedule as short.
    """
    if not epsilons or len(set(epsilons)) != len(epsilons):
        raise SpecError(f"epsilons must name one budget or more, each once, found {list(epsilons)}; correct them.")
    if bad := [share for share in early if not 0 < share < 1]:
        raise SpecError(f"early names shares of the epochs between 0 and 1, found {bad[0]:g}; correct it.")
    plain = PrivateSpec(noise=0.0, norm=float(norm), clips=False)
    arms = [Arm(NO_PRIVACY, NO_PRIVACY, 0.0, base.but(private=plain))]
    for target in sorted(epsilons, reverse=True):
        private = PrivateSpec(noise=noise_for(base, target, delta), norm=float(norm))
        arms.append(Arm(f"epsilon {target:g}", "private", target, base.but(private=private)))
    most = arms[-1].spec.private.noise
    for share in noises:
        private = plain.but(noise=share * most)
        arms.append(Arm(f"noise only, {share:g}", "noise only", share, base.but(private=private)))
    for largest in norms:
        private = PrivateSpec(noise=0.0, norm=float(largest))
        arms.append(Arm(f"clipping only, {largest:g}", "clipping only", largest, base.but(private=private)))
    for share in early:
        epochs = max(1, round(share * base.epochs))
        arms.append(Arm(f"early stop, {share:g}", "early stop", share, base.but(private=plain, epochs=epochs)))
    return arms
