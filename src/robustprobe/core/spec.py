"""What to run: frozen descriptions, and the fingerprints that name results."""

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PositiveInt,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from robustprobe.core.arguments import plain
from robustprobe.core.corruption_names import ATTACK, GROUP, USUAL_SEVERITY, group_names
from robustprobe.core.errors import UserError
from robustprobe.core.faults import faults_text
from robustprobe.core.fingerprints import fingerprint
from robustprobe.core.head_threat import CLEAN_IMAGES, HeadThreat, HeadTraining, head_threat
from robustprobe.core.shared_names import shared_name
from robustprobe.core.sizes import (
    SEVERITY,
    USUAL_AREA,
    Area,
    Eps,
    Norm,
    OwnUnit,
    Severity,
    SizeUnit,
    check_eps,
    format_eps,
    parse_area,
    parse_eps,
)

STEP_SHARE = 0.25
MOST_SUITE_BYTES = 2**18
CHECK_COST = 4
"""Passes through the model that checking an image takes, in attacks of 20 steps on an image."""
FEWEST_CHECKED, MOST_CHECKED = 4, 10
"""Fewer images than that tell nothing, so that checks of less than 160 images cost more than a tenth."""


Described = TypeVar("Described", bound=BaseModel)
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


@cache
def _takes_truth(kind: type[BaseModel], field: str) -> bool:
    """Whether a field may be True or False."""

    def inside(hint: Any) -> bool:
        return hint in (bool, Any, object) or any(inside(part) for part in get_args(hint))

    return inside(kind.model_fields[field].annotation)


class Spec(BaseModel):
    """A frozen description; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """NumPy's numbers as Python's. True and False are no numbers, whatever Python says."""
        value = [plain(part) for part in value] if isinstance(value, list | tuple) else plain(value)
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, bool) for part in parts) and not _takes_truth(cls, str(info.field_name)):
            raise ValueError(f"expected a number, got {value}")
        return value

    def fingerprint(self) -> str:
        """Names the content of this description."""
        return fingerprint(self.model_dump(mode="json"))


DisplayKind = Literal["classes", "class map", "scalar map", "colours"]


class Display(Spec):
    """How answers and labels of a task are shown.

    `classes`: the likeliest classes with their probabilities. `class map`: (H, W) indices of classes, 255 where there
    is none. `scalar map`: (H, W) values in `unit`, stored times `scale`, 0 where there is none. `colours`: (H, W, 3).
    """

    kind: DisplayKind
    scale: float = 1.0
    unit: str = ""


class Statistic(Spec):
    """A number that rows of images make, by the names of its columns.

    `mean`: of a column, over images whose value is a number. `proportion`: the share of these images with a column
    true. `ratio`: sum of the first column over sum of the second. `mean_iou`: of per-class pixel counts, the columns
    being intersection, predicted and labelled.
    """

    kind: Literal["mean", "proportion", "ratio", "mean_iou"]
    columns: tuple[str, ...]


Iterate = Literal["best", "last"]
AttackAt = Literal["served", "native"]
"""Whose pixels the ball is on: those of the image as it is served, or of the image as the dataset stores it."""


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


USUAL_SIZES: dict[OwnUnit, float] = {"severity": USUAL_SEVERITY, "area": USUAL_AREA}
OWN_SIZES: dict[OwnUnit, str] = {"severity": "a severity from 1 to 5", "area": "an area"}
_UNIT_WORDS: dict[str, str] = {"severity": "a severity", "area": "an area"}
SIZED_THINGS: dict[OwnUnit, str] = {"severity": "corruptions", "area": "patches"}
SIZE_EXAMPLES: dict[OwnUnit, str] = {"severity": "3", "area": "5%"}
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
    def label(self) -> str:
        """`apgd:dlr`, or the name alone."""
        return f"{self.name}:{self.objective}" if self.objective else self.name

    @property
    def sized_label(self) -> str:
        """The label with its eps: `pgd 8/255`; at eps 0, where nothing is changed, the label alone."""
        named = f"{self.norm} " if self.norm in get_args(OwnUnit) else ""
        return f"{self.label} {named}{format_eps(self.eps, self.norm)}" if self.eps else self.label


def setting_text(value: float | str | tuple[str, ...]) -> str:
    """The value of an option in words."""
    if isinstance(value, str):
        return value
    return (", ".join(value) or "none") if isinstance(value, tuple) else f"{value:g}"


def _with_own_unit(data: dict[str, Any]) -> dict[str, Any]:
    """`severity: 3` or `area: 0.05` as eps and norm, without a step; only one of the three may be given."""
    if data.get("norm") in get_args(OwnUnit):
        return {"step_size": 0.0, **data}
    given = {unit: data[unit] for unit in get_args(OwnUnit) if data.get(unit) is not None}
    if not given:
        return data
    if len(sizes := [*(["an eps"] if data.get("eps") is not None else []), *map(_UNIT_WORDS.get, given)]) > 1:
        raise ValueError(f"an attack has {sizes[0]} or {sizes[1]}, not both")
    ((unit, size),) = given.items()
    rest = {name: value for name, value in data.items() if name not in get_args(OwnUnit)}
    return {**rest, "eps": size if unit == SEVERITY else parse_area(size), "norm": unit, "step_size": 0.0}


class _Listed:
    """One thing where a list is expected is a list of it: `datasets: scenes`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_listed, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        several = handler(core)
        return {"anyOf": [several["items"], several]}


def _listed(data: Any) -> Any:
    return [data] if isinstance(data, str | int | float | dict) and not isinstance(data, bool) else data


T = TypeVar("T")
OneOrMore = Annotated[tuple[T, ...], Field(min_length=1), _Listed()]


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
        return _or_name(handler(core))


def _or_name(schema: JsonSchemaValue) -> JsonSchemaValue:
    """The schema of an object that may be written as its name alone."""
    return {"anyOf": [{"type": "string"}, schema]}


def _split_objective(data: Any) -> Any:
    """`name: apgd:dlr` as name and objective; the colon of `my.py:Class` stays."""
    if not isinstance(data, dict) or data.get("objective") or not isinstance(data.get("name"), str):
        return data
    head, colon, tail = data["name"].rpartition(":")
    return {**data, "name": head, "objective": tail} if colon and not head.endswith(".py") else data


def _without_groups(choices: tuple[AttackChoice, ...] | None) -> tuple[AttackChoice, ...] | None:
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


HeadKind = Literal["linear", "mlp"]
ZERO_SHOT = "zero-shot"
"""The kind of heads that are made of texts, in records."""
_SHA256 = "@sha256:"


class TextsFile(Spec):
    """A file of text embeddings, and the SHA-256 of its content; empty: that of the file as it is found."""

    file: Annotated[str, StringConstraints(min_length=1)]
    sha256: Annotated[str, StringConstraints(pattern="^([0-9a-f]{64})?$")] = ""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        if isinstance(data, Path):
            return {"file": str(data)}
        if not isinstance(data, str):
            return data
        file, sign, digest = data.rpartition(_SHA256)
        return {"file": file, "sha256": digest} if sign else {"file": data}

    @property
    def shared_text(self) -> str:
        """`texts.safetensors@sha256:...`, without the folders of this machine."""
        return f"{shared_name(self.file, 1)}{_SHA256}{self.sha256}"

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _or_name(handler(core))


def texts_name(text: str) -> str:
    """`texts.safetensors 1a2b3c4d`: how plans and tables name the texts that `TextsFile.shared_text` writes out."""
    file, _, digest = text.rpartition(_SHA256)
    return f"{file} {digest[:8]}"


class HeadSpec(Spec):
    """How heads are fitted: a recipe, what is changed of it (None: nothing), and how much of train is used.

    `kind` is what heads are: `linear`, or `mlp`, with a hidden layer before. `training` is on images as they are
    (`clean`), or on images attacked through encoder and head (`adversarial:4/255`). Label maps are learnt at
    1/`label_stride` of the image resolution; they are always scored at their own. `layers` is how many of the last
    blocks heads read, `pooling` what of them a classification head does. `knn` also judges classification by k-NN.
    `zero_shot` is a file of text embeddings that make the head of classification, see `rp.zero_shot`; heads of other
    tasks are the usual ones.
    """

    recipe: Literal["fast", "standard", "paper"] = "fast"
    kind: HeadKind = "linear"
    training: HeadTraining = CLEAN_IMAGES
    pooling: Literal["cls", "cls+patch", "gem"] | None = None
    train_limit: int | None = Field(default=None, ge=2)
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=2)
    layers: Literal[1, 4] | None = None
    label_stride: int | None = Field(default=None, ge=1)
    learning_rates: OneOrMore[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    knn: int = Field(default=20, ge=0)
    seed: int = 0
    zero_shot: TextsFile | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("zero_shot") is not None:
            # Records say zero-shot for their kind.
            return {name: value for name, value in data.items() if (name, value) != ("kind", ZERO_SHOT)}
        return {"kind": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _has_texts(self) -> "HeadSpec":
        if self.zero_shot is not None and (self.kind != "linear" or self.training != CLEAN_IMAGES):
            what = f"kind {self.kind}" if self.kind != "linear" else f"training {self.training}"
            raise ValueError(f"nothing of a zero-shot head is fitted, so it has no {what}; leave one of the two out")
        return self

    @property
    def threat(self) -> HeadThreat | None:
        """The ball in which images are attacked while heads are fitted; None: they are not."""
        return head_threat(self.training)

    @property
    def on_clean_images(self) -> "HeadSpec":
        """The same heads fitted on images as they are."""
        return self.model_copy(update={"training": CLEAN_IMAGES})

    @property
    def usual(self) -> "HeadSpec":
        """Linear heads fitted on images as they are, by the same recipe."""
        return self.on_clean_images.model_copy(update={"kind": "linear", "zero_shot": None})

    @property
    def zero_shot_alone(self) -> "HeadSpec":
        """What of this description a zero-shot head depends on: the texts, and how the recipe serves images."""
        return HeadSpec(recipe=self.recipe, knn=0, zero_shot=self.zero_shot)

    def facts(self) -> dict[str, Any]:
        """The fields as records have them: no folders of this machine, and `zero_shot` for zero-shot heads alone."""
        told = self.model_dump(mode="json", exclude={"zero_shot"})
        texts = self.zero_shot
        return told if texts is None else {**told, "kind": ZERO_SHOT, "zero_shot": texts.shared_text}

    @property
    def is_usual(self) -> bool:
        """Whether heads are linear and fitted on images as they are."""
        return self.kind == "linear" and self.training == CLEAN_IMAGES and self.zero_shot is None

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"enum": list(get_args(HeadKind))}, handler(core)]}


class DatasetSpec(Spec):
    """Images to report on."""

    name: str
    limit: int | None = Field(default=None, ge=1)
    size: tuple[PositiveInt, PositiveInt] | None = None
    """(H, W) the images are served at; None: as the head's recipe says."""
    split: Literal["test", "val"] = "test"
    """`val`: train images that heads are chosen on too. For choices of one's own, so that `test` is read once."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _or_name(handler(core))


class Suite(AttackTuning):
    """Encoders, datasets, heads and attacks; the cells are their product."""

    name: str = "custom"
    description: str = ""
    encoders: OneOrMore[str]
    transfer_from: Annotated[tuple[str, ...], _Listed()] = ()
    """Encoders on which adversarial images are made too, with their own heads, for the heads of `encoders` to judge."""
    datasets: OneOrMore[DatasetSpec]
    tasks: OneOrMore[str] | None = None
    """None: every task that a dataset has labels for."""
    attacks: Annotated[OneOrMore[AttackChoice] | None, AfterValidator(_without_groups)] = None
    """None: of `STANDARD_ATTACKS` those that fit the datasets."""
    eps: OneOrMore[Eps] | None = None
    """None: the usual eps of the norm for the size of the images, see `core.eps`."""
    severity: OneOrMore[Severity] | None = None
    """Of corruptions; None: 3."""
    area: OneOrMore[Area] | None = None
    """Shares of the image's area that patches cover; None: 0.05."""
    norm: Norm = "linf"
    steps: int | None = Field(default=None, ge=1)
    """None: as many as each attack asks for."""
    restarts: int = Field(default=1, ge=1)
    iterate: Iterate = "best"
    head: HeadSpec = HeadSpec()
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    attack_at: AttackAt = "served"
    """`served`: images are resized first, as in the paper; `native`: the model resizes them."""
    batch_size: int = Field(default=64, ge=1)
    examples: int = Field(default=6, ge=0, le=1000)
    """Images of each attack that are kept for the page; they are held until its last image is judged."""
    extreme_examples: int = Field(default=1, ge=0, le=1000)
    """Extreme examples of each kind (most damaged, barely broken, survived) for each task; none without `examples`."""
    sanity_images: int | None = Field(default=None, ge=0, le=1000)
    """Images on which each attack is checked; 0: none. None: as `checked_images` says."""

    @model_validator(mode="after")
    def _eps_fit(self) -> "Suite":
        for eps in (*(self.eps or ()), *(eps for choice in self.attacks or () for eps in choice.eps or ())):
            check_eps(eps, self.norm)
        return self

    @property
    def replaced_modules(self) -> tuple[str, ...]:
        """Names of the modules that some attack gives a straight-through backward pass."""
        choices = [name for choice in self.attacks or () for name in choice.bpda or ()]
        return tuple(dict.fromkeys([*(self.bpda or ()), *choices]))

    def checked_images(self, images: int) -> int:
        """On how many of so many images each attack is checked; where the suite does not say, a fortieth, 4 to 10.

        A checked image costs up to `CHECK_COST` times an attacked one, so a fortieth costs a tenth of the run.
        """
        usual = min(MOST_CHECKED, max(FEWEST_CHECKED, images // (10 * CHECK_COST)))
        return min(images, usual if self.sanity_images is None else self.sanity_images)

    def attack_specs(
        self,
        choice: AttackChoice,
        steps: int,
        warm_start: bool = True,
        usual_eps: float = 8 / 255,
        tuning: Collection[str] | None = None,
        own_unit: OwnUnit | None = None,
    ) -> tuple[AttackSpec, ...]:
        """An attack at each of its eps, ascending, each started from the one before; `clean` once, at eps 0.

        Args:
            steps: what the attack asks for where neither choice nor suite says.
            warm_start: whether the attack takes a start from a smaller eps; the image itself, of eps 0, is none.
            usual_eps: what is attacked with where the suite names no eps.
            tuning: options of the suite that the attack takes, None: all; those of the choice itself are all passed on.
            own_unit: what its size is where it is not an eps.

        Raises:
            UserError: an eps for an attack with a severity or an area, or the reverse.
        """
        others = [unit for unit in get_args(OwnUnit) if unit != own_unit and getattr(choice, unit) is not None]
        if others:
            has, wanted = ("an eps", "eps: 8/255")
            if own_unit:
                has, wanted = OWN_SIZES[own_unit], f"{own_unit}: {SIZE_EXAMPLES[own_unit]}"
            raise UserError(f"attack {choice.name} has {has}, not {_UNIT_WORDS[others[0]]}; write {wanted}.")
        if own_unit:
            return self._in_own_unit(choice, own_unit, steps, tuning)
        sizes = (0.0,) if choice.name == "clean" else tuple(sorted(set(choice.eps or self.eps or (usual_eps,))))
        still = choice.name in ("clean", "noise")
        warm = warm_start and not still and self.iterate != "last"
        return tuple(
            AttackSpec(
                name=choice.name,
                objective=choice.objective,
                eps=eps,
                norm=self.norm,
                steps=1 if still else choice.steps or self.steps or steps,
                restarts=1 if still else choice.restarts or self.restarts,
                iterate=self.iterate,
                early_exit=choice.early_exit,
                warm=tuple(size for size in sizes[:position] if size) if warm else (),
                seed=self.seed,
                **self._tuned(choice, tuning),
            )
            for position, eps in enumerate(sizes)
        )

    def _in_own_unit(
        self, choice: AttackChoice, unit: OwnUnit, steps: int, tuning: Collection[str] | None
    ) -> tuple[AttackSpec, ...]:
        if choice.eps is not None:
            raise UserError(
                f"attack {choice.name} has {OWN_SIZES[unit]}, not an eps; write {unit}: {SIZE_EXAMPLES[unit]}."
            )
        named = {"name": choice.name, "objective": choice.objective, "steps": 1, "seed": self.seed}
        if unit != SEVERITY:
            named |= {
                "steps": choice.steps or self.steps or steps,
                "restarts": choice.restarts or self.restarts,
                "iterate": self.iterate,
                "early_exit": choice.early_exit,
            }
        named |= self._tuned(choice, tuning)
        sizes = getattr(choice, unit) or getattr(self, unit) or (USUAL_SIZES[unit],)
        return tuple(AttackSpec.model_validate({**named, unit: size}) for size in sorted(set(sizes)))

    def _tuned(self, choice: AttackChoice, tuning: Collection[str] | None) -> dict[str, Any]:
        own: dict[str, Any] = {"lost_share": LOST_SHARE} if "lost_share" in (tuning or ()) else {}
        given = {name: getattr(self, name) for name in TUNING if tuning is None or name in tuning}
        own |= {name: value for name, value in given.items() if value is not None}
        own |= {name: value for name in TUNING if (value := getattr(choice, name)) is not None}
        return own


class ExecutorOptions(Spec):
    """How a run is spread over processes and machines; no number depends on it but for `threads`.

    `workers` 0: as many as there is room for. `shard_size` images of one job make a unit of work; 0: about a minute's.
    `threads` of torch in each process on a CPU; 0: as many as this process uses. Convolutions round otherwise with
    another number of threads.
    """

    executor: str = "local"
    address: str = ""
    workers: int = Field(default=0, ge=0)
    shard_size: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "ExecutorOptions":
        if self.executor == "local" and (self.address or self.workers):
            raise ValueError("an address and workers are for the executor ray; local is this process alone")
        return self


def load_suite(path: Path) -> Suite:
    """The suite of a YAML file.

    Raises:
        UserError: missing file, unreadable YAML, unknown or wrong keys.
    """
    try:
        if path.stat().st_size > MOST_SUITE_BYTES:
            raise UserError(f"{path} has more than {MOST_SUITE_BYTES:,} bytes; a suite is a short YAML file.")
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"no suite file {path}; give a YAML file or a name from `robustprobe list suites`.") from None
    except UserError:
        raise
    except Exception as error:
        # Tags such as !!bool and !!timestamp raise whatever Python does on what they cannot convert.
        raise UserError(f"{path} cannot be read as YAML: {error}") from error
    return validated(Suite, data, str(path))


def validated(kind: type[Described], data: Any, what: str) -> Described:
    """A description from data, with pydantic's complaints as one message."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{what} cannot be used: {faults_text(error, kind)}.") from error
