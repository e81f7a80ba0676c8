"""The plain computations of a grid: their parameters, what they need first, and how each is done.

What a plan may say about them is checked without torch; specs, keys and work load it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..errors import SpecError
from ..runs import tables
from ..specs import ComputeSpec, DatasetSpec, ScoreSpec, Seed, Spec, TrainSpec, digest
from ..store import Store
from ..versions import version_of
from .jobs import STORED, GridJob

TABLE = "table.parquet"  # in the artifact of a score or a probe
Count = Annotated[int, Field(ge=1)]
Say = Callable[[str], None]


class Train(Spec):
    """One encoder of a pair: `recipes.recipe` of the dataset with what is given here in its place."""

    dataset: str
    shared: Annotated[int, Field(ge=0)]
    candidate: Count
    external: Count
    seed: Seed = 0  # of the split; f trains with the seed 2 s, g with 2 s + 1
    which: Literal["f", "g"] = "f"
    part: Literal["train", "val", "test", "unlabeled", "all"] = "all"
    size: Annotated[int, Field(ge=4, le=1024)] | None = None
    method: str | None = None
    encoder: str | None = None
    view: str | None = None
    epochs: Count | None = None
    batch: Annotated[int, Field(ge=2)] | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    weights: str | None = None
    device: Literal["cpu", "cuda"] | None = None  # None: what the driver's machine has, with its precision
    precision: Literal["fp32", "bf16"] | None = None


class Score(Train):
    """The score of every image by a pair of encoders, f and g."""

    which: Literal["f"] = "f"  # both are trained: nothing to choose
    views: Annotated[int, Field(ge=2, le=1024)] = 20
    representation: str = "pooled"
    distance: Literal["l2", "cosine", "l1", "angular"] = "l2"
    comparison: Literal["pairs", "anchor"] = "pairs"


class Probe(Train):
    """kNN and linear accuracy of one encoder on labelled images that neither f nor g has seen."""


COMPUTATIONS: dict[str, type[Train]] = {"train": Train, "score": Score, "probe": Probe}
_HIDDEN = {"score": {"which"}}


def names_of(computation: str) -> list[str]:
    """Names of the parameters that a plan may give to a computation."""
    return [name for name in COMPUTATIONS[computation].model_fields if name not in _HIDDEN.get(computation, ())]


# ---------------------------------------------------------------- from parameters to specs and jobs
def base_spec(params: Train) -> TrainSpec:
    """The spec of the experiment; its pairs are made with `pairs.pair_specs`. SpecError for what cannot be trained."""
    from .. import recipes, views

    given = {name: getattr(params, name) for name in ("method", "encoder", "epochs", "batch", "lr")}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if params.view is not None:
        changes["view"] = views.named(params.view)
    dataset = DatasetSpec(name=params.dataset, part=params.part, size=params.size)
    sizes = {"candidate": params.candidate, "shared": params.shared, "external": params.external}
    spec = recipes.recipe(dataset, **sizes, compute=compute_of(params), **changes)
    return spec if params.weights is None else spec.but(encoder=spec.encoder.but(weights=params.weights))


def compute_of(params: Train) -> ComputeSpec:
    """Device and precision of the parameters, which `complete` has filled in."""
    return ComputeSpec(device=params.device or "cpu", precision=params.precision or "fp32")


def complete(params: Train) -> Train:
    """The parameters with device and precision filled in as this machine has them."""
    from .. import training

    here = training.compute_here()
    device = params.device or here.device
    precision = params.precision or (here.precision if device == here.device else "fp32")
    return params.but(device=device, precision=precision)


def spec_of(params: Train) -> TrainSpec:
    """The spec of the one encoder that the parameters name."""
    from .. import pairs

    f, g = pairs.pair_specs(base_spec(params), params.seed)
    return f if params.which == "f" else g


def setting_of(params: Score) -> ScoreSpec:
    """How alignment is measured for a score."""
    fields = {name: getattr(params, name) for name in ("views", "representation", "distance", "comparison")}
    return ScoreSpec(**fields, compute=compute_of(params))


class Once:
    """Looks up what is the same for thousands of jobs of a plan, such as their data, once."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def __call__(self, key: Hashable, look: Callable[[], Any]) -> Any:
        """What was found under `key`, else what `look` finds."""
        if key not in self._found:
            self._found[key] = look()
        return self._found[key]


def jobs_of(
    kind: str, given: Mapping[str, Any], varied: tuple[str, ...], plan: str, once: Once | None = None
) -> Iterator[GridJob]:
    """The jobs of one computation, what it needs first; the same encoder gives the same job wherever it is needed.

    `varied` names the parameters that tell the jobs of a plan apart; `once` is shared by these. Raises SpecError,
    SplitError or DataError for what cannot be computed.
    """
    once = once or Once()
    params = complete(COMPUTATIONS[kind](**given))
    if kind == "train":
        yield _train_job(params, varied, plan, once, wanted=True)
        return
    spec = base_spec(params)
    if isinstance(params, Score):
        once(
            (spec.dataset, spec.encoder, spec.method, params.representation),
            lambda: _check_representation(spec, params.representation),
        )
    common = {name: getattr(params, name) for name in Train.model_fields}
    sides = ("f", "g") if kind == "score" else (params.which,)
    encoders = [_train_job(Train(**common).but(which=side), varied, plan, once, wanted=False) for side in sides]
    yield from encoders
    identity = _identity(params, [encoder.id for encoder in encoders])
    images = params.shared + params.candidate + params.external
    work = params.views * (images + params.candidate) if isinstance(params, Score) else images
    yield GridJob(
        plan=plan,
        id=identity,
        kind=kind,
        label=_label(kind, params, varied, spec),
        params=params.model_dump(mode="json"),
        family=_family(kind, spec, work),
        needs=tuple(encoder.id for encoder in encoders),
    )


def _identity(params: Train, encoders: list[str]) -> str:
    """Key of the artifact: what trained the encoders, and how they are measured."""
    if not isinstance(params, Score):
        from .. import probes

        return probes.key(spec_of(params))
    setting = setting_of(params)
    return digest("score", encoders, setting.but(view=base_spec(params).view).key(), version_of("scoring", "views"))


def _train_job(params: Train, varied: tuple[str, ...], plan: str, once: Once, wanted: bool) -> GridJob:
    spec = spec_of(params)
    return GridJob(
        plan=plan,
        id=_checked(spec, once),
        kind="train",
        label=_label("train", params, varied, spec),
        params=params.model_dump(mode="json"),
        family=_family("train", spec, spec.epochs * spec.images),
        wanted=wanted,
    )


def _family(kind: str, spec: TrainSpec, work: int) -> str:
    """Name of the jobs that take about equally long, as `costs` reads it; `work` counts images."""
    data = spec.dataset.name if spec.dataset.size is None else f"{spec.dataset.name} {spec.dataset.size}"
    return "/".join((kind, data, spec.encoder.name, spec.compute.device, spec.method.name, str(work)))


def _checked(spec: TrainSpec, once: Once | None = None) -> str:
    """The key of an encoder whose data are here and large enough."""
    from .. import data, training

    once = once or Once()
    fingerprint = once(spec.dataset, lambda: data.load(spec.dataset).fingerprint)
    name = training.key(spec, fingerprint)
    once((spec.dataset, spec.split.but(seed=0)), lambda: training.rows_of(spec))
    return name


def _check_representation(spec: TrainSpec, representation: str) -> None:
    """SpecError for a representation that an encoder does not have: a fresh one is asked for it."""
    if representation == "pooled":
        return
    import torch

    from .. import data, pairs

    fresh = spec.but(encoder=spec.encoder.but(weights=None), compute=ComputeSpec())
    with torch.inference_mode():
        pairs.untrained(fresh).features(torch.zeros(2, *data.load(spec.dataset).shape), representation)


def _label(kind: str, params: Train, varied: tuple[str, ...], spec: TrainSpec) -> str:
    """A few words that tell the jobs of a plan apart."""
    parts = [kind, *([params.which] if kind != "score" else []), params.dataset, spec.method.name]
    told = {"dataset", "method", "which", "seed"}
    fields = type(params).model_fields
    parts += [f"{name}={getattr(params, name)}" for name in varied if name in fields and name not in told]
    return " ".join([*parts, f"seed={params.seed}"])


# ---------------------------------------------------------------- work
def compute(job: GridJob, store: Store, say: Say) -> Path:
    """Do one computation; the folder of its artifact. `say` hears a line now and then.

    Raises SpecError when this machine would compute something else than the plan's did (other data, another version).
    """
    params = COMPUTATIONS[job.kind](**job.params)
    _drop_damaged(store, STORED[job.kind], job.id, say)
    if job.kind == "train":
        spec = spec_of(params)
        _same(job, _checked(spec))
        return _train(spec, store, say)
    return (_score if isinstance(params, Score) else _probe)(job, params, store, say)


def _same(job: GridJob, found: str) -> None:
    if found != job.id:
        raise SpecError(
            f"this machine would compute {found} where the plan asks for {job.id}; give it the same data and the same "
            "version of the package as the machine that started the grid."
        )


def _drop_damaged(store: Store, kind: str, key: str, say: Say) -> None:
    if damage := store.drop_damaged(kind, key):
        say(f"damaged, computed again: {damage}")


def _train(spec: TrainSpec, store: Store, say: Say) -> Path:
    from .. import data, training

    def epoch(done: int, total: int, metrics: dict[str, float]) -> None:
        say(f"epoch {done} of {total}, loss {metrics['loss']:.3f}")

    _drop_damaged(store, training.KIND, training.key(spec, data.load(spec.dataset).fingerprint), say)
    return training.train(spec, store, epoch)


def _score(job: GridJob, params: Score, store: Store, say: Say) -> Path:
    from .. import pairs

    base, setting = base_spec(params), setting_of(params)
    specs = dict(zip("fg", pairs.pair_specs(base, params.seed), strict=True))
    keys = [_checked(spec) for spec in specs.values()]
    _same(job, _identity(params, keys))

    def write(folder: Path) -> None:
        # One after the other in this process; on a store of its own a node may lack an encoder
        for side, spec in specs.items():
            _train(spec, store, say)
            pairs.alignment(spec, setting, store)
            say(f"aligned {side}")
        table = pairs.scores(base, [params.seed], [setting], store=store)
        table.to_parquet(folder / TABLE, index=False)

    return store.compute(STORED["score"], job.id, write, _sidecar(job, keys, specs, setting.but(view=base.view)))


def _probe(job: GridJob, params: Probe, store: Store, say: Say) -> Path:
    from .. import probes, training

    spec = spec_of(params)
    name = _checked(spec)
    _same(job, _identity(params, [name]))

    def write(folder: Path) -> None:
        images = probes.sample(spec, probes.FIT, probes.TEST)
        _train(spec, store, say)
        found = probes.measure(training.load(spec, store), images)
        found.to_parquet(folder / TABLE, index=False)
        say(f"kNN accuracy {found['knn'][0]:.3f}, linear accuracy {found['linear'][0]:.3f}")

    return store.compute(STORED["probe"], job.id, write, _sidecar(job, [name], {params.which: spec}))


def _sidecar(
    job: GridJob, keys: list[str], specs: Mapping[str, TrainSpec], setting: ScoreSpec | None = None
) -> dict[str, Any]:
    """What says how a table was made: its encoders with all their options, how they were measured, and where."""
    from .. import data, training

    full = [training.resolved(spec).model_dump(mode="json") for spec in specs.values()]
    return {
        "label": job.label,
        "params": job.params,
        "encoders": {side: {"key": key, "spec": spec} for side, key, spec in zip(specs, keys, full, strict=True)},
        "score": None if setting is None else setting.model_dump(mode="json"),
        "fingerprint": data.load(next(iter(specs.values())).dataset).fingerprint,
        **tables.origin(),
    }
