"""Recipes `fast`, `standard` and `paper`: how heads are fitted and images are served, per task.

`standard` follows the linear evaluations of DINOv2 (classification: linear.py, 13 learning rates trained together on
one or four blocks, with and without patch tokens) and DINOv3 (segmentation and depth configurations). `paper` has the
hyper-parameters of the code of Kowalczuk et al. 2024; docs/reference/recipes.md lists what was corrected. `fast`
extracts features once, without augmentation: minutes on a CPU.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from robustprobe.core.errors import UserError
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.registry import own_name
from robustprobe.core.views import Padded, Resized, Size, View, Windows
from robustprobe.tasks import Task, TaskRecipe, task_kind

# Encoders with smaller input sizes get dense images at twice their input size.
LARGE = 224
STRIDES = {224: 100, 518: 341}


GEM = "gem"
"""The pooling that is for tasks that search, which train no head."""
# Width of the hidden layer of heads of kind `mlp`.
HIDDEN = 256
# Adam moves every weight by about its rate in each step: what a linear head stands breaks a hidden layer.
HIGHEST_MLP_RATE, MLP_RATE = 1e-2, 1e-3


class ReadsBlocks(Protocol):
    """What a recipe asks of an encoder."""

    def readable_blocks(self, count: int) -> int:
        """How many of the last `count` blocks can be read side by side."""


class Preprocessing(NamedTuple):
    """The served size of a dataset's images, (H, W) or the shorter side, and the view of each task's model."""

    size: Size | int
    views: dict[str, View]


def recipe_of(spec: HeadSpec, task: type[Task] | Task) -> TaskRecipe:
    """The recipe of a task, with the changes in `spec`.

    Raises:
        UserError: the task has no such recipe.
    """
    if spec.recipe not in task.recipes:
        raise UserError(
            f"the task of {own_name(task if isinstance(task, type) else type(task))} has no recipe '{spec.recipe}'; "
            f"it has {', '.join(task.recipes)}. Choose one of these, or leave the task out."
        )
    recipe = task.recipes[spec.recipe]
    given = {
        "epochs": spec.epochs,
        "steps": None if spec.epochs is not None else recipe.steps,
        "batch_size": spec.batch_size,
        "learning_rates": spec.learning_rates,
        "label_stride": spec.label_stride,
    }
    changed = recipe.model_copy(update={k: v for k, v in given.items() if v is not None or k == "steps"})
    designs = changed.designs
    if spec.kind == "mlp":
        designs = tuple(design._replace(hidden=HIDDEN) for design in designs)
        if spec.learning_rates is None:
            changed = changed.model_copy(update={"learning_rates": mlp_rates(recipe)})
    if spec.layers is not None:
        designs = tuple(dict.fromkeys(d._replace(layers=spec.layers) for d in designs))
    if not task.label_axes and spec.pooling is not None and (spec.pooling != GEM or not task.trains):
        designs = tuple(dict.fromkeys(d._replace(pooling=spec.pooling) for d in designs))
    return changed.model_copy(update={"designs": designs})


def mlp_rates(recipe: TaskRecipe) -> tuple[float, ...]:
    """Learning rates of a recipe that suit heads with a hidden layer."""
    if recipe.optimiser == "sgd":
        return recipe.learning_rates
    return tuple(rate for rate in recipe.learning_rates if rate <= HIGHEST_MLP_RATE) or (MLP_RATE,)


def recipe_for(spec: HeadSpec, task: type[Task] | Task, encoder: ReadsBlocks) -> TaskRecipe:
    """The same for the heads of one encoder: they read no more blocks than it has with the width of the last one.

    A number of blocks that `spec` asks for is left as it is.
    """
    recipe = recipe_of(spec, task)
    if spec.layers is not None:
        return recipe
    fewer = (design._replace(layers=encoder.readable_blocks(design.layers)) for design in recipe.designs)
    return recipe.model_copy(update={"designs": tuple(dict.fromkeys(fewer))})


def preprocessing(
    recipe: str, tasks: Sequence[str], input_size: Size, patch: int, native: Size, fitted: Size
) -> Preprocessing:
    """How images of a dataset are served to the models of its tasks.

    Args:
        input_size: (H, W) the encoder prefers; `patch` its patch size.
        native: (H, W) of the dataset's images, or of a typical one.
        fitted: the fixed size `fast` serves them at.
    """
    side, small = input_size[0], min(input_size) < LARGE
    views = {task_kind(name).view for name in tasks}
    # Models of several tasks must get the same images.
    if recipe == "fast" or len(tasks) > 1 or (small and "padded" in views):
        return Preprocessing(fitted, dict.fromkeys(tasks, Resized(size=fitted)))
    if "square" in views:
        side = multiple(LARGE, patch) if recipe == "standard" and not small else side
        return Preprocessing((side, side), dict.fromkeys(tasks, Resized(size=(side, side))))
    if "padded" in views:
        return Preprocessing(native, dict.fromkeys(tasks, Padded(patch=patch)))
    window = multiple(2 * side if small else 512, patch) if recipe == "standard" else side
    stride = STRIDES.get(window, 2 * window // 3) if recipe == "paper" else 2 * window // 3
    return Preprocessing(window, dict.fromkeys(tasks, Windows(window=window, stride=stride)))


def multiple(side: int, patch: int) -> int:
    """The multiple of the patch size nearest to a side."""
    return max(1, round(side / patch)) * patch
