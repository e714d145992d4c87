"""Defences: fine-tuning objectives that harden an encoder without labels. One file is one defence."""

from robustprobe.defences.base import Defence, FitSurrogates, Options, Outcome, Recipe, Seen, defence_kind, load_defence

__all__ = ["Defence", "FitSurrogates", "Options", "Outcome", "Recipe", "Seen", "defence_kind", "load_defence"]
