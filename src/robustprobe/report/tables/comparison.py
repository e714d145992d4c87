"""The result of a comparison, for people and for programs."""

from typing import Any, NamedTuple

from robustprobe.report.tables import sheet
from robustprobe.report.tables.sheet import Document, csv_text, finite, json_text


class Comparison(NamedTuple):
    """Tables for people; for programs a heading, and one row per compared cell with the same keys in each."""

    document: Document
    heading: dict[str, Any]
    rows: list[dict[str, Any]]


def render(comparison: Comparison, format: str) -> str:
    """A comparison as text.

    Args:
        comparison: of a folder with the paper, or of two folders.
        format: `rich` (as on a terminal, without colour), `md`, `latex` (needs the package booktabs), `csv` (a line per
            cell) or `json` (an object: the heading's entries, and `cells`, a list with an object per cell).

    Raises:
        UserError: unknown format.
    """
    if format == "csv":
        return csv_text(comparison.rows, list(comparison.rows[0]))
    if format == "json":
        return json_text({**comparison.heading, "cells": [finite(row) for row in comparison.rows]})
    return sheet.text(comparison.document, format)
