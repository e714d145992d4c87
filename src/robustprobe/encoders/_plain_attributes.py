"""Numbers and words in the modules of a user's own classes: what an encoder computes may depend on them."""

from pathlib import Path

import torch
from torch import nn

from robustprobe.core.arguments import plain
from robustprobe.core.user_code import is_user_class

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def plain_attributes(network: nn.Module, leave_out: frozenset[str] = frozenset()) -> str:
    """The attributes of the user's own modules of a network that are numbers, words or lists of them; empty where there
    are none.

    Paths do not count: the same weights may lie elsewhere.

    Args:
        leave_out: names of attributes that say nothing of the network.
    """
    found = {}
    for name, module in network.named_modules():
        if is_user_class(type(module)):
            own = {key: plain(value) for key, value in vars(module).items() if key not in _OF_EVERY_MODULE | leave_out}
            if kept := {key: value for key, value in sorted(own.items()) if _is_plain(value)}:
                found[name] = kept
    return str(found) if found else ""


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, str):
        return not _exists(value)
    return isinstance(value, bool | int | float | torch.dtype)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False
