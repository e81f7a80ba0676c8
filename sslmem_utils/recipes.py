"""Training recipes by dataset family: settings in which a small encoder memorizes within seconds to minutes.

The paper's own hyperparameters (600 epochs, batch 4096, temperature 0.5, ResNet-50) need a large GPU. On a laptop
memorization shows quickly when few images are seen often: a mild crop, temperature 0.2, AdamW and a linear projector,
so that what the loss teaches stays in the encoder instead of in a projector that is thrown away.

The settings were chosen for a large effect at little cost, among about 50 tried on the digits with one to three seeds
each, some of them seeds that the notebooks show. An effect found with them says that memorization can be seen, not how
large it is elsewhere; MNIST and Fashion-MNIST use them unchanged.
"""

from __future__ import annotations

from . import encoders, views
from .errors import SpecError
from .specs import ComputeSpec, DatasetSpec, EncoderSpec, MethodSpec, SplitSpec, TrainSpec

GREY = views.named("digits").but(crop_scale=(0.8, 1.0), crop_ratio=(0.9, 10 / 9))
COLOUR = views.named("simclr").but(crop_scale=(0.5, 1.0))
FAST = {"epochs": 120, "batch": 125, "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.0}
FAMILY: dict[str, dict[str, object]] = {
    "digits": {**FAST, "view": GREY, "encoder": EncoderSpec(name="mlp")},
    "mnist": {**FAST, "view": GREY, "encoder": EncoderSpec(name="mlp")},
    "fashion_mnist": {**FAST, "view": GREY.but(flip=0.5), "encoder": EncoderSpec(name="mlp")},
    "colour": {**FAST, "view": COLOUR, "encoder": EncoderSpec(name="cnn"), "lr": 0.005},
}
FAMILIES = {"digits": "digits", "mnist": "mnist", "kmnist": "mnist", "fashion_mnist": "fashion_mnist"}
# What a method changes in every family.
METHOD: dict[str, dict[str, object]] = {
    "simclr": {"method": MethodSpec(name="simclr", options={"temperature": 0.2, "layers": 1})},
    "mae": {"encoder": EncoderSpec(name="vit"), "lr": 0.001, "weight_decay": 0.05, "beta2": 0.95},
    "dino": {"lr": 0.003, "clip": 3.0},
}


def recipe(
    dataset: str | DatasetSpec,
    *,
    candidate: int,
    shared: int,
    external: int,
    compute: ComputeSpec | None = None,
    **changes: object,
) -> TrainSpec:
    """The spec of f on a dataset, with a candidate and an independent set of equal size; `changes` override fields.

    `encoder` and `method` may be given as registry names. The family's `batch` is lowered to the training set's size
    when that is smaller.
    """
    dataset = DatasetSpec(name=dataset) if isinstance(dataset, str) else dataset
    unknown = set(changes) - set(TrainSpec.model_fields)
    if unknown:
        raise SpecError(f"TrainSpec has no field {min(unknown)!r}; its fields are {', '.join(TrainSpec.model_fields)}.")
    method = changes.pop("method", "simclr")
    name = method if isinstance(method, str) else method.name
    fields = {"method": MethodSpec(name=name), **FAMILY[FAMILIES.get(dataset.name, "colour")], **METHOD.get(name, {})}
    if not isinstance(method, str):
        fields["method"] = method
    if isinstance(encoder := changes.get("encoder"), str):
        changes["encoder"] = fields["encoder"] if fields["encoder"].name == encoder else EncoderSpec(name=encoder)
    fields |= changes
    if name == "mae" and "view" not in changes:  # the mask and nothing else, as in the paper
        patch = encoders.options(fields["encoder"]).get("patch", 4)  # an encoder without is refused before training
        fields["view"] = views.named("mae").but(mask_patch=patch)
    if "batch" not in changes:
        fields["batch"] = min(fields["batch"], shared + candidate)
    split = SplitSpec(shared=shared, candidate=candidate, independent=candidate, external=external)
    return TrainSpec(dataset=dataset, split=split, compute=compute or ComputeSpec(), **fields)


def suited(encoder: EncoderSpec, shape: tuple[int, int, int]) -> EncoderSpec:
    """The encoder with what large images (c, h, w) call for and its options leave open: from 64 pixels on the ImageNet
    stem of a ResNet, and patches of a ViT so that there are at most 16 down and across."""
    known, side = encoders.options(encoder), max(shape[1:])
    if side < 64:
        return encoder
    if "stem" in known:
        return encoder.but(options={"stem": "imagenet", **encoder.options})
    patch = next((p for p in range(-(-side // 16), side + 1) if not (shape[1] % p or shape[2] % p)), side)
    return encoder.but(options={"patch": patch, **encoder.options}) if "patch" in known else encoder


def representation(spec: TrainSpec) -> str:
    """Where encoders of a recipe are scored: MAE at the mean of its visible patches, others at the pooled output."""
    return "mean_patch" if spec.method.name == "mae" else "pooled"
