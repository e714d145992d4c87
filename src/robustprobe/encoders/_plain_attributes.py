"""Numbers and words in the modules of a user's own classes: what an encoder computes may depend on them."""

import os
from argparse import Namespace
from dataclasses import fields, is_dataclass
from enum import Enum
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from robustprobe.core.arguments import plain
from robustprobe.core.user_code import is_user_class

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_NOTHING = object()


def plain_attributes(network: nn.Module, leave_out: frozenset[str] = frozenset()) -> str:
    """The attributes of the user's own modules of a network that are numbers and words, also in lists, dictionaries and
    dataclasses; empty where there are none.

    Absolute paths do not count: the same weights may lie elsewhere.

    Args:
        leave_out: names of attributes that say nothing of the network.
    """
    found = {}
    for name, module in network.named_modules():
        if is_user_class(type(module)):
            own = {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE | leave_out}
            if kept := _read(own):
                found[name] = kept
    return str(found) if found else ""


def _read(value: Any) -> Any:
    """A value with only what is plain in it; `_NOTHING` where it is something else."""
    value = plain(value)
    if isinstance(value, Namespace | SimpleNamespace):
        value = vars(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, dict):
        parts = ((str(key), _read(part)) for key, part in value.items())
        return {key: part for key, part in sorted(parts, key=itemgetter(0)) if part is not _NOTHING}
    if isinstance(value, list | tuple):
        return [part for part in map(_read, value) if part is not _NOTHING]
    if isinstance(value, str):
        return _NOTHING if os.path.isabs(value) else value
    return value if value is None or isinstance(value, bool | int | float | Enum | torch.dtype) else _NOTHING
