"""Attacks as they are chosen: sizes, steps, and the options for defended models and for transfer."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from robustprobe.core.arguments import plain
from robustprobe.core.corruption_names import ATTACK, GROUP, group_names
from robustprobe.core.registry import registered_name
from robustprobe.core.sizes import (
    OWN_UNITS,
    SEVERITY,
    Area,
    Eps,
    Severity,
    SizeUnit,
    check_eps,
    format_eps,
    parse_area,
    parse_eps,
)
from robustprobe.core.spec_base import OneOrMore, Spec, or_name

STEP_SHARE = 0.25
ModulePath = Annotated[str, StringConstraints(pattern=r"^[^\s.]+(\.[^\s.]+)*$")]
"""The name of a module inside a network, such as `encoder.jpeg`."""


def _odd(side: int) -> int:
    if side and side % 2 == 0:
        raise ValueError("a kernel has an odd side, such as 15; 0 is none")
    return side


Share = Annotated[float, Field(gt=0, lt=1)]
RANDOM_POSITION, WORST_POSITION, CENTRE = "random", "worst", "centre"


def _position(text: str) -> str:
    named = (RANDOM_POSITION, WORST_POSITION, CENTRE)
    try:
        shares = () if text in named else tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = (-1.0,)
    if text not in named and (len(shares) != 2 or not all(0 <= share <= 1 for share in shares)):
        raise ValueError(f"position '{text}' is none; write random, worst, centre, or two shares as 0.2,0.8")
    return text


Position = Annotated[str, AfterValidator(_position)]
OddSide = Annotated[int, Field(ge=0, le=255), AfterValidator(_odd)]
Iterate = Literal["best", "last"]


class AttackTuning(Spec):
    """Options of attacks on defended models, and of attacks that are made to transfer; None: the attack's default.

    `eot_samples` gradients of a model that answers at random are averaged in each step (Athalye et al. 2018).
    `bpda` names modules of the encoder whose backward pass is taken to be the identity. `judgements` answers are asked
    for each image, and the worst counts. `momentum` is MI's decay (Dong et al. 2018), `input_diversity` the probability
    that a step sees the image resized and padded (Xie et al. 2019), and `translation_kernel` the side in pixels of the
    Gaussian that smooths gradients (Dong et al. 2019). `lost_share` is the share of an image's score that has to be
    lost for `min-eps` to have succeeded. `position` is where a patch lies: `random` by the image's id, the `worst` of a
    few such places, `centre`, or two shares as `0.2,0.8`, down and to the right, of the way that the patch has room.
    With more than one of `position_samples` its place is unknown to the attack, which averages over so many in a step.
    """

    eot_samples: int | None = Field(default=None, ge=1)
    bpda: tuple[ModulePath, ...] | None = None
    judgements: int | None = Field(default=None, ge=1)
    momentum: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    input_diversity: float | None = Field(default=None, ge=0, le=1)
    translation_kernel: OddSide | None = None
    lost_share: Share | None = None
    position: Position | None = None
    position_samples: int | None = Field(default=None, ge=1)


TUNING = tuple(AttackTuning.model_fields)
"""Names of the options of `AttackTuning`."""
LOST_SHARE = 0.5
"""The share of its score that `min-eps` costs an image where nothing else is said."""


class AttackSpec(Spec):
    """One attack at one eps. Sizes are in pixel units of [0, 1]; the step is a quarter of eps unless given.

    A corruption has a severity from 1 to 5 for its eps, and `severity` for its norm; `severity=3` sets both. A patch
    has a share of the image's area for its eps, and `area` for its norm; `area=0.05` sets both.
    `objective` is the loss to raise, the attack's own where empty; `apgd:dlr` as a name sets both. `early_exit` lets
    images go once they are broken. `warm` lists the smaller eps, ascending, that the attack was started from. The last
    nine are those of `AttackTuning`.
    """

    name: str
    objective: str = ""
    eps: Eps = 8 / 255
    norm: SizeUnit = "linf"
    steps: int = Field(default=20, ge=1)
    step_size: Eps = -1.0
    restarts: int = Field(default=1, ge=1)
    random_start: bool = True
    iterate: Iterate = "best"
    early_exit: bool = False
    warm: tuple[Eps, ...] = ()
    seed: int = 0
    eot_samples: int = Field(default=1, ge=1)
    bpda: tuple[ModulePath, ...] = ()
    judgements: int = Field(default=1, ge=1)
    momentum: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    input_diversity: float = Field(default=0.0, ge=0, le=1)
    translation_kernel: OddSide = 0
    lost_share: float = Field(default=0.0, ge=0, lt=1)
    position: Position = RANDOM_POSITION
    position_samples: int = Field(default=1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if isinstance(data, dict):
            data = _with_own_unit(_split_objective(data))
            if data.get("step_size") is None:
                data = {**data, "step_size": parse_eps(plain(data.get("eps", 8 / 255))) * STEP_SHARE}
        return data

    @model_validator(mode="after")
    def _eps_fits(self) -> "AttackSpec":
        check_eps(self.eps, self.norm)
        return self

    @property
    def tuned(self) -> dict[str, Any]:
        """The options of `AttackTuning` that are not at their default, by name."""
        own = {name: getattr(self, name) for name in TUNING}
        return {name: value for name, value in own.items() if value != type(self).model_fields[name].default}

    @property
    def tuning_text(self) -> str:
        """`eot samples 10, bpda jpeg`: the options that are not at their default, in words; empty where none is."""
        texts = {name: setting_text(value) for name, value in self.tuned.items()}
        return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in texts.items())

    @property
    def shared(self) -> "AttackSpec":
        """The same attack by the name in results: `my.py:Class` without the folders of this machine."""
        return self.model_copy(update={"name": registered_name(self.name)})

    @property
    def label(self) -> str:
        """`apgd:dlr`, or the name alone."""
        return f"{self.name}:{self.objective}" if self.objective else self.name

    @property
    def sized_label(self) -> str:
        """The label with its eps: `pgd 8/255`; at eps 0, where nothing is changed, the label alone."""
        named = f"{self.norm} " if self.norm in OWN_UNITS else ""
        return f"{self.label} {named}{format_eps(self.eps, self.norm)}" if self.eps else self.label


def setting_text(value: float | str | tuple[str, ...]) -> str:
    """The value of an option in words."""
    if isinstance(value, str):
        return value
    return (", ".join(value) or "none") if isinstance(value, tuple) else f"{value:g}"


def _with_own_unit(data: dict[str, Any]) -> dict[str, Any]:
    """`severity: 3` or `area: 0.05` as eps and norm, without a step; only one of the three may be given."""
    if data.get("norm") in OWN_UNITS:
        return {"step_size": 0.0, **data}
    given = {unit: data[unit] for unit in OWN_UNITS if data.get(unit) is not None}
    if not given:
        return data
    sizes = ["an eps"] if data.get("eps") is not None else []
    sizes += [OWN_UNITS[unit].words for unit in given]
    if len(sizes) > 1:
        raise ValueError(f"an attack has {sizes[0]} or {sizes[1]}, not both")
    ((unit, size),) = given.items()
    rest = {name: value for name, value in data.items() if name not in OWN_UNITS}
    return {**rest, "eps": size if unit == SEVERITY else parse_area(size), "norm": unit, "step_size": 0.0}


class AttackChoice(AttackTuning):
    """An attack of a suite, or `apgd:dlr`; what is not given comes from the suite, or from the attack itself."""

    name: str
    objective: str = ""
    eps: OneOrMore[Eps] | None = None
    severity: OneOrMore[Severity] | None = None
    area: OneOrMore[Area] | None = None
    steps: int | None = Field(default=None, ge=1)
    restarts: int | None = Field(default=None, ge=1)
    early_exit: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return _split_objective({"name": data} if isinstance(data, str) else data)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return or_name(handler(core))


def _split_objective(data: Any) -> Any:
    """`name: apgd:dlr` as name and objective; the colon of `my.py:Class` stays."""
    if not isinstance(data, dict) or data.get("objective") or not isinstance(data.get("name"), str):
        return data
    head, colon, tail = data["name"].rpartition(":")
    return {**data, "name": head, "objective": tail} if colon and not head.endswith(".py") else data


def without_groups(choices: tuple[AttackChoice, ...] | None) -> tuple[AttackChoice, ...] | None:
    """The attacks with `corruptions` as the corruptions it stands for, each once."""
    found: list[AttackChoice] = []
    for choice in choices or ():
        names = group_names(choice.objective) if choice.name == GROUP else ()
        members = [choice.model_copy(update={"name": ATTACK, "objective": name}) for name in names]
        found += [one for one in members or [choice] if one not in found]
    return tuple(found) if choices else choices


STANDARD_ATTACKS = (
    *(AttackChoice(name=name) for name in ("clean", "noise", "embed", "pgd", "segpgd", "depthpgd")),
    # Stronger than DepthPGD on every encoder measured, see docs/concepts/attacks.md.
    AttackChoice(name="apgd", objective="rmse"),
)
