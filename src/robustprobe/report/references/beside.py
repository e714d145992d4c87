"""A published table beside our results of the same task and dataset."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from robustprobe.core.sizes import format_eps
from robustprobe.report.references.catalogue import Reference
from robustprobe.report.tables.comparison import Comparison
from robustprobe.report.tables.matrix import MISSING, metric_text, number_text
from robustprobe.report.tables.results import check_notes, value_text
from robustprobe.report.tables.sheet import Document, Row, Sheet

if TYPE_CHECKING:
    from robustprobe.results.records import Record


def beside_reference(name: str, reference: Reference, records: Iterable["Record"]) -> Comparison:
    """The numbers of a reference, and below them those of every encoder of ours at the same eps.

    Encoders differ, so nothing is subtracted.
    """
    fitting = [r for r in records if r.task == reference.task and r.dataset == reference.dataset and r.split == "test"]
    published = [
        _fact(row.encoder, "published", score.attack, format_eps(score.eps), row.clean, score.value)
        for row in reference.rows
        for score in row.attacked
    ]
    sizes = {score.eps for row in reference.rows for score in row.attacked}
    ours = [r for r in fitting if _matches(r, reference, sizes)]
    clean = {r.encoder: r for r in fitting if r.is_clean}
    measured = [_measured(r, clean.get(r.encoder)) for r in ours]
    shown = [*(clean[r.encoder] for r in ours if r.encoder in clean), *ours]
    rows = [_row(fact) for fact in published]
    rows += [_own_row(r, clean.get(r.encoder)) for r in ours]
    title = metric_text(reference.metric, reference.unit, reference.higher_is_better)
    sheet = Sheet(
        f"{reference.title}: {title}",
        ["source", "encoder", "attack"],
        ["clean", "attacked", "n"],
        rows,
        [*_absence(reference, bool(measured)), *reference.differences],
        grouped=1,
    )
    source = f"{name}: {reference.citation} (read: {reference.read})."
    heading = {"reference": name, "citation": reference.citation, "differences": list(reference.differences)}
    return Comparison(Document([sheet], [source, *check_notes(shown)]), heading, [*published, *measured])


def _matches(record: "Record", reference: Reference, sizes: set[float]) -> bool:
    """Whether the attack is one of those that come near, aimed at the task or at no head, at one of these eps."""
    near = record.attack.name in reference.ours and record.attack.norm == "linf"
    aims = record.target_task in ("", reference.task)
    return near and aims and any(abs(record.attack.eps - eps) < 1e-9 for eps in sizes)


def _measured(record: "Record", clean: "Record | None") -> dict[str, Any]:
    values = clean.headline.value if clean else None, record.headline.value
    eps = format_eps(record.attack.eps)
    return _fact(record.encoder, "here", record.attack.label, eps, *values) | {"n": record.n}


def _own_row(record: "Record", clean: "Record | None") -> Row:
    names = ["here", record.encoder, f"{record.attack.label} {format_eps(record.attack.eps)}"]
    return Row(names, [value_text(clean), value_text(record), str(record.n)])


def _fact(
    encoder: str, source: str, attack: str, eps: str, clean: float | None, attacked: float | None
) -> dict[str, Any]:
    return {
        **{"source": source, "encoder": encoder, "attack": attack, "eps": eps},
        **{"clean": clean, "attacked": attacked, "n": None},
    }


def _row(fact: dict[str, Any]) -> Row:
    names = [fact["source"], fact["encoder"], f"{fact['attack']} {fact['eps']}"]
    return Row(names, [number_text(fact["clean"]), number_text(fact["attacked"]), MISSING])


def _absence(reference: Reference, found: bool) -> list[str]:
    if found:
        return []
    attacks = " or ".join(reference.ours)
    return [f"Not measured here: {reference.dataset}, {reference.task}, {attacks} at these eps on the test split."]
