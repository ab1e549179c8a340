"""What clients may do, as they are told it in their own protocols: rules, refusals, and a change of the rules."""

import json
import queue
import signal
import subprocess

import paho.mqtt.client as paho
import pytest
import stomp

from support import json_client, mqtt, process, tokens
from support.waiting import PATIENCE, unique, until
from test_stomppy import Listener

RULES = [
    {"allow": ["publish", "subscribe"], "topics": ["own/%u/#", "client/%c"]},
    {"allow": "join", "topics": ["$group/%u"]},
    {"allow": "subscribe", "topics": ["room/#"]},
    {"deny": "subscribe", "topics": ["room/secret/#"], "users": ["ann"]},
    {"allow": "all", "users": ["root"]},
]
VERSIONS = [4, 5]
NOT_AUTHORIZED = 0x87


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A broker with these rules, where nothing else is allowed."""
    settings = {"access__rules": json.dumps(RULES), "access__unmatched": "deny"}
    broker = process.start(tmp_path_factory.mktemp("strict"), **settings)
    yield broker
    broker.stop()


@pytest.fixture
def root(strict):
    """Who may do everything, to look at what the others did."""
    client = mqtt.Client.open(strict.mqtt, username="root")
    yield client
    client.close()


class PahoUser:
    """Paho's client under a user name; what it is told comes in queues."""

    def __init__(self, port, version, user, client_id=None, will=None):
        kind = paho.MQTTv5 if version == 5 else paho.MQTTv311
        client_id = client_id or unique("paho")
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=kind)
        self.connected, self.subscribed, self.published, self.messages = (queue.Queue() for _ in range(4))
        self.client.username_pw_set(user)
        self.client.on_connect = lambda _c, _d, _f, reason, _p: self.connected.put(reason)
        self.client.on_subscribe = lambda _c, _d, _m, reasons, _p: self.subscribed.put(reasons)
        self.client.on_publish = lambda _c, _d, _m, reason, _p: self.published.put(reason)
        self.client.on_message = lambda _c, _d, message: self.messages.put(message)
        if will:
            self.client.will_set(will, "gone", 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.reason = self.connected.get(timeout=PATIENCE)

    def subscribe(self, *filters):
        self.client.subscribe([(filter, 1) for filter in filters])
        return [reason.value for reason in self.subscribed.get(timeout=PATIENCE)]

    def publish(self, topic, payload="x"):
        self.client.publish(topic, payload, 1)
        return self.published.get(timeout=PATIENCE).value

    def topic(self):
        return self.messages.get(timeout=PATIENCE).topic


@pytest.fixture
def user():
    opened = []

    def open_client(broker, version=5, name="ann", **options):
        opened.append(PahoUser(broker.mqtt, version, name, **options))
        return opened[-1]

    yield open_client
    for one in opened:
        one.client.disconnect()
        one.client.loop_stop()


# --- MQTT ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_subscription_is_checked_as_a_filter(strict, user, version):
    client = user(strict, version)
    refused = NOT_AUTHORIZED if version == 5 else 0x80
    allowed = ["own/ann/a", "own/ann/+", "own/ann/#", "$share/g/own/ann/#", "$group/ann", "$user/ann/#", "$broadcast"]
    denied = ["own/#", "own/bob/a", "own/+/a", "#", "$share/g/own/#", "$share/g/room/#", "$group/bob", "$group/#"]
    denied += ["$user/bob/#", "$SYS/#", "$queue/jobs", "room/secret/x"]
    assert client.subscribe(*allowed, *denied) == [1] * len(allowed) + [refused] * len(denied)


@pytest.mark.parametrize("version", VERSIONS)
def test_publishing_is_allowed_or_refused(strict, user, root, version):
    client, mark = user(strict, version), unique("mark")
    root.subscribe("own/#", "$broadcast", "$group/#", "client/#")
    # To 3.1.1 nobody can say no: it is acknowledged and goes nowhere.
    refused = NOT_AUTHORIZED if version == 5 else 0
    for topic in ["own/bob/a", "$broadcast", "$group/ann", "client/other"]:
        assert client.publish(topic) == refused, topic
    assert client.publish(f"own/ann/{mark}") in (0, 0x10)
    assert root.message().topic == f"own/ann/{mark}"


def test_at_qos_2_and_0(strict, root):
    client = mqtt.Client.open(strict.mqtt, username="ann")
    root.subscribe("own/#")
    denied = {"action": "publish", "protocol": "mqtt"}
    before = strict.metric("polycast_access_denied_total", **denied)
    assert client.publish("own/bob/a", qos=2).reason == NOT_AUTHORIZED
    client.publish("own/bob/a")
    assert client.publish("own/ann/mark", qos=2).reason == 0
    assert root.message().topic == "own/ann/mark"
    assert strict.metric("polycast_access_denied_total", **denied) == before + 2
    client.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_forbidden_will_is_refused_at_the_login(strict, user, version):
    client = user(strict, version, will="own/bob/will")
    assert client.reason.is_failure and client.reason.value == NOT_AUTHORIZED
    assert not user(strict, version, will="own/ann/will").reason.is_failure


def test_what_is_denied_below_a_filter_is_left_out(strict, user, root):
    for topic in ("room/secret/kept", "room/kept"):
        root.publish(topic, b"x", qos=1, retain=True)
    client = user(strict)
    assert client.subscribe("room/#") == [1]
    root.publish("room/secret/a", b"x", qos=1)
    root.publish("room/a", b"x", qos=1)
    assert [client.topic(), client.topic()] == ["room/kept", "room/a"]


def test_a_name_with_wildcards_gains_nothing(strict, user):
    for name in ("+", "#", "ann/a", "$SYS"):
        client = user(strict, name=name, client_id=f"{unique('c')}/{name}")
        refused = ["own/#", "own/ann/a", "own/+/a", "client/+", "client/#", "$SYS/#"]
        assert client.subscribe(*refused) == [NOT_AUTHORIZED] * len(refused)
        assert client.publish("own/ann/a") == NOT_AUTHORIZED


# --- STOMP --------------------------------------------------------------------------------------


@pytest.fixture
def stomp_user(strict):
    opened = []

    def open_client(name="ann"):
        connection = stomp.Connection12([("127.0.0.1", strict.stomp)], reconnect_attempts_max=1)
        listener = Listener()
        connection.set_listener("", listener)
        connection.connect(name, "", wait=True)
        opened.append(connection)
        return connection, listener

    yield open_client
    for one in opened:
        if one.is_connected():
            one.disconnect()


def test_stomp_is_told_with_an_error(strict, stomp_user, root):
    for destination in ("/topic/own/bob/a", "/topic/own/#", "/queue/jobs", "/group/bob", "/topic/#"):
        connection, listener = stomp_user()
        connection.subscribe(destination, id="1", headers={"receipt": "r"})
        error = listener.next("error")
        assert error.headers["message"] == "Not authorized" and error.headers["receipt-id"] == "r"
        listener.next("disconnected")
    for destination in ("/topic/own/bob/a", "/queue/jobs", "/group/ann", "/broadcast"):
        connection, listener = stomp_user()
        connection.send(destination, "x", headers={"receipt": "r"})
        assert listener.next("error").headers["message"] == "Not authorized"
    connection, listener = stomp_user()
    connection.subscribe("/topic/own/ann/a", id="1", headers={"receipt": "r"})
    assert listener.next("receipt").headers["receipt-id"] == "r"
    connection.send("/topic/own/ann/a", "mine")
    assert listener.next("message").body == "mine"


def test_stomp_transactions_happen_as_a_whole(strict, stomp_user, root):
    root.subscribe("own/#")
    connection, listener = stomp_user()
    connection.begin("t")
    connection.send("/topic/own/ann/a", "good", transaction="t")
    connection.send("/topic/own/bob/a", "bad", transaction="t")
    connection.commit("t")
    assert listener.next("error").headers["message"] == "Not authorized"
    root.nothing_before("own/root/mark")


# --- JSON ---------------------------------------------------------------------------------------


def test_json_is_told_with_an_error_and_goes_on(strict, root):
    client = json_client.Client.open(strict.http, username="ann")
    name = client.connected.get("user")
    assert name == "ann", client.connected
    for type, fields in [
        ("subscribe", {"topic": "own/#"}),
        ("subscribe", {"topic": "own/+/a"}),
        ("subscribe", {"topic": "room/#", "share": "g"}),
        ("join", {"group": "bob"}),
        ("publish", {"topic": "own/bob/a", "data": 1, "qos": 1}),
        ("publish", {"group": "ann", "data": 1, "qos": 1}),
        ("broadcast", {"data": 1, "qos": 1}),
    ]:
        answer = client.ask(type, **fields)
        assert (answer["type"], answer.get("code")) == ("error", "notAuthorized"), (type, fields, answer)
    client.request("subscribe", topic="own/ann/#")
    client.request("join", group="ann")
    client.request("publish", topic="own/ann/a", data="mine", qos=1)
    assert client.message()["data"] == "mine"
    # What is said to everyone and to its user needs no rule.
    root.publish("$broadcast", b'"all"', qos=1)
    root.publish("$user/ann/x", b'"own"', qos=1)
    assert [frame["topic"] for frame in client.messages(2)] == ["$broadcast", "$user/ann/x"]
    client.close()


# --- a change of the rules ----------------------------------------------------------------------


@pytest.fixture
def changing(start_broker, tmp_path):
    """A broker with rules in a file, and how to change them while it runs."""
    file = tmp_path / "polycast.toml"

    def text(rules: str) -> str:
        root = '[[access.rules]]\nallow = "all"\nusers = ["root"]\n'
        return f'[access]\nunmatched = "deny"\n{root}{rules}'

    file.write_text(text('[[access.rules]]\nallow = "all"\n'))
    broker = start_broker("--config", str(file))

    def change(rules: str) -> None:
        said = broker.log_text().count("other access rules are in force")
        file.write_text(text(rules))
        broker.signal(signal.SIGHUP)
        until(lambda: broker.log_text().count("other access rules are in force") > said)

    return broker, change


def test_live_subscriptions_stop_when_they_are_not_allowed_any_more(changing, user):
    broker, change = changing
    root = mqtt.Client.open(broker.mqtt, username="root")
    client = user(broker)
    shared = user(broker)
    assert client.subscribe("a/#") == [1]
    assert shared.subscribe("$share/g/a/x") == [1]
    root.publish("a/x", b"1", qos=1)
    assert (client.topic(), shared.topic()) == ("a/x", "a/x")
    change('[[access.rules]]\nallow = "subscribe"\ntopics = ["a/b"]\n')
    root.publish("a/x", b"2", qos=1)
    root.publish("a/b", b"3", qos=1)
    assert client.topic() == "a/b"
    assert client.subscribe("a/#") == [NOT_AUTHORIZED]
    assert client.publish("a/b") == NOT_AUTHORIZED
    assert broker.metric("polycast_subscriptions_revoked_total") == 2
    assert "a subscription is not allowed any more" in broker.log_text()
    change('[[access.rules]]\nallow = "all"\n')
    root.publish("a/x", b"4", qos=1)
    assert [client.messages.get(timeout=PATIENCE).payload for _ in range(1)] == [b"4"]
    assert shared.messages.get(timeout=PATIENCE).payload == b"4"
    root.close()


def test_a_will_is_checked_again_when_it_is_said(changing):
    broker, change = changing
    root = mqtt.Client.open(broker.mqtt, username="root")
    root.subscribe("will/#")
    will = lambda name: mqtt.Will(f"will/{name}", b"gone", 1)  # noqa: E731
    lost = mqtt.Client.open(broker.mqtt, username="ann", will=will("a"))
    lost.drop()
    assert root.message().topic == "will/a"
    lost = mqtt.Client.open(broker.mqtt, username="ann", will=will("b"))
    change('[[access.rules]]\nallow = "publish"\ntopics = ["will/c"]\n')
    other = mqtt.Client.open(broker.mqtt, username="ann", will=will("c"))
    lost.drop()
    until(lambda: "a will could not be published" in broker.log_text())
    other.drop()
    assert root.message().topic == "will/c"
    root.close()


def test_a_durable_session_gets_less_when_it_comes_back_after_a_restart(tmp_path):
    def start(rules):
        folder = tmp_path / unique("run")
        folder.mkdir()
        settings = {"access__rules": json.dumps(rules), "access__unmatched": "deny"}
        return process.start(folder, data=tmp_path / "data", **settings)

    lasting = {"client_id": "lasting", "username": "ann", "clean": False, "props": {"session_expiry": 600}}
    broker = start([{"allow": "all"}])
    client = mqtt.Client.open(broker.mqtt, **lasting)
    client.subscribe("a/#", qos=1)
    client.disconnect()
    root = mqtt.Client.open(broker.mqtt, username="root")
    for topic in ("a/secret", "a/open"):
        root.publish(topic, topic.encode(), qos=1)
    broker.stop()
    broker = start([{"allow": "all"}, {"deny": "all", "topics": ["a/secret"], "users": ["ann"]}])
    client = mqtt.Client.open(broker.mqtt, **lasting)
    assert client.connack.session_present
    assert client.message().topic == "a/open"
    broker.stop()


def kept(broker, user, topic):
    """The payload of the retained message that a subscriber gets, or None."""
    client = mqtt.Client.open(broker.mqtt, **user)
    client.subscribe(topic)
    client.fence()
    found = [packet.payload for packet in client.kept if packet.kind == mqtt.PUBLISH]
    client.close()
    return found[0] if found else None


def test_what_is_retained_is_sent_while_its_publisher_may_publish_it(changing):
    broker, change = changing
    root = {"username": "root"}
    ann = mqtt.Client.open(broker.mqtt, username="ann")
    ann.publish("kept/a", b"ann's", qos=1, retain=True)
    assert kept(broker, root, "kept/a") == b"ann's"
    change('[[access.rules]]\nallow = "all"\n[[access.rules]]\ndeny = "publish"\nusers = ["ann"]\n')
    assert kept(broker, root, "kept/#") is None
    assert broker.metric("polycast_access_denied_total", action="publish", protocol="none") == 1
    change('[[access.rules]]\nallow = "publish"\nusers = ["ann"]\ntopics = ["kept/+"]\n')
    assert kept(broker, root, "kept/a") == b"ann's", "it was not removed"
    # What another publishes in its place is that one's.
    mqtt.Client.open(broker.mqtt, username="root").publish("kept/a", b"root's", qos=1, retain=True)
    change("")
    assert kept(broker, root, "kept/a") == b"root's"
    ann.close()


def test_after_a_restart_clients_that_are_away_are_what_their_tokens_said(tmp_path):
    def start(*rules, **settings):
        folder = tmp_path / unique("run")
        folder.mkdir()
        settings = {
            "auth__methods": "token",
            "auth__token_secret": tokens.SECRET,
            "access__rules": json.dumps([{"allow": "all"}, *rules]),
            "store__recovery_grace": "1s",
        } | settings
        return process.start(folder, data=tmp_path / "data", **settings)

    def login(name):
        return {"username": name, "password": tokens.token(name, groups=[name], jti=f"{name}-1")}

    broker = start()
    held = []
    for name in ("staff", "guests"):
        client = mqtt.Client.open(broker.mqtt, client_id=name, clean=False, props={"session_expiry": 600},
                                  will=mqtt.Will(f"will/{name}", b"gone", 1), **login(name))
        client.publish(f"kept/{name}", b"kept", qos=1, retain=True)
        held.append(client)
    broker.process.kill()
    broker.process.wait()
    broker.stopped = True
    broker = start({"deny": "publish", "groups": ["guests"]})
    root = mqtt.Client.open(broker.mqtt, **login("root"))
    root.subscribe("will/#")
    assert root.message().topic == "will/staff"
    until(lambda: "a will could not be published" in broker.log_text())
    assert kept(broker, login("reader"), "kept/staff") == b"kept"
    assert kept(broker, login("reader"), "kept/guests") is None
    root.close()
    broker.stop()
    # The rule can be left to the rules alone; then what was kept is sent whoever published it.
    broker = start({"deny": "publish", "groups": ["guests"]}, access__check_retained_publishers=False)
    assert kept(broker, login("reader"), "kept/guests") == b"kept"
    broker.stop()


# --- the configuration --------------------------------------------------------------------------


def test_mistakes_in_rules_are_named(tmp_path):
    file = tmp_path / "polycast.toml"
    file.write_text('[[access.rules]]\nallow = "all"\n[[access.rules]]\nallow = ["read"]\n')
    done = subprocess.run(
        [process.polycast(), "check-config", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        env=process.plain_environment(),
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert 'rule 2: "read" is no action; there are: publish, subscribe, join' in said, said
