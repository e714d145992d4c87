"""Names of version 0.1.0 that changed, and today's: old results are read, old input is refused with the new name."""

from types import MappingProxyType

FORMER_ATTACKS = MappingProxyType({"layout": "surrogate", "worst": "ensemble", "smallest": "min-eps"})

FORMER_KEYS = MappingProxyType(
    {
        "harmed": "extreme_examples",
        "checks": "sanity_images",
        "neighbours": "knn",
        "protect": "tokens",
        "directions": "feature_rank",
    }
)
"""Keys of suites and options of commands."""

FORMER_FIELDS = MappingProxyType({"made_for": "target_task", "place": "position"})
"""Fields of records and groups of example images."""

FORMER_KINDS = MappingProxyType({"most harmed": "most damaged"})
"""Kinds of example images."""

SAW_NOTHING = frozenset({"clean", "noise"})
"""Attacks that see neither encoder nor head: results of earlier versions do not say so themselves."""
