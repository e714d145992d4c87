"""Your own encoder in a Python file: my.py:Class, my.py:factory or my.py:instance (runs the file)"""

import inspect
from pathlib import Path
from typing import final

from pydantic import ValidationError
from torch import nn

from robustprobe.core.arguments import came
from robustprobe.core.errors import UserError
from robustprobe.core.faults import faults_text
from robustprobe.core.user_code import load_attribute
from robustprobe.encoders.base import Encoder, Source


@final
class PythonSource(Source):
    """Runs the code of the given file: a class derived from Encoder, a function that makes one, or one made there."""

    def load(self, name: str) -> Encoder:
        path, _, attribute = name.rpartition(":")
        thing = load_attribute(Path(path), attribute)
        if inspect.isclass(thing) and not issubclass(thing, Encoder):
            raise UserError(_advice(name, came(thing)))
        if inspect.isabstract(thing):
            raise UserError(f"{name} has no `features` method; implement one that returns robustprobe.Features.")
        made = thing if isinstance(thing, nn.Module) else _called(thing, name)
        if not isinstance(made, Encoder):
            raise UserError(_advice(name, came(made)))
        if not hasattr(made, "card"):
            raise UserError(f"{name} has no card; call super().__init__(EncoderCard(...)) in its constructor.")
        return made


def _called(thing: object, name: str) -> object:
    if not callable(thing):
        raise UserError(_advice(name, came(thing)))
    try:
        needed = [p.name for p in inspect.signature(thing).parameters.values() if _is_needed(p)]
    except (TypeError, ValueError):
        needed = []
    if needed:
        attribute = name.rpartition(":")[2]
        raise UserError(
            f"{name} needs arguments ({', '.join(needed)}); give them defaults, or add a function without arguments, "
            f"such as `def make(): return {attribute}(...)`, and name that one."
        )
    try:
        return thing()
    except UserError:
        raise
    except ValidationError as error:
        raise UserError(f"{name} cannot be made: {error.title}: {faults_text(error)}. Correct the file.") from error
    except Exception as error:
        raise UserError(f"{name} cannot be made: {type(error).__name__}: {error}. Correct the file.") from error


def _is_needed(parameter: inspect.Parameter) -> bool:
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in optional


def _advice(name: str, what: str) -> str:
    return (
        f"{name} is {what}, not an encoder: not a subclass of robustprobe.Encoder with `features`, nor a function that "
        "returns an encoder. For a network as it is, return robustprobe.wrap(network, mean=..., std=...)."
    )
