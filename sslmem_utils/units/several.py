"""One measure of many encoders, in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .. import training
from ..errors import SpecError
from ..specs import TrainSpec
from ..store import Store
from .pruning import pruned
from .selectivity import of
from .tuning import tuned

MEASURES: dict[str, Callable[..., pd.DataFrame]] = {"of": of, "pruned": pruned, "tuned": tuned}


@dataclass(frozen=True)
class _Measure:
    """A measure with its arguments, which travels to other processes."""

    name: str
    layers: tuple[str, ...]
    options: dict[str, Any]

    def __call__(self, spec: TrainSpec, store: Store) -> pd.DataFrame:
        return MEASURES[self.name](spec, self.layers, store=store, **self.options)


def each(
    measure: str,
    specs: Sequence[TrainSpec],
    names: Sequence[str] = (),
    *,
    store: Store | None = None,
    **options: object,
) -> list[pd.DataFrame]:
    """The tables of one of MEASURES for every encoder, in the order of `specs`.

    `names` are layers, `options` are the measure's own. What is missing is trained and measured in `paths.jobs()`
    processes.
    """
    if measure not in MEASURES:
        raise SpecError(f"a measure must be one of {', '.join(MEASURES)}, found {measure!r}; choose one of them.")
    store, found = store or Store(), _Measure(measure, tuple(names), options)
    if not options.get("untrained"):
        training.train_all(specs, store, then=found)
    return [found(spec, store) for spec in specs]
