"""Text files that list names of classes, or the files of one sample per line."""

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

from robustprobe.core.errors import UserError
from robustprobe.datasets._folders import composed, require, stored_path

# Those of 32 bits first: one of them begins like another of 16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
MARK = "\ufeff"


def text_of(path: Path) -> str:
    """A text file in UTF-8, or as its byte-order mark says, without further marks, which files that were joined have.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        mark = next((mark for mark in BYTE_ORDER_MARKS if content.startswith(mark)), b"")
        return content.decode(BYTE_ORDER_MARKS.get(mark, "utf-8")).replace(MARK, "")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}. Save it as UTF-8, or download it again.") from error


def class_names(path: Path, layout: str, most: float = float("inf")) -> tuple[str, ...]:
    """Names of classes, one per line. Raises UserError for fewer than two, more than `most`, or a repeated one."""
    names = [composed(line.strip()) for line in text_of(require(path, layout, own=True)).splitlines() if line.strip()]
    if not 2 <= len(names) <= most or len(set(names)) < len(names):
        wanted = "2 or more" if most == float("inf") else f"2 to {most}"
        raise UserError(
            f"{path} names {len(names)} classes, {len(set(names))} of them different; "
            f"expected {wanted} different names, one per line. Correct the file."
        )
    return tuple(names)


def class_doubts(names: Sequence[str]) -> list[str]:
    """Warnings about lines that do not look like the name of the class that they stand for."""
    numbers = [begun[0] if (begun := re.match(r"\d+\b", name)) else "" for name in names]
    found = []
    if all(numbers) and [int(number) for number in numbers] != list(range(len(names))):
        found.append(
            f"classes.txt numbers its lines {', '.join(numbers[:3])} ..., and the first line is class 0, the second "
            "class 1: check that labels count so"
        )
    if comment := next((name for name in names if name.startswith(("#", "//"))), ""):
        found.append(f"the line '{comment}' of classes.txt is read as a class")
    return found


def read_list(path: Path, columns: str) -> list[list[str]]:
    """The fields of every non-empty line.

    Args:
        columns: names of the expected fields, as shown to the user.

    Raises:
        UserError: no such file, or a line with too few fields.
    """
    require(path, f"a list with '{columns}' on each line")
    rows = [line.split() for line in text_of(path).splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) < len(columns.split()):
            wanted = f"'{columns}', with blanks between" if " " in columns else f"'{columns}'"
            raise UserError(f"{path} line {number} is '{' '.join(row)}'; expected {wanted}. Correct the list.")
        if any(".." in Path(field).parts for field in row):
            raise UserError(f"{path} line {number} points outside the dataset's folder ('..'). Correct the list.")
    return rows


def existing(folder: Path, rows: list[list[str]], columns: int) -> list[Path]:
    """Paths of the files in the first `columns` of each row. Raises UserError for a missing file."""
    paths = [stored_path(folder / name.lstrip("/")) for row in rows for name in row[:columns]]
    for path in paths:
        require(path, "the file that the list names")
    return paths
