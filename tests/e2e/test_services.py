"""Where the broker goes for keys and answers about logins: to what the configuration names, and nowhere else; and what
an answer says of a client."""

import json
import time

import pytest

from support import mqtt, tokens
from support.waiting import until


def login(broker, **credentials) -> int:
    client = mqtt.Client.plain(broker.mqtt)
    client.send(mqtt.connect("c", **credentials))
    reason = client.expect(mqtt.CONNACK).reason
    client.close()
    return reason


def yes(_):
    return 200, {}, {"allow": True}


@pytest.fixture
def service():
    opened = []

    def start(answer):
        opened.append(tokens.Service(answer))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_a_token_names_no_address(start_broker, service):
    """Whatever it brings: keys are those of the configured set."""
    own, foreign = tokens.Ed("one"), tokens.Ed("foreign")
    keys = service(lambda _: (200, {}, {"keys": [own.jwk()]}))
    evil = service(lambda _: (200, {}, {"keys": [foreign.jwk()]}))
    broker = start_broker(auth__methods="token", auth__token_jwks_url=keys.url, access__unmatched="allow")
    assert login(broker, password=own.sign(tokens.claims())) == 0
    for header in (
        {"jku": evil.url},
        {"x5u": evil.url},
        {"jku": evil.url, "kid": "one"},
        {"kid": evil.url},
        {"jwk": foreign.jwk()},
        {"jwk": foreign.jwk(), "kid": "one"},
    ):
        assert login(broker, password=foreign.sign(tokens.claims(iss=evil.url), **header)) == 0x86, header
    assert evil.requests == []


def test_redirects_are_not_followed(start_broker, service):
    key = tokens.Ed("one")
    behind = service(lambda asked: yes(None) if asked else (200, {}, {"keys": [key.jwk()]}))
    moved = service(lambda _: (307, {"Location": behind.url}, {}))
    broker = start_broker(auth__methods="callback", auth__callback_url=moved.url)
    assert login(broker, username="ann", password="w") == 0x88
    broker = start_broker(auth__methods="token", auth__token_jwks_url=moved.url)
    assert login(broker, password=key.sign(tokens.claims())) == 0x88
    assert len(moved.requests) >= 2 and behind.requests == []


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "0.0.0.0"])
def test_clouds_are_not_asked_for_credentials(start_broker, host):
    broker = start_broker(auth__methods="callback", auth__callback_url=f"http://{host}/latest/meta-data/")
    assert login(broker, username="ann", password="w") == 0x88
    assert "is no address for a service: see auth.service_networks" in broker.log_text()


def test_the_address_counts_and_not_the_name(start_broker, service):
    """A name that points to this machine, where services are not."""
    listener = service(yes)
    url = listener.url.replace("127.0.0.1", "localhost")
    broker = start_broker(auth__methods="callback", auth__callback_url=url, auth__service_networks="10.0.0.0/8")
    assert login(broker, username="ann", password="w") == 0x88
    until(lambda: "is no address for a service" in broker.log_text(), "the log says why")
    broker = start_broker(auth__methods="token", auth__token_jwks_url=url, auth__service_networks="10.0.0.0/8")
    assert login(broker, password=tokens.Ed("one").sign(tokens.claims())) == 0x88
    assert listener.requests == []
    broker = start_broker(auth__methods="callback", auth__callback_url=url, auth__service_networks="127.0.0.0/8")
    assert login(broker, username="ann", password="w") == 0


def test_an_answer_says_what_a_client_may_and_for_how_long(start_broker, service):
    rules = [{"allow": "subscribe", "topics": ["teams/${team}/#"], "methods": ["callback"]}]
    end = time.time() + 3
    listener = service(lambda _: (200, {}, {
        "allow": True, "user": "Ann", "claims": {"team": "blue"}, "expiresAt": int(end * 1000),
        "permissions": [{"allow": "publish", "topics": ["from/%u"]}],
    }))
    broker = start_broker(
        auth__methods="callback", auth__callback_url=listener.url, access__rules=json.dumps(rules), auth__token_leeway="0s"
    )
    client = mqtt.Client.open(broker.mqtt, username="ann", password="w")
    assert client.subscribe("teams/blue/x", "teams/red/x", "from/Ann").reasons == [0, 0x87, 0x87]
    assert client.publish("from/Ann", b"x", qos=1).reason in (0, 0x10)
    assert client.publish("from/ann", b"x", qos=1).reason == 0x87
    last = client.expect_closed()[-1]
    assert (last.kind, last.reason) == (mqtt.DISCONNECT, 0xA0)
    assert time.time() >= end - 0.5
