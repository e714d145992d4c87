"""Your own encoder class in a Python file: my.py:Class (runs the file)"""

import inspect
from pathlib import Path
from typing import final

from robustprobe.core.errors import UserError
from robustprobe.core.user_code import load_attribute
from robustprobe.encoders.base import Encoder, Source


@final
class PythonSource(Source):
    """Runs the code of the given file."""

    def load(self, name: str) -> Encoder:
        path, _, attribute = name.rpartition(":")
        thing = load_attribute(Path(path), attribute)
        if not (inspect.isclass(thing) and issubclass(thing, Encoder)):
            raise UserError(
                f"{name} is not a subclass of robustprobe.Encoder; derive from it and implement `features`."
            )
        if inspect.isabstract(thing):
            raise UserError(f"{name} has no `features` method; implement one that returns robustprobe.Features.")
        encoder: Encoder = thing()  # type: ignore[call-arg]
        return encoder
