"""Defences: fine-tuning objectives that harden an encoder without labels. One file is one defence."""

from robustprobe.defences._ascent import InnerAttack, ascend, linf
from robustprobe.defences._distance import Tokens
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
    "LossTerms",
    "Options",
    "Recipe",
    "Tokens",
    "ascend",
    "defence_kind",
    "linf",
    "load_defence",
]
