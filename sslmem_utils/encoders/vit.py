"""Vision transformers (timm's; Dosovitskiy et al. 2021, arXiv 2010.11929) that can be shown some patches only."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from lightly.models.utils import get_at_index
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import SpecError
from . import ENCODERS, Encoder


@ENCODERS.register("vit")
class ViT(Encoder):
    """ViT with a class token, learned position embeddings and, by default, a laptop's size.

    Representations: `pooled` and `cls` (class token), `mean_patch` (mean of the patch tokens that were seen) and
    `tokens` (all of them in position order, flattened). Tokens are never shuffled: a shuffle makes an image differ
    from itself. Images of another size than `shape` are read with interpolated position embeddings.

    `patch` is in pixels, `grid` is the number of patches of an image of `shape` down and across.
    """

    DEFAULTS = {"patch": 4, "width": 64, "depth": 4, "heads": 2, "pixels": "half"}
    patches = True
    representations = ("pooled", "cls", "mean_patch", "tokens")

    def __init__(
        self, shape: tuple[int, int, int], patch: int, width: int, depth: int, heads: int, pixels: str
    ) -> None:
        super().__init__(pixels)
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
        self.body.patch_embed.strict_img_size = False  # other sizes are what `_embedded` is for
        self.patch, self.grid, self.dim = patch, self.body.patch_embed.grid_size, width

    def layers(self) -> list[str]:
        """The transformer blocks."""
        return [f"body.blocks.{number}" for number in range(len(self.body.blocks))]

    def modules_by_name(self) -> dict[str, nn.Module]:
        """Modules behind the hiding of patches: those before it see every patch."""
        behind = ("body.blocks", "body.norm")
        return {name: module for name, module in self.named_modules() if name.startswith(behind)}

    def vector(self, name: str, out: object) -> Float[Tensor, "b d"]:
        """Mean of the patch tokens of a layer's output (b, t, d)."""
        if isinstance(out, Tensor) and out.dim() == 3:
            return out[:, 1:].mean(1)
        raise SpecError(f"layer {name!r} gives no token a patch; choose another one: {self._some_layers(name)}.")

    def tokens_of(
        self, x: Float[Tensor, "b c h w"], hidden: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b s d"]:
        """Class token and tokens of the visible patches in position order, behind the last norm.

        x in [0, 1]; `hidden` marks the patches, numbered row by row, that the encoder may not see, equally many in
        each image: they are dropped before the first block (MAE, He et al. 2022, arXiv 2111.06377).
        """
        return self._encoded(self.normalised(x), hidden)

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self._encoded(x, None)[:, 0]

    def represent(
        self, x: Float[Tensor, "b c h w"], representation: str, hidden: Bool[Tensor, "b t"] | None
    ) -> Float[Tensor, "b d"]:
        if representation == "tokens" and hidden is not None:
            raise SpecError(
                "tokens of different patches cannot be compared, found views with hidden patches; choose pooled or "
                "mean_patch, or a view policy without a mask."
            )
        tokens = self._encoded(x, hidden)
        if representation == "mean_patch":
            return tokens[:, 1:].mean(1)
        return tokens[:, 1:].flatten(1) if representation == "tokens" else tokens[:, 0]

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Position embeddings of another grid (a square one) are interpolated, as for images of another size."""
        there = state.get("body.pos_embed")
        if there is None or there.shape == self.body.pos_embed.shape or there.dim() != 3:
            return state
        if math.isqrt(patches := there.shape[1] - 1) ** 2 != patches:
            return state
        return {**state, "body.pos_embed": resample_abs_pos_embed(there, self.grid)}

    def _encoded(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """timm's `forward_features` of normalised images, with hidden patches left out before the first block."""
        tokens = self._embedded(x)
        if hidden is not None:
            tokens = get_at_index(tokens, _seen(hidden, tokens.shape[1] - 1))
        return self.body.norm(self.body.blocks(self.body.norm_pre(tokens)))

    def _embedded(self, x: Tensor) -> Tensor:
        """Class token and patch tokens with their position embeddings: (b, 1 + t, d)."""
        height, width = x.shape[2:]
        if height % self.patch or width % self.patch:
            raise SpecError(
                f"a ViT needs sides divisible by its patch, found images of {height}x{width} pixels and patch "
                f"{self.patch}; change one."
            )
        grid = (height // self.patch, width // self.patch)
        tokens = torch.cat([self.body.cls_token.expand(len(x), -1, -1), self.body.patch_embed(x)], 1)
        return tokens + resample_abs_pos_embed(self.body.pos_embed, grid, self.grid)


@torch.compiler.disable  # the number of visible patches is a value, which a compiled graph does not know
def _seen(hidden: Bool[Tensor, "b t"], t: int) -> Tensor:
    """Positions (b, 1 + visible) in the token sequence of the class token and the visible patches, in order."""
    visible = (~hidden).sum(1)
    least, most = visible.aminmax()
    if hidden.shape[1] != t:
        raise SpecError(
            f"the encoder reads {t} patches an image, found a mask over {hidden.shape[1]}; give the mask the patch of "
            "the encoder."
        )
    if least != most or not most:
        raise SpecError(
            f"hidden must leave equally many of the {t} patches visible in each image, found {int(least)} to "
            f"{int(most)}; draw it with a mask below 1."
        )
    order = hidden.to(torch.uint8).argsort(dim=1, stable=True)[:, : int(most)] + 1
    return torch.nn.functional.pad(order, (1, 0))


@ENCODERS.register("vit_tiny")
class ViTTiny(ViT):
    """Width 192, 12 blocks of 3 heads: the paper's on CIFAR-10 (its patch is 2)."""

    DEFAULTS = {"patch": 4, "pixels": "half"}

    def __init__(self, shape: tuple[int, int, int], patch: int, pixels: str) -> None:
        super().__init__(shape, patch, 192, 12, 3, pixels)


@ENCODERS.register("vit_small")
class ViTSmall(ViT):
    """Width 384, 12 blocks of 6 heads."""

    DEFAULTS = {"patch": 4, "pixels": "half"}

    def __init__(self, shape: tuple[int, int, int], patch: int, pixels: str) -> None:
        super().__init__(shape, patch, 384, 12, 6, pixels)


@ENCODERS.register("vit_base")
class ViTBase(ViT):
    """Width 768, 12 blocks of 12 heads: the paper's on ImageNet (patch 16 of 224 pixels)."""

    DEFAULTS = {"patch": 16, "pixels": "half"}

    def __init__(self, shape: tuple[int, int, int], patch: int, pixels: str) -> None:
        super().__init__(shape, patch, 768, 12, 12, pixels)
