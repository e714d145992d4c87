"""How encoders are drawn: a colour, a dash and a marker each, and a name that fits; and which are whose descendants."""

from collections.abc import Sequence
from typing import NamedTuple

from robustprobe.results.records import Record

# Okabe and Ito (2008), its light ones darkened until lines of them have a contrast of 3:1 on white.
COLOURS = ("#0072b2", "#d55e00", "#007a59", "#b0548a", "#8a6d00", "#3a8fc4", "#5b6470")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3))
LONGEST = 30
LEGIBLE = 64
"""Letters of a name in a table or a key; what is longer is written in full once, at the top."""
MOST = 12
"""Encoders that a chart tells apart; tables have all of them."""


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


class Checkpoint(NamedTuple):
    """An encoder of one epoch of a hardening run: the run, what it is called, and the epoch."""

    run: str
    name: str
    epoch: int


def shape_of(position: int) -> str:
    """The marker of the encoder at a place: another one for each that has the same colour."""
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
    """A name with its middle left out where it is too long: both ends tell encoders apart."""
    if len(name) <= longest:
        return name
    ahead = (longest - 1) // 2
    return f"{name[:ahead]}…{name[len(name) - (longest - 1 - ahead) :]}"


def parent(record: Record, names: Sequence[str]) -> str | None:
    """The encoder that a hardened one began as, where it is among the names and not the encoder itself."""
    teacher = record.encoder_teacher
    return teacher if teacher in names and teacher != record.encoder else None


def checkpoint(record: Record) -> Checkpoint | None:
    """The epoch and run of an encoder, as its card says; None for one that no hardening run made."""
    if record.encoder_epoch is None or not record.encoder_run:
        return None
    return Checkpoint(record.encoder_run, f"{record.encoder_teacher} {record.encoder_method}", record.encoder_epoch)
