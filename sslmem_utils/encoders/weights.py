"""Weights that an encoder starts from: a file, or a name under which timm or torchvision offer one for download.

Files hold tensors only: safetensors, or a state dict that `torch.load` reads with `weights_only=True`. Nothing is ever
unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import DataError, SpecError
from ..specs import EncoderSpec
from ..store import sha256

NESTED = ("state_dict", "model")  # where checkpoints keep the state dict
BACKBONES = ("encoder.", "backbone.")  # a model around the encoder; what else it holds is not the encoder's
CLASSIFIERS = ("fc.", "head.")  # of torchvision and timm


class Offer(NamedTuple):
    """A file for download and what it expects: mean and deviation per channel of pixels in [0, 1]."""

    url: str
    file: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def weights_digest(spec: EncoderSpec) -> str:
    """What identifies the weights that an encoder starts from: "" for none, the name for timm: and torchvision:.

    For a file "sha256:..." of its bytes, so that the same file is known wherever it is. SpecError when it is missing.
    """
    if spec.weights is None or _source(spec.weights) is not None:
        return spec.weights or ""
    path = _local(spec.weights)
    state = path.stat()
    return f"sha256:{_sha256(path.resolve(), state.st_mtime_ns, state.st_size)}"


@cache
def _sha256(path: Path, changed: int, size: int) -> str:
    """Every encoder of an experiment asks for it; `changed` and `size` notice a new file under the old name."""
    return sha256(path)


def load(encoder: nn.Module, weights: str) -> None:
    """Load `weights` into an encoder; every parameter of the encoder must be there, and nothing else but a classifier.

    SpecError when they do not fit, DataError when they cannot be read or downloaded.
    """
    source = _source(weights)
    if source is None:
        path = _local(weights)
    else:
        offer = source(weights.partition(":")[2])
        _check_pixels(encoder, weights, offer)
        path = _downloaded(weights, offer)
    own, name = encoder.state_dict(), type(encoder).__name__
    state = encoder.adapted(_renamed(_read(path), own))
    # Older files do not count batches; load_state_dict fills that in.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in state]
    unexpected = [key for key in state if key not in own]
    if missing or unexpected:
        found = [
            f"{len(keys)} {what} (such as {keys[0]!r})"
            for keys, what in ((missing, "missing"), (unexpected, "unexpected"))
            if keys
        ]
        raise SpecError(
            f"weights {weights!r} do not fit {name}: {' and '.join(found)} of its "
            f"{len(needed)} tensors; use the architecture and options that the file was made with."
        )
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise SpecError(
                f"weights {weights!r} do not fit {name}: {key!r} should be {tuple(own[key].shape)}, "
                f"found {tuple(value.shape)}; use the options (stem, patch, width) and channels that the file was made "
                "with."
            )
        if own[key].is_floating_point() and not (value.is_floating_point() and bool(value.isfinite().all())):
            raise DataError(
                f"weights {weights!r} hold values in {key!r} that are no finite floating-point numbers; save the "
                "encoder's own weights anew."
            )
    encoder.load_state_dict(state)


# ---------------------------------------------------------------- files
def _local(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise SpecError(
            f"weights must be a file, timm:NAME or torchvision:NAME, found no file {weights!r}; correct the path."
        )
    return path


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, out of the dictionary around it if there is one."""
    try:
        safe = path.suffix == ".safetensors"
        found = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen different ones
        raise DataError(
            f"{path} cannot be read as {'safetensors' if safe else 'a state dict of tensors'} "
            f"({type(error).__name__}); save model.state_dict(), by torch.save or as .safetensors."
        ) from error
    for name in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    plain = isinstance(found, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    if not plain or not found:
        raise DataError(
            f"{path} should hold a state dict, tensors by name, at its top or under {' or '.join(NESTED)}; save "
            "model.state_dict()."
        )
    return dict(found)


def _renamed(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's part of a state dict under the encoder's own names."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for prefix in BACKBONES:
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    names = {name.removeprefix("body."): name for name in own}
    short = {key.removeprefix("body."): value for key, value in state.items()}
    return {
        names.get(key, key): value for key, value in short.items() if key in names or not key.startswith(CLASSIFIERS)
    }


# ---------------------------------------------------------------- downloads
def _source(weights: str) -> Callable[[str], Offer] | None:
    """Who offers weights of this name; None for a file."""
    return {"timm": _timm, "torchvision": _torchvision}.get(weights.partition(":")[0]) if ":" in weights else None


def _timm(name: str) -> Offer:
    import timm  # a second of import time, for those who need it

    try:
        offered = timm.get_pretrained_cfg(name)
    except RuntimeError:  # the architecture is known, the tag is not
        offered = None
    if offered is None or not offered.hf_hub_id:
        raise SpecError(
            f"timm has no weights {name!r}; choose one of timm.list_pretrained(), vit_tiny_patch16_224 for example."
        )
    url = f"https://huggingface.co/{offered.hf_hub_id}/resolve/main/model.safetensors"
    file = f"{offered.hf_hub_id.replace('/', '--')}.safetensors"
    return Offer(url, file, tuple(offered.mean), tuple(offered.std))


def _torchvision(name: str) -> Offer:
    import torchvision

    try:
        offered = torchvision.models.get_weight(name)
        preset = offered.transforms()
        return Offer(offered.url, offered.url.rpartition("/")[2], tuple(preset.mean), tuple(preset.std))
    except (ValueError, KeyError, AttributeError):
        raise SpecError(
            f"torchvision has no weights {name!r} of an image classifier; choose one such as "
            "ResNet50_Weights.IMAGENET1K_V2."
        ) from None


def _check_pixels(encoder: nn.Module, weights: str, offer: Offer) -> None:
    """Features of pixels on another scale than in training are worth little, and nothing else would tell."""
    own = (encoder.mean.flatten(), encoder.std.flatten())
    if not all(torch.allclose(torch.tensor(a), b) for a, b in zip((offer.mean, offer.std), own, strict=True)):
        mean, std = ([round(value, 3) for value in values.tolist()] for values in own)
        raise SpecError(
            f"weights {weights!r} expect pixels of mean {list(offer.mean)} and deviation {list(offer.std)}, the "
            f"encoder's have {mean} and {std}; change its option pixels (half or imagenet)."
        )


def _downloaded(weights: str, offer: Offer) -> Path:
    """The file in torch's cache of downloads, fetched on first use."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / offer.file
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([a-f0-9]{8,})\.", offer.file)  # torchvision's names end in the file's SHA-256
        try:
            torch.hub.download_url_to_file(offer.url, str(path), digest and digest[1])
        except (OSError, RuntimeError, HTTPException) as error:
            raise DataError(
                f"weights {weights!r} cannot be downloaded ({error}); download {offer.url} elsewhere and give the path "
                "of the file instead."
            ) from error
    return path
