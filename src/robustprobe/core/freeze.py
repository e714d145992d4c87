"""Models that stay as they are while they are attacked."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock, get_ident
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

# Where a search for networks ends: so many objects, and so many items of a list.
MOST_OBJECTS, MOST_ITEMS = 2000, 100
# Their functions hold no network of the user's.
LIBRARIES = frozenset({"torch", "torchvision", "timm", "numpy", "transformers", "robustprobe", "builtins"})


@contextmanager
def frozen(function: Callable[..., Any]) -> Iterator[None]:
    """Evaluation mode and no gradients for parameters while inside; everything is put back afterwards.

    An attack needs gradients of images alone. Of a function that is no `nn.Module`, all networks that it holds are
    frozen, see `held_networks`.
    """
    networks = held_networks(function)
    modules = list({id(m): m for network in networks for m in network.modules()}.values())
    # The flag of a parameter that was made in inference mode cannot be set back outside of it.
    parameters = list({id(p): p for n in networks for p in n.parameters() if not p.is_inference()}.values())
    with _held(modules, "training"), _held(parameters, "requires_grad"):
        yield


class _Hold(NamedTuple):
    """A module or parameter whose flag is False as long as anybody needs it so, and what it was before."""

    thing: object
    before: bool
    users: int


_holds: dict[int, _Hold] = {}
_lock = Lock()


@contextmanager
def _held(things: Sequence[object], flag: str) -> Iterator[None]:
    """A flag of things is False inside. Of several threads the last to leave puts it back."""
    with _lock:
        for thing in things:
            hold = _holds.get(id(thing)) or _Hold(thing, getattr(thing, flag), 0)
            _holds[id(thing)] = hold._replace(users=hold.users + 1)
            setattr(thing, flag, False)
    try:
        yield
    finally:
        with _lock:
            for thing in things:
                hold = _holds.pop(id(thing))
                if hold.users > 1:
                    _holds[id(thing)] = hold._replace(users=hold.users - 1)
                else:
                    setattr(thing, flag, hold.before)


@contextmanager
def running_networks() -> Iterator[list[nn.Module]]:
    """The networks that run inside, which is in evaluation mode; the list is complete at the end.

    It finds those that a callable gets from where `held_networks` does not look.
    """
    found: list[nn.Module] = []
    inside: set[int] = set()
    thread = get_ident()
    with ExitStack() as stack:

        def look(module: nn.Module, arguments: Any) -> None:
            if get_ident() == thread and id(module) not in inside:
                found.append(module)
                parts = list(module.modules())
                inside.update(id(part) for part in parts)
                stack.enter_context(_held(parts, "training"))

        stack.callback(register_module_forward_pre_hook(look).remove)
        yield found


def held_networks(function: object) -> list[nn.Module]:
    """The networks that a callable can reach: itself, or those in its closure, globals, arguments and attributes.

    That is where lambdas, bound methods, partial functions and objects of a user's own class keep them.
    """
    found: list[nn.Module] = []
    seen: set[int] = set()
    waiting: list[object] = [function]
    while waiting and len(seen) < MOST_OBJECTS:
        thing = waiting.pop(0)
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            found.append(thing)
        else:
            waiting += _inside(thing)
    return found


def _inside(thing: object) -> list[object]:
    if isinstance(thing, FunctionType):
        return _of_function(thing)
    if isinstance(thing, MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, Mapping):
        return list(thing.values())[:MOST_ITEMS]
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)[:MOST_ITEMS]
    return _of_object(thing)


def _of_function(function: FunctionType) -> list[object]:
    if function.__module__ and function.__module__.partition(".")[0] in LIBRARIES and not function.__closure__:
        return []
    cells = [_content(cell) for cell in function.__closure__ or ()]
    given = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    names = set(_names(function.__code__))
    near = [function.__globals__[name] for name in names if name in function.__globals__]
    modules = [thing for thing in near if isinstance(thing, ModuleType)]
    far = [vars(module)[name] for module in modules if _is_own(module) for name in names if name in vars(module)]
    wrapped = [vars(function)["__wrapped__"]] if "__wrapped__" in vars(function) else []
    return [*cells, *given, *(t for t in near if not isinstance(t, ModuleType | type)), *far, *wrapped]


def _of_object(thing: object) -> list[object]:
    kind = type(thing)
    if isinstance(thing, type | ModuleType) or kind.__module__.partition(".")[0] in LIBRARIES:
        return [inner] if (inner := getattr(thing, "__dict__", {}).get("__wrapped__")) is not None else []
    held = list(getattr(thing, "__dict__", {}).values())
    slots: Iterable[str] = getattr(kind, "__slots__", ())
    held += [getattr(thing, name) for name in slots if isinstance(name, str) and hasattr(thing, name)]
    calls = [vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)]
    return [*held, *(call for call in calls if isinstance(call, FunctionType))]


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _is_own(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] not in LIBRARIES


def _names(code: CodeType) -> Iterator[str]:
    """Names of globals and attributes that a function uses, those of functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
