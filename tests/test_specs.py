"""Specs: canonical text, keys and one-sentence errors."""

import subprocess
import sys

import pytest

from sslmem_utils.errors import SpecError
from sslmem_utils.specs import DatasetSpec, ScoreSpec, SplitSpec, TrainSpec, ViewSpec, seed_of

SPLIT = SplitSpec(shared=10, candidate=5, independent=5, external=8)


def train_spec(**changes: object) -> TrainSpec:
    return TrainSpec(**{"split": SPLIT, "view": ViewSpec(), "epochs": 3, "batch": 4} | changes)


def test_equal_specs_have_one_text_one_key_and_one_hash() -> None:
    one, other = ViewSpec(crop_scale=(0.5, 1), flip=0.5), ViewSpec(flip=0.5, crop_scale=[0.5, 1.0])
    assert one == other and one.canonical() == other.canonical() and one.key() == other.key()
    assert len({one, other}) == 1


def test_every_field_changes_the_key() -> None:
    base = train_spec()
    changed = [base.but(**{"epochs": 4}), base.but(seed=1), base.but(view=ViewSpec(flip=0.1)), base.but(lr=0.2)]
    assert len({spec.key() for spec in [base, *changed]}) == 5
    assert ScoreSpec().key() != ScoreSpec(views=21).key()


def test_a_spec_survives_its_json() -> None:
    spec = train_spec(dataset=DatasetSpec(name="digits", classes=("3", "6")))
    assert TrainSpec.model_validate_json(spec.canonical()) == spec


def test_a_key_is_the_same_in_every_process() -> None:
    code = "from sslmem_utils.specs import SplitSpec; "
    code += "print(SplitSpec(shared=10, candidate=5, independent=5, external=8).key())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == SPLIT.key() == "519fc610888e5db42ab8"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ViewSpec(flop=1), "ViewSpec has no field 'flop'; its fields are crop_scale,"),
        (lambda: ViewSpec(flip="often"), "ViewSpec flip: .*found 'often'"),
        (lambda: ViewSpec(flip=1.5), "less than or equal to 1"),
        (lambda: ViewSpec(crop_scale=(0.5, 2.0)), "crop_scale must satisfy"),
        (lambda: ViewSpec(blur_kernel=4), "must be odd, found 4; use 5"),
        (lambda: DatasetSpec(name=3), "DatasetSpec name"),
        (lambda: SplitSpec(shared=1, candidate=2, independent=3, external=0), "make them equal"),
        (lambda: train_spec(batch=16), r"batch \(16\) exceeds the 15 training images; lower it to 15"),
        (lambda: train_spec(sets=("shared", "shared")), "different non-empty sets"),
        (lambda: train_spec(epochs=1.5), "epochs"),
        (lambda: train_spec(lr=float("nan")), "lr"),
    ],
)
def test_a_bad_spec_is_one_sentence(make, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_seeds_of_different_parts_differ() -> None:
    seeds = {seed_of("views", seed) for seed in range(1000)} | {seed_of("order", seed) for seed in range(1000)}
    assert len(seeds) == 2000 and max(seeds) < 2**63
