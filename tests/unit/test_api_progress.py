"""Progress from Python: a notebook's output is replaced in place, and nothing in it is markup of others."""

import io
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from robustprobe.api import progress
from robustprobe.api.progress import NotebookProgress, SilentProgress, TerminalProgress, progress_bar
from robustprobe.evaluation.run import RunProgress

pytestmark = pytest.mark.unit


class Cell:
    """The output of a notebook's cell: what was first displayed, and what replaced it."""

    def __init__(self) -> None:
        self.displayed: list[str] = []
        self.shown = ""

    def display(self, html: str) -> Callable[[str], None]:
        self.displayed.append(html)
        self.replace(html)
        return self.replace

    def replace(self, html: str) -> None:
        self.shown = html


def test_a_notebook_shows_one_bar_that_moves_and_scores_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    cell = Cell()
    with NotebookProgress(4, cell.display) as bar:
        bar.update(RunProgress("heads <b>", 1, 2))
        assert 'value="0.125"' in cell.shown
        assert "heads &lt;b&gt;" in cell.shown
        bar.update(RunProgress("pgd", 2, 2, finished=True, scores="top-1 0.5"))
        assert 'value="0.250"' in cell.shown
        assert "pgd: top-1 0.5" in cell.shown
        for number in range(2 * progress.NEWS):
            bar.say(f"sentence {number}.")
        assert cell.shown.count("<br>") == progress.NEWS
    assert len(cell.displayed) == 1
    assert "Done after" in cell.shown
    assert "<progress" not in cell.shown


def test_a_terminal_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets are markup for rich, and `:fog:` is an emoji."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    label = "imagefolder:photos[/old] [b]x[/b]: corruption:fog"
    with TerminalProgress(2) as bar:
        bar.update(RunProgress(label, 1, 2, finished=True, scores="top-1 0.5"))
    assert f"{label}: top-1 0.5" in " ".join(stream.getvalue().split())


def test_a_notebook_says_where_a_run_stopped() -> None:
    cell = Cell()
    bar = NotebookProgress(1, cell.display)
    with suppress(KeyboardInterrupt), bar:
        bar.step("pgd", 1, 2)
        raise KeyboardInterrupt
    assert "Stopped at pgd" in cell.shown


def test_quick_updates_do_not_flood_a_notebook() -> None:
    cell, shown = Cell(), set()
    with NotebookProgress(1, cell.display) as bar:
        for done in range(1000):
            bar.step("pgd", done, 1000)
            shown.add(cell.shown)
    assert len(shown) < 100


@pytest.mark.parametrize(
    ("shown", "jupyter", "kind"),
    [
        (None, False, SilentProgress),
        (False, True, SilentProgress),
        (True, False, TerminalProgress),
        (None, True, NotebookProgress),
    ],
)
def test_there_is_a_bar_where_somebody_looks(
    shown: bool | None, jupyter: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "in_notebook", lambda: jupyter)
    assert type(progress_bar(1, shown)) is kind
