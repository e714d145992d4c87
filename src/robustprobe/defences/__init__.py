"""Defences: fine-tuning objectives that harden an encoder without labels. One file is one defence."""

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
    "LayerFeatures",
    "LossTerms",
    "Options",
    "Recipe",
    "defence_kind",
    "load_defence",
]
