"""The three factors of trained encoders, on labelled images that no encoder has seen."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from .. import data, probes, rivals, training
from ..data import ImageSet
from ..specs import TrainSpec, digest, seed_of
from ..splits import shuffle_keys
from ..store import Store
from ..versions import version_of
from ..views import views as draw_views
from .bounds import SHARES, bound, main_parts

KIND = "generalization"
LARGEST = 2000  # images whose distances are all computed
VIEWS = 8  # of an image; the augmented distance of two images takes the nearest of VIEWS^2 pairs
Distances = tuple[Float[np.ndarray, "n n"], Int64[np.ndarray, "n n"], Int64[np.ndarray, "n n"]]


def factors(spec: TrainSpec, store: Store | None = None, *, views: int = VIEWS) -> pd.DataFrame:
    """One row of `Factors` of an encoder, on the labelled external images of its split; trained where missing, stored.

    Views are those of the encoder's own policy, the same for all encoders of a dataset.
    """
    store = store or Store()
    encoder = training.key(spec, data.load(spec.dataset).fingerprint)

    def write(folder: Path) -> None:
        training.train(spec, store)
        _factors(spec, training.load(spec, store), views).to_parquet(folder / "factors.parquet", index=False)

    name = digest("factors", encoder, views, version_of("generalization", "views"))
    folder = store.compute(KIND, name, write, {"spec": spec.model_dump(mode="json")})
    return pd.read_parquet(folder / "factors.parquet")


@torch.no_grad()
def _factors(spec: TrainSpec, model: torch.nn.Module, views: int) -> pd.DataFrame:
    torch.set_num_threads(spec.compute.threads)
    given = training.inputs(spec)
    rows = given.split.external[given.images.labels[given.split.external].numpy() >= 0]
    labels, where = given.images.labels[rows].numpy(), probes.representation_of(model)
    drawn, device = _drawn(spec, given.images, rows, views), torch.device(spec.compute.device)
    parts = [model.features(part.to(device), where).float().cpu() for part in drawn.flatten(0, 1).split(320)]
    z = F.normalize(torch.cat(parts), dim=1).unflatten(0, (len(rows), views)).numpy()
    clean = rivals.outputs(lambda x: model.features(x, where), model, given.images, rows)
    clean = F.normalize(torch.from_numpy(clean), dim=1).numpy()
    distances, *nearest = augmented_distances(drawn.flatten(2), labels)
    return pd.DataFrame([asdict(bound(z, clean, labels, distances, _spans(z, labels, *nearest)))])


def _spans(
    z: Float[np.ndarray, "n k d"],
    labels: Int64[np.ndarray, " n"],
    first: Int64[np.ndarray, "n n"],
    second: Int64[np.ndarray, "n n"],
) -> Float[np.ndarray, "n n"]:
    """Distances between the representations of the nearest views of two images of a class; infinite elsewhere."""
    spans = np.full(first.shape, np.inf)
    for one in np.unique(labels):
        rows = np.flatnonzero(labels == one)
        some = np.ix_(rows, rows)
        spans[some] = np.linalg.norm(z[rows[:, None], first[some]] - z[rows[None], second[some]], axis=2)
    return spans


def _drawn(spec: TrainSpec, images: ImageSet, rows: Int64[np.ndarray, " n"], views: int) -> Float[Tensor, "n k c h w"]:
    seed = seed_of("factor views", images.fingerprint)
    return draw_views(images.rows(rows), images.ids[rows], spec.view, torch.arange(views), seed)


def augmented_distances(drawn: Float[Tensor, "n k p"], labels: Int64[np.ndarray, " n"]) -> Distances:
    """Smallest distance between a view of one image and a view of another, and which two views these are.

    Only within classes (n x n; infinite elsewhere, 0 on the diagonal). drawn: flattened views, pixels in [0, 1]. A
    minimum over some views is at least that over all: what is called concentrated here is so indeed.
    """
    n, k = drawn.shape[:2]
    distances, first, second = np.full((n, n), np.inf), np.zeros((n, n), np.int64), np.zeros((n, n), np.int64)
    np.fill_diagonal(distances, 0)
    for one in np.unique(labels):
        rows = np.flatnonzero(labels == one)
        flat = drawn[torch.from_numpy(rows)].flatten(0, 1)
        for at, row in enumerate(rows):
            near = torch.cdist(flat[at * k : (at + 1) * k], flat).view(k, len(rows), k).permute(1, 0, 2).flatten(1)
            least = near.min(1)
            places = least.indices.numpy()
            distances[row, rows], first[row, rows], second[row, rows] = least.values.numpy(), places // k, places % k
        distances[rows, rows] = 0
    return distances, first, second


def concentration(spec: TrainSpec, store: Store | None = None, *, views: int = VIEWS) -> pd.DataFrame:
    """(sigma, delta) of the labelled images that an encoder trains on: one row a share sigma, with its diameter delta.

    delta: the largest diameter of a class's main part, in units of pixels; `mean`: its mean over classes. The encoder
    itself takes no part. A part of a set is never wider than the set, so that only equal sizes compare. Of more than
    LARGEST images so many are drawn, the same for all encoders that train on them.
    """
    store, images = store or Store(), data.load(spec.dataset)
    rows = training.rows_of(spec)
    if len(rows) > LARGEST:
        rows = np.sort(rows[shuffle_keys(seed_of("concentration", images.fingerprint), rows).argsort()[:LARGEST]])
    name = digest("concentration", images.fingerprint, spec.view.key(), rows.tolist(), views,
                  version_of("generalization", "views"))  # fmt: skip

    def write(folder: Path) -> None:
        torch.set_num_threads(spec.compute.threads)
        labels = images.labels[rows].numpy()
        distances = augmented_distances(_drawn(spec, images, rows, views).flatten(2), labels)[0]
        of_classes = [distances[np.ix_(labels == one, labels == one)] for one in np.unique(labels[labels >= 0])]
        found = [{share: d[np.ix_(kept, kept)].max() for share, kept in main_parts(d).items()} for d in of_classes]
        by_share = {share: [one[share] for one in found] for share in SHARES}
        table = [{"sigma": share, "delta": max(each), "mean": float(np.mean(each))} for share, each in by_share.items()]
        pd.DataFrame(table).to_parquet(folder / "concentration.parquet", index=False)

    folder = store.compute(KIND, name, write, {"spec": spec.model_dump(mode="json")})
    return pd.read_parquet(folder / "concentration.parquet")
