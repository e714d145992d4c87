"""What the wheel holds is enough to run."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def _uv() -> str | None:
    local = ROOT / ".tools" / "bin" / "uv"
    return shutil.which("uv") or (str(local) if local.exists() else None)


@pytest.mark.skipif(_uv() is None, reason="uv is not here")
def test_the_wheel_runs_outside_the_repository(tmp_path: Path) -> None:
    uv = _uv()
    assert uv is not None
    subprocess.run([uv, "build", "--wheel", "--out-dir", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    program = "import robustprobe, sys; print(robustprobe.__file__); from robustprobe.cli import main; main()"
    options = ["run", "demo", "--limit", "4", "--train-limit", "16", "--steps", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert (tmp_path / "out" / "report.html").exists()
