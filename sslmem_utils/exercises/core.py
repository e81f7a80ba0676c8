"""The register of exercises, and `check`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import EllipsisType

from ..errors import SpecError
from ..runs.parameters import unknown
from .comparing import Hint

Judge = Callable[..., str | None]
_register: dict[str, Judge] = {}
_SHARED = {"core", "comparing"}  # modules of this package that hold no exercises


def exercise(number: str) -> Callable[[Judge], Judge]:
    """Register a function(answer, **given) as the judge of exercise `number`, such as "03.2"."""

    def register(judge: Judge) -> Judge:
        if number in _register:
            raise SpecError(f"there are two exercises {number}; give each its own number.")
        _register[number] = judge
        return judge

    return register


def known() -> dict[str, Judge]:
    """The judges of all exercises by number, in order."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in _SHARED:
            importlib.import_module(f"{__package__}.{module.name}")
    return dict(sorted(_register.items()))


def check(number: str, answer: object | EllipsisType, **given: object) -> bool:
    """Say in one line whether the answer to an exercise is right, or what to look at.

    `given` is what the exercise's judge takes beside the answer, tables of the page. An answer of another kind than the
    one asked for is refused with a hint, never by an exception. SpecError for a number that no exercise has, or where
    something is not given.
    """
    judges = known()
    if number not in judges:
        raise SpecError(unknown("exercise", number, list(judges)))
    needed = list(inspect.signature(judges[number]).parameters)[1:]
    if set(needed) != set(given):
        call = ", ".join([f'check("{number}", answer', *(f"{name}={name}" for name in needed)])
        raise SpecError(f"exercise {number} is checked by {call}), found {', '.join(given) or 'the answer alone'}.")
    if answer is ...:
        print(f"{number}: no answer yet. Put yours in the place of the three dots.")
        return False
    try:
        hint = judges[number](answer, **given)
    except Hint as said:
        hint = str(said)
    except Exception:  # whatever a wrong answer leads to
        hint = f"this {type(answer).__name__} is not the kind of answer that is asked for; read the exercise again."
    print(f"{number}: right." if hint is None else f"{number}: not yet: {hint}")
    return hint is None
