"""Fixtures: servers that many tests share, and bridges of a test's own."""

import itertools

import pytest
import servers
from servers import until
from support import process
from support.disk import pytest_runtest_makereport, pytest_runtest_teardown  # noqa: F401


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    server = servers.moto(tmp_path_factory.mktemp("moto"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nats(tmp_path_factory):
    server = servers.nats_server(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture
def broker(tmp_path_factory):
    broker = process.start(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.stop()


@pytest.fixture
def subscriber(broker):
    """Opens subscribers at the broker."""
    opened = []

    def subscribe(*filters, **options):
        options.setdefault("client_id", f"reader-{len(opened)}")
        reader = servers.Subscriber(options.pop("port", broker.mqtt), *filters, **options)
        opened.append(reader)
        return reader

    yield subscribe
    for reader in opened:
        reader.close()


@pytest.fixture
def make_bridge(tmp_path_factory):
    """Makes bridges with a configuration; they are stopped afterwards, in good order."""
    made = []
    numbers = itertools.count()

    def make(mqtt_port, text, start=True, name=None):
        folder = tmp_path_factory.mktemp("bridge")
        config = folder / "bridge.toml"
        config.write_text(
            f'name = "{name or f"bridge-{next(numbers)}"}"\nlog = "info,bridge=debug"\nstop_grace = "5s"\n{text}\n'
            f'[admin]\nlisten = "127.0.0.1:0"\n[broker]\nurl = "mqtt://127.0.0.1:{mqtt_port}"\nreconnect_max = "500ms"\n'
        )
        bridge = servers.Bridge(folder, config, folder / "bridge.log")
        made.append(bridge)
        return bridge.start() if start else bridge

    yield make
    for bridge in made:
        bridge.stop()


@pytest.fixture
def bridge(broker, make_bridge):
    """Starts a bridge to the broker and waits until it may take what comes in."""

    def connected(text, start=True, **options):
        running = make_bridge(broker.mqtt, text, start=start, **options)
        if start:
            until(lambda: running.fetch("/readyz")[0] == 200, "the bridge is connected to the broker")
        return running

    return connected
