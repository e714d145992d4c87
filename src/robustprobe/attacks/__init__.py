"""Attacks: threat x objective x optimiser. One file is one attack."""

from robustprobe.attacks._base import Attack, Victim, load_attack

__all__ = ["Attack", "Victim", "load_attack"]
