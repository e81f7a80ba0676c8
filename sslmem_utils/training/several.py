"""Several encoders at a time: processes of one thread each on a CPU, progress of them all in one place."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_all_start_methods, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .. import data, paths
from ..errors import SSLMemError, TrainingError
from ..specs import TrainSpec
from ..store import Store
from .ranks import speaks
from .single import KIND, Progress, key, train

T = TypeVar("T")
Then = Callable[[TrainSpec, Store], object]
SMALL = 2_000_000  # pixels seen in training: what takes less time than to start workers
_pool: ProcessPoolExecutor | None = None
_events: Any = None  # queue from the workers: (number, epoch, epochs, metrics)


def _begin_worker(events: Any) -> None:
    """End this worker when its parent is gone or it is interrupted: checkpoints make that safe at any moment.

    NumPy and SciPy get one thread too, as torch does: probes on as many threads as cores in every worker wait for each
    other, 20 times as long where other programs run.
    """
    global _events
    _events, parent = events, parent_process()
    os.environ["OMP_NUM_THREADS"] = "1"  # read by what is loaded from now on
    threadpool_limits(1)
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

    def watch() -> None:
        parent.join()  # the process that asked for workers; the fork server between is not told of its end
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _workers(device: str) -> ProcessPoolExecutor:
    """One pool of workers a process, kept, because importing torch takes seconds.

    A fork server imports it once for all workers; plain forks of a process that has used torch's threads may hang.
    """
    global _pool, _events
    if _pool is None:
        server = "forkserver" in get_all_start_methods()
        context = get_context("forkserver" if server else "spawn")
        if server:
            context.set_forkserver_preload(["sslmem_utils.training", "torch._dynamo", "lightly.loss", "timm"])
        _events = context.SimpleQueue()
        _pool = ProcessPoolExecutor(paths.jobs(device), context, _begin_worker, (_events,))
    return _pool


def _close() -> None:
    global _pool
    if _pool is not None:
        _pool.shutdown(wait=False, cancel_futures=True)
        _pool = None


def _at_most_every_second(report: Progress) -> Progress:
    """Pass on the last epoch, those with a kNN accuracy, and at most one a second: small encoders have fifty."""
    last = -math.inf

    def progress(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        nonlocal last
        watched = not math.isnan(metrics["knn"])
        if watched or epoch == epochs or time.monotonic() - last >= 1:
            last = time.monotonic()
            report(epoch, epochs, metrics)

    return progress


def _train_in_worker(number: int, text: str, root: str, knn_every: int, then: Then | None) -> None:
    report = _at_most_every_second(lambda *event: _events.put((number, *event)))
    spec, store = TrainSpec.model_validate_json(text), Store(Path(root))
    train(spec, store, report, knn_every)
    if then is not None:
        then(spec, store)


class _Watch:
    """Shows how several encoders get on: a bar in a terminal, else one line an epoch on stderr."""

    def __init__(self, total: int) -> None:
        self.total, self.began = total, time.monotonic()
        self.bar = tqdm(total=total, unit="encoder", leave=False) if sys.stderr.isatty() and speaks() else None

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        text = f"encoder {number} of {self.total}: epoch {epoch} of {epochs}, loss {metrics['loss']:.3f}"
        for name, label in (("knn", "kNN accuracy"), ("spread", "spread")):
            text += "" if math.isnan(metrics[name]) else f", {label} {metrics[name]:.3f}"
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        elif speaks():
            print(text, file=sys.stderr, flush=True)

    def finished(self, done: int, failed: int) -> None:
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        elif speaks():
            seconds = time.monotonic() - self.began
            of = f"trained {done - failed} of {self.total} encoders" + (f", {failed} failed" if failed else "")
            print(f"{of}, {seconds:.0f} s", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def train_all(
    specs: Sequence[TrainSpec], store: Store | None = None, knn_every: int = 0, then: Then | None = None
) -> list[Path]:
    """Train every encoder that is not stored yet; their folders in the order of `specs`.

    On a CPU they run in `paths.jobs()` processes, or here where there is little to do; on a GPU one after the other,
    unless SSLMEM_JOBS says how many share it. When one fails, the others are finished and kept before its error is
    raised. `knn_every` as in `train`. `then(spec, store)` follows each training in the same process, also for encoders
    that are stored already: a function of a module, because it travels to other processes.
    """
    store = store or Store()
    missing = [spec for spec in dict.fromkeys(specs) if then or store.get(KIND, _name(spec)) is None]
    watch = _Watch(len(missing))
    try:
        failed = (_in_parallel if _worth_workers(missing) else _in_turn)(missing, store, watch, knn_every, then)
    finally:
        watch.close()
    if failed:
        raise _said(failed[0])
    names = [_name(spec) for spec in specs]
    for name in names:
        store.forget(KIND, name)  # a kill may have come between storing and forgetting
    return [store.path(KIND, name) for name in names]


def side_by_side(function: Callable[[T], object], arguments: Sequence[T], specs: Sequence[TrainSpec]) -> None:
    """Call a function of a module with each argument, each of which trains the spec at its place.

    In processes or here, as `train_all`; raises the first error.
    """
    if not _worth_workers(specs):
        for one in arguments:
            function(one)
        return
    try:
        list(_workers(specs[0].compute.device).map(function, arguments))
    except BrokenProcessPool as error:
        raise _said(error) from None


def _worth_workers(specs: Sequence[TrainSpec]) -> bool:
    jobs = min((paths.jobs(spec.compute.device) if spec.compute.processes == 1 else 1 for spec in specs), default=1)
    return min(jobs, len(specs)) > 1 and (_pool is not None or sum(map(_pixels, specs)) > SMALL)


def _said(error: BaseException) -> BaseException:
    if not isinstance(error, BrokenProcessPool):
        return error
    _close()
    return TrainingError("a training process was killed (out of memory?); run again to go on where it stopped.")


def _in_parallel(
    specs: Sequence[TrainSpec], store: Store, watch: _Watch, knn_every: int, then: Then | None
) -> list[BaseException]:
    pool, root = _workers(specs[0].compute.device), str(store.root)
    arguments = ((number, spec.canonical(), root, knn_every, then) for number, spec in enumerate(specs, 1))
    futures = {pool.submit(_train_in_worker, *some) for some in arguments}
    failed, total = [], len(futures)
    while futures:
        done, futures = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED)
        while not _events.empty():
            watch.epoch(*_events.get())
        if done:
            failed += [error for future in done if (error := future.exception()) is not None]
            watch.finished(total - len(futures), len(failed))
    return failed


def _in_turn(
    specs: Sequence[TrainSpec], store: Store, watch: _Watch, knn_every: int, then: Then | None
) -> list[BaseException]:
    failed: list[BaseException] = []
    left = list(specs)
    while left:
        # another run may train the same encoders: rather one that it has not begun than wait for it
        free = (one.compute.processes > 1 or not store.is_locked(KIND, _name(one)) for one in left)
        spec = next((one for one, now in zip(left, free, strict=True) if now), left[0])
        left.remove(spec)
        number = len(specs) - len(left)
        try:
            train(spec, store, _at_most_every_second(partial(watch.epoch, number)), knn_every)
            if then is not None:
                then(spec, store)
        except SSLMemError as error:
            failed.append(error)
        watch.finished(number, len(failed))
    return failed


def _pixels(spec: TrainSpec) -> int:
    return spec.epochs * spec.images * math.prod(data.load(spec.dataset).shape)


def _name(spec: TrainSpec) -> str:
    return key(spec, data.load(spec.dataset).fingerprint)
