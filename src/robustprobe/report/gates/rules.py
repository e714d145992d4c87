"""Least or most values for numbers, as in `segmentation:ensemble:4/255>=0.20`."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.errors import UserError
from robustprobe.core.shared_names import shared_name
from robustprobe.core.sizes import format_eps, parse_area, parse_eps
from robustprobe.report.gates.outcome import GateOutcome
from robustprobe.report.tables.matrix import interval_text, number_text, trusted
from robustprobe.report.tables.shares import is_guess
from robustprobe.results.labels import record_label

if TYPE_CHECKING:
    from robustprobe.results.records import Record

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
FORM = "TASK[@DATASET]:ATTACK[:EPS]>=VALUE, such as segmentation:ensemble:4/255>=0.20"


class Measured(NamedTuple):
    """What a rule is about: the images, the task that judged, and the attack."""

    dataset: str
    task: str
    attack: AttackSpec

    @property
    def name(self) -> str:
        """As rules write it."""
        eps = f":{format_eps(self.attack.eps, self.attack.norm)}" if self.attack.eps else ""
        return f"{self.task}@{self.dataset}:{self.attack.label}{eps}"


class Rule(NamedTuple):
    """A least or most value; an empty dataset, or no eps, means every one.

    Names of datasets have colons too, as `segfolder:PATH`: where one ends and the attack begins, `concerns` finds out.
    """

    text: str
    task: str
    dataset: str
    attack: str
    eps: float | None
    sign: str
    value: float

    def concerns(self, measured: Measured) -> bool:
        """Whether this is about a number."""
        label = measured.attack.label
        same = self.attack == label
        if self.dataset:
            same = shared_name(f"{self.dataset}:{self.attack}") == f"{measured.dataset}:{label}"
        return (
            same
            and self.task == measured.task
            and (self.eps is None or math.isclose(self.eps, measured.attack.eps, rel_tol=1e-6, abs_tol=1e-9))
        )

    def kept(self, value: float) -> bool:
        """Whether a value keeps the rule; one that is not finite does not."""
        return math.isfinite(value) and OPERATORS[self.sign](value, self.value)


def parse_rule(text: str) -> Rule:
    """The rule of a text. Raises UserError for another form."""
    found = re.fullmatch(r"\s*([^:@\s]+)(?:@(.+?))?:([A-Za-z][^\s<>=]*[^\s<>=:])\s*(>=|<=|>|<)\s*(\S+)\s*", text)
    if not found:
        raise UserError(f"'{text}' is not a rule; write {FORM}.")
    task, dataset, attack, sign, limit = found.groups()
    label, eps = _split_eps(attack)
    try:
        value = float(limit)
    except ValueError:
        raise UserError(f"'{limit}' in '{text}' is not a number; write {FORM}.") from None
    if not math.isfinite(value):
        raise UserError(f"'{limit}' in '{text}' is no limit; write {FORM}.")
    return Rule(text.strip(), task, dataset or "", label, eps, sign, value)


def _split_eps(attack: str) -> tuple[str, float | None]:
    """`apgd:dlr:4/255` as label and eps; objectives begin with a letter, sizes with a digit."""
    label, colon, last = attack.rpartition(":")
    if colon and last[:1].isdigit():
        return label, parse_area(last) if last.endswith("%") else parse_eps(last)
    return attack, None


def check_rules(rules: Iterable[Rule], measured: Iterable[Measured]) -> None:
    """Raises UserError for a rule that is about none of these numbers: it could never fail."""
    known = list(dict.fromkeys(measured))
    for rule in rules:
        if not any(rule.concerns(one) for one in known):
            names = ", ".join(dict.fromkeys(one.name for one in known))
            raise UserError(f"rule '{rule.text}' is about no number of this run; it has {names}.")


def measured_by(record: "Record") -> Measured:
    """What a record is about."""
    return Measured(record.dataset, record.task, record.attack)


def judge_rules(rules: Sequence[Rule], records: Iterable["Record"]) -> list[GateOutcome]:
    """Whether numbers keep rules, one outcome for each rule and number that it is about.

    The value counts, not an end of its interval; the message says whether the interval is on one side of the limit, and
    where the value is not better than chance.

    Raises:
        UserError: a rule that is about none of the numbers.
    """
    own = [r for r in records if not r.is_transfer]
    check_rules(rules, (measured_by(r) for r in own))
    return [_judged(rule, record) for rule in rules for record in own if rule.concerns(measured_by(record))]


def _judged(rule: Rule, record: "Record") -> GateOutcome:
    number = record.headline
    kept = rule.kept(number.value)
    sure = rule.kept(number.ci_low) == rule.kept(number.ci_high) == kept
    doubt = "" if sure else "; the limit is inside the 95 % interval, so more images could change this"
    trust = "" if trusted(record) else "; a sanity check of this number failed (†)"
    blind = _chance_text(record)
    where = f"{record.task} on {record.images_of} under {record_label(record)}"
    message = (
        f"{where}: {record.metric} {interval_text(number)}, n = {record.n}, "
        f"{'keeps' if kept else 'breaks'} {rule.sign} {rule.value:g}{doubt}{blind}{trust}"
    )
    # Build servers take two cases of one name for one.
    name = f"{rule.text} ({record.images_of}, {record_label(record)})"
    return GateOutcome(record.encoder, name, "passed" if kept else "failed", message)


def _chance_text(record: "Record") -> str:
    if record.chance is None or not is_guess(record.headline, record.chance, record.higher_is_better):
        return ""
    return f"; not better than {record.chance_answer}, {number_text(record.chance)}"
