"""TLS on every listener: real certificates, real clients, and handshakes that go wrong."""

import asyncio
import json
import os
import queue
import signal
import socket
import ssl
import stat
import subprocess
import time
import urllib.request

import paho.mqtt.client as paho
import pytest
import stomp
import websockets.asyncio.client

from support import mqtt, process
from support.tls import LOOPBACK, Authority, Openssl, connect, context, mqtt_client
from support.waiting import PATIENCE, unique, until
from support.websocket import exchange, request

LISTENERS = [word for name in process.TLS for word in (f"--{name}", f"{LOOPBACK}:0")]


@pytest.fixture(scope="session", params=["polycast", "openssl"])
def authority(request, tmp_path_factory):
    """An authority whose certificates one program made."""
    folder = tmp_path_factory.mktemp(request.param)
    return (Authority if request.param == "polycast" else Openssl)(folder)


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """One authority for all tests that do not care who made it."""
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="session")
def tls_broker(pki, tmp_path_factory):
    broker = process.start(tmp_path_factory.mktemp("tls"), *LISTENERS, **pki.settings())
    yield broker
    broker.stop()


def failed(broker, reason: str) -> None:
    name = "polycast_tls_handshakes_failed_total"
    until(lambda: broker.metric(name, reason=reason) >= 1, f"{name} {reason}")


# --- real clients -------------------------------------------------------------------------------


def paho_round_trip(port: int, ca, version, client=None, transport="tcp", path=None) -> None:
    inbox, connected = queue.Queue(), queue.Queue()
    user = paho.Client(
        paho.CallbackAPIVersion.VERSION2, unique("paho"), protocol=version, transport=transport
    )
    pair = dict(zip(("certfile", "keyfile"), map(str, client))) if client else {}
    user.tls_set(ca_certs=str(ca), **pair)
    if path:
        user.ws_set_options(path=path)
    user.on_message = lambda _c, _d, message: inbox.put(message)
    user.on_connect = lambda _c, _d, _f, reason, _p: connected.put(reason)
    user.on_subscribe = lambda c, _d, _m, _r, _p: c.publish("tls/paho", b"x" * 200_000, qos=1)
    user.connect("localhost", port)
    user.loop_start()
    assert not connected.get(timeout=PATIENCE).is_failure
    user.subscribe("tls/paho", qos=1)
    assert inbox.get(timeout=PATIENCE).payload == b"x" * 200_000
    user.disconnect()
    user.loop_stop()


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5])
def test_paho(tls_broker, pki, version):
    paho_round_trip(tls_broker.mqtts, pki.ca, version)
    paho_round_trip(tls_broker.https, pki.ca, version, transport="websockets", path="/mqtt")
    assert tls_broker.metric("polycast_connections_opened_total", protocol="mqtt") >= 2


@pytest.mark.parametrize("wanted", ["optional", "required"])
def test_client_certificates(start_broker, authority, stranger, wanted):
    settings = authority.settings(tls__client_auth=wanted, tls__client_ca=authority.ca)
    broker = start_broker(*LISTENERS, **settings)
    anna = authority.client("anna")
    paho_round_trip(broker.mqtts, authority.ca, paho.MQTTv5, client=anna)
    # One of another authority is refused, whether one is needed or not.
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(broker.mqtts, context(authority.ca, stranger.client("anna"))).recv(1)
    failed(broker, "bad_certificate")
    if wanted == "optional":
        paho_round_trip(broker.mqtts, authority.ca, paho.MQTTv5)
        return
    for port in (broker.mqtts, broker.stomps, broker.https):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            # In TLS 1.3 a client learns of the refusal at its first read.
            connect(port, context(authority.ca)).recv(1)
    failed(broker, "no_certificate")


def test_an_expired_client_certificate_is_refused(start_broker, tmp_path):
    authority = Openssl(tmp_path)
    old = authority.sign("old", "/CN=old", "email:old@example.org", "200101000000Z", "210101000000Z")
    settings = authority.settings(tls__client_auth="required", tls__client_ca=authority.ca)
    broker = start_broker(*LISTENERS, **settings)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(broker.mqtts, context(authority.ca, old)).recv(1)
    failed(broker, "bad_certificate")
    mqtt_client(broker.mqtts, context(authority.ca, authority.client("fresh"))).disconnect()


def test_a_revocation_list_is_kept_to_and_read_again(start_broker, tmp_path):
    authority = Openssl(tmp_path)
    anna, bob = (context(authority.ca, authority.client(name)) for name in ("anna", "bob"))
    settings = authority.settings(tls__client_auth="required", tls__client_ca=authority.ca,
                                  tls__client_crl=authority.revoke("anna"), tls__reload_interval="200ms")
    broker = start_broker(*LISTENERS, **settings)

    def is_refused(using):
        try:
            mqtt_client(broker.mqtts, using).disconnect()
        except (ssl.SSLError, ConnectionError, mqtt.Closed):
            return True
        return False

    assert is_refused(anna)
    failed(broker, "bad_certificate")
    staying = mqtt_client(broker.mqtts, bob)
    authority.revoke("bob")
    until(lambda: is_refused(bob), "the new list is read")
    staying.fence()
    # A file that is no list leaves the last one in force.
    (tmp_path / "crl.pem").write_text("nothing")
    until(lambda: "tls.client_crl" in broker.log_text(), "the log says so")
    assert is_refused(bob)
    mqtt_client(broker.mqtts, context(authority.ca, authority.client("carol"))).disconnect()


def test_an_expired_server_certificate_is_served_and_complained_about(start_broker, tmp_path):
    authority = Openssl(tmp_path)
    authority.sign("expired", "/CN=localhost", "DNS:localhost", "200101000000Z", "210101000000Z")
    broker = start_broker(*LISTENERS, **authority.settings("expired"))
    until(lambda: "has expired" in broker.log_text(), "the log says so")
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(broker.mqtts, context(authority.ca))
    failed(broker, "refused_by_client")


def test_stomp_py(tls_broker, pki):
    messages, errors = queue.Queue(), queue.Queue()

    class Listener(stomp.ConnectionListener):
        def on_message(self, frame):
            messages.put(frame.body)

        def on_error(self, frame):
            errors.put(frame)

    connection = stomp.Connection12([("localhost", tls_broker.stomps)], reconnect_attempts_max=1)
    connection.set_ssl([("localhost", tls_broker.stomps)], ca_certs=str(pki.ca))
    connection.set_listener("", Listener())
    connection.connect(wait=True)
    connection.subscribe("/topic/tls/stomp", id="0")
    connection.send("/topic/tls/stomp", "hello")
    assert messages.get(timeout=PATIENCE) == "hello"
    connection.disconnect()


def test_websockets(tls_broker, pki):
    url = f"wss://localhost:{tls_broker.https}/ws"

    async def log_in():
        using = context(pki.ca)
        async with websockets.asyncio.client.connect(url, ssl=using, subprotocols=["polycast.json.v1"]) as ws:
            await ws.send(json.dumps({"type": "connect", "id": "1"}))
            assert json.loads(await asyncio.wait_for(ws.recv(), PATIENCE))["type"] == "connected"
            gauge = tls_broker.metric("polycast_connections", protocol="json", transport="wss")
            assert gauge >= 1

    asyncio.run(log_in())


def test_https(tls_broker, pki):
    url = f"https://localhost:{tls_broker.https}/healthz"
    with urllib.request.urlopen(url, context=context(pki.ca), timeout=10) as answer:
        assert json.load(answer)["status"] == "ok"


@pytest.mark.parametrize("scheme, path", [("mqtts", ""), ("stomps", ""), ("wss", "/ws"), ("wss", "/mqtt")])
def test_polycast_s_own_clients(tls_broker, pki, scheme, path, tmp_path):
    port = {"mqtts": tls_broker.mqtts, "stomps": tls_broker.stomps, "wss": tls_broker.https}[scheme]
    url, topic = f"{scheme}://localhost:{port}{path}", unique("cli")
    publish = [process.polycast(), "publish", url, "-t", topic, "-m", "hello", "-r"]
    trusting = ["--cafile", str(pki.ca)]

    def run(*command):
        environment = process.plain_environment()
        return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)

    done = run(*publish, *trusting)
    assert done.returncode == 0, done.stderr
    read = run(process.polycast(), "subscribe", url, "-t", topic, "-C", "1", "-W", "10", *trusting)
    assert read.stdout.strip() == "hello", read.stderr
    strange = run(*publish)
    assert strange.returncode == 1 and "TLS handshake failed" in strange.stderr


def test_polycast_s_own_client_shows_a_certificate(start_broker, pki):
    settings = pki.settings(tls__client_auth="required", tls__client_ca=pki.ca)
    broker = start_broker(*LISTENERS, **settings)
    certificate, key = pki.client("cli")
    command = [process.polycast(), "publish", f"mqtts://localhost:{broker.mqtts}", "-t", "t", "-m", "x"]
    command += ["--cafile", str(pki.ca)]
    assert subprocess.run(command, capture_output=True, timeout=30).returncode == 1
    shown = subprocess.run(
        [*command, "--cert", str(certificate), "--key", str(key)], capture_output=True, text=True, timeout=30
    )
    assert shown.returncode == 0, shown.stderr


# --- reload -------------------------------------------------------------------------------------


def serial(port: int, ca) -> str:
    sock = connect(port, context(ca))
    number = sock.getpeercert()["serialNumber"]
    sock.close()
    return number


@pytest.mark.parametrize("how", ["the files change", "SIGHUP"])
def test_a_new_certificate_is_used_and_connections_stay(start_broker, tmp_path, how):
    authority = Authority(tmp_path)
    interval = "200ms" if how == "the files change" else "1h"
    broker = start_broker(*LISTENERS, **authority.settings(tls__reload_interval=interval))
    staying = mqtt_client(broker.mqtts, context(authority.ca))
    staying.subscribe("t", qos=1)
    first = serial(broker.mqtts, authority.ca)
    authority.server("server", "--force")
    if how == "SIGHUP":
        assert serial(broker.mqtts, authority.ca) == first
        broker.signal(signal.SIGHUP)
    until(lambda: serial(broker.mqtts, authority.ca) != first, "the new certificate is shown")
    assert serial(broker.https, authority.ca) == serial(broker.mqtts, authority.ca)
    staying.publish("t", b"still here", qos=1)
    assert staying.message().payload == b"still here"
    assert broker.metric("polycast_tls_reloads_total", result="ok") == 1


def test_a_broken_pair_leaves_the_old_one(start_broker, tmp_path):
    authority = Authority(tmp_path)
    broker = start_broker(*LISTENERS, **authority.settings(tls__reload_interval="200ms"))
    first = serial(broker.mqtts, authority.ca)
    certificate, _ = authority.pair("server")
    other, _ = authority.server("other")
    os.replace(other, certificate)
    until(lambda: broker.metric("polycast_tls_reloads_total", result="failed") == 1, "it was noticed")
    assert "the certificate stays as it was" in broker.log_text()
    assert serial(broker.mqtts, authority.ca) == first
    authority.server("server", "--force")
    until(lambda: serial(broker.mqtts, authority.ca) != first, "a good pair is used again")


def test_the_end_of_the_certificate_is_a_metric_and_a_warning(start_broker, tmp_path):
    authority = Authority(tmp_path)
    authority.server("brief", "--days", "20")
    broker = start_broker(*LISTENERS, **authority.settings("brief"))
    at = broker.metric("polycast_cert_expiry_timestamp_seconds")
    assert 19 < (at - time.time()) / 86400 <= 20
    until(lambda: "ends in 19 days" in broker.log_text(), "a warning")


# --- what is refused ----------------------------------------------------------------------------


def test_tls_1_2_is_refused_by_default(start_broker, tls_broker, pki):
    old = context(pki.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(tls_broker.mqtts, old)
    failed(tls_broker, "incompatible")
    lenient = start_broker(*LISTENERS, **pki.settings(tls__minimum_version="1.2"))
    client = mqtt_client(lenient.mqtts, old)
    assert client.stream.version() == "TLSv1.2"
    client.fence()
    assert mqtt_client(lenient.mqtts, context(pki.ca)).stream.version() == "TLSv1.3"


def test_alpn(tls_broker, pki):
    for port, name in ((tls_broker.mqtts, "mqtt"), (tls_broker.https, "http/1.1"), (tls_broker.stomps, "stomp")):
        sock = connect(port, context(pki.ca, alpn=["h2", name]))
        assert sock.selected_alpn_protocol() == name
        assert connect(port, context(pki.ca)).selected_alpn_protocol() is None
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(tls_broker.mqtts, context(pki.ca, alpn=["http/1.1"])).recv(1)
    failed(tls_broker, "no_protocol")


def test_another_authority_is_not_trusted(tls_broker, stranger):
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(tls_broker.mqtts, context(stranger.ca))
    failed(tls_broker, "refused_by_client")


@pytest.mark.parametrize("raw", [mqtt.connect("x"), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70000])
def test_plain_bytes_on_a_tls_port(tls_broker, raw):
    for port in (tls_broker.mqtts, tls_broker.stomps, tls_broker.https):
        with socket.create_connection((LOOPBACK, port), timeout=PATIENCE) as sock:
            try:
                sock.sendall(raw)
                while sock.recv(65536):
                    pass
            except ConnectionError:
                pass
    failed(tls_broker, "not_tls")


def test_a_handshake_that_never_ends(start_broker, pki):
    broker = start_broker(*LISTENERS, **pki.settings(tls__handshake_timeout="300ms"))
    for port in (broker.mqtts, broker.stomps, broker.https):
        with socket.create_connection((LOOPBACK, port), timeout=PATIENCE) as sock:
            sock.sendall(b"\x16\x03\x01\x02\x00")
            assert sock.recv(1) == b""
    until(lambda: broker.metric("polycast_tls_handshakes_failed_total", reason="timeout") == 3)
    # And a login that never comes, behind a handshake that does.


def test_login_timeout_behind_a_handshake(start_broker, pki):
    broker = start_broker(*LISTENERS, **pki.settings(limits__login_timeout="300ms"))
    for port in (broker.mqtts, broker.stomps, broker.https):
        sock = connect(port, context(pki.ca))
        while sock.recv(65536):
            pass


def test_a_client_that_leaves_without_a_word_has_its_will_published(tls_broker, pki):
    witness = mqtt_client(tls_broker.mqtts, context(pki.ca))
    topic = unique("will")
    witness.subscribe(topic)
    leaver = mqtt_client(tls_broker.mqtts, context(pki.ca), will=mqtt.Will(topic, b"gone"))
    leaver.stream.close()
    assert witness.message().payload == b"gone"


def test_a_reader_that_stops_is_cut_off_and_nobody_waits(start_broker, pki):
    """TLS holds bytes of its own: they must not hide that the socket takes nothing."""
    broker = start_broker(*LISTENERS, **pki.settings(limits__slow_consumer_timeout="1s"))
    slow = mqtt_client(broker.mqtts, context(pki.ca))
    slow.subscribe("flood")
    fast = mqtt_client(broker.mqtts, context(pki.ca))
    for _ in range(400):
        fast.publish("flood", b"x" * 50_000)
    fast.fence()
    until(lambda: broker.metric("polycast_connections_closed_total", reason="slow_consumer") == 1)
    until(lambda: broker.metric("polycast_connections", transport="tls") == 1)


def test_large_messages_both_ways(tls_broker, pki):
    client = mqtt_client(tls_broker.mqtts, context(pki.ca))
    topic = unique("large")
    client.subscribe(topic, qos=1)
    for size in (1, 16_383, 16_384, 16_385, 65_536, 900_000):
        client.publish(topic, bytes(size), qos=1)
        assert len(client.message().payload) == size


# --- origins ------------------------------------------------------------------------------------

SUBPROTOCOLS = ["mqtt", "v12.stomp", "v11.stomp", "v10.stomp", "stomp", "polycast.json.v1", "json", None]


def upgrade(port: int, ca, subprotocol, *headers: str) -> int:
    sock = connect(port, context(ca)) if ca else socket.create_connection((LOOPBACK, port), timeout=PATIENCE)
    offered = [subprotocol] if subprotocol else None
    answer, _ = exchange(sock, request(port, offered, extra=list(headers)))
    sock.close()
    return answer.status


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
def test_pages_of_other_sites_are_refused_before_the_upgrade(tls_broker, pki, subprotocol):
    for port, ca, own, other in (
        (tls_broker.http, None, "http", "https"),
        (tls_broker.https, pki.ca, "https", "http"),
    ):
        origin = f"Origin: {own}://127.0.0.1:{port}"
        assert upgrade(port, ca, subprotocol, origin) == 101
        assert upgrade(port, ca, subprotocol) == 101
        for evil in ("https://evil.example", f"{own}://127.0.0.1:{port + 1}", "null", f"{own}://127.0.0.1.evil.example"):
            cookie = "Cookie: session=stolen"
            assert upgrade(port, ca, subprotocol, f"Origin: {evil}", cookie) == 403, evil
    # A page without TLS may be anybody's: it is not of the same site as a port with TLS.
    plain = f"Origin: http://127.0.0.1:{tls_broker.https}"
    assert upgrade(tls_broker.https, pki.ca, subprotocol, plain) == 403


# --- polycast cert ------------------------------------------------------------------------------


def test_keys_are_for_their_owner_alone(pki):
    pki.client("owner")
    for file in ("ca", "owner"):
        certificate, key = pki.pair(file)
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(certificate.stat().st_mode) & 0o077 == 0o044 or os.umask(0o022) != 0o022
    text = subprocess.run(["openssl", "verify", "-CAfile", str(pki.ca), str(pki.pair("owner")[0])], capture_output=True)
    assert text.returncode == 0, text.stderr


def test_a_listener_without_a_certificate_does_not_start(tmp_path):
    done = subprocess.run(
        [process.polycast(), "serve", "--mqtts", "127.0.0.1:0", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        env=process.plain_environment(),
    )
    assert done.returncode == 1
    assert "there is no certificate for it" in done.stderr and "polycast cert server" in done.stderr
