"""Warnings that point at the line of the user's that asked."""

import sys
import warnings

NOT_THE_USERS = frozenset({"robustprobe", "contextlib", "functools", "torch"})
"""Packages whose frames are passed over: this one, and those whose decorators stand between it and its caller."""


def warn_user(text: str) -> None:
    """A UserWarning at the nearest line outside of the package, however deep inside it the warning arises."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in NOT_THE_USERS:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
