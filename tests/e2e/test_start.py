"""What must answer at once answers at once, without torch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PROBE = """
import sys
from robustprobe.cli import main
try:
    main()
finally:
    print("TORCH" if "torch" in sys.modules else "NO TORCH", file=sys.stderr)
"""


def _probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["encoders", "datasets", "tasks", "attacks", "suites"])
def test_list_needs_no_torch(kind: str) -> None:
    done = _probe("list", kind)
    assert done.returncode == 0
    assert "NO TORCH" in done.stderr
    assert len(done.stdout.splitlines()) >= 4


def test_help_needs_no_torch_and_answers_within_a_second() -> None:
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        done = _probe("--help")
        seconds.append(time.monotonic() - start)
        assert "NO TORCH" in done.stderr
        assert {"demo", "run", "table", "report", "list", "doctor"} <= set(done.stdout.split())
    assert min(seconds) < 1


def test_table_and_report_need_no_torch(finished: Path, tmp_path: Path) -> None:
    for arguments in (("table", str(finished)), ("report", str(finished), "-o", str(tmp_path / "page.html"))):
        done = _probe(*arguments)
        assert done.returncode == 0, done.stderr
        assert "NO TORCH" in done.stderr
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "3000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_waiting_threads_of_torch_give_their_core_away_soon(given: dict[str, str], expected: str | None) -> None:
    own = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    # GNU OpenMP shows its settings when it is loaded.
    shown = subprocess.run(
        [sys.executable, "-c", PROBE, "doctor"],
        env={**own, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("torch has another OpenMP here")
    assert ("GOMP_SPINCOUNT = '3000'" in shown) == (expected == "3000")
    assert expected is None or f"GOMP_SPINCOUNT = '{expected}'" in shown
