"""Revoked credentials and bans through the HTTP API, with clients of every protocol that are there at that moment."""

import socket
import time

import httpx
import pytest

from support import addresses, json_client, mqtt, process, stomp, tokens
from support.waiting import unique, until
from support.websocket import WebSocket

KEY = "e2e-api-key-0123456789"
SETTINGS = {"auth__methods": "token", "auth__token_secret": tokens.SECRET, "access__unmatched": "allow"}


def start(folder, *arguments, **settings):
    (folder / "key").write_text(KEY)
    return process.start(folder, *arguments, **SETTINGS, **settings, api__keys=f"ops manage file:{folder / 'key'}")


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    broker = start(tmp_path_factory.mktemp("protection"))
    yield broker
    broker.stop()


def api(broker):
    return httpx.Client(base_url=broker.http_url("/api/v1"), timeout=20, headers={"x-api-key": KEY})


def post(broker, path, **fields):
    with api(broker) as client:
        answer = client.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed(broker, name):
    rows, cursor = [], ""
    with api(broker) as client:
        while cursor is not None:
            page = client.get(f"/{name}", params={"limit": 2, "cursor": cursor}).json()
            rows += page[name]
            cursor = page["cursor"]
    return rows


def lift(broker, path, **query):
    with api(broker) as client:
        return client.delete(path, params=query).status_code


def by_mqtt(broker, token, client_id="", **options):
    return mqtt.Client.open(broker.mqtt, client_id=client_id, username="x", password=token, **options)


# --- revocations --------------------------------------------------------------------------------------


def mqtt_5(broker, token, name):
    client = by_mqtt(broker, token, name)
    return lambda: client.expect_closed()[-1].reason == 0x87


def mqtt_3(broker, token, name):
    client = mqtt.Client.open(broker.mqtt, 4, client_id=name, username="x", password=token)
    return lambda: client.expect_closed() == []


def by_stomp(broker, token, name):
    client = stomp.Client.open(broker.stomp, passcode=token, **{"client-id": name})
    return lambda: client.expect_error()["message"] == "Access refused"


def by_json(broker, token, name):
    client = json_client.Client.open(broker.http, token=token, clientId=name)

    def ended():
        frames, code = client.expect_closed()
        return code == 4401 and frames[-1]["reason"] == "unauthorized"

    return ended


def over_ws(broker, token, name):
    client = mqtt.Client(WebSocket(broker.http, "mqtt"))
    client.send(mqtt.connect(name, username="x", password=token))
    assert client.expect(mqtt.CONNACK).reason == 0
    return lambda: client.expect_closed()[-1].reason == 0x87


PROTOCOLS = {"mqtt 5": mqtt_5, "mqtt 3.1.1": mqtt_3, "stomp": by_stomp, "json": by_json, "mqtt over ws": over_ws}


@pytest.mark.parametrize("kind", ["user", "tokenId"])
def test_a_revocation_ends_streams_of_events(broker, kind):
    user, token_id = unique("u"), unique("t")
    headers = {"authorization": f"Bearer {tokens.token(user, jti=token_id)}"}
    with httpx.stream("GET", broker.http_url("/api/v1/subscribe"), params={"topic": "t"}, headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: connected"
        began = time.monotonic()
        done = post(broker, "/revocations", **{kind: {"user": user, "tokenId": token_id}[kind]})
        assert done["connections"] == 1
        for _ in lines:
            pass
        assert time.monotonic() - began < 1, "within a second"
    assert httpx.get(broker.http_url("/api/v1/clients"), headers=headers).status_code == 401


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["user", "tokenId", "clientId"])
def test_a_revocation_closes_live_connections(broker, protocol, kind):
    user, token_id, name = unique("u"), unique("t"), unique("c")
    token = tokens.token(user, jti=token_id)
    has_ended = PROTOCOLS[protocol](broker, token, name)
    other = by_mqtt(broker, tokens.token("other", jti=unique("t")))
    value = {"user": user, "tokenId": token_id, "clientId": name}[kind]
    began = time.monotonic()
    assert post(broker, "/revocations", **{kind: value}) == {"connections": 1, "sessions": 1}
    assert has_ended()
    assert time.monotonic() - began < 1, "within a second"
    other.fence()
    again = mqtt.Client.plain(broker.mqtt)
    again.send(mqtt.connect(name, username="x", password=token))
    assert again.expect(mqtt.CONNACK).reason == 0x87
    row = next(row for row in listed(broker, "revocations") if row.get(kind) == value)
    assert row["until"] > row["revokedAt"]
    # Lifting it lets the same token in; with it the token itself was revoked by its name.
    assert lift(broker, "/revocations", **{kind: value}) == 204
    assert lift(broker, "/revocations", **{kind: value}) == 404
    if kind != "tokenId":
        assert lift(broker, "/revocations", tokenId=token_id) == 204
    by_mqtt(broker, token, name).disconnect()
    other.disconnect()


def test_sessions_and_wills_end_with_the_credentials(broker):
    user, will, waiting = unique("u"), unique("will"), unique("waiting")
    token = tokens.token(user)
    watcher = by_mqtt(broker, tokens.token("watcher"))
    watcher.subscribe(will, "fence")
    stays = {"clean": False, "props": {"session_expiry": 600}}
    away = by_mqtt(broker, token, unique("away"), will=mqtt.Will(will, b"away", properties={"will_delay": 60}), **stays)
    away.subscribe(waiting, qos=1)
    away.drop()
    here = by_mqtt(broker, token, unique("here"), will=mqtt.Will(will, b"here"), **stays)
    with api(broker) as client:
        until(lambda: len(client.get("/sessions", params={"user": user, "connected": False}).json()["sessions"]) == 1)
    watcher.publish(waiting, "secret", qos=1)
    assert post(broker, "/revocations", user=user) == {"connections": 1, "sessions": 2}
    here.expect_closed()
    watcher.publish("fence", "end", qos=1)
    assert watcher.message().topic == "fence", "no will is said"
    with api(broker) as client:
        assert client.get("/sessions", params={"user": user}).json()["sessions"] == []


def test_a_later_token_is_taken_and_other_users_are(broker):
    user = unique("u")
    now = int(time.time())
    post(broker, "/revocations", user=user)
    later = tokens.hs256({"sub": user, "iat": now + 30, "exp": now + 600})
    by_mqtt(broker, later).disconnect()


def test_it_ends_at_its_time(broker):
    user, token_id = unique("u"), unique("t")
    token = tokens.token(user, jti=token_id)
    post(broker, "/revocations", tokenId=token_id, expiresIn=1)

    def is_taken():
        client = mqtt.Client.plain(broker.mqtt)
        client.send(mqtt.connect(unique("c"), username="x", password=token))
        return client.expect(mqtt.CONNACK).reason == 0

    assert not is_taken()
    until(is_taken, "it is not remembered any longer")
    assert all(row.get("tokenId") != token_id for row in listed(broker, "revocations"))


def test_a_restart_remembers(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = start(tmp_path / "one", data=tmp_path / "data")
    user = unique("u")
    token = tokens.token(user, jti="before-the-crash")
    stays = {"clean": False, "props": {"session_expiry": 600}}
    client = by_mqtt(first, token, "mine", **stays)
    client.subscribe("a", qos=1)
    post(first, "/revocations", user=user)
    client.expect_closed()
    first.process.kill()
    first.process.wait()
    first.stopped = True
    second = start(tmp_path / "two", data=tmp_path / "data")
    try:
        assert {row.get("user") or row["tokenId"] for row in listed(second, "revocations")} == {user, "before-the-crash"}
        refused = mqtt.Client.plain(second.mqtt)
        refused.send(mqtt.connect("mine", username="x", password=token))
        assert refused.expect(mqtt.CONNACK).reason == 0x87
        with api(second) as asking:
            assert asking.get("/clients/mine").status_code == 404
    finally:
        second.stop()


@pytest.mark.parametrize(
    "fields",
    [{}, {"user": "a", "clientId": "b"}, {"user": ""}, {"user": 1}, {"address": "1.2.3.4"}, {"user": "a", "more": 1},
     {"user": "a", "expiresIn": -1}, {"user": "a", "expiresIn": 1, "expiresAt": 2}],
)
def test_what_names_nobody_is_refused(broker, fields):
    with api(broker) as client:
        answer = client.post("/revocations", json=fields)
        assert answer.status_code == 400 and answer.json()["code"] == "invalidRequest"


def test_only_who_manages_may(broker):
    token = tokens.token(permissions=[{"deny": "manage"}])
    with httpx.Client(base_url=broker.http_url("/api/v1"), headers={"authorization": f"Bearer {token}"}) as client:
        for path in ("/revocations", "/bans"):
            assert client.get(path).status_code == 403
            assert client.post(path, json={"user": "a"}).status_code == 403
            assert client.delete(path, params={"user": "a"}).status_code == 403


# --- bans ---------------------------------------------------------------------------------------------


def refused_with(broker, token, client_id):
    client = mqtt.Client.plain(broker.mqtt)
    client.send(mqtt.connect(client_id, username="x", password=token))
    return client.expect(mqtt.CONNACK).reason


@pytest.mark.parametrize("kind", ["user", "clientId"])
def test_a_ban_closes_who_is_there_until_it_is_lifted(broker, kind):
    user, name = unique("u"), unique("c")
    token = tokens.token(user)
    client = by_mqtt(broker, token, name)
    value = user if kind == "user" else name
    assert post(broker, "/bans", **{kind: value}, reason="floods") == {"connections": 1}
    assert client.expect_closed()[-1].reason == 0x98
    assert refused_with(broker, token, name) == 0x8A
    row = next(row for row in listed(broker, "bans") if row.get(kind) == value)
    assert row == {kind: value, "until": None, "reason": "floods", "configured": False}
    assert lift(broker, "/bans", **{kind: value}) == 204
    assert lift(broker, "/bans", **{kind: value}) == 404
    by_mqtt(broker, token, name).disconnect()


def test_a_ban_ends_at_its_time(broker):
    user = unique("u")
    post(broker, "/bans", user=user, expiresIn=1)
    assert refused_with(broker, tokens.token(user), "") == 0x8A
    until(lambda: refused_with(broker, tokens.token(user), "") == 0, "the ban has ended")


def test_bans_of_the_configuration_stay(tmp_path):
    broker = start(tmp_path, protection__banned_users="eve", protection__banned_addresses="192.0.2.0/24")
    try:
        assert [row["configured"] for row in listed(broker, "bans")] == [True, True]
        assert lift(broker, "/bans", user="eve") == 409
        assert lift(broker, "/bans", address="192.0.2.0/24") == 409
        post(broker, "/bans", address="2001:db8::1")
        assert [row.get("address") for row in listed(broker, "bans")] == ["192.0.2.0/24", "2001:db8::1", None]
        with api(broker) as client:
            assert client.post("/bans", json={"address": "nowhere"}).status_code == 400
    finally:
        broker.stop()


def test_failed_logins_lead_to_a_ban_that_can_be_lifted(tmp_path):
    address = addresses.outside()
    broker = start(tmp_path, "--mqtt", "0.0.0.0:0", protection__failed_logins=3)
    try:
        def attempt(password):
            client = mqtt.Client(socket.create_connection((address, broker.mqtt)), 5)
            client.send(mqtt.connect(unique("c"), username="x", password=password))
            return client.expect(mqtt.CONNACK).reason

        assert [attempt("wrong") for _ in range(3)] == [0x86] * 3
        until(lambda: any(row.get("address") == address for row in listed(broker, "bans")))
        with pytest.raises((ConnectionError, mqtt.Closed)):
            attempt(tokens.token())
        assert lift(broker, "/bans", address=address) == 204
        assert attempt(tokens.token()) == 0
    finally:
        broker.stop()


GUESSES = {
    "key": {"x-api-key": "wrong"},
    "bearer": {"authorization": "Bearer wrong"},
    "signature": {"authorization": "AWS4-HMAC-SHA256 Credential=NOBODY/20260101/eu-west-1/execute-api/aws4_request, "
                                   "SignedHeaders=host, Signature=00"},
}


@pytest.mark.parametrize("guess", GUESSES)
def test_keys_cannot_be_guessed_over_http(tmp_path, guess):
    address = addresses.outside()
    broker = start(tmp_path, "--http", "0.0.0.0:0", protection__failed_logins=3)
    try:
        def attempt(**headers):
            with httpx.Client(base_url=f"http://{address}:{broker.http}", headers=headers) as client:
                return client.post("/@connections/abc", content="x").status_code

        # Who shows nothing guesses nothing.
        assert [attempt() for _ in range(5)] == [403] * 5
        assert [attempt(**GUESSES[guess]) for _ in range(3)] == [403] * 3
        with pytest.raises(httpx.TransportError):
            attempt(**{"x-api-key": KEY})
        assert any(row.get("address") == address for row in listed(broker, "bans"))
    finally:
        broker.stop()
