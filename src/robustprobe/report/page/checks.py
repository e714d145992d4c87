"""Signs that a number is not to be trusted, as far as the records tell."""

from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

from robustprobe.report.tables.matrix import line_key
from robustprobe.results.labels import attack_labels
from robustprobe.results.records import Interval, Record

# The projection onto the ball is exact up to rounding in float32.
ROUNDING = 1e-6
Pair = tuple[Record, Record]


class ConsistencyCheck(NamedTuple):
    """A statement that should hold; `failures` names where it does not, out of `comparisons`."""

    statement: str
    comparisons: int
    failures: list[str]


def checks(records: list[Record]) -> list[ConsistencyCheck]:
    """Every check there is something to look at for."""
    noise = list(_pairs(records, lambda attack, rival: rival.attack.name == "noise" and attack.attack.name != "noise"))
    blind = list(
        _pairs(records, lambda attack, rival: attack.target_task == attack.task and rival.target_task != attack.task)
    )
    attacked = [r for r in records if r.attack.eps > 0]
    found = [
        _check(
            "No image was changed by more than its eps",
            [(r, r.largest_perturbation <= r.attack.eps + ROUNDING) for r in attacked],
        ),
        _check(
            "Rounding the attacked images to 8 bits, as a file stores them, leaves the score inside its interval",
            [(r, _inside(r.metrics_8bit[r.metric].value, r.headline)) for r in attacked if r.metric in r.metrics_8bit],
        ),
        _check("No attack is weaker than random noise of the same size", [(a, not _weaker(a, b)) for a, b in noise]),
        _check(
            "No attack on a task's own model is weaker than one that never saw it",
            [(a, not _weaker(a, b)) for a, b in blind],
        ),
    ]
    return [check for check in (*found, *_recorded(records)) if check.comparisons]


# What the checks of the records state, by their names.
STATEMENTS = {
    "zero gradient": "Gradients reach the pixels",
    "still rising": "More steps would not have found much more",
    "second restart": "A second random start finds little more",
    "large eps": "A ball that no model can withstand breaks this one too",
    "eps 0": "At eps 0 the attack changes nothing",
    "same answer twice": "The model answers the same image the same way twice",
    "logits": "The model gives logits and no probabilities",
    "saturated depth": "Depths are not stuck at their limits",
    "black box": "An attack that access no gradient does no better on a sample",
}


def _recorded(records: list[Record]) -> Iterator[ConsistencyCheck]:
    for name, statement in STATEMENTS.items():
        made = [(r, c) for r in records for c in r.checks if c.name == name]
        failures = dict.fromkeys(f"{_cell_name(r)}: {c.meaning}" for r, c in made if not c.passed)
        yield ConsistencyCheck(statement, len(made), list(failures))


def _check(statement: str, outcomes: list[tuple[Record, bool]]) -> ConsistencyCheck:
    failures = dict.fromkeys(_cell_name(record) for record, fine in outcomes if not fine)
    return ConsistencyCheck(statement, len(outcomes), list(failures))


def _pairs(records: list[Record], wanted: Callable[[Record, Record], bool]) -> Iterator[Pair]:
    """Attacks, each with a rival at the same eps on the same images, judged by the same head."""
    rivals: dict[Hashable, list[Record]] = {}
    for record in records:
        if record.attack.eps > 0:
            rivals.setdefault((line_key(record), record.task, record.attack.norm, record.attack.eps), []).append(record)
    for same in rivals.values():
        own = [r for r in same if r.target_task in ("", r.task)]
        yield from ((attack, rival) for attack in own for rival in same if wanted(attack, rival))


def _weaker(attack: Record, rival: Record) -> bool:
    """Whether an attack left more than its rival did, beyond the rival's interval."""
    value, interval = attack.headline.value, rival.headline
    return value > interval.ci_high if attack.higher_is_better else value < interval.ci_low


def _inside(value: float, interval: Interval) -> bool:
    return interval.ci_low <= value <= interval.ci_high


def _cell_name(record: Record) -> str:
    label = attack_labels([(record.attack, record.target_task)], record.task)[0]
    return f"{record.encoder}, {record.images_of}, {record.task}, {label}"
