"""Sizes of perturbations, as numbers and as text: the eps of a ball in a norm, and severities of corruptions."""

import math
import numbers
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from robustprobe.core.corruption_names import SEVERITIES, check_severity
from robustprobe.core.errors import UserError

Norm = Literal["linf", "l2", "l1"]
SizeUnit = Literal["linf", "l2", "l1", "severity"]
"""What the eps of an attack is: the size of a ball in a norm, or the severity of a corruption, which has no ball."""
SEVERITY: Literal["severity"] = "severity"
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


def format_eps(eps: float, norm: str = "linf") -> str:
    """`8/255` where an Linf eps is a whole number of grey levels, else the number itself."""
    levels = eps * 255
    whole = norm == "linf" and abs(levels - round(levels)) < 1e-6 and (levels > 0.5 or eps == 0)
    return f"{round(levels)}/255" if whole else f"{eps:.6g}"


def threat_size_text(eps: float, norm: str) -> str:
    """`eps 8/255 (linf)`, or `severity 3`."""
    return f"severity {eps:g}" if norm == SEVERITY else f"eps {format_eps(eps, norm)} ({norm})"


def check_eps(eps: float, norm: str) -> None:
    """Raises UserError for an Linf ball larger than the pixel box, or a severity that is none."""
    if norm == SEVERITY and eps:
        check_severity(eps)
    if norm == "linf" and eps > 1:
        raise UserError(f"eps {eps:g} is outside [0, 1]; pixels are in [0, 1], so write for instance 8/255.")


_EPS_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9.eE+-]+\s*(/\s*[0-9.eE+-]+\s*)?$"},
    ],
    "description": "A size in pixel units of [0, 1], such as 8/255.",
}
Eps = Annotated[float, BeforeValidator(parse_eps), WithJsonSchema(_EPS_SCHEMA, mode="validation")]
