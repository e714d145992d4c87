"""Records and groups as JSON that ends with its own SHA-256, so that damage is detected."""

import hashlib
import re
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Stored = TypeVar("Stored", bound=BaseModel)

SEAL_LENGTH = 100
# The end of a record or group: the SHA-256 of the text before it. Older versions have none.
SEAL = re.compile(rb',\n "content_sha256": "([0-9a-f]{64})"\n}\Z')
# Control characters have no use in a name, but a terminal would execute them.
CONTROL = re.compile(
    rb"(?<!\\)(?:\\\\)*\\(?:[bf]|u00(?:0[0-8bcef]|1[0-9a-f]|7f|[89][0-9a-f]))|\xc2[\x80-\x9f]|\x7f", re.IGNORECASE
)


def sealed(content: BaseModel) -> bytes:
    """The JSON of a record or group with its own SHA-256 as the last key."""
    text = content.model_dump_json(indent=1).encode()
    return text.removesuffix(b"\n}") + f',\n "content_sha256": "{hashlib.sha256(text).hexdigest()}"\n}}'.encode()


def read_sealed(kind: type[Stored], path: Path) -> Stored:
    """Read a record or group from a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a record or group, or its checksum does not match.
    """
    text = path.read_bytes()
    if seal := SEAL.search(text, max(0, len(text) - SEAL_LENGTH)):
        text = text[: seal.start()] + b"\n}"
        if hashlib.sha256(text).hexdigest().encode() != seal[1]:
            raise ValueError("its content does not match its checksum, so it was changed or damaged")
    if any(mark in text for mark in (b"\\", b"\xc2", b"\x7f")) and CONTROL.search(text):
        raise ValueError("it holds control characters")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        position = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{position}: {fault['msg']}" if position else fault["msg"]) from error
