"""The first sentences of the page, and the smallest table that goes with them, for the terminal."""

import math
from collections.abc import Sequence

from robustprobe.report.page.headline import headline
from robustprobe.report.tables.blocks import MARK
from robustprobe.report.tables.board import Board, board
from robustprobe.report.tables.chance import chances
from robustprobe.report.tables.matrix import MISSING, images_text, level_order, number_text, threat_text, trusted
from robustprobe.report.tables.sheet import Row, Sheet
from robustprobe.results.records import Record
from robustprobe.results.union import Found


def lead(found: Sequence[Found]) -> str:
    """What was found, in the words that head the page of the same records; empty where nothing was."""
    return headline([f.record for f in found], _board(found)).lead if found else ""


def strongest_sheet(found: Sequence[Found]) -> Sheet:
    """For each task and encoder the clean score, that under the strongest attack that saw neither head nor labels, and
    that under the strongest attack on the task itself, with the names of both. Metrics and images are in the title.
    """
    known = _board(found)
    rows, metrics = list[Row](), list[str]()
    several = len({benchmark.dataset for benchmark in known.benchmarks}) > 1
    for place, benchmark in enumerate(known.benchmarks):
        name = f"{benchmark.task} on {benchmark.dataset}" if several else benchmark.task
        unit = "" if benchmark.unit == "share" else f" in {benchmark.unit}"
        metrics.append(f"{benchmark.metric}{unit} {'↑' if benchmark.higher_is_better else '↓'} ({benchmark.task})")
        rows += [Row([name, row.encoder], cells) for row in known.rows if (cells := _cells(row.cells[place]))]
    records = [one.record for one in found]
    title = "; ".join([", ".join(dict.fromkeys(metrics)), images_text(records), *threat_text(records)])
    return Sheet(title, ["task", "encoder"], ["clean", "label-free", "strongest"], rows)


def _cells(records: Sequence[Record | None]) -> list[str]:
    """Clean, label-free and strongest; empty where nothing clean was measured."""
    known = [record for record in records if record]
    clean = next((record for record in known if record.is_clean), None)
    attacked = [record for record in known if record.is_in_ball and not record.is_control]
    blind = _worst([record for record in attacked if not record.target_task])
    own = _worst([record for record in attacked if record.is_task_specific])
    return [_text(clean, ""), _text(blind), _text(own)] if clean else []


def _board(found: Sequence[Found]) -> Board:
    return board([f.record for f in found], chances(found))


def _worst(records: Sequence[Record]) -> Record | None:
    """The worst score at the largest eps; one that is not a number is none."""
    known = [r for r in records if math.isfinite(r.headline.value)]
    level = max((level_order(r.attack) for r in known), default=None)
    at_level = [r for r in known if level_order(r.attack) == level]
    return min(at_level, key=lambda r: r.headline.value * (1 if r.higher_is_better else -1), default=None)


def _text(record: Record | None, name: str | None = None) -> str:
    """`0.360 embed †`: the value, the attack, and a mark where a sanity check failed."""
    if record is None:
        return MISSING
    parts = [number_text(record.headline.value), record.attack.label if name is None else name]
    return " ".join(part for part in (*parts, "" if trusted(record) else MARK) if part)
