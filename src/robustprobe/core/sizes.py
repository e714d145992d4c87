"""Sizes of perturbations, as numbers and as text: the eps of a ball in a norm, and severities of corruptions."""

import math
import numbers
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, WithJsonSchema

from robustprobe.core.corruption_names import GROUP, SEVERITIES, USUAL_SEVERITY, check_severity
from robustprobe.core.errors import UserError

Norm = Literal["linf", "l2", "l1"]
SizeUnit = Literal["linf", "l2", "l1", "severity", "area"]
"""What the eps of an attack is: the size of a ball in a norm, the severity of a corruption, or the share of the image's
area that a patch covers; the last two have no ball.
"""
OwnUnit = Literal["severity", "area"]
SEVERITY: Literal["severity"] = "severity"
AREA: Literal["area"] = "area"
MOST_AREA = 0.5


class OwnUnitFacts(NamedTuple):
    """Of attacks whose size is no eps of a ball: the usual size, words for messages, an example, and which they are."""

    usual: float
    words: str
    range_words: str
    example: str
    things: str
    attack: str


OWN_UNITS: Mapping[OwnUnit, OwnUnitFacts] = MappingProxyType(
    {
        SEVERITY: OwnUnitFacts(USUAL_SEVERITY, "a severity", "a severity from 1 to 5", "3", "corruptions", GROUP),
        AREA: OwnUnitFacts(0.05, "an area", "an area", "5%", "patches", "patch"),
    }
)
Severity = Annotated[int, Field(ge=SEVERITIES[0], le=SEVERITIES[-1])]


def parse_eps(value: str | float) -> float:
    """A size in pixel units of [0, 1] from `8/255`, `0.03` or a number.

    Raises:
        UserError: not a number, a division by zero, negative or endless.
    """
    if isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, str | int | float):
        raise UserError(f"a size is a number, not a {type(value).__name__}; write such as 8/255.")
    text = str(value).strip()
    above, slash, below = text.partition("/")
    try:
        number = float(above) / float(below) if slash else float(above)
    except ZeroDivisionError:
        raise UserError(f"'{text}' divides by zero; write a size in pixel units of [0, 1], such as 8/255.") from None
    except ValueError:
        raise UserError(f"'{text}' is not a number; write a size in pixel units of [0, 1], such as 8/255.") from None
    if not 0 <= number < math.inf:
        raise UserError(f"size '{text}' is no size; write a number from 0 up in pixel units of [0, 1], such as 8/255.")
    return number


def parse_area(value: str | float) -> float:
    """A share of the image's area from `5%` or `0.05`. Raises UserError for what is not above 0 and at most 50 %."""
    share = value
    if isinstance(value, str):
        text = value.strip()
        number = text.removesuffix("%")
        try:
            share = float(number) / (100 if text.endswith("%") else 1)
        except ValueError:
            raise UserError(f"'{value}' is not a share of the image's area; write such as 5% or 0.05.") from None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= MOST_AREA:
        raise UserError(f"area {value} is not above 0 and at most {MOST_AREA:.0%} of the image; write such as 5%.")
    return float(share)


def format_eps(eps: float, norm: str = "linf") -> str:
    """`8/255` where an Linf eps is a whole number of grey levels, `5%` for an area, else the number itself."""
    if norm == AREA:
        return f"{100 * eps:.4g}%"
    levels = eps * 255
    whole = norm == "linf" and abs(levels - round(levels)) < 1e-6 and (levels > 0.5 or eps == 0)
    return f"{round(levels)}/255" if whole else f"{eps:.6g}"


def threat_size_text(eps: float, norm: str) -> str:
    """`eps 8/255 (linf)`, `severity 3`, or `area 5%`."""
    return f"{norm} {format_eps(eps, norm)}" if norm in OWN_UNITS else f"eps {format_eps(eps, norm)} ({norm})"


def check_eps(eps: float, norm: str) -> None:
    """Raises UserError for an Linf ball larger than the pixel box, or a severity or an area that is none."""
    if norm == SEVERITY and eps:
        check_severity(eps)
    if norm == AREA and eps:
        parse_area(eps)
    if norm == "linf" and eps > 1:
        raise UserError(f"eps {eps:g} is outside [0, 1]; pixels are in [0, 1], so write for instance 8/255.")


_EPS_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9.eE+-]+\s*(/\s*[0-9.eE+-]+\s*)?$"},
    ],
    "description": "A size in pixel units of [0, 1], such as 8/255.",
}
_AREA_SCHEMA = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_AREA},
        {"type": "string", "pattern": r"^\s*[0-9.eE+-]+\s*%?\s*$"},
    ],
    "description": "A share of the image's area, such as 5% or 0.05.",
}
Area = Annotated[float, BeforeValidator(parse_area), WithJsonSchema(_AREA_SCHEMA, mode="validation")]
Eps = Annotated[float, BeforeValidator(parse_eps), WithJsonSchema(_EPS_SCHEMA, mode="validation")]
