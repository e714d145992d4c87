"""Attacks: threat x objective x optimiser. One file is one attack."""

from robustprobe.attacks._phases import GradientAttack, Phase, PhasedAttack
from robustprobe.attacks._search import Draws, Entries, Judged, Objective, Outcome, unjudged
from robustprobe.attacks.base import Attack, Attacked, Victim, load_attack

__all__ = [
    "Attack",
    "Attacked",
    "Draws",
    "Entries",
    "GradientAttack",
    "Judged",
    "Objective",
    "Outcome",
    "Phase",
    "PhasedAttack",
    "Victim",
    "load_attack",
    "unjudged",
]
