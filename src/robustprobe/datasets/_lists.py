"""Text files that list the files of one sample per line."""

from pathlib import Path

from robustprobe.core.errors import UserError
from robustprobe.datasets._folders import require


def read_list(path: Path, columns: str) -> list[list[str]]:
    """The fields of every non-empty line.

    Args:
        columns: names of the expected fields, as shown to the user.

    Raises:
        UserError: no such file, or a line with too few fields.
    """
    require(path, f"a list with '{columns}' on each line")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}. Download the list again.") from error
    rows = [line.split() for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) < len(columns.split()):
            raise UserError(f"{path} line {number} is '{' '.join(row)}'; expected '{columns}'. Correct the list.")
        if any(".." in Path(field).parts for field in row):
            raise UserError(f"{path} line {number} points outside the dataset's folder ('..'). Correct the list.")
    return rows


def existing(folder: Path, rows: list[list[str]], columns: int) -> list[Path]:
    """Paths of the files in the first `columns` of each row. Raises UserError for a missing file."""
    paths = [folder / name.lstrip("/") for row in rows for name in row[:columns]]
    for path in paths:
        require(path, "the file that the list names")
    return paths
