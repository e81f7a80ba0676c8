"""View policies by name."""

from __future__ import annotations

from ..errors import SpecError
from ..specs import ViewSpec

_RRC = {"crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3)}  # torchvision's RandomResizedCrop defaults
_STRONG_COLOUR = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
_GREY = {"crop_scale": (0.5, 1.0), "crop_ratio": (3 / 4, 4 / 3), "brightness": 0.1, "contrast": 0.1, "jitter": 0.8}

POLICIES = {
    "none": ViewSpec(),
    # "weak" to "independent": Wang et al., "Localizing Memorization in SSL Vision Encoders" (NeurIPS 2024), appendix B.
    # "normal" and "strong" flip every image, as its text says; the released code flips with probability .5.
    # "weak" has hue .5, as its text says; the released code of the supervised encoder has .1.
    "weak": ViewSpec(
        **_RRC, brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5, jitter=0.4, flip=0.5, grayscale=0.1
    ),
    "normal": ViewSpec(**_RRC, **_STRONG_COLOUR, jitter=0.8, flip=1.0, grayscale=0.2),
    "strong": ViewSpec(**_RRC, **_STRONG_COLOUR, jitter=0.9, flip=1.0, vertical_flip=1.0, grayscale=0.5),
    # The text's blur kernel of 4 x 4 has no centre, so torchvision refuses it; 5 x 5 is the next odd one.
    "independent": ViewSpec(**_RRC, vertical_flip=1.0, blur=0.8, blur_sigma=(0.1, 5.0), blur_kernel=5, invert=0.2),
    # Chen et al. 2020 (arXiv 2002.05709) on CIFAR-10: half colour strength, no blur.
    "simclr": ViewSpec(
        **_RRC, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, flip=0.5, grayscale=0.2
    ),
    "mae": ViewSpec(mask=0.75),  # He et al. 2022 (arXiv 2111.06377) as used for the score: the mask and nothing else
    # Mild crops and jitter: with strong ones memorization takes longer to show. Digits have no mirror images.
    "digits": ViewSpec(**_GREY),
    "fashion": ViewSpec(**_GREY, flip=0.5),
}


def named(policy: str) -> ViewSpec:
    """The view policy of this name; raises SpecError listing the names when there is none."""
    if policy not in POLICIES:
        raise SpecError(f"View policy must be one of {', '.join(POLICIES)}, found {policy!r}; use one of these names.")
    return POLICIES[policy]
