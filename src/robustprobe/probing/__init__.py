"""Heads fitted on frozen features: candidates of a recipe, chosen on held-out images, cached by content."""

from robustprobe.probing.cache import cache_folder
from robustprobe.probing.features import FeatureSet, extract, label_size
from robustprobe.probing.fit import Candidate, FitJob, Fitted, fit_head, train_heads
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
    preprocessing_for,
    save_head,
    train_data,
)

__all__ = [
    "Candidate",
    "FeatureSet",
    "FitJob",
    "Fitted",
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
    "load_head",
    "mean_scores",
    "model_of",
    "preprocessing_for",
    "save_head",
    "train_data",
    "train_heads",
]
