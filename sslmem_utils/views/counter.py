"""Counter-based uniform numbers: a hash of (seed, image id, view number, slot) in int64 tensor operations.

The hash is splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195). Integers wrap around alike on every
device, and 24 bits fit a float32 exactly, so that CPU and GPU draw the same numbers to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..errors import SpecError

_WORD = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15  # splitmix64's increment, 2**64 over the golden ratio
_VIEW_STEP = 0xD1342543DE82EF95  # Steele and Vigna 2022 (doi:10.1002/spe.3030); so views never run into other images
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _signed(value: int) -> int:
    """The int64 with the low 64 bits of `value`."""
    value &= _WORD
    return value - 2**64 if value >> 63 else value


def _hash_seed(seed: int) -> int:
    z = (seed + _STEP) & _WORD
    for shift, factor in _ROUNDS:
        z = ((z ^ (z >> shift)) * factor) & _WORD
    return z ^ (z >> 31)


def _rounds_(z: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """splitmix64 of int64 counters, in place, without its last step, which leaves the top 31 bits as they are."""
    for shift, factor in _ROUNDS:
        # A right shift of int64 copies the sign; the copies are masked off.
        z.bitwise_xor_((z >> shift).bitwise_and_(2 ** (64 - shift) - 1)).mul_(_signed(factor))
    return z


def uniform(seed: int, ids: Tensor, numbers: Tensor, slots: Sequence[int]) -> Float32[Tensor, "n k s"]:
    """Uniform numbers in [0, 1): float32 (n, k, s), multiples of 2**-24, on the device of `ids`.

    `ids` int64 (n,) names the images, `numbers` int64 (n, k) or (k,) their views, `slots` what each number is for.
    Raises SpecError for other shapes or types and for a seed outside [0, 2**63).
    """
    if not 0 <= seed < 2**63:
        raise SpecError(f"View seed must lie in [0, 2**63), found {seed}; derive it with specs.seed_of.")
    if ids.dtype != torch.int64 or numbers.dtype != torch.int64:
        raise SpecError(f"Image ids and view numbers must be int64, found {ids.dtype}, {numbers.dtype}; convert them.")
    if ids.ndim != 1 or numbers.ndim not in (1, 2) or (numbers.ndim == 2 and len(numbers) != len(ids)):
        raise SpecError(
            f"Image ids must have shape (n,) and view numbers (k,) or (n, k), found {tuple(ids.shape)} and "
            f"{tuple(numbers.shape)}; reshape them."
        )
    steps = torch.tensor([_signed((slot + 1) * _STEP) for slot in slots], dtype=torch.int64, device=ids.device)
    images = (ids * _signed(_STEP)).add_(_signed(_hash_seed(seed)))
    z = _rounds_(images[:, None] + numbers.to(ids.device) * _signed(_VIEW_STEP))
    z.bitwise_xor_((z >> 31).bitwise_and_(2**33 - 1))
    z = _rounds_(z[..., None] + steps)
    return (z >> 40).bitwise_and_(2**24 - 1).to(torch.float32).mul_(2.0**-24)
