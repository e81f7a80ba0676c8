"""The four sets: disjoint, of the asked sizes, stratified, and the same everywhere."""

import numpy as np
import pytest

from sslmem_utils import splits
from sslmem_utils.errors import SplitError
from sslmem_utils.specs import SETS, SplitSpec

LABELS = np.repeat(np.arange(10), 100)


def draw(labels: np.ndarray = LABELS, seed: int = 0, **sizes: int) -> splits.Split:
    asked = {"shared": 125, "candidate": 125, "independent": 125, "external": 500} | sizes
    return splits.draw(labels, SplitSpec(**asked, seed=seed), dataset="digits", fingerprint="abc")


def test_sets_are_disjoint_and_have_the_asked_sizes() -> None:
    split = draw()
    rows = np.concatenate([getattr(split, name) for name in SETS])
    assert [len(getattr(split, name)) for name in SETS] == [125, 125, 125, 500]
    assert len(np.unique(rows)) == len(rows) and rows.min() >= 0 and rows.max() < len(LABELS)
    assert set(split.names().values()) == set(SETS)


@pytest.mark.parametrize("seed", range(5))
def test_sets_are_stratified_to_within_one_image_a_class(seed: int) -> None:
    split = draw(seed=seed)
    assert split.stratified
    for name in SETS:
        counts = np.bincount(LABELS[getattr(split, name)], minlength=10)
        assert np.ptp(counts) <= 2


def test_a_seed_gives_one_split_and_another_seed_another() -> None:
    assert draw(seed=3).to_json() == draw(seed=3).to_json()
    overlap = np.intersect1d(draw(seed=3).candidate, draw(seed=4).candidate)
    assert 0 < len(overlap) < 40  # 125 of 1,000 drawn twice: 15.6 expected


def test_a_split_never_changes() -> None:
    assert draw().candidate[:5].tolist() == [6, 26, 27, 30, 34]


def test_small_classes_give_a_random_split_and_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    split = draw(np.arange(1000))  # one image a class, as in the ImageNet sample
    assert not split.stratified and "random, not stratified" in caplog.text


def test_json_round_trip() -> None:
    split = draw()
    again = splits.Split.from_json(split.to_json())
    assert again.to_json() == split.to_json() and again.fingerprint == "abc"


def test_sets_larger_than_the_data_are_refused() -> None:
    with pytest.raises(SplitError, match=r"shared \(800\) .* = 1550 exceed the 1000 images of digits; lower"):
        draw(shared=800)


def test_members_are_drawn_uniformly() -> None:
    counts = np.zeros(1000)
    for seed in range(400):
        counts[draw(seed=seed).candidate] += 1
    expected = 400 * 0.125
    z = (counts - expected) / np.sqrt(expected * 0.875)
    assert abs(z.std() - 1) < 0.1 and abs(z).max() < 5
