"""Benchmarks: both sides compute the same thing, every line runs at a tiny size, tables and page say what was measured.

No test looks at a time.
"""

from __future__ import annotations

import math
import operator
import platform
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightly.loss import NTXentLoss

from benchmarks import __main__ as command
from benchmarks import cases, gpu, grid, measure, precision, roofline, scoring, table, training, usual, views
from benchmarks.cases import Case
from sslmem_utils import book, figures, paths
from sslmem_utils import training as ours
from sslmem_utils import views as our_views
from sslmem_utils.errors import SpecError
from sslmem_utils.grid import plan as grid_plan
from sslmem_utils.methods import Batch
from sslmem_utils.specs import ComputeSpec, seed_of

TINY = table.Effort(repeats=2, scale=0.02)
MLP, CNN = Case("mlp", (1, 28, 28), batch=8, ours=2, usual=2), Case("cnn", (3, 32, 32), batch=4)


@pytest.fixture(autouse=True)
def random_pixels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No dataset is found, a round is two steps, and torch's generator is as it was."""
    monkeypatch.setattr(cases.data, "catalogue", list)
    monkeypatch.setattr(cases.loop, "VIEWS_AT_ONCE", 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Rounds:
    """A pause that ends the work after some rounds."""

    def __init__(self, most: int) -> None:
        self.left = most + 1

    def __call__(self, seconds: float | None = None) -> None:
        self.left -= 1
        if not self.left:
            raise measure._Over


# ---------------------------------------------------------------- the same on both sides
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)], ids=cases.shown)
def test_the_usual_transform_has_our_policy(shape: tuple[int, int, int]) -> None:
    spec = cases.policy(shape)
    crop, flip, _, _, jitter, grey, blur, _ = usual.transform(spec, shape[-1]).transforms[0].transform.transforms
    assert (crop.scale, crop.ratio) == (spec.crop_scale, spec.crop_ratio)
    assert (flip.p, jitter.p, grey.p, blur.prob) == (spec.flip, spec.jitter, spec.grayscale, 0)
    [jitter] = jitter.transforms
    for name in ("brightness", "contrast", "saturation"):
        strength = getattr(spec, name)
        assert getattr(jitter, name) == (pytest.approx((1 - strength, 1 + strength)) if strength else None)
    assert jitter.hue == ((-spec.hue, spec.hue) if spec.hue else None)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)], ids=cases.shown)
def test_views_of_both_sides_have_one_law(shape: tuple[int, int, int]) -> None:
    """Means over many views of one image differ by no more than sampling; 8-bit rounding is far below that."""
    n = 800
    ramp = torch.linspace(0, 255, shape[1])
    image = torch.stack([ramp[:, None] * weight + ramp.flip(0) * (1 - weight) for weight in (0.2, 0.5, 0.9)])
    image = image[: shape[0]].to(torch.uint8)[None]
    pictures = usual.Pictures(image, cases.policy(shape))
    theirs = torch.stack([view for _ in range(n // 2) for view in pictures[0]])
    mine = our_views.views(image, torch.arange(1), cases.policy(shape), torch.arange(n), 0)[0]
    assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
    for statistic in (lambda x: x.mean((1, 2, 3)), lambda x: x.std((1, 2, 3)), lambda x: x[:, 0, 0, 0]):
        a, b = statistic(mine), statistic(theirs)
        assert abs(a.mean() - b.mean()) < 4 * math.sqrt((a.var() + b.var()) / n)
        assert float(a.std()) == pytest.approx(float(b.std()), rel=0.15)


@pytest.mark.parametrize("case", [MLP, CNN], ids=lambda case: case.name)
def test_both_trainings_start_alike_and_have_one_loss(case: Case) -> None:
    state = ours.Training.start(ours.resolved(case.spec(ComputeSpec())), case.shape)
    theirs = training.trainer(case, "cpu")
    mine = dict(state.model.named_parameters())
    for name, value in theirs.model.named_parameters():
        assert torch.equal(value, mine[name.replace("backbone.", "encoder.").replace("head.", "projector.")])
    x = torch.rand(case.batch, 2, *case.shape)
    loss = state.model.train()(Batch((x,), torch.zeros(case.batch, dtype=torch.int64)))
    assert theirs.loss(x[:, 0], x[:, 1]).item() == pytest.approx(loss.item(), rel=1e-5)
    group = theirs.optimizer.param_groups[0]
    for name in ("lr", "momentum"):
        assert group[name] == state.optimizer.param_groups[0][name]


def test_the_official_score_is_our_comparison_with_the_clean_image() -> None:
    f, g = scoring.pair(MLP)
    images, _ = cases.pictures(MLP.shape, 3)
    mine = scoring.align((f, g), images, "anchor")
    seed = seed_of("score views", "benchmark", 0)
    drawn = our_views.views(images, torch.arange(3), cases.GREY, torch.arange(scoring.K), seed)
    for row in range(3):
        given = iter(drawn[row].split(1))
        image = images[row : row + 1].float() / 255
        found = usual.official(f.encoder, g.encoder, image, lambda _, given=given: next(given), scoring.K)
        assert found == pytest.approx([float(one[row]) for one in mine], rel=1e-5)


def test_the_vectorised_loss_is_lightlys() -> None:
    z = torch.randn(12, 5)
    wanted = NTXentLoss(0.2)(z[:6], z[6:])
    torch.testing.assert_close(gpu.nt_xent(z, 0.2), wanted)


def test_both_sides_see_as_many_images_a_round() -> None:
    assert CNN.steps() == 1 and MLP.steps() == 2
    spec = MLP.spec(ComputeSpec(), seed=3)
    assert len(training.training_images(MLP)) == MLP.steps() * MLP.batch == spec.split.shared + spec.split.candidate


def test_rounds_end_where_views_drawn_in_one_go_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases.loop, "VIEWS_AT_ONCE", 2 * 8 * 784 * 3)
    assert Case("mlp", (1, 28, 28), batch=8, ours=4).steps() == 6


def test_real_images_are_taken_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"name": "digits", "found": True, "shape": [1, 8, 8]}
    monkeypatch.setattr(cases.data, "catalogue", lambda: [found])
    monkeypatch.setattr(cases, "SETS", {1: "digits"})
    images, source = cases.pictures((1, 8, 8), 2000)
    assert source == "digits" and images.shape == (2000, 1, 8, 8)
    assert torch.equal(images[0], images[1797]), "they repeat"
    assert cases.pictures((1, 28, 28), 2)[1] == "random pixels"


COMPILED = """
import torch
from sslmem_utils import views
images = torch.randint(0, 256, (80, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
given = (images, torch.arange(80), views.named("simclr"), torch.arange(2), 5)
graphs = []
def backend(graph, inputs):
    graphs.append(str(graph.graph))
    return graph
found = torch.compile(views.views, backend=backend)(*given)
torch.testing.assert_close(found, views.views(*given), atol=1e-5, rtol=0)
assert any("copysign" in graph for graph in graphs), "the hue is compiled"
assert not any("grid_sample" in graph for graph in graphs), "crops are not"
"""


@pytest.mark.slow
def test_compiled_views_are_the_same_views() -> None:
    """Graphs are run as they are, without a C++ compiler; in three blocks of which the last is smaller; in a process of
    its own, because the type checks of the tests get into the compiler's way."""
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=paths.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- every line runs
def checked(rows: list[table.Row]) -> pd.DataFrame:
    """Rows with all columns, whose numbers are numbers."""
    frame = pd.DataFrame(rows)
    assert list(frame.columns.sort_values()) == sorted(table.COLUMNS)
    numbers = frame[frame["quantity"] != "left out"]
    assert (numbers["low"] <= numbers["median"]).all() and (numbers["median"] <= numbers["high"]).all()
    assert (numbers["n"] > 0).all()
    return frame


def quantities(frame: pd.DataFrame) -> set[str]:
    return set(frame["quantity"])


def test_views_line() -> None:
    frame = checked([row for _, work in views.tasks(TINY, compiler=lambda function: function) for row in work()])
    ratios = frame[frame["quantity"] == "ratio"].set_index(["case", "setting"])["target"]
    assert ratios.to_dict() == {
        ("3x32x32", "eager"): 10.0,
        ("3x32x32", "compiled"): 25.0,
        ("1x28x28", "eager"): 20.0,
        ("1x28x28", "compiled"): 40.0,
    }


def test_views_line_without_a_compiler() -> None:
    def missing(function: Callable) -> Callable:
        raise RuntimeError("no C++ compiler\nwas found")

    frame = checked(views.compare((1, 28, 28), TINY, missing))
    assert quantities(frame) == {"ratio", "ours", "usual", "left out"}
    assert frame.iloc[-1][["setting", "note"]].to_list() == ["compiled", "torch.compile: no C++ compiler was found"]


class InProcess(measure.Crew):
    """A crew of no processes: rounds of two seconds; what would be sent to processes is only looked at."""

    compiler = True

    def __init__(self, size: int, cores: list[int] | None = None) -> None:
        self.size, self._pipes, self._processes = size, [], []

    def give(self, function: Callable[..., None], *arguments: tuple) -> None:
        assert len(arguments) == self.size
        ForkingPickler.dumps((function, arguments))
        if function is gpu.stacked:
            raise RuntimeError("vmap cannot")
        if function is training.train and arguments[0][1].compiled and not self.compiler:
            raise RuntimeError("no C++ compiler\nwas found")

    def seconds(self) -> float:
        return 2.0


def test_training_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "Crew", InProcess)
    [(name, rows)] = [(name, work()) for name, work in training.tasks(TINY, (MLP,))]
    assert name == "training mlp 1x28x28"
    medians = checked(rows).set_index("quantity")["median"]
    assert list(medians.index) == ["ratio", "ours", "usual", "bound", "achieved", "start", "compiled"]
    assert (medians["start"], medians["compiled"]) == (2, 1)
    assert medians["ours"] == 2 * MLP.steps() * MLP.batch / 2, "images of both processes"
    assert medians["achieved"] == pytest.approx(medians["ours"] * roofline.flops(MLP) / 1e9)


def test_training_line_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "Crew", InProcess)
    monkeypatch.setattr(InProcess, "compiler", False)
    [(_, work)] = training.tasks(TINY, (MLP,))
    frame = checked(work())
    assert quantities(frame) == {"ratio", "ours", "usual", "bound", "achieved", "left out"}
    assert frame.iloc[-1][["setting", "note"]].to_list() == ["compiled", "torch.compile: no C++ compiler was found"]


def test_rounds_of_both_trainings() -> None:
    for work in (
        lambda pause: training.train(pause, MLP, ComputeSpec(), 0),
        lambda pause: training.usual_training(pause, MLP, "cpu", threads=1, workers=0),
    ):
        pause = Rounds(2)
        with pytest.raises(measure._Over):
            work(pause)
        assert pause.left == 0


def test_scoring_line() -> None:
    case = Case("mlp", (1, 28, 28), batch=2, ours=100, usual=50, target=50)
    tasks = dict(scoring.tasks(TINY, (case,)))
    assert quantities(checked(tasks["scoring mlp 1x28x28"]())) == {"ratio", "ours", "usual", "bound"}
    frame = checked(tasks["scoring mlp 1x28x28 cost"]())
    assert frame["quantity"].to_list() == ["time"] * 3 + ["exponent"]
    assert frame["setting"].str.extract(r"(\d+) images")[0].to_list()[:3] == ["2", "4", "8"]


def test_precision_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "1")
    [(_, work)] = precision.tasks(table.Effort(repeats=1, scale=0.1))
    frame = checked(work())
    assert frame["setting"].to_list() == ["bf16 and its fp32 twin", "fp32 and fp32 of other seeds"]
    assert frame["median"].between(-1, 1).all()
    assert frame["median"].iloc[0] > frame["median"].iloc[1], "the twin starts from the same weights"


def test_roofline_line() -> None:
    frame = checked([row for _, work in roofline.tasks(TINY, (MLP,)) for row in work()])
    assert quantities(frame) == {"peak", "achieved", "operations"}
    assert set(frame.loc[frame["quantity"] == "peak", "setting"].str.split(", ").str[0]) == {"fp32", "bf16"}


def test_operations_are_those_of_the_layers_and_of_the_loss() -> None:
    """Two operations a weight and view forward and twice that backward, less the input's gradient; loss: all pairs."""
    b, widths, head = 16, (784, 256, 256, 256), (256, 256, 64)
    weights = [m * n for sizes in (widths, head) for m, n in zip(sizes, sizes[1:], strict=False)]
    layers = 2 * (6 * sum(weights) - 2 * weights[0])
    pairs = 4 * 3 * 2 * b * 64
    assert roofline.forward_flops(MLP) == 2 * sum(weights[: len(widths) - 1])
    assert roofline.flops(Case("mlp", (1, 28, 28), batch=b)) == layers + pairs


def test_grid_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three seconds to start, 4 ms a job beside its own 100 ms, two at a time."""

    def run(engine: str, plan: Callable, size: int) -> grid.Run:
        return grid.Run(3 + size * (0.1 / 2 + 0.004), 0.1 * size, size, 2, (100.0, 101.0))

    monkeypatch.setattr(grid, "run", run)
    frame = checked([row for name, work in grid.tasks(TINY) if name.endswith("process") for row in work()])
    assert set(frame["case"]) == {"tiny computations", "notebooks"}
    found = frame.groupby("quantity")["median"].mean().to_dict()
    expected = {"overhead": 4.0, "own time": 100.0, "start": 3.0, "driver's memory": 101.0, "its growth": 1.0}
    assert found == pytest.approx(expected)
    monkeypatch.setattr(paths, "PROFILES", tmp_path / "notebooks" / "profiles")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    for plan in (grid.computations, grid.notebooks):
        (tmp_path / "plan.yaml").write_text(plan(tmp_path, 3))
        assert len(grid_plan.read(tmp_path / "plan.yaml").wanted) == 3


@pytest.mark.parametrize("work", [gpu.in_streams, gpu.stacked], ids=lambda work: work.__name__)
@pytest.mark.parametrize("case", [MLP, CNN], ids=lambda case: case.name)
def test_small_encoders_side_by_side(work: Callable, case: Case) -> None:
    pause = Rounds(2)
    with pytest.raises(measure._Over):
        work(pause, case, ComputeSpec(), 2)
    assert pause.left == 0


def test_gpu_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "Crew", InProcess)
    compute = ComputeSpec()
    frame = checked(gpu.compare(MLP, TINY, compute, 16))
    pair = frame[frame["quantity"] == "time of a pair"].set_index("setting")["median"]
    images = 2 * gpu.PAIR_EPOCHS * gpu.PAIR_IMAGES
    assert pair["fp32, cpu"] == pytest.approx(images / (MLP.steps() * MLP.batch / 2) / 60)
    assert list(pair.index) == ["usual", "fp32, cpu", "fp32, compiled, cpu"]
    frame = checked(gpu.together(MLP, 3, TINY, compute))
    assert frame.loc[frame["quantity"] == "left out", "note"].to_list() == ["vmap cannot"]
    assert frame.loc[frame["quantity"] == "ratio", "median"].to_list() == [3.0, 3.0], "three in the time of one"
    assert quantities(checked(gpu.peaks("cpu", TINY))) == {"peak"}
    if not torch.cuda.is_available():
        assert not list(gpu.tasks(TINY))


def test_the_profile_says_how_long_the_device_waits_and_what_it_does() -> None:
    assert gpu.idle([(0, 4), (1, 2), (3, 5), (8, 10)]) == pytest.approx(0.3)
    assert gpu.idle([(7, 9)]) == 0
    rows = checked(gpu.profiled(CNN, ComputeSpec()))
    found = rows[rows["quantity"] == "idle"]
    assert len(found) == 1 and 0 <= found["median"].item() < 100
    times = rows[rows["quantity"] == "time"]
    assert len(times) == gpu.KERNELS and times["note"].is_unique and 0 < times["median"].sum() <= 100


# ---------------------------------------------------------------- processes
def test_a_crew_works_in_rounds_and_says_what_failed() -> None:
    """`timeit` stands in for work: it calls `pause` again and again, and its setup can fail; it imports no torch."""
    with measure.Crew(2) as crew:
        crew.give(timeit.timeit, ("pass",), ("pass",))
        assert all(0 < crew.seconds() < 60 for _ in range(3))
        crew.stop()
        with pytest.raises(RuntimeError, match="a process of the benchmark failed: ValueError: wrong"):
            crew.give(timeit.timeit, ("pass",), ("raise ValueError('wrong')",))
    assert not any(process.is_alive() for process in crew._processes)


def test_work_that_ends_too_early_is_an_error() -> None:
    with measure.Crew(1) as crew:
        crew.give(operator.call, (7.0,))
        with pytest.raises(RuntimeError, match="call ended before it was told to"):
            crew.seconds()


def test_sides_take_turns_and_the_first_round_is_thrown_away() -> None:
    seen: list[str] = []

    def side(name: str) -> Callable[[], float]:
        return lambda: seen.append(name) or float(len(seen))

    assert measure.by_turns({"a": side("a"), "b": side("b")}, 2) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert seen == ["a", "b"] * 3


# ---------------------------------------------------------------- tables and the page
ABOUT = {"setting": "fp32, 2 cores", "images": "random pixels"}
ROWS = [
    *table.compared("training", "mlp", "images/s", [30.0, 44.0, 50.0], [3.0, 4.0, 5.0], 15.0, note="batch 8", **ABOUT),
    table.row("training", "mlp", "bound", "x", [20.0], **ABOUT),
    table.row("training", "mlp", "achieved", "GFLOP/s", [10.0, 11.0, 12.0], **ABOUT),
    table.row("roofline", "matrix products", "peak", "GFLOP/s", [100.0, 90.0], setting="fp32, 2 cores"),
    table.left_out("views", "3x32x32", "no\ncompiler", setting="compiled"),
]


def test_ratios_are_those_of_paired_repetitions() -> None:
    ratio = table.compared("l", "c", "u", [10.0, 30.0, 80.0], [1.0, 2.0, 4.0])[0]
    assert (ratio["low"], ratio["median"], ratio["high"], ratio["n"]) == (12.5, 15.0, 17.5, 3)


def test_a_table_says_where_and_names_no_host(tmp_path: Path) -> None:
    path = table.save(ROWS, tmp_path)
    assert path.stem == table.machine() and path.stem.endswith("-cores")
    frame = pd.read_parquet(path)
    assert list(frame.columns) == table.COLUMNS + table.ORIGIN
    [machine] = book.machines(tmp_path)
    assert machine.about.keys() >= {"versions", "hardware", "commit", "created", "threads", "amx", "instructions"}
    text = path.with_suffix(".json").read_text()
    assert str(tmp_path) not in text and (platform.node() in ("", "localhost") or platform.node() not in text)


def test_lines_measured_again_replace_their_old_rows_only(tmp_path: Path) -> None:
    table.save(ROWS, tmp_path)
    table.save([table.row("roofline", "matrix products", "peak", "GFLOP/s", [7.0], setting="fp32, 2 cores")], tmp_path)
    frame = pd.read_parquet(tmp_path / f"{table.machine()}.parquet")
    assert frame.loc[frame["line"] == "roofline", "median"].to_list() == [7.0]
    assert len(frame) == len(ROWS)


def test_the_page_shows_ratios_targets_and_what_is_missing(tmp_path: Path) -> None:
    table.save(ROWS, tmp_path)
    text = book.benchmarks(book.machines(tmp_path), tmp_path / "drawn", tmp_path)
    lines = text.splitlines()
    ratio = "44 images/s | 4 images/s | **10** [10, 10.5] | 20 | ≥ 15 | no | random pixels |"
    assert any(line.startswith("| training | MLP, fp32, 2 cores, batch 8 |") and line.endswith(ratio) for line in lines)
    assert "| views | 3x32x32, compiled, no compiler | left out |" in lines
    folded = lines.index("::::{dropdown} More numbers")
    assert lines.index("| roofline | matrix products, fp32, 2 cores | peak 95 [92.5, 97.5] GFLOP/s |") > folded
    assert f"```{{figure}} drawn/{table.machine()}.svg" in lines
    assert (tmp_path / "drawn" / f"{table.machine()}.svg").read_text().startswith("<?xml")


def test_a_book_without_measurements_says_how_to_make_them(tmp_path: Path) -> None:
    assert "make bench" in book.benchmarks(book.machines(tmp_path), tmp_path, tmp_path)


def test_the_roofline_says_what_it_shows() -> None:
    frame = pd.DataFrame(ROWS)
    figure = figures.roofline(frame[frame["quantity"].isin(["peak", "achieved"])])
    assert "MLP 11 (fp32, 2 cores); peak 95 (fp32, 2 cores)" in figures.alt(figure)
    assert figures.to_svg(figure).count("fp32 peak 95") == 1


def test_what_fails_is_left_out_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[table.Row]:
        raise SpecError("no such encoder.")

    tasks = [("training a", fails), ("training b", lambda: [ROWS[0]])]
    monkeypatch.setattr(training, "tasks", lambda effort: iter(tasks))
    rows, whole = command.measured("training", TINY)
    assert [row["quantity"] for row in rows] == ["left out", "ratio"] and not whole
    assert rows[0]["note"] == "SpecError: no such encoder."
