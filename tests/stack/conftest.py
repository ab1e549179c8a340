"""Fixtures: the stack, started once."""

import pytest
import stack as local


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    running = local.start(tmp_path_factory.mktemp("stack"))
    yield running
    running.stop()
