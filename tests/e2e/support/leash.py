"""Nothing that a test has started outlives it, however the tests end: Ctrl-C, a failure in a fixture, SIGKILL.

A guard, a process of its own, holds the other end of a pipe. It is told whom to watch over, and when the pipe closes,
because whoever held it is gone, it ends those that are still there: by SIGTERM, and by SIGKILL if that is not enough.
`PR_SET_PDEATHSIG` would do it without a guard, but it counts the end of the thread that started a process.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

PATIENCE = 10.0
"""Seconds between SIGTERM and SIGKILL."""

_guard: subprocess.Popen | None = None


def hold(process: subprocess.Popen) -> subprocess.Popen:
    """Lets a process end with this one at the latest."""
    global _guard
    if _guard is None or _guard.poll() is not None:
        _guard = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
    _guard.stdin.write(f"{process.pid} {_born(process.pid)}\n".encode())
    _guard.stdin.flush()
    return process


def _born(pid: int) -> str:
    """When a process began; a number that another process has got since does not name it. Empty if it is gone."""
    try:
        state, *rest = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else rest[18]


def _there(held: list[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(pid, born) for pid, born in held if born and _born(pid) == born]


def _end(held: list[tuple[int, str]], number: signal.Signals) -> None:
    for pid, _ in _there(held):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _watch() -> None:
    held = []
    for line in sys.stdin:
        pid, _, born = line.strip().partition(" ")
        held.append((int(pid), born))
    _end(held, signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while _there(held) and time.monotonic() < end:
        time.sleep(0.05)
    _end(held, signal.SIGKILL)


if __name__ == "__main__":
    _watch()
