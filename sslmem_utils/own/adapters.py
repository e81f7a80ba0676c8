"""Any model behind the one interface of the score: `features(x, representation)` of images in [0, 1].

| model | `pooled` is |
|---|---|
| an encoder or method of this package | its own |
| timm | the input of its classifier: `forward_head(forward_features(x), pre_logits=True)` |
| torchvision, with its classifier | the input of the classifier |
| anything else | its output: `pooler_output` or vectors as they are, maps and tokens averaged |

Where there are tokens: `cls` is the first, `mean_patch` the mean of the patches, `tokens` all patches in order of
position, `cls_tokens` the same with the class token. `layer:NAME` is a module's output, averaged like a model's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..encoders import LAYER, Encoder
from ..errors import SpecError
from ..methods import Method
from ..scoring import rows_of_pass

REPRESENTATIONS = ("pooled", "cls", "mean_patch", "tokens", "cls_tokens")
VECTORS = ("pooler_output", "image_embeds", "embedding", "features")  # names of outputs, the first found is taken
CLASSIFIERS = ("fc", "classifier", "heads", "head")  # of torchvision's models


class NoTokens(SpecError):
    """The model gives one vector an image and nothing else."""


class Adapter(nn.Module):
    """A model (`nn.Module` or function) as `scoring.align` wants it; `who` names it in errors.

    `mean` and `std` (one number, or one a channel) normalise pixels in [0, 1] before the model sees them; without them
    it sees [0, 1]. `note` says what the representation is made of, once `features` was called.
    """

    def __init__(self, model: Any, who: str, mean: object = None, std: object = None, channels: int = 3) -> None:
        super().__init__()
        if not callable(model):
            raise SpecError(f"{who} must be an nn.Module or a function of images, found {type(model).__name__}.")
        self.who, self.note = who, ""
        self.own = isinstance(model, (Encoder, Method))
        if isinstance(model, nn.Module):
            self.model = model  # registered, so that it moves and evaluates with the adapter
        self.call: Callable[[Tensor], object] = model
        if self.own and (mean is not None or std is not None):
            raise SpecError(
                f"{who} is an encoder of this package, which normalises pixels itself; leave mean and std out."
            )
        self.normalised = mean is not None or std is not None
        for name, values, neutral in (("mean", mean, 0.0), ("std", std, 1.0)):
            self.register_buffer(name, per_channel(name, neutral if values is None else values, channels), False)

    @property
    def module(self) -> nn.Module | None:
        """The model itself; None for a function."""
        return self._modules.get("model")

    def features(
        self, x: Float[Tensor, "b c h w"], representation: str = "pooled", hidden: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b d"]:
        """The named representation of images in [0, 1]; SpecError when the model does not give it.

        Large images go through in parts of a size that depends on the images' shape alone: few fit into memory, and
        the same size in every pass keeps the bits the same.
        """
        rows = rows_of_pass(x.shape[1:])
        parts = zip(x.split(rows), [None] * len(x) if hidden is None else hidden.split(rows), strict=False)
        return torch.cat([self._vectors(part, representation, unseen) for part, unseen in parts])

    def digest(self) -> str:
        """SHA-256 of class, structure, weights and buffers: what tells encoders apart; SpecError for a function."""
        if self.module is None:
            raise SpecError(
                f"resume tells encoders apart by their weights, and {self.who} is a function; pass an nn.Module, or "
                "leave resume out."
            )
        found = hashlib.sha256(f"{type(self.module).__qualname__} {self.module!r} {self.mean} {self.std}".encode())
        for name, value in sorted([*self.module.named_parameters(), *self.module.named_buffers()]):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    def _vectors(self, x: Tensor, representation: str, hidden: Tensor | None) -> Float[Tensor, "b d"]:
        if self.own and representation != "cls_tokens":
            return self.model.features(x, representation, hidden)
        if hidden is not None:
            raise SpecError(f"{self.who} has no way to hide patches; use a view policy without a mask, simclr say.")
        if self.own:
            encoder = self.model.encoder if isinstance(self.model, Method) else self.model
            if not encoder.patches:
                raise NoTokens(f"{self.who} has no tokens; choose the representation pooled.")
            return encoder.tokens_of(x).flatten(1)
        x = (x - self.mean) / self.std
        if self.module is not None and (weight := next(self.module.parameters(), None)) is not None:
            x = x.to(weight.dtype) if weight.is_floating_point() else x
        out = self._checked(self._found(x, representation), representation)
        if len(out) != len(x):
            raise SpecError(f"{self.who} must give one vector an image, found {tuple(out.shape)} for {len(x)} images.")
        return out

    def _found(self, x: Tensor, representation: str) -> object:
        """The representation of normalised pixels, before its shape is checked."""
        model = self.module
        if representation.startswith(LAYER):
            name = representation.removeprefix(LAYER)
            return self._pooled(self._watched(x, name, True), f"the output of its layer {name}")
        if representation not in REPRESENTATIONS:
            raise SpecError(
                f"{self.who} can be scored at {', '.join(REPRESENTATIONS)} and {LAYER}NAME, found {representation!r}; "
                "choose one of them."
            )
        timm = hasattr(model, "forward_features") and hasattr(model, "forward_head")
        if representation != "pooled":
            out = model.forward_features(x) if timm else self.call(x)
            return self._of_tokens(out, representation, getattr(model, "num_prefix_tokens", 1))
        if timm:
            return self._pooled(
                model.forward_head(model.forward_features(x), pre_logits=True),
                "timm's pooled features, before the classifier",
            )
        if (name := _classifier(model)) is not None:
            return self._pooled(self._watched(x, name, False), f"the input of its classifier {name}")
        return self._pooled(self.call(x), "its output")

    def _watched(self, x: Tensor, name: str, output: bool) -> object:
        """What comes out of the module `name`, or goes into it, while the model runs; its last call counts."""
        modules = {key: part for key, part in self.module.named_modules() if key} if self.module is not None else {}
        if name not in modules:
            known = get_close_matches(name, modules, n=3, cutoff=0.3) or list(modules)[:3]
            raise SpecError(
                f"{self.who} has no layer {name!r}; choose one of its modules: {', '.join(known) or 'none'}."
            )
        seen: list[object] = []

        def keep(_module: nn.Module, inputs: tuple, out: object = None) -> None:
            value = out if output else inputs[0]
            seen[:] = [value.clone() if isinstance(value, Tensor) else value]  # what follows may work in place

        hook = modules[name].register_forward_hook(keep) if output else modules[name].register_forward_pre_hook(keep)
        try:
            self.call(x)
        finally:
            hook.remove()
        if not seen:
            raise SpecError(f"layer {name!r} of {self.who} takes no part in a forward pass; choose another one.")
        return seen[0]

    def _pooled(self, out: object, what: str) -> object:
        vector, tokens = _parts(out, self.who)
        if vector is not None:
            self.note = what
            return vector.flatten(1)
        self.note = f"{what}, averaged over {'tokens' if tokens.dim() == 3 else 'positions'}"
        return tokens.mean(1) if tokens.dim() == 3 else tokens.mean((2, 3))

    def _of_tokens(self, out: object, representation: str, prefix: int) -> object:
        tokens = _parts(out, self.who)[1]
        if tokens is None or tokens.dim() != 3:
            raise NoTokens(f"{self.who} gives no tokens, which {representation!r} needs; choose pooled or {LAYER}NAME.")
        self.note = f"{representation} of {tokens.shape[1]} tokens, the first {prefix} of which belong to no patch"
        match representation:
            case "cls":
                return tokens[:, 0]
            case "mean_patch":
                return tokens[:, prefix:].mean(1)
            case "tokens":
                return tokens[:, prefix:].flatten(1)
        return tokens.flatten(1)

    def _checked(self, out: object, representation: str) -> Tensor:
        if isinstance(out, Tensor) and out.dim() == 2 and out.is_floating_point():
            return out
        found = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise SpecError(
            f"{self.who} must give floating-point vectors, maps or tokens at {representation!r}, found {found}; wrap "
            "it in a function that does."
        )


def _classifier(model: nn.Module | None) -> str | None:
    """The name of the classifier of a model of torchvision; None when it has none left, or is another's."""
    if not type(model).__module__.startswith("torchvision.models"):
        return None
    parts = ((name, getattr(model, name, None)) for name in CLASSIFIERS)
    return next(
        (name for name, part in parts if isinstance(part, nn.Module) and not isinstance(part, nn.Identity)), None
    )


def _parts(out: object, who: str) -> tuple[Tensor | None, Tensor | None]:
    """Vector (b, d) and tokens (b, t, d) or maps (b, c, h, w) in what a model returns, None for what is not there."""
    if isinstance(out, Tensor):
        return (None, out) if out.dim() in (3, 4) else (out, None)
    get = out.get if isinstance(out, Mapping) else lambda name: getattr(out, name, None)
    vector = next((value for name in VECTORS if isinstance(value := get(name), Tensor)), None)
    tokens = get("last_hidden_state")
    if vector is not None or isinstance(tokens, Tensor):
        return vector, tokens
    values = [value for value in out.values() if isinstance(value, Tensor)] if isinstance(out, Mapping) else []
    if isinstance(out, (tuple, list)) and len(out):
        return _parts(out[0], who)
    if len(values) == 1:
        return _parts(values[0], who)
    names = ", ".join(map(str, out)) if isinstance(out, Mapping) else type(out).__name__
    raise SpecError(
        f"{who} must return a tensor, a tuple that starts with one, or {', '.join(VECTORS)} or last_hidden_state, "
        f"found {names}; wrap it in a function that picks one."
    )


def per_channel(name: str, values: object, channels: int) -> Float[Tensor, "_ 1 1"]:
    """Mean or std of pixels in [0, 1] as (1, 1, 1) or (c, 1, 1); SpecError for a wrong count, scale or sign."""
    try:
        found = torch.as_tensor(values, dtype=torch.float32).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise SpecError(f"{name} must be one number or one a channel, found {values!r}.") from None
    if len(found) not in (1, channels):
        raise SpecError(f"{name} must be one number or one for each of the {channels} channels, found {len(found)}.")
    if not (torch.isfinite(found).all() and (found.abs() <= 1).all() and ("mean" in name or (found > 0).all())):
        raise SpecError(f"{name} is that of pixels in [0, 1], found {found.tolist()}; divide those of 0 to 255 by 255.")
    return found.view(-1, 1, 1)


@contextmanager
def evaluated(*adapters: Adapter) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode, and the model on the device, it was found in."""
    modules = [adapter.module for adapter in adapters if adapter.module is not None]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    places = [(module, weight.device) for module in modules if (weight := next(module.parameters(), None)) is not None]
    threads = torch.get_num_threads()
    try:
        for adapter in adapters:
            adapter.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for module, device in places:
            module.to(device)
        torch.set_num_threads(threads)
