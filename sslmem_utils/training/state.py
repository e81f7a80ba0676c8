"""The state of one training: model, optimizer and metrics; kept in checkpoints, restored to the bit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from .. import encoders, methods
from ..methods import Method
from ..specs import TrainSpec, seed_of

COLUMNS = ("epoch", "loss", "lr", "knn", "spread")  # of the metrics, one row an epoch


@dataclass
class Training:
    """Everything that changes while an encoder is trained; `tensors` and `restore` make it resumable.

    `metrics` has one row of COLUMNS an epoch: mean loss, learning rate of its last step, and, where they were
    measured, kNN accuracy and spread (`monitor`), else NaN.
    """

    spec: TrainSpec
    model: Method
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    metrics: list[tuple[float, ...]] = field(default_factory=list)

    @staticmethod
    def start(spec: TrainSpec, shape: tuple[int, int, int]) -> Training:
        """A fresh model and optimizer. torch's global generator is seeded, because layers initialise from it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("init", spec.seed))
            model = methods.build(spec.method, encoders.build(spec.encoder, shape))
        if any(p.dim() == 4 for p in model.parameters()):
            model = model.to(memory_format=torch.channels_last)
        model = model.to(spec.compute.device)
        return Training(spec, model, _optimizer(spec, model))

    def tensors(self) -> dict[str, Tensor]:
        """Model, optimizer, epoch and metrics as one flat dictionary of tensors."""
        flat = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            flat |= {f"optimizer.{number}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        flat["epoch"] = torch.tensor(self.epoch)
        flat["metrics"] = torch.tensor(self.metrics, dtype=torch.float64).view(-1, len(COLUMNS))
        return {name: value.detach().cpu().contiguous() for name, value in flat.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from the state written by `tensors`."""
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        whole = self.optimizer.state_dict()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, entry = name.split(".", 2)
                like = parameters[int(number)]
                if value.shape == like.shape:  # fused steps ask for the parameter's own memory format
                    value = torch.empty_like(like).copy_(value)
                state.setdefault(int(number), {})[entry] = value
        self.optimizer.load_state_dict({**whole, "state": state})
        self.epoch, self.metrics = int(tensors["epoch"]), [tuple(row) for row in tensors["metrics"].tolist()]

    def table(self) -> pd.DataFrame:
        """The metrics, one row an epoch."""
        return pd.DataFrame(self.metrics, columns=list(COLUMNS)).astype({"epoch": int})


def _optimizer(spec: TrainSpec, model: Method) -> torch.optim.Optimizer:
    """Weights decay; biases and the parameters of norms do not, and LARS takes plain steps there, as in its papers."""
    late = {id(p) for p in model.late()}  # fused steps of a group want that all of it begin at once
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1 and id(p) not in late], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        {"params": [p for p in trained if p.dim() > 1 and id(p) in late], "weight_decay": spec.weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    match spec.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, spec.lr, momentum=spec.momentum, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, spec.lr, betas=(spec.momentum, spec.beta2), fused=True)
        case "lars":
            from lightly.utils.lars import LARS

            return LARS(groups, spec.lr, momentum=spec.momentum)


def learning_rate(spec: TrainSpec, step: int, steps: int) -> float:
    """Linear warm-up to `lr` over the first `warmup` share of all steps, then half a cosine down to 0; never above."""
    rise = spec.warmup * steps
    if step < rise:
        return spec.lr * min(1.0, (step + 1) / rise)
    return spec.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))
