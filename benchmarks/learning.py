"""Do the methods learn? Accuracy of every method's features beside those of pixels and of an untrained encoder.

CIFAR-10, few images, few epochs: enough to see that a method learns and does not collapse, far from what it can do.
Pixels and untrained encoders are strong on small images, which is why they stand beside. kNN and logistic regression
read features of images that no encoder saw. Asked for by name only (`--only learning`), because it takes an hour.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sslmem_utils import data, methods, pairs, recipes, training
from sslmem_utils.data import ImageSet
from sslmem_utils.methods import Method
from sslmem_utils.specs import EncoderSpec, TrainSpec
from sslmem_utils.store import Store

from . import table

LINE = "learning"
N, QUERIES, EPOCHS, SEEDS = 3000, 2000, 12, 1
LONG = ((["simclr"], 10_000, 20), (["byol", "mae"], 10_000, 15))  # methods that need more images, slower ones last


def tasks(effort: table.Effort) -> Iterator[tuple[str, Callable]]:
    """All methods at the small budget; SimCLR, and those that beat nothing there, at a larger one."""
    yield f"{LINE} all methods", partial(learned, effort, methods.METHODS.names(), N, EPOCHS, range(SEEDS))
    for names, n, epochs in LONG:
        yield f"{LINE} {' and '.join(names)}, longer", partial(learned, effort, names, n, epochs, range(1))


def base_of(method: str, n: int, epochs: int) -> TrainSpec:
    """The recipe of a method on n images; MAE with a small ViT, everything else with the small CNN."""
    changes = {"batch": 250, "epochs": epochs, "lr": 0.002}
    if method == "mae":
        changes["encoder"] = EncoderSpec(name="vit", options={"width": 128})
    return recipes.recipe("cifar10", method=method, shared=n // 2, candidate=n // 2, external=QUERIES, **changes)


def learned(effort: table.Effort, names: list[str], n: int, epochs: int, seeds: range) -> list[table.Row]:
    """kNN and linear accuracy and spread of every method, and of pixels and untrained encoders on the same images."""
    n, epochs, found = effort.of(n), effort.of(epochs), {}
    specs = {(name, seed): pairs.pair_specs(base_of(name, n, epochs), seed)[0] for name in names for seed in seeds}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        training.train_all(list(specs.values()), store)
        for (name, seed), spec in specs.items():
            images = data.load(spec.dataset)
            fresh = training.Training.start(training.resolved(spec), images.shape).model.eval()
            for case, model in (
                (f"{name}, {spec.encoder.name}", training.load(spec, store)),
                (f"untrained {spec.encoder.name}", fresh),
                ("pixels", None),
            ):
                if (case, seed) not in found:
                    found[case, seed] = accuracies(images, spec, model)
    note = f"{n:,} images, {epochs} epochs, one value a seed; chance .1"
    return [
        table.row(LINE, case, quantity, "", values, images="cifar10", note=note)
        for case in dict.fromkeys(case for case, _ in found)
        for quantity, values in _together([numbers for (one, _), numbers in found.items() if one == case]).items()
    ]


def _together(numbers: list[dict[str, float]]) -> dict[str, list[float]]:
    return {quantity: [one[quantity] for one in numbers] for quantity in numbers[0]}


def accuracies(images: ImageSet, spec: TrainSpec, model: Method | None) -> dict[str, float]:
    """kNN and linear accuracy on external images from the training images' features (None: from pixels)."""
    split = training.split_of(spec)
    rows = [torch.from_numpy(split.rows(*sets)) for sets in (spec.sets, ("external",))]
    wanted, asked = (images.labels[some] for some in rows)
    bank, queries = (_features(model, images.rows(some)) for some in rows)
    scaler = StandardScaler().fit(bank.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 rounds order the methods as 3,000 do
        probe = LogisticRegression(C=0.01, max_iter=300).fit(scaler.transform(bank.numpy()), wanted.numpy())
    found = {
        "kNN accuracy": training.knn_accuracy(bank, wanted, queries, asked),
        "linear accuracy": float(probe.score(scaler.transform(queries.numpy()), asked.numpy())),
    }
    return found if model is None else found | {"spread": training.spread(queries)}


@torch.no_grad()
def _features(model: Method | None, images: Tensor) -> Tensor:
    """Pooled features, of a ViT the mean of its patch tokens; pixels without a model."""
    if model is None:
        return images.flatten(1).float() / 255
    where = "mean_patch" if model.encoder.patches else "pooled"
    return torch.cat([model.features(part.float() / 255, where).float() for part in images.split(250)])
