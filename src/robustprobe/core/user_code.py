"""Python files of the user's: run once for each process, and known by their content and that of all they import."""

import ast
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple, cast, final

from robustprobe.core.errors import UserError, unknown_name

PREFIX = "robustprobe_user_"
_helpers: dict[str, dict[str, ModuleType]] = {}
"""By the name of the module of a user's file: the modules that it brought in, by the names it imports them under."""


def load_attribute(path: Path, attribute: str) -> object:
    """An attribute of a Python file. This runs the file's code, once for each process.

    Raises:
        UserError: the file or the attribute does not exist.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; give the path of a Python file, as in my.py:MyEncoder.")
    module = _executed(path.resolve())
    if not hasattr(module, attribute):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise unknown_name(f"name in {path}", attribute, names)
    return cast(object, getattr(module, attribute))


def source_digest(kind: type, *parts: type) -> str:
    """SHA-256 of the files that classes from outside robustprobe come from, and of every module these import.

    Modules of the standard library, of robustprobe (see `code_digest`) or installed in site-packages do not count,
    except those of the package of `kind`. Imports are found in the source, also those inside functions. A file counts
    as it was when it was run; a class typed into an interpreter counts by its bytecode. Empty for robustprobe's own.

    Args:
        parts: classes of what an object of `kind` holds.

    Raises:
        UserError: an import inside a function would find the module of that name of another folder.
    """
    found: set[str] = set()
    for one in {kind, *parts}:
        if one.__module__.partition(".")[0] in ("robustprobe", "builtins"):
            continue
        module = _module_of(one)
        if module is None or not _file_of(module):
            found.add(_bytecode_digest(one))
        elif one is kind or not _installed(_file_of(module)):
            found.update(_sources_below(module))
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest() if found else ""


def is_user_class(kind: type) -> bool:
    """Whether a class is neither robustprobe's nor Python's nor installed in site-packages."""
    if kind.__module__.partition(".")[0] in ("robustprobe", "builtins"):
        return False
    file = _file_of(_module_of(kind))
    return not (file and _installed(file))


def _executed(path: Path) -> ModuleType:
    """The module of a file: two files of one name in different folders are two modules."""
    if (known := _loaded_from(str(path))) is not None:
        return known
    name = f"{PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    print(f"robustprobe: running the code of {path}, with your rights.", file=sys.stderr)
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported; give a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _own_helpers(name, path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}. Correct the file.") from error
    _sources_below(module)
    return module


def _loaded_from(path: str) -> ModuleType | None:
    """The module that a file was run as, whoever ran it."""
    held = [module for modules in _helpers.values() for module in modules.values()]
    name = os.path.basename(path)
    same = (m for m in (*sys.modules.values(), *held) if str(getattr(m, "__file__", "")).endswith(name))
    return next((module for module in same if _file_of(module) == path), None)


@contextmanager
def _own_helpers(name: str, folder: Path) -> Iterator[None]:
    """While a file is run, its imports find the modules beside it first, as Python's own do for a script, and not
    another folder's of the same name.

    A file that was run before is not run again under another name.
    """
    before = dict(sys.modules)
    brought = {key for modules in _helpers.values() for key in modules}
    aside = {
        key: module
        for key, module in before.items()
        if _is_own(module) and (key in brought or _lies_beside(key.partition(".")[0], folder))
    }
    for key in aside:
        del sys.modules[key]
    finder, path = _KnownFiles(), list(sys.path)
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if sys.path[:1] == [str(folder)] and sys.path[1:] == path:
            sys.path[:] = path
        else:
            # The file changed the path itself: what it put there stays.
            sys.path.remove(str(folder))
        new = {key: m for key, m in sys.modules.items() if before.get(key) is not m or key in aside}
        _helpers[name] = {key: m for key, m in new.items() if key != name and _is_own(m)}
        sys.modules.update(aside)


@final
class _KnownFiles(MetaPathFinder):
    """Gives the module of a file that was run before, under whatever name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or not spec.origin or not spec.has_location or _installed(spec.origin):
            return None
        known = _loaded_from(os.path.realpath(spec.origin))
        if known is None or known.__name__ == "__main__":
            if isinstance(spec.loader, SourceFileLoader):
                spec.loader = _FromSource(spec.loader.name, spec.loader.path)
            return spec
        return ModuleSpec(fullname, _Again(known), origin=spec.origin)


@final
class _FromSource(SourceFileLoader):
    """Runs the source itself: Python's stored bytecode is taken for that of an edited file of the same size and second,
    while the digest is that of the source.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


@final
class _Again(Loader):
    """Hands out a module that was run already, unchanged."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.own = module, dict(vars(module))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just named the module anew.
        for key in ("__name__", "__spec__", "__loader__", "__package__", "__file__", "__path__"):
            if key in self.own:
                setattr(module, key, self.own[key])


# What a module is made of.


class ModuleImport(NamedTuple):
    """A module that may be imported, and whether only once a function is called."""

    name: str
    later: bool


class ModuleSource(NamedTuple):
    """Digest of a file, and what it imports."""

    digest: str
    imports: tuple[ModuleImport, ...]


_sources: dict[tuple[str, str], tuple[object, ModuleSource]] = {}


def _sources_below(module: ModuleType) -> list[str]:
    """Digests of the files of a module and of all modules it imports that are not installed."""
    package = module.__name__.partition(".")[0]
    own = _helpers.get(module.__name__) or next((h for h in _helpers.values() if module in h.values()), {})
    found: dict[str, str] = {}
    waiting: list[tuple[str, str, ModuleType | None]] = [(module.__name__, _file_of(module), module)]
    while waiting:
        name, file, loaded = waiting.pop()
        if not file or file in found or (_installed(file) and name.partition(".")[0] != package):
            continue
        source = _source(name, file, loaded)
        found[file] = source.digest
        for wanted in source.imports:
            helper = own.get(wanted.name) or sys.modules.get(wanted.name)
            _check_later(wanted, own, file)
            waiting.append((wanted.name, _file_of(helper) if helper else _found_file(wanted.name, file), helper))
    return list(found.values())


def _check_later(wanted: ModuleImport, own: Mapping[str, ModuleType], file: str) -> None:
    helper, other = own.get(wanted.name), sys.modules.get(wanted.name)
    if wanted.later and helper and other and _file_of(helper) != _file_of(other):
        raise UserError(
            f"{file} imports {wanted.name} inside a function, where it would find {_file_of(other)} instead of "
            f"{_file_of(helper)}. Import it at the top of the file, or rename one of the two."
        )


def _source(name: str, file: str, module: ModuleType | None) -> ModuleSource:
    """A file as it was when it was run: a module that is loaded again has another spec."""
    run = getattr(module, "__spec__", None)
    known = _sources.get((name, file))
    if module is not None and known and known[0] is run:
        return known[1]
    content = Path(file).read_bytes()
    source = ModuleSource(hashlib.sha256(content).hexdigest(), _imports(content, name, file))
    if module is not None:
        _sources[name, file] = (run, source)
    return source


def _imports(content: bytes, name: str, file: str) -> tuple[ModuleImport, ...]:
    if not file.endswith(".py"):
        return ()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return ()
    package = name if os.path.basename(file) == "__init__.py" else name.rpartition(".")[0]
    return tuple(dict.fromkeys(_imported(tree, package, False)))


def _imported(node: ast.AST, package: str, later: bool) -> Iterator[ModuleImport]:
    for name in _names(node, package):
        for end in range(1, name.count(".") + 2):
            yield ModuleImport(".".join(name.split(".")[:end]), later)
    later = later or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _imported(child, package, later)


def _names(node: ast.AST, package: str) -> list[str]:
    """Names of the modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [base, *(f"{base}.{alias.name}" for alias in node.names)] if base else []
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value.lstrip(".")]
    return []


def _found_file(name: str, importer: str) -> str:
    """The file of a module that is not loaded, without running anything; empty where there is none."""
    path: Sequence[str] | None = [os.path.dirname(importer), *sys.path]
    spec = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            return ""
        path = spec.submodule_search_locations
    return os.path.realpath(spec.origin) if spec and spec.origin and spec.has_location else ""


def _file_of(module: ModuleType | None) -> str:
    file = getattr(module, "__file__", None)
    return os.path.realpath(file) if isinstance(file, str) and os.path.isfile(file) else ""


def _is_own(module: ModuleType) -> bool:
    """Whether a module is the user's own code: neither installed nor the program that runs."""
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and module.__name__ != "__main__" and not _installed(file)


@cache
def _installed(file: str) -> bool:
    """Whether a file belongs to Python, to site-packages or to robustprobe."""
    parts = Path(file).parts
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    ours = [str(Path(__file__).parent.parent), *(sysconfig.get_path(n) for n in ("stdlib", "platstdlib"))]
    return any(os.path.realpath(file).startswith(os.path.join(os.path.realpath(folder), "")) for folder in ours)


def _lies_beside(name: str, folder: Path) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def _module_of(kind: type) -> ModuleType | None:
    """The module a class was made in: of several of one name, the one that holds it."""
    name = kind.__module__
    held = [modules[name] for modules in _helpers.values() if name in modules]
    candidates = [module for module in (sys.modules.get(name), *held) if module is not None]
    root = kind.__qualname__.partition(".")[0]
    return next((m for m in candidates if vars(m).get(root) is kind), next(iter(candidates), None))


def _bytecode_digest(kind: type) -> str:
    """Of the functions of a class without a file, by their instructions and constants."""
    state = hashlib.sha256()
    for name, value in sorted(vars(kind).items()):
        code = getattr(getattr(value, "__func__", value), "__code__", None)
        state.update(f"{name}{_instructions(code)}".encode())
    return state.hexdigest()


def _instructions(code: object) -> str:
    if not hasattr(code, "co_code"):
        return ""
    constants = [_instructions(c) or repr(c) for c in getattr(code, "co_consts", ())]
    return f"{getattr(code, 'co_code', b'').hex()}{constants}{getattr(code, 'co_names', ())}"
