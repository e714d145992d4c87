"""The demo: what it is made of, what it prints, and what a run leaves behind."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robustprobe.core.suites import find_suite
from robustprobe.results.store import Store
from tests.e2e.program import Answer

Call = Callable[..., Answer]
SMALL = ["--limit", 4, "--train-limit", 16, "--steps", 1, "--sanity-images", 2]


def test_the_demo_is_a_part_of_the_full_one() -> None:
    short, full = find_suite("demo"), find_suite("demo-full")
    assert set(short.encoders) < set(full.encoders)
    assert {a.name for a in short.attacks or ()} < {a.name for a in full.attacks or ()}
    assert (short.tasks, short.eps, short.norm) == (full.tasks, full.eps, full.norm)
    assert short.extreme_examples == 0  # images of extreme examples are attacked twice
    images = [sum(d.limit or 0 for d in suite.datasets) for suite in (short, full)]
    assert images[0] * (short.steps or 0) <= images[1] * (full.steps or 0) / 2


# The demo with fewer images and steps: the whole of it takes more than a minute.
SHORT = """
import robustprobe.cli as c, robustprobe.cli.run as r
find = r.find_suite
few = {"datasets": [{"name": "scenes", "limit": 6}], "head": {"train_limit": 48}, "steps": 2, "sanity_images": 2}
r.find_suite = lambda name: type(find(name)).model_validate(find(name).model_dump(exclude_none=True) | few)
c.main()
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo prints, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [sys.executable, "-c", SHORT, "demo", "--out", str(out)],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, out


def test_the_demo_ends_with_the_headline_of_the_page_a_small_table_and_the_page(demo: tuple[str, Path]) -> None:
    text, out = demo
    from robustprobe.report.page.lead import lead
    from robustprobe.results.union import finished

    sentence = lead(finished([out], "show"))
    assert len(sentence.split()) > 20
    page = (out / "report.html").read_text(encoding="utf-8")
    assert sentence.replace("\N{NO-BREAK SPACE}", " ") in page.replace("\N{NO-BREAK SPACE}", " ")
    head, _, end = " ".join(text.split()).partition(" ".join(sentence.split()))
    assert "plan:" in head
    assert end, "the headline is printed"
    for task, attack in (("classification", "pgd"), ("segmentation", "segpgd"), ("depth", "depthpgd")):
        assert len(re.findall(rf"{task} bundled:scenes(?:-anyhead)? \d\.\d{{3}}[ †]+\d\.\d{{3}} embed", end)) == 2
        assert end.count(f" {attack}") == 2
    table, legend, _ = end.partition("† a sanity check of this number failed; the page says which.")
    assert ("†" in table) == bool(legend)
    assert (out / "report.html").resolve().as_uri() in end


def test_numbers_of_the_demo_are_those_of_its_records(demo: tuple[str, Path]) -> None:
    text, out = demo
    ending = text[text.index("label-free") :]
    for record in Store(out).records():
        if record.is_clean or record.is_task_specific or not record.target_task:
            assert f"{record.headline.value:.3f}" in ending


def test_a_run_prints_the_headline_before_the_tables(call: Call, tmp_path: Path) -> None:
    from robustprobe.report.page.lead import lead
    from robustprobe.results.union import finished

    command = ["run", "quick", *SMALL, "--only", "clean", "--only", "pgd", "--out", tmp_path]
    answer = call(*command)
    assert answer.code == 0, answer.err
    words = " ".join(answer.out.split())
    headline = words.index(" ".join(lead(finished([tmp_path], "show")).split()))
    assert words.index("plan:") < headline < words.index("Classification on scenes:")
    assert "judged by" not in answer.out
    long = call(*command, "-v")
    assert long.code == 0
    assert "judged by" in long.out


def test_a_run_that_fails_before_it_has_done_anything_leaves_no_folder(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "new" / "results"
    wrong = call("run", "--encoder", "bundled:scenes", "--dataset", "nowhere", "--out", out)
    assert wrong.code == 1
    assert not out.parent.exists()


def test_a_run_whose_cells_all_fail_leaves_no_folder(call: Call, my_encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    wrong = call("run", "--encoder", f"{my_encoder}:Blind", "--dataset", "scenes", *SMALL, "--out", out)
    assert wrong.code in (1, 2)
    assert not out.exists()


def test_a_folder_that_was_there_stays(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert call("run", "--encoder", "bundled:scenes", "--dataset", "nowhere", "--out", tmp_path / "mine").code == 1
    assert list((tmp_path / "mine").iterdir()) == []
