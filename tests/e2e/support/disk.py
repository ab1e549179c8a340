"""Gives back the disk that the brokers of a test had.

A broker makes its journal's files in advance, 24 MiB of them. Hundreds of tests with brokers of their own would
fill a small disk before the last one is done, so the data of a broker that has ended goes with its test. What a
failed test leaves is kept, to be looked at.
"""

import pathlib
import shutil
import subprocess

import pytest

_data: list[tuple[subprocess.Popen, pathlib.Path]] = []
_failed = pytest.StashKey[bool]()


def note(process: subprocess.Popen, folder: pathlib.Path) -> None:
    """Says that this process keeps its data in this folder."""
    _data.append((process, folder))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        item.stash[_failed] = True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item):
    yield
    ended = [entry for entry in _data if entry[0].poll() is not None]
    _data[:] = [entry for entry in _data if entry not in ended]
    if item.stash.get(_failed, False):
        return
    in_use = {folder for _, folder in _data}
    for folder in {folder for _, folder in ended} - in_use:
        shutil.rmtree(folder, ignore_errors=True)
