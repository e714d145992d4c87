"""Names for results that people share: NAME=SPEC, and paths without the folders of this machine."""

import os
import re
from collections.abc import Sequence

from robustprobe.core.errors import UserError

PARTS = 3
"""Parts of a path that stay, as in RUN/checkpoints/epoch-05."""
_NAMED = re.compile(r"(?P<name>[^:=?/\\.][^:=?\\]*)=(?P<spec>[^=?].*)")
# A path that begins at the root of a file system, alone or behind `file:`, `--out=` and the like; no URL.
_ABSOLUTE = re.compile(r"(?<![\w.~/\\-])(?:[A-Za-z]:[\\/]|~[\\/]|/(?!/))[^:?=&\"'\s]*")
_ENCODER_FILE = re.compile(r"(?P<before>file:)(?P<path>[^?]+)(?P<after>\?.*)?|(?P<code>.+\.py)(?P<attribute>:\w+)")
_WITH_SPACES = re.compile(r"(?<![\w.~/\\-])(?:[A-Za-z]:[\\/]|~[\\/]|/(?!/))[^:?=&\"']*")


def split_name(spec: str) -> tuple[str, str]:
    """`NAME=SPEC` as both; a spec without a name has an empty one, also where the path of its file has an `=`.

    Raises:
        UserError: a name that is blank or cannot be printed.
    """
    found = _NAMED.fullmatch(spec)
    path, _, attribute = spec.rpartition(":")
    if not found or (attribute and path.endswith(".py") and os.path.isfile(path)):
        return "", spec
    name = found["name"].strip()
    if not name or not name.isprintable():
        raise UserError(f"'{spec}' gives an encoder no usable name; write NAME=SPEC with a name that can be printed.")
    return name, found["spec"]


def shared_name(name: str, parts: int = PARTS) -> str:
    """A name with the last parts alone of a path in it: `file:/home/me/pre/runs/a` becomes `file:pre/runs/a`.

    Relative paths are shortened in names of encoders, `file:PATH` and `PATH.py:CLASS`, alone.
    """
    if found := _ENCODER_FILE.fullmatch(name):
        before, path, after = (found["before"], found["path"], found["after"] or "")
        return f"{before}{_tail(path, parts)}{after}" if path else f"{_tail(found['code'], parts)}{found['attribute']}"
    return _WITH_SPACES.sub(lambda found: _tail(found[0], parts), name)


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names as `shared_name` makes them, with more of a path where different ones would become the same."""
    parts = [PARTS] * len(names)
    deepest = max((len(re.split(r"[\\/]", name)) for name in names), default=0)
    while True:
        short = [shared_name(name, count) for name, count in zip(names, parts, strict=True)]
        alike = [
            any(own == other and name != rival for other, rival in zip(short, names, strict=True))
            for own, name in zip(short, names, strict=True)
        ]
        if not any(alike) or max(parts) >= deepest:
            return short
        parts = [count + same for count, same in zip(parts, alike, strict=True)]


def shared_text(text: str) -> str:
    """A text such as a command with the last parts alone of each absolute path in it."""
    return _ABSOLUTE.sub(lambda found: _tail(found[0], PARTS), text)


def _tail(path: str, parts: int) -> str:
    home = os.path.expanduser("~").rstrip("/")
    # The name of a user's home is often that of the user; a user without one has the root of the file system.
    if home and path.startswith(f"{home}/"):
        path = "~" + path[len(home) :]
    kept = [part for part in re.split(r"[\\/]+", path) if part and part != "~" and not re.fullmatch(r"[A-Za-z]:", part)]
    return "/".join(kept[-parts:]) or path
