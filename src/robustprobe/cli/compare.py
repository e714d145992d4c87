"""`robustprobe compare`: reads results and never imports torch."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from robustprobe.cli._console import new_console, print_for_programs
from robustprobe.cli._gates import finish, parse_rules
from robustprobe.cli._options import GATES
from robustprobe.core.errors import UserError
from robustprobe.report.comparisons import compare_results, is_published
from robustprobe.report.gates.regression import judge_regressions
from robustprobe.report.gates.rules import Rule, judge_rules
from robustprobe.report.tables.matching import records_of_encoder
from robustprobe.results.store import Store


def compare(
    folder: Path,
    other: str | None = None,
    /,
    *,
    encoder: list[str] | None = None,
    format: Literal["rich", "md", "csv", "json", "latex"] = "rich",
    deacl: str | None = None,
    fail_under: Annotated[list[str] | None, Parameter(group=GATES)] = None,
    fail_on_regression: Annotated[bool, Parameter(group=GATES)] = False,
    junit: Annotated[Path | None, Parameter(group=GATES)] = None,
) -> None:
    """Print the results of a folder beside the paper's numbers, those of another folder, or two encoders.

    `compare DIR --encoder A --encoder B` compares two encoders of one folder, paired over images.

    Parameters
    ----------
    folder
        A folder of results: the --out of `robustprobe run`.
    other
        paper, for the tables of Kowalczuk et al. (2024), a name of `robustprobe list references`, or another folder of
        results. A folder called paper is ./paper.
    encoder
        Encoder by its name in tables, or by the beginning of its digest. Can be given several times: of two, the
        first (of the first folder) is compared with the second (of the second folder, or of the same one). Given once,
        only this encoder of both folders counts.
    format
        rich for the terminal, md, csv, json or latex.
    deacl
        With paper: the encoder, as it was given to `run`, that stands for the paper's DINO after DeACL; by default any
        whose card says that `robustprobe harden` made it that way.
    fail_under
        Rule that the second has to keep, such as 'segmentation:ensemble:4/255>=0.20'. Exit code 3 where it does not.
        Can be given several times.
    fail_on_regression
        Exit code 3 where the second is worse than the first, by a paired 95 % interval over images that excludes 0.
    junit
        File for the outcomes of these gates as JUnit XML, which build servers show.
    """
    from robustprobe.report.tables import comparison as tables
    from robustprobe.report.tables import sheet

    comparison = compare_results(Store(folder), other, encoder or [], deacl)
    if format == "rich":
        sheet.print_rich(comparison.document, new_console())
    else:
        print_for_programs(tables.render(comparison, format), format)
    if fail_under or fail_on_regression or junit:
        _judge(folder, other, encoder or [], parse_rules(fail_under), fail_on_regression, junit, format)


def _judge(
    folder: Path,
    other: str | None,
    encoders: list[str],
    rules: list[Rule],
    regression: bool,
    junit: Path | None,
    format: str,
) -> None:
    """Judge the second of a comparison. Raises UserError for the paper, which has no rows of images."""
    if is_published(other):
        raise UserError(f"gates are for results, and `{other}` has none; give a folder.")
    first, second = Store(folder), Store(folder if other is None else Path(other))
    names = (encoders[0], encoders[-1]) if encoders else (None, None)
    before, after = (records_of_encoder(store, name) for store, name in zip((first, second), names, strict=True))
    outcomes = judge_rules(rules, after)
    if regression:
        outcomes += judge_regressions(first, second, after, before)
    # Formats for programs keep standard output for themselves.
    finish(outcomes, junit, sys.stdout if format == "rich" else sys.stderr)
