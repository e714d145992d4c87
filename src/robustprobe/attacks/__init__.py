"""Attacks: threat x objective x optimiser. One file is one attack."""

from robustprobe.attacks._phases import GradientAttack, Phase, PhasedAttack
from robustprobe.attacks._search import Entries, LossValues, Objective, Passes, PerImageRandom, SearchResult, unjudged
from robustprobe.attacks.base import Attack, Attacked, Victim, load_attack

__all__ = [
    "Attack",
    "Attacked",
    "Entries",
    "GradientAttack",
    "LossValues",
    "Objective",
    "Passes",
    "PerImageRandom",
    "Phase",
    "PhasedAttack",
    "SearchResult",
    "Victim",
    "load_attack",
    "unjudged",
]
