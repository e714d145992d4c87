"""The Dockerfile keeps the rules of small and safe images; it is not built here."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Instructions and what they say, with continued lines joined and comments left out."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def said(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_the_base_is_an_argument_with_a_pinned_default() -> None:
    arguments = dict(rest.split("=", 1) for rest in said("ARG"))
    assert said("FROM") == ["${BASE}"]
    image, _, tag = arguments["BASE"].partition(":")
    assert image == "python"
    version = re.fullmatch(r"(3\.\d+)(\.\d+)?-slim", tag)
    assert version, f"{tag} names no version"
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert f"Programming Language :: Python :: {version[1]}" in classifiers


def test_wheels_for_the_cpu_alone_or_cuda_are_an_argument() -> None:
    arguments = {name: value.strip('"') for name, value in (rest.split("=", 1) for rest in said("ARG"))}
    assert arguments["TORCH_INDEX"] == ""
    (torch,) = (run for run in said("RUN") if "TORCH_INDEX" in run)
    assert '[ -n "$TORCH_INDEX" ]' in torch
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {re.split(r"[<>=]", line)[0]: line for line in project["dependencies"]}
    assert all(f'"{pinned[name]}"' in torch for name in ("torch", "torchvision"))
    assert set(arguments["EXTRAS"].split(",")) <= project["optional-dependencies"].keys()


def test_nothing_is_cached_nothing_runs_as_root_and_signals_arrive() -> None:
    installs = [command for run in said("RUN") for command in re.split(r"&&|;", run) if "pip install" in command]
    assert len(installs) == 2
    assert all("--no-cache-dir" in command for command in installs)
    assert not [run for run in said("RUN") if "apt-get" in run and "rm -rf /var/lib/apt/lists" not in run]
    order = [name for name, _ in instructions()]
    user = said("USER")[-1]
    # A number, so that a cluster can see that it is not root.
    assert int(user) > 0
    assert any(f"useradd --create-home --uid {user} " in run for run in said("RUN"))
    assert max(i for i, name in enumerate(order) if name == "RUN") < order.index("USER") < order.index("ENTRYPOINT")
    assert json.loads(said("ENTRYPOINT")[0]) == ["robustprobe"]
    assert isinstance(json.loads(said("CMD")[0]), list)


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not here")
    found = subprocess.run([program, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_only_what_the_package_needs_is_copied_and_it_is_there() -> None:
    assert not said("ADD")
    sources = [path for rest in said("COPY") for path in rest.split()[:-1]]
    assert all((ROOT / path).exists() for path in sources)
    assert set(sources) == {"pyproject.toml", "README.md", "LICENSE", "src"}
