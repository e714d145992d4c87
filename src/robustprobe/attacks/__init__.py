"""Attacks: threat x objective x optimiser. One file is one attack; `base.py` is the contract."""

from robustprobe.attacks._apgd import apgd
from robustprobe.attacks._embedding_objectives import embedding_objective
from robustprobe.attacks._phases import GradientAttack, Phase, PhasedAttack
from robustprobe.attacks._search import (
    Best,
    Entries,
    LossValues,
    Objective,
    Optimiser,
    Passes,
    PerImageRandom,
    Search,
    SearchResult,
    everything,
    unjudged,
)
from robustprobe.attacks._sign_gradient import sign_gradient
from robustprobe.attacks._task_objectives import default_objective, task_objective
from robustprobe.attacks._universal import BATCH, TRAIN_IMAGES, TrainBatch, TrainBatches, UniversalAttack
from robustprobe.attacks.base import (
    Attack,
    Attacked,
    Victim,
    attack_class,
    load_attack,
    recorded_access,
    target_tasks,
)

__all__ = [
    "BATCH",
    "TRAIN_IMAGES",
    "Attack",
    "Attacked",
    "Best",
    "Entries",
    "GradientAttack",
    "LossValues",
    "Objective",
    "Optimiser",
    "Passes",
    "PerImageRandom",
    "Phase",
    "PhasedAttack",
    "Search",
    "SearchResult",
    "TrainBatch",
    "TrainBatches",
    "UniversalAttack",
    "Victim",
    "apgd",
    "attack_class",
    "default_objective",
    "embedding_objective",
    "everything",
    "load_attack",
    "recorded_access",
    "sign_gradient",
    "target_tasks",
    "task_objective",
    "unjudged",
]
