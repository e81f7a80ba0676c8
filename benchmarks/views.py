"""Views a second on one core: `sslmem_utils.views`, as it is and compiled, against a DataLoader without workers.

Freed memory is kept for both sides, as training and scoring have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from sslmem_utils import views
from sslmem_utils.allocation import keep_freed_memory

from . import cases, measure, table, usual

LINE = "views"
N = 256  # images a batch
TARGETS = {(3, 32, 32): {"eager": 10.0, "compiled": 25.0}, (1, 28, 28): {"eager": 20.0, "compiled": 40.0}}


def tasks(effort: table.Effort, compiler: Callable = torch.compile) -> Iterator[tuple[str, Callable]]:
    """One comparison for each shape of images."""
    for shape in TARGETS:
        yield f"{LINE} {cases.shown(shape)}", lambda shape=shape: compare(shape, effort, compiler)


def compare(shape: tuple[int, int, int], effort: table.Effort, compiler: Callable) -> list[table.Row]:
    """Two views of each image of a batch: the usual pipeline, ours eager, ours compiled (if there is a compiler)."""
    torch.set_num_threads(1)
    keep_freed_memory()
    n, times = effort.of(N), effort.of(10)
    images, source = cases.pictures(shape, n)
    ids, numbers, view = torch.arange(n), torch.arange(2), cases.policy(shape)
    batches = iter(usual.loader(images, view, n, workers=0))

    def measured(function: Callable) -> Callable[[], float]:
        return measure.cpu_rate(lambda: function(images, ids, view, numbers, 0), 2 * n, times)

    sides = {"usual": measure.cpu_rate(lambda: next(batches), 2 * n), "eager": measured(views.views)}
    about = {"images": source}
    missing = []
    try:
        compiled = compiler(views.views)
        compiled(images, ids, view, numbers, 0)
        sides["compiled"] = measured(compiled)
    except Exception as error:  # the compiler is PyTorch's and the system's: whatever it says is the reason
        missing = [table.left_out(LINE, cases.shown(shape), f"torch.compile: {error}", setting="compiled", **about)]
    rates = measure.by_turns(sides, effort.repeats)
    rows = []
    for setting in list(sides)[1:]:
        about["target"] = TARGETS[shape][setting]
        rows += table.compared(
            LINE, cases.shown(shape), "views/s", rates[setting], rates["usual"], setting=setting, **about
        )
    return rows + missing
