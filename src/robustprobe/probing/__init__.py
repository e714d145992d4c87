"""Heads fitted on frozen features: candidates of a recipe, chosen on held-out images, cached by content."""

from robustprobe.core.files import cache_folder
from robustprobe.probing.features import MOST_IN_MEMORY, FeatureSet, extract, label_size
from robustprobe.probing.fit import Candidate, FitJob, Fitted, fit_head, train_heads
from robustprobe.probing.head_plan import HeadCost, HeadPlan, plan_heads
from robustprobe.probing.probes import (
    TrainData,
    fit_probes,
    head_fingerprint,
    load_head,
    mean_scores,
    preprocessing_for,
    save_head,
    spec_of_task,
    train_data,
)
from robustprobe.probing.zero_shot import with_digest

__all__ = [
    "MOST_IN_MEMORY",
    "Candidate",
    "FeatureSet",
    "FitJob",
    "Fitted",
    "HeadCost",
    "HeadPlan",
    "TrainData",
    "cache_folder",
    "extract",
    "fit_head",
    "fit_probes",
    "head_fingerprint",
    "label_size",
    "load_head",
    "mean_scores",
    "plan_heads",
    "preprocessing_for",
    "save_head",
    "spec_of_task",
    "train_data",
    "train_heads",
    "with_digest",
]
