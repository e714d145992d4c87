"""A versioned name for how numbers were measured, to cite: attacks, steps, recipe and images; not the encoder."""

import re
from collections.abc import Iterable, Mapping

from robustprobe.core.fingerprints import fingerprint
from robustprobe.core.sizes import format_eps
from robustprobe.results.labels import USUAL_HEADS
from robustprobe.results.records import Record

VERSION = 1
"""Rises when attacks, heads or metrics are changed so that numbers of two versions are not comparable."""
DIGITS = 8
MOST_NAMED = 3


def protocol_name(records: Iterable[Record]) -> str:
    """`robustprobe-v1/standard/cifar10-1000/linf-8_255/3f9a2c1b`: head recipe, images, eps, and a digest of all facts.

    The digest covers every attack with its steps, restarts and start; the recipe of the heads; and each dataset with
    its split, image size and the choice of images. Records of other encoders under the same protocol give the same
    name. Empty for no records.
    """
    known = list(records)
    if not known:
        return ""
    facts = sorted({fingerprint(_facts(record)) for record in known})
    parts = [_recipes(known), _images(known), _sizes(known), fingerprint(facts)[:DIGITS]]
    return "/".join([f"robustprobe-v{VERSION}", *(part for part in parts if part)])


def _facts(record: Record) -> list[object]:
    return [
        VERSION,
        record.attack.model_dump(mode="json"),
        record.target_task,
        record.task,
        _told(record.head.recipe),
        record.dataset,
        record.dataset_digest,
        record.split,
        record.image_size,
        record.image_ids_digest,
        record.precision,
        *([record.source_digest] if record.source_digest else []),
        # Names of results that were attacked as served stay what they were.
        *([record.attack_at] if record.attack_at != "served" else []),
    ]


def _told(recipe: Mapping[str, object]) -> dict[str, object]:
    """The recipe of a head without fields of later versions that are at their default: names stay what they were."""
    return {name: value for name, value in recipe.items() if USUAL_HEADS.get(name) != value}


def _recipes(records: Iterable[Record]) -> str:
    return "+".join(sorted({_plain(str(r.head.recipe.get("recipe", ""))) for r in records} - {""}))


def _images(records: Iterable[Record]) -> str:
    names = sorted({f"{_plain(r.dataset)}{'' if r.split == 'test' else '-' + r.split}-{r.n}" for r in records})
    return "+".join(names) if len(names) <= MOST_NAMED else f"{len(names)}-datasets"


def _sizes(records: Iterable[Record]) -> str:
    """Norms with their eps, ascending."""
    by_norm: dict[str, set[float]] = {}
    for attack in (r.attack for r in records if not r.is_clean):
        by_norm.setdefault(attack.norm, set()).add(attack.eps)
    return "+".join(
        f"{norm}-{'-'.join(format_eps(eps, norm).replace('/', '_') for eps in sorted(sizes))}"
        for norm, sizes in sorted(by_norm.items())
    )


def _plain(name: str) -> str:
    """A name of letters, digits, points, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "-", name)
