"""Groups, one user's connections, and everyone: the same from every protocol to every other."""

import pytest

from support import json_client, mqtt, stomp
from support.waiting import unique

PROTOCOLS = ["mqtt", "stomp", "json"]


class Member:
    """A client of any protocol that can join, be addressed, and address others."""

    def __init__(self, broker, protocol):
        self.protocol = protocol
        opening = {
            "mqtt": lambda: mqtt.Client.open(broker.mqtt),
            "stomp": lambda: stomp.Client.open(broker.stomp),
            "json": lambda: json_client.Client.open(broker.http),
        }
        self.client = opening[protocol]()

    def join(self, kind: str, name: str) -> None:
        if self.protocol == "mqtt":
            self.client.subscribe({"group": f"$group/{name}", "everyone": "$broadcast"}[kind])
        elif self.protocol == "stomp":
            self.client.subscribe({"group": f"/group/{name}", "everyone": "/broadcast"}[kind], id=kind)
        elif kind == "group":
            self.client.request("join", group=name)

    def leave(self, name: str) -> None:
        if self.protocol == "mqtt":
            self.client.unsubscribe(f"$group/{name}")
        elif self.protocol == "stomp":
            self.client.request("UNSUBSCRIBE", {"id": "group"})
        else:
            self.client.request("leave", group=name)

    def send(self, kind: str, name: str, text: str) -> None:
        if self.protocol == "mqtt":
            self.client.publish({"group": f"$group/{name}", "everyone": "$broadcast"}[kind], text, qos=1)
        elif self.protocol == "stomp":
            self.client.publish({"group": f"/group/{name}", "everyone": "/broadcast"}[kind], text)
        elif kind == "group":
            self.client.request("publish", group=name, data=text)
        else:
            self.client.request("broadcast", data=text)

    def text(self) -> str:
        message = self.client.message()
        if self.protocol == "mqtt":
            return message.payload.decode()
        return message.body.decode() if self.protocol == "stomp" else message["data"]

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def members(broker):
    opened = []

    def open_members(*protocols):
        new = [Member(broker, protocol) for protocol in protocols]
        opened.extend(new)
        return new

    yield open_members
    for member in opened:
        member.close()


@pytest.mark.parametrize("sender", PROTOCOLS)
def test_group_reaches_its_members_of_every_protocol(members, sender):
    name = unique("group")
    receivers = members(*PROTOCOLS)
    for receiver in receivers:
        receiver.join("group", name)
    members(sender)[0].send("group", name, "to all of you")
    assert [receiver.text() for receiver in receivers] == ["to all of you"] * 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_leaving_a_group_ends_it(members, protocol):
    name, mark = unique("group"), unique("group")
    leaver, sender = members(protocol, "mqtt")
    leaver.join("group", name)
    sender.send("group", name, "first")
    assert leaver.text() == "first"
    leaver.leave(name)
    leaver.join("group", mark)
    sender.send("group", name, "no")
    sender.send("group", mark, "mark")
    assert leaver.text() == "mark"


@pytest.mark.parametrize("sender", PROTOCOLS)
def test_broadcast_reaches_everyone_and_json_without_asking(start_broker, sender):
    broker = start_broker()
    receivers = [Member(broker, protocol) for protocol in PROTOCOLS]
    for receiver in receivers:
        receiver.join("everyone", "")
    one = Member(broker, sender)
    one.send("everyone", "", "hear, hear")
    assert [receiver.text() for receiver in receivers] == ["hear, hear"] * 3
    for member in [*receivers, one]:
        member.close()


@pytest.mark.parametrize("sender", PROTOCOLS)
def test_user_topics_reach_who_subscribes_to_them(broker, sender):
    """Anonymous connections have no user; the user's topics are topics all the same."""
    user = unique("user")
    over_mqtt, over_stomp = mqtt.Client.open(broker.mqtt), stomp.Client.open(broker.stomp)
    over_mqtt.subscribe(f"$user/{user}/inbox")
    over_stomp.subscribe(f"/user/{user}/inbox")
    if sender == "mqtt":
        over_mqtt.publish(f"$user/{user}/inbox", b"hello", qos=1)
    elif sender == "stomp":
        over_stomp.publish(f"/user/{user}/inbox", "hello")
    else:
        client = json_client.Client.open(broker.http)
        client.request("publish", user=user, topic="inbox", data="hello")
        client.close()
    assert over_mqtt.message().payload == b"hello"
    message = over_stomp.message()
    assert (message.body, message["destination"]) == (b"hello", f"/user/{user}/inbox")
    over_mqtt.close()
    over_stomp.close()


def test_one_share_group_may_mix_protocols(members, broker):
    topic = unique("mixed")
    over_mqtt, over_stomp, over_json = members(*PROTOCOLS)
    over_mqtt.client.subscribe(f"$share/g/{topic}")
    over_stomp.client.subscribe(f"/topic/{topic}", share="g")
    over_json.client.request("subscribe", topic=topic, share="g")
    sender = members("mqtt")[0]
    for number in range(30):
        sender.client.publish(topic, str(number), qos=1)
    over_mqtt.client.fence()
    over_stomp.client.fence()
    over_json.client.fence()
    shares = [
        [int(packet.payload) for packet in over_mqtt.client.kept],
        [int(frame.body) for frame in over_stomp.client.kept],
        [frame["data"] for frame in over_json.client.kept],
    ]
    assert sorted(int(number) for share in shares for number in share) == list(range(30))
    assert all(len(share) >= 5 for share in shares), "fair"


def test_a_queue_may_mix_protocols(members):
    """The queue of STOMP is a topic of its own for the others."""
    name = unique("mixed")
    over_mqtt, over_stomp = members("mqtt", "stomp")
    over_stomp.client.publish(f"/queue/{name}", "kept")
    over_mqtt.client.subscribe(f"$queue/{name}", qos=1)
    assert over_mqtt.text() == "kept"
    over_mqtt.client.publish(f"$queue/{name}", b"answered", qos=1)
    assert over_mqtt.text() == "answered"
