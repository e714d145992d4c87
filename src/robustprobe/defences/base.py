"""What every defence is: what its inner attack raises, and what its training lowers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from robustprobe.core.freeze import frozen
from robustprobe.core.inner_attack import InnerAttack, ascend
from robustprobe.core.registry import defences
from robustprobe.core.spec_base import Spec, validated
from robustprobe.core.types import Features
from robustprobe.defences._distance import Layers, Tokens
from robustprobe.encoders import Encoder
from robustprobe.tasks import Head

FitSurrogates = Callable[[tuple[int, int]], Sequence[Head]]


class Recipe(Spec):
    """Published hyper-parameters of a defence; what a run does not say otherwise is as here.

    `warmup` is a share of all batches; `batch_size` counts images of a batch over all processes; `updates_per_batch` is
    how often the encoder is updated on each batch of attacked images; `feature_rank` is how many directions the
    features of the result lie in, 0: all.
    """

    optimiser: Literal["sgd", "adamw"]
    learning_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epochs: int
    batch_size: int = 128
    updates_per_batch: int = 1
    warmup: float = 0.1
    eps: float
    steps: int
    step_share: float = 0.25
    attack_momentum: float = 0.0
    tokens: Tokens = "cls"
    feature_rank: int = 0


class Options(Spec):
    """What a defence can be told beside what all of them can."""


class LayerFeatures(NamedTuple):
    """Features by layer: the student's of images and of moved images, and the teacher's of images."""

    own: Layers
    attacked: Layers
    clean: Layers


class LossTerms(NamedTuple):
    """Loss (B,) of each image, and what it is made of, each (B,)."""

    loss: Tensor
    facts: dict[str, Tensor]


class Defence(nn.Module, ABC):
    """A fine-tuning objective that turns an encoder (the teacher, frozen) into a hardened one (the student).

    Derived classes fill `raised` and `lowered`. Parameters of their own are trained beside the student.
    """

    recipe: ClassVar[Recipe]
    options_kind: ClassVar[type[Options]] = Options
    attack_reads_own: ClassVar[bool] = False
    """Whether the inner attack compares with the student's own clean features."""
    loss_reads_own: ClassVar[bool] = True
    """Whether the loss reads the student's clean features."""

    def __init__(self, tokens: Tokens = "cls", layers: tuple[int, ...] = (-1,), options: Options | None = None) -> None:
        super().__init__()
        self.tokens, self.layers = tokens, layers
        self.options = options or self.options_kind()

    @property
    def own_rate(self) -> float | None:
        """Learning rate of the defence's own parameters, which are updated once per batch; None: as the student's."""
        return None

    @abstractmethod
    def raised(self, attacked: Layers, own: Layers, clean: Layers, progress: float) -> Tensor:
        """What the inner attack raises, (B,). `own` is `clean` where the defence does not ask for it."""

    @abstractmethod
    def lowered(self, seen: LayerFeatures) -> LossTerms:
        """What training lowers. `own` is `attacked` where the defence does not ask for it."""

    def prepare(self, teacher: Encoder, images: Tensor, fit_surrogates: FitSurrogates) -> None:
        """Measure the teacher on some training images (N, 3, H, W), once, before training.

        Args:
            fit_surrogates: fits surrogate heads on the teacher, for images of a size (H, W), without task labels.
        """

    def redraw(self, step: int, generator: torch.Generator) -> None:
        """Draw what is random in the objective of an update; the same in every process."""

    @final
    def look(self, encoder: Encoder, images: Tensor) -> Layers:
        """Features of the protected layers."""
        if self.layers == (-1,):
            return [encoder(images)]
        return encoder.layers(images, self.layers)

    @final
    def attack(
        self,
        student: Encoder,
        teacher: Encoder,
        images: Tensor,
        generators: Sequence[torch.Generator],
        ball: InnerAttack,
        precision: str = "fp32",
    ) -> Tensor:
        """Moved images (B, 3, H, W) inside ball and box; each depends on its own image and generator only."""
        with frozen(student), frozen(self):
            with torch.no_grad():
                clean = self.look(teacher, images)
                own = self.look(student, images) if self.attack_reads_own else clean

            def objective(moved: Tensor, progress: float) -> Tensor:
                return self.raised(in_fp32(self.look(student, moved)), own, clean, progress)

            return ascend(objective, images, generators, ball, precision)

    @final
    def loss(
        self, student: Encoder, teacher: Encoder, images: Tensor, moved: Tensor, precision: str = "fp32"
    ) -> LossTerms:
        """Loss of each image, with a gradient for the student's parameters and the defence's own."""
        with torch.no_grad():
            clean = self.look(teacher, images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            attacked = in_fp32(self.look(student, moved))
            own = in_fp32(self.look(student, images)) if self.loss_reads_own else attacked
        return self.lowered(LayerFeatures(own, attacked, clean))


def in_fp32(layers: Layers) -> Layers:
    """Features in fp32, whatever precision they were made in."""
    return [Features(features.cls.float(), features.patches.float()) for features in layers]


def defence_kind(method: str) -> type[Defence]:
    """The class of a defence by name. Raises UserError where there is none."""
    return cast(type[Defence], defences.get(method))


def load_defence(method: str, tokens: Tokens, layers: tuple[int, ...], options: dict[str, object]) -> Defence:
    """A defence by name, with its own options. Raises UserError for an unknown name or option."""
    kind = defence_kind(method)
    return kind(tokens, layers, validated(kind.options_kind, options, f"--option of {method}"))
