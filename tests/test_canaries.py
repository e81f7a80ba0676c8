"""Canaries: only what should change does, doses are what they say, recall is counted rightly."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sslmem_utils import canaries, data, pairs, splits, training
from sslmem_utils.data import ImageSet
from sslmem_utils.errors import DataError, SpecError, SplitError
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import SETS, DatasetSpec, PlantSpec, SplitSpec, TrainSpec
from sslmem_utils.splits import Split

SPLIT = SplitSpec(shared=200, candidate=100, independent=100, external=300)
KINDS = tuple(PlantSpec(kind=kind, count=6) for kind in ("copy", "near", "rotated", "corrupted", "noise"))


def digits(seed: int = 0) -> tuple[ImageSet, Split]:
    images = data.load(DatasetSpec(name="digits"))
    labels = images.labels.numpy()
    return images, splits.draw(labels, SPLIT.but(seed=seed), dataset="digits", fingerprint=images.fingerprint)


def planted(*plants: PlantSpec, seed: int = 0) -> tuple[ImageSet, ImageSet, pd.DataFrame]:
    """The images before and after, and what was planted."""
    images, split = digits(seed)
    return images, canaries.plant(images, split, plants), canaries.table(images, split, plants)


def pictures(name: str, folder: Path, *shape: int, count: int = 9) -> DatasetSpec:
    """A dataset of random pictures of this shape (height, width and perhaps 3)."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number}.png")
    data.import_images(name, folder)
    return DatasetSpec(name=name)


# ---------------------------------------------------------------- what changes and what does not
def test_only_the_planted_rows_change() -> None:
    before, after, table = planted(*KINDS)
    changed = (before.images != after.images).flatten(1).any(1).nonzero().flatten()
    assert set(changed.tolist()) == set(table["row"]) and len(table) == table["row"].nunique() == 30
    assert torch.equal(before.labels, after.labels) and torch.equal(before.ids, after.ids)
    assert np.array_equal(before.index, after.index) and len(before) == len(after)
    assert before.fingerprint == data.load(DatasetSpec(name="digits")).fingerprint != after.fingerprint
    assert torch.equal(before.images, data.load(DatasetSpec(name="digits")).images), "the given images stay whole"


def test_nothing_to_plant_gives_the_same_images() -> None:
    images, split = digits()
    assert canaries.plant(images, split, ()) is images
    controls = PlantSpec(kind="copy", count=5, copies=0)
    assert canaries.plant(images, split, [controls]) is images
    assert len(canaries.sources(split, [controls])) == 5 and canaries.table(images, split, [controls]).empty


def test_plants_are_the_same_again_and_others_with_another_seed_or_split() -> None:
    _, one, table = planted(*KINDS)
    _, again, same = planted(*KINDS)
    assert torch.equal(one.images, again.images) and one.fingerprint == again.fingerprint and table.equals(same)
    other = planted(*(plant.but(seed=1) for plant in KINDS))
    assert other[1].fingerprint != one.fingerprint and set(other[2]["row"]) != set(table["row"])
    images, split = digits()
    _, elsewhere = digits(1)
    both = np.intersect1d(split.candidate, elsewhere.candidate)
    rows = [set(canaries.table(images, each, KINDS)["row"]) & set(both.tolist()) for each in (split, elsewhere)]
    assert len(both) > 3 and rows[0] != rows[1]


def test_the_numbers_drawn_never_change() -> None:
    _, after, table = planted(PlantSpec(kind="noise", count=1))
    assert table["row"].tolist() == [407]
    assert after.images[407, 0, 0].tolist() == [131, 37, 206, 129, 178, 238, 201, 248]


def test_places_and_sources_never_meet_and_sets_stay_equal() -> None:
    images, split = digits()
    plants = [*KINDS, *(plant.but(into="shared", source="independent") for plant in KINDS), *canaries.dose(3)]
    table, sources = canaries.table(images, split, plants), canaries.sources(split, plants)
    assert table["row"].is_unique and sources["row"].is_unique and not set(table["row"]) & set(sources["row"])
    names = split.names()
    assert [names[row] for row in table["row"]] == table["set"].tolist()
    assert len(split.rows("shared", "candidate")) == len(split.rows("shared", "independent"))
    assert (table["label"] == images.labels.numpy()[table["row"]]).all()


def test_f_and_g_train_on_the_planted_images() -> None:
    base = recipe("digits", shared=40, candidate=40, external=40, plants=canaries.dose(2))
    f, g = (training.inputs(spec) for spec in pairs.pair_specs(base, 3))
    assert f.images.fingerprint == g.images.fingerprint and torch.equal(f.images.images, g.images.images)
    found = canaries.table(f.images, f.split, base.plants)
    assert len(f.rows) == len(g.rows) == 80 and set(found["set"]) == {"candidate", "shared"}
    assert torch.equal(f.images.rows(found["row"].to_numpy()), f.images.rows(found["source"].to_numpy()))


# ---------------------------------------------------------------- kinds
def test_copies_equal_their_source() -> None:
    before, after, table = planted(PlantSpec(kind="copy", count=4, copies=3, into="shared"))
    assert len(table) == 12 and table["source"].value_counts().tolist() == [3] * 4 and set(table["copies"]) == {3}
    assert torch.equal(after.rows(table["row"].to_numpy()), before.rows(table["source"].to_numpy()))


@pytest.mark.parametrize("side", [8, 32])
def test_near_duplicates_are_shifted_and_brightened_a_little(side: int) -> None:
    images = data.load(DatasetSpec(name="digits", size=side))
    labels = images.labels.numpy()
    split = splits.draw(labels, SPLIT, dataset="digits", fingerprint=images.fingerprint)
    plants = [PlantSpec(kind="near", count=20, copies=2)]
    table = canaries.table(images, split, plants)
    after = canaries.plant(images, split, plants).rows(table["row"].to_numpy())[:, 0].numpy().astype(float)
    source = images.rows(table["source"].to_numpy())[:, 0].numpy().astype(float)
    most, shifts = 1 if side < 32 else 2, set()
    for new, old in zip(after, source, strict=True):
        padded = np.pad(old, most, "edge")
        fits = []
        for y in range(2 * most + 1):
            for x in range(2 * most + 1):
                moved = padded[y : y + side, x : x + side]
                middle = (moved > 60) & (moved < 220)  # not cut off at 255
                factor = np.median(new[middle] / moved[middle])
                fits.append((np.abs(new - (factor * moved).clip(0, 255)).max(), factor, (y - most, x - most)))
        error, factor, shift = min(fits)
        assert error < 2.1 and 0.045 < abs(factor - 1) < 0.105 and shift != (0, 0)
        shifts.add(shift)
    assert len(shifts) > 4, "different copies are different"
    assert max(max(map(abs, shift)) for shift in shifts) == most


def test_rotations_turn_the_image_that_was_there() -> None:
    before, after, table = planted(PlantSpec(kind="rotated", count=30))
    assert table["source"].equals(table["row"])
    turns = []
    for row in table["row"]:
        fits = [k for k in (1, 2, 3) if torch.equal(after.images[row], torch.rot90(before.images[row], k, (1, 2)))]
        turns += fits[:1]
    assert len(turns) == 30 and set(turns) == {1, 2, 3}


def test_corruptions_are_strong_and_of_three_kinds() -> None:
    before, after, table = planted(PlantSpec(kind="corrupted", count=60))
    new, old = (one.rows(table["row"].to_numpy())[:, 0].numpy().astype(float) for one in (after, before))
    assert ((new == 127).reshape(60, -1).sum(1) >= 16).all(), "a grey square of half the side"
    assert (np.abs(new - old).mean((1, 2)) > 20).all()
    blocks = new.reshape(60, 2, 4, 2, 4).swapaxes(2, 3).reshape(60, 4, 16)
    flat = [all(len(set(block) - {127}) <= 1 for block in image) for image in blocks.tolist()]
    rest = new[~np.array(flat)]
    gone = np.isin(rest, (0, 255)).mean((1, 2))
    assert 10 < sum(flat) < 30, "a third of them in pixels of four times the size"
    assert len(rest) > 30 and gone.std() > 0.03


def test_noise_is_uniform_and_has_no_source() -> None:
    _, after, table = planted(PlantSpec(kind="noise", count=90))
    values = after.rows(table["row"].to_numpy()).numpy().ravel()
    assert set(table["source"]) == {-1}
    counts = np.bincount(values // 16, minlength=16)
    assert ((counts - 360) ** 2 / 360).sum() < 37.7  # chi square of 15 degrees of freedom, p = .001


@pytest.mark.parametrize("shape", [(8, 8), (12, 16, 3), (20, 20)])
def test_images_of_another_dataset_are_made_to_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    other = pictures("mine", tmp_path / "mine", *shape)
    two = [PlantSpec(kind="other", count=4, dataset=other, seed=seed) for seed in (0, 1)]
    before, after, table = planted(*two)
    new = after.rows(table["row"].to_numpy())
    assert after.shape == before.shape and set(table["source"]) == {-1}
    assert len(np.unique(new.numpy().reshape(8, -1), axis=0)) == 8, "no image twice"
    if shape == (8, 8):
        known = {image.numpy().tobytes() for image in data.load(other).images}
        assert {image.numpy().tobytes() for image in new} <= known
    else:
        assert new.float().std() > 10


def test_grey_images_fit_among_colour_ones(tmp_path: Path) -> None:
    colour = data.load(pictures("colour", tmp_path / "colour", 10, 10, 3))
    grey = pictures("grey", tmp_path / "grey", 14, 10)
    spec = SplitSpec(shared=2, candidate=3, independent=3, external=1)
    split = splits.draw(np.zeros(9), spec, dataset="colour", fingerprint=colour.fingerprint)
    plants = [PlantSpec(kind="other", count=2, dataset=grey)]
    found = canaries.plant(colour, split, plants).rows(canaries.table(colour, split, plants)["row"].to_numpy())
    assert found.shape == (2, 3, 10, 10) and (found[:, 0] == found[:, 1]).all() and (found[:, 0] == found[:, 2]).all()


# ---------------------------------------------------------------- doses
def test_a_dose_is_the_number_of_equal_images_in_the_training_data() -> None:
    images, split = digits()
    plants = canaries.dose(2, occurrences=(1, 2, 4, 8))
    after, found = canaries.plant(images, split, plants), canaries.sources(split, plants)
    of_f, of_g = (after.rows(split.rows(*sets)) for sets in pairs.SETS_OF.values())
    for row, into, wanted in found[["row", "into", "occurrences"]].itertuples(index=False):
        in_f, in_g = ((rows == after.images[row]).flatten(1).all(1).sum() for rows in (of_f, of_g))
        assert (in_f, in_g) == (wanted, wanted - 1 if into == "shared" else 0)
    assert found.groupby(["into", "occurrences"]).size().to_dict() == {
        (into, r): 2 for into in ("candidate", "shared") for r in (1, 2, 4, 8)
    }


def spec_of(batch: int, plants: tuple[PlantSpec, ...]) -> TrainSpec:
    """A spec whose f trains on 5 images and its g on 5."""
    split = SplitSpec(shared=2, candidate=3, independent=3, external=0)
    return recipe("digits", shared=2, candidate=3, external=0, epochs=1).but(split=split, batch=batch, plants=plants)


def test_collisions_by_hand() -> None:
    spec = spec_of(3, canaries.dose(1, occurrences=(1, 3)))
    found = canaries.collisions(spec).set_index(["into", "copies"])
    assert found["seen"].to_dict() == {("candidate", 0): 1, ("candidate", 2): 3, ("shared", 0): 1, ("shared", 2): 3}
    # Beside one occurrence there are 2 more images of the 4 others, 2 of which are its copies: C(2, 2) / C(4, 2) miss.
    assert found.loc[("candidate", 2), ["others", "any"]].tolist() == pytest.approx([1.0, 5 / 6])
    assert found.loc[("shared", 0), ["others", "any"]].tolist() == [0.0, 0.0]
    of_g = canaries.collisions(spec.but(sets=("shared", "independent"))).set_index(["into", "copies"])
    assert of_g["seen"].tolist() == [0, 0, 0, 2] and of_g.loc[("shared", 2), "others"] == pytest.approx(0.5)


def test_collisions_are_those_of_the_batches_of_training() -> None:
    spec = recipe("digits", shared=10, candidate=10, external=0, batch=5, plants=canaries.dose(1, (3,), ("candidate",)))
    expected, others = canaries.collisions(spec).iloc[0], []
    for epoch in range(1500):
        batches = training.batches(spec, torch.arange(20), epoch)
        mates = batches[(batches == 7).any(1)]
        others.append(int(torch.isin(mates, torch.tensor([2, 13])).sum()))
    assert np.mean(others) == pytest.approx(expected["others"], abs=4 * np.std(others) / np.sqrt(1500))
    assert np.mean(np.array(others) > 0) == pytest.approx(expected["any"], abs=0.05)


# ---------------------------------------------------------------- recall
def test_recall_by_hand() -> None:
    scores = np.arange(100.0)
    mask = np.isin(np.arange(100), [99, 98, 97, 96, 95, 94, 93, 92, 10, 11])
    found = canaries.recall(scores, mask)
    assert (found.images, found.planted, found.top, found.found) == (100, 10, 10, 8)
    assert (found.recall, found.chance, found.ceiling) == (0.8, 0.1, 1.0)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson, 8 of 10
    assert found.auc == pytest.approx((8 * 90 + 10 + 10) / 900)


def test_ties_at_the_border_count_in_part() -> None:
    scores = np.array([3.0, 2, 2, 2, 2, 1, 1, 1, 1, 1])
    found = canaries.recall(scores, scores == 2, share=0.3)  # the top: the 3 and two of four twos
    assert (found.top, found.found, found.recall, found.ceiling) == (3, 2.0, 0.5, 0.75)
    one = canaries.recall(scores, np.arange(10) == 1, share=0.3)
    assert one.found == one.recall == 0.5


def test_recall_of_random_scores_is_chance() -> None:
    rng = np.random.default_rng(0)
    found = [canaries.recall(rng.normal(size=200), np.arange(200) < 20) for _ in range(100)]
    assert np.mean([one.recall for one in found]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([one.low <= 0.1 <= one.high for one in found]) > 0.9


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("plants", "sentence"),
    [
        (
            [PlantSpec(kind="noise", count=101)],
            r"plant 0 \(noise\) asks for 101 images of the candidate set as places, and 100",
        ),
        ([PlantSpec(kind="copy", count=30, copies=3)], "asks for 90 .* as places, and 70 of its 100"),
        ([PlantSpec(kind="near", count=301, source="external")], "301 images of the external set as sources, and 300"),
        ([KINDS[0], PlantSpec(kind="noise", count=95)], r"plant 1 \(noise\) asks for 95 .*, and 88 of"),
    ],
)
def test_too_many_plants_are_one_sentence(plants: list[PlantSpec], sentence: str) -> None:
    images, split = digits()
    with pytest.raises(SplitError, match=sentence):
        canaries.plant(images, split, plants)


def test_an_empty_set_and_a_foreign_split_are_refused() -> None:
    images, split = digits()
    labels = images.labels.numpy()
    empty = splits.draw(labels, SPLIT.but(external=0), dataset="digits", fingerprint=images.fingerprint)
    with pytest.raises(SplitError, match="of the external set as places, and 0 of its 0 are left; plant fewer"):
        canaries.plant(images, empty, [PlantSpec(kind="noise", count=1, into="external")])
    with pytest.raises(SplitError, match="give the unplanted images"):
        canaries.plant(canaries.plant(images, split, KINDS), split, KINDS)


def test_another_dataset_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    other = pictures("mine", tmp_path / "mine", 8, 8)
    with pytest.raises(DataError, match="mine has 9 images left to plant, and 10 are asked for"):
        planted(PlantSpec(kind="other", count=10, dataset=other))
    with pytest.raises(DataError, match="mine has 3 images left to plant, and 4"):
        planted(PlantSpec(kind="other", count=6, dataset=other), PlantSpec(kind="other", count=4, dataset=other))
    with pytest.raises(DataError, match="must come from another dataset, found digits twice"):
        planted(PlantSpec(kind="other", count=1, dataset=DatasetSpec(name="digits")))
    long = data.load(pictures("long", tmp_path / "long", 8, 12))
    spec = SplitSpec(shared=2, candidate=3, independent=3, external=1)
    split = splits.draw(np.zeros(9), spec, dataset="long", fingerprint=long.fingerprint)
    with pytest.raises(DataError, match="those of long have 12 x 8 pixels; give the dataset a size"):
        canaries.plant(long, split, [PlantSpec(kind="other", count=1, dataset=other)])


def test_images_beyond_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images, split = digits()
    monkeypatch.setattr(canaries, "LARGEST", 1000)
    with pytest.raises(SpecError, match="planting copies the images of digits into memory, .*; take fewer"):
        canaries.plant(images, split, KINDS)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PlantSpec(kind="copied", count=1), "PlantSpec kind"),
        (lambda: PlantSpec(kind="noise", count=1, copies=2), "only copied images are counted in copies, found 2"),
        (lambda: PlantSpec(kind="other", count=1), "dataset names the other dataset"),
        (lambda: PlantSpec(kind="noise", count=1, dataset=DatasetSpec()), "give it for this kind only"),
        (lambda: PlantSpec(kind="noise", count=0), "greater than or equal to 1"),
        (lambda: canaries.dose(1, occurrences=(0, 2)), r"an image occurs once or more, found the doses \(0, 2\)"),
        (lambda: canaries.recall(np.zeros(5), np.ones(5, bool)), "found 5 planted of 5; score both"),
        (lambda: canaries.recall(np.zeros(5), np.zeros(5, bool)), "found 0 planted of 5"),
        (lambda: canaries.recall(np.zeros(4), np.zeros(5, bool)), "found 4 and 5; match them"),
        (lambda: canaries.recall([0.0, np.nan], [True, False]), "found 1 of 2 that are not"),
        (lambda: canaries.recall([0.0, 1.0], [True, False], share=1.0), "share must lie between 0 and 1, found 1.0"),
    ],
)
def test_wrong_inputs_are_one_sentence(make, sentence: str) -> None:
    with pytest.raises((SpecError, DataError), match=sentence) as caught:
        make()
    assert str(caught.value).count(". ") == 0


def test_sets_are_those_of_the_specs() -> None:
    assert {plant.into for plant in canaries.dose(1)} <= set(SETS)
