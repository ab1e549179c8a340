"""Thousands of clients that begin and do not go on, on every listener, while others are served."""

import resource
import selectors
import socket

import pytest

from support import mqtt, process
from support.tls import LOOPBACK, Authority
from support.waiting import until
from support.websocket import request

HALF_OPEN = 400
"""Connections on each listener: six of them make thousands."""

BEGINNINGS = {
    "mqtt": mqtt.connect("slow", username="u" * 500)[:-1],
    "stomp": b"CONNECT\naccept-version:1.2\nhost:h\nlogin:",
    "http": request(1)[:-2],
    "mqtts": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "stomps": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "https": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(autouse=True)
def descriptors():
    """As many files as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def flood(ports: dict[str, int], each: int) -> list[tuple[socket.socket, bytes]]:
    """Opens connections, sends the first half of what they begin with, and keeps the rest."""
    opened = []
    for name, port in ports.items():
        beginning = BEGINNINGS[name]
        for _ in range(each):
            sock = socket.create_connection((LOOPBACK, port), timeout=10)
            sock.sendall(beginning[: len(beginning) // 2])
            opened.append((sock, beginning[len(beginning) // 2 :]))
    return opened


def ended(opened) -> int:
    """How many the broker has closed."""
    with selectors.DefaultSelector() as selector:
        for sock, _ in opened:
            selector.register(sock, selectors.EVENT_READ)
        return len(selector.select(0))


def test_healthy_clients_go_on(start_broker, pki):
    listeners = [word for name in process.TLS for word in (f"--{name}", f"{LOOPBACK}:0")]
    broker = start_broker(
        *listeners,
        **pki.settings(tls__handshake_timeout="5s"),
        limits__login_timeout="5s",
        limits__connections_per_sec=100_000,
        limits__connection_burst=100_000,
    )
    healthy = mqtt.Client.open(broker.mqtt)
    healthy.subscribe("health", qos=1)
    opened = flood({name: getattr(broker, name) for name in BEGINNINGS}, HALF_OPEN)
    until(lambda: broker.metric("polycast_half_open_connections") >= HALF_OPEN, "they are half-open")
    # While they drip a byte at a time, whoever is logged in is served, and others may log in.
    trips = 0
    for index in range(50):
        for sock, rest in opened[index::50]:
            try:
                sock.sendall(rest[index : index + 1])
            except ConnectionError:
                pass
        healthy.publish("health", b"%d" % index, qos=1)
        assert healthy.message().payload == b"%d" % index
        trips += 1
        mqtt.Client.open(broker.mqtt).disconnect()
    assert trips == 50
    until(lambda: ended(opened) == len(opened), "each of them is closed in time, drip or not", 30)
    until(lambda: broker.metric("polycast_half_open_connections") <= 1, "none is remembered")
    assert broker.metric("polycast_unauthenticated_bytes") == 0
    healthy.fence()
    for sock, _ in opened:
        sock.close()


@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_oldest_half_open_make_room_on_every_listener(start_broker, pki, name):
    arguments = ["--" + name, f"{LOOPBACK}:0"] if name in process.TLS else []
    settings = pki.settings() if arguments else {}
    broker = start_broker(*arguments, limits__connections=200, limits__connections_per_ip=200,
                          limits__half_open_percent=10, **settings)
    opened = flood({name: getattr(broker, name)}, 30)
    until(lambda: ended(opened) >= 10, "the oldest are closed, long before their time")
    newest = opened[-5:]
    assert ended(newest) == 0
    mqtt.Client.open(broker.mqtt).disconnect()
    until(lambda: broker.metric("polycast_half_open_dismissed_total") >= 10)
    for sock, _ in opened:
        sock.close()


def test_bytes_of_all_without_a_login(start_broker):
    broker = start_broker(limits__unauthenticated_size="128KiB")
    healthy = mqtt.Client.open(broker.mqtt)
    whole = mqtt.connect("x", username="u" * 50_000)
    opened = []
    for _ in range(10):
        sock = socket.create_connection((LOOPBACK, broker.mqtt), timeout=10)
        sock.sendall(whole[:40_000])
        opened.append((sock, whole[40_000:]))
    until(lambda: ended(opened) == 7, "three of them fit")
    assert ended(opened[-3:]) == 0
    until(lambda: broker.metric("polycast_unauthenticated_bytes") == 120_000)
    healthy.fence()
    # Those that are left may still log in; then they count no more.
    opened[-1][0].sendall(opened[-1][1])
    assert opened[-1][0].recv(1)[0] >> 4 == mqtt.CONNACK
    until(lambda: broker.metric("polycast_unauthenticated_bytes") == 80_000)
    for sock, _ in opened:
        sock.close()
