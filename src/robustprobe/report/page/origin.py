"""Provenance of the numbers: encoders, images, heads, attacks and machines, as small tables of text."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from robustprobe.core.registry import attacks
from robustprobe.core.sizes import format_eps
from robustprobe.report.paper.published import paper
from robustprobe.report.tables.feature_gaps import feature_gap_sheet
from robustprobe.report.tables.matrix import MISSING, attack_order, number_text, size_text
from robustprobe.results.labels import hardening_text, thread_counts
from robustprobe.results.records import Record

DIGEST = 12


class FactTable(NamedTuple):
    """Rows of text under headings; rows are distinct."""

    title: str
    headings: list[str]
    rows: list[tuple[str, ...]]


def fact_tables(records: list[Record]) -> list[FactTable]:
    """Encoders, datasets, heads, attacks, changes of features and runs of a store."""
    by_attack = sorted(records, key=lambda r: attack_order(r.attack_key))
    return [
        _table(
            "Encoders", ["encoder", "hardened", "licence", "how it was read", "weights (SHA-256)"], records, _encoder
        ),
        _table("Images", ["dataset", "split", "images", "size", "content", "choice of images"], records, _data),
        _table(
            "Heads",
            ["encoder", "dataset", "task", "recipe", "trained on", "learning rate", "held-out score", "head"],
            records,
            _head,
        ),
        _table(
            "Attacks",
            [
                *("attack", "made for", "eps", "norm", "steps", "step size", "iterate", "random start", "seed"),
                *("options", "precision"),
            ],
            by_attack,
            _attack,
        ),
        *_feature_gaps(records),
        _table("Machines", ["hardware", "device", "threads", "versions", "git"], records, _machine),
    ]


def _feature_gaps(records: list[Record]) -> list[FactTable]:
    found = feature_gap_sheet(records)
    if found is None:
        return []
    rows = [(*row.names, *row.cells) for row in found.rows]
    return [FactTable(found.title, [*found.heads, *found.columns], rows)]


def commands(records: list[Record]) -> list[tuple[str, str]]:
    """Suite and command of each run, earliest first."""
    ordered = sorted(records, key=lambda r: r.provenance.started)
    return list(dict.fromkeys((r.suite, r.provenance.command) for r in ordered))


def citations(records: list[Record]) -> list[str]:
    """The benchmark that robustprobe builds on, and the publications of the attacks among the records."""
    used = {r.attack_key: r for r in sorted(records, key=lambda r: attack_order(r.attack_key))}
    # Older results do not hold citations.
    found = (r.citation or attacks.literal(r.attack.name, "citation") for r in used.values())
    return list(dict.fromkeys(source for source in (paper().source, *found) if source))


def duration(records: list[Record]) -> str:
    """Time spent on attacking and judging, in words."""
    seconds = sum(r.provenance.seconds for r in slowest_of_groups(records))
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60:.0f} s" if minutes else f"{seconds:.1f} s"


def slowest_of_groups(records: Iterable[Record]) -> list[Record]:
    """One record for each group: cells of a group share the attack's time, and each counts it from the beginning."""
    groups: dict[str, Record] = {}
    for record in records:
        known = groups.get(record.group)
        if known is None or record.provenance.seconds > known.provenance.seconds:
            groups[record.group] = record
    return list(groups.values())


def _table(
    title: str, headings: list[str], records: Sequence[Record], row: Callable[[Record], tuple[str, ...]]
) -> FactTable:
    return FactTable(title, headings, list(dict.fromkeys(row(r) for r in records)))


def _encoder(r: Record) -> tuple[str, ...]:
    read = r.encoder_notes or MISSING
    name = f"{r.encoder} ({r.encoder_spec})" if r.encoder_spec else r.encoder
    return (name, hardening_text(r) or "no", r.encoder_licence, read, r.encoder_digest[:DIGEST])


def _data(r: Record) -> tuple[str, ...]:
    size = size_text(r.image_size) + (", as stored" if r.attack_at == "native" else "")
    return (r.dataset, r.split, str(r.n), size, r.dataset_digest[:DIGEST], r.image_ids_digest[:DIGEST])


def _head(r: Record) -> tuple[str, ...]:
    head = r.head
    recipe = ", ".join(f"{key} {value}" for key, value in head.recipe.items())
    return (
        *(r.encoder, r.dataset, r.task, recipe, f"{head.train_images} images", f"{head.learning_rate:g}"),
        *(number_text(head.held_out_score), head.fingerprint[:DIGEST]),
    )


def _attack(r: Record) -> tuple[str, ...]:
    a = r.attack
    searches = not (r.is_clean or r.is_control or r.is_corruption)
    # Steps of a patch are no part of its size.
    step_size = MISSING if r.is_patch else format_eps(a.step_size, a.norm)
    path = (str(a.steps), step_size, a.iterate) if searches else (MISSING,) * 3
    start, options = "yes" if a.random_start else "no", a.tuning_text or MISSING
    made_for = (r.target_task or "no task") + (f", on {r.source_encoder}" if r.source_encoder else "")
    return (
        a.label if r.is_corruption or r.is_patch else a.name,
        made_for,
        format_eps(a.eps, a.norm),
        a.norm,
        *path,
        start,
        str(a.seed),
        options,
        r.precision,
    )


def _machine(r: Record) -> tuple[str, ...]:
    p = r.provenance
    versions = ", ".join(f"{name} {version}" for name, version in sorted(p.versions.items()))
    return (p.hardware, p.device, thread_counts([r]) or MISSING, versions, p.git)
