"""`score`: two models and some images in, one row an image out, in bounded memory and resumable."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .. import views as policies
from ..errors import DataError, SpecError
from ..scoring import BLOCK, COLUMNS, align_each, faster, rows_of_pass, score_table
from ..specs import ComputeSpec, ScoreSpec, ViewSpec, digest
from ..splits import SETS, Split
from ..store import Store
from ..versions import version_of
from .adapters import Adapter, NoTokens, evaluated
from .pictures import Pictures, pictures, set_names

KIND = "own"  # of the artifacts that finished pieces are kept as
_FILE = "piece.parquet"
PIECE = 1024  # images of one piece; fewer when they are large
KEY = "own"  # views depend on this, the view seed and an image's index: equal in every subset of a dataset
ALONE = "memorization needs a reference encoder g that was trained without the images; alignment alone is reported"
ONE_PAIR = "one pair of encoders: seed noise is not measured, se_seeds and z are empty"
_VIEWS = 256_000_000  # bytes of views and representations in memory at a time
_READ = 128_000_000  # bytes of images of one piece
SECONDS = 5.0  # between two lines of progress
# The official code's augmentation (memorization_score.py), here on values in [0, 1].
OFFICIAL = ViewSpec(
    crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=0.5, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2,
    jitter=0.8, grayscale=0.2,
)  # fmt: skip


def score(
    f: Any,
    g: Any = None,
    images: Any = None,
    *,
    view: str | ViewSpec = "simclr",
    views: int = 20,
    representation: str = "pooled",
    normalize: bool = True,
    distance: str = "l2",
    comparison: str = "pairs",
    mean: Any = None,
    std: Any = None,
    sets: Any = None,
    labels: Any = None,
    index: Any = None,
    size: int | None = None,
    seed: int = 0,
    device: str | None = None,
    threads: int = 1,
    batch: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Memorization of every image by `f`, with `g` as the reference that was trained without them.

    f, g: any `nn.Module` or function of images (b, c, h, w), see `own.adapters` for what is taken of their output;
    modules are put into evaluation mode and given back as they were. images, index, labels, size: see `own.pictures`.
    `mean` and `std` normalise pixels in [0, 1] for both models. `sets`: the set of each image (shared, candidate,
    independent, external), by CSV, table, mapping or list. The setting (`view` to `comparison`) is that of `ScoreSpec`.

    Columns: index, label, set, align_f, align_g, m, m_rel, m_range, se_views, se_seeds, z, as in `scoring.score_table`;
    without g only align_f and its se_views. `attrs["notes"]` says in plain sentences what was done, `attrs["settings"]`
    with which values. On a CPU the same image gets the same bits whatever the batch, order or subset: its views
    depend on `seed` and its index alone. `batch` is how many images are in memory at a time (default: what fits into
    256 MB), `resume` a folder that keeps finished pieces, so that a stopped run goes on (it trusts that the code
    of the models stayed the same). Raises SpecError or DataError of one sentence for anything that cannot be scored.
    """
    found = pictures(images, index, labels, size) if images is not None else None
    if found is None:
        raise SpecError("score needs images: a tensor, an ImageSet, the name of a dataset, or a folder or zip.")
    if batch is not None and batch < 1:
        raise SpecError(f"batch is a number of images of at least 1, found {batch}.")
    names = set_names(sets, found.index)
    adapters = [Adapter(one, who, mean, std, found.shape[0]) for one, who in ((f, "f"), (g, "g")) if one is not None]
    view = policy(view, adapters[0])
    spec = ScoreSpec(
        representation=representation, normalize=normalize, distance=distance, comparison=comparison, views=views,
        view=view, view_seed=seed, compute=ComputeSpec(device=_device(device, adapters[0]), threads=threads),
    )  # fmt: skip
    store = Store(Path(resume)) if resume is not None else None
    with evaluated(*adapters), torch.no_grad():
        dim = _probe(adapters, found, spec)
        step = batch or _step(spec, found.shape, dim)
        tables = _aligned(adapters, found, spec, step, store, progress)
    notes = [f"{adapter.who} is scored at {adapter.note}" for adapter in adapters if adapter.note]
    notes += [] if adapters[0].own or adapters[0].normalised else ["the models saw pixels in [0, 1], not normalised"]
    table = _assembled(tables, found, names)
    table.attrs["notes"] = [*notes, ALONE if g is None else ONE_PAIR]
    table.attrs["settings"] = {**spec.model_dump(mode="json"), "dimensions": dim, "images": found.name}
    return table


def paper_code_score(f: Any, g: Any, images: Any, *, views: int = 5, **options: Any) -> pd.DataFrame:
    """The official code's score (memorization_score.py), for comparison: column `m_range` is what it reports.

    Mean L2 distance between the normalised representation of the clean image and of each of 5 views, g minus f, over
    the range within the scored images. Vision transformers give all tokens with the class token, flattened, in position
    order (the official code shuffles them, so that an image differs from itself); other models give `pooled`. Jitter
    acts on [0, 1], before normalisation (the official code clips what lies below mid-grey). `options` as in `score`.
    """
    options = {"view": OFFICIAL, "views": views, "comparison": "anchor", "representation": "cls_tokens", **options}
    try:
        return score(f, g, images, **options)
    except NoTokens:
        return score(f, g, images, **{**options, "representation": "pooled"})


def policy(view: str | ViewSpec, adapter: Adapter) -> ViewSpec:
    """A view policy by name or as it is; a named one hides patches of the size that the encoder has."""
    if isinstance(view, ViewSpec):
        found = view
    else:
        found, patch = policies.named(view), getattr(getattr(adapter.module, "encoder", adapter.module), "patch", None)
        found = found.but(mask_patch=patch) if found.mask and adapter.own and patch else found
    if not policies.changes(found):
        raise SpecError(
            "the view policy changes no pixel, so that all views of an image are equal; choose another one."
        )
    return found


def _device(device: str | None, adapter: Adapter) -> str:
    weight = next(adapter.module.parameters(), None) if adapter.module is not None else None
    device = device or ("cpu" if weight is None else weight.device.type)
    if device == "cuda" and not torch.cuda.is_available():
        raise SpecError("device is cuda, and torch finds no GPU here; use cpu.")
    return device


def _probe(adapters: list[Adapter], found: Pictures, spec: ScoreSpec) -> int:
    """Dimensions of the representation, found with two images and two of noise before anything long starts."""
    shape = policies.view_shape(spec.view, found.shape)
    if spec.comparison == "anchor" and shape != found.shape:
        raise SpecError(
            f"anchor compares views of {shape[1]} pixels with clean images of {found.shape[1]}; resize the images."
        )
    noise = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0))
    real = found.read(np.arange(2)).float() / 255
    clean = torch.nn.functional.interpolate(real, shape[1:])
    x = torch.cat([clean, noise]).repeat(rows_of_pass(shape) // 4, 1, 1, 1).to(spec.compute.device)
    hidden = None
    if spec.view.mask:
        ids, numbers = torch.arange(len(x)), torch.zeros(1, dtype=torch.int64)
        hidden = policies.mask(spec.view, ids, numbers, 0, shape).flatten(0, 1).to(x.device)
    sizes = []
    for adapter in adapters:
        try:
            z = adapter.to(x.device).features(x, spec.representation, *([] if hidden is None else [hidden]))
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            reason = " ".join(str(error).split()).rstrip(".")[:200]
            raise SpecError(f"{adapter.who} cannot read images of {shape} (c, h, w): {reason}.") from error
        four = z[:4].float()
        if spec.normalize:
            four = torch.nn.functional.normalize(four, dim=-1)
        spread, scale = (four - four[:1]).abs().max(), four.abs().max()
        if bool(torch.isfinite(four).all()) and float(spread) <= 1e-6 * float(scale):
            raise DataError(
                f"{adapter.who} gives the same {spec.representation} for different images: it is constant, collapsed; "
                "check its weights and their loading."
            )
        sizes.append(z.shape[1])
    if len(set(sizes)) > 1:
        raise SpecError(
            f"f gives {sizes[0]} dimensions and g {sizes[1]} at {spec.representation!r}, whose distances do not "
            "compare; choose a representation of equal size."
        )
    return sizes[0]


def _step(spec: ScoreSpec, shape: tuple[int, int, int], dim: int) -> int:
    """Images in memory at a time: what fits, in whole blocks of views where it can be."""
    whole = BLOCK // math.gcd(BLOCK, spec.views)
    floats = math.prod(policies.view_shape(spec.view, shape)) + 3 * dim
    most = max(1, min(16 * BLOCK // spec.views, _VIEWS // (4 * spec.views * floats)))
    return most - most % whole if most > whole else most


def _aligned(
    adapters: list[Adapter], found: Pictures, spec: ScoreSpec, step: int, store: Store | None, progress: bool
) -> list[pd.DataFrame]:
    """The alignment table of each encoder, piece by piece; finished pieces are kept in `store` and taken from it."""
    piece = max(16, min(PIECE, _READ // math.prod(found.shape)))
    known = [adapter.digest() for adapter in adapters] if store is not None else []
    shape = policies.view_shape(spec.view, found.shape)
    fast = [faster(one, spec.representation, shape) for one in adapters]
    parts: list[list[pd.DataFrame]] = [[] for _ in adapters]
    every = found.ids
    with _watch(len(found) * len(adapters), progress) as watch:
        for start in range(0, len(found), piece):
            rows = np.arange(start, min(start + piece, len(found)))
            x, ids = found.read(rows), every[rows]

            def compute(which: list[Adapter], x: Any = x, ids: Any = ids, rows: Any = rows) -> list[pd.DataFrame]:
                done = []
                for part in (slice(at, at + step) for at in range(0, len(rows), step)):
                    done.append(_align(which, x[part], ids[part], spec, found.index[rows[part]]))
                    watch(sum(map(len, done[-1])))
                return [pd.concat(tables, ignore_index=True) for tables in zip(*done, strict=True)]

            if store is None:
                tables = compute(fast)
            else:
                pixels = hashlib.sha256(x.contiguous().numpy().data).hexdigest()
                setting = (spec.key(), pixels, ids.tolist(), version_of("scoring", "views", "encoders"))
                names = [digest(one, *setting) for one in known]
                missing = [name for name in dict.fromkeys(names) if store.get(KIND, name) is None]
                watch(len(rows) * (len(names) - len(missing)))
                fresh = compute([fast[names.index(name)] for name in missing]) if missing else []
                for name, table in zip(missing, fresh, strict=True):
                    store.compute(KIND, name, partial(_keep, table), {})
                tables = [pd.read_parquet(store.path(KIND, name) / _FILE) for name in names]
            for table, kept in zip(tables, parts, strict=True):
                kept.append(table.assign(row=rows))
    return [pd.concat(tables, ignore_index=True) for tables in parts]


def _keep(table: pd.DataFrame, folder: Path) -> None:
    table.to_parquet(folder / _FILE)


def _align(adapters: list[Adapter], x: Any, ids: Any, spec: ScoreSpec, names: np.ndarray) -> list[pd.DataFrame]:
    """The alignment tables of a few images; DataError names the first whose features are not finite."""
    try:
        return align_each(adapters, x, ids, spec, view=spec.view, fingerprint=KEY)
    except DataError:
        if len(adapters) > 1 or len(x) > 1:  # the error knows the image by a number that may be made of its name
            for adapter in adapters:
                for row in range(len(x)):
                    _align([adapter], x[row : row + 1], ids[row : row + 1], spec, names[row : row + 1])
        raise DataError(
            f"{adapters[0].who} gives features of image {names[0]} that are not finite; leave the image out, or check "
            "the weights and the normalisation."
        ) from None


def _assembled(tables: list[pd.DataFrame], found: Pictures, names: np.ndarray) -> pd.DataFrame:
    if len(tables) == 2:
        rows = {name: np.flatnonzero(names == name) for name in SETS}
        split = Split(**rows, stratified=False, fingerprint=KEY)
        return score_table(*tables, split, found.index, found.labels)[COLUMNS]
    table = pd.DataFrame({"index": found.index, "label": found.labels, "set": names, "align_f": tables[0]["align"]})
    return table.assign(se_views=tables[0]["se_views"]).reindex(columns=COLUMNS)


@contextmanager
def _watch(total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """A bar in a terminal, else a line on stderr every few seconds; call it with the images that are done."""
    from tqdm import tqdm

    began = said = time.monotonic()
    done = 0
    with tqdm(total=total, desc="score", unit="image", disable=None if wanted else True, leave=False) as bar:

        def watch(count: int) -> None:
            nonlocal said, done
            bar.update(count)
            done += count
            now = time.monotonic()
            if wanted and bar.disable and now - said >= SECONDS:
                said, rate = now, done / (now - began)
                left = f"{rate:.0f} a second, {(total - done) / rate / 60:.1f} min left"
                print(f"score: {done:,} of {total:,} images, {left}", file=sys.stderr, flush=True)

        yield watch
