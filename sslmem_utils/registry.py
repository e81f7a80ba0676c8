"""Names to implementations: a new encoder or method is one file, found by its registry name."""

from __future__ import annotations

import importlib
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


def resolve(kind: str, name: str, defaults: Mapping[str, Scalar], options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Defaults overridden by `options`, with names and types checked against the defaults."""
    for key, value in options.items():
        if key not in defaults:
            known = ", ".join(defaults) or "no options"
            raise SpecError(f"{kind} {name!r} has no option {key!r}; it has {known}.")
        wanted = type(defaults[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise SpecError(f"option {key!r} of {kind} {name!r} must be {wanted.__name__}, found {value!r}.")
    return {key: type(default)(options.get(key, default)) for key, default in defaults.items()}
