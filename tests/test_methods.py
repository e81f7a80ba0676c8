"""Methods: losses against the papers' formulas, teachers, stop-gradients, resuming, several processes."""

from __future__ import annotations

import math
from copy import deepcopy
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from lightly.loss import NTXentLoss, VICRegLoss
from safetensors.torch import load, save
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.functional import normalize

from sslmem_utils import data, encoders, methods, views
from sslmem_utils.encoders.parts import folded
from sslmem_utils.errors import SpecError
from sslmem_utils.methods import METHODS, Batch, Method
from sslmem_utils.methods.parts import in_full
from sslmem_utils.methods.simclr import NTXent
from sslmem_utils.methods.vicreg import Regularized
from sslmem_utils.specs import DatasetSpec, EncoderSpec, MethodSpec, SplitSpec, TrainSpec, ViewSpec

SHAPE = (1, 8, 8)
CROPS = views.named("digits")
MASKED = ViewSpec(mask=0.75, mask_patch=2)
ENCODERS = {
    "mlp": {"width": 64, "depth": 2},
    "cnn": {"width": 8},
    "vit": {"patch": 2, "width": 32, "depth": 2, "heads": 2},
}
SMALL = {  # heads as small as the images
    "simclr": {},
    "limited_simclr": {},
    "simsiam": {"output": 64, "bottleneck": 16},
    "byol": {"hidden": 64, "output": 32},
    "vicreg": {"hidden": 64, "output": 64},
    "barlow_twins": {"hidden": 64, "output": 64},
    "dino": {"hidden": 64, "output": 128, "local_views": 3, "local_size": 8, "momentum": 0.98}
    | {"warmup_temperature": 0.03, "warmup": 0.9},
    "mae": {"width": 32},
    "supervised": {},
}
MATES = [(name, "vit" if name == "mae" else encoder) for name in SMALL for encoder in ("cnn", "vit")]
MATES = list(dict.fromkeys(MATES))
ONE_EACH = [(name, "vit" if name == "mae" else "mlp") for name in SMALL]


def build(name: str, encoder: str = "mlp", seed: int = 0, **options: object) -> Method:
    torch.manual_seed(seed)
    body = encoders.build(EncoderSpec(name=encoder, options=ENCODERS[encoder]), SHAPE)
    return methods.build(MethodSpec(name=name, options={**SMALL[name], **options}), body)


@cache
def digits() -> data.ImageSet:
    return data.load(DatasetSpec())


def batch_of(method: Method, number: int = 0, n: int = 32) -> Batch:
    """The batch `number` of the digits, drawn as in training."""
    rows = slice(number * n, number * n + n)
    view, first, drawn, hidden = MASKED if method.masks else CROPS, number * 100, [], None
    for policy, k in method.plan(view):
        numbers = first + torch.arange(k)
        drawn.append(views.views(digits().images[rows], digits().ids[rows], policy, numbers, 0))
        if policy.mask:
            hidden = views.mask(policy, digits().ids[rows], numbers, 0, SHAPE)
        first += k
    return Batch(tuple(drawn), digits().labels[rows], hidden)


def train(method: Method, optimizer: torch.optim.Optimizer, first: int, last: int, steps: int) -> list[float]:
    losses = []
    for step in range(first, last):
        loss = method(batch_of(method, step))
        optimizer.zero_grad()
        loss.backward()
        method.before_step(step / steps)
        optimizer.step()
        method.after_step((step + 1) / steps)
        losses.append(float(loss.detach()))
    return losses


def optimizer_of(method: Method, lr: float = 3e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr)


def grads(method: Method) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- losses, written out from the papers
def projections(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    return tuple(method.features(batch.views[0][:, j], "projector") for j in range(2))


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Chen et al. 2020, Eq. 1, one pair at a time."""
    z = normalize(torch.cat([a, b]), dim=1)
    n, losses = len(a), []
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        others = torch.stack([z[i] @ z[j] / temperature for j in range(2 * n) if j != i])
        losses.append(torch.logsumexp(others, 0) - z[i] @ z[positive] / temperature)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_simclr_is_nt_xent(layers: int) -> None:
    method = build("simclr", layers=layers, temperature=0.3).eval()
    batch = batch_of(method, n=6)
    assert_close(method(batch), nt_xent(*projections(method, batch), 0.3))
    assert len([m for m in method.projector.modules() if isinstance(m, nn.Linear)]) == layers


@pytest.mark.parametrize(
    "losses",
    [(NTXentLoss(0.2), NTXent(0.2)), (VICRegLoss(25, 20, 2), Regularized(25, 20, 2))],
    ids=["simclr", "vicreg"],
)
@pytest.mark.parametrize(("images", "width"), [(2, 3), (25, 64), (125, 128)])
def test_losses_without_masks_have_the_bits_of_lightly(
    losses: tuple[nn.Module, nn.Module], images: int, width: int
) -> None:
    """Value and gradient, where the boolean mask of lightly's loss is left out."""
    z = torch.randn(2 * images, width, generator=torch.Generator().manual_seed(images), requires_grad=True)
    found = []
    for criterion in losses:
        loss = criterion(*z.unflatten(0, (2, images)))
        found.append((loss, *torch.autograd.grad(loss, z)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(("name", "encoder"), [pair for pair in MATES if pair[0] != "mae"])
def test_a_step_on_a_gpu_reads_no_value_back(name: str, encoder: str) -> None:
    """Views, loss and teacher are traced with tensors that have a device and no values: reading a value of one would
    make the host wait and raises here, as do tensors of two devices. MAE asks its mask how many patches are visible.
    """
    method = build(name, encoder)
    with FakeTensorMode():
        for module in method.modules():
            for key, value in module._parameters.items():
                if value is not None:
                    module._parameters[key] = nn.Parameter(_valueless(value), requires_grad=value.requires_grad)
            for key, value in module._buffers.items():
                module._buffers[key] = None if value is None else _valueless(value)
        ids, pixels = _valueless(torch.arange(8)), _valueless(torch.zeros(8, *SHAPE, dtype=torch.uint8))
        drawn = [
            views.views(pixels, ids, policy, ids[:, None] + torch.arange(k, device="cuda"), 0)
            for policy, k in method.plan(CROPS)
        ]
        loss = method(Batch(tuple(drawn), ids, ids=ids))
        method.before_step(0.5)
        method.after_step(0.5)
    assert loss.device.type == "cuda" and loss.shape == ()


def _valueless(x: Tensor) -> Tensor:
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="cuda")


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Chen & He 2021, Eq. 1."""
    return -torch.stack([a @ b / (a.norm() * b.norm()) for a, b in zip(p, z, strict=True)]).mean()


def test_simsiam_is_the_negative_cosine_of_predictions_and_projections() -> None:
    method = build("simsiam").eval()
    batch = batch_of(method)
    z0, z1 = projections(method, batch)
    p0, p1 = method.predictor(z0), method.predictor(z1)
    assert_close(method(batch), negative_cosine(p0, z1) / 2 + negative_cosine(p1, z0) / 2)


def test_byol_is_the_distance_of_predictions_and_targets() -> None:
    """Grill et al. 2020, Eq. 2: the mean of ||p - z||^2 of unit vectors, summed over both directions."""
    method = build("byol").eval()
    train(method, optimizer_of(method), 0, 2, 4)  # so that the teacher differs from the student
    batch = batch_of(method)
    p0, p1 = (method.predictor(z) for z in projections(method, batch))
    z0, z1 = (method.teacher(batch.views[0][:, j]) for j in range(2))
    paper = sum((normalize(p) - normalize(z)).square().sum(1).mean() for p, z in ((p0, z1), (p1, z0)))
    assert not torch.allclose(z0, projections(method, batch)[0])
    assert_close(method(batch), paper / 4 - 1)


def vicreg(a: Tensor, b: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """Bardes et al. 2022, Eqs. 1 to 6; invariance averages over features too, and variance over the two views."""
    n, d = a.shape
    invariance = sum(((x - y) ** 2).mean() for x, y in zip(a, b, strict=True)) / n
    variance, covariance = 0.0, 0.0
    for z in (a, b):
        centred = z - z.mean(0)
        c = sum(torch.outer(x, x) for x in centred) / (n - 1)
        variance = variance + torch.relu(1 - (c.diagonal() + 1e-4).sqrt()).mean() / 2
        covariance = covariance + (c.square().sum() - c.diagonal().square().sum()) / d
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariance


def test_vicreg_is_the_papers_three_terms() -> None:
    method = build("vicreg", invariance=20.0, variance=30.0, covariance=2.0).eval()
    batch = batch_of(method)
    assert_close(method(batch), vicreg(*projections(method, batch), (20.0, 30.0, 2.0)))
    assert {name: METHODS.get("vicreg").DEFAULTS[name] for name in ("invariance", "variance", "covariance")} == {
        "invariance": 25.0, "variance": 25.0, "covariance": 1.0,
    }  # fmt: skip


def barlow_twins(a: Tensor, b: Tensor, redundancy: float) -> Tensor:
    """Zbontar et al. 2021, Eqs. 1 and 2, with batch norm's epsilon in the deviations."""
    a, b = ((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (a, b))
    c = sum(torch.outer(x, y) for x, y in zip(a, b, strict=True)) / len(a)
    off = c - torch.diag(c.diagonal())
    return (1 - c.diagonal()).square().sum() + redundancy * off.square().sum()


def test_barlow_twins_is_the_papers_cross_correlation() -> None:
    method = build("barlow_twins", redundancy=0.02).eval()
    batch = batch_of(method)
    assert_close(method(batch), barlow_twins(*projections(method, batch), 0.02))


def dino(teacher: list[Tensor], student: list[Tensor], centre: Tensor, hot: float, cold: float) -> Tensor:
    """Caron et al. 2021, Eq. 3 with Eq. 4's centre: all pairs of a global and another view."""
    losses = []
    for i, t in enumerate(teacher):
        p = torch.softmax((t - centre) / hot, 1)
        for j, s in enumerate(student):
            if i != j:
                losses.append(-(p * torch.log_softmax(s / cold, 1)).sum(1).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("local_views", [0, 3])
def test_dino_is_the_papers_cross_entropy(local_views: int) -> None:
    method = build("dino", local_views=local_views, teacher_temperature=0.05, warmup=0.5, center_momentum=0.8).eval()
    centre = torch.zeros(128)
    for step, hot in enumerate((0.03, 0.035, 0.04, 0.045, 0.05, 0.05)):
        batch = batch_of(method, step)
        crops = [x[:, j] for x in batch.views for j in range(x.shape[1])]
        teacher = [method.teacher(x) for x in crops[:2]]
        student = [method.features(x, "projector") for x in crops]
        assert len(student) == 2 + local_views
        assert_close(method(batch), dino(teacher, student, centre, hot, 0.1))
        centre = 0.8 * centre + 0.2 * torch.cat(teacher).mean(0)
        assert_close(method.criterion.center.squeeze(), centre)
        method.after_step((step + 1) / 8)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_mae_is_the_squared_error_of_hidden_patches(norm_pixels: bool) -> None:
    """He et al. 2022, section 3, one image and patch at a time."""
    method = build("mae", "vit", norm_pixels=norm_pixels).eval()
    batch = batch_of(method, n=5)
    x, hidden, errors = batch.views[0][:, 0], batch.hidden[:, 0], []
    assert hidden.shape == (5, 16) and bool((hidden.sum(1) == 12).all())
    tokens = method.encoder.tokens_of(x, hidden)
    assert tokens.shape == (5, 1 + 4, 32)
    for image, gone, seen in zip(x, hidden, tokens, strict=True):
        rows = [method.decoder.mask_token[0, 0]] * 17
        for place, token in zip([0, *(1 + p for p in range(16) if not gone[p])], seen, strict=True):
            rows[place] = method.embed(token)
        out = method.decoder.decode((torch.stack(rows) + method.decoder.pos_embed[0])[None])[0]
        for p in range(16):
            if gone[p]:
                top, left = 2 * (p // 4), 2 * (p % 4)
                pixels = image[:, top : top + 2, left : left + 2].permute(1, 2, 0).flatten() * 2 - 1
                if norm_pixels:
                    pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                errors.append((method.pixels(out[1 + p]) - pixels).square().mean())
    assert_close(method(batch), torch.stack(errors).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_supervised_is_cross_entropy(smoothing: float) -> None:
    method = build("supervised", smoothing=smoothing).eval()
    batch = batch_of(method)
    logs = method.classifier(method.encoder(batch.views[0][:, 0])).log_softmax(1)
    target = nn.functional.one_hot(batch.labels, 10) * (1 - smoothing) + smoothing / 10
    assert_close(method(batch), -(target * logs).sum(1).mean())


# ---------------------------------------------------------------- heads, views, precision
def test_projectors_map_features_and_where_there_is_none_it_says_so() -> None:
    x = torch.rand(5, *SHAPE)
    widths = {
        "simclr": 64,
        "limited_simclr": 64,
        "simsiam": 64,
        "byol": 32,
        "vicreg": 64,
        "barlow_twins": 64,
        "dino": 128,
    }
    for name in SMALL:
        method = build(name, "vit").eval()
        if name in widths:
            out = method.features(x, "projector")
            assert out.shape == (5, widths[name])
            assert torch.equal(out, method.projector(method.features(x)))
        else:
            with pytest.raises(SpecError, match="has no projector"):
                method.features(x, "projector")


@pytest.mark.parametrize(("name", "encoder"), MATES + ONE_EACH)
def test_folded_batch_norms_leave_representations_as_they_are(name: str, encoder: str) -> None:
    method = build(name, encoder).double()
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 2.0)
    fast, x = folded(method), torch.rand(5, *SHAPE, dtype=torch.float64)
    for representation in ("pooled", "projector"):
        try:
            plain = method.eval().features(x, representation)
        except SpecError:  # some have no projector
            assert representation == "projector"
            continue
        torch.testing.assert_close(fast.features(x, representation), plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["simclr", "limited_simclr", "simsiam", "byol", "vicreg", "barlow_twins", "dino"])
def test_heads_with_layer_norms_do_not_mix_images(name: str) -> None:
    method = build(name, "vit", norm="layer")
    assert not [m for m in method.modules() if isinstance(m, nn.BatchNorm1d)]
    assert encoders.parameters(method) == encoders.parameters(build(name, "vit", norm="batch"))
    x = torch.rand(4, *SHAPE)
    torch.testing.assert_close(method.features(x, "projector")[:1], method.features(x[:1], "projector"))
    with pytest.raises(SpecError, match="norm of a head must be 'batch' or 'layer', found 'group'"):
        build(name, "vit", norm="group")


def test_dino_plans_two_global_views_and_smaller_local_ones() -> None:
    local = CROPS.but(crop_scale=(0.3, 0.6), size=4)
    assert build("dino", "cnn", local_size=0).plan(CROPS) == ((CROPS, 2), (local, 3))
    large = CROPS.but(size=12)
    assert build("dino", "vit", local_size=0).plan(large) == ((large, 2), (local.but(size=6), 3))
    assert build("dino", local_views=0).plan(CROPS) == ((CROPS, 2),)
    assert build("byol").plan(CROPS) == ((CROPS, 2),) and build("mae", "vit").plan(MASKED) == ((MASKED, 1),)
    assert build("dino", local_size=0).plan(CROPS)[1][0].size == 8  # the only side that an MLP for 8 pixels reads
    for encoder, size in (("mlp", 4), ("vit", 5)):
        with pytest.raises(SpecError, match="cannot read local views of . x . pixels; set dino's option local_size"):
            build("dino", encoder, local_size=size).plan(CROPS)
    with pytest.raises(SpecError, match="views must have the images' own side, 8, found 6"):
        build("mae", "vit").plan(MASKED.but(size=6))


def test_local_views_of_another_side_are_learned_from() -> None:
    method = build("dino", "cnn", local_size=0)
    batch = batch_of(method)
    assert [tuple(x.shape) for x in batch.views] == [(32, 2, 1, 8, 8), (32, 3, 1, 4, 4)]
    with_local = method(batch)
    assert not torch.allclose(with_local, method(Batch(batch.views[:1], batch.labels)))


@pytest.mark.parametrize(("name", "encoder"), ONE_EACH)
def test_a_step_in_bf16_is_close_to_one_in_fp32(name: str, encoder: str) -> None:
    method = build(name, encoder).eval()
    batch = batch_of(method)
    full = method(batch).detach()
    if name == "dino":
        method.criterion.center.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = method(batch)
    half.backward()
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.01)


def test_losses_are_computed_outside_of_autocast() -> None:
    ones = torch.ones(257, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(ones @ ones) == 256  # bf16 has no 257
        assert float(in_full(torch.dot, ones, ones)) == 257


# ---------------------------------------------------------------- gradients
@pytest.mark.parametrize(("name", "encoder"), MATES)
def test_all_that_is_trained_gets_a_gradient_and_no_random_number_is_drawn(name: str, encoder: str) -> None:
    method = build(name, encoder)
    batch, before = batch_of(method), torch.get_rng_state()
    method(batch).backward()
    assert torch.equal(torch.get_rng_state(), before)
    found = grads(method)
    assert found.keys() == {name for name, p in method.named_parameters() if p.requires_grad}
    assert all(bool(found[name].any()) for name in found if name.startswith("encoder.") and "weight" in name)
    assert not [name for name in found if "teacher" in name]


def test_simsiam_stops_the_gradient_of_projections() -> None:
    method = build("simsiam").eval()
    batch = batch_of(method)
    method(batch).backward()
    found = grads(method)

    def expected(stop: bool) -> dict[str, Tensor]:
        method.zero_grad()
        z0, z1 = projections(method, batch)
        t0, t1 = (z0.detach(), z1.detach()) if stop else (z0, z1)
        p0, p1 = method.predictor(z0), method.predictor(z1)
        (negative_cosine(p0, t1) / 2 + negative_cosine(p1, t0) / 2).backward()
        return grads(method)

    stopped, through = expected(True), expected(False)
    assert all(torch.allclose(found[name], stopped[name], rtol=1e-4, atol=1e-7) for name in found)
    assert any(not torch.allclose(found[name], through[name], rtol=0.1, atol=1e-3) for name in found)


@pytest.mark.parametrize("name", ["byol", "dino"])
def test_teachers_follow_as_a_moving_average(name: str) -> None:
    method = build(name, "cnn", momentum=0.9)
    pairs = {  # parameters of the teacher: those of the student
        f"teacher.{number}.{key}": f"{student}.{key}"
        for number, student in enumerate(("encoder", "projector"))
        for key in dict(getattr(method, student).named_parameters())
    }
    values = dict(method.named_parameters())
    assert pairs.keys() == {key for key in values if key.startswith("teacher.")}
    assert all(torch.equal(values[a], values[b]) and values[a] is not values[b] for a, b in pairs.items())
    optimizer, steps = optimizer_of(method), 5
    for step in range(steps):
        before = {key: value.detach().clone() for key, value in values.items()}
        train(method, optimizer, step, step + 1, steps)
        m = 1 - 0.1 * (math.cos(math.pi * (step + 1) / steps) + 1) / 2
        for a, b in pairs.items():
            torch.testing.assert_close(values[a], m * before[a] + (1 - m) * values[b], rtol=1e-5, atol=1e-7)
    assert all(torch.equal(values[a], before[a]) for a in pairs), "at the end the teacher stands still"
    own, other = (next(m for m in body.modules() if isinstance(m, nn.BatchNorm2d)) for body in (method.teacher, method))
    assert int(own.num_batches_tracked) == steps and not torch.equal(own.running_mean, other.running_mean)


def test_dinos_last_layer_stands_still_at_first() -> None:
    method = build("dino", freeze=0.5)
    optimizer = optimizer_of(method)
    layer, first = method.projector.last_layer.weight_v, method.projector.layers[0].weight
    start = layer.detach().clone(), first.detach().clone()
    train(method, optimizer, 0, 3, 6)
    assert torch.equal(layer, start[0]) and not torch.equal(first, start[1])
    train(method, optimizer, 3, 4, 6)
    assert not torch.equal(layer, start[0])
    assert bool((method.projector.last_layer.weight_g == 1).all())


# ---------------------------------------------------------------- training
def spread(method: Method) -> float:
    """How far apart unit features of different digits lie: 0 when all collapse to one, at most 1."""
    with torch.no_grad():
        features = method.eval().features(digits().images[:200] / 255)
    method.train()
    return float(normalize(features, dim=1).std(0).norm())


@pytest.mark.parametrize(("name", "encoder"), ONE_EACH)
def test_a_stopped_training_goes_on_to_the_same_bits(name: str, encoder: str) -> None:
    method = build(name, encoder)
    optimizer = optimizer_of(method)
    train(method, optimizer, 0, 3, 6)
    kept, momenta = save(method.state_dict()), deepcopy(optimizer.state_dict())
    resumed = build(name, encoder, seed=1)
    resumed.load_state_dict(load(kept))
    other = optimizer_of(resumed)
    other.load_state_dict(momenta)
    assert train(method, optimizer, 3, 6, 6) == train(resumed, other, 3, 6, 6)
    a, b = method.state_dict(), resumed.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    if name == "dino":
        assert bool(a["criterion.center"].any()) and resumed.done == 1


@pytest.mark.parametrize(("name", "encoder"), [*ONE_EACH, ("dino", "cnn"), ("byol", "vit")])
def test_a_few_steps_reduce_the_loss_without_collapse(name: str, encoder: str) -> None:
    method = build(name, encoder)
    before = spread(method)
    losses = train(method, optimizer_of(method), 0, 40, 40)
    first, last = (sum(part) / 8 for part in (losses[:8], losses[-8:]))
    assert last < first
    assert method.masks or spread(method) > before  # hidden patches are filled in without an image's whole vector


# ---------------------------------------------------------------- several processes
def two_gradients(name: str, rank: int = 0, size: int = 1) -> dict[str, Tensor]:
    """Losses and gradients of a rank's part of two batches, in double precision.

    Batch norms are as in evaluation, because gloo cannot synchronise them; the second batch meets DINO's new centre.
    """
    method = build(name, "vit").double()
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    forward = nn.parallel.DistributedDataParallel(method) if size > 1 else method
    found = {}
    for number in range(2):
        whole = batch_of(method, number, n=16)
        hidden = None if whole.hidden is None else whole.hidden.chunk(size)[rank]
        parts = tuple(x.double().chunk(size)[rank] for x in whole.views)
        method.zero_grad()
        loss = forward(Batch(parts, whole.labels.chunk(size)[rank], hidden))
        loss.backward()
        found |= {f"{name}.{number}.{key}": value for key, value in grads(method).items()}
        found[f"{name}.{number}.loss"] = loss.detach()
    return found


def as_rank(rank: int, folder: str) -> None:
    """Write the gradients of a rank of two."""
    patience = timedelta(seconds=120)
    meet = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=patience)
    try:
        found = {key: value for name in SMALL for key, value in two_gradients(name, rank, 2).items()}
    finally:
        torch.distributed.destroy_process_group()
    Path(folder, f"{rank}.safetensors").write_bytes(save(found))


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    other = torch.multiprocessing.get_context("spawn").Process(target=as_rank, args=(1, str(tmp_path)), daemon=True)
    other.start()
    as_rank(0, str(tmp_path))
    other.join()
    ranks = [load((tmp_path / f"{rank}.safetensors").read_bytes()) for rank in range(2)]
    for name in SMALL:
        for key, expected in two_gradients(name).items():
            found = (ranks[0][key] + ranks[1][key]) / 2  # of losses; gradients are means on both ranks
            assert float((found - expected).norm()) <= 1e-5 * float(expected.norm()) + 1e-12, key


# ---------------------------------------------------------------- specs
def spec(method: str, encoder: str, view: ViewSpec, **options: object) -> TrainSpec:
    """As `check` gets it: options filled in."""
    chosen = MethodSpec(name=method, options=options)
    body = EncoderSpec(name=encoder, options=ENCODERS[encoder])
    split = SplitSpec(shared=8, candidate=8, independent=8, external=8)
    return TrainSpec(
        split=split, view=view, epochs=1, batch=8,
        encoder=body.but(options=encoders.options(body)), method=chosen.but(options=methods.options(chosen)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (spec("mae", "cnn", MASKED), "mae hides patches, which cnn does not read; use a ViT."),
        (spec("mae", "vit", CROPS), "found a view policy without a mask; set mask"),
        (spec("mae", "vit", MASKED.but(mask_patch=4)), "mask_patch must be the patch of the ViT, 2 pixels, found 4"),
        (spec("mae", "vit", MASKED, width=36, heads=5), "divisible by 4 and by its 5 heads, found 36"),
        (spec("dino", "cnn", CROPS, local_low=0.7), "crop_scale must satisfy 0 < low <= high <= 1, found (0.7, 0.6)"),
        (spec("dino", "cnn", CROPS, local_size=3), "ViewSpec size"),
    ],
)
def test_impossible_specs_are_refused(bad: TrainSpec, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        METHODS.get(bad.method.name).check(bad)
    assert sentence in str(caught.value)


def test_possible_specs_pass() -> None:
    for name in METHODS.names():
        METHODS.get(name).check(spec(name, "vit", MASKED if METHODS.get(name).masks else CROPS))


def test_labels_are_needed_for_supervised_training() -> None:
    method = build("supervised", classes=5)
    assert method.labelled and not any(METHODS.get(name).labelled for name in SMALL if name != "supervised")
    x = torch.rand(3, 1, *SHAPE)
    with pytest.raises(SpecError, match="needs a label from 0 to 4 for every image, found -1 to 4"):
        method(Batch((x,), torch.tensor([4, -1, 0])))
    with pytest.raises(SpecError, match="found 0 to 5; label the images or set the option classes"):
        method(Batch((x,), torch.tensor([4, 5, 0])))
