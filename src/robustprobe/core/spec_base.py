"""Frozen descriptions: what their numbers may be, lists of one thing, and one error for what is wrong."""

from functools import cache
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from robustprobe.core.arguments import plain
from robustprobe.core.errors import UserError
from robustprobe.core.faults import faults_text
from robustprobe.core.fingerprints import fingerprint

Described = TypeVar("Described", bound=BaseModel)


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


class Listed:
    """One thing where a list is expected is a list of it: `datasets: scenes`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_listed, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        several = handler(core)
        return {"anyOf": [several["items"], several]}


def _listed(data: Any) -> Any:
    return [data] if isinstance(data, str | int | float | dict) and not isinstance(data, bool) else data


T = TypeVar("T")
OneOrMore = Annotated[tuple[T, ...], Field(min_length=1), Listed()]


def or_name(schema: JsonSchemaValue) -> JsonSchemaValue:
    """The schema of an object that may be written as its name alone."""
    return {"anyOf": [{"type": "string"}, schema]}


def validated(kind: type[Described], data: Any, what: str) -> Described:
    """A description from data, with pydantic's complaints as one message."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{what} cannot be used: {faults_text(error, kind)}.") from error
