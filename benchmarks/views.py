"""Views per second on one core, against lightly's SimCLRTransform on PIL images in a DataLoader without workers.

    python -m benchmarks.views            # one to two minutes
    python -m benchmarks.views --quick    # about 20 seconds

Both sides make two views of the same batch by turns, in one process with one thread, on its CPU clock, which leaves out
waiting for other programs but not what they take from the caches. Given are the median over repeats, the smallest
and largest in brackets, and the ratio of paired repeats. Ours includes the drawing and starts from uint8 tensors.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from lightly.transforms import SimCLRTransform
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from sslmem_utils import views

# Batches as in the quick experiments: shape, images a batch, policy, and the same policy in lightly's terms.
GREY = {"cj_bright": 0.1, "cj_contrast": 0.1, "cj_sat": 0.0, "cj_hue": 0.0, "min_scale": 0.5, "random_gray_scale": 0.0}
CASES = (
    ((3, 32, 32), 256, "simclr", {"cj_strength": 0.5}),
    ((1, 28, 28), 125, "fashion", GREY),
    ((1, 8, 8), 125, "digits", {**GREY, "hf_prob": 0.0}),
)


def real_images(n: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Handwritten digits as uint8 (n, c, h, w), enlarged to the shape asked for."""
    digits = torch.from_numpy(load_digits().images[:n] * (255 / 16)).to(torch.float32)[:, None]
    enlarged = torch.nn.functional.interpolate(digits, size=shape[1:], mode="bilinear")
    return enlarged.round().to(torch.uint8).repeat(1, shape[0], 1, 1)


def lightly_loader(images: torch.Tensor, options: dict[str, float]) -> DataLoader:
    """One batch an epoch of two views of each image, made from PIL images in this process."""
    transform = SimCLRTransform(input_size=images.shape[-1], gaussian_blur=0.0, normalize=None, **options)
    arrays = images.permute(0, 2, 3, 1).squeeze(-1).numpy()
    pictures = [Image.fromarray(array) for array in arrays]

    class Views(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, row: int) -> list[torch.Tensor]:
            return transform(pictures[row])

    return DataLoader(Views(), batch_size=len(pictures), shuffle=True)


def seconds(work: Callable[[], object], times: int) -> float:
    """CPU seconds of one of `times` runs."""
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def spread(values: list[float], digits: int = 0) -> str:
    """Median [smallest..largest]."""
    return f"{statistics.median(values):,.{digits}f} [{min(values):,.{digits}f}..{max(values):,.{digits}f}]"


def compare(shape: tuple[int, int, int], n: int, policy: str, options: dict[str, float], repeats: int) -> str:
    """One row of the table: views per second of both sides and their ratio."""
    images, ids, numbers = real_images(n, shape), torch.arange(n), torch.arange(2)
    spec, loader = views.named(policy), lightly_loader(images, options)
    drawn = views.draw(spec, ids, numbers, 0, shape)
    sides = {
        "lightly": (lambda: next(iter(loader)), 1),
        "ours": (lambda: views.views(images, ids, spec, numbers, 0), 10),
        "draw": (lambda: views.draw(spec, ids, numbers, 0, shape), 10),
        "apply": (lambda: views.apply(images, drawn), 10),
    }
    for work, _ in sides.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, (work, times) in sides.items():
            rates[name].append(2 * n / seconds(work, times))
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["lightly"], strict=True)]
    cells = [policy, "x".join(map(str, shape)), str(n), *(spread(rates[name]) for name in sides), spread(ratios, 1)]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 repeats instead of 15")
    repeats = 3 if parser.parse_args().quick else 15
    torch.set_num_threads(1)
    print("| policy | shape | images | lightly, views/s | ours, views/s | draw alone | apply alone | ours / lightly |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        print(compare(*case, repeats), flush=True)


if __name__ == "__main__":
    main()
