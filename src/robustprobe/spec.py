"""What to run: frozen descriptions, and the fingerprints that name results."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from robustprobe.errors import UserError

STEP_SHARE = 0.25
STANDARD_ATTACKS = ("clean", "noise", "embed", "pgd", "segpgd", "depthpgd")


def parse_eps(value: str | float) -> float:
    """A size in pixel units of [0, 1] from `8/255`, `0.03` or a number.

    Raises:
        UserError: not a number, a division by zero, negative, or above 1.
    """
    text = str(value).strip()
    above, slash, below = text.partition("/")
    try:
        number = float(above) / float(below) if slash else float(above)
    except ZeroDivisionError:
        raise UserError(f"'{text}' divides by zero; write a size in pixel units of [0, 1], such as 8/255.") from None
    except ValueError:
        raise UserError(f"'{text}' is not a number; write a size in pixel units of [0, 1], such as 8/255.") from None
    if not 0 <= number <= 1:
        raise UserError(f"size '{text}' is outside [0, 1]; pixels are in [0, 1], so write for instance 8/255.")
    return number


def format_eps(eps: float) -> str:
    """`8/255` where eps is a whole number of grey levels, else the number itself."""
    levels = eps * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-6 else f"{eps:.6g}"


Described = TypeVar("Described", bound=BaseModel)
Eps = Annotated[float, BeforeValidator(parse_eps)]


class Spec(BaseModel):
    """A frozen description; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def fingerprint(self) -> str:
        """Names the content of this description."""
        return fingerprint(self.model_dump(mode="json"))


class AttackSpec(Spec):
    """One attack at one eps. Sizes are in pixel units of [0, 1]; the step is a quarter of eps unless given."""

    name: str
    eps: Eps = 8 / 255
    norm: Literal["linf"] = "linf"
    steps: int = Field(default=20, ge=1)
    step_size: Eps = -1.0
    random_start: bool = True
    iterate: Literal["best", "last"] = "best"
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("step_size") is None:
            eps = parse_eps(data.get("eps", 8 / 255))
            data = {**data, "step_size": eps * STEP_SHARE}
        return data


class HeadSpec(Spec):
    """How heads are fitted: the recipe, the features a classifier reads, and how much of train is used.

    Label maps are learnt at 1/`label_stride` of the image resolution; they are always scored at their own.
    """

    recipe: Literal["standard"] = "standard"
    pooling: Literal["cls", "cls+patch"] = "cls"
    train_limit: int | None = Field(default=None, ge=2)
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=64, ge=2)
    label_stride: int = Field(default=4, ge=1)
    learning_rates: tuple[float, ...] = Field(default=(1e-3, 1e-2, 1e-1), min_length=1)
    seed: int = 0


class DatasetSpec(Spec):
    """Images to report on."""

    name: str
    limit: int | None = Field(default=None, ge=1)
    size: tuple[int, int] | None = None


class Suite(Spec):
    """Encoders, datasets, heads and attacks; the cells are their product."""

    name: str = "custom"
    description: str = ""
    encoders: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[DatasetSpec, ...] = Field(min_length=1)
    attacks: tuple[str, ...] | None = Field(default=None, min_length=1)
    """None: of `STANDARD_ATTACKS` those that fit the datasets."""
    eps: tuple[Eps, ...] = Field(default=(8 / 255,), min_length=1)
    norm: Literal["linf"] = "linf"
    steps: int = Field(default=20, ge=1)
    iterate: Literal["best", "last"] = "best"
    head: HeadSpec = HeadSpec()
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = Field(default=64, ge=1)
    examples: int = Field(default=6, ge=0)

    def attack_specs(self) -> list[AttackSpec]:
        """Every attack at every eps; `clean` once, at eps 0."""
        specs = []
        for name in self.attacks or STANDARD_ATTACKS:
            for eps in (0.0,) if name == "clean" else self.eps:
                steps = 1 if name in ("clean", "noise") else self.steps
                specs.append(
                    AttackSpec(name=name, eps=eps, norm=self.norm, steps=steps, iterate=self.iterate, seed=self.seed)
                )
        return specs


def load_suite(path: Path) -> Suite:
    """The suite of a YAML file.

    Raises:
        UserError: missing file, unreadable YAML, unknown or wrong keys.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"no suite file {path}; give a YAML file or a name from `robustprobe list suites`.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from error
    return validated(Suite, data, str(path))


def validated(kind: type[Described], data: Any, what: str) -> Described:
    """A description from data, with pydantic's complaints as one message."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        faults = [f"{'.'.join(str(p) for p in e['loc']) or 'it'}: {e['msg']}" for e in error.errors()]
        raise UserError(f"{what} is not a valid {kind.__name__}: {'; '.join(faults)}.") from error


def fingerprint(content: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest() -> str:
    """Fingerprint of the source of every room that numbers depend on."""
    root = Path(__file__).parent
    names = ["types.py", "threat.py", "losses.py", "metrics.py", "stats.py", "probing.py", "evaluation.py"]
    files = [root / n for n in names] + [
        p for r in ("encoders", "datasets", "tasks", "attacks") for p in (root / r).glob("*.py")
    ]
    return fingerprint({p.relative_to(root).as_posix(): p.read_text() for p in sorted(files)})
