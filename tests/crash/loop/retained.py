"""Retained messages: set and deleted until the very moment of the crash, and read by a new client after it.

Allowed is the last acknowledged value, or any later one that was sent and not answered. A keeper comes back, and sends what
was not answered again, only when its topics were read.
"""

import asyncio
from dataclasses import dataclass, field

from .client import Client, Lost, World
from .json_ws import JsonTalker
from .mqtt_publisher import MqttPublisher
from .mqtt_subscriber import MqttSubscriber
from .stomp import StompTalker

TOPICS = 6
BOUND = 15.0


@dataclass
class Kept:
    """One topic: the last acknowledged value, None if there is none, and what was sent since."""

    value: bytes | None = None
    since: list[bytes | None] = field(default_factory=list)

    def allowed(self) -> list[bytes | None]:
        return [self.value, *self.since]


class Keeper:
    """One publisher of retained messages, of any protocol."""

    def __init__(self, world: World, kind: str):
        self.world = world
        self.name = f"keeper-{kind}"
        self.qos = 2 if kind == "mqtt3" else 1
        self.client = self._client(kind)
        self.resends = kind.startswith("mqtt")
        """Whether what was not answered is sent again by the client itself."""
        self.topics = {f"kept/{self.name}/{number}": Kept() for number in range(TOPICS)}
        self.count = 0

    def _client(self, kind: str) -> Client:
        if kind == "stomp":
            return StompTalker(self.world, self.name, lambda topic, payload: None)
        if kind == "json":
            return JsonTalker(self.world, self.name, lambda topic, payload: None)
        return MqttPublisher(self.world, self.name, 4 if kind == "mqtt3" else 5)

    async def run(self) -> None:
        """Sets and deletes until the connection is lost."""
        rng = self.world.rng
        await self.client.open()
        if self.resends:
            while not self.client.idle():
                if self.client.link is None:
                    raise Lost
                await asyncio.sleep(0.005)
            for kept in self.topics.values():
                if kept.since:
                    kept.value = kept.since[-1]
                    kept.since.clear()
        while True:
            self.count += 1
            topic = rng.choice(sorted(self.topics))
            kept = self.topics[topic]
            value = None if rng.random() < 0.25 else b"%s value %d" % (self.name.encode(), self.count)
            if self.resends and not self.client.active:
                # Nothing is sent, so nothing will be sent again.
                raise Lost
            kept.since.append(value)
            await self.client.publish(topic, value or b"", self.qos, retain=True)
            kept.value = value
            kept.since.clear()
            await asyncio.sleep(rng.random() * 0.01)


class Reader:
    """Reads what is kept with a client that never was there before."""

    def __init__(self, world: World, keepers: list[Keeper]):
        self.world = world
        self.keepers = keepers
        self.count = 0
        self.to_prove = False

    def crashed(self) -> None:
        self.to_prove = True

    async def prove(self) -> None:
        """Compares all topics with what may be there."""
        self.count += 1
        found: dict[str, bytes] = {}

        def take(topic: bytes, payload: bytes, qos: int, dup: bool) -> None:
            found[topic.decode()] = payload

        reader = MqttSubscriber(self.world, f"reader-{self.count}", 5, ["kept/#", "read/#"], 1, take, expiry=0)
        writer = MqttPublisher(self.world, f"reader-writer-{self.count}", 5, expiry=0)
        try:
            await self._read(reader, writer, found)
        finally:
            reader.drop()
            writer.drop()
        self.to_prove = False

    async def _read(self, reader: MqttSubscriber, writer: MqttPublisher, found: dict[str, bytes]) -> None:
        await reader.open()
        expected = {topic: kept for keeper in self.keepers for topic, kept in keeper.topics.items()}
        certain = {topic for topic, kept in expected.items() if None not in kept.allowed()}
        deadline = asyncio.get_running_loop().time() + BOUND
        while not certain <= found.keys() and asyncio.get_running_loop().time() < deadline:
            if reader.link is None:
                raise Lost
            await asyncio.sleep(0.005)
        await self._round_trip(reader, writer, found)
        for topic, kept in expected.items():
            self._judge(topic, kept, found.get(topic))

    async def _round_trip(self, reader: MqttSubscriber, writer: MqttPublisher, found: dict[str, bytes]) -> None:
        """A live message behind the retained ones, so that one too many has come before it."""
        await writer.open()
        topic = f"read/{self.count}"
        await writer.publish(topic, b"end")
        deadline = asyncio.get_running_loop().time() + BOUND
        while topic not in found and reader.link and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.005)
        if reader.link is None:
            raise Lost

    def _judge(self, topic: str, kept: Kept, value: bytes | None) -> None:
        ledger = self.world.ledger
        if value in kept.allowed():
            ledger.checks["retained"] += 1
        else:
            kind = "retained came back" if kept.allowed() == [None] else "retained lost"
            ledger.blame(kind, f"{topic} has {value!r}, allowed is {kept.allowed()} in {ledger.now()}")
            # Told once; the next value counts from here.
            kept.value = value
