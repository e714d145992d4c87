"""A user's own code counts with all it imports, and two files of one name stay apart."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from robustprobe.core.errors import UserError
from robustprobe.core.user_code import load_attribute, source_digest

pytestmark = pytest.mark.unit

HERE = "import os, sys; sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))\n"
DIGEST = "from robustprobe.core.user_code import *; import sys; from pathlib import Path; "
DIGEST += "print(source_digest(load_attribute(Path(sys.argv[1]), 'Mine')))"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def mine(path: Path) -> type:
    return cast(type, load_attribute(path, "Mine"))


def digest(path: Path) -> str:
    """As a new process sees it."""
    done = subprocess.run([sys.executable, "-c", DIGEST, str(path)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "imports",
    [
        "import tools",
        "from tools import size",
        "def later():\n    from tools import size",
        "import importlib\ntools = importlib.import_module('tools')",
        "try:\n    import tools as t\nexcept ImportError:\n    pass",
    ],
)
def test_every_way_to_import_a_helper_counts(tmp_path: Path, imports: str) -> None:
    write(tmp_path, my=f"{HERE}{imports}\nclass Mine: pass\n", tools="size = 1\n")
    before = digest(tmp_path / "my.py")
    assert digest(tmp_path / "my.py") == before
    (tmp_path / "tools.py").write_text("size = 2\n")
    assert digest(tmp_path / "my.py") != before


VALUE = "from robustprobe.core.user_code import *; import sys; from pathlib import Path; "
VALUE += "print(load_attribute(Path(sys.argv[1]), 'Mine').value)"


def value(path: Path) -> str:
    """What a class says of itself in a new process, which writes bytecode if any does."""
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", VALUE, str(path)], capture_output=True, text=True, env=environment)
    return done.stdout.strip() or done.stderr


def test_a_helper_beside_the_file_is_found_as_it_is_beside_a_script(tmp_path: Path) -> None:
    write(tmp_path / "one", my="from tools import size\nclass Mine: value = size\n", tools="size = 1\n")
    write(tmp_path / "two", my="from tools import size\nclass Mine: value = size\n", tools="size = 2\n")
    before = list(sys.path)
    kinds = [mine(tmp_path / place / "my.py") for place in ("one", "two")]
    assert [kind.value for kind in kinds] == [1, 2]  # type: ignore[attr-defined]
    assert sys.path == before
    assert "tools" not in sys.modules or source_digest(kinds[0]) != source_digest(kinds[1])


@pytest.mark.parametrize("edited", ["my", "tools"])
def test_an_edit_of_the_same_size_and_time_runs(tmp_path: Path, edited: str) -> None:
    write(tmp_path, my=f"{HERE}from tools import size\nclass Mine: value = (1, size)\n", tools="size = 1\n")
    seen = [(value(tmp_path / "my.py"), digest(tmp_path / "my.py"))]
    path = tmp_path / f"{edited}.py"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("1", "2"))
    os.utime(path, ns=times)
    seen.append((value(tmp_path / "my.py"), digest(tmp_path / "my.py")))
    assert seen[0][0] == "(1, 1)"
    assert seen[1][0] == {"my": "(2, 1)", "tools": "(1, 2)"}[edited]
    assert seen[0][1] != seen[1][1]


def test_helpers_of_helpers_and_packages_count(tmp_path: Path) -> None:
    write(tmp_path, my=f"{HERE}from nets.blocks import one\nclass Mine: pass\n")
    write(tmp_path / "nets", __init__="", blocks="from .deep import more\none = more\n", deep="more = 1\n", unused="")
    before = digest(tmp_path / "my.py")
    (tmp_path / "nets" / "unused.py").write_text("1")
    assert digest(tmp_path / "my.py") == before
    (tmp_path / "nets" / "deep.py").write_text("more = 2\n")
    assert digest(tmp_path / "my.py") != before
    (tmp_path / "nets" / "deep.py").write_text("more = 1\n")
    (tmp_path / "nets" / "__init__.py").write_text("\n")
    assert digest(tmp_path / "my.py") != before


def test_helpers_of_one_name_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    text = f"{HERE}import prep\nfrom sub import inner\nclass Mine: size = (prep.SIZE, inner.SIZE)\n"
    for name, size in (("a", 1), ("b", 2)):
        write(tmp_path / name, my=text, prep=f"SIZE = {size}\n")
        write(tmp_path / name / "sub", __init__="", inner=f"SIZE = {size}\n")
    first, second = mine(tmp_path / "a" / "my.py"), mine(tmp_path / "b" / "my.py")
    assert (vars(first)["size"], vars(second)["size"]) == ((1, 1), (2, 2))
    assert source_digest(first) != source_digest(second)
    assert source_digest(second) == digest(tmp_path / "b" / "my.py")


def test_a_late_import_that_would_find_the_other_folder_is_refused(tmp_path: Path) -> None:
    text = f"{HERE}import prep\nclass Mine:\n    def size(self):\n        import prep\n        return prep.SIZE\n"
    for name, size in (("a", 1), ("b", 2)):
        write(tmp_path / name, my=text, prep=f"SIZE = {size}\n")
    mine(tmp_path / "a" / "my.py")
    with pytest.raises(UserError, match=r"imports prep inside a function.*rename"):
        mine(tmp_path / "b" / "my.py")


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_a_file_runs_once_whoever_imports_it(tmp_path: Path, order: tuple[str, str]) -> None:
    log = tmp_path / "log"
    said = f"open({str(log)!r}, 'a').write(__name__ + '\\n')\n"
    write(tmp_path, one=f"{said}class Mine: pass\n", two=f"{HERE}{said}import one\nclass Mine(one.Mine): pass\n")
    kinds = {name: mine(tmp_path / f"{name}.py") for name in order}
    (tmp_path / "link.py").symlink_to(tmp_path / "one.py")
    assert mine(tmp_path / "link.py") is kinds["one"]
    assert issubclass(kinds["two"], kinds["one"])
    assert len(log.read_text().split()) == 2


def test_a_file_that_was_imported_before_is_not_run_again(tmp_path: Path) -> None:
    write(tmp_path, imported_before="class Mine: pass\n")
    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module("imported_before")
    assert mine(tmp_path / "imported_before.py") is module.Mine


def test_code_counts_as_it_was_run_until_it_is_loaded_again(tmp_path: Path) -> None:
    write(tmp_path, loaded_twice="class Mine: size = 1\n")
    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module("loaded_twice")
    before = source_digest(module.Mine)
    (tmp_path / "loaded_twice.py").write_text("class Mine: size = 3333\n")
    assert source_digest(module.Mine) == before
    importlib.reload(module)
    assert source_digest(module.Mine) != before


def test_a_class_without_a_file_counts_by_its_code() -> None:
    def typed(text: str) -> type:
        space: dict[str, type] = {}
        exec(f"class Typed:\n    {text}", {"__name__": "nowhere"}, space)
        return space["Typed"]

    one, same, other = (typed(f"def size(self): return {n}") for n in (1, 1, 2))
    assert source_digest(one) == source_digest(same) != source_digest(other)


def test_installed_modules_and_our_own_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, plain="class Mine: pass\n", installed="import torch, os, robustprobe\nclass Mine: pass\n")
    text = (tmp_path / "plain.py").read_bytes()
    import hashlib

    alone = hashlib.sha256(hashlib.sha256(text).hexdigest().encode()).hexdigest()
    assert source_digest(mine(tmp_path / "plain.py")) == alone
    text = (tmp_path / "installed.py").read_bytes()
    alone = hashlib.sha256(hashlib.sha256(text).hexdigest().encode()).hexdigest()
    assert source_digest(mine(tmp_path / "installed.py")) == alone
