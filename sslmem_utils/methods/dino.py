"""DINO (Caron et al. 2021, arXiv 2104.14294): a student agrees, from small crops too, with a slowly moving teacher."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import torch
from jaxtyping import Float, Float64
from lightly.loss import DINOLoss
from lightly.models.modules.heads import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad
from torch import Tensor, nn

from ..encoders import Encoder
from ..errors import SpecError
from ..specs import Scalar, TrainSpec, ViewSpec
from . import METHODS, Batch, Method, stacked
from .parts import follow, frozen_copy, in_full, normed


@METHODS.register("dino")
class DINO(Method):
    """Cross entropy of the student's distribution over outputs, relative to the teacher's, centred and sharpened.

    Two global views are those of the spec's policy; local views are smaller crops, which only the student sees.
    The paper, on ImageNet: 8 local views of 96 pixels with 0.05 to 0.4 of the area, momentum 0.996, teacher temperature
    0.04 to 0.07 in the first 30 of 300 epochs, one epoch of frozen last layer, hidden 2048, bottleneck 256, output
    65536; AdamW, lr 5e-4 a batch of 256.
    """

    DEFAULTS = {
        "local_views": 4,
        "local_low": 0.3,  # share of the area; 0.1 to 0.4 of 8-pixel digits cost a CNN 3 points of kNN accuracy
        "local_high": 0.6,
        "local_size": 0,  # side of local views, pixels; 0: half that of the global ones, all of it for an MLP
        "momentum": 0.99,  # of the teacher at the start; 0.996 hardly moves in a few thousand steps
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,  # more ends in uniform outputs unless training is long
        "warmup_temperature": 0.04,  # the teacher's at the start
        "warmup": 0.1,  # share of training in which the teacher's temperature rises
        "freeze": 0.01,  # share of training in which the last layer stands still
        "center_momentum": 0.9,
        "hidden": 256,
        "bottleneck": 64,
        "output": 1024,  # few thousand images cannot fill more
        "norm": "batch",  # of the head; with the paper's "none" (or "layer") small data often ends in uniform outputs
    }

    def __init__(self, encoder: Encoder, **options: Scalar) -> None:
        super().__init__(encoder)
        o = self.options = SimpleNamespace(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # lightly uses torch's older weight_norm
            self.projector, head = (self._head(encoder.dim) for _ in range(2))
        head.load_state_dict(self.projector.state_dict())  # weight_norm forbids copies
        deactivate_requires_grad(head)
        self.teacher = nn.Sequential(frozen_copy(encoder), head)
        self.criterion = DINOLoss(o.output, student_temp=o.student_temperature, center_momentum=o.center_momentum)
        self.done = 0.0  # share of all steps taken

    def _head(self, dim: int) -> DINOProjectionHead:
        o = self.options
        head = DINOProjectionHead(
            dim, o.hidden, o.bottleneck, o.output, batch_norm=o.norm != "none", freeze_last_layer=1
        )
        return head if o.norm == "none" else normed(head, o.norm)

    @classmethod
    def check(cls, spec: TrainSpec) -> None:
        o = SimpleNamespace(**spec.method.options)
        spec.view.but(crop_scale=(o.local_low, o.local_high), size=o.local_size or None)

    def plan(self, view: ViewSpec) -> tuple[tuple[ViewSpec, int], ...]:
        o = self.options
        if o.local_views == 0:
            return ((view, 2),)
        side = view.size or min(self.encoder.shape[1:])
        sizes = [o.local_size] if o.local_size else [side // 2, side]
        if (size := next(filter(self._reads, sizes), None)) is None:
            raise SpecError(
                f"the encoder cannot read local views of {sizes[0]} x {sizes[0]} pixels; set dino's option local_size "
                "to a side that it can read, that of the images for example."
            )
        return (view, 2), (view.but(crop_scale=(o.local_low, o.local_high), size=size), o.local_views)

    def _reads(self, size: int) -> bool:
        """Whether the encoder reads images of this side: an MLP reads one size, a ViT whole patches."""
        encoder = self.teacher[0].eval()
        x = torch.zeros(1, encoder.shape[0], size, size, device=next(encoder.parameters()).device)
        try:
            with torch.no_grad():
                encoder(x)
        except (RuntimeError, SpecError):
            return False
        finally:
            encoder.train(self.training)
        return True

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        views = [stacked(x) for x in batch.views]  # batch norms see global and local views apart
        logits = self.projector(torch.cat([self.encoder(x) for x in views]))
        with torch.no_grad():
            targets = self.teacher(views[0])
        o, n = self.options, len(batch.labels)
        rise = min(1.0, self.done / o.warmup) if o.warmup else 1.0
        heat = o.warmup_temperature + rise * (o.teacher_temperature - o.warmup_temperature)
        return in_full(lambda t, s: self.criterion(list(t.split(n)), list(s.split(n)), heat), targets, logits)

    def late(self) -> list[nn.Parameter]:
        return [p for p in self.projector.last_layer.parameters() if p.requires_grad]

    def before_step(self, done: float) -> None:
        self.projector.cancel_last_layer_gradients(int(done >= self.options.freeze))

    def after_step(self, done: float) -> None:
        for student, teacher in zip((self.encoder, self.projector), self.teacher, strict=True):
            follow(student, teacher, self.options.momentum, done)
        self.done = done

    def get_extra_state(self) -> Float64[Tensor, ""]:
        """The share of all steps taken, which the teacher's temperature depends on, for the state dict."""
        return torch.tensor(self.done, dtype=torch.float64)

    def set_extra_state(self, state: Float64[Tensor, ""]) -> None:
        """Go on from `get_extra_state`."""
        self.done = float(state)
