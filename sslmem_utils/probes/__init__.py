"""Probes: what a frozen encoder's features are good for, on labelled images that neither f nor g has seen.

    probes.of(spec)                     # kNN and linear accuracy of a trained encoder, stored
    probes.of(spec, untrained=True)     # the same of its initialisation
    probes.pixels(spec)                 # the same of the images themselves
    probes.transfer(spec, "mnist")      # on another dataset
    probes.detail(spec)                 # k of kNN, few labels, calibration, classes
    probes.segmentation(spec, "camvid") # mIoU of a head on its maps; probes.depth likewise

Untrained encoders and pixels are strong on small images, which is why they stand beside.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from .. import data, training
from ..specs import TrainSpec, digest
from ..store import Store
from ..versions import version_of
from .accuracy import Sample, features, fitted_linear, linear_accuracy, measure, representation_of, sample
from .classify import calibration_error, detail_of, few_shot, knn_sweep, sgd_accuracy
from .dense import depth, depth_errors, overlaps, pictured, predictions, segmentation
from .heads import Head, maps, pixel_maps
from .several import each
from .transfer import detail, foreign, transfer

KIND, TABLE = "probes", "table.parquet"  # kind of artifact, and the file in it
FIT, TEST = 2000, 2000  # labelled images the classifiers are fitted on, and tested on, where there are as many


def of(
    spec: TrainSpec, store: Store | None = None, *, fit: int = FIT, test: int = TEST, untrained: bool = False
) -> pd.DataFrame:
    """kNN and linear accuracy of one encoder, which is trained first when it is not stored; the result is stored.

    One row: knn, linear (shares of the test images in [0, 1]), spread (of the test images' features, 0: collapsed),
    fit, test (images used), representation (`mean_patch` of a ViT, else `pooled`). The images are in none of the four
    sets of the split; they are drawn, class by class, by the split's seed, so that f and g of a pair share them; fewer
    than asked for where the dataset has fewer left. `untrained` probes the encoder before its first step. DataError
    where fewer than 100 labelled images are left, all are of one class, or a feature is not finite.
    """
    store = store or Store()
    name = key(spec, fit=fit, test=test, untrained=untrained)

    def write(folder: Path) -> None:
        images = sample(spec, fit, test)  # what cannot be probed is said before anything is trained
        if untrained:
            torch.set_num_threads(spec.compute.threads)
            model = training.Training.start(training.resolved(spec), images.shape).model
        else:
            training.train(spec, store)
            model = training.load(spec, store)
        measure(model, images).to_parquet(folder / TABLE, index=False)

    meta = {"spec": spec.model_dump(mode="json"), "untrained": untrained}
    return pd.read_parquet(store.compute(KIND, name, write, meta) / TABLE)


def pixels(spec: TrainSpec, store: Store | None = None, *, fit: int = FIT, test: int = TEST) -> pd.DataFrame:
    """The same columns from the pixels of the same images; `spec` says which these are, nothing is trained."""
    store = store or Store()
    fingerprint = data.load(spec.dataset).fingerprint
    name = digest("pixels", fingerprint, spec.split.key(), fit, test, version_of("probes", "splits"))

    def write(folder: Path) -> None:
        torch.set_num_threads(spec.compute.threads)
        measure(None, sample(spec, fit, test)).to_parquet(folder / TABLE, index=False)

    meta = {"dataset": spec.dataset.model_dump(mode="json"), "split": spec.split.model_dump(mode="json")}
    return pd.read_parquet(store.compute(KIND, name, write, meta) / TABLE)


def key(spec: TrainSpec, *, fit: int = FIT, test: int = TEST, untrained: bool = False) -> str:
    """Where the probe of an encoder is stored."""
    encoder = training.key(spec, data.load(spec.dataset).fingerprint)
    return digest("probe", encoder, fit, test, untrained, version_of("probes"))


__all__ = [
    "FIT",
    "Head",
    "KIND",
    "Sample",
    "TABLE",
    "TEST",
    "calibration_error",
    "depth",
    "depth_errors",
    "detail",
    "detail_of",
    "each",
    "features",
    "few_shot",
    "fitted_linear",
    "foreign",
    "key",
    "knn_sweep",
    "linear_accuracy",
    "maps",
    "measure",
    "of",
    "overlaps",
    "pictured",
    "pixel_maps",
    "pixels",
    "predictions",
    "representation_of",
    "sample",
    "segmentation",
    "sgd_accuracy",
    "transfer",
]
