"""The headline column of a table: the strongest attack that was run for the task, named."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from robustprobe.report.tables.matrix import MISSING, Column, Line, level_order
from robustprobe.results.labels import eps_text

if TYPE_CHECKING:
    from robustprobe.results.records import Record


class HeadlineColumn(NamedTuple):
    """A column of text: its head, and a cell for each line."""

    label: str
    cells: list[str]


def headline_column(
    columns: Sequence[Column], lines: Sequence[Line], text: Callable[["Record | None"], str]
) -> HeadlineColumn | None:
    """For each line the worst score under attacks made for the task at the largest eps, with the attack's name.

    Args:
        columns: of `lines`; an encoder that lacks some of them is judged by those it has.
        text: how a number is shown.

    Returns:
        None where fewer than two such attacks were run: the only one is its own headline.
    """
    own = {k: column.key for k, column in enumerate(columns) if column.key.target_task and not column.key.is_clean}
    if not own:
        return None
    level = max(level_order(key.attack) for key in own.values())
    places = [k for k, key in own.items() if level_order(key.attack) == level]
    if len(places) < 2:
        return None
    several = len({(c.key.attack.norm, c.key.attack.eps) for c in columns if not c.key.is_clean}) > 1
    at = f" {eps_text(columns[places[0]].key.attack)}" if several else ""
    return HeadlineColumn(f"strongest{at}", [_cell(line, places, text) for line in lines])


def _cell(line: Line, places: Sequence[int], text: Callable[["Record | None"], str]) -> str:
    found = [record for k in places if (record := line.cells[k]) and math.isfinite(record.headline.value)]
    if not found:
        return MISSING
    sign = 1 if found[0].higher_is_better else -1
    worst = min(found, key=lambda record: sign * record.headline.value)
    return f"{text(worst)} ({worst.attack.label})"
