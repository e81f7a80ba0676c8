"""Specs: frozen, typed, validated descriptions of exactly what to compute.

A spec has one canonical JSON text and one key (a hash of that text). Nothing here imports torch, so that the command
line can check a plan before anything heavy is loaded. Defaults are commented with their reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from .errors import SpecError

Scalar = bool | int | float | str
Range = Annotated[tuple[float, float], Field(strict=False)]
SETS = ("shared", "candidate", "independent", "external")
SetName = Literal["shared", "candidate", "independent", "external"]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def digest(*parts: object, length: int = 20) -> str:
    """Hex digest of the canonical JSON of `parts`: the one hash function of keys, fingerprints and seeds."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def seed_of(*parts: object) -> int:
    """A 63-bit seed derived from `parts`: streams that share no draw whenever any part differs."""
    return int(digest(*parts, length=16), 16) >> 1


class Spec(BaseModel):
    """Base of all specs: immutable, no unknown fields, errors in one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SpecError(_one_sentence(type(self).__name__, error, type(self).model_fields)) from None

    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no white space; equal specs have equal text on every machine."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def key(self) -> str:
        """Hash of the kind of spec and its canonical JSON (20 hexadecimal digits)."""
        return digest(type(self).__name__, self.model_dump(mode="json"))

    def __hash__(self) -> int:
        return hash(self.key())

    def but(self, **changes: object) -> Spec:
        """A copy with some fields changed, validated like a new one."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def _one_sentence(kind: str, error: ValidationError, fields: dict) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{kind} has no field {name!r}; its fields are {', '.join(fields)}."
    message = first["msg"].removeprefix("Value error, ")
    where = f" {name}" if name else ""
    found = f" (found {first['input']!r})" if name else ""
    return f"{kind}{where}: {message}{found}."


class DatasetSpec(Spec):
    """Which images: a registry or imported name, optionally some classes, a part, and a size.

    `classes` keeps images of these class names only; `limit` keeps the first so many images after a seeded shuffle
    (per-class balanced), which is how profiles cut large sets down; `size` resizes to a square of so many pixels.
    """

    name: str = "digits"
    part: Literal["train", "val", "test", "unlabeled", "all"] = "all"
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    limit: Annotated[int, Field(ge=1)] | None = None
    size: Annotated[int, Field(ge=4, le=1024)] | None = None


class SplitSpec(Spec):
    """Sizes of the four disjoint sets and the seed that draws them (stratified by class where possible)."""

    shared: Annotated[int, Field(ge=0)]
    candidate: Annotated[int, Field(ge=1)]
    independent: Annotated[int, Field(ge=0)]
    external: Annotated[int, Field(ge=0)]
    seed: Seed = 0

    @model_validator(mode="after")
    def _equal_training_sets(self) -> SplitSpec:
        if self.independent and self.independent != self.candidate:
            raise ValueError(
                f"f and g must train on equally many images, found {self.candidate} candidates and "
                f"{self.independent} independents; make them equal"
            )
        return self


class SubsetSpec(Spec):
    """Which of the images of its sets one encoder of an ensemble trains on: a share of them, or all but a few.

    `fraction` a/b: the ensemble's `members` come in groups of b that deal b stratified blocks out in turn, so that
    every image is in exactly `fraction` of them and they train on equally many images (to within one image a block).
    `without` names rows of the dataset that are left out (leave-one-out).
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    members: Annotated[int, Field(ge=1)] = 1
    member: Annotated[int, Field(ge=0)] = 0
    seed: Seed = 0
    without: Annotated[tuple[int, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _balanced(self) -> SubsetSpec:
        blocks = self.blocks[1]
        if blocks > 20 or abs(self.fraction - self.blocks[0] / blocks) > 1e-9:
            raise ValueError(
                f"fraction must be a ratio of whole numbers up to 20, 0.5 or 0.7 say, found {self.fraction}"
            )
        if self.members % blocks:
            raise ValueError(
                f"a fraction of {self.fraction:g} is balanced in ensembles of {blocks}, {2 * blocks}, ... members, "
                f"found {self.members}; change one of them"
            )
        if self.member >= self.members:
            raise ValueError(f"member counts from 0 to {self.members - 1}, found {self.member}; lower it")
        return self

    @property
    def blocks(self) -> tuple[int, int]:
        """`fraction` as (blocks trained on, blocks), in lowest terms."""
        ratio = Fraction(self.fraction).limit_denominator(20)
        return ratio.numerator, ratio.denominator


class PlantSpec(Spec):
    """Images of known origin put in the place of some images of one set before anything is trained: canaries.

    The places are drawn at random in the set `into`; every other image, all labels and the sizes of the sets stay as
    they are. Copies of an image draw views of their own, as any two images do.
    """

    kind: Literal["copy", "near", "rotated", "corrupted", "noise", "other"]
    count: Annotated[int, Field(ge=1)]  # sources of copies, else images planted
    copies: Annotated[int, Field(ge=0)] = 1  # of each source (copy and near); 0 keeps sources without: controls
    into: SetName = "candidate"
    source: SetName = "candidate"  # the set that copied images are in themselves
    dataset: DatasetSpec | None = None  # where images of another dataset come from
    seed: Seed = 0

    @model_validator(mode="after")
    def _sensible(self) -> PlantSpec:
        if (self.kind == "other") != (self.dataset is not None):
            raise ValueError("dataset names the other dataset that images come from; give it for this kind only")
        if self.copies != 1 and self.kind not in ("copy", "near"):
            raise ValueError(f"only copied images are counted in copies, found {self.copies}; leave it at 1")
        return self


class ViewSpec(Spec):
    """One draw of augmentations: what Aug(x) means. Probabilities are per image; strengths as in torchvision.

    Order: resized crop, flips, colour jitter (its operations in a random order per image), grayscale, blur, invert.
    All act on values in [0, 1], before any normalisation. The mask hides patches from the encoder, not from the view.
    """

    crop_scale: Range = (1.0, 1.0)  # share of the area kept; (1, 1) with crop_ratio (1, 1) is no crop
    crop_ratio: Range = (1.0, 1.0)  # aspect ratio, drawn log-uniformly
    flip: Probability = 0.0
    vertical_flip: Probability = 0.0
    brightness: Annotated[float, Field(ge=0)] = 0.0  # factor drawn from [max(0, 1 - s), 1 + s]
    contrast: Annotated[float, Field(ge=0)] = 0.0
    saturation: Annotated[float, Field(ge=0)] = 0.0  # colour images only
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # shift drawn from [-s, s] turns; colour images only
    jitter: Probability = 0.0  # probability that the colour jitter is applied at all
    grayscale: Probability = 0.0  # colour images only
    blur: Probability = 0.0
    blur_sigma: Range = (0.1, 2.0)  # pixels, drawn uniformly
    blur_kernel: Annotated[int, Field(ge=3)] = 3  # odd side of the kernel, pixels
    invert: Probability = 0.0
    mask: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of patches hidden from the encoder (MAE); exact count
    mask_patch: Annotated[int, Field(ge=1)] = 4  # side of a masked patch, pixels
    mask_kind: Literal["random", "block", "grid"] = "random"  # single patches, one rectangle-like region, a lattice
    size: Annotated[int, Field(ge=4, le=1024)] | None = None  # side of the view in pixels; None: the image's own

    @model_validator(mode="after")
    def _ranges(self) -> ViewSpec:
        for name, top in (("crop_scale", 1.0), ("crop_ratio", 16.0), ("blur_sigma", 100.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= top:
                raise ValueError(f"{name} must satisfy 0 < low <= high <= {top:g}, found ({low:g}, {high:g})")
        if self.jitter == 0 and (self.brightness or self.contrast or self.saturation or self.hue):
            raise ValueError("colour strengths do nothing when jitter is 0; raise jitter or set the strengths to 0")
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel must be odd, found {self.blur_kernel}; use {self.blur_kernel + 1}")
        return self


class EncoderSpec(Spec):
    """Architecture by registry name; `options` override the defaults written in the encoder's own file.

    `weights` names where training starts from: a local .safetensors or state dict file, or the name under which timm or
    torchvision download pretrained weights; None is a fresh initialisation.
    """

    name: str = "mlp"
    options: dict[str, Scalar] = {}
    weights: str | None = None


class MethodSpec(Spec):
    """SSL method by registry name; `options` override the defaults written in the method's own file."""

    name: str = "simclr"
    options: dict[str, Scalar] = {}


class ComputeSpec(Spec):
    """Where and how numbers are computed: part of every key, because it changes the last bits."""

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Annotated[int, Field(ge=1)] = 1  # two one-thread processes beat one of two threads on a CPU
    processes: Annotated[int, Field(ge=1)] = 1  # ranks that share one training (torchrun); `batch` is that of them all
    compiled: bool = False  # torch.compile: minutes at the start, so it pays in long trainings only


class PrivateSpec(Spec):
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133): batches drawn by Poisson sampling, gradients clipped, noise added.

    Every image is in a batch with probability batch / images. `noise` x `norm` is the deviation of the noise on the sum
    of a batch's gradients. Noise without clipping, or clipping without noise, gives no privacy: they are controls.
    """

    noise: Annotated[float, Field(ge=0)]  # the noise multiplier sigma
    norm: Annotated[float, Field(gt=0)] = 1.0  # largest norm of the gradient of one image
    clips: bool = True  # False: gradients keep their norms


class TrainSpec(Spec):
    """One encoder: which images it sees and every hyperparameter of its training."""

    dataset: DatasetSpec = DatasetSpec()
    split: SplitSpec
    sets: Annotated[tuple[SetName, ...], Field(strict=False)] = ("shared", "candidate")  # f's; g: shared, independent
    subset: SubsetSpec | None = None  # None: all images of these sets
    plants: Annotated[tuple[PlantSpec, ...], Field(strict=False)] = ()  # canaries; the same for f and g
    view: ViewSpec
    encoder: EncoderSpec = EncoderSpec()
    method: MethodSpec = MethodSpec()
    epochs: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=2)]  # images; each gives as many views as the method asks for
    accumulate: Annotated[int, Field(ge=1)] = 1  # batches a step; negatives come from one batch, as if on one device
    optimizer: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1  # peak of the schedule
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # AdamW's first beta
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999  # AdamW's second beta
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4  # of weights; biases and norms are left alone
    clip: Annotated[float, Field(gt=0)] | None = None  # largest norm of the gradient; None: not clipped
    warmup: Probability = 0.1  # share of the steps with a linear rise; the rest falls as half a cosine
    seed: Seed = 0  # initialisation, data order and views
    compute: ComputeSpec = ComputeSpec()
    private: PrivateSpec | None = None  # None: plain training, and no part of the canonical text

    @model_serializer(mode="wrap")
    def _unless_private(self, serialize: Callable[..., dict[str, object]]) -> dict[str, object]:
        fields = serialize(self)
        return fields if self.private is not None else {k: v for k, v in fields.items() if k != "private"}

    @model_validator(mode="after")
    def _steps_for_each_image(self) -> TrainSpec:
        if self.private is None:
            return self
        plain = {"accumulate": 1, "clip": None}
        found = [name for name, value in plain.items() if getattr(self, name) != value]
        plain = {"precision": "fp32", "processes": 1, "compiled": False}
        found += [f"compute.{name}" for name, value in plain.items() if getattr(self.compute, name) != value]
        if found:
            raise ValueError(
                "private training forms the gradient of every image in one fp32 process, not compiled, and clips it "
                f"itself, found another {' and '.join(found)}; leave the default there"
            )
        return self

    @model_validator(mode="after")
    def _some_images(self) -> TrainSpec:
        total = self.images
        if len(set(self.sets)) != len(self.sets) or total == 0:
            raise ValueError(f"sets must name different non-empty sets, found {self.sets} with {total} images")
        if self.batch > total:
            raise ValueError(f"batch ({self.batch}) exceeds the {total} training images; lower it to {total} or less")
        if self.batch * self.accumulate > total:
            raise ValueError(
                f"{self.accumulate} batches of {self.batch} exceed the {total} training images; lower one of them"
            )
        if self.optimizer == "lars" and self.weight_decay == 0:
            raise ValueError("LARS scales steps by weights only where they decay; give weight_decay, 1e-6 for example")
        if self.batch % self.compute.processes or self.batch < 2 * self.compute.processes:
            raise ValueError(
                f"batch ({self.batch}) must give {self.compute.processes} processes equally many images, two or more; "
                "change batch or processes"
            )
        return self

    @property
    def images(self) -> int:
        """How many images it trains on; of a fraction, the least that a member of the ensemble gets."""
        total = sum(getattr(self.split, name) for name in self.sets)
        if self.subset is None:
            return total
        return math.floor(total * self.subset.fraction) - len(self.subset.without)


class ScoreSpec(Spec):
    """How alignment is measured; every part changes the ranking, so every part is stored."""

    representation: str = "pooled"  # backbone output; "projector" is shown beside it and never decides
    normalize: bool = True  # L2-normalise each representation
    distance: Literal["l2", "cosine", "l1", "angular"] = "l2"
    comparison: Literal["pairs", "anchor"] = "pairs"  # all pairs of views (the definition), or clean against view
    views: Annotated[int, Field(ge=2, le=1024)] = 20  # K
    view: ViewSpec | None = None  # None: the policy the encoder was trained with
    view_seed: Seed = 0
    compute: ComputeSpec = ComputeSpec()
