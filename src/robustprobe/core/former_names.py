"""Names of version 0.1.0 that changed, and today's: old results are read, old input is refused with the new name."""

from types import MappingProxyType

FORMER_ATTACKS = MappingProxyType({"layout": "surrogate", "worst": "ensemble", "smallest": "min-eps"})

FORMER_NAMES = MappingProxyType({"Widths": "FeatureDims", "smallest_eps": "minimal_eps"})
"""Public names in Python; they work for one minor version, with a warning."""

FORMER_KEYS = MappingProxyType({"harmed": "extreme_examples", "checks": "sanity_images", "neighbours": "knn"})
"""Keys of suites."""

FORMER_OPTIONS = MappingProxyType(
    {
        "--harmed": "--extreme-examples",
        "--checks": "--sanity-images",
        "--protect": "--tokens",
        "--directions": "--feature-rank",
    }
)
"""Options of commands."""

FORMER_FIELDS = MappingProxyType({"made_for": "target_task", "place": "position"})
"""Fields of records and groups of example images."""

FORMER_STATISTICS = MappingProxyType(
    {
        "top-1": {"kind": "proportion", "columns": ["correct"]},
        "mIoU": {"kind": "mean_iou", "columns": ["intersection", "predicted", "labelled"]},
        "RMSE": {"kind": "mean", "columns": ["rmse"]},
    }
)
"""How metrics of records before schema 3 are computed from rows."""

FORMER_DISPLAYS = MappingProxyType(
    {
        "classification": {"kind": "classes"},
        "segmentation": {"kind": "class map"},
        "depth": {"kind": "scalar map", "scale": 1000.0, "unit": "m"},
    }
)
"""How answers in groups before schema 3 are shown."""
FORMER_KINDS = MappingProxyType({"most harmed": "most damaged"})
"""Kinds of example images."""

SAW_NOTHING = frozenset({"clean", "noise"})
"""Attacks that see neither encoder nor head: results of earlier versions do not say so themselves."""
