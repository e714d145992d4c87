"""Heads fitted on frozen features: candidates of a recipe, chosen on held-out images, cached by content."""

from robustprobe.probing.cache import cache_folder
from robustprobe.probing.features import FeatureSet, extract, label_size
from robustprobe.probing.fit import Candidate, Fitted, Lesson, fit_head, learn
from robustprobe.probing.probes import (
    TrainData,
    fit_probes,
    fit_seconds,
    head_fingerprint,
    images_seen,
    is_cached,
    kept_features,
    load_head,
    mean_scores,
    model_of,
    save_head,
    served,
    train_data,
)

__all__ = [
    "Candidate",
    "FeatureSet",
    "Fitted",
    "Lesson",
    "TrainData",
    "cache_folder",
    "extract",
    "fit_head",
    "fit_probes",
    "fit_seconds",
    "head_fingerprint",
    "images_seen",
    "is_cached",
    "kept_features",
    "label_size",
    "learn",
    "load_head",
    "mean_scores",
    "model_of",
    "save_head",
    "served",
    "train_data",
]
