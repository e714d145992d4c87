"""What the wheel holds is enough to run."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

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
    options = ["run", "demo", "--limit", "4", "--train-limit", "16", "--steps", "1", "--sanity-images", "0"]
    options += ["--only", "bundled:scenes", "--out", str(tmp_path / "out")]
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
    (folder,) = site.glob("*.dist-info")
    metadata = (folder / "METADATA").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for line in (f"Version: {version}", "License-Expression: Apache-2.0", "Requires-Python: >=3.11", "# robustprobe"):
        assert line in metadata.splitlines(), line
    assert "robustprobe = robustprobe.cli:main" in (folder / "entry_points.txt").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text().splitlines()


def _imports() -> dict[str, set[bool]]:
    """Modules of others that the package imports, and whether as soon as it is imported (True) or when needed."""
    found: dict[str, set[bool]] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(node in tree.body)
    own = {"robustprobe", *sys.stdlib_module_names}
    return {name: at_once for name, at_once in found.items() if name not in own}


def test_everything_that_is_imported_is_a_dependency_and_extras_only_when_needed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=\[;]", line)[0].lower() for line in project["dependencies"]}
    extras = {re.split(r"[<>=]", d)[0].lower() for more in project["optional-dependencies"].values() for d in more}
    # There wherever a notebook runs.
    extras.add("ipython")
    homes = packages_distributions()
    for module, at_once in _imports().items():
        packages = {name.lower().replace("_", "-") for name in homes.get(module, [module])}
        # jinja2 brings markupsafe, altair narwhals and pydantic its core.
        assert packages & (needed | extras | {"markupsafe", "pydantic-core"}), f"{module} comes with no dependency"
        if not packages & (needed | {"markupsafe", "pydantic-core"}):
            assert at_once == {False}, f"{module} is optional, and imported at once"


def test_the_workflow_calls_what_is_there() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step.get("run", "") for step in steps)
    targets = re.findall(r"^make (\S+)", commands, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert set(targets) == {"lint", "test", "docs"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert "pip install" in commands
    assert "robustprobe demo" in commands
