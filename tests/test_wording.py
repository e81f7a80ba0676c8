"""Names as people write them, and where they must stay as in code."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from sslmem_utils import claims, data, encoders, figures, methods
from sslmem_utils.runs import display
from sslmem_utils.wording import SPELLED, spelled


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fashion_mnist: simclr, then mae.", "Fashion-MNIST: SimCLR, then MAE."),
        ("cifar10 (barlow_twins on vit_tiny)", "CIFAR-10 (Barlow Twins on ViT-tiny)"),
        ("mnist, kmnist and fashion_mnist", "MNIST, KMNIST and Fashion-MNIST"),
        ("run `sslmem data import mnist` with dataset=cifar10", None),
        ("data/cifar10/images, cifar10.zip, mnist10k, mae_loss, dino() and 'simclr'", None),
        ("supervised on digits", None),
    ],
)
def test_names_are_spelled_and_code_is_not(text: str, expected: str | None) -> None:
    assert spelled(text) == (text if expected is None else expected)
    assert spelled(spelled(text)) == spelled(text)


def test_only_names_that_exist_are_known() -> None:
    known = {*data.registry.entries(), *methods.METHODS.names(), *encoders.ENCODERS.names()}
    assert set(SPELLED) <= known
    assert known - set(SPELLED) <= {"digits", "supervised"}  # words as they are


def test_figures_captions_and_claims_spell_and_tables_do_not() -> None:
    figure, axes = plt.subplots()
    axes.set_title("cifar10")
    axes.set_yticks([0, 1], ["simclr", "fashion_mnist: g"])
    svg = figures.to_svg(figure)
    plt.close(figure)
    for name in ("CIFAR-10", "SimCLR", "Fashion-MNIST: g"):
        assert f">{name}</text>" in svg
    assert "simclr" not in svg and "fashion_mnist" not in svg
    shown = display.table_html(pd.DataFrame({"dataset": ["cifar10"]}), "Scores on cifar10.")
    assert "Scores on CIFAR-10." in shown and "<td>cifar10</td>" in shown
    one = claims.judge("01.1", "More on cifar10.", [claims.measure("cifar10: mean", [1.0, 1.1, 1.2], delta=0.1)])
    text = claims.to_markdown(one)
    assert "More on CIFAR-10." in text and "CIFAR-10: mean" in text and one.endpoints[0].name == "cifar10: mean"
