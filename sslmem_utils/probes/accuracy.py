"""How probes are measured: which images, which features, and the two classifiers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from .. import data, splits, training
from ..errors import DataError
from ..methods import Method
from ..specs import SETS, SplitSpec, TrainSpec, digest

if TYPE_CHECKING:
    from sklearn.model_selection import GridSearchCV

LEAST = 100  # labelled images below which an accuracy says nothing
HELD_OUT = 0.2  # share of the images for fitting that choose the penalty
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C; smaller is stronger
ITERATIONS = 300  # of L-BFGS: they order encoders as thousands do
_ROWS = 250  # images of a forward pass


@dataclass(frozen=True)
class Sample:
    """Labelled images outside the four sets of a split: n in all, each either for fitting or for testing."""

    pixels: UInt8[Tensor, "n c h w"]
    labels: Int64[np.ndarray, " n"]
    test: Bool[np.ndarray, " n"]
    held_out: Bool[np.ndarray, " n"]  # of those for fitting: they choose the penalty, then join the others

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return tuple(self.pixels.shape[1:])


def sample(spec: TrainSpec, fit: int, test: int) -> Sample:
    """`fit` + `test` labelled images that no encoder of this split has seen, every class in proportion.

    Both numbers shrink alike where fewer images are left. They depend on dataset, split and numbers alone. DataError
    where fewer than LEAST are left, or none of a second class.
    """
    images = data.load(spec.dataset)
    labels = images.labels.numpy()
    left = np.setdiff1d(np.flatnonzero(labels >= 0), training.split_of(spec).rows(*SETS))
    if len(left) < LEAST or fit + test < LEAST:
        raise DataError(
            f"a probe needs {LEAST} labelled images outside the four sets, found {min(len(left), fit + test)} in "
            f"{images.name}; make a set smaller or ask for more."
        )
    if len(np.unique(labels[left])) < 2:
        raise DataError(f"a probe needs images of 2 classes, all those left in {images.name} are of one; take others.")
    share = min(1.0, len(left) / (fit + test))
    fit, test = int(fit * share), int(test * share)
    sizes = {"shared": fit - round(HELD_OUT * fit), "candidate": test, "independent": 0}
    drawn = splits.draw(
        labels[left],
        SplitSpec(**sizes, external=round(HELD_OUT * fit), seed=spec.split.seed),
        dataset=f"what is left of {images.name}",
        fingerprint=digest("probe", images.fingerprint),
    )
    at = drawn.rows(*SETS)
    return Sample(images.rows(left[at]), labels[left[at]], np.isin(at, drawn.candidate), np.isin(at, drawn.external))


def representation_of(model: Method) -> str:
    """What is probed: the mean of a ViT's patches, which is what MAE trains, else the backbone's output."""
    return "mean_patch" if model.encoder.patches else "pooled"


def measure(model: Method | None, images: Sample) -> pd.DataFrame:
    """The row that `probes.of` describes, of a model (its mode is kept) or, without one, of the pixels."""
    if model is None:
        found, where = images.pixels.flatten(1).numpy().astype(np.float32) / 255, "pixels"
    else:
        where = representation_of(model)
        found = features(model, images.pixels, where)
    fitted, asked = (torch.from_numpy(found[rows]) for rows in (~images.test, images.test))
    labels = torch.from_numpy(images.labels)
    row = {
        "knn": training.knn_accuracy(fitted, labels[~images.test], asked, labels[images.test]),
        "linear": linear_accuracy(found, images),
        "spread": training.spread(asked),
        "fit": int((~images.test).sum()),
        "test": int(images.test.sum()),
        "representation": where,
    }
    return pd.DataFrame([row])


@torch.no_grad()
def features(model: Method, pixels: UInt8[Tensor, "n c h w"], representation: str) -> Float32[np.ndarray, "n d"]:
    """Representations of the images themselves, frozen and in evaluation mode; DataError when one is not finite."""
    device, mode = next(model.parameters()).device, model.training
    model.eval()
    parts = [model.features(part.to(device).float() / 255, representation).float() for part in pixels.split(_ROWS)]
    model.train(mode)
    found = torch.cat(parts).cpu().numpy()
    if not np.isfinite(found).all():
        raise DataError("the representation of some image is not finite; this encoder cannot be probed.")
    return found


def linear_accuracy(found: Float32[np.ndarray, "n d"], images: Sample) -> float:
    """Accuracy of a multinomial logistic regression on standardised features (L-BFGS), in [0, 1].

    Its penalty is the one of PENALTIES that does best on the held-out images; it is then fitted on all but the test.
    """
    return float(fitted_linear(found, images).score(found[images.test], images.labels[images.test]))


def fitted_linear(found: Float32[np.ndarray, "n d"], images: Sample) -> GridSearchCV:
    """The classifier of `linear_accuracy`, fitted: it predicts classes and their probabilities."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit = ~images.test
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS))
    grid = {"logisticregression__C": PENALTIES}
    folds = PredefinedSplit(np.where(images.held_out[fit], 0, -1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GridSearchCV(classifier, grid, cv=folds).fit(found[fit], images.labels[fit])
