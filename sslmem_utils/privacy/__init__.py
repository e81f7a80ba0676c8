"""Differential privacy: DP-SGD training of per-image losses, its budget, controls without privacy, and attacks.

    base = privacy.experiment("fashion_mnist", shared=0, candidate=50, external=1000, epochs=1200, batch=50)
    design = privacy.design(base, epsilons=[20, 8], delta=1e-4, norm=0.1, noises=[1.0], norms=[0.1], early=[0.1, 0.5])
    table = privacy.measure(design, range(3), delta=1e-4)    # one row an arm and seed
    privacy.matched(table, "epsilon 8")                      # each control at the accuracy of that arm

Steps are Opacus's (`training.private`). Noise, clipping and Poisson batches are fields of the TrainSpec, so private
encoders are stored, scored and probed as all others are. The budget holds for one encoder and for adding or removing
one image. What an attack finds is a lower limit of what is there: that it fails proves nothing, a budget does.
"""

from .accounting import bound, epsilon, noise_for
from .arms import NO_PRIVACY, Arm, design, experiment
from .attacks import at_rate, attack
from .measuring import images, matched, measure, setting

__all__ = [
    "NO_PRIVACY",
    "Arm",
    "at_rate",
    "attack",
    "bound",
    "design",
    "epsilon",
    "experiment",
    "images",
    "matched",
    "measure",
    "noise_for",
    "setting",
]
