"""Grids: many notebooks and computations from one plan, on one machine or many, whatever is killed meanwhile.

    sslmem grid methods.yaml --engine process --jobs 4

A plan (`plan`) becomes jobs (`jobs`, `computations`), which a driver (`driver`) hands to an engine (`engines`,
`ray_engine`), whose workers do them (`worker`). State is only files: results in the store and in the jobs' folders, and
one file (`state`) for those who watch.
"""

from .driver import forecast, run
from .options import ENGINES, Options
from .plan import MANY, Plan, read

__all__ = ["ENGINES", "MANY", "Options", "Plan", "forecast", "read", "run"]
