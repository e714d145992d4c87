"""The shape of all tables for people: one per task, a row per dataset and encoder, a column per attack and eps."""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from robustprobe.core.sizes import OWN_UNITS, format_eps
from robustprobe.results.labels import attack_labels, distinctions, head_text, heads_text, record_label
from robustprobe.results.protocol import protocol_name

if TYPE_CHECKING:
    from robustprobe.results.records import AttackKey, Interval, Record

MISSING = "—"
NOT_A_NUMBER = "n/a"
DECIMALS = 3


class Sized(Protocol):
    """What has a norm and an eps, as an attack has."""

    @property
    def norm(self) -> str: ...

    @property
    def eps(self) -> float: ...


class Column(NamedTuple):
    """An attack at one eps; `label` is unique among the columns of a table."""

    key: "AttackKey"
    label: str


class Line(NamedTuple):
    """What one encoder scored on one dataset; a cell is None where nothing was measured."""

    dataset: str
    encoder: str
    cells: list["Record | None"]


class TaskTable(NamedTuple):
    """All scores of one task."""

    task: str
    caption: str
    columns: list[Column]
    lines: list[Line]

    @property
    def title(self) -> str:
        """The caption where no heading names the task."""
        return f"{self.task.capitalize()}: {self.caption}"


def in_order(records: Iterable["Record"], transfer: bool) -> list["Record"]:
    """Records by task, dataset, encoder and attack; without `transfer` no attack that was made for another task."""
    chosen = [r for r in records if transfer or not r.is_transfer]
    return sorted(chosen, key=_record_order)


def _record_order(record: "Record") -> tuple[object, ...]:
    attack = attack_order(record.attack_key, record.task)
    return (
        record.task,
        record.dataset,
        record.encoder,
        head_text(record),
        *attack,
        record.provenance.started,
        record.fingerprint,
    )


def attack_order(key: "AttackKey", task: str = "") -> tuple[object, ...]:
    """Sorts attacks: clean, controls, those that saw no head, those made for `task`, for other tasks, corruptions."""
    attack = key.attack
    if key.target_task:
        origin = 3 if key.target_task == task else 4
    else:
        origin = 0 if key.is_clean else 1 if key.is_control else 5 if key.is_corruption else 2
    return (origin, key.target_task, attack.name, attack.eps, attack.model_dump_json())


def level_order(attack: Sized) -> tuple[bool, str, float]:
    """Sorts norms and eps: of several the last counts, which is Linf before other norms and the largest eps."""
    return (attack.norm == "linf", attack.norm, attack.eps)


def task_tables(records: Iterable["Record"], transfer: bool = False) -> list[TaskTable]:
    """The tables of a store, one per task. Of two records of the same cell the later one counts."""
    known = list(records)
    ordered = in_order(known, transfer)
    # Of all that was measured: the tables of one document carry one name.
    protocol = protocol_name(known)
    tasks = dict.fromkeys(r.task for r in ordered)
    return [_task_table([r for r in ordered if r.task == task], protocol) for task in tasks]


def _task_table(records: list["Record"], protocol: str) -> TaskTable:
    keys = list(dict.fromkeys(r.attack_key for r in records))
    keys.sort(key=lambda key: attack_order(key, records[0].task))
    labels = attack_labels(keys, records[0].task)
    columns = [Column(key, label) for key, label in zip(keys, labels, strict=True)]
    lines: dict[Hashable, dict[AttackKey, Record]] = {}
    for record in sorted(records, key=lambda r: r.provenance.started):
        lines.setdefault(line_key(record), {})[record.attack_key] = record
    ordered = [lines[key] for key in dict.fromkeys(line_key(r) for r in records)]
    names = line_names([next(iter(cells.values())) for cells in ordered])
    return TaskTable(
        records[0].task,
        f"{caption(records)}; protocol {protocol}",
        columns,
        [Line(*name, [cells.get(key) for key in keys]) for name, cells in zip(names, ordered, strict=True)],
    )


class TransferRow(NamedTuple):
    """Images made by one attack, and what each judge's record says of them."""

    label: str
    target_task: str
    cells: list["Record | None"]


class TransferMatrix(NamedTuple):
    """One encoder on one dataset: attacks by the task they were made for, against the tasks that judged."""

    title: str
    judges: list[str]
    rows: list[TransferRow]


def transfer_matrices(records: Iterable["Record"]) -> list[TransferMatrix]:
    """Made for (rows) against judged by (columns), for every encoder and dataset that several tasks judged."""
    benchmarks: dict[Hashable, list[Record]] = {}
    for record in in_order((r for r in records if not r.source_encoder), transfer=True):
        key = (data_key(record), record.encoder, record.encoder_digest, record.precision, head_text(record))
        benchmarks.setdefault(key, []).append(record)
    several = [some for some in benchmarks.values() if len({r.task for r in some}) > 1]
    names = line_names([some[0] for some in several])
    return [_transfer_matrix(f"{e} on {d}", some) for (d, e), some in zip(names, several, strict=True)]


def _transfer_matrix(name: str, records: list["Record"]) -> TransferMatrix:
    judges = sorted({r.task for r in records}, key=str)
    heads = {r.task: f"{r.task}, {r.metric}{'' if r.unit == 'share' else f' in {r.unit}'}" for r in records}
    found: dict[AttackKey, dict[str, Record]] = {}
    for record in sorted(records, key=lambda r: r.provenance.started):
        found.setdefault(record.attack_key, {})[record.task] = record
    keys = sorted(found, key=attack_order)
    # Within one task made for, labels need not name it.
    labels = [
        label
        for task in dict.fromkeys(key.target_task for key in keys)
        for label in attack_labels([key for key in keys if key.target_task == task], task)
    ]
    rows = [
        TransferRow(label, key.target_task or "no task", [found[key].get(task) for task in judges])
        for label, key in zip(labels, keys, strict=True)
    ]
    return TransferMatrix(f"Transfer: {name}", [heads[task] for task in judges], rows)


def failed_checks(records: Iterable["Record"]) -> list[str]:
    """What failed sanity checks mean, one sentence each, with the numbers that they concern."""
    cells: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        where = f"{record.encoder}, {record.images_of}, {record.task}"
        for check in record.doubts:
            cells.setdefault((check.meaning, record_label(record)), {})[where] = None
    # Attacks of the same numbers with the same finding share a sentence.
    labels: dict[tuple[str, str], list[str]] = {}
    for (meaning, label), places in cells.items():
        labels.setdefault((meaning, "; ".join(places)), []).append(label)
    return [f"{', '.join(shared)}: {meaning} ({places})." for (meaning, places), shared in labels.items()]


def trusted(record: "Record") -> bool:
    """Whether no sanity check puts the number of a record in doubt."""
    return not record.doubts


def failed_text(record: "Record") -> str:
    """What the failed sanity checks of a record mean; empty where all passed."""
    return "; ".join(check.meaning for check in record.doubts)


def data_key(record: "Record") -> tuple[Hashable, ...]:
    """What two records of the same images share."""
    return (record.dataset, record.dataset_digest, record.split, record.image_size, record.image_ids_digest)


def line_key(record: "Record") -> tuple[Hashable, ...]:
    """What the records of one row of a table share."""
    return (data_key(record), record.encoder, record.encoder_digest, record.precision, record.head.fingerprint)


def line_names(records: Sequence["Record"]) -> list[tuple[str, str]]:
    """Dataset and encoder of each row, with what tells rows of the same names apart."""
    by_data = {data_key(r): r for r in records}
    datasets = dict(zip(by_data, data_names(list(by_data.values())), strict=True))
    own = [datasets[data_key(r)] for r in records]
    facts = [
        {
            "weights": r.encoder_digest[:8],
            "precision": r.precision,
            "heads": head_text(r) or "linear",
            "head": r.head.fingerprint[:8],
        }
        for r in records
    ]
    endings = distinctions([(d, r.encoder) for d, r in zip(own, records, strict=True)], facts)
    return [(d, r.encoder + ending) for d, r, ending in zip(own, records, endings, strict=True)]


def data_names(records: Sequence["Record"]) -> list[str]:
    """Names of datasets, with what tells two uses of the same one apart."""
    facts = [
        {
            "images": str(r.n),
            "size": size_text(r.image_size),
            "choice": r.image_ids_digest[:8],
            "content": r.dataset_digest[:8],
        }
        for r in records
    ]
    endings = distinctions([r.images_of for r in records], facts)
    return [r.images_of + ending for r, ending in zip(records, endings, strict=True)]


def caption(records: Sequence["Record"]) -> str:
    """Metric, unit, direction, number of images, eps, steps and heads that are not linear of records of one task."""
    first = records[0]
    head = metric_text(first.metric, first.unit, first.higher_is_better)
    said = [images_text(records), *threat_text(records), heads_text(records), "brackets: 95 % interval over images"]
    return "; ".join([head, *filter(None, said)])


def metric_text(metric: str, unit: str, higher_is_better: bool) -> str:
    """`RMSE, in m, lower is better ↓`."""
    size = "a share from 0 to 1" if unit == "share" else f"in {unit}"
    return f"{metric}, {size}, {'higher is better ↑' if higher_is_better else 'lower is better ↓'}"


def images_text(records: Sequence["Record"]) -> str:
    """`n = 1000 images`, by dataset where they differ."""
    counts = {data_key(r): r for r in records}
    if len({r.n for r in counts.values()}) == 1:
        return f"n = {records[0].n} images"
    names = data_names(list(counts.values()))
    return "n = " + ", ".join(f"{r.n} ({name})" for name, r in zip(names, counts.values(), strict=True)) + " images"


def threat_text(records: Iterable["Record"]) -> list[str]:
    """Eps with its norm, steps and further options of the attacks among the records."""
    known = list(records)
    by_norm: dict[str, set[float]] = {}
    steps: dict[int, set[str]] = {}
    tuned: dict[str, set[str]] = {}
    for record in (r for r in known if not r.is_clean):
        attack = record.attack
        by_norm.setdefault(attack.norm, set()).add(attack.eps)
        if attack.tuning_text:
            tuned.setdefault(attack.tuning_text, set()).add(attack.label)
        if not (record.is_control or record.is_corruption):
            steps.setdefault(attack.steps, set()).add(attack.label)
    texts = [_sizes_text(norm, sorted(sizes)) for norm, sizes in sorted(by_norm.items())]
    if len(steps) == 1:
        texts.append(f"{next(iter(steps))} steps")
    elif steps:
        texts.append("steps " + ", ".join(f"{count} ({' '.join(sorted(steps[count]))})" for count in sorted(steps)))
    texts += [f"{text} ({' '.join(sorted(names))})" for text, names in sorted(tuned.items())]
    attacked = [r for r in known if not r.is_clean]
    native = dict.fromkeys(size_text(r.image_size) for r in attacked if r.attack_at == "native")
    served = dict.fromkeys(size_text(r.image_size) for r in attacked if r.attack_at == "served")
    if not native:
        return texts
    beside = f", and on the image as served ({', '.join(served)})" if served else ""
    return [*texts, f"ball on the pixels as stored ({', '.join(native)}){beside}"]


def _sizes_text(norm: str, sizes: Sequence[float]) -> str:
    listed = ", ".join(format_eps(size, norm) for size in sizes)
    return f"{norm} {listed}" if norm in OWN_UNITS else f"eps {listed} ({norm})"


def number_text(value: float) -> str:
    """Three decimals, or `n/a` for a value that is not finite."""
    return f"{value:.{DECIMALS}f}" if math.isfinite(value) else NOT_A_NUMBER


def change_text(difference: float) -> str:
    """`+0.030` or `-0.030`, or `n/a` for a value that is not finite."""
    return f"{difference:+.{DECIMALS}f}" if math.isfinite(difference) else NOT_A_NUMBER


def ends_text(interval: "Interval") -> str:
    """`[0.380, 0.480]`."""
    return f"[{number_text(interval.ci_low)}, {number_text(interval.ci_high)}]"


def interval_text(interval: "Interval") -> str:
    """`0.430 [0.380, 0.480]`."""
    return f"{number_text(interval.value)} {ends_text(interval)}" if math.isfinite(interval.value) else NOT_A_NUMBER


def percent_text(share: float) -> str:
    """`38 %`, kept on one line."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def size_text(size: tuple[int, int] | int) -> str:
    """Height and width in pixels, as in `360 × 480`, or the shorter side."""
    if isinstance(size, int):
        return f"shorter side {size}"
    return f"{size[0]} × {size[1]}"
