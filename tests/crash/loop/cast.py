"""Who takes part: the publishers with their streams, the receivers with their inboxes.

Topics are `load/CLASS/PUBLISHER/N`. The classes are q1 and q2 (MQTT by QoS), stomp, json and paho. Every receiver except the
consumers of a queue is a durable session.
"""

from dataclasses import dataclass, field

from .client import Client, World
from .json_ws import JsonPublisher, JsonSubscriber
from .mqtt_publisher import MqttPublisher
from .mqtt_subscriber import MqttSubscriber
from .paho_pair import PahoPair
from .stomp import StompPublisher, StompSubscriber


@dataclass
class Cast:
    """All load clients of a run."""

    publishers: list = field(default_factory=list)
    live: list[Client] = field(default_factory=list)
    """Receivers that are always there."""
    roving: list[Client] = field(default_factory=list)
    """Receivers that come and go."""
    paho: PahoPair | None = None

    @property
    def receivers(self) -> list[Client]:
        return self.live + self.roving


def assemble(world: World, without: set[str]) -> Cast:
    """Makes everybody."""
    cast = Cast()
    protocols = world.broker.protocols - without
    _mqtt_publishers(world, cast)
    if "stomp" in protocols:
        _stomp(world, cast)
    if "json" in protocols:
        _json(world, cast)
    _mqtt_receivers(world, cast)
    if "share" not in without:
        _groups(world, cast)
    if "paho" not in without:
        ledger = world.ledger
        streams = [ledger.stream(f"paho-{qos}", "paho", f"load/paho/pair/{qos}", qos) for qos in (1, 2)]
        for stream in streams:
            # Paho forgets over two attempts to reconnect that it has sent PUBREL, and publishes again.
            stream.by_others = True
        inbox = ledger.inbox("paho subscriber", "paho", ["load/paho/#", "load/q2/mqtt5-q2/#"], 2)
        cast.paho = PahoPair(world, streams, inbox)
    world.ledger.connect()
    return cast


def _mqtt_publishers(world: World, cast: Cast) -> None:
    for version, qos in ((4, 1), (5, 1), (4, 2), (5, 2)):
        name = f"mqtt{3 if version == 4 else 5}-q{qos}"
        streams = [world.ledger.stream(f"{name}-{n}", called(version), f"load/q{qos}/{name}/{n}", qos) for n in (1, 2)]
        cast.publishers.append(MqttPublisher(world, name, version, streams))


def called(version: int) -> str:
    return "mqtt 3.1.1" if version == 4 else "mqtt 5"


def _mqtt_receivers(world: World, cast: Cast) -> None:
    every = ["load/#"]
    both = ["load/q1/#", "load/q2/#"]
    plan = [
        # name, version, QoS, filters, whether it is always there
        ("live-q2", 5, 2, every, True),
        ("live-q1", 4, 1, both, True),
        ("roving-q2", 4, 2, ["load/q2/#", "load/stomp/#"], False),
        ("roving-q2-v5", 5, 2, ["load/q2/#", "load/q1/mqtt3-q1/#"], False),
        ("roving-q1", 5, 1, every, False),
    ]
    for name, version, qos, filters, always in plan:
        inbox = world.ledger.inbox(name, called(version), filters, qos)
        client = MqttSubscriber(world, name, version, filters, qos, inbox.take, receive_maximum=40)
        (cast.live if always else cast.roving).append(client)


def _groups(world: World, cast: Cast) -> None:
    for qos in (1, 2):
        selected = f"$share/group{qos}/load/q{qos}/#"
        inbox = world.ledger.inbox(f"group-q{qos}", "mqtt $share", [selected], qos, ordered=False)
        for member, version in (("a", 4), ("b", 5)):
            name = f"group-q{qos}-{member}"
            cast.roving.append(MqttSubscriber(world, name, version, [selected], qos, inbox.take))


def _stomp(world: World, cast: Cast) -> None:
    ledger = world.ledger
    streams = [
        ledger.stream("stomp-1", "stomp", "load/stomp/pub/1", 1),
        ledger.stream("stomp-2", "stomp", "load/stomp/pub/2", 2),
    ]
    cast.publishers.append(StompPublisher(world, "stomp-publisher", streams))
    queues = [ledger.stream(f"queue-{name}", "stomp", f"$queue/{name}", 1) for name in ("one", "two")]
    cast.publishers.append(StompPublisher(world, "stomp-queue-publisher", queues))
    durable = ledger.inbox("stomp-durable", "stomp", ["load/+/+/1"], 1)
    cast.roving.append(StompSubscriber(world, "stomp-durable", durable, "load/+/+/1", durable=True))
    one = ledger.inbox("queue-one", "stomp queue", ["$queue/one"], 1)
    cast.roving.append(StompSubscriber(world, "consumer-one", one, "$queue/one", durable=False))
    two = ledger.inbox("queue-two", "stomp queue", ["$queue/two"], 1, ordered=False)
    for member in ("a", "b"):
        cast.roving.append(StompSubscriber(world, f"consumer-two-{member}", two, "$queue/two", durable=False))


def _json(world: World, cast: Cast) -> None:
    ledger = world.ledger
    streams = [ledger.stream(f"json-{n}", "json", f"load/json/pub/{n}", 1) for n in (1, 2)]
    cast.publishers.append(JsonPublisher(world, "json-publisher", streams))
    inbox = ledger.inbox("json-session", "json", ["load/json/#", "load/q1/mqtt5-q1/#", "load/stomp/pub/2"], 1)
    cast.roving.append(JsonSubscriber(world, "json-session", inbox))
