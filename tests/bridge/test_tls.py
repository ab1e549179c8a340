"""Every wire of the bridge over TLS, against servers that ask for it: NATS, the broker, and the bridge's own port."""

import asyncio
import http.client
import json
import shutil
import ssl
import urllib.error
import urllib.request

import boto3
import nats as client
import pytest
import servers
from answering import Answer, Answering
from certificates import Authority, NKey, credentials
from servers import until
from support import process
from test_http import EVENTS, KEYS
from test_sinks import publish, sink, subscribed


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def nats_with(tmp_path, authority):
    """Starts NATS servers over TLS with settings of a test's own; who connects needs a certificate too if wanted."""
    started = []

    def start(settings="", verify=False):
        cert, key = authority.issue("nats")
        file = tmp_path / "nats.conf"
        verifying = f'ca_file: "{authority.file}", verify: true' if verify else ""
        file.write_text(f'tls {{ cert_file: "{cert}", key_file: "{key}", {verifying} }}\n{settings}\n')
        port = process.free_port()
        program = shutil.which("nats-server", path="/usr/sbin:/usr/local/bin:/usr/bin")
        command = [program, "-a", servers.LOOPBACK, "-p", str(port), "-c", str(file)]
        started.append(servers.Server(command, port, tmp_path / "nats.log").start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


def source(server, *lines):
    settings = ['[sources.events]\nkind = "nats"\nsubjects = ["tls.>"]', f'servers = ["tls://127.0.0.1:{server.port}"]']
    return "\n".join([*settings, *lines])


def send(server, authority, **options):
    async def publish():
        context = ssl.create_default_context(cafile=authority.file)
        if cert := options.pop("cert", None):
            context.load_cert_chain(*cert)
        connection = await client.connect(f"tls://127.0.0.1:{server.port}", tls=context, **options)
        await connection.publish("tls.a", b"secret")
        await connection.close()

    asyncio.run(publish())


def test_nats_by_an_nkey_over_tls(nats_with, authority, bridge, subscriber):
    ours = NKey("user")
    server = nats_with(f"authorization {{ users: [ {{ nkey: {ours.public} }}, {{ user: fn, password: pw }} ] }}")
    reader = subscriber("tls/#")
    bridge(source(server, f'ca_file = "{authority.file}"', f'nkey_seed = "{ours.seed}"'))
    send(server, authority, user="fn", password="pw")
    assert reader.next().payload == b"secret"


def test_nats_by_a_credentials_file_over_tls(tmp_path, nats_with, authority, bridge, subscriber):
    settings, file, user = credentials(tmp_path)
    server = nats_with(settings)
    reader = subscriber("tls/#")
    bridge(source(server, f'ca_file = "{authority.file}"', f'credentials_file = "{file}"'))
    send(server, authority, **user)
    assert reader.next().payload == b"secret"


def test_nats_by_a_certificate_and_a_password(nats_with, authority, bridge, subscriber):
    server = nats_with("authorization { user: fn, password: pw }", verify=True)
    cert, key = authority.issue("bridge")
    reader = subscriber("tls/#")
    own = [f'ca_file = "{authority.file}"', f'cert_file = "{cert}"', f'key_file = "{key}"']
    bridge(source(server, *own, 'username = "fn"', 'password = "pw"'))
    send(server, authority, cert=(cert, key), user="fn", password="pw")
    assert reader.next().payload == b"secret"


def test_nats_of_another_authority_is_not_trusted(tmp_path, nats_with, bridge):
    server = nats_with()
    other = Authority(tmp_path, "other")
    running = bridge(source(server, f'ca_file = "{other.file}"'), start=False)
    with pytest.raises(AssertionError, match="says where it listens"):
        running.start(patience=3)
    assert "cannot open source=\"events\"" in running.log_text() and "certificate" in running.log_text()


def test_a_broker_that_asks_for_tls_and_a_certificate(tmp_path, authority, nats, make_bridge):
    """Mosquitto, as any other broker that speaks MQTT 5."""
    cert, key = authority.issue("mosquitto")
    plain, secure = process.free_port(), process.free_port()
    file = tmp_path / "mosquitto.conf"
    file.write_text(
        f"listener {plain} 127.0.0.1\nallow_anonymous true\nlistener {secure} 127.0.0.1\ncertfile {cert}\nkeyfile {key}\n"
        f"cafile {authority.file}\nrequire_certificate true\nuse_identity_as_username true\nuser root\n"
    )
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
    broker = servers.Server([program, "-c", str(file)], secure, tmp_path / "mosquitto.log").start()
    try:
        reader = servers.Subscriber(plain, "tls/#")
        own_cert, own_key = authority.issue("bridge")
        text = f'[sources.events]\nkind = "nats"\nsubjects = ["tls.>"]\nservers = ["nats://127.0.0.1:{nats.port}"]\n'
        running = make_bridge(secure, text, start=False)
        config = running.config.read_text()
        secured = f'"mqtts://localhost:{secure}"\nca_file = "{authority.file}"\ncert_file = "{own_cert}"\nkey_file = "{own_key}"'
        running.config.write_text(config.replace(f'"mqtt://127.0.0.1:{secure}"', secured))
        running.start()
        until(lambda: running.fetch("/readyz")[0] == 200, "the broker is connected")

        async def publish():
            connection = await client.connect(f"nats://127.0.0.1:{nats.port}")
            for number in range(20):
                await connection.publish("tls.a", str(number).encode())
            await connection.close()

        asyncio.run(publish())
        assert [int(message.payload) for message in reader.take(20)] == list(range(20))
        broker.kill()
        until(lambda: running.fetch("/readyz")[0] == 503, "it is noticed")
        broker.start()
        until(lambda: running.fetch("/readyz")[0] == 200, "it comes back over TLS")
        reader.close()
        running.stop()
    finally:
        broker.stop()


def test_the_port_for_events_over_tls(authority, bridge, subscriber):
    """boto3 and an API destination, each with the certificate checked."""
    cert, key = authority.issue("bridge")
    reader = subscriber("events/#")
    secured = EVENTS.replace("[http]", f'[http]\ncert_file = "{cert}"\nkey_file = "{key}"')
    running = bridge(secured + KEYS + '[sources.events.auth]\napi_key = "k"\n')
    url = f"https://localhost:{running.http}/"
    options = {"region_name": "eu-west-1", "aws_access_key_id": "AKPOLY", "aws_secret_access_key": "hush"}
    events = boto3.client("events", endpoint_url=url, verify=str(authority.file), **options)
    answer = events.put_events(Entries=[{"Source": "shop", "DetailType": "Paid", "Detail": "{}"}])
    assert answer["FailedEntryCount"] == 0
    assert reader.next().topic == "events/shop"
    event = {"version": "0", "id": "1", "source": "api", "detail-type": "t", "account": "1", "time": "2024-01-01T00:00:00Z"}
    body = json.dumps(event | {"region": "r", "resources": [], "detail": {"a": 1}}).encode()
    headers = {"x-api-key": "k", "content-type": "application/json"}
    context = ssl.create_default_context(cafile=authority.file)
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=servers.PATIENCE, context=context) as answered:
        assert answered.status == 200
    assert reader.next().topic == "events/api"
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(url, timeout=servers.PATIENCE)
    with pytest.raises((urllib.error.URLError, OSError, http.client.HTTPException)):
        urllib.request.urlopen(url.replace("https", "http"), timeout=servers.PATIENCE)


def test_a_webhook_over_tls(authority, broker, bridge):
    calls = []

    def hook(call):
        calls.append(call.body)
        return Answer()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("hook"))
    with Answering(hook, tls=context) as server:
        running = bridge(sink("hook", "webhook", f'url = "https://localhost:{server.port}/"', f'ca_file = "{authority.file}"'))
        subscribed(running, "hook")
        publish(broker.mqtt, ("orders/1", "one", {}))
        until(lambda: calls == [b"one"], "it has come")
