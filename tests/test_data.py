"""Datasets: real files in, exact arrays out, one sentence when something is wrong, and nothing lost."""

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslmem_utils import data, paths
from sslmem_utils.data import cache, decoding, importing, loading, registry, sources
from sslmem_utils.data.decoding import square
from sslmem_utils.data.layout import natural
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.specs import DatasetSpec

ROOT = Path(__file__).resolve().parents[1]


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(seed=0, size=(6, 6), mode="L"):
    return Image.fromarray(pixels(seed, size[1], size[0], *([3] if mode == "RGB" else [])))


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_folder(root, files):
    """`files`: relative path to bytes, or to a seed of a grey 6x6 picture."""
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else encoded(picture(content)))
    return root


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else encoded(picture(content)))
    return path


def in_cache():
    """Everything in the data folder but locks."""
    return sorted(path.name for path in paths.data_dir().iterdir() if path.suffix != ".lock")


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


TWO = {"cat/1.png": 1, "dog/1.png": 2}
PARTS = {
    "train/cat/img10.png": 1,
    "train/cat/img2.png": 2,
    "train/dog/a.png": 3,
    "test/cat/x.png": 4,
    "test/dog/y.png": 5,
}


# ---------------------------------------------------------------------------------------------------------- registry


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    bunch, digits = load_digits(), data.load()
    assert digits.images.shape == (1797, 1, 8, 8) and digits.images.dtype == torch.uint8
    assert np.array_equal(np.round(digits.images[:, 0].numpy() * (16 / 255)), bunch.images)
    assert digits.images.max() == 255
    assert np.array_equal(digits.labels.numpy(), bunch.target)
    assert digits.classes == tuple("0123456789")
    assert torch.equal(digits.ids, torch.arange(1797)) and np.array_equal(digits.index, np.arange(1797))
    assert digits.fingerprint == registry.entries()["digits"].fingerprint


def test_images_are_memory_mapped_and_writes_stay_private():
    digits = data.load()
    maps = Path("/proc/self/maps")
    if maps.exists():
        where = digits.images.data_ptr()
        spans = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*images\.npy$", maps.read_text(), re.MULTILINE)
        assert any(int(low, 16) <= where < int(high, 16) for low, high in spans)
    before = digits.images[0].clone()
    digits.images[0] = 7
    cache._verified.clear()
    assert torch.equal(data.load().images[0], before)


def test_registry_agrees_with_torchvision():
    import torchvision.datasets as theirs

    for entry in registry.entries().values():
        assert entry.images and len(set(entry.classes)) == len(entry.classes) and entry.licence and entry.source
        kind = getattr(theirs, entry.torchvision, None)
        if entry.reader == "idx":
            assert dict(kind.resources) == entry.files
        elif entry.reader == "cifar":
            meta = [[kind.meta["filename"], kind.meta["md5"]]]
            assert dict(kind.train_list + kind.test_list + meta) == entry.files
        elif entry.reader == "stl10":
            assert dict(kind.train_list + kind.test_list) == entry.files
        elif entry.reader == "svhn":
            assert {kind.split_list[part][1]: kind.split_list[part][2] for part in entry.parts} == entry.files


def test_catalogue_and_import_load_no_torch():
    code = (
        "import sys, sslmem_utils.data as data; rows = data.catalogue(); print([row['name'] for row in rows]); "
        "print([name for name in ('torch', 'torchvision', 'sklearn', 'PIL') if name in sys.modules])"
    )
    done = run_python(code)
    names, loaded = done.stdout.splitlines()
    assert "'digits', 'mnist', 'fashion_mnist'" in names and loaded == "[]", done.stderr


def test_catalogue_says_what_is_found(tmp_path):
    data.import_images("pets", write_folder(tmp_path / "pets", PARTS))
    (paths.data_dir() / "broken.json").write_text("{")
    rows = {row["name"]: row for row in data.catalogue()}
    assert rows["digits"]["found"] and not rows["kmnist"]["found"] and "download" in rows["kmnist"]["where"]
    assert rows["pets"]["parts"] == {"train": 3, "test": 2} and rows["pets"]["where"] == "imported from pets"
    assert not rows["broken"]["found"] and "damaged" in rows["broken"]["where"]
    assert len({tuple(row) for row in map(sorted, rows.values())}) == 1  # the same keys everywhere


def test_unknown_dataset_names_close_ones():
    with pytest.raises(SpecError, match="fashion_mnist"):
        data.load(DatasetSpec(name="fashion-mnst"))


def test_debian_fashion_mnist():
    entry = registry.entries()["fashion_mnist"]
    if not Path(entry.system[0]).is_dir():
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    fashion = data.load(DatasetSpec(name="fashion_mnist"))
    assert fashion.fingerprint == entry.fingerprint and fashion.images.shape == (70000, 1, 28, 28)
    assert fashion.labels[:4].tolist() == [9, 0, 0, 3] and fashion.classes[9] == "Ankle boot"
    assert fashion.labels.bincount().tolist() == [7000] * 10
    test = data.load(DatasetSpec(name="fashion_mnist", part="test"))
    assert len(test) == 10000 and test.index[0] == 60000 and test.ids[0] == 60000
    assert torch.equal(test.images, fashion.images[60000:])


# ------------------------------------------------------------------------ torchvision's files, tiny but of real form


@pytest.fixture
def tiny(monkeypatch):
    """Makes the registry and torchvision expect tiny files of the given content for one dataset."""

    def expect(name, files, **parts):
        entry = registry.entries()[name]
        folder = paths.data_dir() / entry.folder
        sums = {}
        for file, content in files.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
            sums[file] = hashlib.md5(content).hexdigest()
        changed = replace(entry, parts=parts, images=sum(parts.values()), files=sums, fingerprint="", system=())
        monkeypatch.setattr(registry, "entries", lambda: {name: changed})
        return changed, sums

    return expect


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def idx_files(seed=0):
    arrays = (pixels(seed, 12, 28, 28), np.arange(12) % 10, pixels(seed + 1, 5, 28, 28), np.arange(5))
    return arrays, {
        file: gzip.compress(idx(array.astype(np.uint8)))
        for file, array in zip(registry.entries()["mnist"].files, arrays, strict=True)
    }


def test_idx_files_in_the_data_folder(tiny):
    (train, _, test, _), files = idx_files()
    tiny("mnist", files, train=12, test=5)
    mnist = data.load(DatasetSpec(name="mnist"))
    assert np.array_equal(mnist.images[:, 0].numpy(), np.concatenate([train, test]))
    assert mnist.labels.tolist() == [*range(10), 0, 1, *range(5)] and mnist.index.tolist() == list(range(17))
    assert data.load(DatasetSpec(name="mnist", part="test")).labels.tolist() == list(range(5))


def no_internet(*arguments, **options):
    raise socket.gaierror(-3, "Temporary failure in name resolution")


def test_without_internet_one_sentence_says_what_to_do(tiny, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_internet)
    for name in [name for name in registry.entries() if name not in ("digits", "fashion_mnist")]:
        with pytest.raises(
            DataError, match=rf"{name} .*tried http.*name resolution.*sslmem data import {name} PATH"
        ) as e:
            data.load(DatasetSpec(name=name))
        assert "\n" not in str(e.value)
    assert socket.getdefaulttimeout() is None
    assert in_cache() == [] or all(not name.endswith(".json") for name in in_cache())


def test_damaged_idx_file_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_internet)
    _, files = idx_files()
    entry, _ = tiny("mnist", files, train=12, test=5)
    first = next(iter(files))
    (paths.data_dir() / entry.folder / first).write_bytes(files[first][:-9])
    with pytest.raises(DataError, match="could not be downloaded"):
        data.load(DatasetSpec(name="mnist"))
    (paths.data_dir() / entry.folder / first.removesuffix(".gz")).write_bytes(gzip.decompress(files[first])[:-1])
    with pytest.raises(DataError, match="train-images-idx3-ubyte is damaged"):
        data.load(DatasetSpec(name="mnist"))


@pytest.mark.parametrize("name, key", [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar_batches(tiny, monkeypatch, name, key):
    import torchvision.datasets as theirs

    kind = getattr(theirs, registry.entries()[name].torchvision)
    batches = {file: (pixels(n, 4, 3072), [n % 10] * 4) for n, (file, _) in enumerate(kind.train_list + kind.test_list)}
    files = {file: pickle.dumps({"data": images, key: labels}) for file, (images, labels) in batches.items()}
    files[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: list(registry.entries()[name].classes)})
    trains = len(kind.train_list)
    _, sums = tiny(name, files, train=4 * trains, test=4)
    monkeypatch.setattr(kind, "train_list", [[file, sums[file]] for file, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[file, sums[file]] for file, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})
    got = data.load(DatasetSpec(name=name))
    assert np.array_equal(got.images.numpy().reshape(-1, 3072), np.concatenate([one for one, _ in batches.values()]))
    assert got.labels.tolist() == [label for _, labels in batches.values() for label in labels]
    assert data.load(DatasetSpec(name=name, part="test")).index.tolist() == [4 * trains + i for i in range(4)]


def test_svhn_files(tiny, monkeypatch):
    import scipy.io
    from torchvision.datasets import SVHN

    def mat(seed, count):
        stream, images = io.BytesIO(), pixels(seed, 32, 32, 3, count)
        scipy.io.savemat(stream, {"X": images, "y": np.arange(1, count + 1, dtype=np.uint8)[:, None]})
        return images, stream.getvalue()

    (train, one), (test, two) = mat(0, 10), mat(1, 3)
    _, sums = tiny("svhn", {"train_32x32.mat": one, "test_32x32.mat": two}, train=10, test=3)
    lists = {part: ["http://example.org", file, sums[file]] for part, file in zip(("train", "test"), sums, strict=True)}
    monkeypatch.setattr(SVHN, "split_list", lists)
    got = data.load(DatasetSpec(name="svhn"))
    assert np.array_equal(got.images.numpy(), np.concatenate([train, test], 3).transpose(3, 2, 0, 1))
    assert got.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]  # the files say 10 for the digit 0


def test_stl10_files_with_the_unlabeled_part(tiny, monkeypatch):
    from torchvision.datasets import STL10

    images = {part: pixels(n, count, 3, 96, 96) for n, (part, count) in enumerate([("train", 4), ("test", 3)])}
    images["unlabeled"] = pixels(9, 5, 3, 96, 96)
    files = {f"{part}_X.bin": array.transpose(0, 1, 3, 2).tobytes() for part, array in images.items()}
    files |= {"train_y.bin": bytes([1, 2, 10, 4]), "test_y.bin": bytes([3, 2, 1])}
    _, sums = tiny("stl10", files, train=4, test=3, unlabeled=5)
    for list_name in ("train_list", "test_list"):
        monkeypatch.setattr(STL10, list_name, [[file, sums[file]] for file, _ in getattr(STL10, list_name)])
    got = data.load(DatasetSpec(name="stl10"))
    assert np.array_equal(got.images.numpy(), np.concatenate(list(images.values())))
    assert got.labels.tolist() == [0, 1, 9, 3, 2, 1, 0, -1, -1, -1, -1, -1]
    assert len(data.load(DatasetSpec(name="stl10", part="train"))) == 4


def test_dataset_is_built_once_by_many_threads(monkeypatch):
    builds, results = [], []
    monkeypatch.setattr(sources, "build", lambda entry, build=sources.build: (builds.append(entry.name), build(entry)))
    threads = [threading.Thread(target=lambda: results.append(loading._base("digits")[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == ["digits"] and len({meta["folder"] for meta in results}) == 1 and len(results) == 4


# ------------------------------------------------------------------------------------------------------------ imports


def test_folder_with_parts_and_classes(tmp_path):
    got = data.import_images("pets", write_folder(tmp_path / "x", PARTS))
    order = ["train/cat/img2.png", "train/cat/img10.png", "train/dog/a.png", "test/cat/x.png", "test/dog/y.png"]
    assert got.index.tolist() == order and got.classes == ("cat", "dog") and got.labels.tolist() == [0, 0, 1, 0, 1]
    for row, path in enumerate(order):
        assert np.array_equal(got.images[row, 0].numpy(), pixels(PARTS[path], 6, 6))
    expected = [int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 2 for path in order]
    assert got.ids.tolist() == expected and got.ids.dtype == torch.int64 and got.ids.max() < 2**62
    test = data.load(DatasetSpec(name="pets", part="test"))
    assert test.index.tolist() == order[3:] and test.ids.tolist() == expected[3:]


def test_folder_zip_and_wrapped_zip_are_one_dataset(tmp_path):
    folder = write_folder(tmp_path / "x", PARTS)
    prints = {
        data.import_images("a", folder).fingerprint,
        data.import_images("b", write_zip(tmp_path / "x.zip", PARTS)).fingerprint,
        data.import_images(
            "c", write_zip(tmp_path / "y.zip", {f"top/{path}": seed for path, seed in reversed(PARTS.items())})
        ).fingerprint,
        data.import_images(
            "d", write_zip(tmp_path / "w.zip", {path.replace("/", "\\"): seed for path, seed in PARTS.items()})
        ).fingerprint,
    }
    assert len(prints) == 1
    changed = data.import_images("e", write_folder(tmp_path / "z", {**PARTS, "test/dog/y.png": 6}))
    moved = data.import_images("f", write_zip(tmp_path / "m.zip", {**PARTS, "test/dog/z.png": 5, "test/dog/y.png": 6}))
    assert len(prints | {changed.fingerprint, moved.fingerprint}) == 3


def test_images_without_classes_have_label_minus_one(tmp_path):
    flat = data.import_images("flat", write_folder(tmp_path / "a", {"2.png": 1, "10.png": 2, "1.png": 3}))
    assert (
        flat.labels.tolist() == [-1, -1, -1]
        and flat.classes == ()
        and flat.index.tolist()
        == [
            "1.png",
            "2.png",
            "10.png",
        ]
    )
    files = {"train/cat/1.png": 1, "train/dog/1.png": 2, "unlabeled/1.png": 3, "val/cat/1.png": 4}
    mixed = data.import_images("mixed", write_folder(tmp_path / "b", files))
    assert mixed.labels.tolist() == [0, 1, 0, -1] and mixed.index[2:].tolist() == ["val/cat/1.png", "unlabeled/1.png"]
    assert data.load(DatasetSpec(name="mixed", part="test")).index.tolist() == ["val/cat/1.png"]
    with pytest.raises(SpecError, match="no part 'test'"):
        data.load(DatasetSpec(name="flat", part="test"))
    with pytest.raises(SpecError, match="no classes"):
        data.load(DatasetSpec(name="flat", classes=("cat",)))


def test_a_class_may_be_called_train(tmp_path):
    got = data.import_images("vehicles", write_folder(tmp_path / "a", {"train/1.png": 1, "bus/1.png": 2}))
    assert got.classes == ("bus", "train")


def test_mnist10k_under_its_registry_name(shared_data):
    mnist = data.import_images("mnist", shared_data / "mnist10k.zip")
    assert mnist.images.shape == (10000, 1, 28, 28) and mnist.classes == tuple("0123456789")
    assert mnist.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    with zipfile.ZipFile(shared_data / "mnist10k.zip") as archive:
        for row in (0, 4321, 9999):
            image = np.asarray(Image.open(io.BytesIO(archive.read(mnist.index[row]))))
            assert np.array_equal(mnist.images[row, 0].numpy(), image)
            assert mnist.index[row].split("/")[0] == str(int(mnist.labels[row]))
    assert data.load(DatasetSpec(name="mnist")).fingerprint == mnist.fingerprint


def test_cifar10_subset_under_its_registry_name(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "cifar10.zip") as archive:
        chosen = [name for name in archive.namelist() if re.search(r"/00[01]\d\.jpg$", name)]
        small = write_zip(tmp_path / "small.zip", {name: archive.read(name) for name in chosen})
        cifar = data.import_images("cifar10", small)
        assert cifar.images.shape == (400, 3, 32, 32) and cifar.classes[:2] == ("airplane", "automobile")
        assert cifar.labels.bincount().tolist() == [40] * 10
        for row in (0, 150, 399):
            image = np.asarray(Image.open(io.BytesIO(archive.read(cifar.index[row]))))
            assert np.array_equal(cifar.images[row].permute(1, 2, 0).numpy(), image)
    assert len(data.load(DatasetSpec(name="cifar10", part="test"))) == 200


@pytest.mark.slow
def test_cifar10_whole(shared_data):
    cifar = data.import_images("cifar10", shared_data / "cifar10.zip")
    assert cifar.images.shape == (60000, 3, 32, 32) and cifar.labels.bincount().tolist() == [6000] * 10
    assert cifar.index[0] == "train/airplane/0000.jpg" and cifar.index[50000] == "test/airplane/0000.jpg"


def test_registry_name_wants_the_registry_shape_and_classes(tmp_path):
    with pytest.raises(SpecError, match="1x28x28.*1x6x6.*choose another name"):
        data.import_images("mnist", write_folder(tmp_path / "a", {"3/1.png": 1, "4/1.png": 2}))
    with pytest.raises(SpecError, match="without a class 'cat'"):
        data.import_images("mnist", write_folder(tmp_path / "c", TWO), size=28)
    wear = {"8/1.png": encoded(picture(0, (28, 28))), "Trouser/2.png": encoded(picture(1, (28, 28)))}
    got = data.import_images("fashion_mnist", write_folder(tmp_path / "b", wear))
    assert got.labels.tolist() == [8, 1] and got.classes[8] == "Bag"


def test_skipped_files_are_counted(tmp_path):
    outside = write_folder(tmp_path / "outside", {"secret.png": 9})
    root = write_folder(
        tmp_path / "x",
        {**TWO, "notes.txt": b"hello", "cat/list.csv": b"", ".DS_Store": b"", "cat/._1.png": b"", "Thumbs.db": b""},
    )
    write_folder(root, {"__MACOSX/cat/1.png": b"no image", ".git/x.png": b"no image"})
    (root / "cat" / "link.png").symlink_to(outside / "secret.png")
    (root / "bird").symlink_to(outside)
    (root / "dog" / "inside.png").symlink_to(root / "cat" / "1.png")
    got = data.import_images("pets", root)
    assert got.index.tolist() == ["cat/1.png", "dog/1.png", "dog/inside.png"]
    assert got.notes == ("3 files that are not images skipped", "2 links out of the folder or to folders skipped")


def test_links_in_a_zip_are_skipped(tmp_path):
    path = write_zip(tmp_path / "x.zip", TWO)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert len(data.import_images("pets", path)) == 2


def test_grey_colour_palette_and_alpha(tmp_path):
    grey, colour = picture(1), picture(2, mode="RGB")
    opaque, clear = colour.convert("RGBA"), colour.convert("RGBA")
    clear.putpixel((0, 0), (10, 20, 30, 0))
    files = {"a.png": colour, "b.png": opaque, "c.png": colour.quantize(256), "d.png": colour.convert("CMYK")}
    kinds = {"d.png": "TIFF"}
    root = write_folder(tmp_path / "rgb", {name: encoded(one, kinds.get(name, "PNG")) for name, one in files.items()})
    got = data.import_images("rgb", root)
    assert got.images.shape == (4, 3, 6, 6)
    for row in range(3):
        assert np.array_equal(got.images[row].permute(1, 2, 0).numpy(), np.asarray(colour))
    write_folder(root, {"e.png": encoded(grey)})
    with pytest.raises(DataError, match="a.png is colour and e.png is grey; .*--channels"):
        data.import_images("rgb", root, replace=True)
    assert np.array_equal(
        data.import_images("rgb", root, channels="rgb", replace=True).images[4, 2].numpy(), np.asarray(grey)
    )
    as_grey = data.import_images("rgb", root, channels="grey", replace=True)
    assert as_grey.images.shape == (5, 1, 6, 6)
    assert np.array_equal(as_grey.images[0, 0].numpy(), np.asarray(colour.convert("L")))
    write_folder(root, {"e.png": encoded(clear)})
    with pytest.raises(DataError, match="e.png is partly transparent.*background"):
        data.import_images("rgb", root, replace=True)
    on_white = data.import_images("rgb", root, background="white", replace=True)
    assert on_white.images[4, :, 0, 0].tolist() == [255] * 3 and torch.equal(
        on_white.images[4, :, 1:], got.images[0, :, 1:]
    )
    alone = write_folder(tmp_path / "la", {"1.png": encoded(grey.convert("LA")), "2.png": encoded(grey)})
    assert data.import_images("la", alone).images.shape == (2, 1, 6, 6)


def test_rotated_and_animated_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to see it upright
    turned = encoded(picture(1, (4, 8)), exif=exif)
    frames = [picture(seed, (8, 4)) for seed in (2, 3)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    stereo = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])  # what some phones write as .jpg
    root = write_folder(tmp_path / "x", {"1.png": turned, "2.gif": moving, "3.jpg": stereo})
    got = data.import_images("odd", root, channels="grey")  # a GIF has a palette, which may hold any colour
    assert got.images.shape == (3, 1, 4, 8)
    assert np.array_equal(got.images[0, 0].numpy(), np.rot90(pixels(1, 8, 4), -1))
    assert np.array_equal(got.images[1, 0].numpy(), pixels(2, 4, 8))
    assert any("2 animated" in note for note in got.notes) and any("1 images turned" in note for note in got.notes)


def test_size_takes_the_centred_square_antialiased(tmp_path):
    noise = picture(1, (40, 20))
    checker = Image.fromarray((np.indices((40, 40)).sum(0) % 2 * 255).astype(np.uint8))
    root = write_folder(tmp_path / "x", {"1.png": encoded(noise), "2.png": encoded(checker)})
    with pytest.raises(DataError, match="1.png is 40x20 pixels and 2.png is 40x40; .*--size"):
        data.import_images("x", root)
    got = data.import_images("x", root, size=10)
    shorter_side = np.asarray(noise.resize((20, 10), Image.Resampling.BILINEAR))
    assert got.images.shape == (2, 1, 10, 10) and np.array_equal(got.images[0, 0].numpy(), shorter_side[:, 5:15])
    assert (got.images[1].float() - 127.5).abs().max() < 6  # nearest neighbours would be 0 or 255
    for bad in (0, 5000):
        with pytest.raises(SpecError, match="size"):
            data.import_images("x", root, size=bad)


def test_large_jpegs_are_decoded_at_a_part_of_their_size(tmp_path):
    """Three times the wanted size or more is kept, so that the result hardly differs; smaller ones do not change."""
    smooth = picture(1, (20, 20), "RGB").resize((960, 720), Image.Resampling.BICUBIC)
    root = write_folder(tmp_path / "x", {"1.jpg": encoded(smooth, "JPEG", quality=95)})
    with Image.open(root / "1.jpg") as image:
        full = np.asarray(square(image, 121)).transpose(2, 0, 1)
        for size, differs in ((121, False), (120, True), (60, True)):
            got = data.import_images("x", root, size=size, replace=True).images[0].numpy()
            whole = np.asarray(square(image, size)).transpose(2, 0, 1)
            assert np.array_equal(got, whole) != differs
            assert np.abs(got.astype(int) - whole).max() <= 4 and np.ptp(full) > 200


# ------------------------------------------------------------------------------------------------- a list of images


@pytest.fixture
def many(tmp_path):
    """Two parts, classes of which one begins like another, names whose natural order is not the alphabetical one."""
    names = [f"{folder}/img{n}.png" for folder in ("ab", "a", "a-b", "a/deep") for n in (1, 2, 10, 9)]
    files = {
        f"{part}/{name}": 20 * rank + n for rank, part in enumerate(("train", "val")) for n, name in enumerate(names)
    }
    return write_folder(tmp_path / "many", files)


def listed(path, *lines):
    path.write_text("\n".join(map(str, lines)), encoding="utf-8")
    return path


def test_a_list_of_paths_and_numbers_chooses_images(tmp_path, many):
    from torchvision.datasets import ImageFolder

    whole = data.import_images("whole", many)
    paths = ["val/a-b/img9.png", "train/a/deep/img2.png", "train/ab/img10.png"]
    some = data.import_images("some", many, listed=listed(tmp_path / "a.txt", "", *paths, ""))
    rows = [row for row, path in enumerate(whole.index) if path in paths]
    assert some.index.tolist() == whole.index[rows].tolist() and torch.equal(some.images, whole.images[rows])
    assert torch.equal(some.ids, whole.ids[rows]) and some.classes == ("a", "a-b", "ab")
    assert len(data.load(DatasetSpec(name="some", part="train"))) == 2
    # other spellings of the same list: no second import
    other = [f"./{paths[1]}", paths[0].replace("/", "\\"), f"  {paths[2]}  "]
    assert data.import_images("some", many, listed=listed(tmp_path / "b.txt", *other)).fingerprint == some.fingerprint
    theirs = [Path(path).relative_to(many).as_posix() for path, _ in ImageFolder(str(many / "train")).samples]
    theirs += [Path(path).relative_to(many).as_posix() for path, _ in ImageFolder(str(many / "val")).samples]
    assert sorted(theirs) == sorted(whole.index) and theirs != whole.index.tolist()
    for number in range(0, len(theirs), 5):
        file = listed(tmp_path / "c.txt", number)
        assert data.import_images("one", many, listed=file, replace=True).index.tolist() == [theirs[number]]
    mixed = data.import_images("mixed", many, listed=listed(tmp_path / "d.txt", 0, paths[0]))
    assert set(mixed.index) == {theirs[0], paths[0]}
    sidecar = json.loads(paths_of("mixed").read_text())
    assert sidecar["import"].endswith("many --list d.txt`") and sidecar["options"]["list"] == "d.txt"


def paths_of(name):
    return paths.data_dir() / f"{name}.json"


def test_a_list_of_a_wrapped_folder(tmp_path):
    path = write_zip(tmp_path / "x.zip", {f"top/{name}": seed for name, seed in TWO.items()})
    for n, line in enumerate(("cat/1.png", "top/cat/1.png", "0")):
        got = data.import_images(f"x{n}", path, listed=listed(tmp_path / "list.txt", line))
        assert got.index.tolist() == ["cat/1.png"] and got.classes == ("cat",)


@pytest.mark.parametrize(
    "lines, message",
    [
        (["cat/1.png", "cat/2.png", "dog/2.png"], "names cat/2.png, which is none of the 2 images; .* cat/1.png"),
        (["1", "2"], "names 2, which is none of the 2 images; .*numbers from 0 to 1"),
        (["-1"], "names -1, which is none"),
        (["cat/1.png", "0"], "names cat/1.png more than once .at 0."),
        (["cat/1.png", "./cat/1.png"], "names cat/1.png more than once"),
        (["", " "], "is empty"),
    ],
)
def test_wrong_lists(tmp_path, lines, message):
    root = write_folder(tmp_path / "x", TWO)
    with pytest.raises(DataError, match=message):
        data.import_images("x", root, listed=listed(tmp_path / "list.txt", *lines))
    assert in_cache() == [] if paths.data_dir().exists() else True
    with pytest.raises(DataError, match="list .*absent.txt cannot be read"):
        data.import_images("x", root, listed=tmp_path / "absent.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="list.txt cannot be read"):
        data.import_images("x", root, listed=tmp_path / "list.txt")


def test_natural_order_is_that_of_the_pieces():
    def pieces(text):
        return [int(piece) if piece.isdigit() else piece for piece in re.split(r"([0-9]+)", text)]

    draw = np.random.default_rng(0)
    names = ["".join(draw.choice(list("ab/-é01239."), size=draw.integers(0, 9))) for _ in range(3000)]
    for one, other in zip(names, names[1:], strict=False):
        assert (natural(one) < natural(other)) == (pieces(one) < pieces(other)), (one, other)
        assert (natural(one) == natural(other)) == (pieces(one) == pieces(other)), (one, other)


# ------------------------------------------------------------------------------- a name that is taken, and progress


def test_the_same_images_again_are_no_new_import(tmp_path, earlier, capsys):
    before = json.loads(paths_of("pets").read_text())
    again = data.import_images("pets", tmp_path / "earlier")
    assert "pets holds these 5 images already" in capsys.readouterr().err
    assert json.loads(paths_of("pets").read_text()) == before and len(again) == 5
    data.import_images("pets", write_zip(tmp_path / "x.zip", PARTS))  # the same images from elsewhere
    earlier()


@pytest.mark.parametrize(
    "files, options, message",
    [
        (TWO, {}, "it has 5 images, not 2"),
        (PARTS | {"test/dog/y.png": 6}, {}, "it has another image as test/dog/y.png"),
        (PARTS, {"size": 8}, "it has images of 1x6x6, not 1x8x8"),
        (PARTS, {"channels": "rgb"}, "it has images of 1x6x6, not 3x6x6"),
        (
            {path.replace("dog/a", "cow/a"): seed for path, seed in PARTS.items()},
            {},
            "it has train/dog/a.png where these have train/cow/a.png",
        ),
    ],
)
def test_other_images_need_leave_to_replace(tmp_path, earlier, files, options, message):
    root = write_folder(tmp_path / "x", files)
    with pytest.raises(DataError, match=rf"another dataset pets already \({message}\); .*another name.*--replace"):
        data.import_images("pets", root, **options)
    earlier()
    got = data.import_images("pets", root, **options, replace=True)
    assert data.load(DatasetSpec(name="pets")).fingerprint == got.fingerprint
    assert len(in_cache()) == 2


def test_a_cached_official_dataset_is_not_replaced_silently(tmp_path):
    data.load()
    with pytest.raises(DataError, match="another dataset digits already .it has 1,797 images, not 1"):
        data.import_images("digits", write_folder(tmp_path / "x", {"3/1.png": encoded(picture(0, (8, 8)))}))


def test_a_dataset_that_cannot_be_read_is_not_replaced(tmp_path, earlier, monkeypatch):
    def forbidden(name):
        raise cache._unreadable(PermissionError(13, "Permission denied", "pets.json"))

    with monkeypatch.context() as patch:
        patch.setattr(cache, "describe", forbidden)
        with pytest.raises(DataError, match="pets.json cannot be read"):
            data.import_images("pets", write_folder(tmp_path / "x", TWO))
    earlier()


def test_progress_is_told_line_by_line(tmp_path, monkeypatch, capsys):
    root = write_folder(tmp_path / "x", {f"{n}.png": n for n in range(40)})
    monkeypatch.setattr(decoding, "_BATCH_BYTES", 10 * 36)
    data.import_images("a", root)
    assert capsys.readouterr().err == ""  # too quick to tell
    monkeypatch.setattr(importing, "PROGRESS_SECONDS", 0)
    data.import_images("b", root)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and re.fullmatch(r"import b: 10 of 40 images, \d+ a second, [\d.]+ min left", lines[0])


# ------------------------------------------------------------------------------ wrong input: one sentence, nothing lost

GOOD = encoded(picture(1))
JPEG = encoded(picture(1, (64, 64)), "JPEG")
WIDE = encoded(Image.fromarray(pixels(0, 6, 6).astype(np.uint16) * 257))


def wide_colour():
    """An RGB PNG of 16 bits per channel, which Pillow cannot write."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + pixels(row, 36).tobytes() for row in range(6))
    head = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


WRONG = {
    "climbs out": ({"../evil.png": 1}, "'../evil.png', which lies outside"),
    "climbs out inside": ({"cat/../../evil.png": 1}, "which lies outside"),
    "climbs out, Windows": ({"..\\evil.png": 1}, "which lies outside"),
    "absolute": ({"/etc/evil.png": 1}, "'/etc/evil.png', which lies outside"),
    "drive": ({"C:\\evil.png": 1}, "which lies outside"),
    "no image": ({"cat/1.png": 1, "dog/x.png": b"not an image"}, "dog/x.png cannot be decoded"),
    "empty file": ({"cat/1.png": 1, "dog/x.png": b""}, "dog/x.png cannot be decoded"),
    "half a PNG": ({"cat/1.png": 1, "dog/x.png": GOOD[:60]}, "dog/x.png cannot be decoded"),
    "half a JPEG": ({"cat/x.jpg": JPEG[: len(JPEG) // 2]}, "cat/x.jpg cannot be decoded"),
    "two sizes": ({**TWO, "dog/x.png": encoded(picture(3, (7, 5)))}, "cat/1.png is 6x6 .*dog/x.png is 7x5; .*--size"),
    "grey and colour": (
        {**TWO, "dog/x.png": encoded(picture(3, mode="RGB"))},
        "cat/1.png is grey and dog/x.png is colour; .*--channels",
    ),
    "16 bits": ({"cat/x.png": WIDE}, "cat/x.png has more than 8 bits"),
    "16 bits, colour": ({"cat/x.png": wide_colour()}, "cat/x.png has more than 8 bits"),
    "nothing": ({}, "There are no images"),
    "only text": ({"a.txt": b"hello", "b.csv": b""}, "no images in .*skipped: 2"),
    "in and out of classes": ({**TWO, "logo.png": 1}, "inside and outside of class folders .*logo.png"),
    "parts and others": ({"train/cat/1.png": 1, "extra/cat/1.png": 2}, "'extra' beside the folder 'train'"),
}


@pytest.fixture
def earlier(tmp_path):
    """A dataset `pets` that must survive whatever happens."""
    before = data.import_images("pets", write_folder(tmp_path / "earlier", PARTS))
    files = in_cache()

    def intact():
        cache._verified.clear()
        assert data.load(DatasetSpec(name="pets")).fingerprint == before.fingerprint and in_cache() == files

    return intact


@pytest.mark.parametrize("case", WRONG)
def test_wrong_zip(case, tmp_path, earlier):
    files, message = WRONG[case]
    with pytest.raises(DataError, match=message) as error:
        data.import_images("pets", write_zip(tmp_path / "x.zip", files), replace=True)
    assert "\n" not in str(error.value)
    earlier()


@pytest.mark.parametrize(
    "case", [case for case, (files, _) in WRONG.items() if not re.match("climbs|absolute|drive", case)]
)
def test_wrong_folder(case, tmp_path, earlier):
    files, message = WRONG[case]
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match=message):
        data.import_images("pets", write_folder(tmp_path / "x", files), replace=True)
    earlier()


def test_damaged_zips(tmp_path, earlier):
    whole = write_zip(tmp_path / "whole.zip", {f"cat/{n}.png": n for n in range(20)}).read_bytes()
    cases = {"half": (whole[: len(whole) // 2], "not a complete zip"), "text": (b"hello", "not a complete zip")}
    at = whole.index(b"IDAT") + 8
    cases["flipped"] = (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "cat/0.png .*cannot be read")
    at = whole.index(b"PK\x01\x02") + 8
    cases["password"] = (whole[:at] + b"\x01" + whole[at + 1 :], "cat/0.png .*cannot be read")
    for name, (content, message) in cases.items():
        (tmp_path / f"{name}.zip").write_bytes(content)
        with pytest.raises(DataError, match=message):
            data.import_images("pets", tmp_path / f"{name}.zip", replace=True)
        earlier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
            archive.writestr("1.png", GOOD)
            archive.writestr("1.png", GOOD)
    with pytest.raises(DataError, match="1.png more than once"):
        data.import_images("pets", tmp_path / "twice.zip")
    with pytest.raises(DataError, match="no folder or zip"):
        data.import_images("pets", tmp_path / "absent")
    earlier()


def test_wrong_arguments(tmp_path):
    root = write_folder(tmp_path / "x", TWO)
    for name in ("", "../x", "A b", "x/y", "Cifar", "x.json"):
        with pytest.raises(SpecError, match="dataset name"):
            data.import_images(name, root)
    with pytest.raises(SpecError, match="channels must be grey or rgb"):
        data.import_images("x", root, channels="colour")
    with pytest.raises(SpecError, match="background must be white or black"):
        data.import_images("x", root, background="pink")
    assert not paths.data_dir().exists()


def test_file_name_that_is_not_text(tmp_path, earlier):
    root = write_folder(tmp_path / "x", TWO)
    try:
        (root / os.fsdecode(b"cat/\xff.png")).write_bytes(GOOD)
    except OSError:
        pytest.skip("this file system takes only valid text as names")
    with pytest.raises(DataError, match="not valid text"):
        data.import_images("pets", root)
    earlier()


def test_no_space_left_is_seen_before_writing(tmp_path, earlier, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 100))
    with pytest.raises(DataError, match="No space left in .*are needed and"):
        data.import_images("pets", write_folder(tmp_path / "x", TWO), replace=True)
    earlier()


IMPORT = (
    "import sys; from sslmem_utils.data import importing; importing.import_images('pets', sys.argv[1], replace=True)"
)


def test_no_space_left_while_writing(tmp_path, earlier):
    pytest.importorskip("resource")
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); {IMPORT}"
    many = write_zip(tmp_path / "x.zip", {f"cat/{n}.png": GOOD for n in range(3000)})
    done = run_python(limited, many)
    assert done.returncode == 1 and "DataError: No space left" in done.stderr
    earlier()


def test_data_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSLMEM_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match="cannot be written to .*SSLMEM_DATA"):
        data.import_images("pets", write_folder(tmp_path / "x", TWO))
    with pytest.raises(DataError, match="cannot be written to .*SSLMEM_DATA"):
        data.load()


def test_killed_import_leaves_the_earlier_one_and_the_next_cleans_up(tmp_path, earlier):
    many = write_zip(tmp_path / "x.zip", {f"cat/{n}.png": GOOD for n in range(20000)})
    complete = in_cache()
    process = subprocess.Popen([sys.executable, "-c", IMPORT, many], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 50_000 for path in paths.data_dir().glob("pets.*/images.npy")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(in_cache()) == len(complete) + 1
    cache._verified.clear()
    assert len(data.load(DatasetSpec(name="pets"))) == len(PARTS)
    assert len(data.import_images("pets", write_folder(tmp_path / "y", TWO), replace=True)) == 2
    assert len(in_cache()) == 2 and len(data.load(DatasetSpec(name="pets"))) == 2


def test_open_images_outlive_their_replacement(tmp_path):
    before = data.import_images("pets", write_folder(tmp_path / "a", PARTS))
    kept = before.images.clone()
    data.import_images("pets", write_folder(tmp_path / "b", TWO), replace=True)
    assert torch.equal(before.images, kept)


def flip(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def test_large_files_are_read_in_full_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LARGE", 300)  # bytes: images.npy and index.json are larger, labels.npy is not
    read = []
    monkeypatch.setattr(cache, "_checksum", lambda file, of=cache._checksum: (read.append(file.name), of(file))[1])

    def files_read():
        read.clear()
        cache._verified.clear()  # as in a new process
        data.load(DatasetSpec(name="pets"))
        return read

    data.import_images("pets", write_folder(tmp_path / "x", {f"c{n}/{n:05}.png": n for n in range(20)}))
    file = next(paths.data_dir().glob("pets.*/images.npy"))
    assert files_read() == ["labels.npy"]
    os.utime(file, (1, 1))  # a copy of the folder
    assert files_read() == ["images.npy", "labels.npy"] and files_read() == ["labels.npy"]
    file.with_name("checked.json").write_text("{")
    assert files_read() == ["images.npy", "index.json", "labels.npy"] and files_read() == ["labels.npy"]
    flip(file)
    cache._verified.clear()
    with pytest.raises(DataError, match="images.npy has a wrong checksum"):
        data.load(DatasetSpec(name="pets"))


def test_a_file_beyond_all_memory_is_mapped_for_reading(monkeypatch):
    expected = data.load().images.clone()
    of, modes = np.load, []

    def full(file, mmap_mode=None, **options):
        modes.append(mmap_mode)
        if mmap_mode == "c":
            raise OSError(12, "Cannot allocate memory")
        return of(file, mmap_mode=mmap_mode, **options)

    monkeypatch.setattr(np, "load", full)
    digits = data.load()
    assert (
        modes[:2] == ["c", "r"]
        and torch.equal(digits.images, expected)
        and torch.equal(digits.rows([3])[0], expected[3])
    )


LIMITED = """
import resource, sys, torch
from sslmem_utils import data
from sslmem_utils.specs import DatasetSpec

data.load()
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + 40_000_000, held + 40_000_000))
for spec in (DatasetSpec(name="big"), DatasetSpec(name="big", part="train"), DatasetSpec(name="big", classes=("b",)),
             DatasetSpec(name="big", limit=500)):
    images = data.load(spec)
    some = images.take(torch.randperm(len(images))[:450])
    for set in (images, some):
        total = 0
        for rows in torch.randperm(len(set)).split(50):
            batch = set.rows(rows)
            assert (batch[:, 0, 0, 0] == set.places[rows] % 251).all() and batch.shape[1:] == set.shape
            total += len(batch)
        assert total == len(set)
try:
    some.images
except Exception as error:
    print("refused", type(error).__name__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of Linux")
def test_choosing_and_reading_images_takes_no_memory(monkeypatch):
    """100 MB of images in a process that may allocate 40 MB, in batches of 5 MB."""
    monkeypatch.setattr(cache, "LARGE", 10**6)
    n, shape = 1000, (3, 184, 184)

    def batches():
        for start in range(0, n, 100):
            values = (np.arange(start, start + 100) % 251).astype(np.uint8)
            yield np.broadcast_to(values[:, None, None, None], (100, *shape))

    labels = np.arange(n) % 2
    rest = {"title": "", "classes": ["a", "b"], "parts": {"train": [0, 700], "test": [700, 1000]}, "index": "path"}
    rest |= {"source": "", "licence": "", "import": "import it again", "notes": []}
    data.load()
    cache.write("big", shape, labels, [f"{row}.png" for row in range(n)], batches(), lambda: rest)
    done = run_python(LIMITED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused"), "the limit is real: all images at once do not fit"


DAMAGE = {
    "pixel": ("images.npy", flip, "images.npy has a wrong checksum"),
    "label": ("labels.npy", flip, "labels.npy has a wrong checksum"),
    "index": ("index.json", flip, "index.json has a wrong checksum"),
    "header": ("images.npy", lambda file: file.write_bytes(b"X" + file.read_bytes()[1:]), "no valid header"),
    "shape": (
        "images.npy",
        lambda file: file.write_bytes(file.read_bytes().replace(b"(5, 1, 6, 6)", b"(5, 6, 1, 6)")),
        "images.npy holds",
    ),
    "cut": ("images.npy", lambda file: os.truncate(file, 100), "images.npy has 100 bytes"),
    "gone": ("labels.npy", lambda file: file.unlink(), "incomplete"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_cache_is_detected_and_mended_by_importing(case, tmp_path):
    root = write_folder(tmp_path / "source", PARTS)
    first = data.import_images("pets", root, size=6)
    file, damage, message = DAMAGE[case]
    damage(next(paths.data_dir().glob(f"pets.*/{file}")))
    cache._verified.clear()
    with pytest.raises(DataError, match=f"{message}.*import it again with `sslmem data import pets source --size 6`"):
        data.load(DatasetSpec(name="pets"))
    assert data.import_images("pets", root, size=6).fingerprint == first.fingerprint


def test_damaged_sidecar(tmp_path):
    root = write_folder(tmp_path / "source", TWO)
    data.import_images("pets", root)
    file = paths.data_dir() / "pets.json"
    good = file.read_text()
    for content in (good[:100], "[]", good.replace('"fingerprint": "', '"fingerprint": "0'), good.replace("6", "7", 1)):
        file.write_text(content)
        with pytest.raises(DataError, match=r"pets.json is damaged .*import or load pets again"):
            data.load(DatasetSpec(name="pets"))
        assert len(list(paths.data_dir().glob("pets.*/"))) >= 1
    data.import_images("pets", root)
    assert len(data.load(DatasetSpec(name="pets"))) == 2 and len(in_cache()) == 2
    sidecar = json.loads(file.read_text())
    assert "source" == sidecar["source"] and str(tmp_path) not in file.read_text()  # base name only


# ------------------------------------------------------------------------------------------------------------ selection


def test_classes_by_name_and_in_the_order_of_the_dataset():
    digits, some = data.load(), data.load(DatasetSpec(classes=("6", "3")))
    rows = torch.isin(digits.labels, torch.tensor([3, 6]))
    assert some.classes == ("3", "6") and torch.equal(some.images, digits.images[rows])
    assert torch.equal(torch.tensor([3, 6])[some.labels], digits.labels[rows])
    assert torch.equal(some.ids, digits.ids[rows])
    assert some.fingerprint == data.load(DatasetSpec(classes=("3", "6"))).fingerprint != digits.fingerprint
    with pytest.raises(SpecError, match="no class 'ten'; it has 0, 1, 2"):
        data.load(DatasetSpec(classes=("3", "ten")))
    with pytest.raises(SpecError, match="no part 'train'"):
        data.load(DatasetSpec(part="train"))


def test_limit_is_balanced_nested_and_always_the_same():
    sets = {limit: data.load(DatasetSpec(limit=limit)) for limit in (10, 25, 200, 1796)}
    for limit, some in sets.items():
        counts = some.labels.bincount(minlength=10)
        assert len(some) == limit and (limit == 1796 or counts.max() - counts.min() <= 1)
        assert some.ids.tolist() == sorted(some.ids.tolist())
    assert set(sets[10].ids.tolist()) < set(sets[25].ids.tolist()) < set(sets[200].ids.tolist())
    assert sets[10].ids.tolist() == GOLDEN  # on every machine
    assert data.load(DatasetSpec(limit=5000)).fingerprint == data.load().fingerprint
    three = data.load(DatasetSpec(classes=("3",), limit=20)).ids.tolist()
    assert three == sets[200].ids[sets[200].labels == 3].tolist()  # the other classes do not matter
    assert len({one.fingerprint for one in sets.values()}) == 4


GOLDEN = [558, 656, 710, 963, 992, 1048, 1210, 1223, 1486, 1565]


def test_limit_takes_more_of_others_when_a_class_runs_out(tmp_path):
    files = {f"a/{n}.png": n for n in range(3)} | {f"b/{n}.png": n for n in range(20)}
    data.import_images("few", write_folder(tmp_path / "x", files))
    assert data.load(DatasetSpec(name="few", limit=12)).labels.bincount().tolist() == [3, 9]


def test_size_resizes_as_the_import_does(tmp_path):
    wide = {f"{n}.png": encoded(picture(n, (20, 14), "RGB")) for n in range(3)}
    root = write_folder(tmp_path / "x", wide)
    imported = data.import_images("small", root, size=8)
    data.import_images("big", root)
    loaded = data.load(DatasetSpec(name="big", size=8))
    assert torch.equal(imported.images, loaded.images)
    digits = data.load(DatasetSpec(size=16, limit=30))
    assert digits.images.shape == (30, 1, 16, 16) and digits.fingerprint != data.load(DatasetSpec(limit=30)).fingerprint
    assert data.load(DatasetSpec(size=8)).fingerprint == data.load().fingerprint
    again = data.load(DatasetSpec(size=16, limit=30))
    assert again.images.data_ptr() == digits.images.data_ptr()  # resized once, however often it is loaded
    assert not torch.equal(data.load(DatasetSpec(size=16, classes=("3",))).images[:30], digits.images)


def test_resizing_more_than_memory_is_refused(monkeypatch):
    monkeypatch.setattr(loading, "_LARGEST_RESIZED", 1797 * 256)
    assert data.load(DatasetSpec(size=16)).images.shape[2:] == (16, 16)
    with pytest.raises(SpecError, match=r"Resizing digits to 17 pixels .*--size 17 under another name"):
        data.load(DatasetSpec(size=17))
    assert len(data.load(DatasetSpec(size=17, limit=100))) == 100


def test_selections_share_the_pixels_of_the_dataset():
    digits = data.load()
    for spec in (DatasetSpec(limit=300), DatasetSpec(classes=("3", "5")), DatasetSpec(size=8, limit=11)):
        some = data.load(spec)
        assert some.pixels.shape == digits.pixels.shape and some.shape == (1, 8, 8)
        assert torch.equal(some.images, digits.images[some.places]) and len(some) == len(some.labels)
        rows = torch.tensor([5, 0, 5])
        for at in (rows, rows.numpy(), rows.tolist()):
            assert torch.equal(some.rows(at), some.images[rows])
        assert torch.equal(data.gather(some.pixels, some.places[rows]), some.images[rows])
        assert some.rows([]).shape == (0, 1, 8, 8) and len(some.take([])) == 0 and len(some.take([]).images) == 0
        again = some.take([7, 3, 1]).take([2, 0])
        assert torch.equal(again.images, some.images[[1, 7]]) and torch.equal(again.ids, some.ids[[1, 7]])
    some.rows([0]).zero_()
    assert torch.equal(digits.images, data.load().images)  # rows are copies


def test_take_keeps_identity(tmp_path):
    pets = data.import_images("pets", write_folder(tmp_path / "x", PARTS))
    rows = [4, 0, 2]
    some = pets.take(rows)
    assert len(some) == 3 and some.index.tolist() == [pets.index[row] for row in rows]
    assert torch.equal(some.images, pets.images[rows]) and torch.equal(some.ids, pets.ids[rows])
    assert torch.equal(some.labels, pets.labels[rows]) and some.classes == pets.classes
    assert some.fingerprint == pets.take(np.array(rows)).fingerprint == pets.take(torch.tensor(rows)).fingerprint
    assert len({some.fingerprint, pets.fingerprint, pets.take([0, 4, 2]).fingerprint}) == 3


def test_match_finds_the_official_rows_of_jpeg_copies(shared_data):
    with zipfile.ZipFile(shared_data / "mnist10k.zip") as archive:
        names = archive.namelist()[:300]
        official = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])[:, None]
    rows = np.random.default_rng(0).permutation(300)[:50]
    jpeg = [Image.open(io.BytesIO(encoded(Image.fromarray(official[row, 0]), "JPEG", quality=80))) for row in rows]
    copies = torch.from_numpy(np.stack([np.asarray(one) for one in jpeg])[:, None])
    found = data.match(copies, torch.from_numpy(official), chunk=64)
    assert found.rows.tolist() == rows.tolist() and (found.margin > found.distance).all() and found.distance.min() > 0
    same = data.match(torch.from_numpy(official[rows]), torch.from_numpy(official))
    assert same.rows.tolist() == rows.tolist() and same.distance.max() == 0
    true = np.sqrt(((copies[0].double().numpy() - official.astype(float)) ** 2).mean((1, 2, 3)))
    assert found.distance[0].item() == pytest.approx(np.sort(true)[0])
    assert found.margin[0].item() == pytest.approx(np.diff(np.sort(true)[:2]).item())
    with pytest.raises(DataError, match="agree in"):
        data.match(copies, torch.zeros(5, 1, 8, 8, dtype=torch.uint8))
