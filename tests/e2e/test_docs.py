"""The documentation: its Python runs, notebooks included, its commands exist with these options, its data parse."""

import ast
import doctest
import inspect
import re
import shlex
import tomllib
import types
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

import robustprobe as rp
from robustprobe.cli import app

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
GENERATED = ("command-line.md",)
PAGES = [
    path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts and path.name not in GENERATED
]
FENCE = re.compile(
    r"^(?P<marker><!-- not run: (?P<why>[^>]+) -->\n)?```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S
)
PYTHON = ("python", "{code-cell} python")
SHELL = ("sh", "shell", "bash", "console")
# Examples are written for people with time; here the same calls are made small.
SMALL: dict[str, dict[str, Any]] = {
    "evaluate": {
        "head": {"train_limit": 32, "epochs": 1},
        "steps": 2,
        "sanity_images": 0,
        "batch_size": 4,
        "limit": 4,
    },
    "fit_probe": {"train_limit": 32, "epochs": 1},
    "harden": {"limit": 8, "epochs": 1, "steps": 1, "batch_size": 4},
    "attack": {"steps": 2},
    "minimal_eps": {"steps": 2},
}


class Block(NamedTuple):
    """A fenced block: its kind, its text, and why it is not run, where it says so."""

    kind: str
    text: str
    why: str


def blocks(page: Path, *kinds: str) -> list[Block]:
    found = [Block(m["kind"].strip(), m["text"], m["why"] or "") for m in FENCE.finditer(page.read_text("utf-8"))]
    return [block for block in found if block.kind in kinds]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def small() -> types.ModuleType:
    """The package with the same functions, each called with small options."""
    module = types.ModuleType("robustprobe")
    for name in rp.__all__:
        setattr(module, name, _small(name, getattr(rp, name)) if name in SMALL else getattr(rp, name))
    return module


def _small(name: str, function: Any) -> Any:
    def call(*given: Any, **options: Any) -> Any:
        return function(*given, **{**options, **SMALL[name]})

    return call


def run(code: str, space: dict[str, Any], where: str) -> None:
    """Run code; what a notebook would show of its last line is made too."""
    tree = ast.parse(code.replace("import robustprobe as rp\n", ""))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), space)
    if isinstance(last, ast.Expr):
        shown = eval(compile(ast.Expression(last.value), where, "eval"), space)
        for display in ("_repr_html_", "_repr_svg_", "__repr__"):
            if hasattr(shown, display) and not isinstance(shown, type):
                assert getattr(shown, display)() != ""
                break


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names that examples may use, and an empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    return {"__name__": "page", "rp": small(), "network": network, "images": images, "labels": labels}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, *PYTHON)], ids=name_of)
def test_the_python_of_a_page_runs(page: Path, space: dict[str, Any]) -> None:
    for block in blocks(page, *PYTHON):
        if not block.why:
            run(block.text, space, name_of(page))


@pytest.mark.parametrize("name", [name for name in rp.__all__ if inspect.isfunction(getattr(rp, name))])
def test_the_example_of_a_docstring_runs(name: str, space: dict[str, Any]) -> None:
    if name == "load_results":
        run('rp.evaluate("bundled:scenes", "scenes", "clean", tasks="depth", out="results")', space, name)
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(getattr(rp, name)) or "")
    assert examples
    for example in examples:
        run(example.source, space, name)


def commands(text: str) -> list[str]:
    """Commands of the program in fenced and indented code, continued lines joined."""
    whole = text.replace("\\\n", " ")
    return [line.strip() for line in re.findall(r"^ *(?:\$ )?(robustprobe .*)$", whole, re.M)]


def shown_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        shell = "".join(block.text for block in blocks(page, *SHELL))
        indented = "\n".join(line for line in FENCE.sub("", text).splitlines() if line.startswith("    "))
        found += [(name_of(page), command) for command in commands(f"{shell}\n{indented}")]
    return found


@pytest.mark.parametrize(("page", "command"), shown_commands())
def test_a_command_exists_with_these_options(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    ends = [position for position, word in enumerate(words) if word in (">", "|", "&&", ";")]
    _, _, unused, _ = app.parse_known_args(words[1 : ends[0] if ends else None])
    assert unused == [], page


def test_a_wrong_option_is_found() -> None:
    _, _, unused, _ = app.parse_known_args(["run", "quick", "--stpes", "3"])
    assert unused != []


def test_a_command_in_a_sentence_exists() -> None:
    for page in PAGES:
        prose = FENCE.sub("", page.read_text("utf-8"))
        for words in re.findall(r"`robustprobe ([a-z]+)", prose):
            assert words in app, f"{name_of(page)}: robustprobe {words}"


def test_data_in_pages_parse() -> None:
    for page in PAGES:
        for block in blocks(page, "toml"):
            assert tomllib.loads(block.text)
        for block in blocks(page, "yaml"):
            assert yaml.safe_load(block.text)


def test_a_block_that_is_not_run_says_why() -> None:
    reasons = {block.why for page in PAGES for block in blocks(page, *PYTHON) if block.why}
    assert all(re.match(r"it needs (a download|data|a GPU)", reason) for reason in reasons), reasons
