"""`sslmem score` and `sslmem remove`: scores of encoders trained anywhere, and what to leave out next time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SpecError
from .tables import check_ending, read_scores, write_scores

if TYPE_CHECKING:
    from torch import nn

    from ..specs import EncoderSpec, ViewSpec


def score(
    f: Annotated[
        str, typer.Option("--f", help="weights of the encoder in question: file, folder of a training, or a name")
    ],
    encoder: Annotated[str, typer.Option(help="its architecture: cnn, resnet18, vit, ...")],
    images: Annotated[str, typer.Option(help="folder, zip file or dataset")],
    out: Annotated[Path, typer.Option(help="write the table here (.parquet or .csv)")],
    g: Annotated[str | None, typer.Option("--g", help="weights of the reference, trained without the images")] = None,
    options: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="options of the encoder")] = None,
    views: Annotated[str, typer.Option(help="view policy: simclr, mae, ... or a YAML file")] = "simclr",
    size: Annotated[int | None, typer.Option(help="resize images to so many pixels")] = None,
    mean: Annotated[
        str | None, typer.Option(help="of the pixels in [0, 1]: one number or one a channel, 0.5,0.5,0.5")
    ] = None,
    std: Annotated[str | None, typer.Option(help="their deviation, likewise")] = None,
    k: Annotated[int, typer.Option(help="views that are compared")] = 20,
    sets: Annotated[Path | None, typer.Option(help="CSV file with the columns index and set")] = None,
    representation: Annotated[str, typer.Option(help="pooled, tokens, layer:NAME, ...")] = "pooled",
    distance: Annotated[str, typer.Option(help="l2, cosine, l1 or angular")] = "l2",
    comparison: Annotated[str, typer.Option(help="pairs of views, or anchor (the official code)")] = "pairs",
    seed: Annotated[int, typer.Option(help="of the views")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="threads on a CPU; scores agree to the bit for equal numbers")] = 1,
    report: Annotated[Path | None, typer.Option(help="write a page to look at here (.html)")] = None,
) -> None:
    """Score the images of a folder by encoders trained anywhere.

    With --f alone the table holds alignments and, when --sets lists external images, the p-value that each image was
    in the training set. What is finished is kept: the same command goes on after a stop.
    """
    check_ending(out)
    if report is not None:
        check_ending(report, (".html",))
    from .. import own
    from ..store import Store, write_atomic

    found = own.pictures(images, size=size)
    models, digests = {}, {}
    view = _view(views)
    for who, weights in (("f", f), ("g", g)):
        if weights is not None:
            spec = _spec(weights, encoder, options or [])
            models[who], digests[who] = _built(spec, found.shape, view, mean, std)
    table = own.score(
        models["f"], models.get("g"), found, view=view, views=k, representation=representation, distance=distance,
        comparison=comparison, sets=sets, seed=seed, device=device, threads=threads, resume=Store().root,
    )  # fmt: skip
    table.attrs["settings"] |= {"encoder": encoder, "weights": digests, "mean": mean, "std": std}
    kept = table
    if g is None and (table["set"] == "external").sum() > 1:
        kept, rates = own.audit(table)
        print("share of images with a membership p-value at or below the level (95 % interval):")
        print(rates.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
        print("valid where external images are exchangeable with candidates that were not trained on\n")
    write_scores(kept, out)
    for note in table.attrs["notes"]:
        print(f"note: {note}")
    print(f"wrote {out}: {len(table):,} rows")
    if report is not None:
        page = own.report(table, found)
        write_atomic(report, lambda file: file.write_text(page, encoding="utf-8"))
        print(f"wrote {report}")


def remove(
    scores: Annotated[Path, typer.Option(help="table of scores (.parquet or .csv)")],
    top: Annotated[str, typer.Option(help="a share such as 5%, or a number of images")],
    out: Annotated[Path, typer.Option(help="write the list here (.csv)")],
    column: Annotated[str, typer.Option(help="score to go by")] = "m_rel",
    of: Annotated[str | None, typer.Option("--set", help="only images of this set")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="the share or number of each class")] = False,
) -> None:
    """List the images with the highest scores, to train again without them."""
    check_ending(out, (".csv",))
    from .. import own
    from ..store import write_atomic

    table = read_scores(scores)
    chosen = own.removal(table, top, column, of, per_class)
    write_atomic(out, lambda file: chosen.to_csv(file, index=False))
    print(f"wrote {out}: {len(chosen):,} of {len(table):,} images, {column} of {chosen['score'].min():.4f} and more")


def _spec(weights: str, encoder: str, options: list[str]) -> EncoderSpec:
    from ..specs import EncoderSpec

    values = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise SpecError(f"an option of the encoder is NAME=VALUE, found {option!r}.")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    inside = Path(weights).expanduser() / "weights.safetensors"  # the folder of a training in the store
    return EncoderSpec(name=encoder, options=values, weights=str(inside) if inside.is_file() else weights)


def _built(
    spec: EncoderSpec, shape: tuple[int, int, int], view: str | ViewSpec, mean: str | None, std: str | None
) -> tuple[nn.Module, str]:
    """The encoder for views of these images, reading pixels with `mean` and `std`, and what identifies its weights."""
    from .. import encoders
    from ..own.adapters import per_channel
    from ..views import view_shape

    model = encoders.build(spec, shape if isinstance(view, str) else view_shape(view, shape))
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            setattr(model, name, per_channel(f"--{name}", _numbers(name, text), shape[0]))
    return model, encoders.weights_digest(spec)


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"--{name} is one number or several with commas, found {text!r}.") from None


def _view(name: str) -> str | ViewSpec:
    """A policy by its name, or read from a YAML file of its fields."""
    if not name.endswith((".yaml", ".yml")):
        return name
    import yaml

    from ..specs import ViewSpec

    try:
        fields = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SpecError(f"the views {name} cannot be read as YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(fields, dict):
        raise SpecError(f"the views {name} must hold fields such as `flip: 0.5`, found {fields!r}.")
    return ViewSpec(**fields)
