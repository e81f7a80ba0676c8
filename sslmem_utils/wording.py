"""Names of datasets, methods and encoders as people write them, in figures, captions and claims; tables keep theirs."""

from __future__ import annotations

import re

SPELLED = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "stl10": "STL-10",
    "simclr": "SimCLR",
    "limited_simclr": "limited SimCLR",
    "simsiam": "SimSiam",
    "byol": "BYOL",
    "vicreg": "VICReg",
    "barlow_twins": "Barlow Twins",
    "dino": "DINO",
    "mae": "MAE",
    "mlp": "MLP",
    "cnn": "CNN",
    "resnet9": "ResNet-9",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "vit": "ViT",
    "vit_tiny": "ViT-tiny",
    "vit_small": "ViT-small",
    "vit_base": "ViT-base",
}
# whole words that are no part of code: neither quoted, nor an option's value, a path or a call
_NAMES = re.compile(rf"(?<![\w`'\"=/.\-])({'|'.join(SPELLED)})(?![\w`'\"=/(\-]|\.\w)")


def spelled(text: str) -> str:
    """The text with such names spelled out; code in it, and names that are not known here, stay as they are."""
    return _NAMES.sub(lambda found: SPELLED[found[0]], text)
