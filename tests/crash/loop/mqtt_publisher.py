"""An MQTT publisher: keeps what is not acknowledged, and sends it again in order after each crash."""

import asyncio
from collections.abc import Callable
from functools import partial

from .client import Lost, World
from .ledger import Stream
from .mqtt import MqttClient, packet, text


class Open:
    """A message on its way: until PUBACK at QoS 1, until PUBCOMP at QoS 2."""

    __slots__ = ("data", "qos", "received", "resent", "done", "source")

    def __init__(self, data: bytes, qos: int, done: Callable[[], None], source: tuple[Stream, int] | None):
        self.data = data
        self.qos = qos
        self.received = False
        """Whether PUBREC has come."""
        self.resent = False
        """Whether it was sent on more than one connection."""
        self.done = done
        """Called when the broker has promised to deliver it."""
        self.source = source


class MqttPublisher(MqttClient):
    """Publishes its streams in turn, with a full window, as long as the run goes on; and single messages on request."""

    def __init__(self, world: World, name: str, version: int = 5, streams: list[Stream] = (), **options):
        super().__init__(world, name, version, **options)
        self.streams = list(streams)
        self.turn = 0
        self.open_messages: dict[int, Open] = {}
        self.heads = {stream.name: text(stream.topic) for stream in self.streams}

    def forget_connection(self) -> None:
        self.active = False

    def idle(self) -> bool:
        """Nothing is open."""
        return not self.open_messages

    async def resume(self, anew: bool, first: bool) -> None:
        """Sends again what is open: PUBREL where PUBREC has come, PUBLISH otherwise, all in their order [MQTT-4.4.0-1]."""
        if anew:
            # The broker knows of none of them: those that it acknowledged are done, the others are new to it.
            for identifier in [key for key, message in self.open_messages.items() if message.received]:
                del self.open_messages[identifier]
        for identifier, message in self.open_messages.items():
            message.resent = True
            if message.source:
                message.source[0].resent.add(message.source[1])
            if message.received:
                self.answer(0x62, identifier)
            else:
                again = 0 if anew else 0x08
                self.out.append(bytes((message.data[0] | again,)) + message.data[1:])

    def fill(self) -> None:
        """Sends new messages while the window has room."""
        world = self.world
        if not self.streams or world.finishing or world.paused or not self.active:
            return
        while len(self.open_messages) < self.send_quota:
            stream = self.streams[self.turn]
            self.turn = (self.turn + 1) % len(self.streams)
            number, payload = stream.next()
            self._send(self.heads[stream.name], payload, stream.qos, 0, partial(stream.ack, number), (stream, number))

    def after_input(self) -> None:
        self.fill()

    def poke(self) -> None:
        """Goes on after a pause."""
        self.fill()
        self.flush()

    async def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        """Publishes one message and waits until it is acknowledged. After Lost it is still sent again by itself."""
        if not self.active:
            raise Lost
        answer = asyncio.get_running_loop().create_future()
        key = object()
        self.answers[key] = answer
        self._send(text(topic), payload, qos, retain, partial(self.answered, key, None))
        self.flush()
        await answer

    def _send(self, topic: bytes, payload: bytes, qos: int, retain: int, done: Callable[[], object], source=None) -> None:
        identifier = self.free_id(self.open_messages)
        properties = b"\0" if self.version == 5 else b""
        body = topic + identifier.to_bytes(2, "big") + properties + payload
        data = packet(0x30 | qos << 1 | retain, body)
        self.open_messages[identifier] = Open(data, qos, done, source)
        self.out.append(data)

    def on_puback(self, first: int, body: bytes) -> None:
        identifier = body[0] << 8 | body[1]
        message = self.open_messages.get(identifier)
        if message is None or message.qos != 1:
            return self.broken(f"PUBACK {identifier} for nothing")
        if len(body) > 2 and body[2] >= 0x80:
            return self._refused("PUBACK", body[2], identifier)
        del self.open_messages[identifier]
        message.done()

    def on_pubrec(self, first: int, body: bytes) -> None:
        identifier = body[0] << 8 | body[1]
        message = self.open_messages.get(identifier)
        if message is None or message.qos != 2:
            return self.broken(f"PUBREC {identifier} for nothing")
        if len(body) > 2 and body[2] >= 0x80:
            return self._refused("PUBREC", body[2], identifier)
        if not message.received:
            message.received = True
            message.done()
        self.answer(0x62, identifier)

    def on_pubcomp(self, first: int, body: bytes) -> None:
        identifier = body[0] << 8 | body[1]
        message = self.open_messages.get(identifier)
        if message is None or not message.received:
            return self.broken(f"PUBCOMP {identifier} for nothing")
        if len(body) > 2 and body[2] >= 0x80 and not message.resent:
            self.ledger.blame("refused", f"{self.name}: PUBCOMP {body[2]:#x} on the connection of PUBREC {identifier}")
        del self.open_messages[identifier]

    def _refused(self, what: str, reason: int, identifier: int) -> None:
        self.ledger.blame("refused", f"{self.name}: {what} {reason:#x} for {identifier}")
        del self.open_messages[identifier]
