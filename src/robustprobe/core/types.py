"""Data types that several rooms share: features, samples, batches, label spaces, attack losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, cast

from torch import Tensor

Made = TypeVar("Made")


class Features(NamedTuple):
    """Output of an encoder for a batch: class tokens `cls` (B, D) and patch tokens `patches` (B, D, h, w)."""

    cls: Tensor
    patches: Tensor


class FeatureDims(NamedTuple):
    """Channels of the class token and of each patch token."""

    cls: int
    patch: int


class HeadDesign(NamedTuple):
    """Which features a head reads, and how they are prepared.

    `layers` counts blocks from the last; `pooling` is `cls`, `patch`, `cls+patch` or `gem`; `standardise` puts a
    BatchNorm before the first layer; `upsample` is the factor by which maps are enlarged before the non-linear part of
    the head; `hidden` is the width of a hidden layer before the task's own head, 0: none.
    """

    layers: int = 1
    pooling: str = "cls"
    standardise: bool = True
    upsample: int = 1
    hidden: int = 0


class Sample(NamedTuple):
    """One image of a dataset.

    `image` is (3, H, W) float32 in [0, 1] on the 8-bit grid; `targets` maps a task to its label, as the task defines:
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


class QueryTruth(NamedTuple):
    """What is relevant to a query, by the labels of gallery images: easy and hard matches, and junk, which is neither
    relevant nor irrelevant.
    """

    easy: tuple[int, ...] = ()
    hard: tuple[int, ...] = ()
    junk: tuple[int, ...] = ()


@dataclass(frozen=True)
class LabelSpace:
    """The meaning of the labels of one task in one dataset: class names, ignored index, range of depths in metres."""

    classes: tuple[str, ...] = ()
    ignore_index: int = 255
    min_depth: float = 1e-3
    max_depth: float = 10.0
    class_shares: tuple[float, ...] = ()
    """Share of pixels of each class in the attacked set, all above 0, for losses that balance classes; empty: classes
    count alike."""
    queries: tuple[QueryTruth, ...] = ()
    """By the label of a query what is relevant to it, where that is listed for each query."""


@dataclass(frozen=True)
class LossContext:
    """Input of an attack's loss beside the model's output: labels `target` and their label space, the share of steps
    done (`progress`, from 0 to 1), and for targeted losses of a classifier the target classes `goal` (B,).
    """

    target: Tensor
    space: LabelSpace
    progress: float = 0.0
    goal: Tensor | None = None
    _shared: dict[str, tuple[Tensor, Any]] = field(default_factory=dict)

    def shared(self, name: str, output: Tensor, make: Callable[[], Made]) -> Made:
        """A quantity that several losses of one output need, computed once by `make`."""
        if name not in self._shared or self._shared[name][0] is not output:
            self._shared[name] = (output, make())
        return cast(Made, self._shared[name][1])


AttackLoss = Callable[[Tensor, LossContext], Tensor]
"""An output and a `LossContext` to one number per image, (B,), which an attack maximises."""


class EnsembleMember(NamedTuple):
    """One attack of the `ensemble` of a task: a loss and its optimiser.

    `share` multiplies the steps of the attack's spec, `runs` its restarts.
    """

    loss: str
    optimiser: Literal["apgd", "staged-apgd", "square"] = "apgd"
    share: float = 1.0
    runs: int = 1


class AttackLosses(NamedTuple):
    """How a task is attacked.

    `losses` by name, the default first; those in `targeted` need a target class. `damage` grows as the task's score
    gets worse: attacks return the iterate with the largest damage. `step_loss` replaces the loss in the comparisons of
    adaptive steps, for losses whose weights change with the steps. `success` marks images whose score cannot get worse,
    for tasks where that exists. `black_box` names the loss of `square`, and `ensemble` lists the members of the attack
    `ensemble`, cheap ones first; by default both use the default loss, `ensemble` with Auto-PGD. Losses in `balanced`
    need `LabelSpace.class_shares`. `of_set` says that the score is one of the whole set rather than a mean over images:
    `Task.worst_choice` then tells which of several images counts. `score` is the score of each image, from 0 up, higher
    is better, of which `min-eps` takes a share; without it `damage` is an error from 0 up, which grows. `damages` has
    the damage of losses with an aim of their own, by their names.
    """

    losses: Mapping[str, AttackLoss]
    damage: AttackLoss
    step_loss: AttackLoss | None = None
    success: AttackLoss | None = None
    targeted: frozenset[str] = frozenset()
    black_box: str = ""
    ensemble: tuple[EnsembleMember, ...] = ()
    balanced: frozenset[str] = frozenset()
    of_set: bool = False
    score: AttackLoss | None = None
    damages: Mapping[str, AttackLoss] = MappingProxyType({})

    @property
    def default(self) -> str:
        """The name of the first loss."""
        return next(iter(self.losses))


class SanityCheck(NamedTuple):
    """One sanity check: its name, the measured value, whether it passed, and its meaning in a sentence."""

    name: str
    value: float
    passed: bool
    meaning: str


class LabelStatistics(NamedTuple):
    """Statistics of labels of many images: distinct values in ascending order, number of used and of all entries, how
    often each whole number occurs, and the whole numbers of the train images beside which they are judged.
    """

    values: Tensor
    used: int
    total: int
    counts: Mapping[int, int] = MappingProxyType({})
    in_train: frozenset[int] | None = None
    """None for train itself, and where not all of its labels were looked at."""
