"""How charts draw encoders: a colour, a dash and a marker each, and a name that fits."""

from collections.abc import Sequence
from typing import NamedTuple

# Okabe and Ito (2008), its light ones darkened until lines of them have a contrast of 3:1 on white.
COLOURS = ("#0072b2", "#d55e00", "#007a59", "#b0548a", "#8a6d00", "#3a8fc4", "#5b6470")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3))
LONGEST = 30
LEGIBLE = 64
"""Characters of a name in a table or a key; longer names are written in full once, at the top."""
MOST = 12
"""At most so many encoders in a chart; tables have all of them."""


class EncoderStyle(NamedTuple):
    """One encoder in a chart."""

    name: str
    short: str
    colour: int

    @property
    def paint(self) -> str:
        return COLOURS[self.colour % len(COLOURS)]

    @property
    def dash(self) -> tuple[int, ...]:
        return DASHES[self.colour % len(DASHES)]

    @property
    def shape(self) -> str:
        return shape_of(self.colour)


def shape_of(position: int) -> str:
    """The marker of the encoder at a position; encoders of the same colour get different ones."""
    return SHAPES[(position + position // len(COLOURS)) % len(SHAPES)]


def series(names: Sequence[str]) -> list[EncoderStyle]:
    """A series for each name, in this order, whose short names differ."""
    shorts: list[str] = []
    for name in names:
        short, count = shortened(name), 2
        while short in shorts:
            short, count = shortened(name, LONGEST - len(f" ({count})")) + f" ({count})", count + 1
        shorts.append(short)
    return [
        EncoderStyle(name, short, position) for position, (name, short) in enumerate(zip(names, shorts, strict=True))
    ]


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name with its middle left out where it is too long: names often differ at their ends."""
    if len(name) <= longest:
        return name
    ahead = (longest - 1) // 2
    return f"{name[:ahead]}…{name[len(name) - (longest - 1 - ahead) :]}"
