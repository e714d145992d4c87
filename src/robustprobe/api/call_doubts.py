"""What is legal but implausible about a call of `robustprobe.attack`, seen on a few of its images before the attack."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.eps import implausible_eps
from robustprobe.core.errors import UserError
from robustprobe.core.types import LabelSpace
from robustprobe.tasks import Task

LOOKED_AT = 8
"""Images that are shown at once; the first of them is shown twice more, alone."""
FEWEST = 4
"""Fewer images may all be wrong by chance."""
NOTHING_RIGHT = 0.02
WORSE = 1.5
"""Times the error of the best constant answer: no model that was trained for the task has so much."""
MOST_APART = 0.05
"""Share of the largest output by which two answers may differ, as rounding in half precision does."""


class LabelledModel(NamedTuple):
    """A model of the user's with its labels."""

    function: Callable[[Tensor], Tensor]
    task: Task
    targets: Tensor
    space: LabelSpace
    """Of the labels of all images, also where `targets` are those of a batch."""


def call_doubts(spec: AttackSpec, judged: LabelledModel | None, images: Tensor) -> list[str]:
    """Sentences on an eps that is out of proportion; and, where there are labels, on a model that answers at random,
    whose answer to an image (B, 3, H, W) depends on the others, whose answers hide their gradient, or that is no better
    on clean images than without seeing them.
    """
    size = (images.shape[-2], images.shape[-1])
    found = [text for text in [implausible_eps(spec, size)] if text]
    return found if judged is None else found + _model_doubts(spec, judged, images[:LOOKED_AT])


@torch.no_grad()
def _model_doubts(spec: AttackSpec, judged: LabelledModel, images: Tensor) -> list[str]:
    # A model that answers at random goes on from the same numbers as if it had not been asked here.
    try:
        with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
            first, alone, again = (judged.function(part).float() for part in (images, images[:1], images[:1]))
    except UserError:
        return []  # a fixed answer to all images fits no part of them; what else is wrong the attack says
    most = MOST_APART * first.abs().max()
    found = []
    if _apart(alone, again) > most:
        if spec.eot_samples == spec.judgements == 1:
            found.append(
                "the model answers at random, or remembers earlier calls: a score of one answer is too good. Give "
                "eot_samples and judgements of 2 or more"
            )
    elif _apart(first[:1], alone) > most:
        found.append(
            "the model's answer to an image depends on the other images of the batch, as with batch statistics: scores "
            "depend on them too"
        )
    texts = [check.meaning for check in judged.task.output_checks(first) if not check.passed]
    found += [f"the model's outputs: {text}" for text in [*texts, *judged.task.answer_doubts(first)]]
    return found if first.isnan().any() else found + _score_doubts(judged, first)


def _score_doubts(judged: LabelledModel, answers: Tensor) -> list[str]:
    """Where the answers to the first of the clean images are no better than answers that see nothing."""
    task, targets = judged.task, judged.targets[: len(answers)]
    rows = task.rows(answers, targets)
    scores = task.score(rows)
    known = scores[scores.isfinite()]
    if len(known) < FEWEST:
        return []
    if task.higher_is_better:
        nothing = (
            f"the model is right on none of the first {len(known)} images as they are, so that nothing is left to "
            "attack: check the order of the classes, whether labels start at 0, and the normalisation in the model"
        )
        return [nothing] if known.mean() < NOTHING_RIGHT else []
    chance = task.chance({name: column.cpu().numpy() for name, column in rows.items()})
    if not chance or known.mean() <= WORSE * chance:
        return []
    level = f"{known.mean():.3g} {task.unit}, where {task.chance_answer} has {chance:.3g} {task.unit}"
    text = f"on the first {len(known)} images as they are, the model's {task.metric} is {level}"
    return [f"{text}: {task.likely_fault(answers, targets)}"]


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """The largest difference of two answers; 0 where an answer has NaN, which is an error elsewhere."""
    return (first - second).abs().nan_to_num(0).max() if first.numel() else first.new_zeros(())
