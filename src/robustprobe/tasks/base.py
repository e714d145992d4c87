"""The contract of a task: all that depends on its kind, from labels and heads to scores and pictures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustprobe.core.errors import UserError
from robustprobe.core.patches import touched
from robustprobe.core.registry import own_name
from robustprobe.core.spec import Display, Statistic
from robustprobe.core.types import (
    AttackLoss,
    AttackLosses,
    FeatureDims,
    Features,
    HeadDesign,
    LabelSpace,
    LabelStatistics,
    LossContext,
    SanityCheck,
)
from robustprobe.metrics.intervals import Estimate
from robustprobe.metrics.statistics import Columns, estimate
from robustprobe.tasks._heads import Head, MlpHead
from robustprobe.tasks._hidden import HiddenMaps, HiddenVector
from robustprobe.tasks._maps import fit_labels
from robustprobe.tasks._recipe import TaskRecipe

Label = int | float | NDArray[Any]
ViewKind = Literal["square", "windows", "padded"]


class Task(ABC):
    """A task over one label space. Stateless: all numbers come from outputs, labels and rows.

    Derived classes fill the class attributes and the abstract methods; what has a default suits most dense tasks.
    """

    hub_task: ClassVar[str] = ""
    """What the Hugging Face Hub calls the task, where it does."""
    metric: ClassVar[str]
    """The headline metric; the first key of `statistics`."""
    unit: ClassVar[str]
    """Unit of the headline metric; `share` for numbers from 0 to 1."""
    higher_is_better: ClassVar[bool]
    statistics: ClassVar[Mapping[str, Statistic]]
    """Metrics over all images, by name: how each is computed from the columns of rows."""
    attack_losses: AttackLosses
    """Losses that attacks raise, by name, and what tells whether an attack succeeded."""
    display: ClassVar[Display]
    """How answers and labels are shown."""
    attacks: ClassVar[tuple[str, ...]] = ("pgd",)
    """Attacks made for another task by their own word that fit this one too, raising its default loss."""
    recipes: ClassVar[Mapping[str, TaskRecipe]]
    """How heads are fitted, by the name of the recipe; `fast` at least."""
    label_axes: ClassVar[int] = 2
    """Axes of the label of one image: 0 for one number per image, 2 for (h, w), 3 for (c, h, w)."""
    output_axes: ClassVar[int] = 4
    """Axes of an output of a batch: 2 for (B, C), 3 for (B, h, w), 4 for (B, C, h, w)."""
    output_words: ClassVar[str] = "(B, C, h, w)"
    """The shape of an output of a batch, in words, for error messages."""
    patch_outputs: ClassVar[bool] = False
    """Whether output maps have a value for each patch token, and not for each pixel."""
    view: ClassVar[ViewKind] = "windows"
    """How the recipes `standard` and `paper` show images to a model of this task alone."""
    has_knn_head: ClassVar[bool] = False
    """Whether answers of a k-NN head are recorded too; `knn_head` makes it."""
    labels_of: ClassVar[str] = ""
    """The task whose labels are read where a dataset has none of this task's own and is asked for them by name."""
    trains: ClassVar[bool] = True
    """Whether heads are trained; where not, `made_head` makes one of the features of train images."""
    nothing_valid: ClassVar[str] = "they hold no value"
    """Why no label may count, in words."""
    no_label: float = 0
    """The label of a pixel that counts nowhere."""

    def __init__(self, space: LabelSpace, name: str = "") -> None:
        self.space = space
        self.name = name or own_name(type(self))

    @abstractmethod
    def head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        """A new head on features of these channels, as many as the layers of the design have together."""

    def mlp_head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        """A new head with a hidden layer of width `design.hidden`.

        By default the task's own head after a linear layer and ReLU where outputs are no maps, and after a 3x3
        convolution and ReLU where they are.
        """
        kind, pooling = (HiddenMaps, "patch") if self.label_axes else (HiddenVector, "cls")
        own = design._replace(layers=1, pooling=pooling, hidden=0)
        return MlpHead(kind(dims, design), self.head(FeatureDims(design.hidden, design.hidden), own))

    @final
    def new_head(self, dims: FeatureDims, design: HeadDesign) -> Head:
        """A new head of a design, linear or with a hidden layer."""
        return self.mlp_head(dims, design) if design.hidden else self.head(dims, design)

    def made_head(self, parts: Iterable[tuple[Features, Tensor]], design: HeadDesign) -> Head:
        """A head made of batches of features of train images and their labels, for tasks that train none."""
        raise NotImplementedError(f"{self.name} trains its heads")

    def of_model(self, head: Head) -> "Task":
        """This task for a model with a head, where labels mean something by the head alone; else the task itself."""
        return self

    @abstractmethod
    def training_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss (B,) that heads are trained with; labels have the size of the output."""

    @abstractmethod
    def rows(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What each image contributes to the metrics: columns (B,) or (B, C), at the resolution of the labels."""

    @abstractmethod
    def score(self, rows: Mapping[str, Tensor]) -> Tensor:
        """One number per image (B,), in the unit of the metric."""

    chance_answer: ClassVar[str] = "a constant answer"
    """What `chance` is the score of, as a sentence says it."""

    @abstractmethod
    def chance(self, rows: Columns) -> float | None:
        """What an answer without looking at the image scores, by default the best constant one, from the columns that
        depend on labels alone.
        """

    @abstractmethod
    def check_values(self, label: Tensor) -> Tensor:
        """Labels with any leading axes in the type and range the task wants.

        Raises:
            ValueError: the first value that makes no sense, and what was expected.
        """

    @abstractmethod
    def shown_output(self, output: Tensor) -> Tensor:
        """The answer for one image, without its batch axis, reduced to what `picture` needs."""

    @abstractmethod
    def picture(self, shown: Tensor) -> NDArray[Any] | list[list[Any]]:
        """An answer or label of one image as `display` says: pixels, or pairs of a class and its probability."""

    def absent_classes(self, rows: Columns) -> int:
        """How many classes answers name that no label does and that count as wholly wrong; 0 for most metrics."""
        return 0

    def worst_choice(self, rows: Sequence[Columns]) -> NDArray[np.int64]:
        """Which of several judgements of each of N images counts, (N,), where the score is that of the set.

        By default the first, which the attack chose image by image.
        """
        return np.zeros(len(next(iter(rows[0].values()))), dtype=np.int64)

    def space_of_set(self, targets: Iterable[Tensor]) -> LabelSpace:
        """The label space with what attacks may know about all labels (B, ...) of the set; by default nothing more."""
        return self.space

    @final
    def estimates(self, rows: Columns) -> dict[str, Estimate]:
        """Metrics over all images with their 95 % intervals; those whose columns are missing are left out."""
        known = {n: s for n, s in self.statistics.items() if all(column in rows for column in s.columns)}
        return {name: estimate(statistic, rows) for name, statistic in known.items()}

    # Labels.

    @final
    def check_label(self, label: Label) -> Tensor:
        """The label of one image as a dataset read it, checked.

        Raises:
            ValueError: another number of axes, or values that make no sense.
        """
        if np.ndim(label) != self.label_axes:
            raise ValueError(f"label of shape {np.shape(label)}; expected {self.label_axes} axes")
        return self.check_values(as_tensor(label))

    @final
    def check_targets(self, targets: Tensor, images: int) -> Tensor:
        """Labels (B, ...) of a batch of `images`, checked. Raises UserError where they make no sense."""
        if targets.ndim != 1 + self.label_axes or len(targets) != images:
            wanted = ", ".join([str(images), *["c", "h", "w"][3 - self.label_axes :]])
            wanted = f"({wanted},)" if not self.label_axes else f"({wanted})"
            remedy = _fewer_axes(targets, images, self.label_axes)
            raise UserError(f"targets have shape {tuple(targets.shape)}; {self.name} takes {wanted}.{remedy}")
        try:
            return self.check_values(targets)
        except ValueError as error:
            raise UserError(f"targets hold {error}. Correct the labels.") from error

    def fit_labels(self, target: Tensor, size: tuple[int, int]) -> Tensor:
        """Labels (B, ...) as training and attacks see them: maps at the size (H, W) of the images, by nearest pixel."""
        return fit_labels(target, size)

    @final
    def without(self, target: Tensor, mask: Tensor) -> Tensor:
        """Labels (B, ...) of which no pixel counts that a mask (B, H, W) of the image touches.

        Labels that are no maps stay as they are; maps may have another size than the image.
        """
        if not self.label_axes:
            return target
        hidden = touched(mask, (target.shape[-2], target.shape[-1]))
        hidden = hidden if target.ndim == hidden.ndim else hidden[:, None]
        return torch.where(hidden, torch.as_tensor(self.no_label).to(target), target)

    def flip(self, target: Tensor) -> Tensor:
        """The label of one image that is mirrored left to right."""
        return target.flip(-1) if self.label_axes else target

    @abstractmethod
    def example_targets(self, count: int, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        """Random valid labels (count, ...) of images of `size` (H, W): to measure times, and for tests."""

    def counted(self, target: Tensor) -> Tensor:
        """The entries of a label that count, flat."""
        return target.flatten()

    def describe_labels(self, found: LabelStatistics) -> str:
        """What labels hold, in a few words, such as `11 of 11 classes`."""
        return f"{len(found.values)} values, {found.used / max(1, found.total):.0%} valid"

    def label_warnings(self, found: LabelStatistics, whole: bool) -> list[str]:
        """What labels hold that is legal but implausible; `whole` where all labels of a split were read."""
        return []

    # Outputs.

    @classmethod
    def implied_space(cls, output: Tensor) -> LabelSpace:
        """The label space that an answer (B, ...) of a user's own model implies."""
        return LabelSpace()

    @final
    @classmethod
    def check_output(cls, output: object, name: str) -> Tensor:
        """An answer of a user's own model. Raises UserError where it has another shape than the task's outputs."""
        if hasattr(output, "__array__") and not isinstance(output, Tensor):
            raise UserError("the model answers an array, which has no gradient; return a tensor of torch.")
        if not isinstance(output, Tensor) or output.ndim != cls.output_axes:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            remedy = "" if isinstance(output, Tensor) else " Choose it: lambda images: model(images)[...]."
            raise UserError(f"the model answers {shape}; a {name} model answers {cls.output_words}.{remedy}")
        return output

    @property
    def map_channels(self) -> int:
        """Values per pixel of an output map; 0 where outputs are no maps."""
        return max(1, len(self.space.classes)) if self.label_axes else 0

    def output_checks(self, output: Tensor) -> list[SanityCheck]:
        """What outputs (B, ...) tell about whether gradients can be trusted."""
        return []

    def answer_doubts(self, output: Tensor) -> list[str]:
        """What is implausible about answers (B, ...) of a user's own model, which a head fitted here may well give."""
        return []

    def likely_fault(self, output: Tensor, target: Tensor) -> str:
        """What to check where outputs (B, ...) of clean images are much farther from their labels than a constant."""
        return "check the unit, the sign and the order of axes"

    def knn_head(self, bank: Tensor, labels: Tensor, count: int) -> Head | None:
        """A k-NN head on the class tokens (N, D) of train images, of length 1, with their labels; None by default."""
        return None


def _fewer_axes(targets: Tensor, images: int, axes: int) -> str:
    if targets.ndim != 2 + axes or len(targets) != images:
        return ""
    return " Write targets[:, 0]." if targets.shape[1] == 1 else " Of one-hot labels write targets.argmax(1)."


def as_tensor(label: Label) -> Tensor:
    """A label as a tensor: whole numbers as int64, others as float32."""
    array = np.asarray(label)
    return torch.as_tensor(array.astype(np.int64 if array.dtype.kind in "iub" else np.float32))


def on_labels(loss: Callable[[Tensor, Tensor], Tensor]) -> AttackLoss:
    """A loss of output and labels, as attacks call it."""

    def call(output: Tensor, context: LossContext) -> Tensor:
        return loss(output, context.target)

    return call
