"""robustprobe: how robust is a vision encoder, for everything it will be used for?"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustprobe.api import AttackResult, attack, evaluate, fit_probe, minimal_eps
    from robustprobe.attacks import Attack
    from robustprobe.core.errors import UserError
    from robustprobe.core.types import FeatureDims, Features, LabelSpace, Sample
    from robustprobe.datasets import Dataset, load_dataset
    from robustprobe.defences import Defence
    from robustprobe.encoders import Encoder, EncoderCard, load_encoder
    from robustprobe.tasks import Head, Model, Task
    from robustprobe.training import harden

_HOMES = {
    "AttackResult": "api",
    "attack": "api",
    "evaluate": "api",
    "fit_probe": "api",
    "minimal_eps": "api",
    "Attack": "attacks",
    "Dataset": "datasets",
    "load_dataset": "datasets",
    "Encoder": "encoders",
    "EncoderCard": "encoders",
    "load_encoder": "encoders",
    "UserError": "core.errors",
    "Defence": "defences",
    "harden": "training",
    "Head": "tasks",
    "Model": "tasks",
    "Task": "tasks",
    "Features": "core.types",
    "LabelSpace": "core.types",
    "Sample": "core.types",
    "FeatureDims": "core.types",
}

__all__ = [
    "Attack",
    "AttackResult",
    "Dataset",
    "Defence",
    "Encoder",
    "EncoderCard",
    "FeatureDims",
    "Features",
    "Head",
    "LabelSpace",
    "Model",
    "Sample",
    "Task",
    "UserError",
    "attack",
    "evaluate",
    "fit_probe",
    "harden",
    "load_dataset",
    "load_encoder",
    "minimal_eps",
]


def __getattr__(name: str) -> Any:
    # Public names load on first use, so that `import robustprobe` and `robustprobe --help` do not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'robustprobe' has no attribute '{name}'")
    return getattr(importlib.import_module(f"robustprobe.{_HOMES[name]}"), name)
