"""Stored example images: a few images of one encoder, dataset and attack, with what heads answered."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints, model_validator

from robustprobe.core.attack_spec import AttackSpec
from robustprobe.core.former_names import FORMER_DISPLAYS, FORMER_KINDS
from robustprobe.core.spec import Display
from robustprobe.results.records import AttackAccess, AttackKey, Frozen, Name, renamed, with_access

PictureName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,80}\.png$")]

ChoiceKind = Literal["random", "most damaged", "barely broken", "survived"]
CHOICE_KINDS: tuple[ChoiceKind, ...] = get_args(ChoiceKind)
"""In the order in which images are shown."""


class ExampleChoice(Frozen):
    """Why an image is an example: drawn at random, or for what an attack made for `task` did to it on `encoder`."""

    kind: ChoiceKind
    task: str = ""
    attack: AttackSpec | None = None
    encoder: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_any_schema(cls, data: Any) -> Any:
        found = renamed(data)
        if isinstance(found, dict) and isinstance(kind := found.get("kind"), str):
            found["kind"] = FORMER_KINDS.get(kind, kind)
        return found


RANDOM = ExampleChoice(kind="random")


class Example(Frozen):
    """One image of a group as the page shows it; arrays lie beside as PNG files."""

    id: str
    position: int
    chosen: tuple[ExampleChoice, ...] = (RANDOM,)
    """Groups of older versions hold random images alone."""
    predictions: dict[str, Any]
    """By task: a list of [class, probability] where classes are shown, else the name of a PNG file."""
    truth: dict[str, Any]
    """By task: the name of the class, or of a PNG file."""
    scores: dict[str, float] = Field(default_factory=dict)
    """By task: the score of this image; groups of earlier versions have none."""

    @model_validator(mode="before")
    @classmethod
    def _of_any_schema(cls, data: Any) -> Any:
        return renamed(data)


class Group(Frozen):
    """Example images of one encoder, dataset and attack."""

    group: Name
    encoder: str
    dataset: str
    attack: AttackSpec
    target_task: str
    access: AttackAccess = "encoder"
    classes: dict[str, list[str]]
    displays: dict[str, Display]
    """How answers and labels of each task are shown."""
    examples: list[Example]
    digests: dict[PictureName, str] = Field(default_factory=dict)
    """SHA-256 of the PNG files by name; groups of older versions have none."""

    @model_validator(mode="before")
    @classmethod
    def _of_any_schema(cls, data: Any) -> Any:
        found = with_access(renamed(data))
        if isinstance(found, dict) and "displays" not in found and isinstance(found.get("classes"), dict):
            found.pop("max_depth", None)
            found["displays"] = {task: FORMER_DISPLAYS[task] for task in found["classes"] if task in FORMER_DISPLAYS}
        return found

    @property
    def attack_key(self) -> AttackKey:
        """What names the attack in tables and charts."""
        return AttackKey(self.attack, self.target_task, self.access)
