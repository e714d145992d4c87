"""Hardening: fine-tune an encoder without labels so that attacks move its features less. One file is one defence."""

from robustprobe.hardening._base import Defence, Options, Outcome, Recipe, Seen
from robustprobe.hardening._run import harden
from robustprobe.hardening._spec import HardenSpec, make_spec

__all__ = ["Defence", "HardenSpec", "Options", "Outcome", "Recipe", "Seen", "harden", "make_spec"]
