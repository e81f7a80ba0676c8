"""Errors a user can act on: one sentence each, without a traceback on the command line."""


class SSLMemError(Exception):
    """Base of all errors of this package; `exit_code` is what the command line returns."""

    exit_code = 1


class SpecError(SSLMemError):
    """A specification or parameter is wrong; nothing was started."""

    exit_code = 2


class SplitError(SpecError):
    """The four sets cannot be drawn from this dataset."""


class DataError(SSLMemError):
    """A dataset, table or encoder output is missing, damaged or not what it should be."""


class StoreError(SSLMemError):
    """A stored artifact cannot be read or written."""


class TrainingError(SSLMemError):
    """Training cannot go on (a loss that is not finite, a lost worker)."""


class RunError(SSLMemError):
    """A notebook run or book build failed."""
