"""Complaints of pydantic in plain words."""

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from robustprobe.core.errors import nearest
from robustprobe.core.former_names import FORMER_KEYS

MOST_FAULTS = 10
MOST_SHOWN = 60


def faults_text(error: ValidationError, described: type[BaseModel] | None = None) -> str:
    """Pydantic's complaints in plain words: where, what was expected, what came."""
    errors = error.errors()
    # A list that is empty once its wrong parts are taken out was not too short.
    inside = {one["loc"][:depth] for one in errors for depth in range(len(one["loc"]))}
    wrong = [one for one in errors if not (one["type"] == "too_short" and one["loc"] in inside)]
    faults = [_fault(described, one).rstrip(".") for one in wrong]
    more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
    return "; ".join(dict.fromkeys(faults[:MOST_FAULTS])) + more


# Names of Python's types mean nothing to the author of a YAML file.
_EXPECTED = {
    **dict.fromkeys(("model_type", "dict_type", "model_attributes_type"), "expected keys with values"),
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list"),
    "missing": "is missing",
    "too_short": "expected one or more",
    "string_type": "expected text",
    **dict.fromkeys(("int_from_float", "int_parsing", "int_type"), "expected a whole number"),
}


def _fault(described: type[BaseModel] | None, one: ErrorDetails) -> str:
    """One complaint of pydantic in plain words."""
    location, kind, context = one["loc"], one["type"], one.get("ctx", {})
    where = ".".join(str(part) for part in location)
    key = str(location[-1]) if location else ""
    if kind == "extra_forbidden" and key in FORMER_KEYS:
        return f"{where} is called {FORMER_KEYS[key]} now; write {FORMER_KEYS[key]}"
    if kind == "extra_forbidden":
        return f"unknown key {where}{nearest(key, described.model_fields) if described and len(location) == 1 else ''}"
    if kind == "value_error":
        return f"{where}: {context.get('error')}" if where else str(context.get("error"))
    said = _EXPECTED.get(kind) or one["msg"].replace("Input should be ", "expected ", 1)
    if kind == "missing":
        return f"{where} {said}"
    came = repr(one["input"])
    came = f", got {came if len(came) <= MOST_SHOWN else came[: MOST_SHOWN - 1] + '…'}"
    return f"{where}: {said}{came}" if where else f"{said}{came}"
