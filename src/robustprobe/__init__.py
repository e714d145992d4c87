"""robustprobe: how robust is a vision encoder, for everything it will be used for?"""

import importlib
from typing import TYPE_CHECKING, Any

from robustprobe.core.errors import nearest
from robustprobe.core.former_names import FORMER_NAMES

if TYPE_CHECKING:
    __version__: str
    from robustprobe.api.attack_images import attack
    from robustprobe.api.attack_result import AttackResult
    from robustprobe.api.compare_results import ComparedResults, compare
    from robustprobe.api.evaluate_encoders import evaluate
    from robustprobe.api.fit_heads import fit_probe
    from robustprobe.api.harden_encoder import harden
    from robustprobe.api.minimal_eps import minimal_eps
    from robustprobe.api.plot_results import ResultsPlot, plot, write_report
    from robustprobe.api.results import Results, load_results
    from robustprobe.api.show import show
    from robustprobe.api.zero_shot import zero_shot
    from robustprobe.attacks import Attack
    from robustprobe.core.errors import UserError
    from robustprobe.core.types import FeatureDims, Features, LabelSpace, Sample
    from robustprobe.datasets import Dataset, load_dataset
    from robustprobe.defences import Defence
    from robustprobe.encoders import Encoder, EncoderCard, load_encoder, wrap
    from robustprobe.tasks import Head, Model, Task

_HOMES = {
    "AttackResult": "api.attack_result",
    "attack": "api.attack_images",
    "minimal_eps": "api.minimal_eps",
    "evaluate": "api.evaluate_encoders",
    "fit_probe": "api.fit_heads",
    "Results": "api.results",
    "load_results": "api.results",
    "ComparedResults": "api.compare_results",
    "compare": "api.compare_results",
    "ResultsPlot": "api.plot_results",
    "plot": "api.plot_results",
    "write_report": "api.plot_results",
    "show": "api.show",
    "zero_shot": "api.zero_shot",
    "Attack": "attacks",
    "Dataset": "datasets",
    "load_dataset": "datasets",
    "Encoder": "encoders",
    "EncoderCard": "encoders",
    "load_encoder": "encoders",
    "wrap": "encoders",
    "UserError": "core.errors",
    "Defence": "defences",
    "harden": "api.harden_encoder",
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
    "ComparedResults",
    "Dataset",
    "Defence",
    "Encoder",
    "EncoderCard",
    "FeatureDims",
    "Features",
    "Head",
    "LabelSpace",
    "Model",
    "Results",
    "ResultsPlot",
    "Sample",
    "Task",
    "UserError",
    "__version__",
    "attack",
    "compare",
    "evaluate",
    "fit_probe",
    "harden",
    "load_dataset",
    "load_encoder",
    "load_results",
    "minimal_eps",
    "plot",
    "show",
    "wrap",
    "write_report",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    # Public names load on first use, so that `import robustprobe` and `robustprobe --help` do not import torch.
    if name == "__version__":
        # With its modules for e-mail headers this is slow to import.
        return importlib.import_module("importlib.metadata").version("robustprobe")
    if name in FORMER_NAMES:
        import warnings

        warnings.warn(f"robustprobe.{name} is called {FORMER_NAMES[name]} now.", DeprecationWarning, stacklevel=2)
        name = FORMER_NAMES[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'robustprobe' has no attribute '{name}'.{nearest(name, __all__)}", name=name)
    return getattr(importlib.import_module(f"robustprobe.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
