"""Trackers: other programs that are told of a run's numbers as they come. One file is one tracker; `base.py` is the
contract.
"""

from robustprobe.trackers._guarded import GuardedTrackers
from robustprobe.trackers.base import TrackedNumber, Tracker, check_library, load_tracker

__all__ = ["GuardedTrackers", "TrackedNumber", "Tracker", "check_library", "load_tracker"]
