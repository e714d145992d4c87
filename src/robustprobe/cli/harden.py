"""`robustprobe harden`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from robustprobe.cli._console import new_console
from robustprobe.cli._groups import OBJECTIVE, OUTPUT, SOURCE, TRAINING, WHERE


def harden(
    *,
    encoder: Annotated[str, SOURCE],
    dataset: Annotated[list[str], SOURCE],
    out: Annotated[Path, OUTPUT],
    method: Annotated[str, OBJECTIVE] = "deacl",
    epochs: Annotated[int | None, TRAINING] = None,
    eps: Annotated[str | None, OBJECTIVE, Parameter(allow_leading_hyphen=True)] = None,
    steps: Annotated[int | None, OBJECTIVE] = None,
    tokens: Annotated[Literal["cls", "patch", "both"] | None, OBJECTIVE] = None,
    layer: Annotated[list[int] | None, OBJECTIVE] = None,
    option: Annotated[list[str] | None, OBJECTIVE] = None,
    limit: Annotated[int | None, SOURCE] = None,
    batch_size: Annotated[int | None, TRAINING] = None,
    accumulate: Annotated[int | None, TRAINING] = None,
    optimiser: Annotated[Literal["sgd", "adamw"] | None, TRAINING] = None,
    learning_rate: Annotated[float | None, TRAINING] = None,
    momentum: Annotated[float | None, TRAINING] = None,
    weight_decay: Annotated[float | None, TRAINING] = None,
    warmup: Annotated[float | None, TRAINING] = None,
    clip: Annotated[float | None, TRAINING] = None,
    eps_ramp: Annotated[float | None, OBJECTIVE] = None,
    ema: Annotated[float | None, TRAINING] = None,
    feature_rank: Annotated[int | None, OBJECTIVE] = None,
    augment: Annotated[bool | None, TRAINING, Parameter(negative="--no-augment")] = None,
    precision: Annotated[Literal["fp32", "bf16"] | None, WHERE] = None,
    checkpoint_every: Annotated[int | None, OUTPUT] = None,
    seed: Annotated[int | None, TRAINING] = None,
    data_root: Annotated[Path, WHERE] = Path("data"),
    device: Annotated[str, WHERE] = "auto",
) -> None:
    """Fine-tune an encoder without labels so that attacks move its features less.

    The same command again continues where it stopped. The result is the encoder file:OUT; OUT/checkpoints holds one
    for each epoch. Under torchrun the batch is shared by all processes.

    Parameters
    ----------
    encoder
        Encoder to start from, such as bundled:scenes or file:DIR.
    dataset
        Dataset whose train images are used, without labels. Can be given several times.
    out
        Folder for the result.
    method
        A name from `robustprobe list defences`. What is not given here is as its authors published it.
    epochs
        Passes over the images; with 0 only the rank of its features is reduced (--feature-rank).
    eps
        Largest change of a pixel value in training, such as 8/255.
    steps
        Steps of the inner attack.
    tokens
        Tokens that the objective reads.
    layer
        Block whose features the objective reads, -1 for the last. Can be given several times, the last block last.
    option
        NAME=VALUE for the method's own options, such as gamma=2. Can be given several times.
    limit
        Images of each dataset.
    batch_size
        Images per update, over all processes.
    accumulate
        Parts that a batch is worked through in, one after another: less memory, the same result to rounding.
    optimiser
        sgd or adamw.
    learning_rate
        Its largest value, after warm-up.
    momentum
        Of sgd.
    weight_decay
        Of the optimiser.
    warmup
        Share of the updates over which the learning rate rises.
    clip
        Largest length of the gradient; 0 for none.
    eps_ramp
        Share of the updates over which eps grows from 0.
    ema
        Decay of a moving average of the weights, which is then what is kept; 0 for none.
    feature_rank
        Rank that the features of the result are reduced to, keeping the directions that attacks move least; 0: no
        reduction.
    augment
        Random crops and flips, new in each epoch; else whole images.
    precision
        Of the student in training and inner attack.
    checkpoint_every
        Epochs between checkpoints.
    seed
        Seed of crops, order, and random starts.
    data_root
        Folder that holds the datasets, each in a folder of its name.
    device
        auto, cpu or cuda.
    """
    console = new_console()
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        console.print(f"[bold]robustprobe[/] harden {method}: loading torch and {encoder} ...")
    from robustprobe.cli._training import TrainingDisplay
    from robustprobe.training.distributed import find_processes
    from robustprobe.training.loop import DivergedError
    from robustprobe.training.run import run
    from robustprobe.training.spec import make_spec

    given: dict[str, Any] = {"encoder": encoder, "datasets": tuple(dataset), "epochs": epochs, "eps": eps}
    given |= {"steps": steps, "tokens": tokens, "layers": tuple(layer) if layer else None, "options": option}
    given |= {"limit": limit, "batch_size": batch_size, "accumulate": accumulate, "optimiser": optimiser}
    given |= {"learning_rate": learning_rate, "weight_decay": weight_decay, "warmup": warmup, "clip": clip}
    given |= {"eps_ramp": eps_ramp, "ema": ema, "precision": precision, "feature_rank": feature_rank}
    given |= {"momentum": momentum, "augment": augment}
    spec = make_spec(method, {**given, "checkpoint_every": checkpoint_every, "seed": seed})
    try:
        with TrainingDisplay(console, leads) as watch:
            worked = run(spec, data_root, out, find_processes(device), watch.update)
    except DivergedError as error:
        print(f"robustprobe: {error}", file=sys.stderr)
        sys.exit(2)
    if leads:
        console.print(f"{'Done' if worked else 'Done already'}: encoder file:{out}", soft_wrap=True, markup=False)
        console.print(f"How robust each epoch is: robustprobe curve {out} --dataset {dataset[0]}", soft_wrap=True)
