"""Names to implementations: a new encoder or method is one file, found by its registry name."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

from .errors import SpecError
from .specs import Scalar

T = TypeVar("T")


class Registry(Generic[T]):
    """Implementations by name. Files of `package` are imported on the first look-up and register themselves."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, T] = {}
        self._imported = False

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator: make an implementation known under `name`."""

        def add(entry: T) -> T:
            if name in self._entries and self._entries[name].__module__ != entry.__module__:
                raise SpecError(f"{self.kind} {name!r} is registered twice; choose another name.")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """All registered names."""
        if not self._imported:
            module = importlib.import_module(self.package)
            for info in pkgutil.iter_modules(module.__path__):
                importlib.import_module(f"{self.package}.{info.name}")
            self._imported = True
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """The implementation called `name`; SpecError with the known names otherwise."""
        known = self.names()
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}."
            raise SpecError(f"unknown {self.kind} {name!r}; {hint}")
        return self._entries[name]


# What an option of a name may be, whichever encoder or method has it: least, most, and whether the least itself may be.
_COUNT, _SHARE, _ABOVE, _WEIGHT = (1, math.inf, True), (0, 1, True), (0, math.inf, False), (0, math.inf, True)
RANGES = {
    **dict.fromkeys(("width", "depth", "heads", "patch", "layers", "hidden", "bottleneck", "classes"), _COUNT),
    **dict.fromkeys(("momentum", "center_momentum", "warmup", "freeze", "smoothing"), _SHARE),
    **dict.fromkeys(("temperature", *(f"{name}_temperature" for name in ("student", "teacher", "warmup"))), _ABOVE),
    **dict.fromkeys(("local_views", "local_size", "redundancy", "invariance", "variance", "covariance"), _WEIGHT),
    "output": (2, math.inf, True),
}


def resolve(kind: str, name: str, defaults: Mapping[str, Scalar], options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Defaults overridden by `options`, with names and types checked against the defaults."""
    for key, value in options.items():
        if key not in defaults:
            known = ", ".join(defaults) or "no options"
            raise SpecError(f"{kind} {name!r} has no option {key!r}; it has {known}.")
        wanted = type(defaults[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise SpecError(f"option {key!r} of {kind} {name!r} must be {wanted.__name__}, found {value!r}.")
        low, high, closed = RANGES.get(key, (-math.inf, math.inf, True))
        if wanted in (int, float) and not (low < value <= high or (closed and value == low)):
            least = f"{'at least' if closed else 'above'} {low}"
            most = f" and at most {high}" if high < math.inf else ""
            raise SpecError(f"option {key!r} of {kind} {name!r} must be {least}{most}, found {value!r}.")
    return {key: type(default)(options.get(key, default)) for key, default in defaults.items()}
