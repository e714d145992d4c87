"""Options of gates, and the end of a command that has some: exit code 3 where one fails."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from robustprobe.core.errors import UserError
from robustprobe.core.files import write_whole
from robustprobe.report.gates.outcome import GateOutcome, junit
from robustprobe.report.gates.regression import judge_regressions
from robustprobe.report.gates.rules import Measured, Rule, check_rules, judge_rules, parse_rule
from robustprobe.results.records import Record
from robustprobe.results.store import Store

if TYPE_CHECKING:
    from robustprobe.evaluation.cells import Plan

GATE_FAILED = 3


def parse_rules(texts: Iterable[str] | None) -> list[Rule]:
    """The rules of --fail-under. Raises UserError for another form."""
    return [parse_rule(text) for text in texts or ()]


def check_planned(rules: Sequence[Rule], plan: "Plan") -> None:
    """Raises UserError for a rule about no number of the plan, before any work is done."""
    check_rules(
        rules,
        [
            Measured(pair.data.name, cell.task, level.attack)
            for pair in plan.pairs
            for job in pair.jobs
            for level in job.levels
            for cell in level.cells
            if job.target_task in ("", cell.task) and job.source is None
        ],
    )


def check_baseline(baseline: Path, out: Path) -> None:
    """Raises UserError for a baseline without results, or one that the run itself writes to."""
    if baseline.resolve() == out.resolve():
        raise UserError(f"the baseline {baseline} is the folder of this run too; give another with --out.")
    if not Store(baseline).records():
        raise UserError(f"no finished cells in the baseline {baseline}; run the suite with --out {baseline} first.")


def judge_run(
    rules: Sequence[Rule], baseline: Path | None, store: Store, records: Sequence[Record], junit_file: Path | None
) -> None:
    """Judge the numbers of a run by rules and against a baseline; see `finish`."""
    outcomes = judge_rules(rules, records)
    if baseline is not None:
        outcomes += judge_regressions(Store(baseline), store, records)
    if outcomes or junit_file:
        finish(outcomes, junit_file)


def finish(outcomes: Sequence[GateOutcome], junit_file: Path | None, stream: TextIO | None = None) -> None:
    """Print what became of the gates, write the JUnit file, and exit with code 3 where one failed."""
    for one in outcomes:
        print(f"gate {one.state}: {one.encoder}: {one.message}", file=stream or sys.stdout)
    if junit_file is not None:
        try:
            junit_file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(junit_file, junit(outcomes))
        except OSError as error:
            raise UserError(f"{junit_file} cannot be written: {error}. Give another file with --junit.") from error
    failed = sum(one.state == "failed" for one in outcomes)
    if failed:
        print(f"robustprobe: {failed} of {len(outcomes)} gates failed.", file=sys.stderr)
        sys.exit(GATE_FAILED)
