"""The budget of DP-SGD: epsilon from the noise, and the noise for an epsilon, by Opacus's RDP accountant."""

from __future__ import annotations

import math
import warnings
from functools import cache

from ..errors import SpecError
from ..specs import TrainSpec
from ..stats import Number
from ..training.private import available


def epsilon(spec: TrainSpec, delta: Number) -> float:
    """The epsilon that one training spends at `delta`, for neighbours that differ in one image added or removed.

    Renyi accounting of the Poisson-sampled Gaussian mechanism (Mironov et al. 2019, arXiv 1908.10530), an upper bound.
    Infinite without noise, without clipping and for plain training.
    """
    private = spec.private
    if private is None or not private.clips or private.noise == 0:
        return math.inf
    return _spent(private.noise, _rate(spec), _steps(spec), _checked(delta, spec))


def noise_for(spec: TrainSpec, target: Number, delta: Number) -> float:
    """The least noise multiplier, to three decimals, with which a training of this length spends at most `target`."""
    if not (math.isfinite(target) and target > 0):
        raise SpecError(
            f"epsilon must be a positive number, found {target!r}; leave it out for training without noise."
        )
    return _noise(float(target), _rate(spec), _steps(spec), _checked(delta, spec))


def bound(epsilon: Number, delta: Number, fpr: Number) -> float:
    """The most that any attack on one (epsilon, delta)-private encoder can find at a false positive rate.

    e^epsilon fpr + delta and 1 - e^-epsilon (1 - delta - fpr), the smaller (Kairouz et al. 2015, arXiv 1311.0776).
    """
    if epsilon > 700:  # e^epsilon is beyond all numbers
        return 1.0
    return min(1.0, math.exp(epsilon) * fpr + delta, 1 - math.exp(-epsilon) * (1 - delta - fpr))


def _rate(spec: TrainSpec) -> float:
    return spec.batch / spec.images


def _steps(spec: TrainSpec) -> int:
    return spec.epochs * (spec.images // spec.batch)


def _checked(delta: Number, spec: TrainSpec) -> float:
    if not 0 < delta < 1 / spec.images:
        raise SpecError(
            f"delta must lie between 0 and 1 / {spec.images}, one over the training images, found {delta:g}; a larger "
            "one allows to give an image away; lower it."
        )
    return float(delta)


@cache
def _spent(noise: float, rate: float, steps: int, delta: float) -> float:
    available()
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small budget would be tighter with other orders: the bound holds
        return float(accountant.get_epsilon(delta))


@cache
def _noise(target: float, rate: float, steps: int, delta: float) -> float:
    low, high = 0, 1000  # in thousandths
    while _spent(high / 1000, rate, steps, delta) > target:
        low, high = high, 2 * high
        if high > 1e9:
            raise SpecError(f"no noise reaches epsilon {target:g} at delta {delta:g}; raise one of them.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _spent(middle / 1000, rate, steps, delta) > target else (low, middle)
    return high / 1000
