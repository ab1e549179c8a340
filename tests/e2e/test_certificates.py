"""A client certificate as a login: who it names may do what the rules say, through every listener."""

import http.client
import json
import os
import socket
import ssl
import struct
import subprocess

import pytest
import websockets.sync.client

from support import mqtt, process, stomp
from support.tls import LOOPBACK, Openssl, connect, context, mqtt_client
from support.waiting import PATIENCE, until

LISTENERS = [word for name in process.TLS for word in (f"--{name}", f"{LOOPBACK}:0")]
RULES = [{"allow": ["publish", "subscribe"], "topics": ["of/%u"], "methods": ["certificate"]}]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Openssl(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["required", "optional"])
def broker(request, start_broker, authority):
    return start(start_broker, authority, request.param)


def start(start_broker, authority, wanted, **more):
    settings = authority.settings(tls__client_auth=wanted, tls__client_ca=authority.ca, auth__methods="certificate")
    return start_broker(*LISTENERS, **settings, access__rules=json.dumps(RULES), **more)


def by_mqtt(version):
    def may(broker, using, user):
        client = mqtt_client(broker.mqtts, using, version, username="root")
        granted = client.subscribe(f"of/{user}", "of/root").reasons
        client.disconnect()
        refused = 0x87 if version == 5 else 0x80
        assert granted[1] == refused, "what it calls itself says nothing"
        return granted[0] == 0

    return may


def by_stomp(broker, using, user):
    client = stomp.Client(connect(broker.stomps, using), "1.2")
    client.login(login="root", passcode="x")
    client.send("SUBSCRIBE", {"destination": f"/topic/of/{user}", "id": "1", "receipt": "r"})
    answer = client.receive()
    client.close()
    return answer.command == "RECEIPT"


def by_json(broker, using, user):
    with websockets.sync.client.connect(
        f"wss://localhost:{broker.https}/ws", subprotocols=["polycast.json.v1"], ssl=using
    ) as socket_:
        for frame in ({"type": "connect", "id": 1}, {"type": "subscribe", "id": 2, "topic": f"of/{user}"}):
            socket_.send(json.dumps(frame))
            answer = json.loads(socket_.recv(timeout=PATIENCE))
        return answer["type"] != "error"


def by_http(broker, using, user):
    connection = http.client.HTTPSConnection("localhost", broker.https, context=using, timeout=PATIENCE)
    body = json.dumps({"topic": f"of/{user}", "data": 1})
    connection.request("POST", "/api/v1/publish", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status in (200, 202, 401, 403), answer.status
    return answer.status < 300


WAYS = {"mqtt 5": by_mqtt(5), "mqtt 3.1.1": by_mqtt(4), "stomp": by_stomp, "json": by_json, "http": by_http}


def test_the_common_name_is_the_user(broker, authority):
    anna = context(authority.ca, authority.client("anna"))
    for name, may in WAYS.items():
        assert may(broker, anna, "anna"), name
        assert not may(broker, anna, "bob"), name
    assert broker.metric("polycast_authentications_total", method="certificate") >= len(WAYS)


def test_an_alternative_name_is_the_user(start_broker, authority):
    broker = start(start_broker, authority, "required", tls__client_name="san")
    anna = context(authority.ca, authority.client("anna"))
    for name, may in WAYS.items():
        assert may(broker, anna, "anna@example.org"), name
        assert not may(broker, anna, "anna"), name


def test_without_one_nobody_is_let_in(start_broker, authority):
    broker = start(start_broker, authority, "optional")
    client = mqtt.Client(connect(broker.mqtts, context(authority.ca)), 5)
    client.send(mqtt.connect("c", username="anna"))
    assert client.expect(mqtt.CONNACK).reason == 0x87
    plain = mqtt.Client.plain(broker.mqtt)
    plain.send(mqtt.connect("c", username="anna"))
    assert plain.expect(mqtt.CONNACK).reason == 0x87
    assert not by_http(broker, context(authority.ca), "anna")


# --- what TLS is not, whatever is allowed -----------------------------------------------------------


def hello(version: int, extra: int = 0) -> bytes:
    """A ClientHello of TLS 1.0 to 1.2, with a suite of its time and so many bytes of padding."""
    extensions = struct.pack(">HH", 21, extra) + bytes(extra) if extra else b""
    suites = struct.pack(">HHHH", 0xC013, 0xC014, 0x002F, 0x000A)
    body = struct.pack(">H", version) + os.urandom(32) + b"\0" + struct.pack(">H", len(suites)) + suites + b"\x01\0"
    body += struct.pack(">H", len(extensions)) + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    records = [message[at : at + 16384] for at in range(0, len(message), 16384)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(record)) + record for record in records)


@pytest.mark.parametrize(("version", "extra"), [(0x0301, 0), (0x0302, 0), (0x0303, 0), (0x0303, 16_000), (0x0303, 65_000)])
def test_old_versions_old_suites_and_large_greetings_are_refused(start_broker, authority, version, extra):
    raw = hello(version, extra)
    broker = start_broker(*LISTENERS, **authority.settings(tls__minimum_version="1.2"))
    for port in (broker.mqtts, broker.stomps, broker.https):
        with socket.create_connection((LOOPBACK, port), timeout=PATIENCE) as sock:
            sock.sendall(raw)
            answer = b""
            try:
                while more := sock.recv(4096):
                    answer += more
            except ConnectionError:
                pass
            assert answer[:1] in (b"", b"\x15"), "an alert, if anything"
    until(lambda: broker.metric("polycast_tls_handshakes_failed_total") == 3, "they are counted")
    assert broker.metric("polycast_tls_handshakes_total") == 0


def test_there_is_no_renegotiation(start_broker, authority):
    """A client that asks for it has no other handshake, and the time of its login goes on."""
    settings = authority.settings(tls__minimum_version="1.2", limits__login_timeout="1s")
    broker = start_broker(*LISTENERS, **settings)
    command = ["openssl", "s_client", "-connect", f"{LOOPBACK}:{broker.mqtts}", "-tls1_2", "-CAfile", str(authority.ca)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as asked:
        until(lambda: broker.metric("polycast_tls_handshakes_total") == 1, "it has shaken hands")
        asked.stdin.write("R\n")
        asked.stdin.flush()
        assert asked.wait(PATIENCE) != 0
        assert "RENEGOTIATING" in asked.stderr.read()
    assert broker.metric("polycast_tls_handshakes_total") == 1
    old = context(authority.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    mqtt_client(broker.mqtts, old).disconnect()
