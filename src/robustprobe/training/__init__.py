"""Hardening: the training loop of all defences, its data, state and result on disk."""

from robustprobe.training.spec import HardenSpec, make_spec

__all__ = ["HardenSpec", "make_spec"]
