"""`sslmem train`: a pair of encoders on any dataset, and the score of every image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .tables import check_ending, write_scores


def train(
    dataset: Annotated[str, typer.Argument(help="a known or imported dataset (sslmem data list)")],
    candidates: Annotated[int, typer.Option(help="images only f sees; g gets as many of its own")] = 125,
    shared: Annotated[int, typer.Option(help="images both see")] = 125,
    external: Annotated[int, typer.Option(min=1, help="images neither sees")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="how many pairs, each with its own split")] = 1,
    method: Annotated[str | None, typer.Option(help="SSL method (default: the recipe of the dataset)")] = None,
    encoder: Annotated[str | None, typer.Option(help="encoder architecture")] = None,
    view: Annotated[str | None, typer.Option(help="view policy by name: weak, normal, strong, ...")] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the training images")] = None,
    batch: Annotated[int | None, typer.Option(help="images a step")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    weights: Annotated[
        str | None, typer.Option(help="start from a weights file, or timm:NAME, torchvision:NAME")
    ] = None,
    knn_every: Annotated[int, typer.Option(min=0, help="measure kNN accuracy every so many epochs; 0: never")] = 0,
    views: Annotated[int, typer.Option(min=2, help="views K that the score compares")] = 20,
    size: Annotated[int | None, typer.Option(help="resize images to so many pixels")] = None,
    part: Annotated[str, typer.Option(help="train, test or all")] = "all",
    output: Annotated[Path | None, typer.Option(help="write the score table here (.csv or .parquet)")] = None,
) -> None:
    """Train encoders f and g on a dataset and score its images.

    Trained encoders are kept and reused; where their weights are is printed at the end. From 64 pixels on ResNets get
    the ImageNet stem, and ViTs patches that leave at most 16 x 16. Several processes share the
    trainings when torchrun starts them: torchrun --standalone --nproc-per-node 2 -m sslmem_utils train ...
    """
    if output is not None:
        check_ending(output)
    from .. import data, encoders, pairs, recipes, stats, training
    from .. import views as policies
    from ..specs import DatasetSpec, ScoreSpec
    from ..store import Store

    given = {"method": method, "encoder": encoder, "epochs": epochs, "batch": batch, "lr": lr}
    changes = {name: value for name, value in given.items() if value is not None}
    if view is not None:
        changes["view"] = policies.named(view)
    compute = training.compute_here().but(processes=training.here())
    base = recipes.recipe(
        DatasetSpec(name=dataset, size=size, part=part),
        candidate=candidates,
        shared=shared,
        external=external,
        compute=compute,
        **changes,
    )
    base = base.but(encoder=recipes.suited(base.encoder, data.load(base.dataset).shape))
    if base.view.mask:
        base = base.but(
            view=base.view.but(mask_patch=encoders.options(base.encoder).get("patch", base.view.mask_patch))
        )
    if weights is not None:
        base = base.but(encoder=base.encoder.but(weights=weights))
    specs = [spec for seed in range(seeds) for spec in pairs.pair_specs(base, seed)]
    folders = training.train_all(specs, knn_every=knn_every)
    if not training.leave():
        return
    score = ScoreSpec(views=views, compute=compute.but(processes=1))
    model = training.load(specs[0])
    where = ["pooled"] + ["mean_patch"] * model.encoder.patches + ["projector"] * (model.projector is not None)
    table = pairs.scores(base, range(seeds), [score.but(representation=name) for name in where])
    means = stats.set_means(table).pivot_table(index=["representation", "seed"], columns="set", values="centred")
    print("centred mean of m_rel, set by set:\n" + means.to_string(float_format=lambda value: f"{value:.4f}"))
    top = stats.ranking(table[table["representation"] == "pooled"]).head(10)
    print("\nmost memorized images:\n" + top.drop(columns="row").to_string(index=False))
    print("\nweights (safetensors) and metrics of each encoder:")
    for number, folder in enumerate(folders):
        print(f"seed {number // 2}, {'fg'[number % 2]}: {folder}")
    if output is not None:
        f, g = (spec.model_dump(mode="json") for spec in specs[:2])
        took = sum(Store().meta(training.KIND, folder.name)["seconds"] for folder in folders) / len(folders)
        table.attrs["settings"] = {"f": f, "g": g, "seeds": seeds, "score": score.model_dump(mode="json")}
        table.attrs["settings"] |= {"seconds_per_encoder": round(took, 3)}
        table.attrs["notes"] = [f"one pair of encoders for each of {seeds} seeds; f and g are those of seed 0"]
        write_scores(table, output)
        print(f"\nwrote {output}: {len(table):,} rows")
