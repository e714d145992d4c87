"""How heads are fitted and images are shown to them: `fast`, `standard` and `paper`, task by task.

`standard` follows the linear evaluations of DINOv2 (classification: linear.py, 13 learning rates trained together on
one or four blocks, with and without patch tokens) and DINOv3 (segmentation and depth configurations). `paper` has the
hyper-parameters of the code of Kowalczuk et al. 2024; docs/recipes.md lists what was mended. `fast` reads features
once, without augmentation: minutes on a CPU.
"""

from typing import Literal, NamedTuple

from robustprobe.core.spec import HeadSpec, Spec
from robustprobe.core.types import HeadDesign
from robustprobe.core.views import Padded, Resized, Size, View, Windows

Optimiser = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "linear", "cosine"]
Augment = Literal["none", "flip", "resized-crop", "pad-crop", "scale-crop", "crop"]


# DINOv2's sweep, for batches of 256.
SWEEP = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
# Encoders made for smaller images than this are shown dense images at twice their own size.
LARGE = 224
STRIDES = {224: 100, 518: 341}


class TaskRecipe(Spec):
    """How the heads of one task are fitted. `steps`, where given, stands in for epochs; `warmup` counts steps.

    `gradient_weight` weighs gradient matching beside the loss of depth.
    """

    optimiser: Optimiser = "adamw"
    learning_rates: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 64
    epochs: int = 20
    steps: int | None = None
    warmup: int = 0
    schedule: Schedule = "cosine"
    augment: Augment = "none"
    gradient_weight: float = 0.0
    label_stride: int = 4
    clip: float | None = None
    designs: tuple[HeadDesign, ...] = (HeadDesign(),)

    @property
    def layers(self) -> int:
        """Blocks that a candidate reads at most."""
        return max(design.layers for design in self.designs)


class Preprocessing(NamedTuple):
    """The size images of a dataset are served at, (H, W) or the shorter side, and how each task's model sees them."""

    size: Size | int
    views: dict[str, View]


_DENSE = HeadDesign(pooling="patch")
_POOLED = tuple(HeadDesign(layers, pooling, False) for layers in (1, 4) for pooling in ("cls", "cls+patch"))
RECIPES: dict[str, dict[str, TaskRecipe]] = {
    "fast": {
        "classification": TaskRecipe(),
        "segmentation": TaskRecipe(designs=(_DENSE,)),
        "depth": TaskRecipe(designs=(_DENSE,)),
    },
    "standard": {
        "classification": TaskRecipe(
            optimiser="sgd",
            learning_rates=tuple(rate / 2 for rate in SWEEP),
            weight_decay=0,
            batch_size=128,
            epochs=10,
            augment="resized-crop",
            designs=_POOLED,
        ),
        "segmentation": TaskRecipe(
            learning_rates=(1e-3,),
            weight_decay=1e-3,
            batch_size=16,
            steps=40_000,
            warmup=1500,
            augment="scale-crop",
            label_stride=1,
            designs=(_DENSE,),
        ),
        "depth": TaskRecipe(
            learning_rates=(3e-4,),
            betas=(0.9, 0.99),
            batch_size=16,
            steps=38_400,
            warmup=1500,
            augment="flip",
            label_stride=1,
            clip=35.0,
            designs=(_DENSE,),
        ),
    },
    "paper": {
        "classification": TaskRecipe(
            optimiser="adam",
            learning_rates=(0.5,),
            weight_decay=0,
            batch_size=128,
            epochs=5,
            schedule="constant",
            augment="pad-crop",
            designs=(HeadDesign(1, "cls", False),),
        ),
        "segmentation": TaskRecipe(
            learning_rates=(1e-3,),
            batch_size=16,
            epochs=50,
            warmup=1500,
            schedule="linear",
            augment="crop",
            label_stride=1,
            designs=(_DENSE,),
        ),
        "depth": TaskRecipe(
            learning_rates=(1e-4,),
            weight_decay=0.01,
            batch_size=128,
            schedule="constant",
            augment="flip",
            gradient_weight=0.5,
            label_stride=1,
            designs=(HeadDesign(1, "cls+patch", False, 4),),
        ),
    },
}


def recipe_of(spec: HeadSpec, task: str) -> TaskRecipe:
    """The recipe of a task, with what `spec` says otherwise; a task that no recipe knows is fitted as `fast` does."""
    recipe = RECIPES[spec.recipe].get(task, TaskRecipe())
    given = {
        "epochs": spec.epochs,
        "steps": None if spec.epochs is not None else recipe.steps,
        "batch_size": spec.batch_size,
        "learning_rates": spec.learning_rates,
        "label_stride": spec.label_stride,
    }
    changed = recipe.model_copy(update={k: v for k, v in given.items() if v is not None or k == "steps"})
    designs = changed.designs
    if spec.layers is not None:
        designs = tuple(dict.fromkeys(d._replace(layers=spec.layers) for d in designs))
    if task == "classification" and spec.pooling is not None:
        designs = tuple(dict.fromkeys(d._replace(pooling=spec.pooling) for d in designs))
    return changed.model_copy(update={"designs": designs})


def preprocessing(
    recipe: str, tasks: list[str], input_size: Size, patch: int, native: Size, fitted: Size
) -> Preprocessing:
    """How images are shown to the models of a dataset.

    Args:
        input_size: (H, W) the encoder prefers; `patch` its patch size.
        native: (H, W) of the dataset's images, or of a typical one.
        fitted: the fixed size `fast` serves them at.
    """
    side, small = input_size[0], min(input_size) < LARGE
    # Models of several tasks must look at the same images.
    if recipe == "fast" or len(tasks) > 1 or (small and "depth" in tasks):
        return Preprocessing(fitted, dict.fromkeys(tasks, Resized(size=fitted)))
    if "classification" in tasks:
        side = multiple(LARGE, patch) if recipe == "standard" and not small else side
        return Preprocessing((side, side), dict.fromkeys(tasks, Resized(size=(side, side))))
    if "depth" in tasks:
        return Preprocessing(native, dict.fromkeys(tasks, Padded(patch=patch)))
    window = multiple(2 * side if small else 512, patch) if recipe == "standard" else side
    stride = STRIDES.get(window, 2 * window // 3) if recipe == "paper" else 2 * window // 3
    return Preprocessing(window, dict.fromkeys(tasks, Windows(window=window, stride=stride)))


def multiple(side: int, patch: int) -> int:
    """The multiple of the patch size nearest to a side."""
    return max(1, round(side / patch)) * patch
