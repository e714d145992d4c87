"""What the work of a pair costs, measured before it is done: seconds, bytes, and how many images fit into memory."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from robustprobe import probing
from robustprobe.attacks import Passes, UniversalAttack, Victim, attack_class, load_attack
from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.device import Elapsed, bytes_of, free_memory, held_memory, seconds_of
from robustprobe.core.gradients import image_gradient
from robustprobe.core.sizes import AREA, SEVERITY
from robustprobe.core.spec import CHECK_COST, Suite
from robustprobe.core.straight_through import has_module, straight_through
from robustprobe.core.types import Features
from robustprobe.core.views import Resized, Size, View
from robustprobe.datasets import Dataset
from robustprobe.encoders import Encoder
from robustprobe.evaluation.cells import EncoderOnDataset, PairCost
from robustprobe.evaluation.memory import MAP_COPIES, batch_in_memory, probe_images
from robustprobe.tasks import load_task

MOST_OUTPUT_BYTES = 2**30


def peak_bytes(suite: Suite, pairs: Sequence[EncoderOnDataset], device: torch.device, kept: int) -> int | None:
    """What is held already, and the larger of a batch under attack and the features that heads learn from."""
    memory, batches = PassMemory(device, suite), [kept if kept < probing.MOST_IN_MEMORY else 0]
    for pair in (pair for pair in pairs if pair.left):
        view = next(iter(pair.heads.views.values()))
        count = min(len(pair.data), pair_batch(suite.batch_size, pair.encoder, view, pair.data, memory))
        batches.append(count * memory.image_bytes(pair.encoder, view, pair.data))
    held = held_memory(device)
    return None if held is None or not any(memory.known.values()) else held + max(batches)


def _as_attacked(encoder: Encoder, suite: Suite | None) -> Callable[..., Any]:
    """The encoder with every straight-through backward pass of the suite."""
    names = [name for name in suite.replaced_modules if has_module(encoder, name)] if suite else []
    return straight_through(encoder, dict.fromkeys(names))


def pair_batch(wanted: int, encoder: Encoder, view: View, data: Dataset, memory: "PassMemory | None" = None) -> int:
    """Images attacked at once: fewer where a view shows far more pixels of each than the encoder is made for, where
    their output maps would take more than `MOST_OUTPUT_BYTES`, or all of them more than `MEMORY_SHARE` of what is free.
    """
    size = data.typical_size
    height, width = view.output_size(size)
    channels = max(load_task(name, space).map_channels for name, space in data.spaces.items())
    most = MOST_OUTPUT_BYTES // (4 * height * width * channels) if channels else wanted
    if memory is not None:
        most = batch_in_memory(most, memory.image_bytes(encoder, view, data), free_memory(memory.device))
    if not isinstance(view, Resized):
        most = min(most, wanted * encoder.card.input_size[0] * encoder.card.input_size[1] // view.pixels(size))
    return max(1, min(wanted, most))


class PassMemory:
    """Measures what an image holds during one step of an attack, once for every encoder and size."""

    def __init__(self, device: torch.device, suite: Suite | None = None) -> None:
        self.device, self.suite = device, suite
        self.known: dict[tuple[str, Size], int] = {}

    def image_bytes(self, encoder: Encoder, view: View, data: Dataset) -> int:
        """Bytes per image: those of the passes through the encoder, and its output maps; 0 where not known."""
        size = data.typical_size
        part = view.part_size(size)
        passes = round(self._part_bytes(encoder, part) * view.pixels(size) / (part[0] * part[1]))
        if not passes:
            return 0
        height, width = view.output_size(size)
        channels = max(load_task(name, space).map_channels for name, space in data.spaces.items())
        return passes + 4 * height * width * channels * MAP_COPIES

    def _part_bytes(self, encoder: Encoder, part: Size) -> int:
        key = (encoder.digest, part)
        if key not in self.known:
            many = probe_images(part)
            images = torch.rand(many, 3, *part, device=self.device)
            # The first pass also allocates what every later one uses again.
            seen = _as_attacked(encoder, self.suite)
            _one_step(seen, images[:1])
            held = bytes_of(lambda: _one_step(seen, images), self.device)
            self.known[key] = 0 if held is None else held // many
        return self.known[key]


class PassClock:
    """Measures what passes through encoders take, once for every size of image."""

    def __init__(self, device: torch.device, suite: Suite | None = None) -> None:
        self.device, self.suite = device, suite
        self.known: dict[tuple[str, Size], tuple[Elapsed, Elapsed]] = {}

    def seconds(self, encoder: Encoder, size: Size) -> tuple[Elapsed, Elapsed]:
        """Seconds an image of `size`: forward, and forward and backward."""
        key = (encoder.digest, size)
        if key not in self.known:
            many = probe_images(size)
            images = torch.rand(many, 3, *size, device=self.device)
            seen = _as_attacked(encoder, self.suite)
            forward = seconds_of(lambda: encoder(images), self.device)
            step = seconds_of(lambda: _one_step(seen, images), self.device)
            self.known[key] = forward / many, step / many
        return self.known[key]


def estimate(suite: Suite, pair: EncoderOnDataset, clock: PassClock) -> PairCost:
    """What a pair lacks costs, from one pass each way and one training step of each missing head."""
    size = pair.data.typical_size
    forward, step = _pass_seconds(pair, size, clock)
    shown = 3 * suite.extreme_examples * len(pair.head_keys) if suite.examples else 0
    extra = 1 + (CHECK_COST * suite.checked_images(len(pair.data)) + min(shown, len(pair.data))) / len(pair.data)
    heads = pair.heads.cost(forward, step, clock.device)
    jobs = []
    for job in pair.left:
        seconds, attacked = Elapsed(), _pass_seconds(job.source, size, clock) if job.source else (forward, step)
        for level in job.levels:
            passes = _passes(pair, job.target_task, level.attack)
            searched = (passes.forwards - passes.backwards) * attacked[0] + passes.backwards * attacked[1]
            # Adversarial images are judged as they are, and rounded to 8 bits.
            judged = 2 * level.attack.judgements * _judged_images(pair, job.target_task, level.attack)
            # Beside a patch the clean image and one with a patch of noise.
            judged *= 2 if level.attack.norm == AREA else 1
            seconds += searched * extra + judged * forward + _corrupting(level.attack, size)
        # The drift is that from the embedding of the clean image.
        seconds += (
            forward if any(attack_class(level.attack).own_unit == SEVERITY for level in job.levels) else Elapsed()
        )
        making = sum((_making(level.attack, *attacked) for level in job.levels), Elapsed())
        jobs.append(seconds * len(pair.data) + making)
    load = sum(jobs, heads.seconds).load
    return PairCost(heads.seconds.computing, tuple(job.computing for job in jobs), heads.kept_bytes, load)


def _corrupting(spec: AttackSpec, size: Size) -> Elapsed:
    """Seconds that a corruption takes for an image on the CPU, where it is made; 0 for attacks."""
    if attack_class(spec).own_unit != SEVERITY:
        return Elapsed()
    attack, image = load_attack(spec), torch.rand(1, 3, *size)
    return seconds_of(lambda: attack(Victim(lambda images: images), image, ["image"]), image.device)


def _making(spec: AttackSpec, forward: Elapsed, step: Elapsed) -> Elapsed:
    """Seconds that a perturbation for all images takes to be made; 0 for attacks that make one for each image."""
    attack = load_attack(spec)
    if not isinstance(attack, UniversalAttack):
        return Elapsed()
    passes = attack.making()
    return (passes.forwards - passes.backwards) * forward + passes.backwards * step


def _pass_seconds(pair: EncoderOnDataset, size: Size, clock: PassClock) -> tuple[Elapsed, Elapsed]:
    """Seconds an image of `size`: forward, and forward and backward."""
    view = next(iter(pair.heads.views.values()))
    part = view.part_size(size)
    parts = view.pixels(size) / (part[0] * part[1])
    forward, step = clock.seconds(pair.encoder, part)
    return parts * forward, parts * step


def _judged_images(pair: EncoderOnDataset, target_task: str, spec: AttackSpec) -> int:
    """How many images are judged for each one: several where it is chosen among them what counts."""
    if not (target_task and attack_class(spec).whole_set):
        return 1
    losses = load_task(target_task, pair.data.spaces[target_task]).attack_losses
    return 2 + len(losses.ensemble) if losses.of_set else 1


def _passes(pair: EncoderOnDataset, target_task: str, spec: AttackSpec) -> Passes:
    """The most passes that an attack makes per image."""
    losses = load_task(target_task, pair.data.spaces[target_task]).attack_losses if target_task else None
    return load_attack(spec).total_passes(losses)


def _one_step(encoder: Callable[[torch.Tensor], Features], images: torch.Tensor) -> None:
    images = images.clone().requires_grad_(True)
    image_gradient(encoder(images).patches.square().sum(), images)
