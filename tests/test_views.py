"""Views: equal to torchvision's operations and laws, and the same in any batch, order, subset and on any device."""

import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms as v1
import torchvision.transforms.v2.functional as tv
from scipy import ndimage, stats
from sklearn.datasets import load_digits

from sslmem_utils import views
from sslmem_utils.errors import SpecError
from sslmem_utils.specs import ViewSpec, seed_of

RRC = {"crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3)}
JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.4, "jitter": 0.8}
BLUR = {"blur": 0.6, "blur_sigma": (0.1, 5.0), "blur_kernel": 5}
EVERYTHING = ViewSpec(**RRC, **JITTER, **BLUR, flip=0.5, vertical_flip=0.3, grayscale=0.2, invert=0.2)
SHAPES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 28, 28), (3, 32, 32), (3, 20, 33)]
SEED = seed_of("tests/views")


def arange(n: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + n)


def images(n: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Half noise, where interpolation errors show most, and half handwritten digits in three colours; uint8."""
    noise = torch.randint(0, 256, (n // 2, *shape), generator=torch.Generator().manual_seed(0))
    digits = torch.from_numpy(load_digits().images[: n - n // 2] * (255 / 16))[:, None]
    digits = torch.nn.functional.interpolate(digits, size=shape[1:], mode="bilinear")
    tint = torch.tensor([1.0, 0.6, 0.3])[: shape[0], None, None]
    return torch.cat((noise, (digits * tint).round())).to(torch.uint8)


def by_torchvision(image: torch.Tensor, draw: views.Draw, i: int, j: int) -> torch.Tensor:
    """View j of image i, one torchvision operation after the other."""
    if draw.crop is not None:
        same = draw.side == draw.shape[1:]  # then crops never shrink, so that antialiasing changes nothing
        image = tv.resized_crop(image, *draw.crop[i, j].tolist(), size=list(draw.side), antialias=same)
    if draw.flip is not None and draw.flip[i, j]:
        image = tv.horizontal_flip(image)
    if draw.vertical_flip is not None and draw.vertical_flip[i, j]:
        image = tv.vertical_flip(image)
    order = [] if draw.order is None else draw.order[i, j].tolist()
    operations = [(tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)[o] for o in order]
    steps = [(apply, draw.factors[i, j, o].item()) for apply, o in zip(operations, order, strict=True)]
    if draw.hue is not None and draw.hue_at[i, j] <= len(order):
        steps.insert(draw.hue_at[i, j], (tv.adjust_hue, draw.hue[i, j].item()))
    for apply, value in steps:
        image = apply(image, value)
    if draw.grayscale is not None and draw.grayscale[i, j]:
        image = tv.rgb_to_grayscale(image, num_output_channels=3)
    if draw.sigma is not None and draw.sigma[i, j] > 0:
        image = tv.gaussian_blur(image, [draw.kernel] * 2, [draw.sigma[i, j].item()] * 2)
    return tv.invert(image) if draw.invert is not None and draw.invert[i, j] else image


def largest_difference(spec: ViewSpec, shape: tuple[int, int, int], n: int, k: int) -> float:
    pixels = images(n, shape)
    draw = views.draw(spec, arange(n), arange(k), SEED, shape)
    found = views.apply(pixels, draw)
    assert found.dtype == torch.float32 and found.shape == (n, k, *views.view_shape(spec, shape))
    assert found.is_contiguous()
    assert 0 <= found.min() and found.max() <= 1
    floats = pixels / 255
    return max(
        (found[i, j] - by_torchvision(floats[i], draw, i, j)).abs().max().item()
        for i, j in itertools.product(range(n), range(k))
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_all_operations_together_equal_torchvision(shape: tuple[int, int, int]) -> None:
    assert largest_difference(EVERYTHING, shape, n=20, k=10) < 1e-5


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 20, 33), (3, 48, 40)])
@pytest.mark.parametrize("size", [9, 16, 40])
def test_views_of_another_size_equal_torchvision(shape: tuple[int, int, int], size: int) -> None:
    assert largest_difference(EVERYTHING.but(size=size), shape, n=10, k=4) < 1e-5
    assert largest_difference(ViewSpec(**RRC, size=size), shape, n=10, k=4) < 1e-5
    assert largest_difference(ViewSpec(flip=0.5, **BLUR, size=size), shape, n=10, k=4) < 1e-5
    assert largest_difference(ViewSpec(size=size), shape, n=10, k=1) < 1e-5


@pytest.mark.parametrize("size", [96, 224])
def test_views_of_photographs_equal_torchvision(size: int) -> None:
    spec = ViewSpec(**RRC, flip=0.5, size=size)
    draw = views.draw(spec, arange(4), arange(3), SEED, (3, 256, 256))
    assert (draw.crop[..., 2:] > size).any() and (draw.crop[..., 2:] < size).any()
    assert largest_difference(spec, (3, 256, 256), n=4, k=3) < 3e-5  # float32 coordinates, on pixels of pure noise


def test_the_own_size_is_no_size() -> None:
    pixels = images(20, (3, 28, 28))
    for spec in (EVERYTHING, ViewSpec(flip=0.5), ViewSpec()):
        made = [views.views(pixels, arange(20), one, arange(3), SEED) for one in (spec, spec.but(size=28))]
        assert torch.equal(*made)
    assert views.view_shape(ViewSpec(size=12), (1, 28, 20)) == (1, 12, 12)
    assert views.view_shape(ViewSpec(), (1, 28, 20)) == (1, 28, 20)


@pytest.mark.parametrize(
    "values",
    [
        RRC,
        {"flip": 0.5, "vertical_flip": 0.5},
        {"brightness": 0.9, "jitter": 0.7},
        {"contrast": 0.9, "jitter": 0.7},
        {"saturation": 0.9, "jitter": 0.7},
        {"hue": 0.5, "jitter": 0.7},
        JITTER | {"hue": 0.0},
        {"grayscale": 0.5},
        BLUR | {"blur_kernel": 7},
        {"invert": 0.5},
    ],
    ids=lambda values: "-".join(values),
)
def test_each_operation_equals_torchvision(values: dict) -> None:
    spec = ViewSpec(**values)
    assert largest_difference(spec, (3, 9, 8), n=10, k=4) < 3e-6
    assert largest_difference(spec, (1, 9, 8), n=10, k=4) < 3e-6


def test_hue_is_right_in_every_sector_and_on_grey_pixels() -> None:
    levels = torch.linspace(0, 1, 6)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 12, 18)
    spec = ViewSpec(hue=0.5, jitter=1.0)
    draw = views.draw(spec, arange(1), arange(40), SEED, (3, 12, 18))
    found = views.apply(colours[None], draw)
    for j in range(40):
        torch.testing.assert_close(found[0, j], tv.adjust_hue(colours, draw.hue[0, j].item()), atol=3e-6, rtol=0)
    grey = colours.mean(0).expand(1, 3, 12, 18)
    assert (views.apply(grey, draw) - grey).abs().max() < 1e-7


def test_uniform_is_splitmix64() -> None:
    word = 2**64 - 1

    def mixed(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    ids, numbers, slots = [0, 7, 2**62 - 1], [0, 1, 10**12], [0, 5, 1000]
    found = views.uniform(SEED, torch.tensor(ids), torch.tensor(numbers), slots)
    for i, j, s in itertools.product(range(3), repeat=3):
        stream = mixed((mixed((SEED + golden) & word) + ids[i] * golden + numbers[j] * 0xD1342543DE82EF95) & word)
        assert found[i, j, s] == (mixed((stream + (slots[s] + 1) * golden) & word) >> 40) / 2**24
    # splitmix64's published first value for the seed 1234567 (Rosetta Code), through the whole chain of this test
    assert mixed((1234567 + golden) & word) == 6457827717110365317


def test_draws_never_change() -> None:
    draw = views.draw(EVERYTHING, arange(2), arange(1), 1, (3, 32, 32))
    assert draw.crop.flatten(0, 1).tolist() == [[6, 6, 25, 19], [0, 1, 23, 28]]
    assert views.uniform(1, arange(1), arange(1), [0, 1])[0, 0].mul(2**24).tolist() == [7260255, 7140922]


def test_uniform_numbers_are_uniform_and_independent() -> None:
    n = 64
    u = views.uniform(0, arange(n), arange(n), range(n))
    assert 0 <= u.min() and u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01
    others = {
        "next id": (u[:-1], u[1:]),
        "next view": (u[:, :-1], u[:, 1:]),
        "next slot": (u[..., :-1], u[..., 1:]),
        "id for view": (u, u.transpose(0, 1)),
        "view for slot": (u, u.transpose(1, 2)),
        "next seed": (u, views.uniform(1, arange(n), arange(n), range(n))),
        "next seed, id before": (u[1:], views.uniform(1, arange(n), arange(n), range(n))[:-1]),
        "distant id": (u, views.uniform(0, arange(n, 2**40), arange(n), range(n))),
    }
    for name, (one, other) in others.items():
        cells = (one * 8).long() * 8 + (other * 8).long()
        cells = cells[one != other]  # the diagonal of a transposed table is the same number twice
        assert stats.chisquare(torch.bincount(cells.flatten(), minlength=64).numpy()).pvalue > 0.001, name
    bits = (u.flatten() * 2**24).long()[:, None] >> torch.arange(24) & 1
    assert (bits.double().mean(0) - 0.5).abs().max() < 5 * 0.5 / len(bits) ** 0.5


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (12, 20)])
def test_crops_follow_the_law_of_torchvision(size: tuple[int, int]) -> None:
    n = 3000
    spec = ViewSpec(crop_scale=(0.2, 1.0), crop_ratio=(0.6, 1.7))
    ours = views.draw(spec, arange(n), arange(1), SEED, (1, *size)).crop[:, 0].double().numpy()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pixels = torch.empty(1, *size)
        theirs = [v1.RandomResizedCrop.get_params(pixels, spec.crop_scale, spec.crop_ratio) for _ in range(n)]
    theirs = np.array(theirs, dtype=float)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01
    for of in (lambda box: box[:, 2] * box[:, 3], lambda box: box[:, 3] / box[:, 2], lambda box: box[:, 0] / box[:, 2]):
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 0.01
    assert (ours[:, 2:] >= 1).all() and (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= size).all()


@pytest.mark.parametrize("size", [(8, 40), (40, 8), (10, 10)])
def test_crops_that_never_fit_fall_back_to_the_centre(size: tuple[int, int]) -> None:
    spec = ViewSpec(crop_scale=(0.99, 1.0), crop_ratio=(1.9, 2.0) if size == (10, 10) else (0.9, 1.1))
    with torch.random.fork_rng():
        expected = v1.RandomResizedCrop.get_params(torch.empty(1, *size), spec.crop_scale, spec.crop_ratio)
    for n in (5, 1500):  # all tries at once, and one after the other
        crop = views.draw(spec, arange(n), arange(1), SEED, (1, *size)).crop
        assert (crop == torch.tensor(expected)).all()


def test_jitter_follows_the_law_of_torchvision() -> None:
    n, spec = 4000, ViewSpec(brightness=0.4, contrast=1.5, saturation=0.3, hue=0.1, jitter=1.0)
    draw = views.draw(spec, arange(n), arange(1), SEED, (3, 8, 8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ranges = [0.6, 1.4], [0.0, 2.5], [0.7, 1.3], [-0.1, 0.1]
        theirs = [v1.ColorJitter.get_params(*ranges)[1:] for _ in range(n)]
    ours = torch.cat((draw.factors[:, 0], draw.hue), 1).numpy()
    for column, values in enumerate(zip(*theirs, strict=True)):
        assert stats.ks_2samp(ours[:, column], values).pvalue > 0.01
    code = (draw.order[:, 0] * torch.tensor([9, 3, 1])).sum(1) * 4 + draw.hue_at[:, 0]
    counts = code.unique(return_counts=True)[1]
    assert len(counts) == 24 and stats.chisquare(counts.numpy()).pvalue > 0.01


def test_probabilities_are_kept() -> None:
    n = 4000
    draw = views.draw(EVERYTHING, arange(n), arange(1), SEED, (3, 8, 8))
    happened = {
        "flip": draw.flip,
        "vertical_flip": draw.vertical_flip,
        "grayscale": draw.grayscale,
        "invert": draw.invert,
        "blur": draw.sigma > 0,
        "jitter": draw.hue_at < 4,
    }
    for name, values in happened.items():
        assert stats.binomtest(int(values.sum()), n, getattr(EVERYTHING, name)).pvalue > 0.01, name
    assert ((draw.factors == 1).all(-1) == (draw.hue == 0)).all()
    sigma = draw.sigma[draw.sigma > 0].numpy()
    assert stats.kstest(sigma, stats.uniform(0.1, 4.9).cdf).pvalue > 0.01


WHOLE = EVERYTHING.but(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))


@pytest.mark.parametrize("spec", [EVERYTHING, WHOLE, EVERYTHING.but(size=19), WHOLE.but(size=11)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 9), (3, 32, 32)])
def test_views_are_bit_equal_in_any_batch_order_and_subset(
    shape: tuple[int, int, int], spec: ViewSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, k = 30, 4
    pixels, ids = images(n, shape), arange(n, 10**9)
    whole = views.views(pixels, ids, spec, arange(k), SEED)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    assert torch.equal(views.views(pixels[order], ids[order], spec, arange(k), SEED), whole[order])
    for b in (1, 7):
        parts = [views.views(pixels[i : i + b], ids[i : i + b], spec, arange(k), SEED) for i in range(0, n, b)]
        assert torch.equal(torch.cat(parts), whole)
    for j in range(k):
        assert torch.equal(views.views(pixels, ids, spec, torch.tensor([j]), SEED)[:, 0], whole[:, j])
    own = (arange(n)[:, None] + arange(2)) % k  # other views for other images
    assert torch.equal(views.views(pixels, ids, spec, own, SEED), whole[arange(n)[:, None], own])
    monkeypatch.setattr(views.operations, "BLOCK", 5 * k * pixels[0].numel())
    assert torch.equal(views.views(pixels, ids, spec, arange(k), SEED), whole)


def test_large_and_small_draws_are_the_same() -> None:
    n, k = 700, 2  # above 1,000 views, crops that do not fit are drawn again one by one
    numbers = torch.randint(0, 10**6, (n, k), generator=torch.Generator().manual_seed(0))
    whole = views.draw(EVERYTHING, arange(n), numbers, SEED, (3, 16, 24))
    for start in range(0, n, 100):
        part = views.draw(EVERYTHING, arange(100, start), numbers[start : start + 100], SEED, (3, 16, 24))
        for name in ("crop", "flip", "order", "factors", "hue_at", "hue", "grayscale", "sigma", "invert"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[start : start + 100]), name


@pytest.mark.parametrize("shape", SHAPES)
def test_the_way_of_gpus_and_compilers_gives_the_same_views(shape: tuple[int, int, int], monkeypatch) -> None:
    """Where rows cannot be counted, every operation runs on all samples; run here on the CPU."""
    for spec in (EVERYTHING, WHOLE, EVERYTHING.but(size=13)):
        draw = views.draw(spec, arange(20), arange(3), SEED, shape)
        pixels = images(20, shape)
        by_rows = views.apply(pixels, draw)
        with monkeypatch.context() as patch:
            patch.setattr(views.operations, "_counts_rows", lambda x: False)
            assert torch.equal(views.apply(pixels, draw), by_rows)


def test_an_operation_does_not_change_the_draws_of_others() -> None:
    alone = views.draw(ViewSpec(**RRC), arange(50), arange(2), SEED, (3, 16, 16))
    together = views.draw(EVERYTHING, arange(50), arange(2), SEED, (3, 16, 16))
    assert torch.equal(alone.crop, together.crop)
    grey = views.draw(EVERYTHING, arange(50), arange(2), SEED, (1, 16, 16))
    assert torch.equal(grey.factors[..., :2], together.factors[..., :2])
    for row, both in zip(grey.order.flatten(0, 1).tolist(), together.order.flatten(0, 1).tolist(), strict=True):
        assert row == [o for o in both if o != 2]


def test_views_differ_between_images_numbers_and_seeds() -> None:
    pixels = images(20, (1, 28, 28))[-1:].expand(6, -1, -1, -1)
    made = views.views(pixels, arange(6), EVERYTHING, arange(6), SEED).flatten(0, 1)
    made = torch.cat((made, views.views(pixels, arange(6), EVERYTHING, arange(6), SEED + 1).flatten(0, 1))).flatten(1)
    distance = torch.cdist(made, made) + torch.eye(len(made))
    assert distance.min() > 1e-3


@pytest.mark.parametrize("policy", ["none", "mae"])
@pytest.mark.parametrize("shape", SHAPES)
def test_policies_without_augmentation_return_the_image_exactly(policy: str, shape: tuple[int, int, int]) -> None:
    pixels = images(8, shape)
    made = views.views(pixels, arange(8), views.named(policy), arange(5), SEED)
    assert torch.equal(made, (pixels / 255)[:, None].expand(-1, 5, -1, -1, -1))
    floats = torch.rand(8, *shape, dtype=torch.float64)
    kept = floats.clone()
    assert torch.equal(views.views(floats, arange(8), views.named(policy), arange(5), SEED)[:, 3], floats.float())
    assert torch.equal(floats, kept)


def test_crops_of_the_whole_image_and_flips_are_exact() -> None:
    pixels = images(200, (3, 28, 28))
    spec = ViewSpec(crop_scale=(0.9, 1.0), crop_ratio=(1.0, 1.0), flip=0.5)
    draw = views.draw(spec, arange(200), arange(2), SEED, (3, 28, 28))
    full = (draw.crop == torch.tensor([0, 0, 28, 28])).all(-1)
    assert 50 < full.sum() < 350
    floats = (pixels / 255)[:, None].expand(-1, 2, -1, -1, -1)
    expected = torch.where(draw.flip[..., None, None, None], floats.flip(-1), floats)
    assert torch.equal(views.apply(pixels, draw)[full], expected[full])


def test_grey_images_ignore_saturation_hue_and_grayscale() -> None:
    pixels = images(10, (1, 8, 8))
    spec = ViewSpec(saturation=0.9, hue=0.5, jitter=1.0, grayscale=1.0)
    assert torch.equal(views.views(pixels, arange(10), spec, arange(1), SEED)[:, 0], pixels / 255)


def test_images_are_not_changed() -> None:
    pixels = images(10, (3, 8, 8)) / 255
    kept = pixels.clone()
    views.views(pixels, arange(10), WHOLE, arange(1), SEED)
    assert torch.equal(pixels, kept)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75])
def test_single_patches_are_hidden_uniformly(share: float) -> None:
    n, spec = 2000, ViewSpec(mask=share, mask_patch=4)
    hidden = views.mask(spec, arange(n), arange(2), SEED, (3, 24, 16))
    assert hidden.dtype == torch.bool and hidden.shape == (n, 2, 24)
    count = round(share * 24)
    if count:
        assert stats.chisquare(hidden.sum((0, 1)).numpy()).pvalue > 0.01
        # pairs of patches are hidden together as often as in a simple random sample
        pairs = torch.einsum("nkt,nku->tu", hidden.float(), hidden.float()) / (2 * n)
        together = pairs[~torch.eye(24, dtype=torch.bool)]
        assert (together - count * (count - 1) / (24 * 23)).abs().max() < 0.05


@pytest.mark.parametrize("kind", ["random", "block", "grid"])
@pytest.mark.parametrize("shape", [(1, 24, 16), (3, 8, 40), (3, 28, 28), (1, 4, 8)])
def test_masks_hide_the_exact_number_of_patches_in_any_batch(kind: str, shape: tuple[int, int, int]) -> None:
    t = shape[1] * shape[2] // 16
    for share in (0.0, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9):
        if round(share * t) == t:
            continue
        spec = ViewSpec(mask=share, mask_kind=kind)
        hidden = views.mask(spec, arange(60), arange(3), SEED, shape)
        assert hidden.dtype == torch.bool and hidden.shape == (60, 3, t)
        assert (hidden.sum(-1) == round(share * t)).all()
        assert torch.equal(views.mask(spec, arange(7, 20), torch.tensor([2]), SEED, shape)[:, 0], hidden[20:27, 2])
        if 0.1 < share < 0.9 and t > 2:
            assert not torch.equal(views.mask(spec, arange(60), arange(3), SEED + 1, shape), hidden)


def test_masks_never_change() -> None:
    drawn = {
        kind: views.mask(ViewSpec(mask=0.45, mask_kind=kind), arange(1), arange(1), 2, (1, 16, 20))[0, 0].nonzero()
        for kind in ("random", "block", "grid")
    }
    assert {kind: hidden.squeeze(1).tolist() for kind, hidden in drawn.items()} == MASKS


MASKS = {
    "random": [0, 1, 2, 4, 5, 6, 7, 9, 18],
    "block": [0, 1, 2, 3, 5, 6, 7, 8, 9],
    "grid": [2, 4, 6, 8, 10, 12, 14, 16, 18],
}


def test_masks_refer_to_the_patches_of_the_view() -> None:
    spec = ViewSpec(mask=0.75, mask_patch=16, size=224)
    assert views.mask(spec, arange(2), arange(1), SEED, (3, 250, 300)).shape == (2, 1, 196)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("side", [(14, 14), (7, 7), (6, 20)])
def test_blocks_are_connected_rectangles_anywhere(side: tuple[int, int], share: float) -> None:
    rows, columns = side
    spec = ViewSpec(mask=share, mask_kind="block", mask_patch=2)
    hidden = views.mask(spec, arange(1000), arange(1), SEED, (1, 2 * rows, 2 * columns)).view(1000, rows, columns)
    count, heights, lows = round(share * rows * columns), [], []
    for one in hidden.numpy():
        assert ndimage.label(one)[1] == 1
        down, along = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        tall, wide = np.ptp(down) + 1, np.ptp(along) + 1
        assert tall * wide - wide < count <= tall * wide  # a rectangle but for less than a row
        heights.append(tall)
        if tall < rows:
            lows.append(down[0] / (rows - tall))
    if share <= 0.5:
        assert len(set(heights)) > 1
        assert abs(np.mean(lows) - 0.5) < 0.05
    # no side and no corner is preferred
    cover = hidden.double().mean(0)
    for other in (cover.flip(0), cover.flip(1)):
        assert (cover - other).abs().max() < 0.08


def test_blocks_lie_at_every_place_alike() -> None:
    spec = ViewSpec(mask=0.25, mask_kind="block", mask_patch=1)
    hidden = views.mask(spec, arange(4000), arange(1), SEED, (1, 8, 8)).view(-1, 8, 8)
    corners = [(down.min(), along.min()) for down, along in (np.nonzero(one) for one in hidden.numpy())]
    squares = [at for at, one in zip(corners, hidden, strict=True) if one.any(0).sum() == one.any(1).sum() == 4]
    assert len(squares) > 500
    assert stats.chisquare(np.bincount([5 * down + along for down, along in squares], minlength=25)).pvalue > 0.01


def test_grids_are_regular() -> None:
    def lattice(share: float, side: int) -> torch.Tensor:
        spec = ViewSpec(mask=share, mask_kind="grid", mask_patch=1)
        return views.mask(spec, arange(400), arange(1), SEED, (1, side, side)).view(400, side, side)

    for side in (8, 14):  # one of every 2 x 2 stays, always in the same corner
        seen = ~lattice(0.75, side).unflatten(1, (-1, 2)).unflatten(3, (-1, 2))
        assert (seen == seen[:, :1, :, :1]).all()
        corner = seen[:, 0, :, 0].flatten(1)
        assert (corner.sum(1) == 1).all() and stats.chisquare(corner.sum(0).numpy()).pvalue > 0.01
        half = lattice(0.5, side)
        assert (half[:, 1:] != half[:, :-1]).all() and (half[..., 1:] != half[..., :-1]).all()
        few = lattice(0.25, side)
        assert not (few[:, 1:] & few[:, :-1]).any() and not (few[..., 1:] & few[..., :-1]).any()
    blocks = (~lattice(15 / 16, 8)).unflatten(1, (2, 4)).unflatten(3, (2, 4))
    assert (blocks == blocks[:, :1, :, :1]).all()
    # between two lattices: what is visible at .75 stays visible at .6
    for side in (7, 8, 14):
        assert not (lattice(0.6, side) & ~lattice(0.75, side)).any()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.75])
def test_grids_cover_all_places_alike(share: float) -> None:
    spec = ViewSpec(mask=share, mask_kind="grid", mask_patch=1)
    hidden = views.mask(spec, arange(4000), arange(1), SEED, (1, 8, 8)).double().mean((0, 1))
    assert (hidden - round(share * 64) / 64).abs().max() < 4.5 * (share * (1 - share) / 4000) ** 0.5


def test_policies_by_name() -> None:
    assert views.named("none") == ViewSpec()
    assert views.named("digits").flip == 0 and views.named("fashion") == views.named("digits").but(flip=0.5)
    assert views.named("mae") == ViewSpec(mask=0.75)
    for policy in ("weak", "normal", "strong", "independent", "simclr"):
        made = views.views(images(4, (3, 32, 32)), arange(4), views.named(policy), arange(2), SEED)
        assert 0 <= made.min() and made.max() <= 1
    with pytest.raises(
        SpecError, match="none, weak, normal, strong, independent, simclr, mae, digits, fashion, found 'x'"
    ):
        views.named("x")


def test_what_does_not_fit_is_refused() -> None:
    ids, numbers, spec = arange(3), arange(2), views.named("simclr")
    for values, word in (({"hue": 0.1, "jitter": 1.0}, "hue"), ({"grayscale": 0.2}, "grayscale")):
        with pytest.raises(SpecError, match=f"1 or 3 channels for {word}, found 4"):
            views.draw(ViewSpec(**values), ids, numbers, 0, (4, 8, 8))
    assert views.views(torch.rand(3, 4, 8, 8), ids, ViewSpec(**RRC, flip=0.5), numbers, 0).shape == (3, 2, 4, 8, 8)
    with pytest.raises(SpecError, match="blur_kernel must be below 16 .* found 17"):
        views.draw(ViewSpec(blur=1.0, blur_kernel=17), ids, numbers, 0, (1, 8, 9))
    for seed in (-1, 2**63):
        with pytest.raises(SpecError, match="View seed must lie in"):
            views.draw(spec, ids, numbers, seed, (3, 8, 8))
    with pytest.raises(SpecError, match=r"int64, found torch.int32"):
        views.draw(spec, ids.int(), numbers, 0, (3, 8, 8))
    for bad in (numbers[None], numbers[None, None], torch.tensor(1)):
        with pytest.raises(SpecError, match=r"\(k,\) or \(n, k\)"):
            views.uniform(0, ids, bad, [0])
    draw = views.draw(spec, ids, numbers, 0, (3, 8, 8))
    for bad in (torch.rand(3, 1, 8, 8), torch.rand(2, 3, 8, 8), torch.zeros(3, 3, 8, 8, dtype=torch.int64)):
        with pytest.raises(SpecError, match="Images must be uint8 or float of shape"):
            views.apply(bad, draw)
    with pytest.raises(SpecError, match="mask_patch must divide the view's sides 30 and 32, found 4"):
        views.mask(ViewSpec(mask=0.5), ids, numbers, 0, (3, 30, 32))
    with pytest.raises(SpecError, match="blur_kernel must be below 16 for views of 8 x 8 pixels, found 17"):
        views.draw(ViewSpec(blur=1.0, blur_kernel=17, size=8), ids, numbers, 0, (1, 32, 32))
    with pytest.raises(SpecError, match="mask_patch must divide the view's sides 30 and 30, found 4"):
        views.mask(ViewSpec(mask=0.5, size=30), ids, numbers, 0, (3, 32, 32))
    with pytest.raises(SpecError, match="mask must leave a visible patch"):
        views.mask(ViewSpec(mask=0.9), ids, numbers, 0, (3, 8, 8))


def test_no_images_give_no_views() -> None:
    assert views.views(torch.zeros(0, 3, 8, 8), arange(0), EVERYTHING, arange(2), 0).shape == (0, 2, 3, 8, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_draw_the_same_views() -> None:
    n, shape = 1500, (3, 28, 28)
    draws = [views.draw(EVERYTHING, arange(n).to(device), arange(2), SEED, shape) for device in ("cpu", "cuda")]
    for name in ("crop", "flip", "vertical_flip", "order", "factors", "hue_at", "hue", "grayscale", "sigma", "invert"):
        assert torch.equal(getattr(draws[0], name), getattr(draws[1], name).cpu()), name
    pixels = images(n, shape)
    on_gpu = views.apply(pixels.cuda(), draws[1])
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), views.apply(pixels, draws[0]), atol=1e-5, rtol=0)
    for kind in ("random", "block", "grid"):
        spec = ViewSpec(mask=0.75, mask_kind=kind)
        masks = [views.mask(spec, arange(n).to(d), arange(2), SEED, (3, 32, 32)).cpu() for d in ("cpu", "cuda")]
        assert torch.equal(*masks)
