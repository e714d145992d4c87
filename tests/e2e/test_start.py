"""What must answer at once loads no torch, and help no other large library."""

import json
import os
import subprocess
import sys
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
    print("LOADED", *sys.modules, file=sys.stderr)
"""
# Each takes a tenth of a second or more to load.
LARGE = {"torch", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "PIL", "pydantic", "jinja2", "timm", "transformers"}


def _probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["encoders", "datasets", "tasks", "attacks", "suites"])
def test_list_needs_no_torch(kind: str) -> None:
    done = _probe("list", kind)
    assert done.returncode == 0
    assert "NO TORCH" in done.stderr
    assert len(done.stdout.splitlines()) >= 4


def test_help_loads_no_large_library() -> None:
    done = _probe("--help")
    assert {"demo", "run", "table", "report", "list", "doctor"} <= set(done.stdout.split())
    loaded = done.stderr.rpartition("LOADED")[2].split()
    assert {"robustprobe.cli", "cyclopts"} <= set(loaded)
    assert LARGE.isdisjoint(loaded)


def test_table_and_report_need_no_torch(finished: Path, tmp_path: Path) -> None:
    for arguments in (("table", str(finished)), ("report", str(finished), "-o", str(tmp_path / "page.html"))):
        done = _probe(*arguments)
        assert done.returncode == 0, done.stderr
        assert "NO TORCH" in done.stderr
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("kind", ["encoders", "datasets", "tasks", "attacks", "trackers", "suites", "references"])
def test_lists_show_every_character_of_a_summary(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets, as in NAME[@REVISION], are no markup of the terminal's library."""
    monkeypatch.setenv("COLUMNS", "2000")
    table, entries = _probe("list", kind), json.loads(_probe("list", kind, "--format", "json").stdout)
    assert all(entry["summary"] in table.stdout for entry in entries)
    assert all(entry["name"] in table.stdout for entry in entries)


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
