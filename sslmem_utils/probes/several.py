"""One probe of many encoders, in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .. import training
from ..errors import SpecError
from ..specs import TrainSpec
from ..store import Store
from .dense import depth, segmentation
from .transfer import detail, transfer

PROBES: dict[str, Callable[..., pd.DataFrame]] = {
    "transfer": transfer,
    "detail": detail,
    "segmentation": segmentation,
    "depth": depth,
}


@dataclass(frozen=True)
class _Probe:
    """A probe with its arguments, which travels to other processes."""

    name: str
    on: object
    options: dict[str, Any]

    def __call__(self, spec: TrainSpec, store: Store) -> pd.DataFrame:
        return PROBES[self.name](spec, self.on, store, **self.options)


def each(
    probe: str, specs: Sequence[TrainSpec], on: object = None, *, store: Store | None = None, **options: object
) -> pd.DataFrame:
    """The rows of one of PROBES for every encoder, with `encoder`, its place in `specs`.

    `on` is the dataset or the scenes, `options` are the probe's own. What is missing is trained and probed in
    `paths.jobs()` processes.
    """
    if probe not in PROBES:
        raise SpecError(f"a probe must be one of {', '.join(PROBES)}, found {probe!r}; choose one of them.")
    store, measure = store or Store(), _Probe(probe, on, options)
    training.train_all(specs, store, then=measure)
    return pd.concat([measure(spec, store).assign(encoder=at) for at, spec in enumerate(specs)], ignore_index=True)
