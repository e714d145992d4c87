"""`robustprobe harden`."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from robustprobe.cli._console import new_console, opening
from robustprobe.cli._numbers import WholeNumber, WholeNumbers
from robustprobe.cli._options import OUTPUT, WHERE
from robustprobe.trackers import GuardedTrackers

SOURCE = Group("Encoder and images", sort_key=1)
METHOD = Group("Method and inner attack", sort_key=2)
TRAINING = Group("Training", sort_key=3)


@Parameter(name="*", group=SOURCE)
@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What is hardened, and on which images."""

    encoder: str
    """Encoder to start from, such as bundled:scenes or file:DIR."""
    dataset: list[str]
    """Dataset whose training images are used, without labels. Can be given several times."""
    limit: WholeNumber | None = None
    """Number of images of each dataset. By default all."""
    image_size: WholeNumber | None = None
    """Height and width of the training images, whatever size the encoder prefers: a multiple of its patch size. By
    default the encoder's input size."""
    augment: Annotated[bool | None, Parameter(negative="--no-augment")] = None
    """Random crops and flips, new in each epoch. --no-augment: whole images."""


@Parameter(name="*", group=METHOD)
@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """The objective, and the attack that it is trained against. By default as the method's authors published it."""

    method: str = "deacl"
    """A name from `robustprobe list defences`. What is not given here is as its authors published it."""
    option: list[str] | None = None
    """NAME=VALUE for an option of the method itself, such as gamma=2. Can be given several times."""
    tokens: Literal["cls", "patch", "both"] | None = None
    """Tokens that the objective reads."""
    layer: WholeNumbers | None = None
    """Block whose features the objective reads, -1 for the last. Can be given several times, the last block last."""
    eps: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Largest change of a pixel value in training, such as 8/255."""
    eps_ramp: float | None = None
    """Share of the updates over which eps grows from 0."""
    steps: WholeNumber | None = None
    """Steps of the inner attack."""
    projector: Annotated[bool | None, Parameter(negative="")] = None
    """Apply the method on features and as much on features behind a frozen projector, in inner attack and loss."""
    feature_rank: WholeNumber | None = None
    """Rank that the features of the result are reduced to; the directions that attacks move least are kept. 0: no
    reduction."""


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The optimiser and its schedule."""

    epochs: WholeNumber | None = None
    """Passes over the images. 0: only the rank of the features is reduced (--feature-rank)."""
    batch_size: WholeNumber | None = None
    """Images per update, over all processes."""
    updates_per_batch: WholeNumber | None = None
    """Updates of the encoder on each batch and its attacked images, before the next batch is drawn."""
    accumulate: WholeNumber | None = None
    """Parts into which a batch is split, processed one after another: less memory, the same result to rounding."""
    optimiser: Literal["sgd", "adamw"] | None = None
    """sgd or adamw."""
    learning_rate: float | None = None
    """Largest learning rate, reached after warm-up."""
    warmup: float | None = None
    """Share of the updates over which the learning rate rises."""
    momentum: float | None = None
    """Momentum of sgd."""
    weight_decay: float | None = None
    """Weight decay of the optimiser."""
    clip: float | None = None
    """Largest norm of the gradient. 0: no clipping."""
    trained_blocks: str | None = None
    """first:K or last:K: only these blocks are trained, such as first:2. With the first ones what comes before them is
    trained too, and the final norm. By default all."""
    weight_perturbation: float | None = None
    """Adversarial weight perturbation (AWP): the gradient is taken at weights that raise the loss, moved by this share
    of their norm, such as 0.005. 0: none. Costs one more forward and backward pass per update."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which then is the result. 0: none."""
    seed: WholeNumber | None = None
    """Seed of crops, order and random starts."""


def harden(
    *,
    source: SourceOptions,
    method: MethodOptions = MethodOptions(),
    training: TrainingOptions = TrainingOptions(),
    precision: Annotated[Literal["fp32", "bf16"] | None, Parameter(group=WHERE)] = None,
    data_root: Annotated[Path, Parameter(group=WHERE)] = Path("data"),
    device: Annotated[str, Parameter(group=WHERE)] = "auto",
    out: Annotated[Path, Parameter(group=OUTPUT)],
    checkpoint_every: Annotated[WholeNumber | None, Parameter(group=OUTPUT)] = None,
    tracker: Annotated[list[str] | None, Parameter(group=OUTPUT)] = None,
) -> None:
    """Fine-tune an encoder without labels so that attacks move its features less.

    The same command again continues where it stopped. The result is the encoder file:OUT; OUT/checkpoints holds one
    for each epoch. Under torchrun the batch is shared by all processes.

    Parameters
    ----------
    precision
        Precision of the student in training and inner attack.
    data_root
        Folder that holds the datasets, each in a folder of its name.
    device
        auto, cpu or cuda.
    out
        Folder for the result.
    checkpoint_every
        Epochs between checkpoints.
    tracker
        Program that is told of the curves of loss and feature drift as they come: a name from `robustprobe list
        trackers`, or my.py:MyTracker. Can be given several times.
    """
    console = new_console()
    leads = os.environ.get("RANK", "0") == "0"
    told = GuardedTrackers((tracker or ()) if leads else (), out)
    if leads:
        console.print(opening(f"harden {method.method}: loading torch and {source.encoder} ..."))
    from robustprobe.cli._training import TrainingCurves, TrainingDisplay
    from robustprobe.training.distributed import find_processes
    from robustprobe.training.loop import DivergedError, TrainingProgress
    from robustprobe.training.run import run
    from robustprobe.training.spec import make_spec

    given: dict[str, Any] = {**vars(source), **vars(method), **vars(training)}
    given |= {"precision": precision, "checkpoint_every": checkpoint_every}
    for option, field in (("dataset", "datasets"), ("layer", "layers"), ("option", "options"), ("image_size", "size")):
        given[field] = given.pop(option)
    spec = make_spec(given.pop("method"), given)
    try:
        watch = TrainingDisplay(console, leads)
        curves = TrainingCurves(told, spec, out, console)

        def notify(progress: TrainingProgress) -> None:
            watch.update(progress)
            curves.update(progress)

        with told, watch.bars:
            worked = run(spec, data_root, out, find_processes(device), notify)
            curves.end()
    except DivergedError as error:
        print(f"robustprobe: {error}", file=sys.stderr)
        sys.exit(2)
    if leads:
        console.print(f"{'Done' if worked else 'Done already'}: encoder file:{out}", soft_wrap=True)
        console.print(
            f"How robust each epoch is: robustprobe curve {shlex.quote(str(out))} --dataset {source.dataset[0]}",
            soft_wrap=True,
        )
