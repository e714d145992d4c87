"""The values that pass between rooms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, cast

from torch import Tensor

Made = TypeVar("Made")


class Features(NamedTuple):
    """What an encoder says of a batch: `cls` (B, D) and `patches` (B, D, h, w)."""

    cls: Tensor
    patches: Tensor


class FeatureDims(NamedTuple):
    """Channels of the class token and of each patch token."""

    cls: int
    patch: int


class HeadDesign(NamedTuple):
    """What of the features a head reads, and what it does with them first.

    `layers` counts blocks from the last; `pooling` is `cls`, `patch` or `cls+patch`; `standardise` puts a BatchNorm
    before the linear layer; `upsample` enlarges maps before what is not linear.
    """

    layers: int = 1
    pooling: str = "cls"
    standardise: bool = True
    upsample: int = 1


class Sample(NamedTuple):
    """One image of a dataset.

    `image` is (3, H, W) float32 in [0, 1] on the 8-bit grid; `targets` maps a task to its label, as the task wants it:
    classification a scalar int64, segmentation (h, w) int64, depth (h, w) float32 in metres with 0 where there is no
    valid depth, normals (3, h, w) float32 unit vectors with zeros where there is none.
    """

    id: str
    image: Tensor
    targets: dict[str, Tensor]


class Batch(NamedTuple):
    """Samples stacked: ids, images (B, 3, H, W), and targets with a leading batch axis."""

    ids: list[str]
    images: Tensor
    targets: dict[str, Tensor]


@dataclass(frozen=True)
class LabelSpace:
    """What the labels of one task mean in one dataset. Depths are in metres."""

    classes: tuple[str, ...] = ()
    ignore_index: int = 255
    min_depth: float = 1e-3
    max_depth: float = 10.0


@dataclass(frozen=True)
class LossContext:
    """What an attack's loss is told beside the model's output: labels and what they mean, the share of steps already
    done, and for targeted losses of a classifier the classes (B,) to move towards.
    """

    target: Tensor
    space: LabelSpace
    progress: float = 0.0
    goal: Tensor | None = None
    _shared: dict[str, tuple[Tensor, Any]] = field(default_factory=dict)

    def shared(self, name: str, output: Tensor, make: Callable[[], Made]) -> Made:
        """What several losses of one output are made of: made once."""
        if name not in self._shared or self._shared[name][0] is not output:
            self._shared[name] = (output, make())
        return cast(Made, self._shared[name][1])


AttackLoss = Callable[[Tensor, LossContext], Tensor]
"""An output and a `LossContext` to one number per image, (B,), that an attack raises."""


class EnsembleMember(NamedTuple):
    """One attack of the `ensemble` of a task: a loss and what raises it.

    `share` multiplies the steps of the attack's spec, `runs` its restarts.
    """

    loss: str
    optimiser: Literal["apgd", "staged-apgd", "square"] = "apgd"
    share: float = 1.0
    runs: int = 1


class AttackLosses(NamedTuple):
    """How a task wants to be attacked.

    `losses` by name, the default first; those in `targeted` need a goal class. `damage` grows as the task's score gets
    worse: attacks return the iterate with most of it. `step_loss`, for losses whose weights change with the steps, is
    what adaptive steps compare instead. `success` marks images whose score cannot get worse, where there is such a
    point. `black_box` names the loss of `square`, and `ensemble` lists the attacks of `ensemble`, cheap ones first;
    where they are not given, it is the default loss, raised by Auto-PGD.
    """

    losses: Mapping[str, AttackLoss]
    damage: AttackLoss
    step_loss: AttackLoss | None = None
    success: AttackLoss | None = None
    targeted: frozenset[str] = frozenset()
    black_box: str = ""
    ensemble: tuple[EnsembleMember, ...] = ()

    @property
    def default(self) -> str:
        """The name of the first loss."""
        return next(iter(self.losses))


class SanityCheck(NamedTuple):
    """One check: its name, what was measured, whether that is as it should be, and what it means in a sentence."""

    name: str
    value: float
    passed: bool
    meaning: str


class LabelStatistics(NamedTuple):
    """What labels of many images hold: distinct values in ascending order, and how many entries count, of how many."""

    values: Tensor
    used: int
    total: int
