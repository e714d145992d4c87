"""Attacks: threat x objective x optimiser. One file is one attack."""

from robustprobe.attacks._phases import GradientAttack, Phase, PhasedAttack
from robustprobe.attacks._search import Entries, LossValues, Objective, PerImageRandom, SearchResult, unjudged
from robustprobe.attacks.base import Attack, Attacked, Victim, attack_class, load_attack, recorded_access

__all__ = [
    "Attack",
    "Attacked",
    "Entries",
    "GradientAttack",
    "LossValues",
    "Objective",
    "PerImageRandom",
    "Phase",
    "PhasedAttack",
    "SearchResult",
    "Victim",
    "attack_class",
    "load_attack",
    "recorded_access",
    "unjudged",
]
