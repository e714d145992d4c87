"""Names of content: of JSON, and of the code that numbers depend on."""

import hashlib
import json
from pathlib import Path
from typing import Any


def fingerprint(content: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# Rooms that ask, show, store or train; no number of a cell depends on their code.
BESIDE_NUMBERS = frozenset({"api", "cli", "report", "results", "training", "defences", "trackers"})


def code_digest() -> str:
    """Fingerprint of the source of every room that numbers depend on: all but `BESIDE_NUMBERS`."""
    root = Path(__file__).parent.parent
    rooms = [room for room in sorted(root.iterdir()) if room.is_dir() and room.name not in BESIDE_NUMBERS]
    files = [path for room in rooms for path in sorted(room.rglob("*.py"))]
    return fingerprint({path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files})
