"""Last wills over crashes: each is published exactly once if its client was lost, and never if it came back or left.

| client | what happens to it | its will |
|---|---|---|
| now | is connected when the broker is killed, and stays away | once |
| cut | its connection breaks just before | once |
| late | the same, with a will delay of a second (MQTT 5) | once |
| back | the same, with a long delay, and it comes back after the restart | never |
| gone | left with DISCONNECT, and a clean start ended its session | never |
"""

import asyncio

from .client import World
from .mqtt import MqttClient, Will
from .mqtt_subscriber import MqttSubscriber

LONG = 3600


class Wills:
    """Makes the clients of each cycle and watches their wills with a durable QoS 2 subscriber."""

    def __init__(self, world: World):
        self.world = world
        self.watcher = MqttSubscriber(world, "will-watcher", 5, ["will/#"], 2, self._take)
        self.seen: set[str] = set()
        self.expected: dict[str, int] = {}
        """Wills that have to come, and the cycles that they are from."""
        self.never: set[str] = set()
        self.living: dict[str, MqttClient] = {}
        """Clients whose will has to come if the broker is killed now."""
        self.returning: list[MqttClient] = []
        self.finished: list[MqttClient] = []
        self.count = 0

    def _take(self, topic: bytes, payload: bytes, qos: int, dup: bool) -> None:
        ledger = self.world.ledger
        name = payload.decode()
        if topic.decode() != f"will/{name}":
            ledger.blame("damaged message", f"will {name} on {topic!r}")
        if name in self.seen:
            ledger.blame("will twice", f"{name} in {ledger.now()}")
        elif name in self.never:
            ledger.blame("will without cause", f"{name} in {ledger.now()}")
        else:
            ledger.checks["wills"] += 1
        self.seen.add(name)

    def missing(self) -> list[str]:
        return [name for name in self.expected if name not in self.seen]

    def check(self) -> None:
        """All that are expected have to be here by now."""
        for name in self.missing():
            self.world.ledger.blame("will missing", f"{name} (of cycle {self.expected[name]})")
            self.seen.add(name)
        self.expected.clear()

    def crashed(self) -> None:
        """The broker was killed: those that were connected or cut are owed their will."""
        for name, client in self.living.items():
            self.expected[name] = self.world.ledger.cycle
            self.finished.append(client)
        self.living.clear()

    async def cycle(self) -> None:
        """From one start of the broker to its end."""
        await self._come_back()
        number = self.count = self.count + 1
        await self._leave_in_peace(f"gone-{number}")
        now = await self._appear(f"now-{number}", 4 + number % 2, 0)
        self.living[now.name] = now
        late = await self._appear(f"late-{number}", 5, 1)
        cut = await self._appear(f"cut-{number}", 4 + (number + 1) % 2, 0)
        back = await self._appear(f"back-{number}", 5, LONG)
        self.never.add(back.name)
        self.returning.append(back)
        self.living |= {late.name: late, cut.name: cut}
        # Each breaks at a moment of its own, if the broker is not killed before.
        for client in self.world.rng.sample([late, cut, back], 3):
            await asyncio.sleep(self.world.rng.random() * 0.5)
            await client.close(abruptly=True)
            if client is not back:
                # From here on the broker owes the will even if it is not killed.
                self.expected[client.name] = self.world.ledger.cycle

    async def _appear(self, name: str, version: int, delay: int) -> MqttClient:
        will = Will(f"will/{name}", name.encode(), delay)
        client = MqttClient(self.world, name, version, will=will)
        await client.open()
        return client

    async def _leave_in_peace(self, name: str) -> None:
        """DISCONNECT is not answered; the CONNACK to a clean start says that nothing is left, a will included."""
        client = await self._appear(name, 5, 0)
        await client.close()
        await self._end_session(client)
        self.never.add(name)

    async def _end_session(self, client: MqttClient) -> None:
        ender = MqttClient(self.world, client.name, client.version, expiry=0)
        await ender.open(clean=True)
        await ender.close()

    async def _come_back(self) -> None:
        """Those with a long delay are back: their will is void [MQTT-3.1.3-9]."""
        while self.returning:
            client = self.returning[0]
            # Without a will: the CONNACK promises that there is none, which DISCONNECT could not.
            back = MqttClient(self.world, client.name, client.version)
            await back.open()
            await back.close()
            self.world.ledger.checks["wills withdrawn"] += 1
            self.finished.append(client)
            self.returning.pop(0)

    async def clear(self) -> None:
        """Ends the sessions of clients that are done; only when all wills are in."""
        while self.finished:
            await self._end_session(self.finished.pop())

    async def finish(self) -> None:
        """The end of the run: whoever is connected breaks off."""
        for client in list(self.living.values()):
            await client.close(abruptly=True)
        self.crashed()
