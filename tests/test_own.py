"""Scores of anybody's encoders: right, equal to the last bit, resumable, small in memory, plain about mistakes."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import sslmem_utils
from sslmem_utils import cli, data, encoders, methods, own, paths, views
from sslmem_utils.errors import DataError, SpecError, SSLMemError
from sslmem_utils.own import scores
from sslmem_utils.own.adapters import Adapter
from sslmem_utils.specs import DatasetSpec, EncoderSpec, MethodSpec, ScoreSpec, ViewSpec, seed_of
from sslmem_utils.store import sha256, write_json

VIEW = ViewSpec(crop_scale=(0.5, 1.0), crop_ratio=(0.75, 4 / 3), flip=0.5, brightness=0.2, contrast=0.2, jitter=0.8)
SHAPE = (3, 12, 12)


class Linear(nn.Module):
    """Vectors of 10 numbers; counts the images that it has seen."""

    def __init__(self, seed: int = 0, wait: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, math.prod(SHAPE), generator=torch.Generator().manual_seed(seed)))
        self.seen, self.wait = 0, wait

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        time.sleep(self.wait)
        return x.flatten(1) @ self.weight.T / math.sqrt(math.prod(SHAPE))


def conv(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3))


def images(n: int = 30, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)


def score(f: object, g: object, x: object, **options: object) -> pd.DataFrame:
    return sslmem_utils.score(f, g, x, **{"view": VIEW, "views": 5, "progress": False, **options})


# ---------------------------------------------------------------- right
def by_numpy(model: Linear, x: torch.Tensor, distance: str, comparison: str, normalize: bool) -> np.ndarray:
    """Alignment in float64 from the views alone: one loop over images and pairs, formulas of the definition."""
    seed = seed_of("score views", "own", 0)
    drawn = views.views(x, torch.arange(len(x)), VIEW, torch.arange(5), seed).double().numpy()
    weight, mean, std = model.weight.detach().double().numpy(), np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
    clean = x.double().numpy()[:, None] / 255

    def features(pixels: np.ndarray) -> np.ndarray:
        normal = (pixels - mean[:, None, None]) / std[:, None, None]
        z = normal.reshape(*normal.shape[:2], -1) @ weight.T / np.sqrt(np.prod(SHAPE))
        return z / np.linalg.norm(z, axis=-1, keepdims=True) if normalize else z

    def d(a: np.ndarray, b: np.ndarray) -> float:
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        formulas = {"l2": lambda: np.sqrt(((a - b) ** 2).sum()), "l1": lambda: np.abs(a - b).sum()}
        formulas |= {"cosine": lambda: 1 - cosine, "angular": lambda: np.arccos(cosine) / np.pi}
        return formulas[distance]()

    pairs = [(i, j) for i in range(5) for j in range(i)]
    found = []
    for z, anchor in zip(features(drawn), features(clean)[:, 0], strict=True):
        each = [d(anchor, one) for one in z] if comparison == "anchor" else [d(z[i], z[j]) for i, j in pairs]
        found.append(np.mean(each))
    return np.array(found)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("comparison", ["pairs", "anchor"])
@pytest.mark.parametrize("distance", ["l2", "cosine", "l1", "angular"])
def test_scores_agree_with_a_direct_computation_in_double_precision(distance, comparison, normalize) -> None:
    f, g, x = Linear(0), Linear(1), images(8)
    setting = {"distance": distance, "comparison": comparison, "normalize": normalize}
    table = score(f, g, x, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), **setting)
    a, b = (by_numpy(model, x, **setting) for model in (f, g))
    scale = max(1.0, a.max(), b.max())  # of plain features; normalised ones are of length 1
    for column, expected in (("align_f", a), ("align_g", b), ("m", b - a), ("m_rel", (b - a) / (a + b))):
        np.testing.assert_allclose(table[column], expected, rtol=0, atol=1e-6 * scale, err_msg=column)
    np.testing.assert_allclose(table["m_range"], (b - a) / np.ptp(b - a), rtol=0, atol=1e-5)
    assert list(table) == ["index", "label", "set", *"align_f align_g m m_rel m_range se_views se_seeds z".split()]


def test_the_papers_code_score_is_the_official_formula_over_ordered_tokens() -> None:
    torch.manual_seed(0)
    models = [encoders.build(EncoderSpec(name="vit", options={"depth": 1}), SHAPE).eval() for _ in "fg"]
    x = images(6)
    drawn = views.views(x, torch.arange(6), scores.OFFICIAL, torch.arange(5), seed_of("score views", "own", 0))
    with torch.no_grad():
        d = []
        for model in models:
            clean, five = model.tokens_of(x.float() / 255), model.tokens_of(drawn.flatten(0, 1)).unflatten(0, (6, 5))
            clean, five = (z.flatten(-2) / z.flatten(-2).norm(dim=-1, keepdim=True) for z in (clean, five))
            d.append((five - clean[:, None]).norm(dim=-1).mean(1))
    m = d[1] - d[0]
    table = sslmem_utils.paper_code_score(*models, x)
    np.testing.assert_allclose(table["m_range"], m / (m.max() - m.min()), atol=1e-4)
    assert table.attrs["settings"]["dimensions"] == 10 * 64  # nine patches and the class token
    assert sslmem_utils.paper_code_score(Linear(0), Linear(1), x).attrs["settings"]["representation"] == "pooled"


def test_encoders_of_the_package_score_as_its_own_machinery_does() -> None:
    from sslmem_utils.scoring import align

    torch.manual_seed(0)
    encoder = encoders.build(EncoderSpec(name="cnn", options={"width": 4}), SHAPE)
    method = methods.build(MethodSpec(name="simclr"), encoder)
    x = images(6)
    for representation in ("pooled", "projector"):
        spec = ScoreSpec(views=5, representation=representation)
        expected = align(method, x, torch.arange(6), spec, view=VIEW, fingerprint=scores.KEY)
        found = score(method, None, x, representation=representation)
        np.testing.assert_array_equal(found["align_f"], expected["align"])
        np.testing.assert_array_equal(found["se_views"], expected["se_views"])


# ---------------------------------------------------------------- any model
class Hugging(nn.Module):
    """What transformers' models return: tokens, and a pooled vector for some."""

    def __init__(self, pooler: bool, mapping: bool) -> None:
        super().__init__()
        self.patch, self.pooler, self.mapping = nn.Conv2d(3, 8, 4, 4), pooler, mapping

    def forward(self, pixel_values: torch.Tensor) -> object:
        tokens = self.patch(pixel_values).flatten(2).transpose(1, 2)
        out = {"last_hidden_state": torch.cat([tokens.mean(1, keepdim=True) ** 2, tokens], 1)}
        out |= {"pooler_output": tokens.amax(1) if self.pooler else None}
        return out if self.mapping else SimpleNamespace(**out)


def expected_of(kind: str, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    match kind:
        case "conv":
            return model(x).mean((2, 3))
        case "torchvision":
            return nn.Sequential(*list(model.children())[:-1])(x).mean((2, 3))
        case "timm":
            return model.forward_features(x)[:, 0]
        case "pooler":
            return model(x)["pooler_output"]
    return model(x).last_hidden_state.mean(1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "conv": conv,
    "torchvision": lambda: torchvision.models.shufflenet_v2_x0_5(weights=None),
    "timm": lambda: timm.create_model("vit_tiny_patch16_224", img_size=12, patch_size=4, depth=1, num_classes=7),
    "pooler": lambda: Hugging(pooler=True, mapping=True),
    "hidden": lambda: Hugging(pooler=False, mapping=False),
}


@pytest.mark.parametrize("kind", MODELS)
def test_pooled_features_of_models_from_elsewhere(kind: str) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]()
    for part in model.modules():
        part.training = len(list(part.children())) % 2 == 0  # a mixture that must come back
    modes = [part.training for part in model.modules()]
    found = score(model, None, images(8))
    assert [part.training for part in model.modules()] == modes
    assert found["align_f"].between(1e-6, 2).all()
    model.eval()
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(Adapter(model, "f").features(x), expected_of(kind, model, x))


def test_functions_tuples_layers_and_tokens() -> None:
    inner = conv().eval()
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = Adapter(inner, "f").features(x)
        torch.testing.assert_close(Adapter(lambda x: (inner(x), None), "f").features(x), plain)
        torch.testing.assert_close(Adapter(lambda x: {"logits": inner(x)}, "f").features(x), plain)
        layer = Adapter(inner, "f").features(x, "layer:0")
        torch.testing.assert_close(layer, inner[0](x).mean((2, 3)))
        hugging = Hugging(pooler=True, mapping=True)
        tokens = hugging(x)["last_hidden_state"]
        for name, expected in (
            ("cls", tokens[:, 0]),
            ("tokens", tokens[:, 1:].flatten(1)),
            ("cls_tokens", tokens.flatten(1)),
        ):
            torch.testing.assert_close(Adapter(hugging, "f").features(x, name), expected)
        torch.testing.assert_close(Adapter(hugging, "f").features(x, "mean_patch"), tokens[:, 1:].mean(1))
        torch.testing.assert_close(
            Adapter(inner, "f", (0.5,) * 3, 0.2).features(x), Adapter(inner, "f").features((x - 0.5) / 0.2)
        )


# ---------------------------------------------------------------- the same bits
@pytest.mark.parametrize("kind", ["conv", "torchvision", "timm"])
def test_bits_do_not_depend_on_batch_order_or_subset(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    f, g, x = MODELS[kind](), MODELS[kind](), images(24)
    whole = score(f, g, x).drop(columns="m_range")
    monkeypatch.setattr(scores, "PIECE", 16)
    order = np.random.default_rng(0).permutation(24)
    mixed = score(f, g, x[order], index=order, batch=7).drop(columns="m_range")
    pd.testing.assert_frame_equal(mixed.sort_values("index", ignore_index=True), whole, check_exact=True)
    some = score(f, g, x.numpy()[order[:3]], index=order[:3], batch=1).drop(columns="m_range")
    pd.testing.assert_frame_equal(some, whole.loc[order[:3]].reset_index(drop=True), check_exact=True)
    pd.testing.assert_frame_equal(score(f, g, x / 255).drop(columns="m_range"), whole, check_exact=True)


def test_f_against_itself_is_zero_and_views_have_a_seed() -> None:
    f, x = conv(), images()
    assert (score(f, f, x)[["m", "m_rel", "m_range", "se_views"]] == 0).all().all()
    assert not np.array_equal(score(f, None, x)["align_f"], score(f, None, x, seed=1)["align_f"])


def elsewhere(code: str, **variables: str) -> subprocess.Popen:
    path = os.pathsep.join([str(Path(__file__).parent), str(paths.PACKAGE.parent)])
    environment = os.environ | {"PYTHONPATH": path} | variables
    return subprocess.Popen(
        [sys.executable, "-c", f"from test_own import *\n{code}"], env=environment, stderr=subprocess.DEVNULL
    )


MEMORY = """
import threading, psutil
class Wide(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(512, 16, generator=torch.Generator().manual_seed(seed)))
    def forward(self, x):
        return x.flatten(1) @ self.weight.T
x = images(3000, (1, 4, 4))
score(Wide(0), Wide(1), x[:64], views=20)  # what libraries take once
process, peak, on = psutil.Process(), [0], [True]
base = process.memory_info().rss
def watch():
    while on:
        peak[0] = max(peak[0], process.memory_info().rss - base)
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
score(Wide(0), Wide(1), x, views=20)
on.clear()
thread.join()
score(conv(0), conv(1), images(40)).to_parquet(folder + "/bits.parquet")
Path(folder, "peak").write_text(str(peak[0]))
"""


def test_bits_are_those_of_another_process_and_memory_is_bounded(tmp_path: Path) -> None:
    """3,000 x 20 x 512 features are 123 MB an encoder; what stays is 48 numbers an image, 77 MB for 200,000."""
    there = elsewhere(f"folder = {str(tmp_path)!r}\n{MEMORY}", OMP_NUM_THREADS="2")
    assert there.wait() == 0
    bits = pd.read_parquet(tmp_path / "bits.parquet")
    pd.testing.assert_frame_equal(bits, score(conv(0), conv(1), images(40)), check_exact=True)
    assert int((tmp_path / "peak").read_text()) < 90e6


# ---------------------------------------------------------------- going on
def slow(folder: str, wait: float) -> tuple[pd.DataFrame, int]:
    f, g = Linear(0, wait), Linear(1, wait)
    return score(f, g, images(160), resume=folder), f.seen + g.seen


def test_a_killed_run_goes_on_and_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "PIECE", 16)
    there = elsewhere(f"scores.PIECE = 16\nslow({str(tmp_path)!r}, 0.2)")
    until = time.monotonic() + 60
    while (
        len(list((tmp_path / "own").glob("*/manifest.json"))) < 3 and time.monotonic() < until and there.poll() is None
    ):
        time.sleep(0.02)
    there.send_signal(signal.SIGKILL)
    there.wait()
    kept = len(list((tmp_path / "own").glob("*/manifest.json")))
    assert 3 <= kept < 20
    plain = score(f := Linear(0), g := Linear(1), images(160))
    table, seen = slow(str(tmp_path), 0.0)
    pd.testing.assert_frame_equal(table, plain, check_exact=True)
    assert seen == f.seen + g.seen - kept * 320  # one block a piece
    assert slow(str(tmp_path), 0.0)[1] == 2 * 320  # only the look at the sizes
    assert score(Linear(2), g, images(160), resume=tmp_path)["align_f"].ne(plain["align_f"]).all()


# ---------------------------------------------------------------- wrong inputs
def poisoned(x: torch.Tensor) -> torch.Tensor:
    z = Linear()(x)
    z[(x.flatten(1) == 0).all(1)] = torch.nan
    return z


BLACK = torch.cat([images(6), torch.zeros(1, *SHAPE, dtype=torch.uint8)])
NAMES = [f"cats/{i}.png" for i in range(7)]
UNMASKED = encoders.build(EncoderSpec(name="cnn"), SHAPE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: score(Linear(), conv(), x), "f gives 10 dimensions and g 16"),
        (
            lambda x: score(poisoned, None, BLACK, index=NAMES),
            "f gives features of image cats/6.png that are not finite",
        ),
        (lambda x: score(lambda x: Linear()(x) * 0 + 1, None, x), "gives the same pooled for different images"),
        (lambda x: score(Linear(), None, x[:1]), "needs at least 2, found 1"),
        (lambda x: score(Linear(), None, x, views=1), "ScoreSpec views: .*greater than or equal to 2"),
        (lambda x: score(Linear(), None, x, mean=(0.5, 0.5)), "one for each of the 3 channels, found 2"),
        (lambda x: score(Linear(), None, x, mean=123.7), "divide those of 0 to 255 by 255"),
        (lambda x: score(Linear(), None, x, std=0.0), "std is that of pixels in"),
        (lambda x: score(UNMASKED, None, x, mean=0.5), "normalises pixels itself"),
        (lambda x: score(Linear(), None, x.float()), "must lie in .0, 1., found 0 to 255; divide by 255"),
        (lambda x: score(Linear(), None, x / 127.5 - 1), "undo the normalisation"),
        (lambda x: score(Linear(), None, x.int()), "must be uint8"),
        (lambda x: score(Linear(), None, x.permute(0, 2, 3, 1)), "move the channels to the front"),
        (lambda x: score(Linear(), None, x[0]), "images must be a tensor or array"),
        (lambda x: score(Linear(), None, None), "score needs images"),
        (lambda x: score(Linear(), None, x[:, :, :8]), "f cannot read images of"),
        (lambda x: score("resnet", None, x), "must be an nn.Module or a function"),
        (lambda x: score(lambda x: "text", None, x), "must return a tensor"),
        (lambda x: score(lambda x: x.flatten(1)[:3], None, x), "must give one vector an image"),
        (lambda x: score(Linear(), None, x, representation="poled"), "found 'poled'; choose one"),
        (lambda x: score(UNMASKED, None, x, representation="poled"), "found 'poled'; choose one"),
        (lambda x: score(Linear(), None, x, representation="tokens"), "gives no tokens"),
        (lambda x: score(conv(), None, x, representation="layer:9"), "f has no layer '9'"),
        (lambda x: score(Linear(), None, x, view="simcrl"), "View policy must be one of"),
        (lambda x: score(Linear(), None, x, view="none"), "changes no pixel"),
        (lambda x: score(Linear(), None, x, view="mae"), "no way to hide patches"),
        (lambda x: score(Linear(), None, x, distance="l3"), "ScoreSpec distance"),
        (lambda x: score(Linear(), None, x, sets=["f"] * 30), "a set is shared, candidate, independent, external"),
        (lambda x: score(Linear(), None, x, sets={99: "shared"}), "image 99, which is not among the images"),
        (lambda x: score(Linear(), None, x, sets={"shared": [1], "external": [1]}), "image 1 more than once"),
        (lambda x: score(Linear(), None, x, sets="missing.csv"), "missing.csv cannot be read"),
        (lambda x: score(Linear(), None, x, sets=["shared"]), "each of the 30 images"),
        (lambda x: score(Linear(), None, x, labels=[1, 2]), "labels must be one whole number for each"),
        (lambda x: score(Linear(), None, x, index=[1] * 30), "more than once"),
        (lambda x: score(Linear(), None, x, batch=0), "batch is a number of images"),
        (lambda x: score(Linear().forward, None, x, resume="kept"), "pass an nn.Module, or leave resume out"),
        (lambda x: score(Linear(), None, "digts"), "did you mean digits"),
    ],
)
def test_mistakes_are_one_sentence(call: Callable, message: str) -> None:
    with pytest.raises(SSLMemError, match=message) as caught:
        call(images())
    text = str(caught.value)
    assert text.endswith((".", "?")) and "\n" not in text and not re.search(r"\. [A-Z]", text)


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no images in"):
        score(Linear(), None, tmp_path)


# ---------------------------------------------------------------- images and sets from files
def write_folder(root: Path, n: int = 24) -> None:
    for number, pixels in enumerate(images(n).numpy().transpose(0, 2, 3, 1)):
        path = root / f"{'cats' if number % 2 else 'dogs'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def test_a_folder_a_dataset_and_sets_in_any_form(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets")
    f, g = Linear(0), Linear(1)
    table = score(f, g, tmp_path / "pets", sets={"candidate": ["cats/1.png"], "external": ["dogs/0.png"]})
    assert table.set_index("index")["set"].to_dict()["cats/1.png"] == "candidate" and (table["set"] == "").sum() == 22
    table[["index", "set"]].to_csv(tmp_path / "sets.csv", index=False)
    again = score(f, g, tmp_path / "pets", sets=tmp_path / "sets.csv")
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    assert set(table["label"]) == {0, 1}
    digits = data.load(DatasetSpec(limit=20))
    torch.manual_seed(0)
    model = encoders.build(EncoderSpec(), (1, 8, 8))
    by_set, by_name = score(model, None, digits), score(model, None, "digits").set_index("index")
    np.testing.assert_array_equal(by_set["align_f"], by_name.loc[by_set["index"], "align_f"])
    np.testing.assert_array_equal(by_set["label"], digits.labels)


# ---------------------------------------------------------------- the auditor, removal, published tables
def test_membership_p_values_by_hand_and_calibrated() -> None:
    toy = pd.DataFrame({"set": ["external"] * 4 + ["candidate"] * 3, "align_f": [1.0, 2, 3, 4, 0.5, 2, 9]})
    judged, rates = own.audit(toy, levels=(0.25, 0.6))
    np.testing.assert_allclose(judged["p"], [1 / 4, 2 / 4, 3 / 4, 1, 1 / 5, 3 / 5, 1])
    assert rates["flagged"].tolist() == [1, 2, 1, 2]
    assert rates["low"][0] == pytest.approx(1 - 0.975 ** (1 / 3)) and rates["high"][0] == pytest.approx(
        0.9057, abs=1e-4
    )
    rng, hits = np.random.default_rng(0), []
    for _ in range(150):  # externals and non-members from one distribution: P(p <= .1) is at most .1, and close to it
        numbers = rng.normal(size=59)
        hits.append(
            own.audit(
                pd.DataFrame({"set": ["external"] * 49 + ["independent"] * 10, "align_f": numbers}), levels=(0.1,)
            )[1]
        )
    rate = pd.concat(hits).query("set == 'independent' and level == 0.1")["rate"].mean()
    assert rate == pytest.approx(0.1, abs=0.02)
    with pytest.raises(DataError, match="at least 2 images of the set external, found 0"):
        own.audit(toy[toy["set"] == "candidate"])


def test_removal_lists() -> None:
    table = pd.DataFrame({"index": list("abcdefgh"), "label": [0, 1] * 4, "set": ["candidate"] * 6 + ["external"] * 2})
    table["m_rel"] = [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 1.0, 1.1]
    assert own.removal(table, "25%")["index"].tolist() == ["h", "g"]
    assert own.removal(table, 3, of="candidate").values.tolist() == [
        ["b", 1, 0.9, 1],
        ["d", 1, 0.8, 2],
        ["f", 1, 0.7, 3],
    ]
    assert own.removal(table, "25%", per_class=True, of="candidate")["index"].tolist() == ["b", "c"]
    for options, message in (
        ({"top": "0%"}, "between 1 and 8"),
        ({"top": "9"}, "between 1 and 8"),
        ({"top": "some"}, "found 'some'"),
        ({"top": 1, "of": "shared"}, "no image is in the set 'shared'"),
        ({"top": 1, "column": "m"}, "needs the columns"),
    ):
        with pytest.raises(SSLMemError, match=message):
            own.removal(table, **options)
    with pytest.raises(DataError, match="needs labels"):
        own.removal(table.assign(label=-1), 2, per_class=True)


def test_published_scores_load_by_a_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    with pytest.raises(SpecError, match="there are none"):
        sslmem_utils.load_scores("cifar10/simclr-cnn")
    table = score(Linear(0), Linear(1), images(5))
    file = tmp_path / "scores/cifar10/simclr-cnn.parquet"
    file.parent.mkdir(parents=True)
    table.to_parquet(file)
    write_json(file.with_suffix(".json"), {"sha256": sha256(file), "commit": "abc"})
    found = sslmem_utils.load_scores("cifar10/simclr-cnn")
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    assert found.attrs["commit"] == "abc"
    with pytest.raises(SpecError, match="there are cifar10/simclr-cnn"):
        sslmem_utils.load_scores("cifar10/simclr-cn")
    table.drop(columns="m").to_parquet(file)
    with pytest.raises(DataError, match="checksum"):
        sslmem_utils.load_scores("cifar10/simclr-cnn")
    write_json(file.with_suffix(".json"), {"sha256": sha256(file)})
    with pytest.raises(DataError, match="lacks the columns m "):
        sslmem_utils.load_scores("cifar10/simclr-cnn")


# ---------------------------------------------------------------- the command line
@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images with sets, and encoders as a file of weights and as the folder of a training."""
    write_folder(tmp_path / "pets")
    for number, name in enumerate("fg"):
        torch.manual_seed(number)
        state = encoders.build(EncoderSpec(name="cnn", options={"width": 4}), SHAPE).state_dict()
        if name == "f":
            save_file(state, tmp_path / "f.safetensors")
        else:
            (tmp_path / "g").mkdir()
            around = {f"encoder.{key}": value for key, value in state.items()} | {"projector.0.bias": torch.zeros(2)}
            save_file(around, tmp_path / "g/weights.safetensors")
    names = sorted(path.relative_to(tmp_path / "pets").as_posix() for path in (tmp_path / "pets").glob("*/*.png"))
    pd.DataFrame({"index": names, "set": ["candidate", "external"] * 12}).to_csv(tmp_path / "sets.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SCORE = ["score", "--f", "f.safetensors", "--encoder", "cnn", "--options", "width=4", "--images", "pets", "--k", "5"]


def is_self_contained(page: str) -> bool:
    return "<script" not in page and not re.search(r'(?:src|href)="(?!data:|#)|url\((?!#)|@import', page)


def test_the_command_scores_reports_and_lists(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--g", "g", "--sets", "sets.csv", "--out", "scores.parquet", "--report", "report.html"]
    assert cli.main([*SCORE, *arguments]) == 0, capsys.readouterr().err
    assert "seed noise is not measured" in capsys.readouterr().out
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(encoders.build(EncoderSpec(name="cnn", options={"width": 4}), SHAPE))
    found = pd.read_parquet("scores.parquet")
    expected = score(*models, project / "pets", view="simclr", sets=project / "sets.csv")
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    sidecar = own.published.json.loads(Path("scores.json").read_text())
    assert sidecar["settings"]["weights"]["f"] == f"sha256:{sha256(project / 'f.safetensors')}"
    assert sidecar["settings"]["views"] == 5 and sidecar["versions"]["torch"] and sidecar["sha256"]
    page = Path("report.html").read_text()
    assert is_self_contained(page) and page.count("<img") == 12 and "<svg" in page and "AUC" in page
    assert (
        cli.main(["remove", "--scores", "scores.parquet", "--top", "25%", "--set", "candidate", "--out", "i.csv"]) == 0
    )
    top = found[found["set"] == "candidate"].nlargest(3, "m_rel")
    assert pd.read_csv("i.csv")["index"].tolist() == top["index"].tolist()


def test_one_encoder_alone_answers_the_auditor(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("views.yaml").write_text("crop_scale: [0.5, 1.0]\nflip: 0.5\n")
    arguments = ["--views", "views.yaml", "--mean", "0.4,0.5,0.6", "--std", "0.25", "--out", "alone.csv"]
    assert cli.main([*SCORE, *arguments, "--sets", "sets.csv", "--report", "alone.html"]) == 0
    out = capsys.readouterr().out
    assert "memorization needs a reference encoder" in out and "exchangeable" in out
    table = pd.read_csv("alone.csv")
    assert table["m"].isna().all() and table["p"].between(1 / 13, 1).all()
    page = Path("alone.html").read_text()
    assert is_self_contained(page) and "Was it in the training set?" in page
    assert cli.main([*SCORE, *arguments]) == 0
    assert "exchangeable" not in capsys.readouterr().out and "p" not in pd.read_csv("alone.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SCORE, "--out", "scores.txt"], "written as .csv or .parquet"),
        ([*SCORE, "--out", "a.csv", "--report", "a.pdf"], "written as .html"),
        ([*SCORE, "--out", "a.csv", "--g", "nothing"], "found no file 'nothing'"),
        ([*SCORE, "--out", "a.csv", "--options", "width"], "is NAME=VALUE, found 'width'"),
        ([*SCORE, "--out", "a.csv", "--options", "width=8"], "do not fit CNN"),
        ([*SCORE, "--out", "a.csv", "--views", "no.yaml"], "cannot be read as YAML"),
        ([*SCORE, "--out", "a.csv", "--mean", "grey"], "one number or several with commas"),
        ([*SCORE, "--out", "a.csv", "--mean", "1,2"], "for each of the 3 channels, found 2"),
        ([*SCORE, "--out", "a.csv", "--std", "50"], "divide those of 0 to 255"),
        (["remove", "--scores", "a.csv", "--top", "5%", "--out", "i.csv"], "no such file"),
    ],
)
def test_wrong_commands_are_one_sentence(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(arguments) in (1, 2)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]
    assert not Path("a.csv").exists()


def test_the_package_alone_loads_no_torch() -> None:
    code = "import sys, sslmem_utils; assert 'torch' not in sys.modules; assert not hasattr(sslmem_utils, 'scores')"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(paths.PACKAGE.parent)})
