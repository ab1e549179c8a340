"""Fixtures: a broker that many tests share, and brokers of a test's own."""

import pytest

from support import mqtt, process
from support.disk import pytest_runtest_makereport, pytest_runtest_teardown  # noqa: F401


def pytest_addoption(parser):
    parser.addoption(
        "--against",
        choices=["polycast", "mosquitto"],
        default="polycast",
        help="mosquitto: run only the tests marked `standard`, against Debian's mosquitto",
    )


def pytest_collection_modifyitems(config, items):
    if config.getoption("--against") == "polycast":
        return
    chosen = [item for item in items if item.get_closest_marker("standard")]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _start(config, folder, *arguments, **settings):
    if config.getoption("--against") == "mosquitto":
        return process.start_mosquitto(folder)
    return process.start(folder, *arguments, **settings)


@pytest.fixture(scope="session")
def broker(request, tmp_path_factory):
    """One broker with the default settings for all tests that only need topics of their own."""
    broker = _start(request.config, tmp_path_factory.mktemp("broker"))
    yield broker
    broker.stop()


@pytest.fixture
def start_broker(request, tmp_path_factory):
    """Starts brokers with settings of the test's own."""
    started = []

    def start(*arguments, **settings):
        broker = _start(request.config, tmp_path_factory.mktemp("own"), *arguments, **settings)
        started.append(broker)
        return broker

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture
def own_broker(start_broker):
    """A broker that no other test uses."""
    return start_broker()


@pytest.fixture
def client(request, broker):
    """Opens raw MQTT clients on the shared broker; they are closed afterwards."""
    opened = []

    def open_client(version=5, port=None, **options):
        client = mqtt.Client.open(port or broker.mqtt, version, **options)
        opened.append(client)
        return client

    yield open_client
    for client in opened:
        client.close()
