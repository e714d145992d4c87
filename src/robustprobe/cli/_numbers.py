"""Whole numbers on the command line."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter, Token


def parse_whole(text: str) -> int:
    """A whole number as it is written; cyclopts alone would round 1.5 to 2. Raises ValueError for anything else."""
    written = text.strip()
    whole, _, rest = written.partition(".")
    try:
        return int(written, 16) if written.lower().startswith("0x") else int(written if rest.strip("0") else whole)
    except ValueError:
        raise ValueError(f"{text} is no whole number; give one such as 4.") from None


def _one(_: type, tokens: Sequence[Token]) -> int:
    (token,) = tokens
    return parse_whole(token.value)


def _several(_: type, tokens: Sequence[Token]) -> list[int]:
    return [parse_whole(token.value) for token in tokens]


WholeNumber = Annotated[int, Parameter(converter=_one)]
"""What every option that takes one whole number is annotated with."""
WholeNumbers = Annotated[list[int], Parameter(converter=_several)]
"""What every whole-number option that can be given several times is annotated with."""
