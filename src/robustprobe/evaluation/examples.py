"""Example images of a run: random ones and extreme ones, the same for every encoder and attack, stored without loss."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

from robustprobe.attacks import attack_class, recorded_access
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.views import View
from robustprobe.datasets import Dataset
from robustprobe.evaluation.collect import KeptImage
from robustprobe.results.example_images import CHOICE_KINDS, RANDOM, Example, ExampleChoice, Group
from robustprobe.results.store import Store
from robustprobe.tasks import Task, load_task, task_kind


def example_places(ids: Sequence[str], count: int, seed: int) -> set[int]:
    """Places of `count` images drawn at random, by a seed and their ids alone."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(f"{seed}/{ids[i]}".encode()).digest())
    return set(order[:count])


class ExampleContext(NamedTuple):
    """What examples are of: an encoder, the images, and how the model of each task sees them."""

    encoder: str
    dataset: Dataset
    views: Mapping[str, View]


def write_examples(
    store: Store, group: str, setting: ExampleContext, attack: AttackSpec, target_task: str, kept: Sequence[KeptImage]
) -> None:
    """Write the images of one group, then the group's description; nothing where no image was kept."""
    if not kept:
        return
    described = new_group(group, setting, attack, target_task)
    pictures: dict[str, NDArray[Any]] = {}
    examples = [_example(one, setting, attack.eps == 0, pictures) for one in kept]
    digests = {name: store.write_image(group, name, pixels) for name, pixels in pictures.items()}
    store.write_group(described.model_copy(update={"examples": examples, "digests": digests}))


def new_group(group: str, setting: ExampleContext, attack: AttackSpec, target_task: str) -> Group:
    """The description of a group that has no images yet."""
    labels = setting.dataset.spaces
    return Group(
        group=group,
        encoder=setting.encoder,
        dataset=setting.dataset.name,
        attack=attack.shared,
        target_task=target_task,
        access=recorded_access(attack_class(attack)),
        classes={task: list(space.classes) for task, space in labels.items()},
        displays={task: task_kind(task).display for task in labels},
        examples=[],
    )


def add_examples(
    store: Store,
    known: Group,
    setting: ExampleContext,
    kept: Sequence[KeptImage],
    choices: Mapping[int, Sequence[ExampleChoice]],
) -> None:
    """Write images of a group beside those it has, then its description anew: until then it is as it was.

    Args:
        choices: by place why images were chosen, for those of `kept` and for others that are there.
    """
    pictures: dict[str, NDArray[Any]] = {}
    new = [_example(one, setting, known.attack.eps == 0, pictures, ()) for one in kept]
    digests = {name: store.write_image(known.group, name, pixels) for name, pixels in pictures.items()}
    examples = [_chosen(example, choices.get(example.position, ())) for example in [*known.examples, *new]]
    examples.sort(key=lambda example: (CHOICE_KINDS.index(example.chosen[0].kind), example.position))
    if examples != known.examples:
        merged = {"examples": examples, "digests": {**known.digests, **digests}}
        store.write_group(known.model_copy(update=merged))


def _chosen(example: Example, choices: Sequence[ExampleChoice]) -> Example:
    reasons = list(dict.fromkeys([*example.chosen, *choices]))
    # First of all random: every group then gives the reasons in one order, whichever of them came later.
    reasons.sort(key=lambda choice: choice != RANDOM)
    return example.model_copy(update={"chosen": tuple(reasons)})


def _example(
    one: KeptImage,
    setting: ExampleContext,
    clean: bool,
    pictures: dict[str, NDArray[Any]],
    chosen: tuple[ExampleChoice, ...] = (RANDOM,),
) -> Example:
    pixels = (one.adversarial * 255).round().byte().permute(1, 2, 0)
    pictures[f"{one.position}.png"] = pixels.numpy()
    predictions: dict[str, Any] = {}
    truth: dict[str, Any] = {}
    for name, answer in one.answers.items():
        task = load_task(name, setting.dataset.spaces[name])
        predictions[name] = _stored(task, answer, f"{one.position}-{name}.png", pictures)
        size = setting.views[name].output_size((pixels.shape[0], pixels.shape[1]))
        label = task.fit_labels(one.targets[name][None], size)[0]
        # The labels are the same under every attack, so their pictures are stored once.
        shown = pictures if clean else {}
        found = _stored(task, label, f"{one.position}-{name}-truth.png", shown)
        truth[name] = found if isinstance(found, str) else found[0][0]
    return Example(
        id=one.id, position=one.position, chosen=chosen, predictions=predictions, truth=truth, scores=one.scores
    )


def _stored(task: Task, shown: Tensor, name: str, pictures: dict[str, NDArray[Any]]) -> str | list[list[Any]]:
    """An answer or label as a group stores it: pairs of class and probability, or the name of a picture."""
    found = task.picture(shown)
    if isinstance(found, list):
        return found
    pictures[file_name(name)] = found
    return file_name(name)


def file_name(name: str) -> str:
    """A name as that of a file: the task of `my.py:Task` has a colon and a dot."""
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", name.removesuffix(".png"))
    return f"{stem[:76]}.png"
