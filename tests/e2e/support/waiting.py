"""Waiting for conditions. Nothing here sleeps for a fixed time and hopes."""

import itertools
import time

PATIENCE = 30.0
"""Seconds that anything may take before a test gives up; far more than it does take."""

_numbers = itertools.count(1)


def until(condition, what: str = "", patience: float = PATIENCE):
    """Calls `condition` until it returns something true, and returns that."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"did not happen within {patience} s: {what or condition}")
        time.sleep(0.005)


def unique(prefix: str) -> str:
    """A name that no other test uses on the same broker."""
    return f"{prefix}-{next(_numbers)}"
