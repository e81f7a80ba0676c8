"""The usual pipeline: lightly's transform on PIL images, a DataLoader, a float32 training loop; and the official score.

Written as users of these libraries write it. Nothing is slower than it has to be: both views go through the encoder at
once, workers persist, no epoch ever ends, and the official score runs without gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from sslmem_utils.encoders import Encoder
from sslmem_utils.specs import ViewSpec


def transform(view: ViewSpec, size: int) -> SimCLRTransform:
    """lightly's two SimCLR views of a view policy that it can express; the encoders normalise, as ours do."""
    return SimCLRTransform(
        input_size=size,
        cj_prob=view.jitter,
        cj_strength=1.0,
        cj_bright=view.brightness,
        cj_contrast=view.contrast,
        cj_sat=view.saturation,
        cj_hue=view.hue,
        min_scale=view.crop_scale[0],
        random_gray_scale=view.grayscale,
        gaussian_blur=0.0,
        hf_prob=view.flip,
        normalize=None,
    )


class Pictures(Dataset):
    """Images (n, c, h, w) uint8 as PIL images through a transform, as torchvision's CIFAR10 gives them."""

    def __init__(self, images: Tensor, view: ViewSpec) -> None:
        self.pixels = images.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
        self.transform = transform(view, images.shape[-1])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> list[Tensor]:
        return self.transform(Image.fromarray(self.pixels[row]))


def loader(images: Tensor, view: ViewSpec, batch: int, workers: int, pin: bool = False) -> DataLoader:
    """Batches of two views in random order without end, so that no pause between epochs counts."""
    pictures = Pictures(images, view)
    sampler = RandomSampler(pictures, num_samples=len(pictures) * 100_000)
    return DataLoader(
        pictures, batch, sampler=sampler, num_workers=workers, persistent_workers=workers > 0, pin_memory=pin
    )


class SimCLR(nn.Module):
    """Backbone and projection head."""

    def __init__(self, backbone: Encoder, hidden: int, output: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = SimCLRProjectionHead(backbone.dim, hidden, output)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class Trainer:
    """One model and its optimizer."""

    def __init__(self, model: SimCLR, temperature: float, lr: float, momentum: float, weight_decay: float) -> None:
        self.model, self.criterion = model.train(), NTXentLoss(temperature)
        self.optimizer = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay)
        self.device = next(model.parameters()).device

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        """The loss of a batch: first views (b, c, h, w), second views."""
        views = torch.cat([x0, x1]).to(self.device, non_blocking=True)
        return self.criterion(*self.model(views).chunk(2))

    def step(self, x0: Tensor, x1: Tensor) -> None:
        """One optimizer step."""
        loss = self.loss(x0, x1)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


# ---------------------------------------------------------------- the official score
def one_view(view: ViewSpec, size: int) -> Callable[[Tensor], Tensor]:
    """torchvision's transform of one image (1, c, h, w) in [0, 1], as the official script has it."""
    jitter = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, view.crop_scale, view.crop_ratio),
            v2.RandomHorizontalFlip(view.flip),
            v2.RandomApply([jitter], view.jitter),
            v2.RandomGrayscale(view.grayscale),
        ]
    )


@torch.no_grad()
def official(f: Encoder, g: Encoder, image: Tensor, augment: Callable[[Tensor], Tensor], k: int) -> tuple[float, float]:
    """Mean distance of k views of one image (1, c, h, w) from the clean image under f and g (memorization_scores.py).

    As there, one view at a time goes through both encoders, and the clean image is encoded anew for each. Its order of
    tokens and range of values, which are errors, are not repeated.
    """
    distances = []
    for _ in range(k):
        view = augment(image)
        for encoder in (f, g):
            clean, seen = encoder(image), encoder(view)
            distances.append((clean / clean.norm() - seen / seen.norm()).norm())
    return float(torch.stack(distances[0::2]).mean()), float(torch.stack(distances[1::2]).mean())
