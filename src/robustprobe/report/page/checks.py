"""The sanity checks of the page: statements that should hold for every number, and where they do not."""

from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

from robustprobe.report.tables.matrix import line_key
from robustprobe.results.labels import record_label
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
    """Every check that concerns at least one record."""
    control = list(_pairs(records, lambda attack, rival: rival.is_control and not attack.is_control))
    specific = list(_pairs(records, lambda attack, rival: attack.is_task_specific and not rival.is_task_specific))
    attacked = [r for r in records if not (r.is_clean or r.is_corruption)]
    found = [
        _check(
            "No image was changed by more than its eps, or its area where a patch was put into it",
            [(r, r.largest_perturbation <= r.attack.eps + ROUNDING) for r in attacked],
        ),
        _check(
            "Rounding the attacked images to 8 bits, as a file stores them, leaves the score inside its interval",
            [(r, _inside(r.metrics_8bit[r.metric].value, r.headline)) for r in attacked if r.metric in r.metrics_8bit],
        ),
        _check("No attack is weaker than random noise of the same size", [(a, not _weaker(a, b)) for a, b in control]),
        _check(
            "No task-specific attack is weaker than an attack that did not see the task's model",
            [(a, not _weaker(a, b)) for a, b in specific],
        ),
    ]
    return [check for check in (*found, *_recorded(records)) if check.comparisons]


# What the sanity checks in the records state, by their names.
STATEMENTS = {
    "zero gradient": "Gradients reach the pixels",
    "still rising": "More steps would not have found a much stronger attack",
    "second restart": "A second random start does not find a much stronger attack",
    "plausible labels": "Labels and files of the dataset are plausible",
    "plausible heads": "Heads are fitted on images attacked with a plausible eps, where they are attacked",
    "plausible texts": "A file of texts is used for encoders of one embedding space",
    "plausible eps": "Eps is neither too small to matter nor large enough to erase an image",
    "plausible severity": "A corruption is applied at the size of image that its lengths in pixels are meant for",
    "large eps": "A very large eps, to which no model is robust, breaks this one too",
    "eps 0": "At eps 0 the attack changes nothing",
    "same answer twice": "The model gives the same output for the same image twice",
    "logits": "The model returns logits, not probabilities",
    "saturated depth": "Predicted depths are not saturated at their limits",
    "patch control": "A patch does more than one of noise in the same place",
    "black box": "A black-box attack without gradients adds no damage on a sample",
    "transfer": "The model's operations, differentiated anew, give no stronger attack, on a sample",
    "gradient": "The loss changes as its gradient predicts, on a sample",
    "batch of one": "An image is answered alike alone and among others",
}


def _recorded(records: list[Record]) -> Iterator[ConsistencyCheck]:
    for name, statement in STATEMENTS.items():
        made = [(r, c) for r in records for c in r.checks if c.name == name]
        failures = dict.fromkeys(f"{_cell_name(r)}: {c.meaning}" for r, c in made if c in r.doubts)
        yield ConsistencyCheck(statement, len(made), list(failures))


def _check(statement: str, outcomes: list[tuple[Record, bool]]) -> ConsistencyCheck:
    failures = dict.fromkeys(_cell_name(record) for record, fine in outcomes if not fine)
    return ConsistencyCheck(statement, len(outcomes), list(failures))


def _pairs(records: list[Record], wanted: Callable[[Record, Record], bool]) -> Iterator[Pair]:
    """Attacks, each with a rival at the same eps on the same images, judged by the same head."""
    rivals: dict[Hashable, list[Record]] = {}
    for record in records:
        if not record.is_clean:
            rivals.setdefault((line_key(record), record.task, record.attack.norm, record.attack.eps), []).append(record)
    for same in rivals.values():
        own = [r for r in same if not r.is_transfer]
        yield from ((attack, rival) for attack in own for rival in same if wanted(attack, rival))


def _weaker(attack: Record, rival: Record) -> bool:
    """Whether an attack left more than its rival did, beyond the rival's interval."""
    value, interval = attack.headline.value, rival.headline
    return value > interval.ci_high if attack.higher_is_better else value < interval.ci_low


def _inside(value: float, interval: Interval) -> bool:
    return interval.ci_low <= value <= interval.ci_high


def _cell_name(record: Record) -> str:
    label = record_label(record)
    return f"{record.encoder}, {record.images_of}, {record.task}, {label}"
