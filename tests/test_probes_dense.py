"""Scenes and dense probes: what is read, what is measured, that void teaches nothing, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslmem_utils import data, figures, pairs, probes, training
from sslmem_utils.data import rendered, scenes
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.probes import dense, heads
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import EncoderSpec, TrainSpec
from sslmem_utils.store import Store

FRAME = (16, 16)
VIT = EncoderSpec(name="vit", options={"patch": 2, "width": 16, "depth": 4})


def spec(encoder: str | EncoderSpec = "cnn", epochs: int = 1) -> TrainSpec:
    base = recipe("digits", shared=30, candidate=30, external=40, epochs=epochs, batch=30, encoder=encoder)
    return pairs.pair_specs(base, 0)[0]


def model(one: TrainSpec) -> torch.nn.Module:
    return training.Training.start(training.resolved(one), data.load(one.dataset).shape).model


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder; what is loaded is not kept from one test to the next."""
    monkeypatch.setenv("SSLMEM_DATA", str(tmp_path))
    data.load()  # into it
    scenes.load.cache_clear()
    yield tmp_path
    scenes.load.cache_clear()


def write(folder: Path, count: int = 6, size: tuple[int, int] = (16, 24), void: int = 255) -> Path:
    """A folder of scenes: bright pixels are class 1, dark ones class 0, the last column is void; depth is 1 or 3 m."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for what in ("images", "masks", "depths"):
            (folder / part / what).mkdir(parents=True)
        for number in range(count):
            mask = np.repeat(np.repeat(rng.integers(0, 2, (size[0] // 4, size[1] // 4)), 4, 0), 4, 1).astype(np.uint8)
            grey = (mask * 180 + 30 + rng.integers(0, 20, size)).astype(np.uint8)
            depth = np.where(mask == 1, 3000, 1000).astype(np.uint16)
            mask[:, -1], depth[0, 0] = void, 0
            Image.fromarray(grey).save(folder / part / "images" / f"s{number}.png")
            Image.fromarray(mask).save(folder / part / "masks" / f"s{number}.png")
            Image.fromarray(depth).save(folder / part / "depths" / f"s{number}.png")
    return folder


# ---------------------------------------------------------------- scenes
def test_a_folder_and_its_zip_are_the_same(place: Path) -> None:
    folder = write(place / "mine")
    one = scenes.load("mine", "masks", "train", (16, 24), channels=1)
    assert one.images.shape == (6, 1, 16, 24) and one.targets.shape == (6, 16, 24)
    for number in range(6):
        assert np.array_equal(one.images[number, 0], Image.open(folder / f"train/images/s{number}.png"))
        assert np.array_equal(one.targets[number], Image.open(folder / f"train/masks/s{number}.png"))
    assert one.classes == ("0", "1") and one.void == 255
    with zipfile.ZipFile(place / "packed.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, f"top/{file.relative_to(folder)}")
    assert scenes.here("packed") and not scenes.here("nothing")
    assert scenes.load("packed", "masks", "train", (16, 24), channels=1).fingerprint == one.fingerprint
    by_path = scenes.load(str(folder), "masks", "test", (16, 24), channels=3)
    assert by_path.images.shape == (6, 3, 16, 24) and by_path.fingerprint != one.fingerprint


def test_depths_are_metres_and_unknown_ones_zero(place: Path) -> None:
    write(place / "mine")
    found = scenes.load("mine", "depths", "train", (16, 24)).targets
    assert sorted(found.unique().tolist()) == [0, 1, 3] and (found == 0).sum() == 6
    assert scenes.load("mine", "depths", "train", (16, 24), unit=0.01).targets.max() == 30


def test_frames_are_cut_in_the_middle_and_masks_make_nothing_up(place: Path) -> None:
    folder = place / "stripes" / "train"
    mask = np.repeat(np.arange(12, dtype=np.uint8) // 2, 1)[None].repeat(6, 0)  # 6 x 12: classes 0 0 1 1 ... 5 5
    for what in ("images", "masks"):
        (folder / what).mkdir(parents=True)
        Image.fromarray(mask * (40 if what == "images" else 1)).save(folder / what / "a.png")
    found = scenes.load("stripes", "masks", "train", (6, 6), channels=1)
    assert found.targets[0, 0].tolist() == [1, 2, 2, 3, 3, 4], "the square in the middle: columns 3 to 8"
    assert torch.equal(found.images[0, 0], 40 * found.targets[0])
    small = scenes.load("stripes", "masks", "train", (4, 4), channels=1)
    assert set(small.targets.unique().tolist()) <= {1, 2, 3, 4}


def test_palettes_are_class_numbers(place: Path) -> None:
    folder = write(place / "mine")
    for file in folder.glob("train/masks/*.png"):
        coloured = Image.open(file).copy()
        coloured.putpalette([200, 10, 10] * 256)
        coloured.save(file)
    assert scenes.load("mine", "masks", "train", (16, 24)).classes == ("0", "1")


def test_what_is_wrong_with_a_folder_is_said(place: Path) -> None:
    def broken(name: str) -> Path:
        scenes.load.cache_clear()
        return write(place / name)

    def load(name: str, target: str = "masks", frame: tuple[int, int] = (16, 24), **options: int) -> None:
        scenes.load(name, target, "train", frame, **options)

    Image.fromarray(np.zeros((10, 12), np.uint8)).save(broken("size") / "train/masks/s1.png")
    with pytest.raises(DataError, match=r"masks/s1.png is 12x10 pixels and its image .*s1.png is 24x16; make them of"):
        load("size")
    (broken("less") / "train/masks/s1.png").unlink()
    with pytest.raises(DataError, match=r"images/s1.png of less has none of the train/masks; add s1.png there"):
        load("less")
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(broken("colour") / "train/masks/s1.png")
    with pytest.raises(DataError, match="holds pixels of mode RGB; expected class numbers"):
        load("colour")
    (broken("damaged") / "train/depths/s1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="s1.png cannot be decoded"):
        load("damaged", "depths")
    write(place / "camvid", void=11)
    Image.fromarray(np.full((16, 24), 12, np.uint8)).save(place / "camvid/train/masks/s1.png")
    with pytest.raises(DataError, match="holds the number 12, which is neither one of its 11 classes nor void"):
        load("camvid")
    with pytest.raises(DataError, match="There are no scenes 'elsewhere' on this machine; put elsewhere.zip"):
        load("elsewhere")
    with pytest.raises(DataError, match="has no images in train/images"):
        (place / "empty/train/masks").mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "empty/train/masks/a.png")
        load("empty")
    with pytest.raises(SpecError, match="1 or 3 channels and frames of 4 pixels or more"):
        load("rendered", channels=2)
    with pytest.raises(SpecError, match="rendered scenes have the parts train, test"):
        scenes.load("rendered", "masks", "val", FRAME)


def test_voc_comes_from_torchvision(place: Path) -> None:
    top = place / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (top / name).mkdir(parents=True)
    for part, name in (("train", "a"), ("val", "b")):
        (top / "ImageSets/Segmentation" / f"{part}.txt").write_text(f"{name}\n")
        Image.new("RGB", (20, 12), (90, 10, 10)).save(top / "JPEGImages" / f"{name}.jpg")
        mask = np.full((12, 20), 15, np.uint8)
        mask[0] = 255
        Image.fromarray(mask).save(top / "SegmentationClass" / f"{name}.png")
    found = scenes.load("voc", "masks", "test", (12, 12))
    assert found.void == 255 and found.classes[15] == "person" and found.targets.unique().tolist() == [15, 255]
    with pytest.raises(SpecError, match="masks and no depths"):
        scenes.load("voc", "depths", "test", (12, 12))


def test_rendered_scenes_hang_together() -> None:
    masks, depths = (scenes.load("rendered", target, "train", (64, 64)) for target in ("masks", "depths"))
    assert torch.equal(masks.images, depths.images) and len(masks) == rendered.COUNTS["train"]
    assert masks.targets.unique().tolist() == list(range(len(rendered.KINDS)))
    assert depths.targets.min() >= 1.9 and depths.targets.max() < 9.1
    floor, wall = (depths.targets[masks.targets == number] for number in (1, 0))
    assert floor.mean() < wall.mean()
    column = depths.targets[1][:, 0][masks.targets[1][:, 0] == 1]
    assert (column.diff() <= 0).all(), "the floor comes nearer from top to bottom"
    test = scenes.load("rendered", "masks", "test", (64, 64))
    assert not any((test.images == image).flatten(1).all(1).any() for image in masks.images)


# ---------------------------------------------------------------- what is measured
def test_miou_by_hand_without_void() -> None:
    wanted = torch.tensor([[[0, 0, 1, 1], [0, 0, 255, 255]]], dtype=torch.uint8)
    found = torch.tensor([[[0, 1, 1, 1], [0, 0, 2, 0]]], dtype=torch.uint8)
    row = probes.overlaps(found, wanted, ("a", "b", "c"), 255)
    assert row["iou a"] == pytest.approx(3 / 4) and row["iou b"] == pytest.approx(2 / 3)
    assert np.isnan(row["iou c"]), "found under void only: does not occur"
    assert row["miou"] == pytest.approx((3 / 4 + 2 / 3) / 2) and row["pixel_accuracy"] == pytest.approx(5 / 6)
    with pytest.raises(DataError, match="all pixels of the test masks are void"):
        probes.overlaps(found, torch.full_like(found, 255), ("a", "b", "c"), 255)


def test_miou_is_over_all_pixels_not_a_mean_of_images() -> None:
    wanted = torch.zeros(2, 1, 10, dtype=torch.uint8)
    wanted[0] = 1
    found = wanted.clone()
    found[1, 0, :5] = 1  # class 1: 10 of 15 right over both images, class 0: 5 of 10
    row = probes.overlaps(found, wanted, ("a", "b"), 255)
    assert row["iou b"] == pytest.approx(10 / 15) and row["iou a"] == pytest.approx(0.5)


def test_depth_errors_by_hand() -> None:
    row = probes.depth_errors(torch.tensor([[[1.0, 2.0, 5.0, 3.0]]]), torch.tensor([[[1.0, 4.0, 0.0, 2.5]]]))
    assert row["abs_rel"] == pytest.approx((0 + 0.5 + 0.2) / 3) and row["delta1"] == pytest.approx(2 / 3)


def test_void_pixels_teach_nothing(place: Path) -> None:
    write(place / "mine")
    fit = scenes.load("mine", "masks", "train", (16, 24), channels=1)
    one, store = spec(), Store(place / "store")
    first = dense._segmented(one, store, fit, fit, "linear", "untrained")[1]
    assert torch.equal(dense._segmented(one, store, fit, fit, "linear", "untrained")[1], first), "the same again"
    other = scenes.Scenes("mine", fit.images, torch.where(fit.targets == 255, 200, fit.targets), fit.classes, 200)
    assert torch.equal(dense._segmented(one, store, other, other, "linear", "untrained")[1], first)
    known = torch.where(fit.targets == 255, 0, fit.targets)
    taught = scenes.Scenes("mine", fit.images, known, fit.classes, 200)
    assert not torch.equal(dense._segmented(one, store, taught, fit, "linear", "untrained")[1], first)


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_heads_find_what_pixels_tell(place: Path, head: str) -> None:
    write(place / "mine", count=24)
    one, store = spec(), Store(place / "store")
    options = {"head": head, "frame": (16, 24)}
    row = probes.segmentation(one, "mine", store, **options, of="pixels").iloc[0]
    by_place = probes.segmentation(one, "mine", store, **options, of="place").iloc[0]
    assert row["miou"] > 0.7 > by_place["miou"] and row["fit"] == row["test"] == 24
    deep = probes.depth(one, "mine", store, **options, of="pixels").iloc[0]
    flat = probes.depth(one, "mine", store, **options, of="place").iloc[0]
    assert deep["abs_rel"] < 0.5 * flat["abs_rel"] and deep["delta1"] > flat["delta1"]


# ---------------------------------------------------------------- frozen encoders
def test_the_encoder_is_left_alone_and_results_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, store = spec(), Store(tmp_path)
    training.train(one, store)
    before = next(tmp_path.rglob("weights.safetensors")).read_bytes()
    net = training.load(one, store).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    images = scenes.load("rendered", "masks", "train", FRAME, channels=1).images
    heads.maps(net, images)
    assert net.training and "num_batches_tracked" in "".join(state)
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} changed"
    assert not any(module._forward_hooks for module in net.modules())
    row = probes.segmentation(one, "rendered", store, frame=FRAME)
    assert next(tmp_path.rglob("weights.safetensors")).read_bytes() == before
    assert list(row)[:2] == ["miou", "pixel_accuracy"] and "iou cone" in row and row["of"].item() == "trained"
    fresh = probes.segmentation(one, "rendered", store, frame=FRAME, of="untrained")
    assert fresh["miou"].item() != row["miou"].item()
    monkeypatch.setattr(dense, "_segmented", lambda *_: pytest.fail("computed again"))
    again = probes.each("segmentation", [one], "rendered", store=store, frame=FRAME)
    assert again["miou"].item() == row["miou"].item()
    found = probes.predictions(one, "rendered", store, frame=FRAME)
    test = scenes.load("rendered", "masks", "test", FRAME, channels=1)
    assert probes.overlaps(found, test.targets, test.classes, 255)["miou"] == pytest.approx(row["miou"].item())


def test_maps_of_each_kind_of_encoder() -> None:
    x = torch.randint(0, 256, (3, 1, 16, 24), dtype=torch.uint8)
    assert [tuple(level.shape) for level in heads.maps(model(spec("cnn")), x)] == [(3, 64, 8, 12), (3, 128, 4, 6)]
    assert [tuple(level.shape) for level in heads.maps(model(spec(VIT)), x)] == [(3, 16, 8, 12)] * 4
    shapes = [tuple(level.shape) for level in heads.maps(model(spec("resnet18")), x)]
    assert shapes == [(3, 128, 8, 12), (3, 256, 4, 6), (3, 512, 2, 3)]
    net = model(spec("cnn")).eval()
    with torch.no_grad():
        pooled = net.features(x.float() / 255)
    torch.testing.assert_close(heads.maps(net, x)[-1].mean((2, 3)), pooled)
    vit = model(spec(VIT)).eval()
    with torch.no_grad():
        tokens = vit.features(x.float() / 255, "layer:body.blocks.3")
    torch.testing.assert_close(heads.maps(vit, x)[-1].mean((2, 3)), tokens)
    with pytest.raises(SpecError, match="MLP has no map of an image"):
        heads.maps(model(spec("mlp")), x[..., :8, :8])


def test_what_cannot_be_probed_is_said(place: Path) -> None:
    one, store = spec(), Store(place / "store")
    with pytest.raises(SpecError, match="a head must be linear or upernet, found 'deep'"):
        probes.segmentation(one, "rendered", store, frame=FRAME, head="deep", of="untrained")
    with pytest.raises(SpecError, match="must be trained, untrained, pixels, place, found 'best'"):
        probes.depth(one, "rendered", store, frame=FRAME, of="best")
    for file in (write(place / "one") / "train" / "masks").iterdir():
        Image.fromarray(np.zeros((16, 24), np.uint8)).save(file)
    with pytest.raises(DataError, match="a probe needs 2 classes, all pixels of the masks of one are of one"):
        probes.segmentation(one, "one", store, frame=(16, 24), of="pixels")


def test_pictures_of_predictions(tmp_path: Path) -> None:
    table = probes.pictured(spec(), "rendered", [0, 3], Store(tmp_path), frame=FRAME)
    assert table["what"].tolist()[:5] == ["image", "truth", "trained", "untrained", "pixels"] and len(table) == 10
    figure = figures.scenes(table, rendered.KINDS)
    assert "2 scenes in rows" in figures.alt(figure) and "floor" in figures.alt(figure)
    with pytest.raises(DataError, match="pictures of these scenes are not here"):
        figures.scenes(table.assign(pixels=[[] for _ in range(10)]), rendered.KINDS)


# ---------------------------------------------------------------- real scenes
def test_camvid_from_the_development_images(shared_data: Path, place: Path) -> None:
    kept = place / "camvid"
    with zipfile.ZipFile(shared_data / "camvid.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith((".jpg", ".png"))]
        for part, step in (("train", 12), ("test", 12)):
            stems = sorted({name.rsplit("/", 1)[1][:-4] for name in names if name.startswith(f"{part}/images")})[::step]
            archive.extractall(kept, [name for name in names if name.startswith(part) and Path(name).stem in stems])
    fit = scenes.load("camvid", "masks", "train", (48, 64))
    assert fit.void == 11 and len(fit.classes) == 11 and 11 in fit.targets.unique()
    top, bottom = (np.bincount(part.flatten(), minlength=12) for part in (fit.targets[:, :8], fit.targets[:, -8:]))
    assert fit.classes[top.argmax()] in ("sky", "building") and fit.classes[bottom[:11].argmax()] == "road"
    one = spec()
    rows = {of: probes.segmentation(one, "camvid", Store(place / "store"), frame=(48, 64), of=of).iloc[0]
            for of in ("untrained", "place")}  # fmt: skip
    assert rows["untrained"]["iou sky"] > 0.5 and 0.05 < rows["place"]["miou"] < 0.5
