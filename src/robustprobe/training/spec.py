"""The specification of a hardening run: everything that its result depends on."""

from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from robustprobe.core.arguments import came
from robustprobe.core.errors import UserError
from robustprobe.core.sizes import Eps, check_eps
from robustprobe.core.spec_base import Spec, validated
from robustprobe.defences import Tokens
from robustprobe.defences.base import Recipe, defence_kind

BLOCKS = r"^(all|(first|last):[1-9][0-9]*)$"


def parse_options(given: Any) -> Any:
    """Options such as `gamma=2` as a dictionary. Raises UserError for text that is not NAME=VALUE."""
    if isinstance(given, dict):
        return given
    if not isinstance(given, list | tuple | NoneType):
        raise UserError(f"options are {came(given)}; give a dictionary, such as {{'gamma': 2}}.")
    pairs = [str(item).partition("=") for item in given or ()]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise UserError(f"option '{name}{equals}{value}' is not understood; write NAME=VALUE, such as gamma=2.")
    return {name: value for name, _, value in pairs}


def square(given: Any) -> Any:
    """(H, W) of one number; anything else as it is."""
    return (given, given) if isinstance(given, int) else given


class HardenSpec(Spec):
    """A hardening run.

    `batch_size` counts images per batch, over all processes and `accumulate` parts; the encoder is updated
    `updates_per_batch` times on each batch of attacked images. `eps_ramp` is the share of updates over which eps grows
    from 0; `ema` the decay of a moving average of the weights, 0: none; `feature_rank` the number of directions that
    features of the result lie in, those that attacks move least, 0: all; `projector` says that the method is also
    applied behind a frozen projector; `trained_blocks` is `all`, `first:K` or `last:K`; `weight_perturbation` the size
    of an adversarial perturbation of weights, as a share of their norm, 0: none; `limit` counts images of each dataset;
    `size` is (H, W) of crops, or one number for both, by default the encoder's input size, and without `augment` whole
    images are resized to it. With 0 epochs only the feature rank is reduced.
    """

    encoder: str
    datasets: tuple[str, ...] = Field(min_length=1)
    method: str
    options: Annotated[dict[str, Any], BeforeValidator(parse_options)] = Field(default_factory=dict)
    projector: bool = False
    tokens: Tokens
    layers: tuple[int, ...] = (-1,)
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    weight_decay: float = Field(ge=0)
    momentum: float = Field(ge=0, lt=1)
    betas: tuple[float, float]
    epochs: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    updates_per_batch: int = Field(default=1, ge=1)
    accumulate: int = Field(default=1, ge=1)
    warmup: float = Field(ge=0, le=1)
    clip: float = Field(default=0.0, ge=0)
    trained_blocks: str = Field(default="all", pattern=BLOCKS)
    weight_perturbation: float = Field(default=0.0, ge=0, lt=1)
    eps: Eps
    eps_ramp: float = Field(default=0.0, ge=0, le=1)
    steps: int = Field(ge=1)
    step_share: float = Field(gt=0)
    attack_momentum: float = Field(ge=0)
    limit: int | None = Field(default=None, ge=1)
    size: Annotated[tuple[PositiveInt, PositiveInt] | None, BeforeValidator(square)] = None
    augment: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: float = Field(default=0.0, ge=0, lt=1)
    feature_rank: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=1, ge=1)
    seed: int = 0

    @field_validator("eps")
    @classmethod
    def _fits(cls, eps: float) -> float:
        check_eps(eps, "linf")
        return eps

    @model_validator(mode="after")
    def _does_something(self) -> "HardenSpec":
        if not self.epochs and not self.feature_rank:
            raise ValueError("0 epochs without a feature rank would change nothing; give epochs or a feature rank")
        return self


def make_spec(method: str, given: dict[str, Any]) -> HardenSpec:
    """The run of a method: values that are given and not None, all others from the method's recipe.

    Raises:
        UserError: unknown method, unknown or wrong values.
    """
    recipe: Recipe = defence_kind(method).recipe
    known = {key: value for key, value in given.items() if value is not None}
    return validated(HardenSpec, {**recipe.model_dump(), "method": method, **known}, "the hardening run")
