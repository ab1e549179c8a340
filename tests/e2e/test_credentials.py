"""Credentials on a live connection: renewed, about to end, ended; the same in every protocol."""

import json
import time

import httpx
import pytest

from support import json_client, mqtt, process, stomp, tokens
from support.waiting import unique

SETTINGS = {
    "auth__methods": "token",
    "access__unmatched": "allow",
    "auth__token_secret": tokens.SECRET,
    "auth__token_leeway": "0s",
    "auth__expiry_warning": "2s",
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    broker = process.start(tmp_path_factory.mktemp("credentials"), **SETTINGS)
    yield broker
    broker.stop()
    assert "eyJ" not in broker.log_text(), "a token in the log"


def auth(token, reason=0x19):
    props = {"authentication_method": "jwt", "authentication_data": token}
    return mqtt.packet(mqtt.AUTH, 0, bytes([reason]) + mqtt.properties(props))


def ends_in(secs):
    """A token that ends after so many whole seconds, at least."""
    return tokens.token(secs=secs + 1)


def by_auth(broker, token):
    client = mqtt.Client.plain(broker.mqtt)
    client.login(props={"authentication_method": "jwt", "authentication_data": token})
    assert client.connack.properties["authentication_method"] == "jwt"
    return client


def by_password(broker, token, version=5):
    return mqtt.Client.open(broker.mqtt, version, username="x", password=token)


def test_mqtt_5_closes_with_its_code(broker):
    client = by_password(broker, ends_in(0))
    packets = client.expect_closed()
    assert packets[-1].kind == mqtt.DISCONNECT and packets[-1].reason == 0xA0


def test_mqtt_3_closes(broker):
    client = by_password(broker, ends_in(0), 4)
    assert client.expect_closed() == []


def test_stomp_ends_with_an_error(broker):
    client = stomp.Client.open(broker.stomp, passcode=ends_in(0))
    assert client.expect_error()["message"] == "Credentials expired"


def test_json_is_warned_and_closed_with_4401(broker):
    client = json_client.Client.open(broker.http, token=ends_in(1))
    frames, code = client.expect_closed()
    assert code == 4401
    assert [frame["type"] for frame in frames] == ["expiring", "disconnect"]
    assert frames[0]["expiresAt"] > time.time() * 1000 - 5000 and 0 <= frames[0]["expiresIn"] <= 2
    assert frames[1]["reason"] == "expired"


def test_a_stream_of_events_ends(broker):
    headers = {"authorization": f"Bearer {ends_in(0)}"}
    with httpx.stream("GET", broker.http_url("/api/v1/subscribe"), params={"topic": "t"}, headers=headers) as answer:
        assert answer.status_code == 200
        lines = list(answer.iter_lines())
    assert lines[0] == "event: connected"
    assert httpx.get(broker.http_url("/api/v1/clients"), headers=headers).status_code == 401


@pytest.mark.parametrize("version", [4, 5])
def test_mqtt_subscribers_are_warned(broker, version):
    client = by_password(broker, ends_in(3), version)
    client.subscribe("$auth/expiring")
    warning = client.message()
    assert warning.topic == "$auth/expiring"
    assert json.loads(warning.payload)["expiresIn"] <= 2
    client.expect_closed()


def test_stomp_subscribers_are_warned(broker):
    client = stomp.Client.open(broker.stomp, passcode=ends_in(3))
    client.subscribe("/topic/$auth/expiring")
    assert "expiresAt" in json.loads(client.message().body)
    client.expect_error()


def is_still_there(client, end):
    """Whether a client lives beyond the end of its first token."""
    time.sleep(max(0.0, end - time.time()) + 0.5)
    client.fence()
    return True


def test_renewed_by_auth(broker):
    end = time.time() + 2
    client = by_auth(broker, ends_in(1))
    client.send(auth(tokens.token()))
    answer = client.expect(mqtt.AUTH)
    assert answer.reason == 0 and answer.properties["authentication_method"] == "jwt"
    assert is_still_there(client, end)
    client.close()


def test_a_token_is_asked_for_if_connect_brings_none(broker):
    client = mqtt.Client.plain(broker.mqtt)
    client.send(mqtt.connect(unique("c"), props={"authentication_method": "jwt"}))
    challenge = client.expect(mqtt.AUTH)
    assert challenge.reason == 0x18 and challenge.properties["authentication_method"] == "jwt"
    client.send(auth(tokens.token(), 0x18))
    assert client.expect(mqtt.CONNACK).reason == 0
    client.send(auth(tokens.token()))
    assert client.expect(mqtt.AUTH).reason == 0
    client.close()
    for wrong in ("garbage", tokens.token(secs=-600)):
        client = mqtt.Client.plain(broker.mqtt)
        client.send(mqtt.connect(unique("c"), props={"authentication_method": "jwt"}))
        client.expect(mqtt.AUTH)
        client.send(auth(wrong, 0x18))
        assert client.expect(mqtt.CONNACK).reason == 0x86


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_renewed_by_a_message(broker, version, qos):
    end = time.time() + 2
    client = by_password(broker, ends_in(1), version)
    client.publish("$auth/refresh", tokens.token(), qos=qos)
    assert is_still_there(client, end)
    client.close()


def test_renewed_by_stomp(broker):
    end = time.time() + 2
    client = stomp.Client.open(broker.stomp, passcode=ends_in(1))
    client.publish("$auth/refresh", tokens.token())
    assert is_still_there(client, end)
    client.close()


def test_renewed_by_json(broker):
    end = time.time() + 2
    client = json_client.Client.open(broker.http, token=ends_in(1))
    answer = client.request("refresh", token=tokens.token(secs=100))
    assert answer["type"] == "ack" and abs(answer["expiresAt"] / 1000 - time.time() - 100) < 5
    assert is_still_there(client, end)
    client.close()


def test_a_renewal_that_is_refused_changes_nothing(broker):
    """Nothing but that MQTT's AUTH ends the connection, as its standard says."""
    for wrong in (tokens.token("bob"), "garbage", tokens.token(secs=-1)):
        client = json_client.Client.open(broker.http, token=tokens.token())
        assert client.ask("refresh", token=wrong)["code"] in ("notAuthorized", "badCredentials")
        client.fence()
        client.close()
        five = by_password(broker, tokens.token())
        assert five.publish("$auth/refresh", wrong, qos=1).reason == 0x87
        five.fence()
        enhanced = by_auth(broker, tokens.token())
        enhanced.send(auth(wrong))
        assert enhanced.expect(mqtt.DISCONNECT).reason == 0x87
        refused = stomp.Client.open(broker.stomp, passcode=tokens.token())
        refused.send("SEND", {"destination": "$auth/refresh"}, wrong)
        assert refused.expect_error()["message"] in ("Not authorized", "Bad credentials")
    assert broker.metric("polycast_authentications_refused_total", reason="other_user") == 4


def test_nobody_hears_a_token(broker):
    spy = by_password(broker, tokens.token("spy"))
    spy.subscribe("$auth/#", "$auth/refresh", "#")
    client = by_password(broker, tokens.token())
    client.publish("$auth/refresh", tokens.token(), qos=1, retain=True)
    assert client.publish("$auth/expiring", "fake", qos=1).reason == 0x87
    name = unique("mark")
    client.publish(name, "end", qos=1)
    assert spy.message().topic == name
    late = by_password(broker, tokens.token("late"))
    late.subscribe("$auth/refresh")
    late.fence()
    assert not [packet for packet in late.kept if packet.kind == mqtt.PUBLISH], "it was retained"


def test_deliveries_stop_at_the_end(broker):
    publisher = by_password(broker, tokens.token("pub"))
    client = by_password(broker, ends_in(0))
    topic = unique("stop")
    client.subscribe(topic)
    packets = client.expect_closed()
    publisher.publish(topic, "late", qos=1)
    assert [packet.kind for packet in packets] == [mqtt.DISCONNECT]


def test_the_will_of_an_expired_client_is_said(broker):
    watcher = by_password(broker, tokens.token("watcher"))
    topic = unique("will")
    watcher.subscribe(topic)
    client = mqtt.Client.plain(broker.mqtt)
    client.login(username="x", password=ends_in(0), will=mqtt.Will(topic, b"gone"))
    assert watcher.message().payload == b"gone"
