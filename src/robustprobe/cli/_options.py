"""Options that commands share, under the headings of the help, and the suite that they make."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from robustprobe.cli._numbers import WholeNumber, WholeNumbers
from robustprobe.core.errors import UserError
from robustprobe.core.head_spec import HeadKind
from robustprobe.core.sizes import OWN_UNITS, Norm
from robustprobe.core.spec import Suite
from robustprobe.core.spec_base import validated
from robustprobe.core.suites import without_sizes_of_no_attack

WHAT = Group("What to evaluate", sort_key=1)
ATTACK = Group("Attacks", sort_key=2)
HEADS = Group("Heads", sort_key=3)
WHERE = Group("Where and how", sort_key=4)
OUTPUT = Group("Output", sort_key=5)
GATES = Group("Gates", sort_key=6)


@Parameter(name="*", group=WHAT)
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Images and tasks."""

    dataset: list[str] | None = None
    """Dataset to evaluate on, such as cifar10. Can be given several times."""
    task: list[str] | None = None
    """Task to evaluate. Can be given several times. By default every task that a dataset has labels for."""
    split: Literal["test", "val"] | None = None
    """test, or val: training images that are held out, on which heads are chosen too. Make your choices on val and
    publish numbers on test."""
    limit: WholeNumber | None = None
    """Number of images of each dataset; the same number always takes the same images. By default all."""
    image_size: WholeNumber | None = None
    """Height and width at which images are served to the encoder: a multiple of its patch size. By default as the
    recipe says."""


@Parameter(name="*", group=ATTACK)
@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """Attacks and their budget."""

    attack: list[str] | None = None
    """Attack to run, such as ensemble, apgd:dlr, corruption:fog or corruptions. Can be given several times. By default
    clean, noise, embed and the standard attacks of each task."""
    eps: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True)] = None
    """Largest size of the perturbation, such as 8/255. Can be given several times; a larger eps starts from the result
    of a smaller one. By default 8/255 for linf; at 32 x 32 pixels 0.5 for l2, growing with the image's side, and 12
    for l1, growing with its square."""
    severity: WholeNumbers | None = None
    """Severity of corruptions, from 1 to 5. Can be given several times. By default 3."""
    area: list[str] | None = None
    """Share of the image's area that a patch covers, such as 5%. Can be given several times. By default 5%."""
    position: str | None = None
    """Where a patch lies. random: by the image's id. worst: the worst of four such places. centre. 0.2,0.8: this share
    of the way down and to the right. By default random."""
    position_samples: WholeNumber | None = None
    """Places that each step of a patch averages over, for a patch that must work wherever it is put. By default its
    place is known to the attack."""
    norm: Norm | None = None
    """Norm of the perturbation. linf: every pixel value changes by at most eps. l1: all changes sum to at most eps."""
    steps: WholeNumber | None = None
    """Steps of each attack. By default what the attack asks for."""
    restarts: WholeNumber | None = None
    """Random starts of each attack; the strongest result counts, per image."""
    eot_samples: WholeNumber | None = None
    """Gradients that each step averages, for models that answer at random (expectation over transformation)."""
    bpda: list[str] | None = None
    """Module of the encoder whose backward pass is taken to be the identity, such as encoder.jpeg, for defences without
    a useful gradient. Can be given several times."""
    judgements: WholeNumber | None = None
    """Answers that are asked for each image, of which the worst counts, for models that answer at random."""
    momentum: float | None = None
    """Decay of earlier gradients in the sign steps of attacks that are to transfer, such as 1 (MI-FGSM)."""
    input_diversity: float | None = None
    """Probability that a step sees the image resized and padded at random, such as 0.5 (DI-FGSM)."""
    translation_kernel: WholeNumber | None = None
    """Side of the Gaussian, in pixels, that smooths the gradients of sign steps, such as 15 (TI-FGSM)."""
    lost_share: float | None = None
    """Share of an image's clean score that min-eps has to cost it. By default 0.5."""
    attack_at: Literal["served", "native"] | None = None
    """Whose pixels the ball is on. served: of the image resized for the encoder. native: of the image as the dataset
    stores it, such as CIFAR's 32 x 32; the model resizes it, as in RobustBench."""
    sanity_images: WholeNumber | None = None
    """Images on which each attack is run again as a sanity check: from another random start, at a large eps, at eps 0
    and without gradients. 0: none. By default a fortieth of the images, which costs about a tenth of the run, but at
    least 4 and at most 10."""
    seed: WholeNumber | None = None
    """Seed of random starts and of the choice of example images."""


@Parameter(name="*", group=HEADS)
@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """How heads are fitted."""

    recipe: Literal["fast", "standard", "paper"] | None = None
    """How heads are fitted and how images are resized for them: fast (minutes on a CPU), standard (close to the linear
    evaluations of DINOv2 and DINOv3) or paper (Kowalczuk et al. 2024)."""
    train_limit: WholeNumber | None = None
    """Number of images that heads are trained on."""
    layers: Literal[1, 4] | None = None
    """Number of last blocks whose features heads read."""
    pooling: Literal["cls", "cls+patch", "gem"] | None = None
    """What a classification head reads: the class token, or that and the mean of the patch tokens. Of tasks that search
    also gem, the generalised mean of the patch tokens."""
    head: HeadKind | None = None
    """linear, or mlp: a hidden layer of width 256 before the linear one, and a 3x3 convolution in its place for dense
    tasks."""

    head_training: str | None = None
    """clean, or adversarial:EPS such as adversarial:4/255: heads are fitted on images that are attacked through encoder
    and head, with the design and learning rate that were chosen on clean images. adversarial:0.5:l2 for another norm.
    Takes seven passes through the encoder per image and epoch."""
    zero_shot: str | None = None
    """Texts that make the classification head, of which nothing is fitted then: a file of text embeddings, or for the
    text tower of a CLIP or SigLIP model of hf: templates with {} for the name of a class, separated by |. The word
    templates stands for "a photo of a {}." (see docs/guides/encoders.md)."""

    def fields(self) -> dict[str, Any]:
        """What is given, by the names of `HeadSpec`."""
        own = {"head": "kind", "head_training": "training"}
        return _given({own.get(name, name): value for name, value in vars(self).items()})


@Parameter(name="*", group=WHERE)
@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Data, device and precision."""

    data_root: Path = Path("data")
    """Folder that holds the datasets, each in a folder of its name."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Literal["fp32", "bf16"] | None = None
    """Precision in which attacks run the model. Scores are always measured in fp32."""
    batch_size: WholeNumber | None = None
    """Images attacked at once: changes memory and speed, and numbers by rounding at most."""


# A number without a unit is of seconds, but not behind hours or minutes: of 1h30 nobody knows.
_TIME = re.compile(r"(?:(?P<h>[\d.]+)h)?(?:(?P<m>[\d.]+)m)?(?:(?P<s>[\d.]+)s)?|(?P<bare>[\d.]+)")
_UNITS = {"h": 3600, "m": 60, "s": 1, "bare": 1}


def parse_time(text: str | None) -> float:
    """Seconds of a time such as 30m, 2h, 1h30m or 90s; endless for None. Raises UserError for another form."""
    if text is None:
        return math.inf
    found = _TIME.fullmatch(text.strip().lower())
    try:
        seconds = sum(float(value) * _UNITS[unit] for unit, value in found.groupdict("0").items()) if found else 0.0
    except ValueError:
        seconds = 0.0
    if not seconds:
        raise UserError(f"'{text}' is no time; write such as 90s, 30m, 2h or 1h30m.")
    return seconds


def changed_suite(
    base: Suite | None,
    data: DataOptions,
    attacks: AttackOptions,
    heads: HeadOptions,
    machine: MachineOptions,
    **changes: Any,
) -> Suite:
    """A suite with what options and `changes` to its fields say instead; None leaves a field as it is.

    Raises:
        UserError: no encoder or dataset is named, or a value cannot be used.
    """
    if data.limit is not None and data.limit < 1:
        raise UserError(f"limit {data.limit} leaves no image; give a limit of 1 or more, or none for the whole split.")
    told: dict[str, Any] = base.model_dump() if base else {}
    told |= _given({**vars(attacks), "attacks": attacks.attack, "attack": None, "tasks": data.task, **changes})
    told |= _given({"precision": machine.precision, "batch_size": machine.batch_size})
    if data.dataset:
        told["datasets"] = [{"name": name} for name in data.dataset]
    side = data.image_size
    images = _given({"limit": data.limit, "split": data.split, "size": None if side is None else (side, side)})
    told["datasets"] = [{**d, **images} for d in told.get("datasets", [])]
    told["head"] = {**told.get("head", {}), **heads.fields()}
    for key in ("encoders", "datasets"):
        if not told.get(key):
            raise UserError(f"no {key} named; give a suite file, or --{key[:-1]} NAME (see `robustprobe list {key}`).")
    return validated(Suite, told, "the run")


def fewer_attacks(suite: Suite, attacks: AttackOptions, only: bool = False) -> Suite:
    """The suite whose attacks options replaced or left out, without the sizes that it had for the others."""
    if not (only or attacks.attack):
        return suite
    return without_sizes_of_no_attack(suite, [unit for unit in OWN_UNITS if getattr(attacks, unit) is not None])


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
