"""Attacks: infer the labels of images from partial views, with the images that no encoder saw as neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from .. import data, pairs, recipes, splits, training
from ..data import ImageSet
from ..errors import DataError, SpecError
from ..methods import Method
from ..specs import SETS, DatasetSpec, SplitSpec, TrainSpec, digest
from ..store import Store
from ..versions import version_of
from .neighbours import nearest
from .outcomes import QUADRANTS
from .partial import PartialView, shown
from .votes import Votes, vote

KIND, FILE = "neighbours", "neighbours.safetensors"  # kind of artifact
_ROWS = 320  # images of one forward pass


def attacks(
    base: TrainSpec,
    seeds: Sequence[int],
    view: PartialView,
    ks: Sequence[int],
    *,
    replicas: int = 1,
    store: Store | None = None,
    **options: object,
) -> pd.DataFrame:
    """`attack` of the pairs of every seed, stacked; trains what is missing in parallel. `options` as for `attack`."""
    store, plan = store or Store(), [(seed, replica) for seed in seeds for replica in range(replicas)]
    if not plan:
        raise SpecError("an attack needs at least one seed, found none; raise `seeds`.")
    asked = _asked(base, view, ks, **options)
    for seed in seeds:  # said before anything is trained
        _tried(pairs.pair_specs(base, seed)[0], asked)
    each = [pairs.pair_specs(base, seed, replica=replica, replicas=replicas) for seed, replica in plan]
    missing = [spec for pair in each for spec in pair if store.get(KIND, asked.name(spec)) is None]
    if missing:
        training.train_all(missing, store, then=asked)
    how = {"replicas": replicas, "store": store, **options}
    tables = [attack(base, seed, view, ks, replica=replica, **how) for seed, replica in plan]
    return pd.concat(tables, ignore_index=True)


def attack(
    base: TrainSpec,
    seed: int,
    view: PartialView,
    ks: Sequence[int],
    *,
    representation: str | None = None,
    normalize: bool = True,
    limit: int | None = None,
    replica: int = 0,
    replicas: int = 1,
    store: Store | None = None,
) -> pd.DataFrame:
    """Every labelled image of the four sets attacked through a partial view; encoders are trained when missing.

    The partial view is embedded by the target and by the reference, the whole images of `public` too, and the k nearest
    of these (Euclidean, features L2-normalised unless `normalize` is off) vote on the class. f is the target of all
    sets but the independents. `representation` defaults to where encoders of a recipe are scored; the published attack
    takes the projector, not normalised. The neighbours are stored, one artifact an encoder.

    One row an image and k: row, label, set, seed, replica, k, public (images that may be neighbours); of target and
    reference (`_target`, `_reference`): inferred (class), right, confidence, margin, rank, share (`Votes`); quadrant.

    SpecError for k above the public set, DataError for one without labels, and the errors of the view.
    """
    store, asked = store or Store(), _asked(base, view, ks, representation, normalize, limit)
    f, g = pairs.pair_specs(base, seed, replica=replica, replicas=replicas)
    given, rows, bank = _tried(f, asked)
    votes = {}
    for who, spec in (("f", f), ("g", g)):
        near, at = asked(spec, store)
        labels, classes = given.images.labels.numpy(), _classes(given.images)
        votes[who] = {k: vote(labels[bank][at[:, :k]], near[:, :k], labels[rows], classes) for k in asked.ks}
    return _table(votes, given, rows, asked.ks).assign(seed=seed, replica=replica, public=len(bank))


def public(spec: TrainSpec, limit: int | None = None) -> Int64[np.ndarray, " m"]:
    """Sorted rows of the labelled images outside of the four sets: no encoder of the split has seen them.

    At most `limit` of them, every class in proportion. DataError where none is left or none has a label.
    """
    given = training.inputs(spec)
    left = np.setdiff1d(np.arange(len(given.images)), given.split.rows(*SETS))
    labels = given.images.labels.numpy()[left]
    if not (labels >= 0).any():
        raise DataError(
            f"the public set needs labelled images outside of the four sets, found {len(left)} images of "
            f"{given.images.name} and no label among them; label some or make a set smaller."
        )
    left, labels = left[labels >= 0], labels[labels >= 0]
    if limit is None or limit >= len(left):
        return left
    if limit < 1:
        raise SpecError(f"the public set needs an image, found a limit of {limit}; raise it or leave it out.")
    sizes = SplitSpec(shared=0, candidate=limit, independent=0, external=0, seed=spec.split.seed)
    mark = digest("public", given.images.fingerprint)
    return left[splits.draw(labels, sizes, dataset=given.images.name, fingerprint=mark).candidate]


@dataclass(frozen=True)
class _Asked:
    """The settings of an attack; called with an encoder it gives its neighbours, and travels to other processes."""

    view: PartialView
    ks: tuple[int, ...]
    where: str
    normalize: bool
    limit: int | None

    def name(self, spec: TrainSpec) -> str:
        """Where the neighbours under one encoder are stored."""
        encoder = training.key(spec, data.load(spec.dataset).fingerprint)
        settings = [self.view.key(), max(self.ks, default=0), self.where, self.normalize, self.limit]
        return digest(encoder, *settings, version_of("dejavu", "splits", "views"))

    def __call__(self, spec: TrainSpec, store: Store) -> tuple[Float64[np.ndarray, "n k"], Int64[np.ndarray, "n k"]]:
        """`nearest` of every attacked image among the public set, computed when missing."""
        from safetensors.numpy import load_file, save_file

        def write(folder: Path) -> None:
            training.train_all([spec], store)
            torch.set_num_threads(spec.compute.threads)
            near, at = _nearest(training.load(spec, store), *_prepared(spec, self), self)
            save_file({"distances": near.cpu().numpy(), "positions": at.cpu().numpy()}, folder / FILE)

        meta = {"spec": spec.model_dump(mode="json"), "representation": self.where, "normalize": self.normalize}
        found = load_file(store.compute(KIND, self.name(spec), write, meta) / FILE)
        return found["distances"].astype(np.float64), found["positions"]


def _asked(
    base: TrainSpec,
    view: PartialView,
    ks: Sequence[int],
    representation: str | None = None,
    normalize: bool = True,
    limit: int | None = None,
) -> _Asked:
    where = representation or recipes.representation(base)
    return _Asked(view, tuple(sorted({index(k) for k in ks})), where, normalize, limit)


def _tried(spec: TrainSpec, asked: _Asked) -> tuple[training.Inputs, Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """`_prepared`, after one image has gone through an untrained encoder: does the view fit it, is there the layer?"""
    given, rows, bank = _prepared(spec, asked)
    with torch.no_grad():
        _embedded(pairs.untrained(spec), rows[:1], lambda some: asked.view(given.images, some), asked.where)
    return given, rows, bank


def _prepared(
    spec: TrainSpec, asked: _Asked
) -> tuple[training.Inputs, Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """The images, the rows that are attacked and those of the public set; all that can be wrong is said here."""
    given, bank, ks = training.inputs(spec), public(spec, asked.limit), asked.ks
    if not ks or min(ks) < 1 or max(ks) > len(bank):
        raise SpecError(
            f"k must be 1 to {len(bank)}, the images of the public set, found {', '.join(map(str, ks)) or 'none'}; "
            "lower k or the sets."
        )
    rows = given.split.rows(*SETS)
    rows = rows[given.images.labels.numpy()[rows] >= 0]
    rows = rows[asked.view.usable(given.images, rows)]
    trained = given.split.rows("candidate", "independent")
    if not np.isin(rows, trained).any():
        raise DataError(
            f"no candidate of {given.images.name} has a label and such a partial view, so that none can be attacked; "
            "give labels, boxes or a larger view."
        )
    return given, rows, bank


def pictures(rows: pd.DataFrame, view: PartialView, spec: DatasetSpec) -> pd.DataFrame:
    """The rows of a dataset twice, with pictures (`pairs.with_pictures`): `part` is "whole", or "shown" by the view."""
    whole = pairs.with_pictures(rows, spec).assign(part="whole")
    found = shown(view, data.load(spec), rows["row"].to_numpy())
    return pd.concat(
        [whole, whole.assign(part="shown", pixels=[list(one.ravel()) for one in found])], ignore_index=True
    )


@torch.no_grad()
def _nearest(
    model: Method,
    given: training.Inputs,
    rows: Int64[np.ndarray, " n"],
    bank: Int64[np.ndarray, " m"],
    asked: _Asked,
) -> tuple[Float32[Tensor, "n k"], Int64[Tensor, "n k"]]:
    def part(some: np.ndarray) -> tuple[Tensor, Tensor | None]:
        return asked.view(given.images, some)

    def whole(some: np.ndarray) -> tuple[Tensor, None]:
        return given.images.rows(some).float() / 255, None

    found = [_embedded(model, these, read, asked.where) for these, read in ((rows, part), (bank, whole))]
    return nearest(*(F.normalize(one, dim=1) if asked.normalize else one for one in found), max(asked.ks))


def _classes(images: ImageSet) -> int:
    return max(len(images.classes), int(images.labels.max()) + 1)


def _embedded(
    model: Method, rows: Int64[np.ndarray, " n"], read: Callable[[np.ndarray], tuple[Tensor, Tensor | None]], where: str
) -> Float32[Tensor, "n d"]:
    """Representations of what `read` makes of rows, in evaluation mode, on the model's device."""
    device, found = next(model.parameters()).device, []
    model.eval()
    for start in range(0, len(rows), _ROWS):
        x, hidden = read(rows[start : start + _ROWS])
        found.append(model.features(x.to(device), where, None if hidden is None else hidden.to(device)).float())
    return torch.cat(found)


def _table(
    votes: dict[str, dict[int, Votes]], given: training.Inputs, rows: Int64[np.ndarray, " n"], ks: Sequence[int]
) -> pd.DataFrame:
    names = given.split.names()
    sets = np.array([names[int(row)] for row in rows])
    facts, parts = {"row": rows, "label": given.images.labels.numpy()[rows], "set": sets}, []
    for k in ks:
        found = {who: _columns(one[k]) for who, one in votes.items()}
        part, mirrored = pd.DataFrame({**facts, "k": k}), sets == "independent"
        for who, (here, there) in {"target": ("g", "f"), "reference": ("f", "g")}.items():
            for name in found["f"]:
                part[f"{name}_{who}"] = np.where(mirrored, found[here][name], found[there][name])
            part[f"right_{who}"] = part[f"rank_{who}"] == 1
        right, known = part["right_target"], part["right_reference"]
        part["quadrant"] = np.select([right & ~known, right & known, ~right & known], QUADRANTS[:3], QUADRANTS[3])
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _columns(votes: Votes) -> pd.DataFrame:
    return pd.DataFrame({name: getattr(votes, name) for name in ("inferred", "confidence", "margin", "rank", "share")})
