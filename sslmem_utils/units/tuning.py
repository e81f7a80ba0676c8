"""Fine-tuning single layers with labels: does it pay to tune the layers that memorize most?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from .. import probes, training
from ..methods import Method
from ..specs import TrainSpec, digest, seed_of
from ..store import Store
from ..versions import version_of
from .activity import evaluating
from .depth import check
from .depth import layers as layers_of

KIND = "tunings"
EPOCHS, BATCH, RATE = 30, 125, 1e-3  # AdamW without weight decay, half a cosine down to 0
HEAD, ALL = "head", "all layers"


def tuned(
    spec: TrainSpec,
    names: Sequence[str] = (),
    *,
    fit: int = probes.FIT,
    test: int = probes.TEST,
    store: Store | None = None,
) -> pd.DataFrame:
    """Accuracy of an encoder after one layer and a classifier were trained on labels (paper: Table 5).

    One row for the head alone, each layer with the head, and all layers with it: tuned, accuracy (of the test images,
    in [0, 1]), parameters (trained, without the head's). Images and labels are those of `probes.of`: none is in the
    four sets. Everything else stays as it is, batch norm's statistics included. `names`: layers (default: the chain
    `blocks`). The result is stored.
    """
    store = store or Store()
    order = layers_of(spec, names)
    wanted = list(order.loc[order["chain"] != "parts", "layer"])
    encoder = training.key(spec, training.split_of(spec).fingerprint)
    name = digest(encoder, wanted, fit, test, EPOCHS, BATCH, RATE, version_of("units", "probes"))

    def write(folder: Path) -> None:
        images = probes.sample(spec, fit, test)
        training.train(spec, store)
        torch.set_num_threads(spec.compute.threads)
        model = training.load(spec, store)
        arms = {HEAD: [], **{layer: [layer] for layer in wanted}, ALL: wanted}
        rows = [{"tuned": arm, **_one(model, layers, images, spec.seed)} for arm, layers in arms.items()]
        pd.DataFrame(rows).to_parquet(folder / "tuned.parquet", index=False)

    meta = {"encoder": encoder, "layers": wanted, "fit": fit, "test": test}
    return pd.read_parquet(store.compute(KIND, name, write, meta) / "tuned.parquet")


def tuned_model(model: Method, layers: Sequence[str], images: probes.Sample, seed: int = 0) -> tuple[Method, nn.Linear]:
    """A copy of the model whose `layers` were trained with a linear head on the images for fitting, and that head.

    Cross-entropy on the standardised representation that probes use, in evaluation mode throughout: no running
    statistic moves. The head starts at 0; batches are drawn from `seed`.
    """
    model = copy.deepcopy(model).eval()
    check(model.encoder, layers)
    known = model.encoder.modules_by_name()
    device, where = next(model.parameters()).device, probes.representation_of(model)
    for p in model.parameters():
        p.requires_grad_(False)
    trained = list(dict.fromkeys(p for layer in layers for p in known[layer].parameters()))
    for p in trained:
        p.requires_grad_(True)
    x = (images.pixels[torch.from_numpy(~images.test)].float() / 255).to(device)
    y = torch.from_numpy(images.labels[~images.test]).to(device)
    with torch.no_grad():
        start = model.features(x, where)
        shift, scale = start.mean(0), start.std(0).clamp(min=1e-6)
    head = nn.utils.skip_init(nn.Linear, start.shape[1], int(images.labels.max()) + 1, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    generator, count = torch.Generator().manual_seed(seed_of("tune", seed)), -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW([*trained, *head.parameters()], RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * count)
    for _ in range(EPOCHS):
        for at in torch.randperm(len(x), generator=generator).to(device).chunk(count):
            z = model.features(x[at], where) if trained else start[at]
            loss = F.cross_entropy(head((z - shift) / scale), y[at])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():  # the head reads the representation as it is
        head.weight /= scale
        head.bias -= head.weight @ shift
    return model, head


def _one(model: Method, layers: Sequence[str], images: probes.Sample, seed: int) -> dict[str, float]:
    tuned_one, head = tuned_model(model, layers, images, seed)
    test = torch.from_numpy(images.test)
    with evaluating(tuned_one), torch.no_grad():
        found = torch.from_numpy(probes.features(tuned_one, images.pixels[test], probes.representation_of(tuned_one)))
        right = head(found.to(head.weight.device)).argmax(1).cpu() == torch.from_numpy(images.labels[images.test])
    trained = {p for layer in layers for p in tuned_one.encoder.modules_by_name()[layer].parameters()}
    return {"accuracy": float(right.float().mean()), "parameters": sum(p.numel() for p in trained)}
