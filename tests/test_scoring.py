"""The sanity properties of the score, one test each, and the estimators on paper-sized cases."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sslmem_utils import encoders, scoring, splits, views
from sslmem_utils.encoders.parts import folded
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.scoring import alignment
from sslmem_utils.specs import SETS, EncoderSpec, ScoreSpec, SplitSpec, ViewSpec

DISTANCES = ("l2", "cosine", "l1", "angular")
VIEW = ViewSpec(crop_scale=(0.5, 1.0), crop_ratio=(0.75, 4 / 3), brightness=0.2, contrast=0.2, jitter=0.8)


def images(n: int = 40, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8), torch.arange(n) * 7 + 3


def encoder(name: str = "mlp", shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return encoders.build(EncoderSpec(name=name, options=options), shape)


def align(model: nn.Module, x: torch.Tensor, ids: torch.Tensor, view=VIEW, rows=None, **spec) -> pd.DataFrame:
    return scoring.align(model, x, ids, ScoreSpec(**spec), view=view, fingerprint="test", rows=rows)


def split(n: int) -> splits.Split:
    sizes = SplitSpec(shared=n // 4, candidate=n // 4, independent=n // 4, external=n // 4)
    return splits.draw(np.arange(n) % 2, sizes, dataset="toy", fingerprint="test")


def table(f: pd.DataFrame, g: pd.DataFrame, n: int) -> pd.DataFrame:
    return scoring.score_table(f, g, split(n), np.arange(n), np.arange(n) % 2)


# 1 ------------------------------------------------------------------------------------------------
def test_an_encoder_against_itself_scores_exactly_zero() -> None:
    a = align(encoder(), *images())
    scores = table(a, a, 40)
    assert (scores[["m", "m_rel", "m_range", "se_views"]] == 0).all().all()


def test_swapping_f_and_g_negates_every_score() -> None:
    a, b = (align(encoder(seed=seed), *images()) for seed in (0, 1))
    one, other = table(a, b, 40), table(b, a, 40)
    for column in ("m", "m_rel", "m_range"):
        np.testing.assert_array_equal(one[column], -other[column])
    np.testing.assert_array_equal(one["se_views"], other["se_views"])
    assert one["m"].abs().min() > 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("comparison", ["pairs", "anchor"])
def test_the_identity_policy_has_alignment_zero(distance: str, comparison: str) -> None:
    found = align(encoder(), *images(), view=ViewSpec(), distance=distance, comparison=comparison)
    assert (found["align"] == 0).all()


# 2 ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "shape"), [("mlp", (1, 8, 8)), ("cnn", (1, 12, 12)), ("resnet18", (3, 8, 8)), ("vit", (3, 8, 8))]
)
def test_scores_are_bit_equal_for_any_block_order_and_subset(name: str, shape: tuple, monkeypatch) -> None:
    x, ids = images(44, shape)
    model = encoder(name, shape)
    whole = align(model, x, ids).set_index("row")
    order = np.random.default_rng(0).permutation(44)
    shuffled = align(model, x, ids, rows=order).set_index("row").sort_index()
    pd.testing.assert_frame_equal(shuffled, whole, check_exact=True)
    some = align(model, x, ids, rows=order[:7]).set_index("row")
    pd.testing.assert_frame_equal(some, whole.loc[order[:7]], check_exact=True)
    alone = align(model, x[5:6], ids[5:6])
    assert alone["align"][0] == whole["align"][5]


# 3 ------------------------------------------------------------------------------------------------
class Scaled(nn.Module):
    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def features(self, x: torch.Tensor, representation: str) -> torch.Tensor:
        return self.factor * self.inner.features(x, representation)


def test_a_constant_factor_changes_nothing_when_normalised_and_everything_in_proportion_when_not() -> None:
    model = encoder()
    same = (align(Scaled(model, factor), *images()) for factor in (1.0, 8.0))
    pd.testing.assert_frame_equal(*same, check_exact=True)  # a power of two is exact in floating point
    plain, scaled = (align(m, *images(), normalize=False) for m in (model, Scaled(model, 8.0)))
    np.testing.assert_allclose(scaled["align"], 8 * plain["align"], rtol=1e-6)


# 4 ------------------------------------------------------------------------------------------------
THREE = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])  # one image, three views, two dimensions
UNIT = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])


@pytest.mark.parametrize(
    ("features", "distance", "pairs", "anchor"),
    [
        (THREE, "l2", (5 + 3 + 4) / 3, (5 + 0 + 4) / 3),  # against a clean image at (0, 4)
        (THREE, "l1", (7 + 3 + 4) / 3, (7 + 0 + 4) / 3),
        (UNIT, "l2", (2 * math.sqrt(2) + 2) / 3, (math.sqrt(2) + 0 + math.sqrt(2)) / 3),
        (UNIT, "cosine", (1 + 2 + 1) / 3, (1 + 0 + 1) / 3),
        (UNIT, "angular", (0.5 + 1 + 0.5) / 3, (0.5 + 0 + 0.5) / 3),
    ],
)
def test_alignment_of_fixed_vectors_is_the_value_worked_out_on_paper(features, distance, pairs, anchor) -> None:
    found = scoring.align_features(features, distance)
    assert found["align"].item() == pytest.approx(pairs, abs=1e-6)
    clean = features[:, 1]
    assert scoring.align_features(features, distance, clean)["align"].item() == pytest.approx(anchor, abs=1e-6)


def test_leaving_out_a_view_and_halves_are_worked_out_on_paper() -> None:
    found = scoring.align_features(THREE, "l2")
    np.testing.assert_allclose(found["without"][0], [4, 3, 5], rtol=1e-6)  # the distance between the two others
    assert found["half_0"].item() == pytest.approx(3.0)  # views 0 and 2
    assert math.isnan(found["half_1"].item())  # view 1 alone has no pair
    assert scoring.jackknife(np.array([[4.0, 3.0, 5.0]]))[0] == pytest.approx(math.sqrt(2 / 3 * 2))


@pytest.mark.parametrize("distance", DISTANCES)
def test_alignment_agrees_with_a_direct_float64_computation(distance: str) -> None:
    z = torch.randn(6, 9, 17, generator=torch.Generator().manual_seed(0))
    direct = np.zeros(6)
    for i, views_of_one in enumerate(z.double().numpy()):
        values = []
        for a in range(9):
            for b in range(a):
                u, v = views_of_one[a], views_of_one[b]
                cos = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
                by_name = {
                    "l2": np.linalg.norm(u - v),
                    "l1": np.abs(u - v).sum(),
                    "cosine": 1 - cos,
                    "angular": np.arccos(cos) / np.pi,
                }
                values.append(by_name[distance])
        direct[i] = np.mean(values)
    np.testing.assert_allclose(scoring.align_features(z, distance)["align"], direct, rtol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_wide_representations_have_the_distances_of_narrow_ones(distance: str, monkeypatch) -> None:
    z = torch.randn(3, 8, 200, generator=torch.Generator().manual_seed(0))
    z[1, 5] = z[1, 2]
    found = {}
    for way, least in (("image by image", 0), ("all at once", math.inf)):
        monkeypatch.setattr(alignment, "PDIST", least)
        found[way] = alignment._distances(z, distance)
        assert (found[way].diagonal(dim1=1, dim2=2) == 0).all() and found[way][1, 5, 2] == 0
    torch.testing.assert_close(*found.values(), rtol=1e-6, atol=1e-6)


# 6 ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("representation", ["tokens", "mean_patch", "cls"])
def test_vit_tokens_stay_in_position_order(representation: str) -> None:
    x, ids = images(6, (3, 8, 8))
    found = align(encoder("vit", (3, 8, 8)), x, ids, view=ViewSpec(), representation=representation)
    assert (found["align"] == 0).all()
    moved = align(encoder("vit", (3, 8, 8)), x, ids, representation=representation)
    assert (moved["align"] > 0).all()


# 7 ------------------------------------------------------------------------------------------------
def test_augmentations_act_before_normalisation() -> None:
    seen = {}

    class Spy(nn.Module):
        def features(self, x: torch.Tensor, representation: str) -> torch.Tensor:
            seen["range"] = (float(x.min()), float(x.max()))
            return x.flatten(1)

    x, ids = images()
    align(Spy(), x, ids, view=ViewSpec(brightness=0.8, contrast=0.8, jitter=1.0))
    assert 0 <= seen["range"][0] < 0.05 and 0.95 < seen["range"][1] <= 1
    inside = {}
    model = encoder()
    model.blocks.register_forward_pre_hook(lambda _, args: inside.update(range=(args[0].min(), args[0].max())))
    align(model, x, ids)
    assert -1 <= inside["range"][0] < -0.9 and 0.9 < inside["range"][1] <= 1


# 8 ------------------------------------------------------------------------------------------------
def test_the_jackknife_over_views_has_its_nominal_coverage() -> None:
    k, d, repeats = 20, 16, 1000
    generator = torch.Generator().manual_seed(0)
    f, g = (s * torch.randn(repeats, k, d, generator=generator) for s in (0.8, 1.0))  # isotropic: closed form below
    of_f, of_g = scoring.align_features(f), scoring.align_features(g)
    m = (of_g["align"] - of_f["align"]).numpy()
    se = scoring.jackknife((of_g["without"] - of_f["without"]).numpy())
    truth = 0.2 * math.sqrt(2) * math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    t = 2.093  # Student's quantile with 19 degrees of freedom
    covered = np.mean(np.abs(m - truth) < t * se)
    assert 0.92 <= covered <= 0.98, covered


# tables -------------------------------------------------------------------------------------------
def test_score_columns_follow_their_definitions() -> None:
    n = 40
    a, b = (align(encoder(seed=seed), *images(n)) for seed in (0, 1))
    scores = table(a, b, n)
    assert list(scores.columns[1:12]) == scoring.COLUMNS
    np.testing.assert_allclose(scores["m"], scores["align_g"] - scores["align_f"])
    np.testing.assert_allclose(scores["m_rel"], scores["m"] / (scores["align_g"] + scores["align_f"]))
    assert np.ptp(scores["m_range"]) == pytest.approx(1)
    assert scores[["se_seeds", "z"]].isna().all().all()  # one pair measures no seed noise
    assert scores["set"].value_counts().to_dict() == dict.fromkeys(SETS, 10)
    for half in ("half_0", "half_1"):
        np.testing.assert_allclose(scores[half], (b[half] - a[half]) / (b[half] + a[half]))


def replicas(n: int = 40, seeds=range(6), **spec) -> list[pd.DataFrame]:
    return [align(encoder(seed=seed), *images(n), **spec) for seed in seeds]


def test_a_replicated_table_is_worked_out_from_the_means_of_its_alignments() -> None:
    tables, n = replicas(), 40
    fs, gs = tables[:3], tables[3:]
    found = scoring.replicated_table(fs, gs, split(n), np.arange(n), np.arange(n) % 2)
    of_f, of_g = (np.stack([one["align"] for one in part]) for part in (fs, gs))
    m = of_g.mean(0) - of_f.mean(0)
    np.testing.assert_allclose(found["m"], m)
    np.testing.assert_allclose(found["m_rel"], m / (of_g.mean(0) + of_f.mean(0)))
    noise = of_f.var(0, ddof=1) + of_g.var(0, ddof=1)
    np.testing.assert_allclose(found["se_seeds"], np.sqrt(noise / 3))
    same_set = [  # z by its definition: the mean square of m between encoders of the same set is its variance
        np.mean([np.square(part[i] - part[j]) for i in range(3) for j in range(i)], axis=0) for part in (of_f, of_g)
    ]
    np.testing.assert_allclose(found["z"], m / np.sqrt(sum(same_set) / 2))
    one = table(fs[0], gs[0], n)
    assert list(found.columns) == list(one.columns) and found["se_views"].mean() < one["se_views"].mean()


def test_replicas_that_do_not_fit_are_refused() -> None:
    tables, rest = replicas(8, range(2)), (split(8), np.arange(8), np.arange(8) % 2)
    with pytest.raises(SpecError, match="R of at least 2, found 1 and 1; train as many seeds"):
        scoring.replicated_table(tables[:1], tables[1:], *rest)
    with pytest.raises(SpecError, match="equally many views"):
        scoring.replicated_table([tables[0], replicas(8, [2], views=5)[0]], tables, *rest)


def test_every_encoder_sees_the_same_views() -> None:
    x, ids = images()
    seen = []

    class Spy(nn.Module):
        def features(self, batch: torch.Tensor, representation: str) -> torch.Tensor:
            seen.append(batch.clone())
            return batch.flatten(1)

    for _ in range(2):
        align(Spy(), x, ids)
    half = len(seen) // 2
    assert all(torch.equal(one, other) for one, other in zip(seen[:half], seen[half:], strict=True))
    drawn = views.views(x[:1], ids[:1], VIEW, torch.arange(2), 0)
    assert not torch.equal(drawn[0, 0], drawn[0, 1])


@pytest.mark.parametrize("comparison", ["pairs", "anchor"])
def test_encoders_aligned_together_are_aligned_as_alone(comparison: str) -> None:
    models = [encoder(), encoder("cnn"), encoder(seed=1)]
    x, ids = images()
    spec = ScoreSpec(comparison=comparison)
    rows = np.arange(40)[::-2]
    together = scoring.align_each(models, x, ids, spec, view=VIEW, fingerprint="test", rows=rows)
    for model, found in zip(models, together, strict=True):
        pd.testing.assert_frame_equal(found, align(model, x, ids, rows=rows, comparison=comparison), check_exact=True)


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def trained(model: nn.Module) -> nn.Module:
    """The model with batch norms that have seen data."""
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 2.0)
    return model


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet9", "resnet18", "resnet50"])
def test_folded_batch_norms_change_a_score_by_rounding_alone(name: str) -> None:
    model = trained(encoder(name, (3, 16, 16))).double().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fast = folded(model)
    assert not any(isinstance(module, BATCH_NORMS) for module in fast.modules())
    torch.testing.assert_close(fast.features(x), model.features(x), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert any(isinstance(module, BATCH_NORMS) for module in model.modules())
    single = trained(encoder(name, (3, 16, 16)))
    plain = [
        alignment.align_each([one], *images(8, (3, 16, 16)), ScoreSpec(), view=VIEW, fingerprint="test")
        for one in (single, Scaled(single, 1.0))
    ]  # a model of unknown parts stays as it is
    np.testing.assert_allclose(plain[0][0]["align"], plain[1][0]["align"], rtol=1e-5)


class OutOfOrder(encoders.Encoder):
    """Its modules are not listed in the order in which they are called."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(shape[0], 8, 3), nn.Conv2d(8, 8, 3)
        self.behind_first, self.behind_second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def layers(self) -> list[str]:
        return ["first", "second"]

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind_second(self.second(self.behind_first(self.first(x)).relu())).mean((2, 3))


class UsedTwice(OutOfOrder):
    """What a ReLU sees is also added."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape)
        self.norm, self.dropout, self.act = nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU()

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x))
        return (x + self.act(self.dropout(x))).mean((2, 3))


@pytest.mark.parametrize("kind", [OutOfOrder, UsedTwice])
def test_an_encoder_that_folding_would_change_is_scored_as_it_is(kind: type) -> None:
    torch.manual_seed(0)
    model, (x, ids) = trained(kind((3, 16, 16))), images(8, (3, 16, 16))
    assert not torch.allclose(folded(model).features(x / 255), model.eval().features(x / 255), rtol=0.1)
    pd.testing.assert_frame_equal(align(model, x, ids), align(Scaled(model, 1.0), x, ids), check_exact=True)


def test_large_images_go_through_in_smaller_passes_to_the_same_bits() -> None:
    assert [scoring.rows_of_pass((3, side, side)) for side in (32, 64, 96, 128, 224)] == [320, 320, 160, 64, 32]
    model, (x, ids) = encoder("cnn", (3, 128, 128), width=4), images(9, (3, 128, 128))
    whole = align(model, x, ids, views=10)
    for row in (0, 8):
        alone = align(model, x, ids, views=10, rows=np.array([row]))
        pd.testing.assert_frame_equal(alone, whole[row : row + 1].reset_index(drop=True), check_exact=True)


def test_a_layer_is_scored_as_the_network_has_it() -> None:
    model = trained(encoder("cnn", (3, 16, 16)))
    x, ids = images(8, (3, 16, 16))
    for layer in [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]:
        found, same = (align(one, x, ids, representation=f"layer:{layer}") for one in (model, Scaled(model, 1.0)))
        pd.testing.assert_frame_equal(found, same, check_exact=True)


def test_bad_inputs_are_one_sentence_errors() -> None:
    x, ids = images(4)
    with pytest.raises(SpecError, match="at least 2"):
        scoring.align_features(torch.zeros(1, 1, 3))
    with pytest.raises(SpecError, match="distance must be"):
        scoring.align_features(torch.zeros(1, 2, 3), "chi2")

    class Broken(nn.Module):
        def features(self, batch: torch.Tensor, representation: str) -> torch.Tensor:
            out = batch.flatten(1).clone()
            out[30] = torch.nan
            return out

    with pytest.raises(DataError, match="image 10 is not finite"):  # row 30 is a view of the second image
        align(Broken(), x, ids)
    with pytest.raises(DataError, match="at least one image, found none"):
        align(encoder(), x, ids, rows=np.arange(0))
    with pytest.raises(SpecError, match=r"found torch.float16; give model.float\(\)"):
        align(encoder().half(), x, ids)
    with pytest.raises(SpecError, match="same images"):
        table(align(encoder(), *images(4)), align(encoder(), *images(8)), 4)
    with pytest.raises(SpecError, match="representations pooled"):
        align(encoder(), x, ids, representation="tokens")
