"""MQTT: filters, retained messages, subscription options and identifiers, shared subscriptions, refusals."""

import pytest

from support import mqtt
from support.waiting import unique, until

standard = pytest.mark.standard


@standard
@pytest.mark.parametrize(
    "filter, matching, other",
    [
        ("{}/+", ["{}/a", "{}/"], ["{}", "{}/a/b"]),
        ("{}/#", ["{}", "{}/", "{}/a", "{}/a/b"], ["x{}"]),
        ("{}/+/c", ["{}/b/c", "{}//c"], ["{}/b/c/d", "{}/c"]),
        ("+/{}", ["x/{}", "/{}"], ["{}", "x/y/{}"]),
        ("/{}", ["/{}"], ["{}"]),
        ("{}//x", ["{}//x"], ["{}/x"]),
    ],
)
def test_wildcards(client, filter, matching, other):
    name, mark = unique("wild"), unique("mark")
    both = client()
    both.subscribe(filter.format(name), mark)
    for topic in matching + other:
        both.publish(topic.format(name), topic)
    both.publish(mark, b"end")
    got = []
    while (message := both.message()).topic != mark:
        got.append(message.payload.decode())
    assert got == matching


@standard
def test_dollar_topics_are_not_matched_by_a_leading_wildcard(client):
    name = unique("dollar")
    both, exact = client(), client()
    both.subscribe("#", f"+/{name}", f"mark/{name}")
    exact.subscribe(f"$own/{name}")
    exact.publish(f"$own/{name}", b"x", qos=1)
    exact.publish(f"mark/{name}", b"end", qos=1)
    seen = []
    while (message := both.message()).topic != f"mark/{name}":
        seen.append(message.topic)
    assert f"$own/{name}" not in seen


def test_sys_is_read_only(client):
    sender = client()
    assert sender.publish("$SYS/broker/version", b"x", qos=1).reason in (0x87, 0x90)


@standard
@pytest.mark.parametrize("version", [4, 5])
def test_unsubscribe(client, version):
    both, topic, mark = client(version), unique("off"), unique("mark")
    both.subscribe(topic, mark)
    answer = both.unsubscribe(topic)
    assert answer.reasons == ([0] if version == 5 else [])
    both.publish(topic, b"no")
    both.nothing_before(mark)


@standard
def test_unsubscribe_from_what_never_was(client):
    assert client().unsubscribe(unique("never"), unique("never")).reasons == [0x11, 0x11]


@standard
def test_subscribing_again_replaces(client):
    both, topic = client(), unique("replace")
    both.subscribe(topic, qos=2)
    both.subscribe(topic, qos=0)
    both.publish(topic, b"x", qos=1)
    assert both.message().qos == 0
    both.nothing_before(topic)


# --- retained -----------------------------------------------------------------------------------


@standard
@pytest.mark.parametrize("version", [4, 5])
def test_retained_is_sent_to_a_new_subscriber_with_the_flag(client, version):
    topic = unique("kept")
    client().publish(topic, b"last", qos=1, retain=True)
    late = client(version)
    late.subscribe(topic, qos=1)
    message = late.message()
    assert (message.payload, message.retain, message.qos) == (b"last", True, 1)


@standard
def test_retained_is_sent_to_an_existing_subscriber_without_the_flag(client):
    topic = unique("kept")
    both = client()
    both.subscribe(topic)
    both.publish(topic, b"live", retain=True)
    assert not both.message().retain


@standard
def test_retained_the_newest_one_counts(client):
    topic, sender = unique("kept"), client()
    for number in range(3):
        sender.publish(topic, str(number), qos=1, retain=True)
    late = client()
    late.subscribe(topic)
    assert late.message().payload == b"2"
    late.nothing_before(topic)


@standard
def test_retained_is_deleted_by_an_empty_payload_that_itself_is_delivered(client):
    topic, sender = unique("kept"), client()
    watching = client()
    watching.subscribe(topic)
    sender.publish(topic, b"x", qos=1, retain=True)
    sender.publish(topic, b"", qos=1, retain=True)
    assert [message.payload for message in watching.messages(2)] == [b"x", b""]
    late = client()
    late.subscribe(topic)
    late.nothing_before(topic)


@standard
@pytest.mark.parametrize("filter", ["{}/+/state", "{}/#", "+/+/+"])
def test_retained_matches_of_a_wildcard_are_all_sent(own_broker, filter):
    name = unique("kept")
    sender = mqtt.Client.open(own_broker.mqtt)
    expected = {f"{name}/{number}/state" for number in range(200)}
    for topic in expected:
        sender.publish(topic, topic, qos=0, retain=True)
    sender.fence()
    late = mqtt.Client.open(own_broker.mqtt)
    late.subscribe(filter.format(name))
    got = late.messages(200)
    assert {message.topic for message in got} == expected
    assert all(message.retain for message in got)
    sender.close()
    late.close()


@standard
def test_retain_handling_0_sends_each_time(client):
    topic, both = unique("kept"), client()
    both.publish(topic, b"x", qos=1, retain=True)
    for _ in range(2):
        both.subscribe(topic, retain_handling=0)
        assert both.message().retain


@standard
def test_retain_handling_1_sends_only_to_a_new_subscription(client):
    topic, both = unique("kept"), client()
    both.publish(topic, b"x", qos=1, retain=True)
    both.subscribe(topic, retain_handling=1)
    assert both.message().retain
    both.subscribe(topic, retain_handling=1)
    both.nothing_before(topic)


@standard
def test_retain_handling_2_sends_nothing(client):
    topic, both = unique("kept"), client()
    both.publish(topic, b"x", qos=1, retain=True)
    both.subscribe(topic, retain_handling=2)
    both.nothing_before(topic)


@standard
@pytest.mark.parametrize("kept", [False, True])
def test_retain_as_published(client, kept):
    topic, both = unique("rap"), client()
    both.subscribe(topic, retain_as_published=True)
    both.publish(topic, b"x", retain=kept)
    assert both.message().retain == kept


def test_retain_not_available_is_refused(start_broker):
    broker = start_broker(mqtt__retain_available=False)
    sender = mqtt.Client.open(broker.mqtt)
    sender.send(mqtt.publish("t", b"x", 1, 1, retain=True))
    assert sender.expect_closed()[-1].reason == 0x9A


# --- options and identifiers --------------------------------------------------------------------


@standard
def test_no_local(client):
    topic, both, other = unique("local"), client(), client()
    both.subscribe(topic, no_local=True)
    both.publish(topic, b"own", qos=1)
    other.publish(topic, b"other", qos=1)
    assert both.message().payload == b"other"


@standard
def test_subscription_identifier_comes_back(client):
    topic, both = unique("ident"), client()
    both.subscribe(topic, props={"subscription_identifier": 268435455})
    both.publish(topic, b"x")
    assert both.message().properties["subscription_identifier"] == [268435455]


@standard
def test_subscription_identifier_is_replaced_and_removed(client):
    topic, both = unique("ident"), client()
    for identifier in (1, 2, None):
        both.subscribe(topic, props={"subscription_identifier": identifier} if identifier else None)
        both.publish(topic, b"x")
        assert both.message().properties.get("subscription_identifier") == ([identifier] if identifier else None)


@standard
def test_subscription_identifier_comes_with_retained(client):
    topic, both = unique("ident"), client()
    both.publish(topic, b"x", qos=1, retain=True)
    both.subscribe(topic, props={"subscription_identifier": 9})
    assert both.message().properties["subscription_identifier"] == [9]


def test_subscription_identifier_of_zero_is_a_protocol_error(client):
    raw = client()
    raw.send(mqtt.subscribe(1, [("t", 0)], {"subscription_identifier": 0}))
    assert {packet.reason for packet in raw.expect_closed()} <= {0x82}


def test_overlapping_subscriptions_give_one_copy_with_all_identifiers(client):
    name, both = unique("overlap"), client()
    both.subscribe(f"{name}/#", qos=1, props={"subscription_identifier": 1})
    both.subscribe(f"{name}/+", qos=2, props={"subscription_identifier": 2})
    both.subscribe(f"{name}/a", qos=0, props={"subscription_identifier": 3})
    both.publish(f"{name}/a", b"x", qos=2)
    message = both.message()
    assert sorted(message.properties["subscription_identifier"]) == [1, 2, 3]
    assert message.qos == 2, "the highest that was granted"
    both.nothing_before(f"{name}/a")


def test_overlapping_subscriptions_give_3_1_1_one_copy_at_the_highest_level(client):
    name, both = unique("overlap"), client(4)
    both.subscribe(f"{name}/#", qos=0)
    both.subscribe(f"{name}/+", qos=1)
    both.publish(f"{name}/a", b"x", qos=2)
    assert both.message().qos == 1
    both.nothing_before(f"{name}/a")


# --- shared subscriptions -----------------------------------------------------------------------


@standard
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_shared_subscription_divides_the_messages(client, qos):
    topic, group = unique("shared"), unique("group")
    members = [client() for _ in range(4)]
    for member in members:
        member.subscribe(f"$share/{group}/{topic}", qos=qos)
    sender, count = client(), 80
    for number in range(count):
        sender.publish(topic, str(number), qos=qos)
    sender.fence()
    got = _collect(members)
    assert sorted(int(payload) for payload in sum(got, [])) == list(range(count))
    assert all(len(one) >= 5 for one in got), f"not fair: {[len(one) for one in got]}"


def _collect(members):
    """What each member has, acknowledging it until nothing more comes."""
    got = [[] for _ in members]
    while True:
        before = sum(map(len, got))
        for member, received in zip(members, got, strict=True):
            member.fence()
            while any(packet.kind == mqtt.PUBLISH for packet in member.kept):
                received.append(member.message().payload)
        if sum(map(len, got)) == before:
            return got


@standard
def test_shared_and_plain_subscriptions_are_apart(client):
    topic = unique("shared")
    both = client()
    both.subscribe(topic)
    both.subscribe(f"$share/g/{topic}")
    both.publish(topic, b"x")
    assert [message.payload for message in both.messages(2)] == [b"x", b"x"]
    both.unsubscribe(f"$share/g/{topic}")
    both.publish(topic, b"y")
    assert both.message().payload == b"y"
    both.publish(topic, b"z")
    assert both.message().payload == b"z"


@standard
def test_shared_groups_get_a_copy_each(client):
    topic = unique("shared")
    one, two = client(), client()
    one.subscribe(f"$share/one/{topic}")
    two.subscribe(f"$share/two/{topic}")
    client().publish(topic, b"x", qos=1)
    assert one.message().payload == two.message().payload == b"x"


def test_shared_subscription_gets_no_retained_messages(client):
    topic, both = unique("shared"), client()
    both.publish(topic, b"old", qos=1, retain=True)
    both.subscribe(f"$share/g/{topic}", qos=1)
    both.nothing_before(topic)


def test_shared_subscription_skips_members_who_are_away(client):
    topic, name = unique("shared"), unique("away")
    away = client(client_id=name, props={"session_expiry": 100})
    away.subscribe(f"$share/g/{topic}", qos=1)
    here = client()
    here.subscribe(f"$share/g/{topic}", qos=1)
    away.disconnect()
    sender = client()
    for number in range(20):
        sender.publish(topic, str(number), qos=1)
    assert [int(message.payload) for message in here.messages(20)] == list(range(20))


def test_shared_subscription_prefers_members_with_room(client):
    topic = unique("shared")
    full = client(props={"receive_maximum": 1})
    full.subscribe(f"$share/g/{topic}", qos=1)
    free = client()
    free.subscribe(f"$share/g/{topic}", qos=1)
    sender = client()
    for number in range(21):
        sender.publish(topic, str(number), qos=1)
    got = [int(message.payload) for message in free.messages(20)]
    assert len(set(got)) == 20, "the other holds one, unacknowledged"


def test_shared_subscription_keeps_messages_while_all_members_are_away(client):
    topic, name = unique("shared"), unique("away")
    lasting = {"client_id": name, "props": {"session_expiry": 100}}
    member = client(**lasting)
    member.subscribe(f"$share/g/{topic}", qos=1)
    member.disconnect()
    sender = client()
    for number in range(5):
        sender.publish(topic, str(number), qos=1)
    back = client(clean=False, **lasting)
    assert [message.payload for message in back.messages(5)] == [b"0", b"1", b"2", b"3", b"4"]


def test_shared_subscription_gives_the_open_messages_of_a_dead_member_to_another(client):
    topic = unique("shared")
    dead, other = client(), client()
    dead.subscribe(f"$share/g/{topic}", qos=1)
    client().publish(topic, b"work", qos=1)
    assert dead.expect(mqtt.PUBLISH).payload == b"work"
    other.subscribe(f"$share/g/{topic}", qos=1)
    dead.drop()
    assert other.message().payload == b"work"


def test_shared_subscription_with_no_local_is_a_protocol_error(client):
    raw = client()
    raw.send(mqtt.subscribe(1, [("$share/g/t", mqtt.options(no_local=True))]))
    assert {packet.reason for packet in raw.expect_closed()} <= {0x82}


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("filter", ["a#", "a/#/b", "a+/b", "+a", "$share/g", "$share//t", "$share/g+/t", "$share/g/"])
@pytest.mark.parametrize("version", [4, 5])
def test_bad_filters_are_refused(client, filter, version):
    """The standard leaves the choice: a refusal in the SUBACK, or the end of the connection."""
    raw = client(version)
    raw.send(mqtt.subscribe(1, [(filter, 0)], version=version))
    try:
        answer = raw.receive()
    except mqtt.Closed:
        assert version == 4
        return
    assert answer.kind in (mqtt.SUBACK, mqtt.DISCONNECT)
    assert answer.reason in ((0x8F, 0x81, 0x82) if version == 5 else (0x80,))


def test_subscriptions_are_bounded(start_broker):
    broker = start_broker(limits__subscriptions_per_session=3)
    client = mqtt.Client.open(broker.mqtt)
    assert client.subscribe("a", "b", "c", "d").reasons == [0, 0, 0, 0x97]
    client.close()


def test_refusals_say_why(client):
    sender = client()
    answer = sender.publish("$SYS/x", b"", qos=1)
    assert answer.properties["reason_string"]


def test_maximum_qos_is_granted_and_kept(start_broker):
    broker = start_broker(mqtt__maximum_qos=1)
    client = mqtt.Client.open(broker.mqtt)
    assert client.subscribe("t", qos=2).reasons == [1]
    client.send(mqtt.publish("t", b"", 2, 1))
    assert client.expect_closed()[-1].reason == 0x9B
    client.close()


def test_metrics_count_what_happened(broker, client):
    names = ("polycast_connections_opened_total",)
    before = [broker.metric(name, protocol="mqtt") for name in names]
    client()
    until(lambda: [broker.metric(name, protocol="mqtt") for name in names] > before)
