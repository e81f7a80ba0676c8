"""Vision transformers for small images (timm's; Dosovitskiy et al. 2021, arXiv 2010.11929)."""

from __future__ import annotations

from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ..errors import SpecError
from . import ENCODERS, Encoder


@ENCODERS.register("vit")
class ViT(Encoder):
    """ViT with a class token; ViT-tiny is width 192, depth 12, heads 3 (the paper's, patch 2 or 4 on 32 pixels).

    Representations: `pooled` and `cls` (class token), `mean_patch` (mean of the patch tokens) and `tokens` (all of
    them in position order, flattened). Tokens are never shuffled: a shuffle makes an image differ from itself.
    """

    DEFAULTS = {"patch": 4, "width": 64, "depth": 4, "heads": 2}

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        channels, *side = shape
        if any(s % patch for s in side) or width % heads:
            raise SpecError(
                "a ViT needs sides divisible by its patch and a width divisible by its heads, found "
                f"{side[0]}x{side[1]} pixels with patch {patch} and width {width} with {heads} heads; change one."
            )
        self.body = VisionTransformer(
            img_size=tuple(side), patch_size=patch, in_chans=channels, num_classes=0, embed_dim=width, depth=depth,
            num_heads=heads,
        )  # fmt: skip
        self.dim = width

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.body.forward_features(x)[:, 0]

    def features(self, x: Float[Tensor, "b c h w"], representation: str = "pooled") -> Float[Tensor, "b d"]:
        tokens = self.body.forward_features((x - 0.5) / 0.5)
        match representation:
            case "pooled" | "cls":
                return tokens[:, 0]
            case "mean_patch":
                return tokens[:, 1:].mean(1)
            case "tokens":
                return tokens[:, 1:].flatten(1)
        raise SpecError(f"ViT has pooled, cls, mean_patch, tokens and projector, found {representation!r}.")
