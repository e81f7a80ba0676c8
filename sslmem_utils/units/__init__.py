"""Memorization inside an encoder: by layer (LayerMem) and by unit (UnitMem, ClassMem).

    names = units.layers(spec)                      # the layers of an encoder, in order of depth
    found = units.scores(base, range(5))            # score tables at every layer: one row an image, layer and seed
    units.layermem(found)                           # LayerMem and Delta-LayerMem, one row a layer and seed
    units.of(f)                                     # UnitMem of every unit, with the image that it fires for most
    units.by_layer(table)                           # the same by layer, and the control: whose image is the strongest?
    units.pruned(f, shares=[0.2])                   # accuracy without the units of most, least and random UnitMem
    units.tuned(f)                                  # accuracy after fine-tuning one layer with a head
    units.each("pruned", specs, shares=[0.2])       # one of these measures of many encoders, in parallel

Source of both measures: Wang et al. 2024 (arXiv 2409.19069), Eqs. 2 to 8 and 13 to 16. Everything is measured in
evaluation mode and with forward hooks, so that residual additions are part of a block's output and neither weights,
running statistics nor the model's mode change. `as_published` shows what the released code measures instead.
"""

from .activity import activity, as_published, evaluating
from .depth import chain_of, encoder_of, layermem, layers, mlp_less_attention, scores, slopes
from .pruning import ARMS, chosen, pruned, silenced
from .published import beside, theirs
from .selectivity import IMAGES, by_layer, classmem, extremes, of, unitmem, warning
from .several import MEASURES, each
from .tuning import tuned, tuned_model

__all__ = [
    "ARMS",
    "IMAGES",
    "MEASURES",
    "activity",
    "as_published",
    "beside",
    "by_layer",
    "chain_of",
    "chosen",
    "classmem",
    "each",
    "encoder_of",
    "evaluating",
    "extremes",
    "layermem",
    "layers",
    "mlp_less_attention",
    "of",
    "pruned",
    "scores",
    "silenced",
    "slopes",
    "theirs",
    "tuned",
    "tuned_model",
    "unitmem",
    "warning",
]
