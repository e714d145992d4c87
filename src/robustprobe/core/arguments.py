"""Types of what public functions are called with, checked against their annotations before any work starts."""

import inspect
from collections.abc import Callable, Iterator, Mapping, MappingView, Sequence, Set
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin

from robustprobe.core.errors import UserError
from robustprobe.core.former_names import FORMER_KEYS

P = ParamSpec("P")
R = TypeVar("R")
MOST_SHOWN = 40
"""Characters of a value that a message shows."""
_WORDS: dict[Any, str] = {
    **{str: "text", int: "a whole number", float: "a number", bool: "True or False", Path: "a path", NoneType: "None"}
}


def checked_types(*own: str, **wanted: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Arguments of a function as its annotations say; NumPy's and torch's single numbers become Python's.

    Args:
        own: parameters that the function checks by itself, because it takes more than the annotation says.
        wanted: what to give for a parameter, for the message; by default the annotation in words.

    Raises:
        UserError: an argument of another type: what came and what to give.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        checked = [p for p in signature.parameters.values() if p.name not in own and p.kind not in variable]
        rest = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_POSITIONAL]

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                for former in FORMER_KEYS.keys() & kwargs.keys():
                    raise UserError(f"{former} is called {FORMER_KEYS[former]} now.") from None
                # Python's own error for an argument too many or too few names the function.
                return function(*args, **kwargs)
            given = bound.arguments
            for one in checked:
                if one.name in given:
                    given[one.name] = _checked(one.name, given[one.name], one.annotation, wanted.get(one.name))
            for one in rest:
                parts = enumerate(given.get(one.name, ()))
                given[one.name] = tuple(
                    _checked(f"{one.name}[{n}]", part, one.annotation, wanted.get(one.name)) for n, part in parts
                )
            return function(*bound.args, **bound.kwargs)

        return called

    return decorated


def plain(value: Any) -> Any:
    """A number of NumPy's or torch's as Python's; anything else as it is."""
    if getattr(value, "ndim", None) != 0 or not callable(getattr(value, "item", None)):
        return value
    try:
        return value.item()
    except (RuntimeError, TypeError, ValueError):
        return value


def came(value: object) -> str:
    """What came, in words: text, numbers and None as they are written, anything else by its type."""
    value = plain(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, str | int | float):
        text = repr(value)
        return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"
    return _with_article(type(value).__name__)


class _Misfit(NamedTuple):
    """The part of an argument that does not fit: its place, such as `[1]`, and itself."""

    place: str
    value: object


def _checked(name: str, value: Any, hint: Any, wanted: str | None) -> Any:
    found = _fitted(value, hint)
    if not isinstance(found, _Misfit):
        return found
    raise UserError(f"{name}{found.place} is {came(found.value)}; give {wanted or in_words(hint)}.")


def _fitted(value: Any, hint: Any) -> Any:
    """The value as the annotation has it, or what of it does not fit."""
    value, origin = plain(value), get_origin(hint)
    if origin in (Union, UnionType):
        return _one_of(value, get_args(hint))
    if origin is Literal:
        fits = any(type(value) is type(known) for known in get_args(hint))
    elif origin is tuple:
        return (
            _parts(value, get_args(hint)) if isinstance(value, list | tuple) or _is_array(value) else _Misfit("", value)
        )
    elif origin is not None and issubclass(origin, Sequence):
        return _list(value, get_args(hint)[0])
    elif hint is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif hint is float:
        # Fractions and decimals are numbers too, and know how to become one of Python's.
        fits = not isinstance(value, bool | str) and hasattr(value, "__float__") and not hasattr(value, "ndim")
    elif hint is Path:
        fits = hasattr(value, "__fspath__")
    elif inspect.isclass(origin or hint) and not getattr(hint, "_is_protocol", False) and hint is not Any:
        fits = isinstance(value, origin or hint)
    else:
        fits = True
    return value if fits else _Misfit("", value)


def _one_of(value: Any, hints: tuple[Any, ...]) -> Any:
    if Path in hints and isinstance(value, str) and "\0" in value:
        return _Misfit("", value)
    found = [_fitted(value, hint) for hint in hints]
    misfits = [one for one in found if isinstance(one, _Misfit)]
    if len(misfits) < len(found):
        return next(one for one in found if not isinstance(one, _Misfit))
    return max(misfits, key=lambda one: len(one.place))


def _parts(value: Any, hints: tuple[Any, ...]) -> Any:
    """A tuple of parts, each as its annotation says."""
    if len(value) != len(hints):
        return _Misfit("", value)
    found = [_fitted(part, hint) for part, hint in zip(value, hints, strict=True)]
    wrong = next(((n, one) for n, one in enumerate(found) if isinstance(one, _Misfit)), None)
    return tuple(found) if wrong is None else _Misfit(f"[{wrong[0]}]{wrong[1].place}", wrong[1].value)


def _list(value: Any, hint: Any) -> Any:
    """A list of parts: of a sequence, an array, an iterator, or a set, in the order of its text."""
    if isinstance(value, Set) and not isinstance(value, MappingView):
        value = sorted(value, key=str)
    if isinstance(value, Iterator) or _is_array(value) or hasattr(value, "__array__"):
        value = list(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray | Mapping):
        return _Misfit("", value)
    found = _parts(value, (hint,) * len(value))
    return found if isinstance(found, _Misfit) else list(found)


def _is_array(value: object) -> bool:
    return getattr(value, "ndim", 0) >= 1 and hasattr(value, "__len__")


def in_words(hint: Any) -> str:
    """An annotation in words: `text or None`, `a whole number`, `a list of numbers`."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        several = [part for hint in parts for part in _inside_list(hint)]
        words = list(dict.fromkeys(in_words(part) for part in parts if part not in several))
        return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    if origin is Literal:
        return " or ".join(repr(part) for part in parts)
    if origin is tuple:
        return f"({', '.join(in_words(part) for part in parts)})"
    if origin is not None and inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"{in_words(parts[0])} (one or several)"
    return _WORDS.get(hint) or _with_article(str(getattr(hint, "__name__", hint)))


def _inside_list(hint: Any) -> tuple[Any, ...]:
    """What a list holds, as an annotation may have it outside of the list too."""
    origin = get_origin(hint)
    if origin is tuple or not inspect.isclass(origin) or not issubclass(origin, Sequence):
        return ()
    (part,) = get_args(hint)
    return get_args(part) if get_origin(part) in (Union, UnionType) else (part,)


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOUaeio' else 'a'} {name}"
