"""The four disjoint sets of an SSLMem experiment: shared, candidate, independent, external."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np

from .errors import SplitError
from .specs import SETS, SplitSpec, SubsetSpec, digest, seed_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Rows of one dataset in each set (int64, sorted), and whether the classes are spread evenly."""

    shared: np.ndarray
    candidate: np.ndarray
    independent: np.ndarray
    external: np.ndarray
    stratified: bool
    fingerprint: str  # of the dataset the rows point into

    def rows(self, *sets: str) -> np.ndarray:
        """Rows of the union of the named sets, sorted."""
        return np.sort(np.concatenate([getattr(self, name) for name in sets]))

    def names(self) -> dict[int, str]:
        """Set name of every row that belongs to a set."""
        return {int(row): name for name in SETS for row in getattr(self, name)}

    def to_json(self) -> str:
        """The whole split as JSON text, for a person or another program to read."""
        sets = {name: getattr(self, name).tolist() for name in SETS}
        return json.dumps({"fingerprint": self.fingerprint, "stratified": self.stratified, **sets})

    @staticmethod
    def from_json(text: str) -> Split:
        """The inverse of `to_json`."""
        values = json.loads(text)
        rows = {name: np.asarray(values[name], dtype=np.int64) for name in SETS}
        return Split(**rows, stratified=values["stratified"], fingerprint=values["fingerprint"])


def shuffle_keys(seed: int, ids: np.ndarray) -> np.ndarray:
    """One well-mixed 64-bit number per id (splitmix64): a shuffle that no library version can change."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw(labels: np.ndarray, spec: SplitSpec, *, dataset: str, fingerprint: str) -> Split:
    """Cut `n` images with labels (n,) into the four sets.

    Stratified when every class gets at least one image in every non-empty set, otherwise random, with a notice.
    Raises SplitError when the sets ask for more images than there are.
    """
    labels = np.asarray(labels)
    n, sizes = len(labels), [getattr(spec, name) for name in SETS]
    if sum(sizes) > n:
        asked = " + ".join(f"{name} ({size})" for name, size in zip(SETS, sizes, strict=True) if size)
        raise SplitError(f"{asked} = {sum(sizes)} exceed the {n} images of {dataset}; lower one of them.")
    keys = shuffle_keys(seed_of("split", fingerprint, spec.seed), np.arange(n))
    order = np.argsort(keys, kind="stable")
    spread = _interleave(labels[order])
    parts = _cut(order[spread], sizes)
    stratified = _every_class_everywhere(labels, parts)
    if not stratified:
        parts = _cut(order, sizes)
        log.warning("%s has classes too small for all four sets: the split is random, not stratified", dataset)
    return Split(*[np.sort(part) for part in parts], stratified=stratified, fingerprint=fingerprint)


def subset(rows: np.ndarray, labels: np.ndarray, spec: SubsetSpec | None, *, fingerprint: str) -> np.ndarray:
    """The sorted rows that one encoder trains on, of all those in its sets (None: all); labels (n,) of the dataset.

    The members of one group of an ensemble deal the same stratified blocks out in turn (`SubsetSpec`). Raises
    SplitError for a row to be left out that is not there.
    """
    if spec is None:
        return rows
    if missing := sorted(set(spec.without) - set(rows.tolist())):
        raise SplitError(
            f"row {missing[0]} cannot be left out: it is in none of the sets trained on; name one of them."
        )
    kept, blocks = spec.blocks
    if kept < blocks:
        group, place = divmod(spec.member, blocks)
        keys = shuffle_keys(seed_of("subset", fingerprint, spec.seed, group), rows)
        order = np.lexsort((keys, labels[rows]))  # class by class, so that every block gets its share of each
        block = np.empty(len(rows), dtype=np.int64)
        block[order] = np.arange(len(rows)) % blocks
        rows = rows[(block - place) % blocks < kept]
    return rows[~np.isin(rows, spec.without)]


def _interleave(labels: np.ndarray) -> np.ndarray:
    """An order in which every stretch holds each class in proportion (to within one image)."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(inverse, kind="stable")
    rank = np.empty(len(labels))
    rank[by_class] = np.concatenate([np.arange(count) for count in counts])
    return np.argsort((rank + 0.5) / counts[inverse], kind="stable")


def _cut(order: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(order[: sum(sizes)].astype(np.int64), np.cumsum(sizes)[:-1])


def _every_class_everywhere(labels: np.ndarray, parts: list[np.ndarray]) -> bool:
    classes = len(np.unique(labels))
    return all(len(np.unique(labels[part])) == classes for part in parts if len(part))


def key(spec: SplitSpec, fingerprint: str) -> str:
    """Where a split is stored: it depends on the images and the spec alone."""
    return digest("split", spec.key(), fingerprint)
