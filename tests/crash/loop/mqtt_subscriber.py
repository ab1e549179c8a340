"""An MQTT subscriber that takes the standard by its word.

At QoS 2 it hands a message on when its PUBLISH comes, and keeps the packet identifier until PUBREL, over any number of
connections: what comes under an identifier that is still open is discarded [MQTT-4.3.3-10], and noted if it is another
message. Now and then it holds back its acknowledgements, so that a crash finds messages at every stage.
"""

from collections.abc import Callable

from .client import World
from .mqtt import MqttClient, packet, text

HELD_AT_MOST = 12


class MqttSubscriber(MqttClient):
    """Hands each message to `take(topic, payload, qos, dup)`, which returns what names it."""

    def __init__(self, world: World, name: str, version: int, filters: list[str], qos: int, take: Callable, **options):
        super().__init__(world, name, version, **options)
        self.filters = filters
        self.qos = qos
        self.take = take
        self.holds = False
        """Whether acknowledgements are held back for a while."""
        self.held: list[tuple[int, int]] = []
        self.open_ids: dict[int, object] = {}
        """QoS 2: identifiers between PUBLISH and PUBREL, and the messages they stand for."""
        self.unanswered: dict[int, object] = {}
        """Identifiers whose PUBACK or PUBREC was not written on this connection, with their messages."""
        self.due_again: dict[int, object] = {}
        """The same from earlier connections: these have to come again, in this order."""
        self.using: set[int] = set()
        """Identifiers that count against the receive maximum."""
        self.flooded = False
        """Whether this connection has had more of them than it allows; told once."""

    def idle(self) -> bool:
        return not (self.open_ids or self.held or self.due_again)

    def forget_connection(self) -> None:
        self.due_again = self.unanswered | self.due_again
        self.unanswered = {}
        self.held.clear()
        self.using.clear()
        self.flooded = False

    async def resume(self, anew: bool, first: bool) -> None:
        if anew:
            self.open_ids.clear()
            self.due_again.clear()
        if anew or first:
            for one in self.filters:
                await self.subscribe(one, self.qos)

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        identifier = self.free_id(self.answers)
        properties = b"\0" if self.version == 5 else b""
        body = identifier.to_bytes(2, "big") + properties + text(topic_filter) + bytes((qos,))
        answer = await self.ask(identifier, lambda: self.link.write(packet(0x82, body)))
        if answer[-1] != qos:
            self.ledger.blame("refused", f"{self.name}: SUBACK {answer[-1]:#x} for {topic_filter} at QoS {qos}")

    async def unsubscribe(self, topic_filter: str) -> None:
        identifier = self.free_id(self.answers)
        properties = b"\0" if self.version == 5 else b""
        body = identifier.to_bytes(2, "big") + properties + text(topic_filter)
        answer = await self.ask(identifier, lambda: self.link.write(packet(0xA2, body)))
        if self.version == 5 and answer[-1] != 0:
            self.ledger.blame("subscription lost", f"{self.name}: UNSUBACK {answer[-1]:#x} for {topic_filter}")

    def on_publish(self, first: int, body: bytes) -> None:
        end = 2 + (body[0] << 8 | body[1])
        topic = body[2:end]
        qos = first >> 1 & 3
        identifier = 0
        if qos:
            identifier = body[end] << 8 | body[end + 1]
            end += 2
        if self.version == 5:
            size, end = body[end], end + 1
            if size > 127:
                size, end = size & 127 | body[end] << 7, end + 1
            end += size
        payload = body[end:]
        if qos == 0:
            self.take(topic, payload, 0, False)
        elif identifier == 0:
            self.broken("PUBLISH with packet identifier 0")
        elif qos == 1:
            self._at_least_once(identifier, topic, payload, bool(first & 8))
        else:
            self._exactly_once(identifier, topic, payload, bool(first & 8))

    def _at_least_once(self, identifier: int, topic: bytes, payload: bytes, dup: bool) -> None:
        message = (topic, payload)
        if identifier in self.unanswered:
            self._reused(identifier, self.unanswered[identifier], message)
        elif identifier in self.due_again:
            self._came_again(identifier, message, dup)
        self._count(identifier)
        self.take(topic, payload, 1, dup)
        self._answer(0x40, identifier, message)

    def _exactly_once(self, identifier: int, topic: bytes, payload: bytes, dup: bool) -> None:
        message = (topic, payload)
        known = self.open_ids.get(identifier)
        if identifier in self.using:
            self._reused(identifier, known, message)
        elif identifier in self.due_again:
            self._came_again(identifier, message, dup)
        elif known is not None and known != message:
            self._reused(identifier, known, message)
        elif known is not None and not dup:
            self.ledger.blame("again without DUP", f"{self.name}: {show(message)} under {identifier}")
        self._count(identifier)
        if known is None:
            self.open_ids[identifier] = message
            self.take(topic, payload, 2, dup)
        self._answer(0x50, identifier, message)

    def _came_again(self, identifier: int, message, dup: bool) -> None:
        """A message that had no answer comes again after a reconnect, as it must."""
        before = self.due_again[identifier]
        if before != message:
            self._reused(identifier, before, message)
        elif not dup:
            self.ledger.blame("again without DUP", f"{self.name}: {show(message)} under {identifier}")
        elif next(iter(self.due_again)) != identifier:
            self.ledger.blame("sent again out of order", f"{self.name}: {show(message)} under {identifier}")
        else:
            self.ledger.checks["sent again"] += 1
        del self.due_again[identifier]

    def _reused(self, identifier: int, before, message) -> None:
        story = f"{self.name}: {show(message)} under {identifier}, which is open for {show(before)}"
        self.ledger.blame("identifier reused" if before != message else "sent twice", story)

    def _count(self, identifier: int) -> None:
        self.using.add(identifier)
        if self.version == 5 and len(self.using) > self.receive_maximum and not self.flooded:
            self.flooded = True
            self.ledger.blame("receive maximum", f"{self.name}: more than {self.receive_maximum} messages open")

    def _answer(self, first: int, identifier: int, message) -> None:
        self.unanswered[identifier] = message
        if self.holds or self.held:
            self._hold(first, identifier)
        else:
            self._write(first, identifier)

    def on_pubrel(self, first: int, body: bytes) -> None:
        identifier = body[0] << 8 | body[1]
        if self.open_ids.pop(identifier, None) is None:
            self.ledger.notes["PUBREL again"] += 1
        elif identifier in self.unanswered or identifier in self.due_again:
            self.ledger.blame("PUBREL without PUBREC", f"{self.name}: {identifier}")
            self.unanswered.pop(identifier, None)
            self.due_again.pop(identifier, None)
        elif identifier not in self.using:
            self.ledger.checks["PUBREL first"] += 1
        if self.holds or self.held:
            self._hold(0x70, identifier)
        else:
            self._write(0x70, identifier)

    def _hold(self, first: int, identifier: int) -> None:
        self.held.append((first, identifier))
        if len(self.held) >= HELD_AT_MOST:
            self.release()
        else:
            self.world.touched.add(self)

    def release(self) -> None:
        """Writes what was held back."""
        for first, identifier in self.held:
            self._write(first, identifier)
        self.held.clear()
        self.flush()

    def _write(self, first: int, identifier: int) -> None:
        self.answer(first, identifier)
        if first != 0x70:
            self.unanswered.pop(identifier, None)
        if first != 0x50:
            self.using.discard(identifier)


def show(message) -> str:
    if message is None:
        return "nothing"
    topic, payload = message
    return f"{payload[:40]!r} on {topic.decode(errors='replace')}"
