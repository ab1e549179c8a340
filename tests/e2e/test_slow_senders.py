"""Thousands of clients that begin and do not go on, on every listener, while others are served."""

import json
import resource
import selectors
import socket
import ssl

import httpx
import pytest

from support import mqtt, process, tokens
from support.tls import LOOPBACK, Authority, connect, context
from support.waiting import PATIENCE, until
from support.websocket import TEXT, WebSocket, exchange, frame, request

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


FAIR_SHARE = 64 * 1024
"""Bytes that one connection without a login may cost."""


def memory(broker) -> int:
    """Bytes of memory that the broker has in use."""
    with open(f"/proc/{broker.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


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
    before = memory(broker)
    opened = flood({name: getattr(broker, name) for name in BEGINNINGS}, HALF_OPEN)
    until(lambda: broker.metric("polycast_half_open_connections") >= HALF_OPEN, "they are half-open")
    assert memory(broker) - before < len(opened) * FAIR_SHARE
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
    # The request for the figures is a stranger's too, until it is read.
    until(lambda: broker.metric("polycast_unauthenticated_bytes") == 0, "nothing of theirs is held")
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


# --- beyond the first bytes: each stage that a connection can stop in -----------------------------


def behind_tls(listener, sends=b""):
    def open_one(broker, pki):
        sock = connect(getattr(broker, listener), context(pki.ca))
        sock.sendall(sends)
        return sock

    return open_one


def as_web_socket(*protocols):
    return lambda broker, _: WebSocket(broker.http, *protocols).sock


def behind_a_request(broker, _):
    """Nobody knows whose it is, although a request was answered: half of another follows."""
    sock = socket.create_connection((LOOPBACK, broker.http), timeout=PATIENCE)
    exchange(sock, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    sock.sendall(b"GET /healthz HTTP/1.1\r\nHos")
    return sock


def reads_nothing(sock):
    """It asks, and does not read the answers."""
    sock.setblocking(False)
    try:
        while True:
            sock.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    except (BlockingIOError, ssl.SSLWantWriteError):
        return sock


UNREAD = {
    "http behind an answer": lambda broker, _: reads_nothing(socket.create_connection((LOOPBACK, broker.http))),
    "https behind an answer": lambda broker, pki: reads_nothing(connect(broker.https, context(pki.ca))),
}


def behind_a_wrong_login(broker, _):
    """The API says 401, and keeps the connection for another try."""
    sock = socket.create_connection((LOOPBACK, broker.http), timeout=PATIENCE)
    answer, _ = exchange(sock, b"GET /api/v1/clients HTTP/1.1\r\nHost: x\r\nX-API-Key: wrong\r\n\r\n")
    assert answer.status == 401
    return sock


STAGES = {
    "mqtts behind the handshake": behind_tls("mqtts"),
    "mqtts in CONNECT": behind_tls("mqtts", mqtt.connect("x", username="u" * 500)[:200]),
    "stomps behind the handshake": behind_tls("stomps"),
    "stomps in CONNECT": behind_tls("stomps", b"CONNECT\nlogin:"),
    "https behind the handshake": behind_tls("https"),
    "https in the request": behind_tls("https", request(1)[:-2]),
    "mqtt over ws": as_web_socket("mqtt"),
    "stomp over ws": as_web_socket("v12.stomp"),
    "json over ws": as_web_socket("polycast.json.v1"),
    "http behind a request": behind_a_request,
    "http behind a wrong login": behind_a_wrong_login,
}


def start_for(start_broker, pki, **settings):
    listeners = [word for name in process.TLS for word in (f"--{name}", f"{LOOPBACK}:0")]
    return start_broker(*listeners, **pki.settings(), auth__methods="token", auth__token_secret=tokens.SECRET, **settings)


def has_ended(sock) -> bool:
    """Reads what is there; whether the end is."""
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
        return True
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


LOGINS = {
    "mqtts": (behind_tls("mqtts"), mqtt.connect("x", username="u" * 50_000)),
    "stomp": (lambda broker, _: socket.create_connection((LOOPBACK, broker.stomp)),
              b"CONNECT\naccept-version:1.2\nhost:h\n" + (b"x:" + b"y" * 7000 + b"\n") * 7),
    "json over ws": (as_web_socket("polycast.json.v1"), frame(TEXT, b'{"type":"connect","token":"' + b"x" * 50_000)),
    "stomp over ws": (as_web_socket("v12.stomp"), frame(TEXT, b"CONNECT\n" + (b"x:" + b"y" * 7000 + b"\n") * 7)),
}


@pytest.mark.parametrize("way", LOGINS)
def test_bytes_without_a_login_count_in_every_protocol(start_broker, pki, way):
    broker = start_for(start_broker, pki, limits__unauthenticated_size="128KiB")
    begin, whole = LOGINS[way]
    opened = []
    for number in range(1, 11):
        opened.append(begin(broker, pki))
        opened[-1].sendall(whole[:40_000])
        until(lambda: broker.metric("polycast_unauthenticated_bytes") == 40_000 * min(number, 3))
    until(lambda: sum(map(has_ended, opened)) == 7, "three of them fit")
    assert not any(map(has_ended, opened[-3:]))
    for sock in opened:
        sock.close()


@pytest.mark.parametrize("stage", STAGES)
def test_the_oldest_make_room_at_every_stage(start_broker, pki, stage):
    broker = start_for(start_broker, pki, limits__connections=200, limits__connections_per_ip=200,
                       limits__half_open_percent=10)
    healthy = mqtt.Client.open(broker.mqtt, username="x", password=tokens.token(permissions=[{"allow": "all"}]))
    opened = [STAGES[stage](broker, pki) for _ in range(40)]
    until(lambda: sum(map(has_ended, opened)) >= 15, "the oldest are closed, long before their time")
    assert not has_ended(opened[-1])
    assert broker.metric("polycast_half_open_dismissed_total") >= 15
    healthy.fence()
    for sock in opened:
        sock.close()


@pytest.mark.parametrize("stage", STAGES | UNREAD)
def test_every_stage_ends(start_broker, pki, stage):
    broker = start_for(start_broker, pki, limits__login_timeout="500ms", limits__slow_consumer_timeout="500ms")
    sock = (STAGES | UNREAD)[stage](broker, pki)
    until(lambda: is_alone(broker), "it is closed")
    sock.close()


def is_alone(broker) -> bool:
    """Whether the connection that asks is the only one."""
    return json.loads(broker.fetch("/healthz")[1])["connections"] == 1


def test_who_asks_from_time_to_time_is_not_the_first_to_go(start_broker):
    """A probe keeps its connection while others come and do nothing; so does who has a key."""
    broker = start_broker(limits__connections=200, limits__connections_per_ip=200, limits__half_open_percent=10)
    probe, manager = (socket.create_connection((LOOPBACK, broker.http), timeout=PATIENCE) for _ in range(2))
    exchange(manager, b"GET /api/v1/clients HTTP/1.1\r\nHost: localhost\r\n\r\n")
    silent = []
    for _ in range(15):
        silent += [socket.create_connection((LOOPBACK, broker.http), timeout=PATIENCE) for _ in range(4)]
        assert exchange(probe, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[0].status == 200
    until(lambda: sum(map(has_ended, silent)) >= 30)
    assert exchange(manager, b"GET /api/v1/clients HTTP/1.1\r\nHost: localhost\r\n\r\n")[0].status == 200
    for sock in [probe, manager, *silent]:
        sock.close()


def test_nothing_of_strangers_is_on_disk(start_broker, pki):
    """Whatever someone without a login sends, the data directory stays as it is."""
    broker = start_for(start_broker, pki)
    healthy = mqtt.Client.open(broker.mqtt, username="x", password=tokens.token(permissions=[{"allow": "all"}]))

    def on_disk():
        folder = broker.log.parent / "data"
        return {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}

    healthy.publish("before", b"x", qos=1, retain=True)
    before = on_disk()
    written = broker.metric("polycast_storage_written_bytes_total")
    for number in range(30):
        client = mqtt.Client.plain(broker.mqtt)
        client.send(mqtt.connect(f"stranger-{number}", clean=False, username="x" * 1000, password="wrong",
                                 props={"session_expiry": 600}, will=mqtt.Will("t", b"w" * 1000, 1, True))
                    + mqtt.publish("t", b"p" * 1000, 1, 1, retain=True))
        assert client.expect(mqtt.CONNACK).reason == 0x86
    for stage in STAGES.values():
        stage(broker, pki).close()
    assert httpx.post(broker.http_url("/api/v1/publish"), json={"topic": "t", "retain": True}).status_code == 401
    assert on_disk().keys() == before.keys()
    assert broker.metric("polycast_storage_written_bytes_total") == written
    assert broker.metric("polycast_sessions") == 1
    healthy.fence()


def test_a_body_is_not_read_of_somebody_unknown(start_broker, tmp_path):
    """Neither with a key that is none, nor with a signature that names none."""
    (tmp_path / "key").write_text("the-secret-of-the-access-key")
    broker = start_broker(api__aws_keys=f"AKIAEXAMPLE publish file:{tmp_path / 'key'}")
    strangers = [
        "x-api-key: wrong",
        "authorization: AWS4-HMAC-SHA256 Credential=AKIANOBODY/20260101/eu-west-1/execute-api/aws4_request, "
        "SignedHeaders=host, Signature=00",
        "authorization: AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20200101/eu-west-1/execute-api/aws4_request, "
        "SignedHeaders=host, Signature=00\r\nx-amz-date: 20200101T000000Z",
        "authorization: AWS4-HMAC-SHA256 nonsense",
    ]
    for header in strangers:
        with socket.create_connection((LOOPBACK, broker.http), timeout=PATIENCE) as sock:
            # All but the body: the answer does not wait for it.
            answer, _ = exchange(sock, f"POST /@connections/abc HTTP/1.1\r\nHost: localhost\r\n{header}\r\n"
                                       "Content-Length: 1000000\r\n\r\n".encode())
            assert answer.status in (401, 403), header

