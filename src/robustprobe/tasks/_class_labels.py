"""What tasks over classes share: checking labels, counting them, and reading logits."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelSpace, LabelStatistics, SanityCheck

ENOUGH = 4
"""Logits of fewer classes may all be between 0 and 1 by chance."""
MOST_OF_ONE_CLASS = 0.99
"""A larger share of the labels in one class is worth a warning."""


def several_classes(output: Tensor) -> LabelSpace:
    """The classes of logits (B, C, ...) of a user's own model. Raises UserError for a single one."""
    if output.shape[1] == 1:
        raise UserError(
            "the model answers one logit, so it has one class and is never wrong. Of a model that answers yes or no "
            "make two logits: lambda images: torch.cat([-model(images), model(images)], 1)."
        )
    return LabelSpace(classes=tuple(str(index) for index in range(output.shape[1])))


def class_labels(label: Tensor, space: LabelSpace, ignored: bool) -> Tensor:
    """Class labels as int64. Raises ValueError for fractions, and for classes that the label space does not know."""
    if label.is_floating_point():
        raise ValueError(f"values of type {label.dtype}; expected whole numbers. Convert them with .long()")
    wrong = (label < 0) | (label >= len(space.classes))
    if ignored:
        wrong &= label != space.ignore_index
    if wrong.any():
        also = f" or {space.ignore_index} (ignored)" if ignored else ""
        raise ValueError(f"label {int(label[wrong].flatten()[0])}; expected 0 to {len(space.classes) - 1}{also}")
    return label.long()


def missing_classes(found: LabelStatistics, space: LabelSpace, name: str) -> list[str]:
    """A warning that names classes without a label, where there are some."""
    unseen = _unseen(found, space)
    return [f"{len(unseen)} classes have no {name} label: {_listed(unseen)}"] if unseen else []


def found_classes(found: LabelStatistics, space: LabelSpace) -> str:
    """How many classes occur, which do not, and the commonest one with its share, in words."""
    unseen = _unseen(found, space)
    missing = f" (without {_listed(unseen)})" if unseen else ""
    seen = f"{len(space.classes) - len(unseen)} of {len(space.classes)} classes{missing}"
    if not found.counts:
        return seen
    name, share = _commonest(found, space)
    return f"{seen}, most often {name} ({share:.0%})"


def lone_class(found: LabelStatistics, space: LabelSpace) -> list[str]:
    """A warning where nearly all of several labels are of one class."""
    if sum(found.counts.values()) < 2:
        return []
    name, share = _commonest(found, space)
    if share == 1:
        return [f"every label is {name}"]
    return [f"{share:.2%} of the labels are {name}"] if share > MOST_OF_ONE_CLASS else []


def _commonest(found: LabelStatistics, space: LabelSpace) -> tuple[str, float]:
    """The class with most labels, and its share."""
    index, count = max(found.counts.items(), key=lambda item: item[1])
    return space.classes[index], count / sum(found.counts.values())


def _unseen(found: LabelStatistics, space: LabelSpace) -> list[str]:
    """Classes without a label."""
    seen = {int(value) for value in found.values}
    return [name for index, name in enumerate(space.classes) if index not in seen]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' ...' * (len(names) > 5)}"


def looks_like_probabilities(output: Tensor) -> SanityCheck:
    """Whether outputs (B, C, ...) are probabilities: their gradients vanish, logits' do not."""
    share = float((((output.sum(1) - 1).abs() < 1e-4) & (output.amin(1) >= 0)).double().mean())
    means = "" if share < 1 else ": these are probabilities, give logits, or gradients vanish"
    return SanityCheck("logits", share, share < 1, f"{share:.0%} of outputs are positive and add up to 1{means}")


def sigmoid_doubts(output: Tensor) -> list[str]:
    """A warning where outputs (B, C, ...) of a user's own model are all from 0 to 1, and none of a softmax."""
    inside = output.shape[1] >= ENOUGH and output.amin() >= 0 and output.amax() <= 1
    if not inside or not looks_like_probabilities(output).passed:
        return []
    return ["all of them are from 0 to 1, as those of sigmoids: give logits, or gradients vanish"]


def likeliest(logits: Tensor, classes: Sequence[str], top: int = 5) -> list[list[Any]]:
    """The likeliest classes of logits (C,), each with its probability."""
    shares, order = logits.softmax(0).topk(min(top, len(classes)))
    return [[classes[int(i)], round(float(s), 4)] for s, i in zip(shares, order, strict=True)]
