"""More about a representation than one accuracy: k of kNN, SGD beside L-BFGS, few labels, calibration, classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor

from .. import training
from ..errors import DataError, SpecError
from ..specs import seed_of
from .accuracy import Sample, fitted_linear

KS = (1, 5, 10, 20, 50, 100)  # neighbours
SHOTS, DRAWS = (1, 5, 10), 10  # labelled images of a class, and how often they are drawn
RATES = (0.03, 0.1, 0.3, 1.0)  # learning rates of SGD, the best of which is taken
EPOCHS, BATCH, MOMENTUM = 100, 128, 0.9
BINS = 15  # of the calibration error (Guo et al. 2017, arXiv 1706.04599)


def detail_of(found: Float32[np.ndarray, "n d"], images: Sample, classes: Sequence[str] = ()) -> pd.DataFrame:
    """What can be said of features beyond one accuracy: probe, setting and value, one row each.

    `knn` at each k of KS and `knn, best k` (chosen on the held-out images); `linear` by L-BFGS and by SGD;
    `calibration error` and `confidence` of the former; `few labels` at each of SHOTS that the classes allow; `class`:
    its share of test images that the linear probe classifies rightly (`classes` are their names).
    """
    sweep, best = knn_sweep(found, images)
    rows = [("knn", str(k), value) for k, value in sweep.items()] + [("knn, best k", str(best), sweep[best])]
    fitted, test = fitted_linear(found, images), images.test
    shares = fitted.predict_proba(found[test])
    right = fitted.classes_[shares.argmax(1)] == images.labels[test]
    rows += [("linear", "L-BFGS", float(right.mean())), ("linear", "SGD", sgd_accuracy(found, images))]
    rows += [
        ("calibration error", "", calibration_error(shares, images.labels[test], fitted.classes_)),
        ("confidence", "", float(shares.max(1).mean())),
    ]
    least = int(np.bincount(np.unique(images.labels[~test], return_inverse=True)[1]).min())
    rows += [("few labels", str(shots), few_shot(found, images, shots)) for shots in SHOTS if shots <= least]
    for label in np.unique(images.labels[test]):
        name = classes[label] if len(classes) else str(label)
        rows.append(("class", name, float(right[images.labels[test] == label].mean())))
    return pd.DataFrame(rows, columns=["probe", "setting", "value"])


def knn_sweep(
    found: Float32[np.ndarray, "n d"], images: Sample, ks: Sequence[int] = KS
) -> tuple[dict[int, float], int]:
    """kNN accuracy of the test images at each k that there are images for, and the k that does best on the held-out.

    Votes weigh 1 / distance between normalised features, as in `probes.of`; the smaller of two k's that are as good.
    """
    x, labels = torch.from_numpy(found), torch.from_numpy(images.labels)
    fit, inner = ~images.test, ~images.test & ~images.held_out
    ks = [k for k in ks if k <= inner.sum()] or [1]

    def accuracy(bank: np.ndarray, asked: np.ndarray, k: int) -> float:
        return training.knn_accuracy(x[bank], labels[bank], x[asked], labels[asked], k)

    tried = {k: accuracy(inner, images.held_out, k) for k in ks} if images.held_out.any() else dict.fromkeys(ks, 0.0)
    return {k: accuracy(fit, images.test, k) for k in ks}, max(ks, key=lambda k: (tried[k], -k))


def calibration_error(shares: np.ndarray, labels: Int64[np.ndarray, " n"], classes: Int64[np.ndarray, " c"]) -> float:
    """Expected calibration error in [0, 1]: the gap between confidence and accuracy, averaged over BINS (torchmetrics).

    shares (n, c): predicted probabilities of the classes (c,), in that order.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    place = {label: at for at, label in enumerate(classes.tolist())}
    wanted = torch.tensor([place.get(label, len(place)) for label in labels.tolist()])
    padded = F.pad(torch.from_numpy(shares), (0, 1))  # a class that was never fitted is predicted with 0
    return float(multiclass_calibration_error(padded, wanted, num_classes=len(place) + 1, n_bins=BINS))


def few_shot(found: Float32[np.ndarray, "n d"], images: Sample, shots: int, draws: int = DRAWS) -> float:
    """Accuracy of the nearest class mean with `shots` labelled images a class, the mean over random draws of them.

    Features are L2-normalised (Snell et al. 2017, arXiv 1703.05175, on frozen features); the draws depend on the
    images and on `shots` alone, so that encoders share them. DataError where a class has fewer images.
    """
    x, rows = F.normalize(torch.from_numpy(found), dim=1).numpy(), np.flatnonzero(~images.test)
    by_class = [rows[images.labels[rows] == label] for label in np.unique(images.labels[rows])]
    if (least := min(map(len, by_class))) < shots:
        raise DataError(f"{shots} labelled images of every class are asked for, found {least} of one; ask for fewer.")
    rng = np.random.default_rng(seed_of("few labels", len(images.labels), shots))
    names = np.array([images.labels[one[0]] for one in by_class])
    asked, scores = torch.from_numpy(x[images.test]), []
    for _ in range(draws):
        means = torch.from_numpy(np.stack([x[rng.choice(one, shots, replace=False)].mean(0) for one in by_class]))
        nearest = torch.cdist(asked, means).argmin(1).numpy()
        scores.append(float((names[nearest] == images.labels[images.test]).mean()))
    return float(np.mean(scores))


def sgd_accuracy(
    found: Float32[np.ndarray, "n d"],
    images: Sample,
    rates: Sequence[float] = RATES,
    penalty: float = 0.1,
    epochs: int = EPOCHS,
) -> float:
    """Accuracy of the same classifier trained by SGD, in [0, 1]: for features too many for L-BFGS.

    Momentum, a cosine down to 0, and the objective of scikit-learn's C = `penalty` on standardised features. The
    learning rate is the one of `rates` that does best on the held-out images; it is then trained on all but the test.
    All rates are trained at once. SpecError when every rate ends in numbers that are not finite.
    """
    labels = torch.from_numpy(np.unique(images.labels, return_inverse=True)[1])
    inner, fit = (torch.from_numpy(rows) for rows in (~images.test & ~images.held_out, ~images.test))
    held_out, test = torch.from_numpy(images.held_out), torch.from_numpy(images.test)
    x = torch.from_numpy(found)
    rate = rates[0]
    if len(rates) > 1 and held_out.any():
        scores = _right(*_standardised(x, inner, held_out), labels[inner], labels[held_out], rates, penalty, epochs)
        rate = rates[int(np.nanargmax(scores))] if not np.isnan(scores).all() else math.nan
    score = _right(*_standardised(x, fit, test), labels[fit], labels[test], [rate], penalty, epochs)[0]
    if math.isnan(score):
        raise SpecError(f"SGD diverged at every learning rate of {tuple(rates)}; give smaller ones.")
    return score


def _standardised(x: Tensor, fit: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = x[fit].mean(0), x[fit].std(0, correction=0)
    std[std == 0] = 1
    return (x[fit] - mean) / std, (x[asked] - mean) / std


def _right(
    x: Float32[Tensor, "n d"],
    asked: Float32[Tensor, "m d"],
    labels: Int64[Tensor, " n"],
    wanted: Int64[Tensor, " m"],
    rates: Sequence[float],
    penalty: float,
    epochs: int,
) -> list[float]:
    """Accuracy on `asked` at every learning rate; NaN where it diverged."""
    generator = torch.Generator().manual_seed(seed_of("sgd probe", len(x)))
    count, classes = len(x), int(torch.cat([labels, wanted]).max()) + 1
    w = torch.zeros(len(rates), x.shape[1], classes)
    b = torch.zeros(len(rates), 1, classes)
    speeds = [torch.zeros_like(w), torch.zeros_like(b)]
    rate, onehot = torch.tensor(rates).view(-1, 1, 1), F.one_hot(labels, classes).float()
    steps, done = epochs * math.ceil(count / BATCH), 0
    for _ in range(epochs):
        for some in torch.randperm(count, generator=generator).split(BATCH):
            # The gradient of the mean cross entropy, written out: autograd takes longer than the arithmetic
            wrong = (torch.softmax(x[some] @ w + b, 2) - onehot[some]) / len(some)
            slopes = (x[some].T @ wrong + w / (penalty * count), wrong.sum(1, keepdim=True))
            now = rate * 0.5 * (1 + math.cos(math.pi * done / steps))
            for value, speed, slope in zip((w, b), speeds, slopes, strict=True):
                speed.mul_(MOMENTUM).add_(slope)
                value.sub_(now * speed)
            done += 1
    scores = ((asked @ w + b).argmax(2) == wanted).float().mean(1)
    finite = w.isfinite().all(2).all(1)
    return [float(score) if ok else math.nan for score, ok in zip(scores, finite, strict=True)]
