"""Defences: fine-tuning objectives that harden an encoder without labels. One file is one defence; `base.py` is the
contract.
"""

from robustprobe.core.inner_attack import InnerAttack, ascend, linf
from robustprobe.defences._distance import Layers, Tokens, cosine_distance, squared_distance
from robustprobe.defences._projector import Projected, fitted_projector
from robustprobe.defences.base import (
    Defence,
    FitSurrogates,
    LayerFeatures,
    LossTerms,
    Options,
    Recipe,
    defence_kind,
    load_defence,
)

__all__ = [
    "Defence",
    "FitSurrogates",
    "InnerAttack",
    "LayerFeatures",
    "Layers",
    "LossTerms",
    "Options",
    "Projected",
    "Recipe",
    "Tokens",
    "ascend",
    "cosine_distance",
    "defence_kind",
    "fitted_projector",
    "linf",
    "load_defence",
    "squared_distance",
]
