"""What is made of results: page, plots, merged folders, leaderboard and the page over HTTP; none needs torch."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.program import Answer
from tests.e2e.test_start import PROBE

pytestmark = pytest.mark.e2e
Call = Callable[..., Answer]


def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROBE, *(str(a) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "NO TORCH" in done.stderr
    return done


def test_plots_merging_and_the_leaderboard_need_no_torch(finished: Path, tmp_path: Path) -> None:
    without_torch("plot", finished, "--kind", "pareto", "-o", tmp_path / "front.pdf")
    assert (tmp_path / "front.pdf").read_bytes().startswith(b"%PDF")
    without_torch("merge", finished, "-o", tmp_path / "all" / "merged")
    without_torch("leaderboard", tmp_path / "all", "-o", tmp_path / "site")
    assert (tmp_path / "site" / "index.html").exists()
    assert len(list((tmp_path / "site" / "encoders").glob("*.html"))) == 1


def test_merged_folders_give_the_same_table_and_are_found_finished(call: Call, finished: Path, tmp_path: Path) -> None:
    answer = call("merge", finished, "-o", tmp_path / "merged")
    assert answer.code == 0
    assert re.match(r"\d+ cells and \d+ groups of example images copied", answer.out)
    assert call("table", tmp_path / "merged", "--format", "csv").out == call("table", finished, "--format", "csv").out


def test_a_page_of_two_folders_and_of_one_image(call: Call, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    page = tmp_path / "page.html"
    assert call("report", finished, tmp_path / "copy", "-o", page, "--samples", "1").code == 0
    assert "1 drawn at random, of " in " ".join(page.read_text().split())
    answer = call("report", finished, "-o", page, "--samples", "few")
    assert answer.code == 1
    assert "samples 'few' is neither a number of images nor 'all'" in answer.err


@pytest.mark.skipif(os.name == "nt", reason="needs an interrupt of its own")
def test_view_serves_the_page_until_it_is_interrupted(finished: Path) -> None:
    # A shell starts its background jobs with interrupts ignored, and so the tests that run in one.
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{hears}; from robustprobe.cli import main; main()"
    command = [sys.executable, "-c", program, "view", str(finished), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.read().startswith(b"<!doctype html>")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
