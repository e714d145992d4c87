"""The README: short, its Python runs, and its commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from robustprobe.cli import app

pytestmark = pytest.mark.e2e
TEXT = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MOST_WORDS = 900
NEEDS_A_DOWNLOAD = "timm:vit_small_patch14_dinov2.lvd142m"


def commands() -> list[str]:
    lines = re.findall(r"^    (robustprobe .*)$", TEXT, re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in lines]


def test_it_is_short() -> None:
    assert len(TEXT.split()) <= MOST_WORDS


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_with_these_options(command: str) -> None:
    _, _, unused, _ = app.parse_known_args(shlex.split(command)[1:])
    assert unused == []


def test_its_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    assert NEEDS_A_DOWNLOAD in blocks[1]
    offline = (
        blocks[1].replace(NEEDS_A_DOWNLOAD, "bundled:scenes").replace("limit=100", "limit=8, head={'train_limit': 64}")
    )
    space: dict[str, object] = {}
    exec("\n".join([blocks[0], offline]), space)
    assert "tensor(" in capsys.readouterr().out
    assert {"clean", "embed", "pgd"} <= set(getattr(space["table"], "attack"))  # noqa: B009
