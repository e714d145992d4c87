"""Heads as they are chosen: a recipe and what is changed of it, or text embeddings."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from robustprobe.core.head_threat import CLEAN_IMAGES, HeadThreat, HeadTraining, head_threat
from robustprobe.core.shared_names import shared_name
from robustprobe.core.spec_base import OneOrMore, Spec, or_name

HeadKind = Literal["linear", "mlp"]
ZERO_SHOT = "zero-shot"
"""The kind of heads that are made of texts, in records."""
_SHA256 = "@sha256:"
TEMPLATES, PROMPT = "templates", "a photo of a {}."
"""The word for the usual template, and the template."""
PLACE, BETWEEN = "{}", "|"
"""Where a template has the name of a class, and what stands between several templates."""


class TextsFile(Spec):
    """A file of text embeddings, and the SHA-256 of its content; empty: that of the file as it is found.

    In place of a file, `file` may hold templates with `{}` for the name of a class, separated by `|`: the encoder's own
    text tower embeds the names then. `templates` stands for the usual one.
    """

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
        found = {"file": file, "sha256": digest} if sign else {"file": data}
        return {**found, "file": PROMPT} if found["file"] == TEMPLATES else found

    @property
    def templates(self) -> tuple[str, ...]:
        """Templates of texts; empty where it is a file."""
        return tuple(part.strip() for part in self.file.split(BETWEEN)) if PLACE in self.file else ()

    @property
    def shared_text(self) -> str:
        """`texts.safetensors@sha256:...`, without the folders of this machine, or `a photo of a {}.@sha256:...`."""
        return f"{self.file if self.templates else shared_name(self.file, 1)}{_SHA256}{self.sha256}"

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return or_name(handler(core))


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
    `zero_shot` is a file of text embeddings, or templates for the encoder's own text tower, that make the head of
    classification, see `rp.zero_shot`; heads of other tasks are the usual ones.
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
