"""Results for a model's page on the Hugging Face Hub: a section of its card, `model-index`, `.eval_results`, BibTeX."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.files import write_whole
from robustprobe.core.registry import datasets, tasks
from robustprobe.report.bibtex import bibtex
from robustprobe.report.page.origin import citations
from robustprobe.report.tables.matrix import failed_text, in_order, interval_text
from robustprobe.report.tables.results import render
from robustprobe.results.labels import record_label
from robustprobe.results.protocol import protocol_name
from robustprobe.results.records import Record
from robustprobe.results.union import finished

CARD, RESULTS, BIBLIOGRAPHY = "README.md", ".eval_results/robustprobe.yaml", "CITATION.bib"


def write_hub(folder: Path, output: Path, encoder: str = "", ids: Mapping[str, str] | None = None) -> list[str]:
    """Write README.md with `model-index`, CITATION.bib and, for datasets with an id, .eval_results/robustprobe.yaml.

    Args:
        folder: what `robustprobe run --out` wrote.
        output: folder to write, to be copied into the repository of the model.
        encoder: its name in the results; needed where they have several.
        ids: what the Hub calls datasets of the results: `{"cifar10": "uoft-cs/cifar10"}`.

    Returns:
        names of the files.

    Raises:
        UserError: no results, an unknown encoder or dataset, several encoders, or a folder that cannot be written.
    """
    records = [one.record for one in finished([folder], "export")]
    names = sorted({r.encoder for r in records})
    if not encoder and len(names) > 1:
        raise UserError(f"{folder} has {len(names)} encoders; name one with --encoder: {', '.join(names)}.")
    own = in_order([r for r in records if r.encoder == (encoder or r.encoder)], transfer=False)
    if not own:
        raise unknown_name(f"encoder of {folder}", encoder, names)
    ids = ids or {}
    for name in ids:
        if name not in {r.dataset for r in own}:
            raise unknown_name(f"dataset of {folder}", name, {r.dataset for r in own})
    files = {CARD: _card(own), BIBLIOGRAPHY: _bibliography(own)}
    if entries := [_entry(r, ids[r.dataset], protocol_name(own)) for r in own if r.dataset in ids and _is_number(r)]:
        files[RESULTS] = _yaml(entries)
    try:
        for name, text in files.items():
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(output / name, text.encode())
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}. Give another folder with --out.") from error
    return list(files)


def _card(records: Sequence[Record]) -> str:
    metadata = {"tags": ["robustprobe", "adversarial-robustness"], "model-index": model_index(records)}
    table = render(records, "md")
    failed = "† marks a number with a failed sanity check. " if any(failed_text(r) for r in records) else ""
    return f"""---
{_yaml(metadata)}---

## Adversarial robustness

Measured with [robustprobe](https://arxiv.org/abs/2407.12588), protocol `{protocol_name(records)}`. A score under attack
holds for these attacks: a stronger one can only make it worse. {failed}Publications to cite are in `{BIBLIOGRAPHY}`.

{table}"""


def model_index(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records of one encoder as `model-index`: a result for each task and dataset, a metric for each cell.

    Scores that are not a number are left out; the Hub stores JSON, which has none.
    """
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for record in filter(_is_number, records):
        new = {
            "task": {"type": _hub_task(record.task), "name": record.task},
            "dataset": {"type": record.dataset, "name": record.images_of, "split": record.split},
            "metrics": [],
        }
        results.setdefault((record.task, record.images_of), new)["metrics"].append(_metric(record))
    return [{"name": records[0].encoder, "results": list(results.values())}]


def _is_number(record: Record) -> bool:
    return math.isfinite(record.headline.value)


def _metric(record: Record) -> dict[str, Any]:
    attack, headline = record.attack, record.headline
    facts = {"attack": attack.label, "eps": attack.eps, "norm": attack.norm, "steps": attack.steps}
    interval = {"ci_low": headline.ci_low, "ci_high": headline.ci_high}
    arguments = {
        **({} if record.is_clean else facts),
        **{"n": record.n, "unit": record.unit},
        **{name: bound for name, bound in interval.items() if math.isfinite(bound)},
        **({"failed_checks": failed_text(record)} if failed_text(record) else {}),
    }
    metric = {"type": re.sub(r"[^a-z0-9]+", "_", record.metric.lower()), "value": headline.value}
    return {**metric, "name": f"{record.metric}, {record_label(record)}", "args": arguments}


def _entry(record: Record, dataset: str, protocol: str) -> dict[str, Any]:
    label = re.sub(r"[^a-z0-9]+", "_", f"{record.task} {record_label(record)}".lower()).strip("_")
    failed = f"; failed sanity checks: {failed_text(record)}" if failed_text(record) else ""
    said = f"{record.metric} {interval_text(record.headline)}, {record_label(record)}, n = {record.n}"
    return {
        "dataset": {"id": dataset, "task_id": label},
        "value": record.headline.value,
        "date": record.provenance.started,
        "notes": f"{said}; protocol {protocol}{failed}",
    }


def _hub_task(task: str) -> str:
    return tasks.literal(task, "hub_task") or "image-feature-extraction"


def _bibliography(records: list[Record]) -> str:
    used = [datasets.literal(r.dataset.partition(":")[0], "citation") for r in records]
    versions = sorted({r.provenance.versions.get("robustprobe", "unknown") for r in records})
    return bibtex([*citations(records), *used], ", ".join(versions))


def _yaml(content: Any) -> str:
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))
