"""Dense probes: a class or a depth for every pixel, read from a frozen encoder's maps by a small head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import data, training
from ..data import scenes as scenery
from ..data.scenes import Frame, Scenes
from ..errors import DataError, SpecError
from ..specs import TrainSpec, digest
from ..store import Store
from ..versions import version_of
from .heads import SETTINGS, Head, Maps, maps, pixel_maps
from .transfer import model_of

KIND, TABLE, PREDICTED = "dense", "table.parquet", "predicted.safetensors"
FRAME = (96, 128)  # height and width that scenes are brought to
DELTA = 1.25  # of delta1
OF = ("trained", "untrained", "pixels", "place")


def segmentation(
    spec: TrainSpec,
    scenes: str,
    store: Store | None = None,
    *,
    head: str = "linear",
    frame: Frame = FRAME,
    of: str = "trained",
    void: int | None = None,
) -> pd.DataFrame:
    """Semantic segmentation on a frozen encoder, stored: fitted on the train part of `scenes`, measured on the test.

    One row: miou (mean over the classes that occur of intersection over union, torchmetrics), pixel_accuracy, and
    `iou CLASS` for each class (NaN where it does not occur), over all pixels of all test scenes but void ones, which
    also teach nothing; fit, test (scenes), head, of. `scenes`, `frame` and `void` as for `data.scenes.load`. `head` is
    linear (on the coarsest map) or upernet. `of`: the trained encoder, its initialisation ("untrained"), the "pixels"
    at the same positions, or the "place" alone (the most frequent class there; no head). DataError for scenes of one
    class and all that `data.scenes.load` refuses, SpecError for an encoder without maps.
    """
    return pd.read_parquet(_stored(spec, scenes, "masks", store or Store(), head, frame, of, void) / TABLE)


def depth(
    spec: TrainSpec,
    scenes: str,
    store: Store | None = None,
    *,
    head: str = "linear",
    frame: Frame = FRAME,
    of: str = "trained",
) -> pd.DataFrame:
    """Depth regression on a frozen encoder, stored; as `segmentation`, with a head for the logarithm of the depth.

    One row: abs_rel (mean |found - true| / true, 0 is best) and delta1 (share of pixels with a ratio of the two below
    1.25), over all pixels of all test scenes whose depth is known (Eigen et al. 2014, arXiv 1406.2283); fit, test,
    head, of. `place` is the median depth there. Depths beyond those of the fitted scenes are never said.
    """
    return pd.read_parquet(_stored(spec, scenes, "depths", store or Store(), head, frame, of, None) / TABLE)


def predictions(
    spec: TrainSpec, scenes: str, store: Store | None = None, *, task: str = "segmentation", **options: object
) -> UInt8[Tensor, "n h w"] | Float32[Tensor, "n h w"]:
    """What `segmentation` (classes) or `depth` (metres) says of every pixel of the test scenes, in their order."""
    full = {"head": "linear", "frame": FRAME, "of": "trained", "void": None} | options
    target = {"segmentation": "masks", "depth": "depths"}[task]
    return load_file(_stored(spec, scenes, target, store or Store(), **full) / PREDICTED)["predicted"]


def _stored(
    spec: TrainSpec, name: str, target: scenery.Target, store: Store, head: str, frame: Frame, of: str, void: int | None
) -> Path:
    if of not in OF:
        raise SpecError(f"what is probed must be {', '.join(OF)}, found {of!r}; choose one of them.")
    shape, frame = data.load(spec.dataset).shape, tuple(frame)
    options = {"channels": shape[0], "void": void}
    fit, test = (scenery.load(name, target, part, frame, **options) for part in ("train", "test"))
    fit_on, tested = fit.fingerprint, test.fingerprint
    encoder = training.key(spec, data.load(spec.dataset).fingerprint)
    if of in ("pixels", "place"):  # of the encoder no more than its architecture counts
        encoder = [spec.encoder.key(), list(shape)] if of == "pixels" else ""
    head = "none" if of == "place" else head
    key = digest("dense", target, encoder, of, fit_on, tested, head, SETTINGS, version_of("probes"))

    def write(folder: Path) -> None:
        torch.set_num_threads(spec.compute.threads)
        if target == "masks":
            row, found = _segmented(spec, store, fit, test, head, of)
        else:
            row, found = _sounded(spec, store, fit, test, head, of)
        counts = {"fit": len(fit), "test": len(test), "head": head, "of": of}
        pd.DataFrame([row | counts]).to_parquet(folder / TABLE, index=False)
        save_file({"predicted": found.contiguous()}, folder / PREDICTED)

    meta = {"spec": spec.model_dump(mode="json"), "scenes": name, "target": target, "of": of, "head": head}
    return store.compute(KIND, key, write, meta)


def _maps_of(spec: TrainSpec, store: Store, of: str, parts: Sequence[Scenes]) -> list[Maps]:
    """The maps of each part under the encoder, its initialisation, or of the pixels at the encoder's positions."""
    model = model_of(spec, store, "untrained" if of == "pixels" else of)
    if of != "pixels":
        return [maps(model, part.images) for part in parts]
    height = parts[0].images.shape[2]
    strides = [round(height / level.shape[2]) for level in maps(model, parts[0].images[:1])]
    return [pixel_maps(part.images, strides) for part in parts]


# ---------------------------------------------------------------- classes
def _segmented(
    spec: TrainSpec, store: Store, fit: Scenes, test: Scenes, head: str, of: str
) -> tuple[dict[str, float], UInt8[Tensor, "n h w"]]:
    classes = max(len(fit.classes), len(test.classes))
    names = max(fit.classes, test.classes, key=len)
    known = fit.targets[fit.targets != fit.void]
    if len(known.unique()) < 2:
        raise DataError(f"a probe needs 2 classes, all pixels of the masks of {fit.name} are of one; take others.")
    if of == "place":
        counts = torch.stack([(fit.targets == number).sum(0) for number in range(classes)])
        found = counts.argmax(0).expand(len(test), -1, -1)
    else:
        first, second = _maps_of(spec, store, of, [fit, test])

        def loss(logits: Tensor, wanted: Tensor) -> Tensor:
            return F.cross_entropy(logits, wanted.long(), ignore_index=fit.void)

        found = Head(head, first, fit.targets, classes, loss, spec.compute.device)(second).argmax(1)
    found = found.to(torch.uint8)
    return overlaps(found, test.targets, names, test.void), found


def overlaps(
    found: UInt8[Tensor, "n h w"], wanted: UInt8[Tensor, "n h w"], classes: Sequence[str], void: int
) -> dict[str, float]:
    """miou, pixel_accuracy and `iou CLASS` of predicted classes, over all pixels that are not void (torchmetrics)."""
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

    known = wanted != void
    if not known.any():
        raise DataError("all pixels of the test masks are void; take scenes with classes.")
    found, wanted = found[known].long(), wanted[known].long()
    count = max(len(classes), 2)
    each = multiclass_jaccard_index(found, wanted, num_classes=count, average="none")
    seen = torch.bincount(torch.cat([found, wanted]), minlength=count) > 0
    iou = {f"iou {name}": float(each[at]) if seen[at] else float("nan") for at, name in enumerate(classes)}
    accuracy = multiclass_accuracy(found, wanted, num_classes=count, average="micro")
    return {"miou": float(each[seen].mean()), "pixel_accuracy": float(accuracy), **iou}


# ---------------------------------------------------------------- depths
def _sounded(
    spec: TrainSpec, store: Store, fit: Scenes, test: Scenes, head: str, of: str
) -> tuple[dict[str, float], Float32[Tensor, "n h w"]]:
    known = fit.targets > 0
    if not known.any():
        raise DataError(f"no depth of the scenes {fit.name} is known (all are 0); check the depth maps.")
    if of == "place":
        middle = torch.where(known, fit.targets, torch.nan).nanmedian(0).values
        middle = middle.nan_to_num(float(fit.targets[known].median()))
        found = middle.expand(len(test), -1, -1).contiguous()
    else:
        first, second = _maps_of(spec, store, of, [fit, test])
        centre = float(fit.targets[known].log().mean())

        def loss(found: Tensor, wanted: Tensor) -> Tensor:
            there = wanted > 0
            gaps = found[:, 0] + centre - wanted.clamp_min(1e-6).log()
            return (gaps.abs() * there).sum() / there.sum().clamp_min(1)

        lowest, highest = fit.targets[known].aminmax()
        found = Head(head, first, fit.targets, 1, loss, spec.compute.device)(second)[:, 0] + centre
        found = found.exp().clamp(lowest, highest)
    return depth_errors(found, test.targets), found


def depth_errors(found: Float32[Tensor, "n h w"], wanted: Float32[Tensor, "n h w"]) -> dict[str, float]:
    """abs_rel and delta1 over all pixels whose depth is known (above 0)."""
    known = wanted > 0
    if not known.any():
        raise DataError("no depth of the test scenes is known (all are 0); check the depth maps.")
    found, wanted = found[known].double(), wanted[known].double()
    ratio = torch.maximum(found / wanted, wanted / found)
    return {
        "abs_rel": float(((found - wanted).abs() / wanted).mean()),
        "delta1": float((ratio < DELTA).double().mean()),
    }


def pictured(
    spec: TrainSpec, scenes: str, rows: Sequence[int], store: Store | None = None, **options: object
) -> pd.DataFrame:
    """Test scenes with their masks and what different features make of them: one row a scene and `what`.

    `options` as for `segmentation`, without `of`. Columns: scene (its place in the test part), what (image, truth,
    trained, untrained, pixels), pixels (flat uint8: colours of the image, else class numbers), c, h, w.
    """
    frame, void = tuple(options.get("frame", FRAME)), options.get("void")
    channels = data.load(spec.dataset).shape[0]
    test = scenery.load(scenes, "masks", "test", frame, channels=channels, void=void)
    parts = {"image": test.images, "truth": test.targets[:, None]}
    for of in OF[:3]:
        parts[of] = predictions(spec, scenes, store, of=of, **options)[:, None]
    found = []
    for row in rows:
        for what, part in parts.items():
            sizes = dict(zip("chw", part.shape[1:], strict=True))
            found.append({"scene": row, "what": what, "pixels": list(part[row].numpy().ravel()), **sizes})
    return pd.DataFrame(found)
