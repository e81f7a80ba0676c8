"""Encoders against independent implementations: networks, representations, layers, hidden patches and weights."""

import hashlib
import os
import shutil
import urllib.error
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from lightly.models.modules import MaskedVisionTransformerTIMM
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sslmem_utils import encoders
from sslmem_utils.encoders import ENCODERS, Encoder, weights_digest
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.specs import EncoderSpec

CIFAR = (3, 32, 32)


def build(name: str, shape: tuple[int, int, int] = CIFAR, weights: object = None, seed: int = 0, **options) -> Encoder:
    torch.manual_seed(seed)
    spec = EncoderSpec(name=name, options=options, weights=None if weights is None else str(weights))
    return encoders.build(spec, shape).eval()


def images(n: int, shape: tuple[int, ...] = CIFAR, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def refused(kind: type[Exception], *sentences: str, when) -> None:
    with pytest.raises(kind) as caught:
        when()
    assert all(sentence in str(caught.value) for sentence in sentences), str(caught.value)
    assert str(caught.value).count("\n") == 0 and str(caught.value).endswith((".", "?"))


# ---------------------------------------------------------------- all encoders
@pytest.mark.parametrize(
    ("name", "options", "shape", "dim", "count"),
    [
        ("mlp", {}, (1, 8, 8), 256, 64 * 256 + 2 * 256 * 256 + 3 * 512),
        ("mlp", {"norm": "layer"}, (1, 8, 8), 256, 64 * 256 + 2 * 256 * 256 + 3 * 512),
        ("cnn", {}, CIFAR, 128, 9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128)),
        ("cnn", {"norm": "group", "width": 10}, CIFAR, 40, 9 * (3 * 10 + 10 * 20 + 20 * 40) + 2 * 70),
        ("resnet9", {}, CIFAR, 256, 1_644_672),
        ("resnet9", {"norm": "group"}, (1, 28, 28), 256, 1_644_672 - 2 * 9 * 32),
        # torchvision's counts less fc and, with the small stem, less 49 - 9 weights a filter and colour
        ("resnet18", {}, CIFAR, 512, 11_689_512 - 513_000 - 64 * 3 * 40),
        ("resnet34", {"norm": "group"}, CIFAR, 512, 21_797_672 - 513_000 - 64 * 3 * 40),
        ("resnet50", {"stem": "imagenet"}, (3, 64, 64), 2048, 25_557_032 - 2_049_000),
        ("vit", {}, CIFAR, 64, None),
        # DeiT's counts less the head and the positions of 196 patches but 16
        ("vit_tiny", {"patch": 16}, (3, 64, 64), 192, 5_717_416 - 193_000 - 180 * 192),
        ("vit_small", {"patch": 16}, (3, 64, 64), 384, 22_050_664 - 385_000 - 180 * 384),
        ("vit_base", {}, (3, 64, 64), 768, 86_567_656 - 769_000 - 180 * 768),
    ],
)
def test_an_encoder_maps_images_to_vectors(name: str, options: dict, shape: tuple, dim: int, count: int | None) -> None:
    encoder = build(name, shape, **options)
    x = images(2, shape)
    with torch.no_grad():
        out = encoder(x)
        assert out.shape == (2, dim) and encoder.dim == dim and encoder.shape == shape
        assert torch.equal(encoder.features(x), out) and torch.equal(encoder.features(x, "pooled"), out)
        torch.testing.assert_close(encoder(x[1:]), out[1:], rtol=1e-4, atol=1e-5)  # whatever else is in the batch
        assert (out[0] - out[1]).norm() > 1e-3 * out.norm()
        assert set(encoder.layers()) <= set(encoder.modules_by_name())
        last = encoder.features(x, f"layer:{encoder.layers()[-1]}")
    assert count is None or encoders.parameters(encoder) == count
    assert last.shape[0] == 2 and last.shape[1] in (dim, 256)


def test_the_last_layer_of_plain_encoders_is_pooled() -> None:
    for name in ("mlp", "cnn", "resnet18"):
        encoder, x = build(name), images(3)
        torch.testing.assert_close(encoder.features(x, f"layer:{encoder.layers()[-1]}"), encoder(x))


@pytest.mark.parametrize(
    ("name", "options"), [("mlp", {}), ("cnn", {}), ("resnet9", {}), ("resnet18", {}), ("vit", {}), ("vit_tiny", {})]
)
def test_initialisation_is_that_of_the_global_generator(name: str, options: dict) -> None:
    first, again, other = build(name, **options), build(name, **options), build(name, seed=1, **options)
    x = images(2)
    assert torch.equal(first(x), again(x)) and not torch.equal(first(x), other(x))


def test_every_name_is_an_encoder() -> None:
    assert set(ENCODERS.names()) == {
        *("mlp", "cnn", "resnet9", "resnet18", "resnet34", "resnet50"),
        *("vit", "vit_tiny", "vit_small", "vit_base"),
    }
    assert [name for name in ENCODERS.names() if ENCODERS.get(name).patches] == [
        "vit",
        "vit_base",
        "vit_small",
        "vit_tiny",
    ]


@pytest.mark.parametrize(
    ("name", "options", "shape", "sentence"),
    [
        ("resnet81", {}, CIFAR, "unknown encoder 'resnet81'; did you mean 'resnet18'?"),
        ("mlp", {"wide": 3}, CIFAR, "has no option 'wide'; it has width, depth"),
        ("mlp", {"width": True}, CIFAR, "must be int, found True"),
        ("mlp", {"norm": "group"}, CIFAR, "'norm' must be batch or layer, found 'group'"),
        ("cnn", {"norm": "layer"}, CIFAR, "'norm' must be batch or group, found 'layer'"),
        ("resnet18", {"stem": "large"}, CIFAR, "'stem' must be small or imagenet, found 'large'"),
        ("resnet18", {"pixels": "0"}, CIFAR, "'pixels' must be half or imagenet, found '0'"),
        ("resnet18", {"pixels": "imagenet"}, (1, 28, 28), "of 3 channels, the images have 1"),
        ("resnet9", {}, (1, 8, 8), "needs 16 pixels, found 8x8"),
        ("vit", {"patch": 5}, CIFAR, "sides divisible by its patch"),
        ("vit_tiny", {"width": 64}, CIFAR, "has no option 'width'; it has patch, pixels"),
    ],
)
def test_bad_encoders_are_refused(name: str, options: dict, shape: tuple, sentence: str) -> None:
    refused(SpecError, sentence, when=lambda: build(name, shape, **options))


def test_a_new_encoder_is_one_class() -> None:
    @ENCODERS.register("test_flat")
    class Flat(Encoder):
        DEFAULTS = {"scale": 2.0}

        def __init__(self, shape: tuple[int, int, int], scale: float) -> None:
            super().__init__()
            self.dim, self.scale = shape[0] * shape[1] * shape[2], scale

        def pooled(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * x.flatten(1)

    try:
        assert build("test_flat", (1, 2, 2), scale=3)(torch.ones(1, 1, 2, 2)).tolist() == [[3, 3, 3, 3]]
    finally:
        del ENCODERS._entries["test_flat"]
    with pytest.raises(TypeError, match="abstract method '?pooled"):
        type("Empty", (Encoder,), {})()


# ---------------------------------------------------------------- the networks themselves
def test_mlp_and_cnn_are_the_layers_they_say() -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten()]
    for fan_in in (64, 256, 256):
        layers += [nn.Linear(fan_in, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU()]
    x = images(5, (1, 8, 8))
    mlp = build("mlp", (1, 8, 8))
    assert torch.equal(mlp(x), nn.Sequential(*layers).eval()((x - 0.5) / 0.5))
    torch.manual_seed(0)
    layers = []
    for fan_in, fan_out, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()]
    network, cnn = nn.Sequential(*layers), build("cnn").train()
    x = images(5)
    assert torch.equal(cnn(x), network((x - 0.5) / 0.5).mean((2, 3)))
    assert torch.equal(cnn.eval()(x), network.eval()((x - 0.5) / 0.5).mean((2, 3)))  # running statistics too


def test_resnet_is_torchvisions_but_for_its_stem() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool, network.fc = nn.Identity(), nn.Identity()
    small, x = build("resnet18"), images(2)
    assert torch.equal(small(x), network.eval()((x - 0.5) / 0.5))
    assert small.body.layer4(small.body.layer3(small.body.layer2(torch.rand(1, 64, 32, 32)))).shape[-1] == 4
    whole, x = build("resnet34", (3, 64, 64), stem="imagenet", pixels="imagenet"), images(2, (3, 64, 64))
    plain = torchvision.models.resnet34().eval()
    plain.fc = nn.Identity()
    plain.load_state_dict(whole.body.state_dict())
    transform = torchvision.models.ResNet34_Weights.IMAGENET1K_V1.transforms()
    torch.testing.assert_close(
        whole(x), plain(torchvision.transforms.functional.normalize(x, transform.mean, transform.std))
    )


def resnet9_by_hand(state: dict[str, torch.Tensor], x: torch.Tensor, late: bool = False) -> list[torch.Tensor]:
    """Outputs of the eight convolutions and two sums of Wang et al. 2024, Table 8; `late`: ReLU behind the sum."""

    def conv(x: torch.Tensor, at: str, pool: bool = False, relu: bool = True) -> torch.Tensor:
        x = F.conv2d(x, state[f"{at}.0.weight"], state[f"{at}.0.bias"], padding=1)
        statistics = state[f"{at}.1.running_mean"], state[f"{at}.1.running_var"]
        x = F.batch_norm(x, *statistics, state[f"{at}.1.weight"], state[f"{at}.1.bias"])
        x = F.relu(x) if relu else x
        return F.max_pool2d(x, 2) if pool else x

    out = [conv(x, "stages.0", pool=True)]
    out.append(conv(out[-1], "stages.1", pool=True))
    out.append(conv(out[1], "stages.2.0"))
    out.append(conv(out[-1], "stages.2.1", relu=not late))
    out.append(F.relu(out[3] + out[1]) if late else out[3] + out[1])
    out.append(conv(out[-1], "stages.3", pool=True))
    out.append(conv(out[-1], "stages.4", pool=True))
    out.append(conv(out[6], "stages.5.0"))
    out.append(conv(out[-1], "stages.5.1", relu=not late))
    out.append(F.relu(out[8] + out[6]) if late else out[8] + out[6])
    return out


def test_resnet9_is_the_papers_table() -> None:
    encoder, x = build("resnet9"), images(3)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training: not the identity
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    maps = resnet9_by_hand(encoder.state_dict(), (x - 0.5) / 0.5)
    assert [m.shape[1] for m in maps] == [32, 64, 64, 64, 64, 128, 256, 256, 256, 256]
    assert [m.shape[2] for m in maps] == [16, 8, 8, 8, 8, 4, 2, 2, 2, 2]
    torch.testing.assert_close(encoder(x), maps[-1].amax((2, 3)))
    found = encoder.activations(x, encoder.layers())
    assert len(found) == 10
    for vector, expected in zip(found.values(), maps, strict=True):
        torch.testing.assert_close(vector, expected.mean((2, 3)))
    late = resnet9_by_hand(encoder.state_dict(), (x - 0.5) / 0.5, late=True)
    assert not torch.allclose(late[4], maps[4]) and not torch.allclose(late[-1].amax((2, 3)), encoder(x))


def test_resnet9_has_the_papers_size() -> None:
    """1.65 million parameters are counted with the classifier of ten classes: 34 tensors, two of them its own."""
    encoder = build("resnet9")
    both = nn.Sequential(encoder, nn.Linear(encoder.dim, 10))
    assert encoders.parameters(encoder) == 1_644_672 and encoders.parameters(both) == 1_647_242
    assert len(list(both.parameters())) == 34
    with FlopCounterMode(display=False) as counter:
        out = encoder(images(1))
    forward = counter.get_total_flops()
    with counter:
        out.sum().backward()
    assert forward == 2 * 9 * sum(  # a multiplication and an addition a weight of 3x3 filters and position
        fan_in * fan_out * side**2
        for fan_in, fan_out, side in (
            *((3, 32, 32), (32, 64, 16), (64, 64, 8), (64, 64, 8)),
            *((64, 128, 8), (128, 256, 4), (256, 256, 2), (256, 256, 2)),
        )
    )
    assert 0.048e9 < forward < 0.050e9
    with FlopCounterMode(display=False) as counter:
        encoder(images(1)).sum().backward()
    assert 0.14e9 < counter.get_total_flops() < 0.15e9


# ---------------------------------------------------------------- normalisation layers
@pytest.mark.parametrize(
    ("name", "norm"), [("mlp", "layer"), ("cnn", "group"), ("resnet9", "group"), ("resnet18", "group")]
)
def test_in_training_only_batch_norm_mixes_images(name: str, norm: str) -> None:
    x = images(4)
    alone = build(name, norm=norm).train()
    assert not [m for m in alone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)] and not [
        key for key, _ in alone.named_buffers() if "running" in key
    ]
    torch.testing.assert_close(alone(x)[:2], alone(x[:2]), rtol=1e-4, atol=1e-5)
    mixed = build(name).train()
    assert not torch.allclose(mixed(x)[:2], mixed(x[:2]), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("width", "groups"), [(32, [8, 16, 32]), (12, [3, 6, 12]), (7, [1, 2, 7]), (3, [1, 1, 3])])
def test_groups_divide_the_channels_and_are_no_single_ones(width: int, groups: list[int]) -> None:
    norms = [m for m in build("cnn", norm="group", width=width).modules() if isinstance(m, nn.GroupNorm)]
    assert [m.num_groups for m in norms] == groups
    small = build("resnet9", (3, 16, 16), norm="group")(images(2, (3, 16, 16)))
    assert small.std() > 1e-3  # the last maps are one pixel


# ---------------------------------------------------------------- representations and layers
def test_vit_representations_are_timms_tokens() -> None:
    torch.manual_seed(0)
    timms = VisionTransformer(img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=2, num_classes=0).eval()
    vit, x = build("vit"), images(3)
    tokens = timms.forward_features((x - 0.5) / 0.5)
    expected = {
        **{"pooled": tokens[:, 0], "cls": tokens[:, 0]},
        **{"mean_patch": tokens[:, 1:].mean(1), "tokens": tokens[:, 1:].reshape(3, 64 * 64)},
    }
    assert all(torch.equal(vit.features(x, name), expected[name]) for name in expected)
    assert torch.equal(vit.tokens_of(x), tokens) and torch.equal(vit(x), tokens[:, 0])
    blocks = timms.forward_intermediates((x - 0.5) / 0.5, norm=False, intermediates_only=True, output_fmt="NLC")
    found = vit.activations(x, vit.layers())
    assert len(found) == 4
    for vector, expected in zip(found.values(), blocks, strict=True):
        torch.testing.assert_close(vector, expected.mean(1))
    assert (vit.patch, vit.grid, vit.patches) == (4, (8, 8), True)


def test_layers_of_a_resnet_include_their_additions() -> None:
    encoder, x = build("resnet18"), images(2)
    body, z = encoder.body, (x - 0.5) / 0.5
    stem = body.bn1(body.conv1(z))
    block = body.layer1[0]
    inside = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(F.relu(stem))))))
    added = F.relu(inside + F.relu(stem))
    expected = {"body.bn1": stem, "body.relu": F.relu(stem), "body.layer1.0": added}
    expected["body.layer1"] = body.layer1[1](added)
    expected["body.layer1.0.bn2"] = inside
    names = list(expected)
    found = encoder.activations(x, names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name].mean((2, 3)))
        assert torch.equal(encoder.features(x, f"layer:{name}"), found[name])
    assert (found["body.bn1"] < -1e-4).any()  # not what the ReLU behind made of it in place
    assert not torch.allclose(added, F.relu(inside))
    assert len(encoder.layers()) == 1 + 8 and len(build("resnet34").layers()) == 1 + 16
    assert encoder.layers()[:3] == ["body.relu", "body.layer1.0", "body.layer1.1"]
    assert not [m for m in encoder.modules() if m._forward_hooks]


def test_flat_layers_are_kept() -> None:
    mlp, x = build("mlp", (1, 8, 8)), images(3, (1, 8, 8))
    assert torch.equal(mlp.features(x, "layer:blocks.0"), mlp.blocks[0](((x - 0.5) / 0.5).flatten(1)))
    assert torch.equal(mlp.features(x, "layer:blocks.0.0"), mlp.blocks[0][0](((x - 0.5) / 0.5).flatten(1)))


@pytest.mark.parametrize(
    ("name", "representation", "sentences"),
    [
        ("mlp", "cls", ("has the representations pooled, layer:NAME (and projector), found 'cls'",)),
        ("vit", "mean", ("pooled, cls, mean_patch, tokens, layer:NAME (and projector), found 'mean'",)),
        ("resnet18", "layer:body.layer5", ("no layer 'body.layer5'", "body.layer4", "body.relu")),
        ("cnn", "layer:", ("no layer ''", "stages.0, stages.1, stages.2")),
        ("vit", "layer:body.patch_embed", ("no layer 'body.patch_embed'", "body.blocks.0")),
        (
            "vit",
            "layer:body.blocks.0.attn.q_norm",
            ("'body.blocks.0.attn.q_norm' gives no token a patch", "body.blocks.3"),
        ),
        ("vit", "layer:body.blocks.0.attn.attn_drop", ("takes no part in a forward pass", "body.blocks.0")),
    ],
)
def test_unknown_representations_are_refused(name: str, representation: str, sentences: tuple) -> None:
    encoder = build(name)
    refused(SpecError, *sentences, when=lambda: encoder.features(images(2), representation))
    assert not [m for m in encoder.modules() if m._forward_hooks]


# ---------------------------------------------------------------- patches
def pattern(n: int, t: int, count: int, seed: int = 0) -> torch.Tensor:
    """`count` of t patches hidden in each of n images."""
    order = torch.rand(n, t, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return order < count


def by_pixel(hidden: torch.Tensor, patch: int, columns: int) -> torch.Tensor:
    """Masks of pixels (n, 1, h, w) of masks of patches numbered row by row."""
    grid = hidden.unflatten(1, (-1, columns))
    return grid.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]


def test_hidden_patches_are_not_seen() -> None:
    vit, x, hidden = build("vit"), images(6), pattern(6, 64, 48)
    under = by_pixel(hidden, 4, 8)
    changed = torch.where(under, images(6, seed=2), x)
    seen = torch.where(under, x, images(6, seed=2))
    for name in ("pooled", "cls", "mean_patch", "layer:body.blocks.0", "layer:body.blocks.3", "layer:body.norm"):
        z = vit.features(x, name, hidden)
        assert z.shape == (6, 64)
        assert torch.equal(z, vit.features(changed, name, hidden))
        assert ((z - vit.features(seen, name, hidden)).abs().amax(1) > 1e-3).all()
        assert not torch.allclose(z, vit.features(x, name), atol=1e-3)
    assert torch.equal(vit.tokens_of(x, hidden), vit.tokens_of(changed, hidden))


def test_visible_tokens_are_those_of_lightlys_masked_vit() -> None:
    vit, x, hidden = build("vit", (3, 16, 24)), images(5, (3, 16, 24)), pattern(5, 24, 15)
    lightlys = MaskedVisionTransformerTIMM(vit.body, weight_initialization="skip", pos_embed_initialization="skip")
    keep = torch.stack([torch.tensor([0, *(1 + i for i in range(24) if not row[i])]) for row in hidden])
    tokens = vit.tokens_of(x, hidden)
    assert tokens.shape == (5, 1 + 9, 64)
    torch.testing.assert_close(tokens, lightlys.eval().encode((x - 0.5) / 0.5, idx_keep=keep))
    torch.testing.assert_close(vit.features(x, "mean_patch", hidden), tokens[:, 1:].mean(1))
    torch.testing.assert_close(vit.features(x, "pooled", hidden), tokens[:, 0])
    nothing = torch.zeros(5, 24, dtype=torch.bool)
    assert torch.equal(vit.tokens_of(x, nothing), vit.tokens_of(x))


def test_tokens_are_in_position_order() -> None:
    vit, x = build("vit"), images(2)
    nn.init.zeros_(vit.body.pos_embed)  # without positions a ViT does not care where a patch is
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    patches = F.unfold(x, 4, stride=4)
    moved = F.fold(patches[:, :, order], 32, 4, stride=4)
    torch.testing.assert_close(vit.tokens_of(moved)[:, 1:], vit.tokens_of(x)[:, 1:][:, order], rtol=1e-4, atol=1e-5)
    assert torch.equal(vit.features(x, "tokens"), vit.features(x.clone(), "tokens"))  # an image is equal to itself
    assert torch.equal(vit.features(x, "tokens").unflatten(1, (64, 64)), vit.tokens_of(x)[:, 1:])


def test_other_image_sizes_interpolate_the_positions() -> None:
    vit, crops = build("vit"), images(3, (3, 16, 24))
    small = build("vit", (3, 16, 24))
    small.load_state_dict({**vit.state_dict(), "body.pos_embed": small.body.pos_embed})
    prefix, grid = vit.body.pos_embed[:, :1], vit.body.pos_embed[:, 1:].unflatten(1, (8, 8)).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (4, 6), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    small.body.pos_embed.data = torch.cat([prefix, resized], 1).detach()
    torch.testing.assert_close(vit.tokens_of(crops), small.tokens_of(crops))
    assert vit(crops).shape == (3, 64)
    hidden = pattern(3, 24, 12)
    torch.testing.assert_close(vit.tokens_of(crops, hidden), small.tokens_of(crops, hidden))


def test_impossible_masks_and_sizes_are_refused() -> None:
    vit, x, hidden = build("vit"), images(4), pattern(4, 64, 32)
    uneven = hidden.clone()
    uneven[0] = False
    every = torch.ones_like(hidden)
    refused(SpecError, "equally many of the 64 patches", "found 32 to 64", when=lambda: vit.features(x, "cls", uneven))
    refused(
        SpecError,
        "reads 64 patches an image, found a mask over 16",
        when=lambda: vit.features(x, "cls", pattern(4, 16, 8)),
    )
    refused(SpecError, "found 0 to 0", when=lambda: vit.tokens_of(x, every))
    refused(SpecError, "choose pooled or mean_patch", when=lambda: vit.features(x, "tokens", hidden))
    refused(SpecError, "found images of 18x18 pixels and patch 4", when=lambda: vit(images(4, (3, 18, 18))))
    cnn = build("cnn")
    for representation in ("pooled", "layer:stages.0"):
        refused(SpecError, "CNN has no patches to hide", when=lambda r=representation: cnn.features(x, r, hidden))


# ---------------------------------------------------------------- weights
def timm_vit(seed: int, **options) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(**{"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 2} | options)


def test_weights_come_from_every_kind_of_file(tmp_path: Path) -> None:
    x = images(2)
    for name in ("mlp", "cnn", "resnet9", "resnet18", "vit"):
        source = build(name, seed=1)
        source.train()(x)
        state = source.eval().state_dict()
        files = {
            "plain.safetensors": state,
            "plain.pt": state,
            "nested.pth": {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}},
            "model.pt": {"model": {f"module.backbone.{key}": value for key, value in state.items()}, "args": {"lr": 1}},
            "method.safetensors": {f"encoder.{key}": value for key, value in state.items()}
            | {"projector.layers.0.weight": torch.ones(2), "teacher.0.body.cls_token": torch.ones(2)},
            "body.pt": {f"body.{key}": value for key, value in state.items()},
            "double.pt": {key: value.double() for key, value in state.items()},
        }
        for file, content in files.items():
            path = tmp_path / f"{name}_{file}"
            save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
            assert torch.equal(build(name, weights=path)(x), source(x)), path.name
        assert not torch.equal(build(name)(x), source(x))


def test_weights_leave_the_generator_where_a_fresh_encoder_leaves_it(tmp_path: Path) -> None:
    save_file(build("cnn", seed=1).state_dict(), tmp_path / "cnn.safetensors")
    build("cnn")
    expected = torch.rand(3)
    build("cnn", weights=tmp_path / "cnn.safetensors")
    assert torch.equal(torch.rand(3), expected)


def test_files_of_torchvision_and_timm_fit_without_their_classifiers(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=7).eval()
    old = {key: value for key, value in network.state_dict().items() if "num_batches_tracked" not in key}
    torch.save(old, tmp_path / "resnet18.pth")
    x = images(2, (3, 64, 64))
    encoder = build("resnet18", (3, 64, 64), tmp_path / "resnet18.pth", stem="imagenet")
    network.fc = nn.Identity()
    assert torch.equal(encoder(x), network((x - 0.5) / 0.5))
    vit = timm_vit(1, num_classes=5).eval()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    x = images(2)
    assert torch.equal(
        build("vit", weights=tmp_path / "vit.safetensors").tokens_of(x), vit.forward_features((x - 0.5) / 0.5)
    )


def test_position_embeddings_of_other_sizes_are_interpolated(tmp_path: Path) -> None:
    source, x = build("vit", seed=1), images(2, (3, 24, 16))
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    torch.testing.assert_close(build("vit", (3, 24, 16), tmp_path / "vit.safetensors")(x), source(x))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = build("cnn").state_dict()
    less = {key: value for key, value in state.items() if not key.startswith("stages.0.1.w")}
    save_file(less, tmp_path / "less.safetensors")
    save_file(less | {"extra": torch.ones(1), "more": torch.ones(1)}, tmp_path / "other.safetensors")
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    save_file(timm_vit(0, patch_size=8).state_dict(), tmp_path / "patch8.safetensors")

    def fit(file: str, name: str, shape: tuple = CIFAR, **options) -> None:
        build(name, shape, tmp_path / file, **options)

    refused(SpecError, "1 missing (such as 'stages.0.1.weight') of its", when=lambda: fit("less.safetensors", "cnn"))
    refused(
        SpecError,
        "1 missing (such as 'stages.0.1.weight') and 2 unexpected (such as 'extra')",
        when=lambda: fit("other.safetensors", "cnn"),
    )
    refused(
        SpecError,
        "'body.conv1.weight' should be (64, 3, 3, 3), found (64, 3, 7, 7)",
        when=lambda: fit("resnet18.pth", "resnet18"),
    )
    refused(
        SpecError,
        "should be (64, 1, 7, 7), found (64, 3, 7, 7)",
        when=lambda: fit("resnet18.pth", "resnet18", (1, 28, 28), stem="imagenet"),
    )
    refused(
        SpecError,
        "80 missing (such as 'body.layer1.2.conv1.weight') of its 180 tensors",
        when=lambda: fit("resnet18.pth", "resnet34", stem="imagenet"),
    )
    refused(
        SpecError,
        "'body.patch_embed.proj.weight' should be (64, 3, 4, 4), found (64, 3, 8, 8)",
        when=lambda: fit("patch8.safetensors", "vit"),
    )
    refused(SpecError, "found no file", when=lambda: fit("nowhere.pt", "cnn"))


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"model": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise" * 99)
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 99)
    for file in ("trap.pt", "module.pt", "noise.pt"):
        refused(
            DataError,
            "cannot be read as a state dict of tensors",
            when=lambda file=file: build("cnn", weights=tmp_path / file),
        )
    refused(
        DataError, "cannot be read as safetensors", when=lambda: build("cnn", weights=tmp_path / "noise.safetensors")
    )
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert (tmp_path / "sprung").exists()  # the trap works
    for content in (torch.ones(3), {}, {"epoch": 3, "weight": torch.ones(2)}):
        torch.save(content, tmp_path / "other.pt")
        refused(DataError, "should hold a state dict", when=lambda: build("cnn", weights=tmp_path / "other.pt"))


def test_a_digest_tells_weights_apart(tmp_path: Path) -> None:
    path = tmp_path / "cnn.safetensors"
    assert weights_digest(EncoderSpec(name="cnn")) == ""
    for name in ("timm:vit_tiny_patch16_224", "torchvision:ResNet50_Weights.IMAGENET1K_V2"):
        assert weights_digest(EncoderSpec(name="cnn", weights=name)) == name
    found = []
    for seed in (0, 1):
        save_file(build("cnn", seed=seed).state_dict(), path)
        shutil.copy(path, tmp_path / f"copy{seed}")
        for file in (path, tmp_path / f"copy{seed}"):
            found.append(weights_digest(EncoderSpec(name="cnn", weights=str(file))))
            assert found[-1] == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert found[0] == found[1] and found[2] == found[3] and found[0] != found[2]
    refused(SpecError, "found no file", when=lambda: weights_digest(EncoderSpec(weights=str(tmp_path / "nowhere"))))


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A network of the files put into it, by the end of their address; `asked` lists what was fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    files: dict = {"asked": []}

    def fetch(url: str, path: str, digest: str | None = None, progress: bool = True) -> None:
        files["asked"].append((url, digest))
        found = [file for end, file in files.items() if end != "asked" and url.endswith(end)]
        if not found:
            raise urllib.error.URLError("Name or service not known")
        shutil.copy(found[0], path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    return files


def test_named_weights_of_torchvision_are_downloaded_once(net: dict, tmp_path: Path) -> None:
    network = torchvision.models.resnet18().eval()
    torch.save(network.state_dict(), tmp_path / "served")
    net["resnet18-f37072fd.pth"] = tmp_path / "served"
    network.fc, x = nn.Identity(), images(2, (3, 64, 64))
    name = "torchvision:ResNet18_Weights.IMAGENET1K_V1"
    transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    expected = network(torchvision.transforms.functional.normalize(x, transform.mean, transform.std))
    for _ in range(2):
        encoder = build("resnet18", (3, 64, 64), name, stem="imagenet", pixels="imagenet")
        torch.testing.assert_close(encoder(x), expected)
    assert len(net["asked"]) == 1 and net["asked"][0][1] == "f37072fd"  # torch.hub checks the file's SHA-256 by it
    refused(
        SpecError,
        "expect pixels of mean [0.485, 0.456, 0.406]",
        "the encoder's have [0.5] and [0.5]; change its option pixels",
        when=lambda: build("resnet18", (3, 64, 64), name, stem="imagenet"),
    )


def test_named_weights_of_timm_are_downloaded(net: dict, tmp_path: Path) -> None:
    served = timm_vit(1, img_size=224, patch_size=16, embed_dim=192, depth=12, num_heads=3).eval()
    save_file(served.state_dict(), tmp_path / "served")
    net["timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors"] = tmp_path / "served"
    x = images(1, (3, 224, 224))
    encoder = build("vit_tiny", (3, 224, 224), "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", patch=16)
    assert torch.equal(encoder.tokens_of(x), served.forward_features((x - 0.5) / 0.5))
    assert len(net["asked"]) == 1
    build("vit_tiny", (3, 64, 64), "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", patch=16)
    assert len(net["asked"]) == 1


def test_downloads_that_fail_say_what_to_do(net: dict, tmp_path: Path) -> None:
    refused(
        DataError,
        "Name or service not known",
        "/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors elsewhere and give the path",
        when=lambda: build("vit_tiny", weights="timm:vit_tiny_patch16_224", patch=16),
    )
    refused(
        DataError,
        "resnet50-11ad3fa6.pth elsewhere and give the path",
        when=lambda: build(
            "resnet50", weights="torchvision:ResNet50_Weights.IMAGENET1K_V2", stem="imagenet", pixels="imagenet"
        ),
    )
    assert not list((tmp_path / "torch").rglob("*.*"))
    for name in ("timm:vit_teeny", "timm:vit_tiny_patch16_224.nowhere"):
        refused(SpecError, "timm has no weights", when=lambda name=name: build("vit_tiny", weights=name, patch=16))
    for name in ("ResNet50", "ResNet50_Weights.V9", "FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V2"):
        refused(
            SpecError,
            f"torchvision has no weights '{name}' of an image classifier",
            when=lambda name=name: build("resnet50", weights=f"torchvision:{name}"),
        )
