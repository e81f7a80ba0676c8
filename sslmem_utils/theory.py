"""Worlds small enough to check the score by hand: trained encoders on a line, and a Gaussian toy with a closed form.

A point is a number and a view of it is the number plus noise, so an encoder R -> R is a curve, its alignment loss is a
mean slope, and memorization can be seen. Definition of the score: arXiv 2401.12233, section 3; picture: its Figure 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field
from scipy import special
from torch import Tensor

from .errors import SpecError, TrainingError
from .scoring import align_features, jackknife
from .specs import Spec, seed_of

Positive = Annotated[float, Field(gt=0)]
CHUNK = 100  # steps whose noise is drawn at once: amortises one call per encoder, bounds memory


# ---------------------------------------------------------------- encoders on a line
class LineSpec(Spec):
    """The world and the training of 1-D encoders. Lengths are in units of the input axis."""

    centres: Annotated[tuple[float, ...], Field(strict=False, min_length=1)] = (-2.0, 2.0)  # of equal clusters
    spread: Positive = 0.5  # standard deviation of a cluster
    points: Annotated[int, Field(ge=4)] = 32  # shared training points; f and g see one more each
    noise: Positive = 0.25  # standard deviation of the augmentation: a view is x + noise * normal
    reach: Positive = 4.0  # the network can bend at most so far beyond the outermost centres
    width: Annotated[int, Field(ge=1)] = 32  # hidden units of each of two layers
    steps: Annotated[int, Field(ge=1)] = 750  # full-batch steps with fresh views
    lr: Positive = 2e-2  # falls to 0 as half a cosine; a tenth of it gives the same signs


@dataclass
class LineEncoders:
    """Stacked trained encoders, one per (seed, role). Roles: column 0 is g, column 1 + i is f with positions[i].

    weights: weights and biases of the layers in turn, (s r, in, out); points: training sets (s, r, n);
    loss (steps, s, r).
    """

    spec: LineSpec
    positions: tuple[float, ...]
    seeds: tuple[int, ...]
    weights: list[Float[Tensor, "e _ _"]]
    points: Float[Tensor, "s r n"]
    loss: Float[Tensor, "steps s r"]

    @property
    def shared(self) -> Float[Tensor, "s n"]:
        """The training points that all encoders of a seed have seen."""
        return self.points[:, 0, :-1]

    @torch.no_grad()
    def represent(self, x: Float[Tensor, "s n"]) -> Float[Tensor, "s r n"]:
        """Representations of each seed's inputs under each of its encoders.

        Each encoder's are centred and scaled to standard deviation 1 over its own training points, because VICReg asks
        for at least 1 and not for 1: without this an encoder could differ from another by its scale alone.
        """
        own = _forward(self.weights, self.points.flatten(0, 1)[..., None])
        stacked = x[:, None, :, None].expand(-1, self.points.shape[1], -1, -1).flatten(0, 1)
        z = (_forward(self.weights, stacked) - own.mean(1, keepdim=True)) / own.std(1, keepdim=True)
        return z.view(*self.points.shape[:2], -1)


def _forward(weights: list[Float[Tensor, "e _ _"]], x: Float[Tensor, "e n 1"]) -> Float[Tensor, "e n 1"]:
    """All encoders at once: ReLU multilayer perceptrons as batched matrix products."""
    for layer in range(0, len(weights), 2):
        x = torch.baddbmm(weights[layer + 1], x, weights[layer])
        if layer + 2 < len(weights):
            x = x.relu()
    return x


def vicreg(a: Float[Tensor, "e n 1"], b: Float[Tensor, "e n 1"]) -> Float[Tensor, " e"]:
    """VICReg loss of each encoder: 25 invariance + 25 variance; with one feature the covariance term is empty.

    The variance hinge prevents collapse: it asks for a standard deviation of 1 or more over the batch. Source: arXiv
    2105.04906, equations 1 to 6.
    """
    spread = [torch.relu(1 - (z.var(1) + 1e-4).sqrt()).mean(1) for z in (a, b)]
    return 25 * (a - b).square().mean((1, 2)) + 25 * (spread[0] + spread[1]) / 2


def _generator(*key: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of("line", *key))


def _clusters(spec: LineSpec, count: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Points of the clusters, equally many of each in turn."""
    centres = torch.tensor(spec.centres)[torch.arange(count) % len(spec.centres)]
    return centres + spec.spread * torch.randn(count, generator=generator)


def _initial(spec: LineSpec, generators: list[torch.Generator]) -> list[Tensor]:
    """Initial weights as in He et al. (arXiv 1502.01852), uniform; zero biases except in the first layer.

    There a unit bends the curve at -bias / weight. These kinks are spread evenly over the input, because the usual draw
    crowds them around 0, and an encoder could then be flat near 0 more easily than elsewhere.
    """
    weights, (low, high) = [], (min(spec.centres) - spec.reach, max(spec.centres) + spec.reach)
    for inputs, outputs in ((1, spec.width), (spec.width, spec.width), (spec.width, 1)):
        bound = math.sqrt((6 if outputs > 1 else 3) / inputs)
        draws = [torch.rand(inputs, outputs, generator=g) for g in generators]
        weights += [(torch.stack(draws) * 2 - 1) * bound, torch.zeros(len(generators), 1, outputs)]
    kinks = torch.stack([torch.rand(1, spec.width, generator=g) for g in generators]) * (high - low) + low
    weights[1] = -kinks * weights[0]
    return weights


def train_line(spec: LineSpec, positions: Sequence[float], seeds: Sequence[int]) -> LineEncoders:
    """Train g and one f per position for every seed, all in one batched training.

    A seed draws the shared points; g adds one more point of the clusters (the independent), f adds x = positions[i],
    so that both train on equally many. Initialisation and views are independent in every encoder, and each encoder is
    a function of (spec, seed, position) alone. Raises TrainingError when a loss is not finite.
    """
    if len(set(positions)) != len(positions) or len(set(seeds)) != len(seeds) or not len(positions) * len(seeds):
        raise SpecError(f"positions and seeds must be different and not empty, found {positions} and {seeds}.")
    shared = {seed: _clusters(spec, spec.points, _generator("shared", seed)) for seed in seeds}
    roles, points = [], []
    for seed in seeds:
        independent = _clusters(spec, len(spec.centres), _generator("independent", seed))[
            seed % len(spec.centres)
        ].item()
        for role, extra in (("g", independent), *(("f", float(x)) for x in positions)):
            roles.append(_generator(role, seed, extra if role == "f" else None))
            points.append(torch.cat([shared[seed], torch.tensor([extra])]))
    x = torch.stack(points)[..., None]
    weights = [w.requires_grad_() for w in _initial(spec, roles)]
    loss = _fit(spec, weights, x, roles)
    shape = (len(seeds), 1 + len(positions))
    weights = [w.detach() for w in weights]
    return LineEncoders(
        spec, tuple(map(float, positions)), tuple(seeds), weights, x.view(*shape, -1), loss.view(-1, *shape)
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small gain nothing from threads, and a busy neighbour makes threads wait at every one of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def _fit(spec: LineSpec, weights: list[Tensor], x: Tensor, roles: list[torch.Generator]) -> Float[Tensor, "steps e"]:
    """Adam on the sum of all losses: encoders share no weight, so each is trained as if alone."""
    optimizer = torch.optim.Adam(weights, lr=spec.lr, fused=True)  # one pass over the stack
    n, history = x.shape[1], []
    for step in range(spec.steps):
        if step % CHUNK == 0:
            size = min(CHUNK, spec.steps - step), 2 * n, 1
            noise = torch.stack([torch.randn(size, generator=g) for g in roles], 1) * spec.noise
        optimizer.param_groups[0]["lr"] = spec.lr * (1 + math.cos(math.pi * step / spec.steps)) / 2
        loss = vicreg(*_forward(weights, x.repeat(1, 2, 1) + noise[step % CHUNK]).split(n, 1))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        history.append(loss.detach())
    if not torch.isfinite(history[-1]).all():
        raise TrainingError("the loss of a 1-D encoder is not finite; lower `lr`.")
    return torch.stack(history)


def _views(encoders: LineEncoders, positions: Sequence[float], views: int) -> Float[Tensor, "s p k"]:
    """K views of each position, of other noise in every seed, so that its error averages out over seeds."""
    noise = torch.stack([torch.randn(views, generator=_generator("views", seed)) for seed in encoders.seeds])
    return torch.tensor(positions)[:, None] + encoders.spec.noise * noise[:, None]


def line_scores(encoders: LineEncoders, views: int, distance: str = "l2") -> pd.DataFrame:
    """Memorization of every position by every f of the same seed, from the same views in f and g.

    Columns: `seed`; `trained`: the x that f was trained on; `position`: the x that is scored; `overlap`: share of its
    views in common with the nearest point that both encoders saw; `align_f, align_g, m, m_rel, se_views` (jackknife of
    m). Rows with trained == position are memorization; in the others neither encoder has seen the scored x. Unit of
    alignment: the standard deviation of the representation over the encoder's training points.
    """
    _check_distance(distance)
    s, p = len(encoders.seeds), len(encoders.positions)
    z = encoders.represent(_views(encoders, encoders.positions, views).flatten(1))
    parts = align_features(z.view(-1, views, 1), distance)
    align = parts["align"].view(s, 1 + p, p).numpy()
    without = parts["without"].view(s, 1 + p, p, views).numpy()
    seed, trained, position = np.meshgrid(encoders.seeds, encoders.positions, encoders.positions, indexing="ij")
    gap = (torch.tensor(encoders.positions)[:, None] - encoders.shared[:, None]).abs().amin(2)
    f, g = align[:, 1:], np.broadcast_to(align[:, :1], seed.shape)
    m = g - f
    columns = {
        "seed": seed,
        "trained": trained,
        "position": position,
        "overlap": np.broadcast_to(view_overlap(gap.numpy(), encoders.spec.noise)[:, None], seed.shape),
        "align_f": f,
        "align_g": g,
        "m": m,
        "m_rel": np.divide(m, f + g, out=np.zeros_like(m), where=f + g > 0),
        "se_views": jackknife(without[:, :1] - without[:, 1:]),
    }
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})


def line_views(encoders: LineEncoders, position: float, views: int) -> pd.DataFrame:
    """The views of one position and what f (trained on it) and g make of them: `seed, view, x, f, g`.

    They are the views that `line_scores` compares.
    """
    x = _views(encoders, [position], views)[:, 0]
    z = encoders.represent(x)
    seed, view = np.meshgrid(encoders.seeds, np.arange(views), indexing="ij")
    table = pd.DataFrame({"seed": seed.ravel(), "view": view.ravel(), "x": x.numpy().ravel()})
    f = z[:, 1 + encoders.positions.index(position)]
    return table.assign(f=f.numpy().ravel(), g=z[:, 0].numpy().ravel())


def line_points(encoders: LineEncoders) -> pd.DataFrame:
    """Training points of every seed: `seed, set, x`; `set` is "shared" or, for the point of g alone, "independent"."""
    g = encoders.points[:, 0]
    table = pd.DataFrame({"seed": np.repeat(encoders.seeds, g.shape[1]), "x": g.numpy().ravel()})
    names = ["shared"] * (g.shape[1] - 1) + ["independent"]
    return table.assign(set=names * len(g))


def line_curves(encoders: LineEncoders, low: float, high: float, count: int = 81) -> pd.DataFrame:
    """The curve of every encoder: `seed, encoder ("g" or "f"), trained, x, value`; `trained` is NaN for g.

    A curve and its mirror image have the same loss and the same alignment, so each is turned to rise from the lowest
    to the highest training point.
    """
    grid = torch.linspace(low, high, count)
    z, at = encoders.represent(grid.expand(len(encoders.seeds), -1)), encoders.represent(encoders.shared)
    ends = torch.stack([encoders.shared.argmin(1), encoders.shared.argmax(1)], 1)
    first, last = at.gather(2, ends[:, None].expand(-1, z.shape[1], -1)).unbind(2)
    z = z * torch.where(last < first, -1.0, 1.0)[..., None]
    seed, trained, x = np.meshgrid(encoders.seeds, [np.nan, *encoders.positions], grid.numpy(), indexing="ij")
    table = pd.DataFrame({"seed": seed.ravel(), "trained": trained.ravel(), "x": x.ravel(), "value": z.numpy().ravel()})
    return table.assign(encoder=np.where(table["trained"].isna(), "g", "f"))


def _check_repeats(repeats: int) -> None:
    if repeats < 2:
        raise SpecError(f"an error over repeats needs at least 2 of them, found {repeats}; raise `repeats`.")


def _check_distance(distance: str) -> None:
    """Cosine and angular distance compare directions, and a number has none but its sign."""
    if distance not in ("l2", "l1"):
        raise SpecError(f"distance must be l2 or l1 in these worlds, found {distance!r}.")


def view_overlap(gap: float | np.ndarray, noise: float) -> float | np.ndarray:
    """Share of views that two points have in common, at a distance of `gap`: 2 Phi(-gap / (2 noise)), in [0, 1].

    The overlap of two normal densities of equal width: 1 for the same point, 0 for points far apart. Connected
    (overlapping) augmentations are what spreads alignment to unseen points: Huang et al., arXiv 2111.00743.
    """
    return 2 * special.ndtr(-np.abs(gap) / (2 * noise))


# ---------------------------------------------------------------- Gaussian toy with a closed form
def pair_moments(noise: float, features: int, scale: float = 1.0, distance: str = "l2") -> tuple[float, float, float]:
    """Mean, variance, and covariance with a neighbour of one pair distance of the encoder h(x) = W x.

    Views x + noise * normal; W keeps `features` orthogonal directions and multiplies them by `scale`, so that
    h(x') - h(x'') is normal with variance 2 (scale noise)^2 in each direction, whatever x is. The mean is the alignment
    loss, for l2 that of a chi distribution, 2 scale noise Gamma((d+1)/2) / Gamma(d/2). The covariance is that of two
    pairs that share one view: their differences correlate by 1/2, and E[R R'] of two such chi variables is
    mean^2 2F1(-1/2, -1/2; d/2; 1/4) (Miller, Multidimensional Gaussian Distributions, 1964). l1 is a sum of d such
    problems in one direction. Raises SpecError for another distance.
    """
    _check_distance(distance)
    if noise < 0 or features < 1:
        raise SpecError(f"noise must be at least 0 and features at least 1, found {noise} and {features}.")
    if distance == "l1":
        return tuple(features * moment for moment in pair_moments(noise, 1, scale))
    unit = abs(scale) * noise
    mean = 2 * unit * math.exp(math.lgamma((features + 1) / 2) - math.lgamma(features / 2))
    variance = 2 * features * unit**2 - mean**2
    covariance = mean**2 * (float(special.hyp2f1(-0.5, -0.5, features / 2, 0.25)) - 1)
    return mean, variance, covariance


def align_error(moments: tuple[float, float, float], views: int, pairs: str = "all") -> float:
    """Standard error of the mean pair distance of K views, for the `pair_moments` of the encoder.

    `all`: K(K-1)/2 pairs, which share views: variance (2 (K-2) 2 cov + 2 var) / (K (K-1)) (Hoeffding 1948).
    `disjoint`: K/2 pairs that share none. `independent`: K(K-1)/2 pairs as if each had views of its own.
    """
    _, variance, covariance = moments
    count = views * (views - 1) / 2
    match pairs:
        case "all":
            return math.sqrt((2 * (views - 2) * covariance + variance) / count)
        case "disjoint":
            return math.sqrt(variance / (views // 2))
        case "independent":
            return math.sqrt(variance / count)
    raise SpecError(f"pairs must be all, disjoint or independent, found {pairs!r}.")


def coverage(
    repeats: int, views: int, noise: float, features_f: int, features_g: int, distance: str = "l2", seed: int = 0
) -> pd.DataFrame:
    """How often the 95 % interval from the views contains the closed form, for align_f, align_g and m.

    f keeps `features_f` directions of the input, g `features_g`; both see the same views. Interval: estimate +- t(K-1)
    times the delete-one-view jackknife error. One row per quantity: `truth`, `estimate` (mean over repeats), `rmse`,
    `se_views` (mean), `covered` of `repeats`, `coverage` with its Wilson interval `low, high`.
    """
    _check_repeats(repeats)
    from scipy.stats import binomtest  # here, because it takes a second to import

    generator = torch.Generator().manual_seed(seed_of("gaussian coverage", seed))
    x = noise * torch.randn(repeats, views, max(features_f, features_g), generator=generator, dtype=torch.float64)
    found = {}  # quantity -> closed form, estimates (repeats,), estimates with one view left out (repeats, views)
    for name, features in (("align_f", features_f), ("align_g", features_g)):
        part = align_features(x[..., :features], distance)
        found[name] = pair_moments(noise, features, 1.0, distance)[0], part["align"].numpy(), part["without"].numpy()
    found["m"] = tuple(g - f for f, g in zip(found["align_f"], found["align_g"], strict=True))
    rows = []
    for name, (truth, estimate, without) in found.items():
        se = jackknife(without)
        error = estimate - truth
        covered = int((np.abs(error) <= special.stdtrit(views - 1, 0.975) * se).sum())
        low, high = binomtest(covered, repeats).proportion_ci(method="wilson")
        rmse = np.sqrt(np.mean(error**2))
        rows.append((name, truth, estimate.mean(), rmse, se.mean(), covered, repeats, covered / repeats, low, high))
    columns = ["quantity", "truth", "estimate", "rmse", "se_views", "covered", "repeats", "coverage", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def convergence(
    counts: Sequence[int], repeats: int, noise: float, features: int, distance: str = "l2", seed: int = 0
) -> pd.DataFrame:
    """Error of the estimated alignment against the number of views K, for all pairs and for disjoint pairs.

    The first K of the same views are used for every K. Columns: `views`, `pairs` ("all", "disjoint" or "independent";
    the last is theory only), `rmse` over repeats (measured), `theory` (closed form), `forward`: encoder passes,
    `distances`: pair distances per point.
    """
    _check_repeats(repeats)
    generator = torch.Generator().manual_seed(seed_of("gaussian convergence", seed))
    x = noise * torch.randn(repeats, max(counts), features, generator=generator, dtype=torch.float64)
    moments = pair_moments(noise, features, 1.0, distance)
    rows = []
    for k in counts:
        halves = x[:, : k // 2 * 2].reshape(repeats * (k // 2), 2, features)  # views 0-1, 2-3, ...: no view twice
        estimates = {
            "all": align_features(x[:, :k], distance)["align"],
            "disjoint": align_features(halves, distance)["align"].view(repeats, -1).mean(1),
            "independent": None,
        }
        for pairs, estimate in estimates.items():
            rmse = np.nan if estimate is None else float((estimate - moments[0]).square().mean().sqrt())
            used = k // 2 if pairs == "disjoint" else k * (k - 1) // 2
            forward = 2 * used if pairs == "independent" else k
            rows.append((k, pairs, rmse, align_error(moments, k, pairs), forward, used))
    return pd.DataFrame(rows, columns=["views", "pairs", "rmse", "theory", "forward", "distances"])
