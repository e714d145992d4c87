"""Folders of results, as functions that show results are given them. Never imports torch."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from robustprobe.core.arguments import came
from robustprobe.core.errors import UserError
from robustprobe.results.store import Store


def as_stores(given: Any, caller: str) -> list[Store]:
    """The folders behind results, or behind one path or several.

    Args:
        caller: the function that takes them, for the message.

    Raises:
        UserError: anything else.
    """
    if not isinstance(given, type) and isinstance(getattr(given, "stores", None), tuple):
        return list(given.stores)
    folders = [given] if isinstance(given, str | PathLike) else given
    several = isinstance(folders, Sequence) and not isinstance(folders, bytes | range)
    wrong = [one for one in folders if not _is_path(one)] if several else []
    if not several or not folders or wrong:
        what = f"a list with {came(wrong[0])}" if wrong else "an empty list" if several else came(given)
        raise UserError(f"{caller} takes results, not {what}; give what evaluate gave, or the path of its folder.")
    return [Store(Path(folder)) for folder in folders]


def _is_path(given: object) -> bool:
    return isinstance(given, PathLike) or (isinstance(given, str) and "\0" not in given)
