"""Déjà vu: rectangles against brute force, neighbours and votes by hand, and the laws of the score."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from sslmem_utils import data, dejavu, joint, pairs, training
from sslmem_utils.data import ImageSet
from sslmem_utils.dejavu import Background, Centred, Corner, Visible
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import SETS, DatasetSpec, EncoderSpec, TrainSpec
from sslmem_utils.store import Store


def base(**changes: object) -> TrainSpec:
    return recipe("digits", **{"shared": 30, "candidate": 30, "external": 40, "epochs": 3, "batch": 30} | changes)


def base_vit() -> TrainSpec:
    vit = EncoderSpec(name="vit", options={"patch": 2, "width": 16, "depth": 1})
    return base(method="mae", encoder=vit, epochs=1)


def image_set(pixels: torch.Tensor) -> ImageSet:
    n = len(pixels)
    return ImageSet("made", pixels, torch.arange(n), torch.zeros(n, dtype=torch.int64), np.arange(n), ("one",), "print")


# ---------------------------------------------------------------- rectangles and partial views
def test_largest_rectangle_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        height, width = rng.integers(1, 7, 2)
        occupied = rng.random((height, width)) < rng.choice([0.1, 0.4, 0.9])
        best = (0, 0, 0, 0)
        for top, left in product(range(height), range(width)):
            for tall, wide in product(range(1, height - top + 1), range(1, width - left + 1)):
                free = not occupied[top : top + tall, left : left + wide].any()
                rank = (tall * wide, min(tall, wide), -top, -left)
                if free and rank > (best[2] * best[3], min(best[2:]), -best[0], -best[1]):
                    best = (top, left, tall, wide)
        assert dejavu.largest(occupied) == best


def test_strips_are_merged_to_the_largest_rectangle() -> None:
    """The published search cuts the image at every edge of a box and never joins strips: it finds 6 x 2 pixels here."""
    view = Background.of_boxes([(1, 0, 2, 2), (4, 4, 5, 6)], (6, 6))
    assert view.rectangles == {None: (0, 2, 4, 4)}


def test_corners_show_their_pixels() -> None:
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, :2, :2], pixels[:, 0, :2, 2:], pixels[:, 0, 2:, :2], pixels[:, 0, 2:, 2:] = 10, 20, 30, 40
    images, found = image_set(pixels), {}
    for name in dejavu.CORNERS:
        x, hidden = Corner(corner=name, side=0.5)(images, np.array([1, 0]))
        assert hidden is None and x.shape == (2, 1, 4, 4)
        found[name] = float(x.unique() * 255)
    assert found == pytest.approx({"upper_left": 10, "upper_right": 20, "lower_left": 30, "lower_right": 40})


def test_drawn_corners_belong_to_the_image() -> None:
    images, rows = data.load(DatasetSpec()), np.arange(200)
    view = Corner(corner="any", side=0.5)
    all_, _ = view(images, rows)
    some, _ = view(images, rows[50:60])
    assert torch.equal(all_[50:60], some)
    fixed = [Corner(corner=name, side=0.5)(images, rows)[0] for name in dejavu.CORNERS]
    same = torch.stack([(one == all_).flatten(1).all(1) for one in fixed])
    assert same.any(0).all() and (same.sum(1) > 25).all()


def test_background_shows_what_lies_outside() -> None:
    pixels = torch.randint(0, 256, (3, 1, 6, 6), dtype=torch.uint8)
    pixels[:, :, :, 2:] = 255  # the object
    images = image_set(pixels)
    view = Background.of_boxes({0: [(2, 0, 6, 6)], 2: [(0, 0, 6, 6)]}, (6, 6))
    assert view.usable(images, np.arange(3)).tolist() == [True, False, False]  # nothing left of 2; 1 has no boxes
    x, _ = view(images, np.array([0]))
    assert x.max() <= pixels[0, 0, :, :2].max() / 255 + 1e-6
    masks = {0: (pixels[0, 0] == 255).numpy()}
    assert Background.of_masks(masks).rectangles[0] == dejavu.largest(masks[0])
    centred, _ = Centred(side=0.34)(images, np.array([0]))  # a box of 2 x 2 pixels leaves the two upper rows
    upper = torch.nn.functional.interpolate(pixels[:1, :, :2] / 255, (6, 6), mode="bilinear", antialias=True)
    assert torch.allclose(centred, upper)


def test_visible_patches_are_counted_and_stay_in_place() -> None:
    images = data.load(DatasetSpec())
    x, hidden = Visible(mask=0.75, patch=2)(images, np.array([5, 9]))
    assert hidden.shape == (2, 16) and hidden.sum(1).tolist() == [12, 12]
    assert torch.equal(x, images.rows([5, 9]).float() / 255)
    shown = dejavu.shown(Visible(mask=0.75, patch=2), images, np.array([5, 9]))
    seen = (~hidden).view(2, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()
    assert np.array_equal(shown[:, 0], images.rows([5, 9]).numpy()[:, 0] * seen)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Background.of_boxes([(2, 0, 9, 4)], (8, 8)), "box .* inside the image of 8 x 8"),
        (lambda: Background.of_boxes([(2, 3, 2, 4)], (8, 8)), "box .* inside the image"),
        (lambda: Background.of_boxes([(1.5, 0, 4, 4)], (8, 8)), "in whole pixels, found"),
        (lambda: Background.of_boxes([(1, 0, 4)], (8, 8)), "box \\(left, top, right, bottom\\)"),
        (lambda: Background.of_masks({}), "masks must all have"),
        (lambda: Centred(side=1.0), "less than 1"),
        (lambda: Corner(side=0.1).usable(data.load(DatasetSpec()), np.arange(2)), "2 pixels a side"),
        (
            lambda: Background.of_boxes([(2, 2, 4, 4)], (6, 6)).usable(data.load(DatasetSpec()), np.arange(2)),
            "6 x 6 .* 8 x 8",
        ),
        (lambda: dejavu.attack(base(), 0, Corner(side=0.5), [5, 1668]), "k must be 1 to 1667.*, found 5, 1668; lower"),
        (lambda: dejavu.attacks(base(), range(2), Corner(side=0.5), [0]), "k must be 1 to 1667"),
        (lambda: dejavu.attack(base(), 0, Corner(side=0.5), []), "found none"),
        (lambda: dejavu.attacks(base(), [0], Corner(side=0.5), [5], representation="projectr"), "found 'projectr'"),
        (lambda: dejavu.attacks(base(), [0], Visible(patch=2), [5]), "no patches to hide"),
        (lambda: dejavu.attacks(base_vit(), [0], Visible(patch=4), [5]), "reads 16 patches an image, found .* over 4"),
        (lambda: dejavu.attack(base(), 0, Centred(side=0.9), [5]), "none can be attacked"),
        (lambda: dejavu.attacks(base(), range(0), Corner(side=0.5), [1]), "at least one seed"),
        (lambda: dejavu.attack(base(), 0, Background.of_boxes({}, (8, 8)), [5]), "none can be attacked"),
        (lambda: dejavu.public(base(), 0), "found a limit of 0"),
    ],
)
def test_wrong_use_is_said_in_one_sentence(call, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train_all", None)  # said before anything is trained
    with pytest.raises((SpecError, DataError), match=words) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


# ---------------------------------------------------------------- neighbours
def test_neighbours_by_hand_and_ties_in_the_order_of_the_bank() -> None:
    bank = torch.tensor([[3.0, 0], [0, 4], [1, 0], [0, -1], [-1, 0]])
    near, at = dejavu.nearest(torch.zeros(1, 2), bank, 4)
    assert at.tolist() == [[2, 3, 4, 0]] and near.tolist() == [[1, 1, 1, 3]]


def test_chunks_change_nothing_and_neighbours_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = torch.randint(0, 3, (53, 4), generator=generator).float()  # many distances are equal
    queries = torch.randint(0, 3, (17, 4), generator=generator).float()
    near, at = dejavu.nearest(queries, bank, 9)
    for chunks in [(1, 1), (4, 7), (100, 9)]:
        again = dejavu.nearest(queries, bank, 9, chunks)
        assert torch.equal(near, again[0]) and torch.equal(at, again[1])
    far = ((queries[:, None] - bank) ** 2).sum(2).numpy()
    wanted = np.lexsort((np.broadcast_to(np.arange(53), far.shape), far), axis=1)[:, :9]
    assert np.array_equal(at.numpy(), wanted)
    with pytest.raises(SpecError, match="k must be 1 to 53"):
        dejavu.nearest(queries, bank, 54)
    with pytest.raises(DataError, match="not finite"):
        dejavu.nearest(queries * torch.nan, bank, 1)


# ---------------------------------------------------------------- votes
def test_votes_by_hand() -> None:
    labels = np.array([[2, 2, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [3, 3, 3, 3]])
    distances = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4], [1, 1, 1, 1.0]])
    found = dejavu.vote(labels, distances, np.array([1, 0, 0, 1]), 4)
    # Row 1: two votes each, 0 at 1 + 5 and 1 at 2 + 3. Row 2: both sums are 5, and 0 is the lower number.
    assert found.inferred.tolist() == [2, 1, 0, 3]
    # Row 0: the true class 1 is as frequent as 0 but farther away: third. Row 3: no vote, no rank.
    assert found.rank.tolist()[:3] == [3, 2, 1] and np.isnan(found.rank[3])
    half = -np.log(2)
    assert found.confidence == pytest.approx([1.5 * half, half, half, 0])
    assert found.margin.tolist() == [0.25, 0, 0, 1] and found.share.tolist() == [0.25, 0.5, 0.5, 0]
    assert found.right().tolist() == [False, False, True, False]


def test_equal_votes_are_equally_confident_whatever_the_classes() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array([[0, 0, 0, 1, 1, 2, 4]]), 40, 0)
    labels = np.stack([rng.permutation(5)[one] for one in labels])
    found = dejavu.vote(labels, np.ones(labels.shape), np.zeros(40, int), 5)
    assert len(set(found.confidence.tolist())) == 1
    with pytest.raises(DataError, match="labels 0 to 4"):
        dejavu.vote(labels - 1, np.ones(labels.shape), np.zeros(40, int), 5)


# ---------------------------------------------------------------- the score
def made(target: list[int], reference: list[int], of: str = "candidate", **columns: object) -> pd.DataFrame:
    right = {"right_target": np.array(target, bool), "right_reference": np.array(reference, bool)}
    names = dict(zip([(1, 0), (1, 1), (0, 1), (0, 0)], dejavu.QUADRANTS, strict=True))
    n = len(target)
    facts = {"seed": 0, "replica": 0, "row": np.arange(n), "label": 1, "set": of, "k": 5}
    ranks = {"confidence_target": -1.0, "confidence_reference": -1.0, "share_target": 0.5, "share_reference": 0.5}
    quadrant = [names[pair] for pair in zip(target, reference, strict=True)]
    return pd.DataFrame({**facts, **right, **ranks, "quadrant": quadrant, **columns})


def test_accuracy_of_the_most_confident_by_hand() -> None:
    right, confidence = np.array([1, 0, 1, 0], bool), np.array([-1.0, -2.0, -2.0, -3.0])
    assert dejavu.accuracy(right, confidence, 0.25) == 1
    assert (
        dejavu.accuracy(right, confidence, 0.5) == 0.75
    )  # half of the two tied ones counts, and half of them is right
    assert dejavu.accuracy(right, confidence, 1) == 0.5
    order = [2, 0, 3, 1]
    assert dejavu.accuracy(right[order], confidence[order], 0.5) == 0.75
    with pytest.raises(SpecError, match="must lie in"):
        dejavu.accuracy(right, confidence, 0)


def test_score_by_hand_averages_both_directions() -> None:
    f, g = made([1, 1, 1, 0], [1, 0, 0, 0]), made([1, 0], [1, 1], "independent")
    found = dejavu.scores(pd.concat([f, g]), [1.0]).iloc[0]
    assert (found["target"], found["reference"], found["dv"]) == (0.625, 0.625, 0)
    one = dejavu.scores(f, [1.0]).iloc[0]
    assert (one["dv"], one["images"]) == (0.5, "trained on")
    confident = f.assign(confidence_target=[-3.0, -1, -2, 0], confidence_reference=[0.0, -1, -2, -3])
    one = dejavu.scores(confident, [0.5]).iloc[0]  # target: its third and first image by confidence; each has its own
    assert (one["target"], one["reference"]) == (0.5, 0.5)


def test_quadrants_mcnemar_and_bootstrap() -> None:
    table = made([1] * 6 + [0] * 4, [1, 0, 0, 0, 0, 0, 1, 0, 0, 0])
    found = dejavu.quadrants(table).set_index("quadrant")["share"]
    assert found[list(dejavu.QUADRANTS)].tolist() == pytest.approx([0.5, 0.1, 0.1, 0.3])
    assert dejavu.mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 64) and dejavu.mcnemar(0, 0) == 1
    row = dejavu.tests(table, [1.0], resamples=4000).iloc[0]
    assert (row["dv"], row["memorized"], row["misrepresented"]) == (pytest.approx(0.4), 5, 1)
    error = np.sqrt((0.6 - 0.4**2) / 10)  # of the mean of ten values 1, 0 and -1
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_agreement_and_one_row_an_image() -> None:
    f = made([1, 1, 0, 0], [0, 1, 0, 1], share_target=[0.9, 0.6, 0.2, 0.1], row=[0, 1, 2, 3])
    g = made([1, 0], [0, 0], "independent", share_target=[0.9, 0.4], row=[4, 5])
    table = pd.concat([f, g], ignore_index=True)
    scored = pd.DataFrame({"seed": 0, "row": range(6), "m_rel": [4.0, 3, 2, 1, -2, -1]})
    found = dejavu.agreement(table, scored).iloc[0]
    assert found["rho"] == pytest.approx(1) and found["auc"] == 1  # g's images: a low m says that g memorized them
    with pytest.raises(DataError, match="1 attacked images have no m_rel"):
        dejavu.agreement(table, scored.iloc[1:])
    second = table.assign(replica=1, quadrant="memorized", share_target=0.5)
    one = dejavu.per_image(pd.concat([second, table]))
    assert one["memorized"].tolist() == [1, 0.5, 0.5, 0.5, 1, 0.5] and one["quadrant"][1] == "correlated"
    assert one["gain"][0] == pytest.approx(0.2)
    assert {"dejavu_memorized", "dejavu_gain"} < set(joint.joint({"dejavu": one.assign(dataset="made")}))
    with pytest.raises(SpecError, match="one k"):
        dejavu.per_image(pd.concat([table, table.assign(k=9)]))


# ---------------------------------------------------------------- attacks
def test_attack_of_a_pair(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, view, some = Store(tmp_path), Corner(side=0.75), base()
    table = dejavu.attacks(some, [0], view, [20, 1, 20], store=store)
    f, g = pairs.pair_specs(some, 0)
    split = training.split_of(f)
    assert table.groupby("k").size().to_dict() == {1: 130, 20: 130}
    assert set(table["row"]) == set(split.rows(*SETS)) and set(table["public"]) == {1797 - 130}
    assert not np.isin(dejavu.public(f), split.rows(*SETS)).any()
    labels = data.load(f.dataset).labels.numpy()
    assert (table["right_target"] == (table["inferred_target"] == labels[table["row"]])).all()
    alone = {"memorized": (True, False), "correlated": (True, True), "misrepresented": (False, True)}
    for name, (target, reference) in alone.items():
        here = (table["right_target"] == target) & (table["right_reference"] == reference)
        assert ((table["quadrant"] == name) == here).all()

    # By hand: g is the target of the independents; one neighbour is the nearest of normalised features.
    images, rows, bank = data.load(f.dataset), split.independent, dejavu.public(f)
    with torch.no_grad():
        model = training.load(g, store).eval()
        asked, known = model.features(view(images, rows)[0]), model.features(images.rows(bank).float() / 255)
    asked, known = (torch.nn.functional.normalize(one, dim=1).double() for one in (asked, known))
    at = ((asked[:, None] - known) ** 2).sum(2).argmin(1).numpy()
    mine = table[(table["k"] == 1) & (table["set"] == "independent")].set_index("row").loc[rows]
    assert np.mean(mine["inferred_target"].to_numpy() == labels[bank][at]) > 0.95  # but for ties in single precision

    monkeypatch.setattr(training, "load", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(dejavu.attack(some, 0, view, [1, 20], store=store), table)


def test_equal_encoders_have_a_score_of_exactly_zero(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, load = Store(tmp_path), training.load
    f, g = pairs.pair_specs(base(), 0)
    monkeypatch.setattr(training, "load", lambda spec, where: load(f if spec == g else spec, where))
    table = dejavu.attack(base(), 0, Corner(corner="any", side=0.6), [3, 10], representation="projector", store=store)
    assert set(table["quadrant"]) <= {"correlated", "unassociated"}
    assert (dejavu.scores(table, [0.1, 0.2, 1.0])["dv"] == 0).all()
    found = dejavu.tests(table, resamples=50)
    assert (found[["dv", "low", "high", "memorized"]] == 0).all(axis=None) and (found["p"] == 1).all()


def test_visible_patches_of_a_vit(tmp_path) -> None:
    found = dejavu.attack(base_vit(), 0, Visible(patch=2), [5], store=Store(tmp_path), limit=200)
    assert len(found) == 130 and set(found["public"]) == {200}


def test_images_without_a_background_are_left_out(tmp_path) -> None:
    some = training.split_of(pairs.pair_specs(base(), 0)[0]).candidate[:5]
    view = Background.of_boxes({int(row): [(3, 0, 8, 8)] for row in some}, (8, 8))
    table = dejavu.attack(base(epochs=1), 0, view, [3], store=Store(tmp_path))
    assert table["row"].tolist() == some.tolist() and set(table["set"]) == {"candidate"}
    found = dejavu.pictures(table, view, DatasetSpec())
    whole, shown = (np.stack(found.loc[found["part"] == part, "pixels"]) for part in ("whole", "shown"))
    assert np.array_equal(whole, data.load(DatasetSpec()).rows(some).flatten(1).numpy())
    assert (shown.reshape(5, 8, 8)[:, :, 0] == whole.reshape(5, 8, 8)[:, :, 0]).all()  # only the width is stretched


def test_public_set_without_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    f, _ = pairs.pair_specs(base(), 0)
    given = training.inputs(f)
    rows = given.split.rows(*SETS)
    labels = torch.full_like(given.images.labels, -1)
    labels[rows] = given.images.labels[rows]
    unlabelled = replace(given, images=replace(given.images, labels=labels))
    monkeypatch.setattr(training, "inputs", lambda _: unlabelled)
    with pytest.raises(DataError, match="needs labelled images outside of the four sets, found 1667 .* no label"):
        dejavu.attack(base(), 0, Corner(side=0.5), [5])
