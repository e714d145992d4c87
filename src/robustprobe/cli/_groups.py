"""The headings under which options stand in the help."""

from cyclopts import Group, Parameter


def _headed(name: str, order: int) -> Parameter:
    return Parameter(group=Group(name, sort_key=order))


WHAT = _headed("What to evaluate", 1)
ATTACK = _headed("Attacks", 2)
HEADS = _headed("Heads", 3)
WHERE = _headed("Where and how", 4)
OUTPUT = _headed("Output", 5)

SOURCE = _headed("Encoder and images", 1)
OBJECTIVE = _headed("Objective and inner attack", 2)
TRAINING = _headed("Training", 3)
