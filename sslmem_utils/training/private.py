"""DP-SGD steps for the one training loop, by Opacus: a gradient for every image, clipped, summed, with noise."""

from __future__ import annotations

import importlib.util
import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import SpecError
from ..methods import METHODS, Batch
from ..specs import TrainSpec, seed_of
from .state import Training

SEPARATE = ("mae", "supervised")  # one view an image, and a loss that is the mean of losses of single images
TWO_VIEWS = ("byol", "simsiam")
INSTALL = 'uv pip install "opacus>=1.6"'


def check(spec: TrainSpec) -> None:
    """Raise SpecError where Opacus is missing or the method has no gradient of single images."""
    available()
    name, others = spec.method.name, " or ".join(sorted(SEPARATE))
    if name in TWO_VIEWS:
        raise SpecError(
            f"private training clips the gradient of every image, found {name}, whose two views of an image pass the "
            f"network as two images; use {others}."
        )
    if name not in SEPARATE:
        raise SpecError(
            f"private training clips the gradient of every image, found {name}, whose loss couples the images of a "
            f"batch, so that no image has a gradient of its own; use {others}."
        )
    if METHODS.get(name).views != 1:
        raise SpecError(f"private training takes one view of an image, found {name}; use {others}.")


def available() -> None:
    """SpecError with the command that installs Opacus where it is missing."""
    if importlib.util.find_spec("opacus") is None:
        raise SpecError(
            f"differential privacy needs the package opacus, which is not installed; install it: {INSTALL}."
        )


class Private:
    """Model and optimizer of a private training, called by the loop in their place.

    A call gives the loss of a batch; `step` adds noise to the sum of the images' gradients and divides by the expected
    size of a batch. The noise of a step depends on (seed, step) alone, so that a training goes on to the bit; it is
    pseudo-random, which is enough to measure with and too little to protect real people. `steps` are those
    taken before. The mask token of MAE's
    decoder, which is thrown away, stays as it was drawn. Gradients of single images are formed where they are clipped
    (`Clipped`): their sum needs no more than a plain backward pass.

    SpecError for batch norm, which mixes the images of a batch.
    """

    def __init__(self, state: Training, steps: int) -> None:
        spec, model = state.spec, state.model
        found = [name for name, part in model.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if found:
            raise SpecError(
                f"private training needs images that do not meet in a batch, found batch norm ({found[0]}); use a ViT, "
                "or layer norm where the encoder offers it."
            )
        self.model, self.optimizer, self.private = model, state.optimizer, spec.private
        self.seed, self.expected, self.steps = spec.seed, spec.batch, steps
        self.noise = torch.Generator(spec.compute.device)
        self.own = {name: p for name, p in _held(model).items() if name.startswith("encoder.")}
        for name, p in _held(model).items():
            p.requires_grad_(name in self.own)

    @property
    def param_groups(self) -> list[dict[str, object]]:
        """Those of the optimizer."""
        return self.optimizer.param_groups

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of a batch, its sum over images divided by the expected number of them; 0 for an empty one."""
        if not len(batch.labels):
            return sum(p.sum() * 0 for p in self.parameters())
        return self.model(batch) * (len(batch.labels) / self.expected)

    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def step(self) -> None:
        """One step of the optimizer, with a learning rate that the loop has set."""
        self.noise.manual_seed(seed_of("noise", self.seed, self.steps))
        deviation = self.private.noise * self.private.norm / self.expected
        for p in self.parameters() if deviation else ():
            p.grad += deviation * torch.randn(p.shape, generator=self.noise, device=p.device)
        self.optimizer.step()
        self.steps += 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none)


class Clipped(Private):
    """DP-SGD proper: Opacus forms the gradient of every image, clips it, sums, and adds the noise.

    Parameters that a module with parts of its own holds itself (class token, position embeddings) are no layer that
    Opacus knows: every image is given a copy of its own.
    """

    def __init__(self, state: Training, steps: int) -> None:
        from opacus.grad_sample.grad_sample_module import GradSampleHooks
        from opacus.optimizers import DPOptimizer
        from timm.layers import LayerNorm

        super().__init__(state, steps)
        warnings.filterwarnings("ignore", "Full backward hook is firing")  # the first layer's input is the image
        GradSampleHooks.GRAD_SAMPLERS[LayerNorm] = GradSampleHooks.GRAD_SAMPLERS[nn.LayerNorm]  # faster than functorch
        for p in self.own.values():
            p.requires_grad_(False)  # or Opacus would take the modules that hold them for layers
        GradSampleHooks(self.model, strict=False)
        for p in self.own.values():
            p.requires_grad_(True)
            p.grad_sample = None
        self.copies: dict[str, Tensor] = {}
        self.opacus = DPOptimizer(
            self.optimizer,
            noise_multiplier=self.private.noise,
            max_grad_norm=self.private.norm,
            expected_batch_size=self.expected,
            generator=self.noise,
        )

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean loss of a batch; 0 for an empty one."""
        n = len(batch.labels)
        if n == 0:
            for p in self.parameters():
                p.grad_sample = p.new_zeros(0, *p.shape)
            return torch.zeros((), device=batch.labels.device, requires_grad=True)
        self.copies = {
            name: p.detach().expand(n, *p.shape[1:]).clone().requires_grad_() for name, p in self.own.items()
        }
        return functional_call(self.model, self.copies, (batch,))

    def step(self) -> None:
        """Clip, sum, add noise, and one step of the optimizer."""
        for name, copy in self.copies.items():
            self.own[name].grad_sample = copy.grad[:, None] * len(copy)
        self.noise.manual_seed(seed_of("noise", self.seed, self.steps))
        self.opacus.step()
        self.copies, self.steps = {}, self.steps + 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, those of single images too."""
        self.opacus.zero_grad(set_to_none)


def _held(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters that modules with parts of their own hold themselves."""
    return {
        f"{name}.{own}".removeprefix("."): p
        for name, part in model.named_modules()
        if next(part.children(), None) is not None
        for own, p in part.named_parameters(recurse=False)
        if p.requires_grad
    }
