"""The access rules in every protocol and for every kind of topic: claims in rules, rules in tokens, and what becomes
of what a client had when the rules change."""

import contextlib
import json
import signal

import httpx
import pytest

from support import json_client, mqtt, process, stomp, tokens
from support.waiting import unique, until

PROTOCOLS = ["mqtt 3.1.1", "mqtt 5", "stomp", "json"]
KINDS = {
    "plain": ("plain/x", "plain/x"),
    "wildcard": ("wild/+", "wild/x"),
    "shared": ("$share/g/shared/x", "shared/x"),
    "queue": ("$queue/jobs", "$queue/jobs"),
    "group": ("$group/g", "$group/g"),
    "user": ("$user/root/x", "$user/root/x"),
    "everyone": ("$broadcast", "$broadcast"),
}
"""A filter of each kind, and a topic that reaches it."""


class Person:
    """A client of any protocol. Topics and filters are named as in MQTT."""

    def __init__(self, broker, protocol, token):
        self.protocol = protocol
        if protocol == "stomp":
            self.client = stomp.Client.open(broker.stomp, passcode=token)
        elif protocol == "json":
            self.client = json_client.Client.open(broker.http, token=token)
        else:
            version = 4 if protocol == "mqtt 3.1.1" else 5
            self.client = mqtt.Client.open(broker.mqtt, version, username="x", password=token)
        self.subscriptions = 0

    def subscribe(self, name) -> bool:
        """Whether it was granted. STOMP says no by the end of the connection."""
        if self.protocol == "stomp":
            self.subscriptions += 1
            return self._ask_stomp("SUBSCRIBE", {"destination": destination(name), "id": str(self.subscriptions)})
        if self.protocol == "json":
            return is_yes(self.client.ask(**as_json(name)))
        return self.client.subscribe(name, qos=1).reasons[0] < 0x80

    def publish(self, topic, text="x") -> bool:
        """Whether it was taken; nobody can tell a client of MQTT 3.1.1."""
        if self.protocol == "stomp":
            return self._ask_stomp("SEND", {"destination": destination(topic)}, text)
        if self.protocol == "json":
            return is_yes(self.client.ask("publish", topic=topic, data=text, qos=1))
        return self.client.publish(topic, text, qos=1).reason < 0x80

    def _ask_stomp(self, command, headers, body=""):
        receipt = unique("r")
        self.client.send(command, headers | {"receipt": receipt}, body)
        while (frame := self.client._read()).command not in ("RECEIPT", "ERROR"):
            self.client.kept.append(frame)
        if frame.command == "ERROR":
            assert frame["message"] == "Not authorized" and frame["receipt-id"] == receipt
        return frame.command == "RECEIPT"

    def text(self) -> str:
        message = self.client.message()
        if self.protocol == "json":
            return message["data"]
        return (message.body if self.protocol == "stomp" else message.payload).decode()

    def close(self):
        self.client.close()


def is_yes(answer) -> bool:
    assert answer["type"] != "error" or answer["code"] == "notAuthorized", answer
    return answer["type"] != "error"


def destination(name) -> str:
    kind, _, rest = name.partition("/")
    words = {"$queue": "/queue/", "$group": "/group/", "$user": "/user/", "$broadcast": "/broadcast"}
    return words[kind] + rest if kind in words else f"/topic/{name}"


def as_json(name) -> dict:
    if name.startswith("$group/"):
        return {"type": "join", "group": name.removeprefix("$group/")}
    return {"type": "subscribe", "topic": name}


@pytest.fixture
def person():
    with contextlib.ExitStack() as opened:

        def open_person(broker, protocol, token):
            made = Person(broker, protocol, token)
            opened.callback(made.close)
            return made

        yield open_person


# --- claims and rules in tokens -------------------------------------------------------------------


RULES = [
    {"allow": ["publish", "subscribe"], "topics": ["sites/${site}/#", "teams/${org.team}/+"]},
    {"allow": "subscribe", "topics": ["news/#"], "groups": ["staff"]},
    {"deny": "subscribe", "topics": ["news/secret/#"]},
    {"deny": "retained", "topics": ["news/quiet/#"]},
]


@pytest.fixture(scope="module")
def claimed(tmp_path_factory):
    broker = process.start(
        tmp_path_factory.mktemp("claims"),
        auth__methods="token",
        auth__token_secret=tokens.SECRET,
        access__rules=json.dumps(RULES),
    )
    yield broker
    broker.stop()


CLAIMS = {"site": ["s1", "s2"], "org": {"team": "blue"}, "groups": ["staff"],
          "permissions": [{"allow": ["publish", "subscribe"], "topics": ["own/%u/#"]}]}
ALLOWED = ["sites/s1/a", "sites/s2/a/b", "teams/blue/x", "own/ann/a"]
DENIED = ["sites/s3/a", "sites", "teams/red/x", "teams/blue/x/y", "own/bob/a", "other"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_claims_fill_rules_and_tokens_bring_their_own(claimed, person, protocol):
    token = tokens.token("ann", **CLAIMS)
    ann = person(claimed, protocol, token)
    for topic in ALLOWED:
        assert ann.subscribe(topic), topic
        mark = unique("m")
        assert ann.publish(topic, mark), topic
        assert ann.text() == mark
    for topic in [*DENIED, "sites/+/a", "sites/#", "own/#", "#", "news/secret/x"]:
        assert not person(claimed, protocol, token).subscribe(topic), topic
    for topic in [*DENIED, "news/a"]:
        taken = person(claimed, protocol, token).publish(topic)
        assert taken == (protocol == "mqtt 3.1.1"), topic
    without = person(claimed, protocol, tokens.token("eve"))
    assert not without.subscribe("sites/s1/a")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_retained_messages_are_a_right_of_their_own(claimed, person, protocol):
    root = person(claimed, "mqtt 5", tokens.token("root", permissions=[{"allow": "publish"}]))
    topics = [f"news/{kind}/{unique('t')}" for kind in ("loud", "quiet", "secret")]
    for topic in topics:
        root.client.publish(topic, f"kept {topic}", qos=1, retain=True)
    ann = person(claimed, protocol, tokens.token("ann", **CLAIMS))
    assert ann.subscribe("news/#")
    for topic in topics:
        root.publish(topic, f"live {topic}")
    kept = []
    while not (text := ann.text()).startswith("live"):
        kept.append(text)
    assert f"kept {topics[0]}" in kept
    assert not any("/quiet/" in text or "/secret/" in text for text in kept)
    assert [text, ann.text()] == [f"live {topic}" for topic in topics[:2]]


def test_the_same_over_http(claimed):
    token = tokens.token("ann", **CLAIMS)
    with httpx.Client(base_url=claimed.http_url("/api/v1"), headers={"authorization": f"Bearer {token}"}) as client:
        for topics, expected in ((ALLOWED, (200, 202)), (DENIED, (403,))):
            for topic in topics:
                answer = client.post("/publish", json={"topic": topic, "data": 1})
                assert answer.status_code in expected, (topic, answer.text)


# --- a change of the rules ------------------------------------------------------------------------


@pytest.fixture
def changing(start_broker, tmp_path):
    """A broker whose rules allow everything at first, and how to change them."""
    file = tmp_path / "polycast.toml"

    def text(*rules) -> str:
        rules = [{"allow": "all", "users": ["root"]}, *rules]
        return f"[access]\nrules = [{', '.join(table(rule) for rule in rules)}]\n"

    def table(rule) -> str:
        return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in rule.items()) + "}"

    file.write_text(text({"allow": "all"}))
    broker = start_broker("--config", str(file), auth__methods="token", auth__token_secret=tokens.SECRET,
                          telemetry__sys_interval="100ms")

    def change(*rules):
        said = broker.log_text().count("other access rules are in force")
        file.write_text(text(*rules))
        broker.signal(signal.SIGHUP)
        until(lambda: broker.log_text().count("other access rules are in force") > said)

    return broker, change


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_not_allowed_any_more_is_not_delivered(changing, person, protocol):
    """In every kind of subscription; what is still allowed goes on, and the rest when it is allowed again."""
    broker, change = changing
    root = person(broker, "mqtt 5", tokens.token("root"))
    people = {}
    for kind, (filter, topic) in KINDS.items():
        if protocol == "json" and kind == "everyone":
            continue  # All of them are told what is said to everyone.
        people[kind] = person(broker, protocol, tokens.token("ann"))
        for name in (filter, "mark"):
            assert people[kind].subscribe(name), name
        root.publish(topic, f"first {kind}")
        assert people[kind].text() == f"first {kind}"
    change({"allow": "subscribe", "topics": ["mark"]}, {"deny": "subscribe", "topics": ["$broadcast"]})
    for kind, (_, topic) in KINDS.items():
        root.publish(topic, f"second {kind}")
    root.publish("mark", "mark")
    for kind, who in people.items():
        assert who.text() == "mark", kind
    assert broker.metric("polycast_subscriptions_revoked_total") >= len(KINDS)
    change({"allow": "all"})
    for kind in ("plain", "wildcard"):
        root.publish(KINDS[kind][1], f"third {kind}")
        assert people[kind].text().startswith("third"), kind


def test_sys_topics_follow_the_rules(changing, person):
    broker, change = changing
    ann, root = (person(broker, "mqtt 5", tokens.token(user)) for user in ("ann", "root"))
    for who in (ann, root):
        assert who.subscribe("$SYS/broker/uptime") and who.subscribe("mark")
        assert who.client.message().topic == "$SYS/broker/uptime"
    change({"allow": "subscribe", "topics": ["mark", "#"]})
    # Whatever was on its way when the rules changed ends with a mark.
    root.publish("mark", "begin")
    while ann.text() != "begin":
        pass
    while root.text() != "begin":
        pass
    for _ in range(3):
        assert root.client.message().topic == "$SYS/broker/uptime"
    root.publish("mark", "end")
    assert ann.text() == "end", "none of what root was told"
    assert not ann.subscribe("$SYS/#") and not ann.subscribe("$SYS/broker/uptime")


def test_qos_2_that_began_while_it_was_allowed(changing, person):
    """It was published when it came, and is answered to its end; nothing new is taken."""
    broker, change = changing
    root = person(broker, "mqtt 5", tokens.token("root"))
    root.subscribe("a/x")
    client = person(broker, "mqtt 5", tokens.token("ann")).client
    client.send(mqtt.publish("a/x", b"1", 2, 1))
    assert client.expect(mqtt.PUBREC).reason == 0
    assert root.text() == "1"
    change()
    client.send(mqtt.publish("a/x", b"1", 2, 1, dup=True))
    assert client.expect(mqtt.PUBREC).reason == 0, "it is the one that was taken"
    client.send(mqtt.acknowledge(mqtt.PUBREL, 1))
    assert client.expect(mqtt.PUBCOMP).reason == 0
    client.send(mqtt.publish("a/x", b"2", 2, 2))
    assert client.expect(mqtt.PUBREC).reason == 0x87
    change({"allow": "all"})
    for number in (1, 2):
        client.send(mqtt.publish("a/x", b"new %d" % number, 2, number))
        assert client.expect(mqtt.PUBREC).reason == 0
        client.send(mqtt.acknowledge(mqtt.PUBREL, number))
        assert client.expect(mqtt.PUBCOMP).reason == 0
        assert root.text() == f"new {number}"
