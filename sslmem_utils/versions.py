"""Result versions: raise a module's number by hand whenever the numbers it computes change.

They are part of every store key and of every result's sidecar, so that a stale result is never served as a fresh one.
A test holds golden values and fails when they move without a raise. Nothing here imports torch.
"""

RESULT_VERSIONS = {
    "data": 1,
    "splits": 1,
    "canaries": 1,
    "views": 1,
    "encoders": 1,
    "methods": 1,
    "training": 1,
    "warmup": 1,  # of trainings whose warm-up is no whole number of steps
    "scoring": 1,
    "probes": 1,
    "stats": 1,
    "rivals": 1,
    "lengths": 1,
    "typicality": 1,
    "comparison": 1,
    "limiting": 1,
    "generalization": 1,
    "removal": 1,
    "theory": 1,
    "labels": 1,
    "dejavu": 1,
    "units": 1,
    "privacy": 1,
}


def version_of(*modules: str) -> str:
    """The versions of some modules as one short text, such as `scoring1.views1`."""
    return ".".join(f"{name}{RESULT_VERSIONS[name]}" for name in sorted(modules))


def current() -> str:
    """The versions of all modules."""
    return version_of(*RESULT_VERSIONS)


def is_older(text: str) -> bool:
    """Whether results made with these versions (as `current` says them) may differ from what is computed now.

    A module that the text does not name came later, so that nothing it computes is in them.
    """
    known = {f"{name}{number}" for name, number in RESULT_VERSIONS.items()}
    return not set(text.split(".")) <= known
