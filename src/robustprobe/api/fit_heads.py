"""`robustprobe.fit_probe`: a head on a frozen encoder."""

from functools import partial
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from robustprobe import probing
from robustprobe.api.inputs import HOLDS_DATASETS, as_encoder, as_size, only
from robustprobe.core.arguments import checked_types
from robustprobe.core.device import find_device
from robustprobe.core.errors import UserError, unknown_name
from robustprobe.core.head_spec import HeadKind, HeadSpec
from robustprobe.core.spec import DatasetSpec
from robustprobe.core.spec_base import validated
from robustprobe.core.types import Sample
from robustprobe.core.user_warnings import warn_user
from robustprobe.core.usual_mode import usual_mode
from robustprobe.datasets import find_dataset, label_report, load_dataset
from robustprobe.encoders import Encoder, order_doubt
from robustprobe.tasks import Model

SHOWN = 4
"""Images that a notebook shows of a model."""


class HeadFields(TypedDict, total=False):
    """Fields of `HeadSpec` beside `train_limit`."""

    recipe: Literal["fast", "standard", "paper"]
    kind: HeadKind
    training: str
    pooling: Literal["cls", "cls+patch", "gem"] | None
    epochs: int | None
    batch_size: int | None
    layers: Literal[1, 4] | None
    label_stride: int | None
    learning_rates: tuple[float, ...] | None
    knn: int
    seed: int


@checked_types("encoder", "dataset", "task", "size", "device", root=HOLDS_DATASETS)
@usual_mode()
def fit_probe(
    encoder: Encoder | str,
    dataset: str,
    *,
    task: str | None = None,
    root: str | Path = "data",
    train_limit: int | None = None,
    size: int | tuple[int, int] | None = None,
    device: str = "auto",
    **recipe: Unpack[HeadFields],
) -> Model:
    """A model: the frozen encoder with a head fitted on a dataset, from the cache where it was fitted before.

    Labels that make little sense are warned about, as in the plan of a run.

    Args:
        encoder: an encoder or its name. It moves to `device`, as the model does.
        dataset: a name from `robustprobe list datasets`.
        task: needed where the dataset has labels for several tasks.
        root: folder of the datasets.
        train_limit: train images used; by default as the recipe says.
        size: (H, W), or one number, that images are served at; by default as the recipe says.
        device: `auto` is CUDA where it is available, else the CPU. `attack` moves images to the model.
        recipe: other fields of `HeadSpec`, such as `pooling="cls+patch"`.

    Raises:
        UserError: unknown names, a task the dataset has no labels for, missing data, an unknown recipe field.

    Example:
        >>> import robustprobe as rp
        >>> model = rp.fit_probe("bundled:photos", "scenes", task="classification", train_limit=64)
        >>> logits = model(images)  # (B, 3, H, W) in [0, 1] to (B, C)
    """
    dataset, task = only(dataset, "dataset"), only(task, "task")
    if not isinstance(dataset, str):
        raise UserError(f"fit_probe takes the name of a dataset, not a {type(dataset).__name__}.")
    encoder, root = as_encoder(encoder, "fit_probe"), Path(root)
    found = find_dataset(dataset, root=root, tasks=[task] if isinstance(task, str) else ())
    tasks = list(found.spaces)
    if task is None and len(tasks) == 1:
        task = tasks[0]
    if task not in tasks:
        raise unknown_name(f"task of {dataset}", str(task), tasks)
    spec = validated(HeadSpec, {"train_limit": train_limit, **recipe}, "head recipe")
    if spec.zero_shot is not None:
        raise UserError("nothing of a zero-shot head is fitted; its model is rp.zero_shot(encoder, file).")
    wanted, where = validated(DatasetSpec, {"name": dataset, "size": as_size(size)}, "dataset"), find_device(device)
    heads = probing.plan_heads(
        encoder.to(where), wanted, spec, root=root, tasks=[task] if task in found.borrowed else tasks
    )
    train, val, _ = heads.data
    for doubt in label_report(train, train, [task], val).doubts:
        warn_user(f"{dataset}, {task}: {doubt.text}")
    for text in heads._replace(order=order_doubt(heads.encoder)).doubts:
        warn_user(f"{text}.")
    model = heads.fit(where, [task])[task][0]
    model.sample_source = partial(_held_out, dataset, root, model.size, task)
    return model


def _held_out(dataset: str, root: Path, size: tuple[int, int] | None, task: str) -> list[Sample]:
    """A few images on which heads are chosen, not fitted."""
    found = load_dataset(dataset, root=root, split="val", limit=SHOWN, size=size, tasks=[task])
    return [found[position] for position in range(len(found))]
