"""Probes on images of another dataset than the encoder's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from .. import data, splits, training
from ..data import ImageSet
from ..data.loading import resize
from ..errors import DataError, SpecError
from ..methods import Method
from ..specs import DatasetSpec, SplitSpec, TrainSpec, digest
from ..store import Store
from ..versions import version_of
from .accuracy import HELD_OUT, LEAST, Sample, features, measure, representation_of, sample
from .classify import detail_of

KIND, TABLE, DETAIL = "transfers", "table.parquet", "detail.parquet"
OF = ("trained", "untrained", "pixels")
FIT, TEST = 2000, 2000


def transfer(
    spec: TrainSpec,
    dataset: str | DatasetSpec,
    store: Store | None = None,
    *,
    fit: int = FIT,
    test: int = TEST,
    of: str = "trained",
    adapt: bool = False,
) -> pd.DataFrame:
    """kNN and linear accuracy of a frozen encoder on another dataset, stored; the encoder is trained when missing.

    One row with the columns of `probes.of`, and `classes`. Images for fitting come from the dataset's train part and
    those for testing from its test part, where it has both; else they are drawn from all of it, class by class.
    They are the same for all encoders. `of`: the trained encoder, its initialisation ("untrained"), or the "pixels"
    that it would see. `adapt` brings the images to the encoder's channels and size; without it, DataError where these
    differ. DataError also for fewer than 100 labelled images or images of one class, SpecError for the encoder's own
    dataset.
    """
    return pd.read_parquet(_stored(spec, dataset, store or Store(), fit, test, of, adapt, False) / TABLE)


def detail(
    spec: TrainSpec,
    dataset: str | DatasetSpec | None = None,
    store: Store | None = None,
    *,
    fit: int = FIT,
    test: int = TEST,
    of: str = "trained",
    adapt: bool = False,
) -> pd.DataFrame:
    """`classify.detail_of` of a frozen encoder on another dataset, or (None) on what is left of its own; stored."""
    return pd.read_parquet(_stored(spec, dataset, store or Store(), fit, test, of, adapt, True) / DETAIL)


def _stored(
    spec: TrainSpec,
    dataset: str | DatasetSpec | None,
    store: Store,
    fit: int,
    test: int,
    of: str,
    adapt: bool,
    everything: bool,
) -> Path:
    """The folder of one probe, computed when it is missing; `everything` asks for the detail instead of the row."""
    if of not in OF:
        raise SpecError(f"what is probed must be {', '.join(OF)}, found {of!r}; choose one of them.")
    other = DatasetSpec(name=dataset) if isinstance(dataset, str) else dataset
    if other is not None and other.name == spec.dataset.name:
        raise SpecError(
            f"the encoder was trained on {other.name}, whose images it may have seen; transfer it to another dataset, "
            "or take probes.of."
        )
    images = data.load(other or spec.dataset)
    encoder = training.key(spec, data.load(spec.dataset).fingerprint)
    where = spec.split.key() if other is None else ""
    who = [encoder, where] if of != "pixels" else [list(data.load(spec.dataset).shape), where]
    name = digest("transfer", *who, images.fingerprint, fit, test, of, everything, version_of("probes", "splits"))

    def write(folder: Path) -> None:
        torch.set_num_threads(spec.compute.threads)
        given = sample(spec, fit, test) if other is None else foreign(spec, other, fit, test, adapt)
        model = model_of(spec, store, of)
        if not everything:
            row = measure(model, given).assign(classes=len(np.unique(given.labels)))
            row.to_parquet(folder / TABLE, index=False)
            return
        found = _pixels(given) if model is None else features(model, given.pixels, representation_of(model))
        detail_of(found, given, images.classes).to_parquet(folder / DETAIL, index=False)

    if other is not None:
        _check_shape(images, data.load(spec.dataset).shape, adapt)  # said also when a result is stored
    return store.compute(KIND, name, write, {"spec": spec.model_dump(mode="json"), "of": of, "dataset": images.name})


def model_of(spec: TrainSpec, store: Store, of: str) -> Method | None:
    """The encoder that is probed, in evaluation mode: trained or as it began; None for pixels."""
    if of == "pixels":
        return None
    if of == "untrained":
        return training.Training.start(training.resolved(spec), data.load(spec.dataset).shape).model.eval()
    training.train(spec, store)
    return training.load(spec, store)


def _pixels(given: Sample) -> np.ndarray:
    return given.pixels.flatten(1).numpy().astype(np.float32) / 255


def foreign(spec: TrainSpec, dataset: DatasetSpec, fit: int, test: int, adapt: bool) -> Sample:
    """Labelled images of another dataset as the encoder of `spec` reads them; see `transfer`."""
    shape = data.load(spec.dataset).shape
    parts = _parts(dataset)
    counts = (fit, test) if len(parts) == 2 else (fit + test,)
    drawn = [_drawn(images, count) for images, count in zip(parts, counts, strict=True)]
    if len(parts) == 1:
        images, rows = drawn[0]
        share = fit / (fit + test)
        labels = images.labels.numpy()[rows]
        is_test = np.isin(np.arange(len(rows)), _some(labels, round((1 - share) * len(rows)), "test"))
        drawn, tested = [(images, rows)], is_test
    else:
        tested = np.repeat([False, True], [len(rows) for _, rows in drawn])
    labels = np.concatenate([images.labels.numpy()[rows] for images, rows in drawn])
    if len(np.unique(labels[~tested])) < 2:
        raise DataError(f"a probe needs images of 2 classes, all those of {dataset.name} are of one; take others.")
    for images, _ in drawn:
        _check_shape(images, shape, adapt)
    pixels = torch.cat([_brought(images, rows, shape) for images, rows in drawn])
    fitted = np.flatnonzero(~tested)
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[fitted[_some(labels[fitted], round(HELD_OUT * len(fitted)), "held out")]] = True
    return Sample(pixels, labels, tested, held_out)


def _parts(dataset: DatasetSpec) -> list[ImageSet]:
    """The train and the test part, or the whole where these are not both there or another part was asked for."""
    if dataset.part != "all":
        return [data.load(dataset)]
    try:
        return [data.load(dataset.but(part=part)) for part in ("train", "test")]
    except SpecError:
        return [data.load(dataset)]


def _drawn(images: ImageSet, count: int) -> tuple[ImageSet, Int64[np.ndarray, " m"]]:
    """`count` labelled rows of a set, every class in proportion; all of them where there are fewer."""
    labels = images.labels.numpy()
    known = np.flatnonzero(labels >= 0)
    if min(len(known), count) < LEAST // 2:
        raise DataError(
            f"a transfer needs {LEAST // 2} labelled images for fitting and as many for testing, found "
            f"{min(len(known), count)} in {images.name}; take a larger dataset or ask for more."
        )
    return images, known[_some(labels[known], min(count, len(known)), "transfer")]


def _some(labels: Int64[np.ndarray, " n"], count: int, what: str) -> Int64[np.ndarray, " m"]:
    """Sorted positions of `count` images, every class in proportion, always the same ones."""
    split = SplitSpec(shared=len(labels) - count, candidate=count, independent=0, external=0)
    fingerprint = digest("transfer", what, labels.tolist())
    return (
        splits.draw(labels, split, dataset=what, fingerprint=fingerprint).candidate
        if count < len(labels)
        else (np.arange(len(labels)))
    )


def _check_shape(images: ImageSet, shape: tuple[int, int, int], adapt: bool) -> None:
    if not adapt and images.shape != shape:
        found, wanted = ("x".join(map(str, one)) for one in (images.shape, shape))
        raise DataError(
            f"the images of {images.name} are {found} (channels, height, width) and the encoder was trained on "
            f"{wanted}; bring them to it with adapt=True."
        )
    if shape[1] != shape[2] and images.shape[1:] != shape[1:]:
        raise DataError(
            f"images are brought to squares only and the encoder was trained on {shape[1]}x{shape[2]} pixels; import "
            f"{images.name} at that size."
        )


def _brought(images: ImageSet, rows: Int64[np.ndarray, " n"], shape: tuple[int, int, int]) -> UInt8[Tensor, "n c h w"]:
    """The images at `rows` with the channels and the size of `shape`: grey repeated, colours as their luminance."""
    if images.shape[1:] == shape[1:]:
        pixels = images.rows(rows)
    else:
        pixels = resize(images.pixels, images.places[torch.from_numpy(rows)], shape[1])
    if pixels.shape[1] == shape[0]:
        return pixels
    if shape[0] == 3:
        return pixels.expand(-1, 3, -1, -1).contiguous()
    luminance = torch.tensor([299, 587, 114]).view(1, 3, 1, 1)
    return ((pixels.int() * luminance).sum(1, keepdim=True) / 1000).round().to(torch.uint8)
