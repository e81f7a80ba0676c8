"""MAE (He et al. 2022, arXiv 2111.06377): reconstruct the hidden patches of an image from the visible ones."""

from __future__ import annotations

from jaxtyping import Float
from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM
from lightly.models.modules.masked_vision_transformer_timm import init_weights
from torch import Tensor, nn

from ..encoders import ENCODERS, Encoder
from ..errors import SpecError
from ..specs import TrainSpec, ViewSpec
from . import METHODS, Batch, Method
from .parts import in_full


@METHODS.register("mae")
class MAE(Method):
    """Mean squared error over the pixels of the hidden patches; visible ones do not count.

    The paper: decoder of width 512, 8 blocks, 16 heads, pixels normalised by patch; AdamW, lr 1.5e-4 a batch of 256.
    SSLMem's code: width 192, 4 blocks, 3 heads, pixels not normalised.
    """

    DEFAULTS = {
        "width": 64,  # of the decoder
        "depth": 2,
        "heads": 2,
        "norm_pixels": True,  # each hidden patch to mean 0 and deviation 1; else pixels as the encoder reads them
    }
    views = 1
    masks = True

    def __init__(self, encoder: Encoder, width: int, depth: int, heads: int, norm_pixels: bool) -> None:
        super().__init__(encoder)
        (rows, columns), self.patch, self.norm_pixels = encoder.grid, encoder.patch, norm_pixels
        if rows != columns:
            raise SpecError(f"mae needs square images, found {rows} x {columns} patches; resize the images.")
        self.embed = nn.Linear(encoder.dim, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(rows * columns, width, depth, heads)
        self.pixels = nn.Linear(width, encoder.shape[0] * self.patch**2)
        self.embed.apply(init_weights)
        self.pixels.apply(init_weights)

    @classmethod
    def check(cls, spec: TrainSpec) -> None:
        name, width, heads = spec.encoder.name, spec.method.options["width"], spec.method.options["heads"]
        if not ENCODERS.get(name).patches:
            raise SpecError(f"mae hides patches, which {name} does not read; use a ViT.")
        if not spec.view.mask:
            raise SpecError("mae learns from hidden patches, found a view policy without a mask; set mask, 0.75 say.")
        if spec.view.mask_patch != (patch := spec.encoder.options["patch"]):
            raise SpecError(
                f"mask_patch must be the patch of the ViT, {patch} pixels, found {spec.view.mask_patch}; change one."
            )
        if width % heads or width % 4:
            raise SpecError(
                f"width of mae's decoder must be divisible by 4 and by its {heads} heads, found {width}; change one."
            )

    def plan(self, view: ViewSpec) -> tuple[tuple[ViewSpec, int], ...]:
        if view.size not in (None, side := self.encoder.shape[1]):
            raise SpecError(f"mae's views must have the images' own side, {side}, found {view.size}; set size to None.")
        return super().plan(view)

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        x, hidden = batch.views[0][:, 0], batch.hidden[:, 0]
        tokens = self.encoder.tokens_of(x, hidden)
        order = hidden.int().argsort(dim=1, stable=True)  # visible patches, then hidden ones, each in position order
        visible, masked = order.split([tokens.shape[1] - 1, order.shape[1] + 1 - tokens.shape[1]], 1)
        prefixed = nn.functional.pad(visible + 1, (1, 0))  # the class token comes first
        empty = utils.repeat_token(self.decoder.mask_token, (len(x), self.decoder.sequence_length))
        known = self.embed(tokens)
        decoded = self.decoder(utils.set_at_index(empty.type_as(known), prefixed, known))
        predicted = self.pixels(utils.get_at_index(decoded, masked + 1))
        target = utils.get_at_index(utils.patchify(self.encoder.normalised(x), self.patch), masked)
        if self.norm_pixels:
            target = utils.normalize_mean_var(target)
        return in_full(nn.functional.mse_loss, predicted, target)
