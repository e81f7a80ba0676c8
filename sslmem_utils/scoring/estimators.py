"""Every estimator of memorization as a function of the alignment matrix and the inclusion mask.

`a` (t, n) holds the alignment loss of n images under t encoders, `member` (t, n) says which images each of them was
trained on. A score is positive where encoders that were trained on the image align it better than encoders that were
not. With `relative` every score is (out - in) / (out + in) instead of out - in: scale-free, in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..errors import SpecError

Alignments = Float[np.ndarray, "t n"]
Members = Shaped[np.ndarray, "t_ n_"]  # (t, n) true or false: checked in one sentence


@dataclass(frozen=True, slots=True)
class Estimate:
    """Scores of n images with their errors over training randomness; NaN where nothing was measured."""

    score: Float[np.ndarray, " n"]  # units of the distance, or relative
    se: Float[np.ndarray, " n"]  # standard error of `score` over training seeds
    noise: Float[np.ndarray, " n"]  # standard deviation of one pair's score around `score`
    freedom: Float[np.ndarray, " n"]  # degrees of freedom of `se` (Welch-Satterthwaite)
    n_in: Int[np.ndarray, " n"]  # encoders trained on the image
    n_out: Int[np.ndarray, " n"]  # encoders not trained on it

    @property
    def z(self) -> Float[np.ndarray, " n"]:
        """The score over the noise of one pair, m / sqrt((Var m(f, f') + Var m(g, g')) / 2); NaN without noise."""
        return np.divide(self.score, self.noise, out=np.full_like(self.score, np.nan), where=self.noise > 0)

    def interval(self, level: float = 0.95) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Lower and upper ends of Student's interval of each score over training seeds."""
        from scipy.special import stdtrit

        half = stdtrit(self.freedom, (1 + level) / 2) * self.se
        return self.score - half, self.score + half


def relative_to_sum(out: Float[np.ndarray, "..."], inside: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """(out - in) / (out + in), 0 where both are 0."""
    total = np.asarray(out + inside)
    return np.divide(out - inside, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0)


def ranged(m: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """m over its range in the scored set (the paper's normalisation), 0 where all are equal; never across encoders."""
    span = np.nanmax(m) - np.nanmin(m) if np.isfinite(m).any() else 0.0
    return m / span if span > 0 else np.where(np.isnan(m), np.nan, 0.0)


def pair(a: Alignments, member: Members, *, relative: bool = False) -> Estimate:
    """The paper's estimator: align(g, x) - align(f, x), rows of `a` being f and g. Defined for every image."""
    _check(a, member)
    if len(a) != 2:
        raise SpecError(f"pair needs the alignments of one f and one g, found {len(a)} rows; use replicated.")
    return _two_sided(a, member, relative)


def replicated(a: Alignments, member: Members, *, relative: bool = False) -> Estimate:
    """Mean over R encoders g less mean over R encoders f of one split: the first R rows are f's, the others g's.

    For candidates this is the mean over encoders without x less the mean over encoders with x, the expectation over
    training that the definition asks for. Defined for every image, as `pair` is, which it is for R = 1 but for errors.
    """
    _check(a, member)
    if len(a) < 4 or len(a) % 2:
        raise SpecError(
            f"replicated needs R f's and R g's with R of at least 2, found {len(a)} rows; use pair for one."
        )
    return _two_sided(a, member, relative)


def mirrored(a: Alignments, member: Members, *, relative: bool = False) -> Estimate:
    """The same f's and g's used twice: candidates as in `replicated`, independents with the roles swapped.

    Every encoder is centred on S_E first, which removes a global offset between f and g that would count with opposite
    signs in the two halves. NaN for images in both or neither training set. Rows as in `replicated`; R may be 1.
    """
    _check(a, member)
    if len(a) % 2:
        raise SpecError(f"mirrored needs as many f's as g's, found {len(a)} rows.")
    found = _two_sided(standardised(a, member, scale=False), member, relative)
    in_f, in_g = member[0], member[-1]
    sign = np.select([in_f & ~in_g, in_g & ~in_f], [1.0, -1.0], np.nan)
    return replace(found, score=found.score * sign, se=found.se * abs(sign), noise=found.noise * abs(sign))


def subsampled(
    a: Alignments,
    member: Members,
    *,
    relative: bool = False,
    standardise: bool = True,
    nearness: Float[np.ndarray, "m_ k_"] | None = None,
) -> Estimate:
    """Mean alignment of encoders without x less that of encoders with x, each standardised on S_E (`standardised`).

    For encoders trained on random fractions of the images; it scores every image that some of them saw and some did
    not, and gives NaN for the others. Feldman and Zhang's estimator (arXiv 2008.03703) for alignment. `nearness` (n, n)
    says how near images are to each other (`stats.nearness`): then what goes linearly with how much of an image's
    neighbourhood the encoder saw is taken out first, with one slope for all images: a control variate, which leaves
    the expected score as it is.
    """
    _check(a, member)
    values = standardised(a, member) if standardise else a
    if nearness is not None:
        values = _without_neighbours(values, member, nearness)
    return _contrast(_moments(values, ~member), _moments(values, member), relative)


def _without_neighbours(values: np.ndarray, member: np.ndarray, nearness: np.ndarray) -> np.ndarray:
    """Values less their regression on the share of each image's neighbourhood that the encoder was trained on."""
    if nearness.shape != (values.shape[1],) * 2:
        raise SpecError(
            f"nearness must be (images, images) for {values.shape[1]} images, found shape {nearness.shape}; "
            "compute it for the same rows."
        )
    weight = np.where(np.eye(len(nearness), dtype=bool) | ~member.any(0), 0, nearness)
    total = weight.sum(1)
    seen = np.divide(member @ weight.T, total, out=np.zeros_like(values), where=total > 0)
    within = np.zeros_like(values), np.zeros_like(values)  # both centred among encoders with and without the image
    for chosen in (member, ~member):
        for part, numbers in zip(within, (values, seen), strict=True):
            part += np.where(chosen, numbers - np.nan_to_num(_mean(numbers, chosen)), 0)
    squares = np.square(within[1]).sum()
    slope = (within[0] * within[1]).sum() / squares if squares > 0 else 0.0
    return values - slope * (seen - seen.mean(0))


def leave_one_out(
    a: Alignments, member: Members, seed: Shaped[np.ndarray, " s"], *, relative: bool = False
) -> Estimate:
    """Alignment of the encoder without x less that of the encoders with x, within each training seed, then averaged.

    `seed` (t,) groups the rows: one encoder on all images and one without each image share a seed. "In" is the mean
    over all encoders of the seed that saw x, since leaving out another image changes little: that lowers the noise.
    Errors are over seeds (NaN with one). NaN for images that were never left out or never in.
    """
    _check(a, member)
    seed = np.asarray(seed)
    if seed.shape != a.shape[:1]:
        raise SpecError(f"leave_one_out needs one seed for each of the {len(a)} encoders, found shape {seed.shape}.")
    each = []
    for one in np.unique(seed):
        rows = seed == one
        out, inside = (_mean(a[rows], chosen) for chosen in (~member[rows], member[rows]))
        each.append(relative_to_sum(out, inside) if relative else out - inside)
    score, variance, count = _moments(np.nan_to_num(each), np.isfinite(each))
    return Estimate(score, np.sqrt(variance / np.maximum(count, 1)), np.sqrt(variance), count - 1.0, *_counts(member))


def noise_floor(a: Alignments, member: Members, *, relative: bool = False) -> Float[np.ndarray, "p n"]:
    """Scores between encoders trained on the SAME images: what m is when there is nothing to find.

    One row for each of p disjoint pairs (f against f', g against g') in the order of the rows.
    """
    _check(a, member)
    _, which = np.unique(member, axis=0, return_inverse=True)
    groups = [np.flatnonzero(which.ravel() == group) for group in range(which.max() + 1)]
    pairs = [(rows[i], rows[i + 1]) for rows in groups for i in range(0, len(rows) - 1, 2)]
    if not pairs:
        raise SpecError("the noise floor needs two encoders trained on the same images, found none; train replicas.")
    return np.stack([relative_to_sum(a[j], a[i]) if relative else a[j] - a[i] for i, j in pairs])


def standardised(a: Alignments, member: Members, *, scale: bool = True) -> Alignments:
    """Every encoder shifted (and scaled) to the mean (and standard deviation) that S_E has over all encoders.

    S_E are the images that no encoder was trained on, so that differences there are the encoders' own; units stay
    those of the distance. Raises SpecError without such images or when an encoder tells none of them apart.
    """
    _check(a, member)
    outside = ~member.any(0)
    if outside.sum() < (2 if scale else 1):
        raise SpecError(
            f"encoders are compared on images that none of them has seen, found {outside.sum()}; keep an external set."
        )
    mean, spread = a[:, outside].mean(1, keepdims=True), a[:, outside].std(1, keepdims=True)
    if not scale:
        return a - mean + mean.mean()
    if (spread == 0).any():
        row = int(np.argmin(spread))
        raise SpecError(f"encoder {row} gives all external images the same alignment; it cannot be standardised.")
    return (a - mean) / spread * spread.mean() + mean.mean()


# ---------------------------------------------------------------- shared steps
def _check(a: np.ndarray, member: np.ndarray) -> None:
    if a.ndim != 2 or member.shape != a.shape or member.dtype != bool:
        raise SpecError(
            "alignments and inclusion mask must be (encoders, images), the mask true or false, found shapes "
            f"{a.shape} and {member.shape} ({member.dtype}); align every encoder on the same images."
        )


def _two_sided(a: np.ndarray, member: np.ndarray, relative: bool) -> Estimate:
    """g's less f's: the first half of the rows saw one training set, the other half the other one."""
    half = len(a) // 2
    if (member[:half] != member[0]).any() or (member[half:] != member[half]).any():
        raise SpecError("the first half of the rows must be f's of one split and the second half its g's; sort them.")
    every = np.ones((half, a.shape[1]), dtype=bool)
    found = _contrast(_moments(a[half:], every), _moments(a[:half], every), relative)
    n_in, n_out = _counts(member)
    return replace(found, n_in=n_in, n_out=n_out)


def _counts(member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return member.sum(0), (~member).sum(0)


def _mean(a: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    count = chosen.sum(0)
    return np.where(count > 0, np.where(chosen, a, 0).sum(0) / np.maximum(count, 1), np.nan)


def _moments(a: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance (NaN below two) and count of the chosen rows of each column."""
    count, mean = chosen.sum(0), _mean(a, chosen)
    squares = np.where(chosen, np.square(a - mean), 0).sum(0)
    return mean, np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan), count


def _contrast(out: tuple[np.ndarray, ...], inside: tuple[np.ndarray, ...], relative: bool) -> Estimate:
    """Out less in with Welch's standard error; the relative form by the delta method."""
    (mean_out, var_out, n_out), (mean_in, var_in, n_in) = out, inside
    score = relative_to_sum(mean_out, mean_in) if relative else mean_out - mean_in
    if relative:
        total = mean_out + mean_in
        slope = np.divide(2, np.square(total), out=np.zeros_like(total), where=total > 0)
        var_out, var_in = var_out * np.square(slope * mean_in), var_in * np.square(slope * mean_out)
    of_out, of_in = var_out / np.maximum(n_out, 1), var_in / np.maximum(n_in, 1)
    total = of_out + of_in
    below = np.square(of_out) / np.maximum(n_out - 1, 1) + np.square(of_in) / np.maximum(n_in - 1, 1)
    freedom = np.divide(np.square(total), below, out=np.full_like(total, np.nan), where=below > 0)
    return Estimate(score, np.sqrt(total), np.sqrt(var_out + var_in), freedom, n_in, n_out)
