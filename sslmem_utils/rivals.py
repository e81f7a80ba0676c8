"""Rivals: scores that compete with m on the same images, all turned so that larger is more memorized or atypical.

    rivals.table(base, seed)        # one row an image of the four sets, one column a rival
    rivals.NAMES                    # what each of them is, and where it comes from

The supervised ones (`el2n`, `forgetting`) are trained by the same loop, data, encoder and schedule as f. They see the
labels, and a planted image keeps the label of its place: labels that do not fit are part of what they find.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from . import pairs, recipes, scoring, stats, training, views
from .data import ImageSet
from .methods import Batch, Method
from .specs import SETS, MethodSpec, ScoreSpec, TrainSpec, ViewSpec, digest, seed_of
from .splits import Split, shuffle_keys
from .store import Store
from .versions import version_of

NAMES = {
    "align_f": "minus the alignment loss under f alone: no reference encoder",
    "align_g": "alignment loss under g alone: f takes no part",
    "m_random": "m_rel with g at its random initialisation: no second training",
    "knn_pixels": "mean distance to the 5 nearest other images, in pixel space",
    "knn_features": "the same distance between f's representations of the images themselves",
    "el2n": "norm of softmax minus one-hot label after the first tenth of supervised training (arXiv 2107.07075)",
    "forgetting": "epochs after which a supervised encoder no longer classifies the image rightly (arXiv 1812.05159)",
    "loss_gap": "g's less f's own training loss of the image, over the same views",
}
KIND, SUPERVISED = "rivals", "supervised"  # kinds of artifacts
RUNS = 3  # supervised trainings averaged; the paper of EL2N takes 10
EARLY = 0.1  # share of the epochs after which EL2N is taken
DRAWS = 10  # pairs of views over which an image's loss is averaged
COUPLED = ("vicreg", "barlow_twins")  # their loss is no mean over images, so that an image has none of its own
VERSIONS = ("canaries", "encoders", "methods", "rivals", "scoring", "splits", "stats", "training", "views")
_ROWS = 320  # images of one forward pass


def table(base: TrainSpec, seed: int, store: Store | None = None, score: ScoreSpec | None = None) -> pd.DataFrame:
    """Every rival on every image of the four sets of one replication, trained and computed where it is missing.

    Columns: row, set and those of NAMES. f and g are those of `pairs.pair_specs(base, seed)`, aligned as `score` says
    (default: the setting of all claims). `el2n` and `forgetting` are NaN for images that f does not train on and for
    datasets with images without labels, `loss_gap` for methods in COUPLED and for SimCLR without external images.
    """
    store, score = store or Store(), score or ScoreSpec()
    f, g = pairs.pair_specs(base, seed)
    given = training.inputs(f)
    marks = [training.key(spec, given.split.fingerprint) for spec in (f, g)]
    name = digest(*marks, score.key(), RUNS, EARLY, DRAWS, version_of(*VERSIONS))

    def write(folder: Path) -> None:
        found = _table(f, g, given, score, store)
        found.to_parquet(folder / "rivals.parquet", index=False)

    meta = {"f": marks[0], "g": marks[1], "score": score.model_dump(mode="json")}
    return pd.read_parquet(store.compute(KIND, name, write, meta) / "rivals.parquet")


def _table(f: TrainSpec, g: TrainSpec, given: training.Inputs, score: ScoreSpec, store: Store) -> pd.DataFrame:
    pairs.align_all([f, g], [score], store)
    training.train_all([f, g], store)  # weights may have been removed since they were aligned
    torch.set_num_threads(f.compute.threads)
    images, split = given.images, given.split
    rows, names = split.rows(*SETS), split.names()
    align_f, align_g = (pairs.alignment(spec, score, store)["align"].to_numpy() for spec in (f, g))
    untrained = pairs.align_on(pairs.untrained(g), score, g)["align"].to_numpy()
    of_f, of_g = (training.load(spec, store) for spec in (f, g))
    features = outputs(lambda x: of_f.features(x, score.representation), of_f, images, rows)
    if score.normalize:
        features = F.normalize(torch.from_numpy(features), dim=1).numpy()
    view_seed = seed_of("loss views", images.fingerprint, score.view_seed)
    loss_f, loss_g = (losses(model, spec, images, split, rows, view_seed) for model, spec in ((of_f, f), (of_g, g)))
    found = pd.DataFrame(
        {
            "row": rows,
            "set": [names[int(row)] for row in rows],
            "align_f": -align_f,
            "align_g": align_g,
            "m_random": scoring.relative_to_sum(untrained, align_f),
            "knn_pixels": stats.knn_distance(images.rows(rows).numpy()),
            "knn_features": stats.knn_distance(features),
            "loss_gap": loss_g - loss_f,
        }
    )
    found = found.merge(_supervised(f, given, store), on="row", how="left")
    return found[["row", "set", *NAMES]]


@torch.no_grad()
def outputs(
    call: Callable[[Tensor], Tensor], model: torch.nn.Module, images: ImageSet, rows: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "n d"]:
    """What `call` makes of the images themselves, in [0, 1] on the model's device; the model is in evaluation mode."""
    device, mode = next(model.parameters()).device, model.training
    model.eval()
    parts = (images.rows(rows[at : at + _ROWS]).to(device).float() / 255 for at in range(0, len(rows), _ROWS))
    found = torch.cat([call(part).float().cpu() for part in parts]).numpy()
    model.train(mode)
    return found


# ---------------------------------------------------------------- supervised training
def el2n(logits: Float32[np.ndarray, "n c"], labels: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Norm of the error vector, ||softmax(logits) - onehot(label)||_2, in [0, sqrt(2)] (arXiv 2107.07075)."""
    p = torch.softmax(torch.from_numpy(logits).double(), dim=1)
    return (p - F.one_hot(torch.from_numpy(labels), p.shape[1])).norm(dim=1).numpy()


def forgetting(right: Bool[np.ndarray, "e n"]) -> Float64[np.ndarray, " n"]:
    """Forgetting events of n images, from whether each was classified rightly after each of e epochs.

    An event is a step from right to wrong (arXiv 1812.05159). Images never classified rightly get e, more than any
    other can have, as the paper sorts them behind all others; those learned for good get 0.
    """
    events = (right[:-1] & ~right[1:]).sum(0).astype(np.float64)
    return np.where(right.any(0), events, len(right))


def supervised_specs(f: TrainSpec, classes: int) -> list[TrainSpec]:
    """The supervised trainings beside f: its images, encoder, views without masks and schedule, RUNS other seeds.

    Where nothing but a mask makes the views, they are those of the dataset's recipe.
    """
    view = f.view.but(mask=0.0, mask_patch=4, mask_kind="random")
    if view.but(size=None) == ViewSpec():
        view = recipes.FAMILY[recipes.FAMILIES.get(f.dataset.name, "colour")]["view"].but(size=view.size)
    method = MethodSpec(name="supervised", options={"classes": classes})
    compute = f.compute.but(processes=1)
    return [f.but(method=method, view=view, compute=compute, seed=RUNS * f.seed + run) for run in range(RUNS)]


def _supervised(f: TrainSpec, given: training.Inputs, store: Store) -> pd.DataFrame:
    """row, el2n and forgetting of the images that f trains on, averaged over the runs; NaN where labels are missing."""
    if int(given.images.labels[given.rows].min()) < 0:
        return pd.DataFrame({"row": given.rows, "el2n": np.nan, "forgetting": np.nan})
    classes = max(2, len(given.images.classes), int(given.images.labels.max()) + 1)
    runs = [_one_run(spec, given, store) for spec in supervised_specs(f, classes)]
    return pd.concat(runs).groupby("row", as_index=False).mean()


def _one_run(spec: TrainSpec, given: training.Inputs, store: Store) -> pd.DataFrame:
    name = digest(training.key(spec, given.split.fingerprint), EARLY, version_of(*VERSIONS))

    def write(folder: Path) -> None:
        _watched(spec, given).to_parquet(folder / "supervised.parquet", index=False)

    meta = {"spec": spec.model_dump(mode="json")}
    return pd.read_parquet(store.compute(SUPERVISED, name, write, meta) / "supervised.parquet")


def _watched(spec: TrainSpec, given: training.Inputs) -> pd.DataFrame:
    """One supervised training, its training images (as they are, not augmented) classified after every epoch."""
    torch.set_num_threads(spec.compute.threads)
    images, rows = given.images, given.rows
    labels, early = images.labels[rows].numpy(), max(1, round(EARLY * spec.epochs))
    state, right, norms = training.Training.start(training.resolved(spec), images.shape), [], []

    def look(state: training.Training) -> None:
        model = state.model
        logits = outputs(lambda x: model.classifier(model.encoder(x)), model, images, rows)
        right.append(logits.argmax(1) == labels)
        if state.epoch == early:
            norms.append(el2n(logits, labels))

    training.run(state, training.Source.of(images, torch.from_numpy(rows)), look)
    return pd.DataFrame({"row": rows, "el2n": norms[0], "forgetting": forgetting(np.stack(right))})


# ---------------------------------------------------------------- the loss of one image
@torch.no_grad()
def losses(
    model: Method, spec: TrainSpec, images: ImageSet, split: Split, rows: Int64[np.ndarray, " n"], seed: int
) -> Float64[np.ndarray, " n"]:
    """The encoder's own training loss of single images (n,), in evaluation mode, the mean over DRAWS draws of views.

    SimCLR: the cross entropy with which one view of the image picks its other view out of that and two views each of
    a fixed set of external images, as many as a batch has beside it, averaged over both directions; an external image
    is left out of its own negatives. SimSiam, BYOL, DINO, MAE and supervised training: the loss of a batch that holds
    nothing but views of this image, because theirs is a mean over images. NaN where an image has no loss of its own
    (COUPLED), and for SimCLR without external images. The views depend on `seed`, image and draw alone.
    """
    if spec.method.name in COUPLED or (spec.method.name == "simclr" and not len(split.external)):
        return np.full(len(rows), np.nan)
    model = model.eval()
    if spec.method.name == "simclr":
        return _contrastive(model, spec, images, split, rows, seed)
    plan, device = model.plan(spec.view), next(model.parameters()).device
    kept = [buffer.clone() for buffer in model.buffers()]  # DINO's centre follows every batch that it sees
    found = np.empty(len(rows))
    for at, row in enumerate(torch.from_numpy(rows)):
        x, key = images.rows(row[None]).to(device), images.ids[row[None]].to(device)
        numbers, drawn, hidden = torch.arange(DRAWS * sum(k for _, k in plan), device=device), [], None
        for view, k in plan:
            some, numbers = numbers[: DRAWS * k], numbers[DRAWS * k :]
            drawn.append(views.views(x, key, view, some, seed)[0].unflatten(0, (DRAWS, k)))
            if view.mask:
                hidden = views.mask(view, key, some, seed, images.shape)[0].unflatten(0, (DRAWS, k))
        labels = images.labels[row].to(device).expand(DRAWS)
        found[at] = float(model(Batch(tuple(drawn), labels, hidden)))
        for buffer, value in zip(model.buffers(), kept, strict=True):
            buffer.copy_(value)
    return found


def _contrastive(
    model: Method, spec: TrainSpec, images: ImageSet, split: Split, rows: Int64[np.ndarray, " n"], seed: int
) -> Float64[np.ndarray, " n"]:
    order = np.argsort(shuffle_keys(seed_of(seed, "references"), split.external), kind="stable")
    references = split.external[order[: spec.batch - 1]]
    device = next(model.parameters()).device

    def embed(some: np.ndarray, count: int) -> Tensor:
        """Normalised projections (b, count, p) of the first `count` views."""
        x, key = images.rows(some).to(device), images.ids[some].to(device)
        drawn = views.views(x, key, spec.view, torch.arange(count, device=device), seed)
        return F.normalize(model.projector(model.encoder(drawn.flatten(0, 1))), dim=1).unflatten(0, drawn.shape[:2])

    others = torch.cat([embed(references[at : at + _ROWS], 2) for at in range(0, len(references), _ROWS)])
    step, found = max(1, 2**21 // (4 * DRAWS * len(references))), []
    for at in range(0, len(rows), step):
        some = rows[at : at + step]
        z = embed(some, 2 * DRAWS)
        same = torch.from_numpy(some[:, None] == references).to(device)[:, None, :, None]
        against = torch.einsum("nkp,rvp->nkrv", z, others).masked_fill(same, -torch.inf).flatten(2)
        pair = z.unflatten(1, (DRAWS, 2))
        positive = (pair[:, :, 0] * pair[:, :, 1]).sum(2).repeat_interleave(2, dim=1)
        logits = torch.cat([positive[..., None], against], 2).double() / model.criterion.temperature
        found.append((logits.logsumexp(2) - logits[..., 0]).mean(1).cpu())
    return torch.cat(found).numpy()
