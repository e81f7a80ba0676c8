"""Experiments that differ in one thing, and how their encoders are scored."""

from __future__ import annotations

from collections.abc import Sequence

from .. import data, encoders, methods, recipes
from .. import views as policies
from ..errors import DataError, SpecError
from ..specs import EncoderSpec, ScoreSpec, TrainSpec, ViewSpec


def experiment(dataset: str, method: str, encoder: str | EncoderSpec, **fields: object) -> TrainSpec:
    """The recipe of a method on a dataset, supervised training with as many classes as the dataset has.

    `fields` as for `recipes.recipe`. DataError for supervised training on a dataset with images without labels, before
    anything is trained.
    """
    base = recipes.recipe(dataset, method=method, encoder=encoder, **fields)
    if not methods.METHODS.get(method).labelled:
        return base
    images = data.load(base.dataset)
    if int(images.labels.min()) < 0:
        raise DataError(
            f"{method} training needs a label for every image, found images of {images.name} without; take {method} "
            "out of the methods or label the images."
        )
    classes = max(2, len(images.classes), int(images.labels.max()) + 1)
    return base.but(method=base.method.but(options={**base.method.options, "classes": classes}))


def setting(base: TrainSpec, views: int = 20, view: ViewSpec | None = None) -> ScoreSpec:
    """How encoders of `base` are scored: MAE at the mean of its visible patches, all others at the backbone's output.

    `view` replaces the policy that they were trained with. SpecError for one that hides patches of an encoder that
    has none.
    """
    policy = view or base.view
    if policy.mask and not encoders.ENCODERS.get(base.encoder.name).patches:
        raise SpecError(
            f"the view policy hides patches and {base.encoder.name} has none to hide; score a ViT with it, or set mask "
            "to 0."
        )
    return ScoreSpec(representation=recipes.representation(base), views=views, view=view, compute=base.compute)


def ways(base: TrainSpec, views: int = 20) -> dict[str, ScoreSpec]:
    """Other ways to score the same encoders, by what they change: reasons why numbers of two studies may differ."""
    ours, colour = setting(base, views), data.load(base.dataset).shape[0] == 3
    strong = policies.named("normal")  # of Wang et al. 2024 (arXiv 2409.19069)
    return {
        "as here": ours,
        "projector": ours.but(representation="projector"),
        "not normalised": ours.but(normalize=False),
        "image against view": ours.but(comparison="anchor"),  # the authors' code
        "strong views": ours.but(view=strong if colour else strong.but(saturation=0.0, hue=0.0, grayscale=0.0)),
    }


def size_of(base: TrainSpec) -> int:
    """Parameters of the encoder, heads not counted."""
    return encoders.parameters(encoders.build(base.encoder.but(weights=None), data.load(base.dataset).shape))


def matched(encoder: EncoderSpec, parameters: int, shape: tuple[int, int, int]) -> EncoderSpec:
    """The encoder for images of `shape` with the width whose number of parameters is nearest to the one given.

    An encoder without a width to choose is taken as it is. SpecError where the size is off by more than a tenth.
    """
    options = encoders.options(encoder)

    def of(steps: int) -> EncoderSpec:
        fixed = "width" not in options
        return encoder if fixed else encoder.but(options={**encoder.options, "width": steps * options.get("heads", 1)})

    def size(steps: int) -> int:
        return encoders.parameters(encoders.build(of(steps), shape))

    low, high = 1, 2
    while size(high) < parameters and "width" in options:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < parameters else (low, middle)
    steps = min((low, high), key=lambda one: abs(size(one) - parameters))
    if abs(size(steps) - parameters) > 0.1 * parameters:
        raise SpecError(
            f"encoders of one size differ by a tenth at most, found {encoder.name} with {size(steps)} parameters, "
            f"nearest to {parameters}; choose another size or encoder."
        )
    return of(steps)


def variants(
    dataset: str, sizes: Sequence[str], architectures: Sequence[EncoderSpec], parameters: int, **fields: object
) -> dict[tuple[str, str], TrainSpec]:
    """SimCLR on encoders of several sizes and on architectures of one size, by (`sizes` or `architectures`, name).

    `sizes`: encoders by name, such as resnet34, or with a width, such as cnn:64. `fields` as for `recipes.recipe`.
    """
    shape, found = data.load(recipes.recipe(dataset, **fields).dataset).shape, {}
    for text in sizes:
        name, _, width = text.partition(":")
        if width and not width.isdecimal():
            raise SpecError(f"a size is an encoder's name or NAME:WIDTH, such as cnn:64, found {text!r}; correct it.")
        found["sizes", text.replace(":", ", width ")] = EncoderSpec(
            name=name, options={"width": int(width)} if width else {}
        )
    for one in architectures:
        found["architectures", f"{one.name}, {parameters / 1000:.4g} k"] = matched(one, parameters, shape)
    return {key: experiment(dataset, "simclr", encoder, **fields) for key, encoder in found.items()}
