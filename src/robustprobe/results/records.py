"""Stored results: the record of one number."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.former_names import (
    FORMER_ATTACKS,
    FORMER_FIELDS,
    FORMER_STATISTICS,
    SAW_NOTHING,
)
from robustprobe.core.sizes import AREA, SEVERITY, Norm
from robustprobe.core.spec import AttackAt, Statistic

SCHEMA = 3
"""3: attacks and fields have today's names. Files of schema 1 and 2 are read under today's names."""

# Names of files: one that leads elsewhere is no name.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,80}$")]


def renamed(data: Any) -> Any:
    """Fields and attacks of an earlier schema under today's names."""
    if not isinstance(data, dict):
        return data
    found = {FORMER_FIELDS.get(name, name): value for name, value in data.items()}
    attack = found.get("attack")
    if isinstance(attack, dict) and attack.get("name") in FORMER_ATTACKS:
        found["attack"] = {**attack, "name": FORMER_ATTACKS[attack["name"]]}
    return found


def with_access(data: Any) -> Any:
    """The same with what the attack could see, where the fields do not say it."""
    if not isinstance(data, dict) or "access" in data:
        return data
    attack = data.get("attack")
    name = attack.get("name") if isinstance(attack, dict) else getattr(attack, "name", "")
    access = "task" if data.get("target_task") else "nothing" if name in SAW_NOTHING else "encoder"
    return {**data, "access": access}


AttackAccess = Literal["nothing", "encoder", "task"]
"""What an attack could see: no model, the encoder alone, or the model of one task with its labels."""


class AttackKey(NamedTuple):
    """An attack as tables and charts tell it from others; `target_task` is empty where it saw no head."""

    attack: AttackSpec
    target_task: str
    access: AttackAccess
    source: str = ""
    """The encoder that the images were made on, where that is not the one that judges."""

    @property
    def is_clean(self) -> bool:
        """Whether the images are as they were, which every attack leaves them at eps 0."""
        return self.attack.eps == 0

    @property
    def is_control(self) -> bool:
        """Whether images were changed without a look at any model, as by random noise, in the ball of an attack."""
        return self.access == "nothing" and not self.is_clean and not self.is_corruption

    @property
    def is_corruption(self) -> bool:
        """Whether images were corrupted at a severity, which is no attack and has no ball."""
        return self.attack.norm == SEVERITY and not self.is_clean

    @property
    def is_patch(self) -> bool:
        """Whether a patch of the images was replaced, which has an area and no ball."""
        return self.attack.norm == AREA and not self.is_clean

    @property
    def is_in_ball(self) -> bool:
        """Whether images were changed inside a ball: what is not is not compared with it."""
        return self.attack.norm in get_args(Norm) and not self.is_clean


class Frozen(BaseModel):
    """A frozen part of a record; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Interval(Frozen):
    """A value with the ends of its 95 % interval."""

    value: float
    ci_low: float
    ci_high: float


class Provenance(Frozen):
    """Where a number comes from. Not part of what makes two records the same."""

    command: str
    started: str
    seconds: float
    versions: dict[str, str]
    git: str
    hardware: str
    device: str
    threads: tuple[int, ...] = ()
    """Threads of torch in the processes that attacked and judged on a CPU, ascending; empty on a GPU, and in older
    results. Convolutions round differently with another number.
    """
    peak_memory: int | None = None
    """Most bytes held while the images were attacked and judged: on a GPU of tensors there, on a CPU by the process;
    None where that is not known.
    """


class HeadFacts(Frozen):
    """The head that judged: its fingerprint, how it was chosen and what it was trained on."""

    fingerprint: str
    recipe: dict[str, Any]
    learning_rate: float
    held_out_score: float
    train_images: int
    reads: str = ""
    """Tokens it reads, and of how many of the last blocks."""
    view: str = ""
    """How the encoder is shown the images."""


class CheckFact(Frozen):
    """Whether something about a number is as it should be: what was measured, and what it means in a sentence."""

    name: str
    value: float
    passed: bool
    meaning: str
    images: int = 0
    """How many images it was made on where those were chosen to attack them again; 0: all."""


WEAKNESS = frozenset(
    (
        "zero gradient",
        "still rising",
        "second restart",
        "large eps",
        "black box",
        "transfer",
        "gradient",
        "patch control",
    )
)
"""Checks that say that the attack may be too weak, and the score too high."""
NOTHING_LEFT = 5e-4
"""A share below this is printed as 0.000."""


def doubts_of(checks: Iterable[CheckFact], nothing_left: bool) -> list[CheckFact]:
    """Failed checks that put a number in doubt: where nothing is left of a score, it cannot be too high."""
    return [check for check in checks if not (check.passed or (nothing_left and check.name in WEAKNESS))]


class Cost(Frozen):
    """Forward and backward passes through the attacked model, mean per image."""

    forwards: float
    backwards: float


class FeatureGaps(Frozen):
    """Relative change of the covariance of features under an attack on the encoder, and of their variances.

    Of class tokens, and of the mean patch token of each image; see `metrics.feature_gap`.
    """

    class_covariance: Interval
    class_variance: Interval
    patch_covariance: Interval
    patch_variance: Interval


class Record(Frozen):
    """One cell: a number, its interval, and what it was measured on."""

    schema_version: int = SCHEMA
    fingerprint: Name
    group: Name
    """Names the adversarial images: cells of one group judge the same ones."""
    suite: str
    encoder: str
    encoder_digest: str
    encoder_licence: str
    encoder_spec: str = ""
    """What it was loaded from, where `encoder` is a name that the user gave."""
    encoder_teacher: str = ""
    """Name of the encoder that it was hardened from, where its card says so."""
    encoder_method: str = ""
    """The defence that hardened it, where its card says so."""
    encoder_epoch: int | None = None
    """The epoch of hardening after which its weights were kept; 0 is the teacher, None no hardening that is known."""
    encoder_run: str = ""
    """Names the hardening run: checkpoints of one run share it."""
    encoder_notes: str = ""
    """How its weights were read: converted names, a moving average that was preferred, another size of images."""
    dataset: str
    dataset_digest: str
    dataset_content: str = ""
    """The digest without the size that images are served at; older results have none."""
    split: str
    image_size: tuple[int, int] | int
    """(H, W) the images were attacked at, or their shorter side where shapes differ."""
    image_ids_digest: str
    task: str
    """The task whose head judged."""
    target_task: str
    """The task whose model was attacked; empty where no head was seen."""
    source_encoder: str = ""
    """The encoder that the images were made on, with its heads; empty: the one that judges."""
    source_digest: str = ""
    attack: AttackSpec
    attack_at: AttackAt = "served"
    """Whose pixels the ball is on: those of images of `image_size` as served, or as the dataset stores them."""
    access: AttackAccess = "encoder"
    """Where it is not said, as in older results, it follows from the other fields."""
    uses_training: bool = False
    """Whether it was made on training images, as one perturbation for all images is."""
    citation: str = ""
    """The publication of the attack."""
    precision: str
    metric: str
    statistic: Statistic | None = None
    """How the headline metric is computed from the rows of images."""
    chance: float | None = None
    """What the best answer without looking scores on these images, by their labels; None where that is not known."""
    chance_answer: str = "a constant answer"
    """Which answer `chance` is the score of: the task says it."""
    unit: str
    higher_is_better: bool
    n: int
    groups: int = 0
    """Of how many groups that are not independent, such as videos, the images are; 0: of none, each for itself."""
    absent_classes: int = 0
    """Classes that are predicted and have no label on these images, so that mIoU counts them as 0."""
    metrics: dict[str, Interval]
    """The headline metric first."""
    metrics_8bit: dict[str, Interval]
    """The same after the adversarial images were rounded to 8 bits."""
    largest_perturbation: float
    checks: tuple[CheckFact, ...] = ()
    checked_images: int = 0
    """How many images the attack was checked on by attacking them again; a later run may raise it."""
    cost: Cost = Cost(forwards=0, backwards=0)
    feature_gaps: FeatureGaps | None = None
    """Of attacks on the encoder alone; None for others, where images were made on another encoder, and in older
    results.
    """
    head: HeadFacts
    rows_sha256: str
    provenance: Provenance

    @model_validator(mode="before")
    @classmethod
    def _of_any_schema(cls, data: Any) -> Any:
        found = with_access(renamed(data))
        if isinstance(found, dict) and "statistic" not in found and found.get("metric") in FORMER_STATISTICS:
            found["statistic"] = FORMER_STATISTICS[found["metric"]]
        return found

    @model_validator(mode="after")
    def _has_its_metric(self) -> "Record":
        if self.metric not in self.metrics:
            raise ValueError(f"metrics has no {self.metric}")
        return self

    @property
    def content_digest(self) -> str:
        """What tells the images of a dataset from others whatever size they are served at, where that is known."""
        return self.dataset_content or self.dataset_digest

    @property
    def headline(self) -> Interval:
        return self.metrics[self.metric]

    @property
    def doubts(self) -> list[CheckFact]:
        """Failed checks that put the number in doubt."""
        return doubts_of(self.checks, self.is_nothing(self.headline.value))

    def is_nothing(self, value: float) -> bool:
        """Whether a value of the metric is a score of which nothing is left."""
        return self.unit == "share" and self.higher_is_better and value < NOTHING_LEFT

    @property
    def attack_key(self) -> AttackKey:
        """What names the attack in tables and charts."""
        return AttackKey(self.attack, self.target_task, self.access, self.source_encoder)

    @property
    def is_clean(self) -> bool:
        """Whether the images were not attacked."""
        return self.attack_key.is_clean

    @property
    def is_control(self) -> bool:
        """Whether the images were changed without a look at any model, as by random noise."""
        return self.attack_key.is_control

    @property
    def is_corruption(self) -> bool:
        """Whether the images were corrupted at a severity, which is no attack."""
        return self.attack_key.is_corruption

    @property
    def is_patch(self) -> bool:
        """Whether a patch of the images was replaced."""
        return self.attack_key.is_patch

    @property
    def is_in_ball(self) -> bool:
        """Whether the images were changed inside a ball."""
        return self.attack_key.is_in_ball

    @property
    def is_transfer(self) -> bool:
        """Whether the attack was made on another encoder, or for another task, than those that judged."""
        return bool(self.source_encoder) or self.target_task not in ("", self.task)

    @property
    def is_task_specific(self) -> bool:
        """Whether the attack was made for the model that judged."""
        return self.target_task == self.task and not self.source_encoder

    @property
    def images_of(self) -> str:
        """The dataset, and its split where that is not `test`."""
        return self.dataset if self.split == "test" else f"{self.dataset} {self.split}"
