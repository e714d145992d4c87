"""What to run: suites and datasets. Packages from outside find the descriptions of attacks and heads here too."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    PositiveInt,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from robustprobe.core.attack_spec import (
    LOST_SHARE,
    TUNING,
    AttackChoice,
    AttackSpec,
    AttackTuning,
    Iterate,
    without_groups,
)
from robustprobe.core.errors import UserError
from robustprobe.core.head_spec import HeadSpec
from robustprobe.core.sizes import (
    OWN_UNITS,
    SEVERITY,
    Area,
    Eps,
    Norm,
    OwnUnit,
    Severity,
    check_eps,
)
from robustprobe.core.spec_base import Listed, OneOrMore, Spec, or_name, validated

__all__ = [
    "AttackChoice",
    "AttackSpec",
    "DatasetSpec",
    "Display",
    "ExecutorOptions",
    "HeadSpec",
    "Statistic",
    "Suite",
    "load_suite",
    "validated",
]

MOST_SUITE_BYTES = 2**18
CHECK_COST = 4
"""Passes through the model that checking an image takes, in attacks of 20 steps on an image."""
FEWEST_CHECKED, MOST_CHECKED = 4, 10
"""Fewer images than that tell nothing, so that checks of less than 160 images cost more than a tenth."""
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
    being intersection, predicted and labelled. `micro_ap`: average precision of the candidates of all images in one
    ranking, the columns being similarities (K,), whether each candidate is right (K,), and a number where there is one.
    """

    kind: Literal["mean", "proportion", "ratio", "mean_iou", "micro_ap"]
    columns: tuple[str, ...]


AttackAt = Literal["served", "native"]
"""Whose pixels the ball is on: those of the image as it is served, or of the image as the dataset stores it."""


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
        return or_name(handler(core))


class Suite(AttackTuning):
    """Encoders, datasets, heads and attacks; the cells are their product."""

    name: str = "custom"
    description: str = ""
    encoders: OneOrMore[str]
    transfer_from: Annotated[tuple[str, ...], Listed()] = ()
    """Encoders on which adversarial images are made too, with their own heads, for the heads of `encoders` to judge."""
    datasets: OneOrMore[DatasetSpec]
    tasks: OneOrMore[str] | None = None
    """None: every task that a dataset has labels for."""
    attacks: Annotated[OneOrMore[AttackChoice] | None, AfterValidator(without_groups)] = None
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
        others = [unit for unit in OWN_UNITS if unit != own_unit and getattr(choice, unit) is not None]
        if others:
            has, wanted = ("an eps", "eps: 8/255")
            if own_unit:
                has, wanted = OWN_UNITS[own_unit].range_words, f"{own_unit}: {OWN_UNITS[own_unit].example}"
            raise UserError(f"attack {choice.name} has {has}, not {OWN_UNITS[others[0]].words}; write {wanted}.")
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
        facts = OWN_UNITS[unit]
        if choice.eps is not None:
            raise UserError(f"attack {choice.name} has {facts.range_words}, not an eps; write {unit}: {facts.example}.")
        named = {"name": choice.name, "objective": choice.objective, "steps": 1, "seed": self.seed}
        if unit != SEVERITY:
            named |= {
                "steps": choice.steps or self.steps or steps,
                "restarts": choice.restarts or self.restarts,
                "iterate": self.iterate,
                "early_exit": choice.early_exit,
            }
        named |= self._tuned(choice, tuning)
        sizes = getattr(choice, unit) or getattr(self, unit) or (facts.usual,)
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
