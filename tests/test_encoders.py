"""Encoders, methods and the registry that finds them."""

import pytest
import torch
from torch import nn

from sslmem_utils import encoders, methods
from sslmem_utils.encoders import ENCODERS, Encoder
from sslmem_utils.errors import SpecError
from sslmem_utils.specs import EncoderSpec, MethodSpec


@pytest.mark.parametrize(
    ("name", "shape", "dim", "count"),
    [
        ("mlp", (1, 8, 8), 256, 64 * 256 + 2 * 256 * 256 + 3 * 512),
        ("cnn", (3, 32, 32), 128, 9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128)),
        ("resnet18", (3, 32, 32), 512, 11_168_832),  # torchvision's 11,689,512 less fc and the larger stem
        ("vit", (3, 32, 32), 64, None),
    ],
)
def test_an_encoder_maps_images_to_vectors(name: str, shape: tuple, dim: int, count: int | None) -> None:
    encoder = encoders.build(EncoderSpec(name=name), shape).eval()
    out = encoder(torch.rand(2, *shape))
    assert out.shape == (2, dim) and encoder.dim == dim
    assert torch.equal(encoder.features(torch.ones(1, *shape)), encoder(torch.ones(1, *shape)))
    assert count is None or encoders.parameters(encoder) == count


def test_resnet18_has_the_small_image_stem() -> None:
    body = encoders.build(EncoderSpec(name="resnet18"), (3, 32, 32)).body
    assert body.conv1.stride == (1, 1) and isinstance(body.maxpool, nn.Identity)
    assert body.layer4(body.layer3(body.layer2(body.layer1(body.conv1(torch.rand(1, 3, 32, 32)))))).shape[-1] == 4


def test_vit_representations_have_their_shapes() -> None:
    vit = encoders.build(EncoderSpec(name="vit", options={"patch": 4}), (3, 32, 32))
    x = torch.rand(2, 3, 32, 32)
    shapes = {name: tuple(vit.features(x, name).shape) for name in ("pooled", "cls", "mean_patch", "tokens")}
    assert shapes == {"pooled": (2, 64), "cls": (2, 64), "mean_patch": (2, 64), "tokens": (2, 64 * 64)}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (EncoderSpec(name="resnet81"), "unknown encoder 'resnet81'; did you mean 'resnet18'?"),
        (EncoderSpec(name="mlp", options={"wide": 3}), "has no option 'wide'; it has width, depth"),
        (EncoderSpec(name="mlp", options={"width": True}), "must be int, found True"),
        (EncoderSpec(name="vit", options={"patch": 5}), "sides divisible by its patch"),
    ],
)
def test_bad_encoders_are_refused(spec: EncoderSpec, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        encoders.build(spec, (3, 32, 32))
    assert sentence in str(caught.value)


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
        built = encoders.build(EncoderSpec(name="test_flat", options={"scale": 3}), (1, 2, 2))
        assert built(torch.ones(1, 1, 2, 2)).tolist() == [[3, 3, 3, 3]]
    finally:
        del ENCODERS._entries["test_flat"]


def nt_xent(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent written out from Chen et al. 2020, Eq. 1, one pair at a time."""
    z = nn.functional.normalize(torch.cat([a, b]), dim=1)
    n, losses = len(a), []
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        others = torch.stack([z[i] @ z[j] / temperature for j in range(2 * n) if j != i])
        losses.append(torch.logsumexp(others, 0) - z[i] @ z[positive] / temperature)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_simclr_is_nt_xent_of_its_projections(layers: int) -> None:
    torch.manual_seed(0)
    encoder = encoders.build(EncoderSpec(), (1, 8, 8))
    method = methods.build(MethodSpec(options={"layers": layers, "temperature": 0.3}), encoder).eval()
    x = torch.rand(6, 2, 1, 8, 8)
    expected = nt_xent(method.projector(encoder(x[:, 0])), method.projector(encoder(x[:, 1])), 0.3)
    torch.testing.assert_close(method.loss(x), expected, rtol=1e-5, atol=1e-6)
    assert method.features(x[:, 0], "projector").shape == (6, 64)
    assert len([m for m in method.projector.modules() if isinstance(m, nn.Linear)]) == layers
