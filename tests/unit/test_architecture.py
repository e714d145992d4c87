"""The package keeps its own rules: names, private files, tasks that nobody else names, words."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import robustprobe
from robustprobe.core.registry import tasks

pytestmark = pytest.mark.unit

SOURCE = Path(robustprobe.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
# An attack made for one task names it, once; results of earlier versions do not say how their tasks are shown.
MAY_NAME_TASKS = ("tasks/", "losses/", "datasets/", "report/paper/", "core/former_names.py")
UNCLEAR = ("doubters", "the company", "faster road", "to be had here", "nobody asked", "an image each", "gone about")


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            yield path.relative_to(SOURCE).as_posix(), node


def test_no_two_classes_have_one_name() -> None:
    homes = defaultdict(list)
    for file, node in nodes():
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            homes[node.name].append(file)
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_nobody_imports_a_private_file_of_another_room() -> None:
    found = []
    for file, node in nodes():
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robustprobe."):
            room, *rest = (node.module or "").split(".")[1:]
            private = any(part.startswith("_") for part in [*rest, *(alias.name for alias in node.names)])
            if private and room != file.partition("/")[0]:
                found.append(f"{file}:{node.lineno} {node.module}")
    assert found == []


def home_of(module: str, name: str) -> Path | None:
    """The file that an import takes a name from, through the packages that hand it on; None for a package itself."""
    path = SOURCE.parent.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / f"{name}.py"):
        if file.is_file():
            return file
    face = path / "__init__.py"
    if not face.is_file():
        return None
    for node in ast.walk(ast.parse(face.read_text())):
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return home_of(str(node.module), name)
    return None


def arrows() -> dict[Path, set[Path]]:
    """By file the files that it imports, in functions and for types too."""
    found: dict[Path, set[Path]] = defaultdict(set)
    for file, node in nodes():
        if not isinstance(node, ast.ImportFrom) or file.endswith("__init__.py"):
            continue
        if (node.module or "").startswith("robustprobe"):
            homes = {home_of(str(node.module), alias.name) for alias in node.names}
            found[SOURCE / file] |= {home for home in homes if home and home != SOURCE / file}
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    found = arrows()
    assert len(found) > 200
    TopologicalSorter(found).prepare()
    run, cells = SOURCE / "evaluation/run.py", SOURCE / "evaluation/cells.py"
    assert cells in found[run]
    found[cells].add(run)
    with pytest.raises(CycleError):
        TopologicalSorter(found).prepare()


def test_a_task_is_named_in_its_own_file_alone() -> None:
    found = []
    for path in FILES:
        file = path.relative_to(SOURCE).as_posix()
        if file.startswith(MAY_NAME_TASKS):
            continue
        tree = ast.parse(path.read_text())
        access = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "access"
        }
        found += [
            f"{file}:{node.lineno} {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in tasks.files and node not in access
        ]
    assert found == []


def test_every_sanity_check_is_explained() -> None:
    page = (SOURCE.parents[1] / "docs/concepts/sanity-checks.md").read_text(encoding="utf-8")
    names = {
        str(node.args[0].value)
        for _, node in nodes()
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "SanityCheck"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(names) >= 14
    assert sorted(name for name in names if f"\n## {name}\n" not in page) == []


def test_at_most_two_modules_lie_in_the_root() -> None:
    assert {path.name for path in SOURCE.glob("*.py")} <= {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_words_that_a_reader_does_not_know_are_not_used(path: Path) -> None:
    text = path.read_text()
    assert [word for word in UNCLEAR if word in text] == []
