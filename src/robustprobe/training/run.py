"""Harden an encoder: load everything that a run names, train, and write the result."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch

from robustprobe.core.errors import UserError
from robustprobe.core.sizes import format_eps
from robustprobe.defences import Defence, Projected, load_defence
from robustprobe.encoders import Encoder, load_encoder
from robustprobe.results.provenance import hardware, versions
from robustprobe.training.data import held_out_pool, open_pool
from robustprobe.training.distributed import Processes
from robustprobe.training.folder import RunFolder, architecture_of
from robustprobe.training.loop import TrainingJob, TrainingProgress, train
from robustprobe.training.monitor import IMAGES
from robustprobe.training.spec import HardenSpec
from robustprobe.training.trained_blocks import train_blocks


def run(
    spec: HardenSpec,
    root: Path,
    out: Path,
    processes: Processes,
    notify: Callable[[TrainingProgress], None],
    teacher: Encoder | None = None,
    **saving: float,
) -> bool:
    """Do a run, or the rest of it; False where it was already done.

    Raises:
        UserError: unknown names or fields, missing data, an encoder that cannot be saved, a folder of another run.
        DivergedError: the loss became NaN or infinite.
    """
    job = prepare(spec, root, out, teacher, processes)
    if job.folder.finished:
        return False
    train(job, processes, notify, **saving)
    return True


def prepare(spec: HardenSpec, root: Path, out: Path, teacher: Encoder | None, processes: Processes) -> TrainingJob:
    """Load everything that a run names before any work is done, and reserve its folder."""
    teacher = (load_encoder(spec.encoder) if teacher is None else teacher).freeze()
    size = fitting(spec.size or teacher.card.input_size, teacher)
    train_blocks(copy.deepcopy(teacher), spec.trained_blocks, torch.zeros(1, 3, *size))
    defence = make_defence(spec)
    architecture = architecture_of(teacher)
    pool = open_pool(spec.datasets, root, "train", spec.limit, size, spec.augment)
    shares = spec.accumulate * processes.world
    if min(spec.batch_size, len(pool)) < shares:
        raise UserError(
            f"a batch of {min(spec.batch_size, len(pool))} cannot be split into {shares} parts; take a larger "
            "--batch-size, more images or a smaller --accumulate."
        )
    facts = {
        "method": spec.method,
        "teacher_digest": teacher.digest,
        "data": list(spec.datasets),
        "images": len(pool),
        "data_digest": pool.digest(),
        "eps": spec.eps,
        "eps_text": format_eps(spec.eps),
        "seed": spec.seed,
        "settings": spec.model_dump(mode="json"),
        "versions": versions(),
        "hardware": hardware(),
    }
    folder = RunFolder(out)
    if processes.leads:
        described = ("teacher_digest", "data_digest", "images")
        folder.claim({**spec.model_dump(mode="json"), **{key: facts[key] for key in described}})
    processes.wait()
    held_out = held_out_pool(spec.datasets, root, size) or pool
    return TrainingJob(spec, teacher, defence, pool, held_out.whole(IMAGES), folder, architecture, facts)


def make_defence(spec: HardenSpec) -> Defence:
    """The defence of a run. Raises UserError for an unknown method or option."""
    made = [load_defence(spec.method, spec.tokens, spec.layers, spec.options) for _ in range(1 + spec.projector)]
    return Projected(*made) if spec.projector else made[0]


def fitting(size: tuple[int, int], teacher: Encoder) -> tuple[int, int]:
    """The size (H, W), if the encoder takes images of it. Raises UserError otherwise."""
    card, asked = teacher.card, f"image size {size[0]} x {size[1]}"
    patch = card.patch_size
    if size[0] % patch or size[1] % patch:
        near = " x ".join(str(max(1, round(side / patch)) * patch) for side in size)
        raise UserError(f"{asked} is not a multiple of the patch size {patch} of {card.name}; take {near}.")
    if card.fixed_size and size != card.input_size:
        only = f"{card.input_size[0]} x {card.input_size[1]}"
        raise UserError(f"{asked} is not possible: {card.name} takes images of {only} only. Leave out the image size.")
    try:
        with torch.no_grad():
            teacher(torch.zeros(1, 3, *size))
    except UserError:
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise UserError(f"{card.name} takes no images of {size[0]} x {size[1]}: {error}. Take another size.") from error
    return size
