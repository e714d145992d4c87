"""The training loop of all defences. An update is the same, to rounding, however its batch is split."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from robustprobe.core.threat import image_generator
from robustprobe.defences import InnerAttack, linf
from robustprobe.defences.base import Defence
from robustprobe.encoders import Encoder
from robustprobe.encoders.file import weights_module
from robustprobe.encoders.timm import TimmMap
from robustprobe.probing.surrogate_heads import fit_surrogate_heads
from robustprobe.tasks import Head
from robustprobe.training.data import ImageBatch, ImagePool, updates, updates_per_epoch
from robustprobe.training.distributed import Processes
from robustprobe.training.feature_rank import reduce_rank
from robustprobe.training.folder import RunFolder, TrainingState, card_of
from robustprobe.training.monitor import DriftMonitor, FeatureDrift
from robustprobe.training.schedule import averaged, eps_factor, scheduled
from robustprobe.training.spec import HardenSpec
from robustprobe.training.trained_blocks import train_blocks, trainable
from robustprobe.training.weight_perturbation import perturbed

SAVE_SECONDS = 60.0
MEASURED = 512


class DivergedError(RuntimeError):
    """The loss or the weights are NaN or infinite; the message names the last good checkpoint and what to change."""


class TrainingProgress(NamedTuple):
    """State of a run after an update: loss and its terms as means over the batch, time; `look` after an epoch only."""

    step: int
    total: int
    epoch: int
    loss: float
    facts: dict[str, float]
    seconds: float
    left: float
    rate: float
    look: FeatureDrift | None = None

    @property
    def line(self) -> dict[str, Any]:
        """What the log keeps of the update."""
        line: dict[str, Any] = {"step": self.step, "epoch": self.epoch, "loss": self.loss, **self.facts}
        line |= {"rate": self.rate, "seconds": round(self.seconds, 2)}
        return line | ({"look": self.look._asdict()} if self.look else {})


class TrainingJob(NamedTuple):
    """Everything that a run needs, loaded. `facts` go into the cards of the encoders it writes."""

    spec: HardenSpec
    teacher: Encoder
    defence: Defence
    pool: ImagePool
    shown: ImageBatch
    folder: RunFolder
    architecture: dict[str, Any]
    facts: dict[str, Any]

    @property
    def each(self) -> int:
        """Updates per epoch."""
        return updates_per_epoch(self.pool, self.spec.batch_size)

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self.each * self.spec.epochs


def train(
    job: TrainingJob,
    processes: Processes,
    notify: Callable[[TrainingProgress], None],
    save_seconds: float = SAVE_SECONDS,
) -> None:
    """Do the remaining updates of a run, and write checkpoints and the result to its folder.

    Raises:
        DivergedError: loss or weights became NaN or infinite.
    """
    trainer = _Trainer(job, processes)
    trainer.continue_from(job.folder.state())
    shares = job.spec.accumulate * processes.world
    mine = range(processes.rank, shares, processes.world)
    first, start = trainer.step, time.monotonic()
    saved, before = start, trainer.seconds
    images = updates(
        job.pool, batch=job.spec.batch_size, first=first, last=job.total, seed=job.spec.seed, shares=shares, share=mine
    )
    if first == 0:
        trainer.checkpoint()
    for parts in images:
        loss, facts = trainer.update(parts)
        now = time.monotonic()
        trainer.seconds = before + now - start
        ended = trainer.step % job.each == 0
        look = trainer.checkpoint() if ended else None
        left = (now - start) / (trainer.step - first) * (job.total - trainer.step)
        times = trainer.seconds, left, trainer.rate
        progress = TrainingProgress(trainer.step, job.total, trainer.epoch, loss, facts, *times, look)
        if processes.leads:
            job.folder.log(progress.line)
        if ended or now - saved >= save_seconds:
            trainer.save()
            saved = time.monotonic()
        notify(progress)
    trainer.finish()


@final
class _Trainer:
    def __init__(self, job: TrainingJob, processes: Processes) -> None:
        self.job, self.processes = job, processes
        self.step, self.seconds, self.rate = 0, 0.0, 0.0
        self.teacher = job.teacher.to(processes.device).freeze()
        self.student = copy.deepcopy(self.teacher)
        if isinstance(self.student, TimmMap):
            # Convolutions are a third faster in this layout.
            self.student.to(memory_format=torch.channels_last)
        shown = ImageBatch(job.shown.ids, job.shown.images.to(processes.device))
        train_blocks(self.student, job.spec.trained_blocks, shown.images[:1])
        fit_surrogates = partial(self._surrogates, processes.device)
        job.defence.prepare(self.teacher, job.pool.whole(MEASURED).images.to(processes.device), fit_surrogates)
        self.defence = job.defence.to(processes.device)
        self.parameters = [*trainable(self.student), *trainable(self.defence)]
        self.optimiser = make_optimiser(job.spec, self.student, self.defence)
        self.schedule = scheduled(self.optimiser, self.job.total, self.job.spec.warmup, self.step)
        self.mean = averaged(self.student, job.spec.ema) if job.spec.ema else None
        self.exhibit = copy.deepcopy(self.teacher).freeze()
        self.reduced: tuple[int, Encoder] | None = None
        self.probe = DriftMonitor(self.teacher, shown, job.spec.eps, job.spec.seed)

    @property
    def epoch(self) -> int:
        """The epoch of the last update, from 1 on."""
        return -(-self.step // self.job.each)

    def update(self, parts: Sequence[ImageBatch]) -> tuple[float, dict[str, float]]:
        """Attack a batch and update the encoder on it; loss and terms are those before its first update."""
        job, spec = self.job, self.job.spec
        epoch = self.step // job.each
        ball = ball_of(spec, eps_factor(self.step, job.total, spec.eps_ramp))
        self.defence.redraw(self.step, image_generator(spec.seed, "", "redraw", self.step))
        attacked = []
        for part in parts:
            images = part.images.to(self.processes.device)
            draws = [image_generator(spec.seed, identity, "attack", epoch) for identity in part.ids]
            moved = self.defence.attack(self.student, self.teacher, images, draws, ball, spec.precision)
            attacked.append((images, moved))
        self.rate = self.optimiser.param_groups[0]["lr"]
        found = [
            self._descend(attacked, last=n == spec.updates_per_batch) for n in range(1, spec.updates_per_batch + 1)
        ]
        self.schedule.step()
        self.step += 1
        return found[0]

    def _descend(self, attacked: Sequence[tuple[Tensor, Tensor]], *, last: bool) -> tuple[float, dict[str, float]]:
        """One update on images and moved images; the defence's own parameters change in the last of a batch only."""
        spec = self.job.spec
        found = self._backward(attacked)
        if spec.weight_perturbation:
            with perturbed(trainable(self.student), spec.weight_perturbation):
                self._backward(attacked)
        if not last:
            self.defence.zero_grad(set_to_none=True)
        if spec.clip:
            for group in self.optimiser.param_groups:
                nn.utils.clip_grad_norm_(group["params"], spec.clip)
        self.optimiser.step()
        if self.mean is not None:
            self.mean.update_parameters(self.student)
        return found

    def _backward(self, attacked: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, dict[str, float]]:
        """Fill the gradients; loss and terms are means over the batch of all processes."""
        spec, count = self.job.spec, min(self.job.spec.batch_size, len(self.job.pool))
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for images, moved in attacked:
            outcome = self.defence.loss(self.student, self.teacher, images, moved, spec.precision)
            (outcome.loss.sum() / count).backward()
            for name, values in {"loss": outcome.loss, **outcome.facts}.items():
                sums[name] = sums.get(name, 0.0) + values.detach().double().sum()
        means = self.processes.summed(torch.stack(list(sums.values())).float()) / count
        facts = dict(zip(sums, means.tolist(), strict=True))
        loss = facts.pop("loss")
        if not torch.isfinite(means).all():
            raise DivergedError(self._diverged(f"the loss became {loss:g}"))
        self.processes.sum_gradients(self.parameters)
        return loss, facts

    def checkpoint(self) -> FeatureDrift | None:
        """Write the encoder after an epoch where one is due, and measure its feature drift."""
        job, spec = self.job, self.job.spec
        self.exhibit.load_state_dict(self._weights())
        if not all(bool(torch.isfinite(v).all()) for v in self.exhibit.state_dict().values()):
            raise DivergedError(self._diverged("weights became NaN or infinite"))
        if not self.processes.leads:
            return None
        due = self.epoch % spec.checkpoint_every == 0 or self.epoch == spec.epochs
        path = job.folder.checkpoint(self.epoch)
        if due and not (self.step == 0 and path.exists()):
            self._write(path)
        return self.probe.look(self.exhibit)

    def finish(self) -> None:
        """Write the result."""
        self.exhibit.load_state_dict(self._weights())
        if self.processes.leads:
            self._write(self.job.folder.path)
        self.processes.wait()

    def save(self) -> None:
        if not self.processes.leads:
            return
        tensors = {f"student.{k}": v for k, v in self.student.state_dict().items()}
        tensors |= {f"defence.{k}": v for k, v in self.defence.state_dict().items()}
        if self.mean is not None:
            tensors |= {f"mean.{k}": v for k, v in self._weights().items()}
        for position, values in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{position}.{k}": torch.as_tensor(v) for k, v in values.items() if v is not None}
        self.job.folder.save_state(TrainingState(self.step, self.seconds, tensors))

    def continue_from(self, saved: TrainingState | None) -> None:
        """Load a saved state; lines of the log about later updates are removed."""
        if self.processes.leads:
            self.job.folder.forget_after(saved.step if saved else -1)
        self.processes.wait()
        if saved is None:
            return
        self.step, self.seconds = saved.step, saved.seconds
        self.student.load_state_dict(_under(saved.tensors, "student."))
        self.defence.load_state_dict(_under(saved.tensors, "defence."))
        if self.mean is not None:
            self.mean.module.load_state_dict(_under(saved.tensors, "mean."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(saved.tensors, "optimiser.").items():
            position, _, key = name.partition(".")
            state.setdefault(int(position), {})[key] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.schedule = scheduled(self.optimiser, self.job.total, self.job.spec.warmup, self.step)

    def _weights(self) -> dict[str, Tensor]:
        """The student's weights, or their average where one is kept."""
        return (self.student if self.mean is None else self.mean.module).state_dict()

    def _write(self, path: Path) -> None:
        """Write the encoder as it is to be used."""
        feature_rank = self.job.spec.feature_rank
        card = self._card() | ({"feature_rank": feature_rank} if feature_rank else {})
        self.job.folder.save_encoder(path, card, weights_module(self._shown()).state_dict())

    def _shown(self) -> Encoder:
        """The encoder as it is to be used; its rank is reduced once per step, for the last checkpoint is the result."""
        if not self.job.spec.feature_rank:
            return self.exhibit
        if self.reduced is None or self.reduced[0] != self.step:
            images = self.job.pool.whole(MEASURED).images.to(self.processes.device)
            self.reduced = self.step, reduce_rank(self.exhibit, images, self.job.spec.feature_rank)
        return self.reduced[1]

    def _card(self) -> dict[str, Any]:
        facts = {**self.job.facts, "epoch": self.epoch, "updates": self.step, "hours": round(self.seconds / 3600, 3)}
        return card_of(self.teacher, self.job.architecture, facts)

    def _surrogates(self, device: torch.device, size: tuple[int, int]) -> list[Head]:
        return fit_surrogate_heads(self.teacher, size, device)

    def _diverged(self, what: str) -> str:
        kept = self.job.folder.checkpoints()
        good = f"The last good checkpoint is {kept[max(kept)]}. " if kept else ""
        return (
            f"{what} in update {self.step + 1} of {self.job.total}. {good}"
            "Try a smaller --learning-rate, a longer --warmup or --clip, with another --out."
        )


def make_optimiser(spec: HardenSpec, student: nn.Module, defence: Defence) -> torch.optim.Optimizer:
    """The optimiser of a student, and of the parameters that a defence has itself, at their own rate."""
    parameters: list[dict[str, Any]] = [{"params": trainable(student)}]
    if own := trainable(defence):
        parameters.append({"params": own, "lr": defence.own_rate or spec.learning_rate})
    if spec.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=spec.learning_rate, betas=spec.betas, weight_decay=spec.weight_decay)


def ball_of(spec: HardenSpec, factor: float = 1.0) -> InnerAttack:
    """The inner attack of a run, with `factor` of its eps."""
    return linf(spec.eps * factor, spec.steps, spec.step_share, spec.attack_momentum)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
