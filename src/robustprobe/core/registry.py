"""Names of things: one file in a room is one thing, called like the file.

Listing reads file names and docstrings only, so it never imports torch. Other packages add things by an entry point
in the group `robustprobe.<room>`; a user's own file is named `path/to/file.py:Class`.
"""

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Generic, TypeVar, cast

from robustprobe.core.corruption_names import ATTACK as CORRUPTION
from robustprobe.core.corruption_names import NAMES as CORRUPTION_NAMES
from robustprobe.core.errors import UserError, letters, unknown_name
from robustprobe.core.former_names import FORMER_ATTACKS
from robustprobe.core.user_code import load_attribute

T = TypeVar("T")
PACKAGE = Path(__file__).parent.parent
CONTRACT = "base"
"""The file of a room that says what its things are."""
NAMES_ELSEWHERE = MappingProxyType(
    {
        **dict.fromkeys(("autoattack", "aa", "rautoattack", "standardattack"), "ensemble"),
        **dict.fromkeys(("ifgsm", "bim", "linfpgd", "pgdlinf", "projectedgradientdescent"), "pgd"),
        **dict.fromkeys(("l2pgd", "pgdl2"), "pgd --norm l2"),
        **dict.fromkeys(("fgsm", "fgm", "ffgsm", "rfgsm"), "pgd --steps 1"),
        **dict.fromkeys(("mim", "mifgsm", "momentumiterative", "nifgsm", "vmifgsm"), "pgd --momentum 1"),
        **dict.fromkeys(("di2fgsm", "difgsm", "dim"), "pgd --input-diversity 0.5"),
        **dict.fromkeys(("tifgsm", "tim"), "pgd --translation-kernel 15"),
        **dict.fromkeys(("eotpgd", "pgdeot"), "pgd --eot-samples 10"),
        **dict.fromkeys(("apgdt", "apgdtdlr", "apgdtargeted"), "apgd:targeted-dlr"),
        **{"autopgd": "apgd", "apgdce": "apgd:ce", "apgddlr": "apgd:dlr", "apgdtce": "apgd:targeted-ce"},
        **{"squareattack": "square", "embedattack": "embed", "uap": "universal"},
        **dict.fromkeys(("cw", "carliniwagner", "cwl2", "cwlinf"), "apgd:margin"),
        **dict.fromkeys(("deepfool", "fab", "fmn", "ddn", "boundaryattack", "fabt"), "min-eps"),
        **dict.fromkeys(("hopskipjump", "hsj", "zoo", "simba", "nes", "rays", "spsa", "bandits"), "square"),
        **{name.replace("_", ""): f"{CORRUPTION}:{name}" for name in CORRUPTION_NAMES},
        **dict.fromkeys(("nothing", "none", "natural", "identity"), "clean"),
    }
)
"""What papers and other libraries call our attacks, in lower case letters and digits."""

DATASETS_ELSEWHERE = MappingProxyType(
    {
        **dict.fromkeys(("nyu", "nyud", "nyuv2", "nyudv2", "nyudepth", "nyu2"), "nyu_depth_v2"),
        **dict.fromkeys(("pascal", "pascalvoc", "voc", "pascalvoc2012", "voc12"), "voc2012"),
        **dict.fromkeys(("imagenet1k", "ilsvrc", "ilsvrc2012", "ilsvrc12", "in1k"), "imagenet"),
        **dict.fromkeys(("oxford", "oxford5k", "roxford"), "roxford5k"),
        **dict.fromkeys(("paris", "paris6k", "rparis"), "rparis6k"),
    }
)


_NUMBERED = (re.compile(r"(.*)[-_ ](\d+)"), re.compile(r"(.*?[^\W\d_])[-_ ]*(\d+)(?:[-_ ]\d+)*"))
"""`pgd-l2-20`, and `pgd20` or `pgd20-5`, whose last number is that of restarts."""


class Registry(Generic[T]):
    """The things of one room, found by file name, entry point or path.

    `dashes`: names are written with `-`, and `_` is understood too. `former` maps names of earlier versions to today's.
    `elsewhere` maps what other programs call a thing, for hints, and `number` is the option that a number behind a name
    stands for there: `steps` in `pgd-20`. `helpers` are files of the room that hold no thing.
    """

    def __init__(
        self,
        room: str,
        noun: str,
        base: str,
        *,
        dashes: bool = False,
        former: Mapping[str, str] = MappingProxyType({}),
        elsewhere: Mapping[str, str] = MappingProxyType({}),
        number: str = "",
        helpers: Collection[str] = (),
    ) -> None:
        self.room, self.noun, self.base, self.dashes = room, noun, base, dashes
        self.former, self.elsewhere, self.number = former, elsewhere, number
        self.helpers = {CONTRACT, *helpers}

    @cached_property
    def files(self) -> dict[str, Path]:
        folder = PACKAGE.joinpath(*self.room.split("."))
        found = [p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_") and p.stem not in self.helpers]
        return {self._spelled(p.stem): p for p in found}

    @cached_property
    def plugins(self) -> dict[str, EntryPoint]:
        return {e.name: e for e in entry_points(group=f"robustprobe.{self.room}")}

    def names(self) -> list[str]:
        return [*self.files, *self.plugins]

    def summary(self, name: str) -> str:
        """First line of the docstring of the file behind `name`, which is not run; empty where there is none."""
        path = self._file(name)
        if path is None:
            return ""
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        return text.split("\n", 1)[0].rstrip(".")

    def literal(self, name: str, attribute: str) -> str:
        """A string that the class behind `name` states, such as a citation; its file is not run. Empty where none."""
        path = self._file(name)
        if path is None:
            return ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and node.target.id == attribute
                and isinstance(node.value, ast.Constant)
            ):
                return str(node.value.value)
        return ""

    def get(self, name: str) -> type[T]:
        """The class behind a name, or behind `file.py:Class`.

        Raises:
            UserError: no such name, file or class, or a class of another kind.
        """
        if ".py:" in name:
            path, _, attribute = name.rpartition(":")
            return self._checked(load_attribute(Path(path), attribute), name)
        if name in self.plugins:
            return self._checked(self.plugins[name].load(), name)
        if (spelled := self._spelled(name)) in self.files:
            return self._only_class(importlib.import_module(f"robustprobe.{self.room}.{self.files[spelled].stem}"))
        if name in self.former:
            raise UserError(f"{self.noun} '{name}' is called '{self.former[name]}' now; write {self.former[name]}.")
        raise unknown_name(self.noun, name, self.names(), {**self._numbered(name), **self.elsewhere})

    def _numbered(self, name: str) -> dict[str, str]:
        """What a name with a number behind it is called here, by its letters and digits: `pgd --steps 20`."""
        own = {letters(one): one for one in self.names()} | dict(self.elsewhere)
        for parts in (pattern.fullmatch(name) for pattern in _NUMBERED) if self.number else ():
            known = own.get(letters(parts[1]), "") if parts else ""
            if parts and known and f" --{self.number}" not in known:
                return {letters(name): f"{known} --{self.number} {parts[2]}"}
        return {}

    def _file(self, name: str) -> Path | None:
        return self.files.get(name) or _plugin_file(self.plugins.get(name))

    def _spelled(self, name: str) -> str:
        return name.replace("_", "-") if self.dashes else name

    def _only_class(self, module: ModuleType) -> type[T]:
        found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
        concrete = [c for c in found if issubclass(c, self._base_class()) and not inspect.isabstract(c)]
        if len(concrete) != 1:
            raise TypeError(f"{module.__name__} must define one {self.noun}, it defines {len(concrete)}")
        return cast(type[T], concrete[0])

    def _checked(self, thing: object, name: str) -> type[T]:
        base = self._base_class()
        if not (inspect.isclass(thing) and issubclass(thing, base)):
            raise UserError(
                f"{name} is not a subclass of {base.__module__}.{base.__name__}; derive it from that class."
            )
        if inspect.isabstract(thing):
            missing = ", ".join(sorted(getattr(thing, "__abstractmethods__", ())))
            raise UserError(f"{name} is unfinished: it does not fill {missing}.")
        return cast(type[T], thing)

    def _base_class(self) -> type:
        module, _, attribute = self.base.partition(":")
        return cast(type, getattr(importlib.import_module(module), attribute))


def registered_name(name: str) -> str:
    """The name that results call a thing by: as it was registered, or `my.py:Class` without folders."""
    path, colon, attribute = name.rpartition(":")
    return f"{Path(path).name}:{attribute}" if colon and path.endswith(".py") else name


def own_name(kind: type) -> str:
    """The default name of a class: of its file in robustprobe, else its own in lower case."""
    own = kind.__module__.startswith("robustprobe.")
    return kind.__module__.rpartition(".")[2] if own else kind.__name__.lower()


def _plugin_file(plugin: EntryPoint | None) -> Path | None:
    """The file of a plug-in, found without running it."""
    if plugin is None:
        return None
    try:
        spec = importlib.util.find_spec(plugin.module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


attacks: "Registry[object]" = Registry(
    "attacks",
    "attack",
    "robustprobe.attacks:Attack",
    dashes=True,
    former=FORMER_ATTACKS,
    elsewhere=NAMES_ELSEWHERE,
    number="steps",
)
datasets: "Registry[object]" = Registry(
    "datasets", "dataset", "robustprobe.datasets:Dataset", elsewhere=DATASETS_ELSEWHERE
)
tasks: "Registry[object]" = Registry("tasks", "task", "robustprobe.tasks:Task")
sources: "Registry[object]" = Registry("encoders", "encoder source", "robustprobe.encoders:Source")
executors: "Registry[object]" = Registry(
    "evaluation.executors", "executor", "robustprobe.evaluation.executors:Executor", helpers=("cluster", "work")
)
trackers: "Registry[object]" = Registry("trackers", "tracker", "robustprobe.trackers:Tracker")
defences: "Registry[object]" = Registry("defences", "defence", "robustprobe.defences:Defence", dashes=True)
