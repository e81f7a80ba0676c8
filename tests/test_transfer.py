"""Probes on other datasets, and what more they say: which images, plain classifiers beside them, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from sslmem_utils import data, pairs, probes, training
from sslmem_utils.data import rendered
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.probes import classify
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import DatasetSpec, TrainSpec
from sslmem_utils.store import Store

FEW = {"fit": 200, "test": 150}
OF = ("trained", "untrained", "pixels")
POINTS = 0.002  # 0.2 points of accuracy


@pytest.fixture(scope="module")
def spec() -> TrainSpec:
    return pairs.pair_specs(recipe("digits", shared=30, candidate=30, external=40, epochs=2, batch=30), 0)[0]


@pytest.fixture(scope="module")
def digits(spec: TrainSpec) -> tuple[np.ndarray, probes.Sample]:
    """Pixels of 1,600 digits: 600 for fitting, 1,000 for testing, so that 0.2 points are two images."""
    given = probes.sample(spec, 600, 1000)
    return given.pixels.flatten(1).numpy().astype(np.float32) / 255, given


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSLMEM_DATA", str(tmp_path / "data"))
    return tmp_path


# ---------------------------------------------------------------- against scikit-learn on the same features
def test_knn_is_that_of_scikit_learn(digits: tuple[np.ndarray, probes.Sample]) -> None:
    x, given = digits
    sweep, best = probes.knn_sweep(x, given)
    assert sorted(sweep) == list(classify.KS)
    normal = F.normalize(torch.from_numpy(x), dim=1).numpy()
    fit, inner, held = ~given.test, ~given.test & ~given.held_out, given.held_out

    def plain(bank: np.ndarray, asked: np.ndarray, k: int) -> float:
        votes = KNeighborsClassifier(k, weights="distance").fit(normal[bank], given.labels[bank])
        return votes.score(normal[asked], given.labels[asked])

    for k, value in sweep.items():
        assert abs(value - plain(fit, given.test, k)) <= POINTS
    chosen = {k: plain(inner, held, k) for k in sweep}
    assert chosen[best] == max(chosen.values()) and sweep[1] > sweep[100], "k matters here"


def test_sgd_is_the_logistic_regression_of_scikit_learn(digits: tuple[np.ndarray, probes.Sample]) -> None:
    x, given = digits
    for penalty in (0.1, 1.0):
        scaler = StandardScaler().fit(x[~given.test])
        plain = LogisticRegression(C=penalty, max_iter=2000).fit(
            scaler.transform(x[~given.test]), given.labels[~given.test]
        )
        wanted = plain.score(scaler.transform(x[given.test]), given.labels[given.test])
        assert abs(probes.sgd_accuracy(x, given, penalty=penalty) - wanted) <= POINTS


def test_sgd_leaves_rates_out_that_diverge(digits: tuple[np.ndarray, probes.Sample]) -> None:
    x, given = digits
    good = probes.sgd_accuracy(x, given, rates=[0.3])
    assert probes.sgd_accuracy(x, given, rates=[1e9, 0.3]) == good
    with pytest.raises(SpecError, match="diverged at every learning rate"):
        probes.sgd_accuracy(x, given, rates=[1e9])


def test_calibration_of_honest_and_of_boastful_probes() -> None:
    rng, classes = np.random.default_rng(0), np.array([3, 7])
    share = rng.uniform(0.5, 1.0, 20_000)
    labels = np.where(rng.uniform(size=20_000) < share, 3, 7)
    honest, sure = np.stack([share, 1 - share], 1), np.tile([1.0, 0.0], (20_000, 1))
    assert probes.calibration_error(honest, labels, classes) < 0.01
    wrong = 1 - (labels == 3).mean()
    assert probes.calibration_error(sure, labels, classes) == pytest.approx(wrong, abs=1e-6)
    unseen = np.full(100, 5)  # a class that was never fitted: always wrong
    assert probes.calibration_error(sure[:100], unseen, classes) == pytest.approx(1)


def test_few_labels_by_hand(digits: tuple[np.ndarray, probes.Sample]) -> None:
    x, given = digits
    scores = [probes.few_shot(x, given, shots) for shots in (1, 5, 10)]
    assert 0.4 < scores[0] < scores[1] < scores[2]
    assert probes.few_shot(x, given, 5) == scores[1], "the draws are always the same"
    known = np.eye(10, dtype=np.float32)[given.labels]
    assert probes.few_shot(known, given, 1) == 1
    with pytest.raises(DataError, match="1000 labelled images of every class are asked for, found"):
        probes.few_shot(x, given, 1000)


def test_accuracies_are_over_all_samples(digits: tuple[np.ndarray, probes.Sample]) -> None:
    x, given = digits
    table = probes.detail_of(x, given, [f"digit {number}" for number in range(10)])
    each = table[table["probe"] == "class"]
    counts = np.bincount(given.labels[given.test])
    right = float((each["value"].to_numpy() * counts).sum())
    linear = table.loc[(table["probe"] == "linear") & (table["setting"] == "L-BFGS"), "value"].item()
    assert list(each["setting"]) == [f"digit {number}" for number in range(10)]
    assert right == pytest.approx(linear * given.test.sum()) and right == pytest.approx(round(right))
    assert linear == probes.linear_accuracy(x, given)
    assert len(set(counts)) > 1, "a mean over classes would be another number"


# ---------------------------------------------------------------- other datasets
def test_the_same_shapes_for_everybody(cached: Path) -> None:
    shapes = data.import_shapes()
    assert shapes.shape == (1, 28, 28) and len(shapes) == len(rendered.SHAPES) * rendered.PER_SHAPE
    assert data.import_shapes().fingerprint == shapes.fingerprint


def test_transfer_is_stored_and_leaves_the_encoder_alone(cached: Path, spec: TrainSpec) -> None:
    store = Store(cached / "store")
    data.import_shapes()
    training.train(spec, store)
    file = next((cached / "store").rglob("weights.safetensors"))
    before = file.read_bytes()
    model = training.load(spec, store)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    given = probes.foreign(spec, DatasetSpec(name="rendered_shapes"), 200, 150, adapt=True)
    probes.measure(model.train(), given)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} changed"
    rows = {of: probes.transfer(spec, "rendered_shapes", store, **FEW, of=of, adapt=True) for of in OF}
    assert file.read_bytes() == before
    assert rows["trained"].iloc[0][["fit", "test", "classes"]].tolist() == [200, 150, 8]
    values = [rows[of]["linear"].item() for of in rows]
    assert len(set(values)) > 1 and min(values) > 1 / 8
    again = probes.each("transfer", [spec], "rendered_shapes", store=store, **FEW, adapt=True)
    pd.testing.assert_frame_equal(again.drop(columns="encoder"), rows["trained"])


def test_which_images(cached: Path, spec: TrainSpec) -> None:
    data.import_shapes()
    one = probes.foreign(spec, DatasetSpec(name="rendered_shapes"), 200, 150, adapt=True)
    assert one.shape == (1, 8, 8) and one.test.sum() == 150 and one.held_out.sum() == 40
    assert not (one.test & one.held_out).any()
    for part in (one.test, one.held_out, ~one.test):
        counts = np.bincount(one.labels[part], minlength=8)
        assert counts.max() - counts.min() <= 2
    other = probes.foreign(spec.but(seed=9), DatasetSpec(name="rendered_shapes"), 200, 150, adapt=True)
    assert torch.equal(one.pixels, other.pixels)


def folder(place: Path, channels: int, side: int, parts: dict[str, int], classes: int = 2) -> Path:
    """Images whose grey level says their class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in parts.items():
        for number in range(count):
            label = number % classes
            shape = (side, side, 3) if channels == 3 else (side, side)
            picture = (rng.integers(0, 60, shape) + 120 * label).astype(np.uint8)
            target = place / part / f"class{label}"
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(target / f"{number}.png")
    return place


def test_parts_channels_and_sizes(cached: Path, spec: TrainSpec) -> None:
    colours = data.import_images("colours", folder(cached / "colours", 3, 12, {"train": 90, "test": 60}))
    assert colours.shape == (3, 12, 12)
    found = probes.foreign(spec, DatasetSpec(name="colours"), 80, 60, adapt=True)
    test = data.load(DatasetSpec(name="colours", part="test", size=8)).images
    means = (test.float() * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1).round().to(torch.uint8)
    assert found.shape == (1, 8, 8) and len(found.labels) == 140
    off = (found.pixels[torch.from_numpy(found.test)][:, 0].int() - means.int()).abs().max()
    assert off <= 1, "tested on the test part, in its order, by luminance"
    with pytest.raises(
        DataError, match=r"images of colours are 3x12x12 .* encoder was trained on 1x8x8; bring them to it"
    ):
        probes.transfer(spec, "colours", Store(cached), **FEW)
    assert not (cached / training.KIND).exists(), "said before anything is trained"


def test_what_is_refused(cached: Path, spec: TrainSpec) -> None:
    store = Store(cached / "store")
    data.import_images("same", folder(cached / "same", 1, 8, {"train": 60, "test": 60}, classes=1))
    data.import_images("few", folder(cached / "few", 1, 8, {"train": 30, "test": 30}))
    with pytest.raises(DataError, match="a probe needs images of 2 classes, all those of same are of one"):
        probes.transfer(spec, "same", store, fit=60, test=60)
    with pytest.raises(DataError, match="found 30 in few; take a larger dataset"):
        probes.transfer(spec, "few", store)
    with pytest.raises(SpecError, match="trained on digits, whose images it may have seen"):
        probes.transfer(spec, "digits", store)
    with pytest.raises(SpecError, match="must be trained, untrained, pixels, found 'both'"):
        probes.transfer(spec, "same", store, of="both")
    with pytest.raises(SpecError, match="a probe must be one of transfer, detail"):
        probes.each("knn", [spec], "same", store=store)


def test_detail_of_its_own_images(tmp_path: Path, spec: TrainSpec) -> None:
    store = Store(tmp_path)
    table = probes.detail(spec, None, store, **FEW)
    row = probes.of(spec, store, **FEW).iloc[0]
    value = table.set_index(["probe", "setting"])["value"]
    assert value["linear", "L-BFGS"] == row["linear"] and value["knn", "20"] == row["knn"]
    assert 0 <= value["calibration error", ""] <= 1 and value["confidence", ""] > 0.1


def test_caltech_from_the_development_images(shared_data: Path, cached: Path) -> None:
    import zipfile

    with zipfile.ZipFile(shared_data / "caltech101.zip") as archive:
        wanted = ("airplanes", "Motorbikes", "watch")
        names = [name for name in archive.namelist() if name.split("/")[1:2] and name.split("/")[1] in wanted]
        archive.extractall(cached / "caltech", names)
    found = data.import_images("caltech_part", cached / "caltech", size=32, channels="rgb")
    assert set(found.classes) == set(wanted)
    base = recipe("digits", shared=30, candidate=30, external=40, epochs=2, batch=30)
    row = probes.transfer(pairs.pair_specs(base, 0)[0], "caltech_part", Store(cached), fit=300, test=300, adapt=True)
    assert row["linear"].item() > 0.5 and row["classes"].item() == 3
