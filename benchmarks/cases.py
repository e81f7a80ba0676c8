"""What is measured: view policies, images, models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sslmem_utils import data, views
from sslmem_utils.specs import ComputeSpec, DatasetSpec, EncoderSpec, SplitSpec, TrainSpec
from sslmem_utils.training import loop

COLOUR = views.named("simclr")  # crops of .08 to 1, flip, jitter .4/.4/.4/.1 with p .8, grayscale .2, no blur
GREY = COLOUR.but(saturation=0.0, hue=0.0, grayscale=0.0)  # without what does nothing to grey images
AMX = "target set for AMX"
SETS = {3: "cifar10", 1: "fashion_mnist"}


@dataclass(frozen=True)
class Case:
    """Encoder, images (c, h, w), images a batch, and the work of one measurement, ours and usual (steps, or images)."""

    encoder: str
    shape: tuple[int, int, int]
    batch: int
    ours: int = 1
    usual: int = 1
    target: float = math.nan

    @property
    def name(self) -> str:
        """For instance `resnet18 3x32x32`."""
        return f"{self.encoder} {shown(self.shape)}"

    def steps(self) -> int:
        """Steps of one round of ours: those whose views are drawn in one go are all in it, or it is one slow step."""
        at_once = max(1, loop.VIEWS_AT_ONCE // (2 * self.batch * math.prod(self.shape)))
        return -(-self.ours // at_once) * at_once if self.ours > 1 else 1

    def spec(self, compute: ComputeSpec, seed: int = 0) -> TrainSpec:
        """SimCLR of this case; one epoch is one round."""
        images = self.steps() * self.batch
        return TrainSpec(
            dataset=DatasetSpec(name=SETS[self.shape[0]]),
            split=SplitSpec(shared=images - 1, candidate=1, independent=1, external=0),
            view=policy(self.shape),
            encoder=EncoderSpec(name=self.encoder),
            epochs=100_000,
            batch=self.batch,
            lr=0.01,
            seed=seed,
            compute=compute,
        )


def shown(shape: tuple[int, ...]) -> str:
    """3x32x32."""
    return "x".join(map(str, shape))


def policy(shape: tuple[int, int, int]) -> object:
    """The view policy for images of a shape."""
    return COLOUR if shape[0] == 3 else GREY


def pictures(shape: tuple[int, int, int], n: int) -> tuple[Tensor, str]:
    """n uint8 images and what they are: those of the dataset of that shape where it is here, else random pixels."""
    for about in data.catalogue():
        if about["name"] == SETS[shape[0]] and about["found"] and tuple(about["shape"]) == shape:
            found = data.load(DatasetSpec(name=about["name"]))
            return found.rows(torch.arange(n) % len(found)), about["name"]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator), "random pixels"


def compute_on_cpu() -> ComputeSpec:
    """One thread, and bf16 where the processor has it."""
    amx = getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False)
    return ComputeSpec(precision="bf16" if amx else "fp32")
