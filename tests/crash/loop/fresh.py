"""Fresh subscriptions: made and removed until the very moment of the crash, and looked for after it.

A prober subscribes to one new topic after another and unsubscribes from some. After a crash a marker is published to each
of these topics while the prober is still away. When it is back, it has to get those of all topics whose subscription was
acknowledged, and none of those whose removal was.
"""

import asyncio

from .client import Client, Lost, World
from .json_ws import JsonTalker
from .mqtt_publisher import MqttPublisher
from .mqtt_subscriber import MqttSubscriber
from .stomp import StompTalker

BOUND = 20.0
KEPT_AT_MOST = 12
"""Topics that are subscribed at a time."""


class FreshProber:
    """One client of any protocol, which has `subscribe(topic)` and `unsubscribe(topic)`."""

    def __init__(self, world: World, kind: str):
        self.world = world
        self.name = f"fresh-{kind}"
        self.client = self._client(kind)
        self.by_request = kind == "stomp"
        """Whether messages come only after SUBSCRIBE is said again on the new connection."""
        self.on: set[str] = set()
        self.off: set[str] = set()
        self.rechecked: set[str] = set()
        """Removed topics that were subscribed again to see that nothing was kept for them."""
        self.pending: list[str] | None = None
        """Topics that were marked and are awaited; None before the markers are out."""
        self.got: set[str] = set()
        self.count = 0
        self.to_prove = False
        """Whether there was a crash since the last proof."""

    def _client(self, kind: str) -> Client:
        if kind == "stomp":
            return StompTalker(self.world, self.name, self._take)
        if kind == "json":
            return JsonTalker(self.world, self.name, self._take)
        version = 4 if kind == "mqtt3" else 5
        return MqttSubscriber(self.world, self.name, version, [], 1, self._take)

    def _take(self, topic: bytes, payload: bytes, qos: int = 1, dup: bool = False) -> None:
        name = topic.decode()
        if name in self.off or name in self.rechecked:
            story = f"{self.name} got {payload!r} on {name} in {self.world.ledger.now()}"
            self.world.ledger.blame("subscription came back", story)
        self.got.add(name)

    def crashed(self) -> None:
        """The broker was killed: everything has to be proved again."""
        self.pending = None
        self.rechecked.clear()
        self.to_prove = True

    async def mark(self, verifier: MqttPublisher) -> None:
        """Publishes a marker to each topic, while the client is away."""
        self.got.clear()
        topics = sorted(self.off) + sorted(self.on)
        for topic in topics:
            await verifier.publish(topic, b"marker %d" % self.count)
        self.pending = topics

    async def prove(self) -> None:
        """Connects and waits for the markers."""
        removed = len(self.off)
        await self.client.open()
        # What a connection before this one asked for, STOMP does not know on this one.
        self.rechecked.clear()
        if self.by_request:
            await self._ask_again()
        wanted = set(self.on)
        deadline = asyncio.get_running_loop().time() + BOUND
        while not wanted <= self.got:
            if self.client.link is None:
                raise Lost
            if asyncio.get_running_loop().time() > deadline:
                for topic in sorted(wanted - self.got):
                    self.world.ledger.blame("subscription lost", f"{self.name} gets nothing on {topic}")
                    self.on.discard(topic)
                break
            await asyncio.sleep(0.005)
        checks = self.world.ledger.checks
        checks["fresh subscriptions"] += len(wanted & self.got)
        checks["fresh removals"] += removed
        await self._clean_up()
        self.to_prove = False

    async def _ask_again(self) -> None:
        """STOMP delivers what a durable subscription kept when it is subscribed again."""
        for topic in sorted(self.on):
            await self.client.subscribe(topic)
        for topic in sorted(self.off):
            self.off.discard(topic)
            self.rechecked.add(topic)
            await self.client.subscribe(topic)

    async def _clean_up(self) -> None:
        """Forgets what is proved, so that the session stays small."""
        for topic in sorted(self.rechecked):
            # Not asked for twice: STOMP takes the second for a mistake.
            self.rechecked.discard(topic)
            await self.client.unsubscribe(topic)
        self.off.clear()
        while len(self.on) > KEPT_AT_MOST // 2:
            await self._remove(min(self.on))

    async def run(self) -> None:
        """Subscribes and unsubscribes until the connection is lost."""
        rng = self.world.rng
        while True:
            self.count += 1
            topic = f"fresh/{self.name}/{self.count:07}"
            await self.client.subscribe(topic)
            self.on.add(topic)
            if len(self.on) > KEPT_AT_MOST or (len(self.on) > 3 and rng.random() < 0.4):
                await self._remove(rng.choice(sorted(self.on)))
            if len(self.off) > KEPT_AT_MOST:
                self.off.discard(min(self.off))
            await asyncio.sleep(rng.random() * 0.06)

    async def _remove(self, topic: str) -> None:
        self.on.discard(topic)
        await self.client.unsubscribe(topic)
        self.off.add(topic)

    async def cycle(self, verifier: MqttPublisher) -> None:
        """From one start of the broker to its end."""
        if self.to_prove:
            if self.pending is None:
                await self.mark(verifier)
            await self.prove()
        else:
            await self.client.open()
            if self.by_request:
                await self._ask_again()
        await self.run()
