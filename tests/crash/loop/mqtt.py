"""A small strict MQTT client, 3.1.1 and 5, whose session outlives its connections as the standard asks.

Subclasses publish (`mqtt_publisher`) and receive (`mqtt_subscriber`); here is what both need: packets, CONNECT and what the
broker may answer to it. Packets that are due are collected and written together.
"""

import asyncio
import struct

from .broker import HOST
from .client import PATIENCE, Client, Lost, World

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP, DISCONNECT = 2, 3, 4, 5, 6, 7, 9, 11, 13, 14
EXPIRY = 86_400


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2, "big") + data


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


class Will:
    """A last will: QoS 2 if nothing else is said; the delay counts in MQTT 5 only."""

    def __init__(self, topic: str, payload: bytes, delay: int = 0, qos: int = 2):
        self.topic, self.payload, self.delay, self.qos = topic, payload, delay, qos


class MqttClient(Client, asyncio.Protocol):
    """One client identifier over all its connections."""

    def __init__(
        self,
        world: World,
        name: str,
        version: int = 5,
        receive_maximum: int = 32,
        will: Will | None = None,
        expiry: int = EXPIRY,
    ):
        super().__init__(world, name)
        self.version = version
        self.receive_maximum = receive_maximum
        self.will = will
        self.expiry = expiry
        self.send_quota = world.window
        """Open messages that the broker allows; 3.1.1 cannot say it, so it is the same there."""
        self.out: list[bytes] = []
        self.rest = b""
        self.next_id = 0
        self.active = False
        """Whether the session was taken up on this connection."""
        self.handlers = {
            CONNACK: self.on_connack,
            PUBLISH: self.on_publish,
            PUBACK: self.on_puback,
            PUBREC: self.on_pubrec,
            PUBREL: self.on_pubrel,
            PUBCOMP: self.on_pubcomp,
            SUBACK: self.on_suback,
            UNSUBACK: self.on_suback,
            PINGRESP: lambda first, body: None,
            DISCONNECT: self.on_disconnect,
        }

    # Connection.

    async def open(self, clean: bool = False) -> None:
        if self.link:
            return
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().create_connection(lambda: self, HOST, self.world.broker.mqtt)
        first = not self.known
        if clean:
            self.known = self.doubtful = False
        body = await self.ask("CONNACK", lambda: self.link.write(self._connect(clean)))
        if body[1]:
            self.ledger.blame("refused", f"CONNECT of {self.name}: {body[1]:#x}")
            self.leaving = True
            self.link.abort()
            raise Lost
        self.logged_in = True
        if self.version == 5:
            self._read_properties(body[2:])
        anew = self.check_session(bool(body[0] & 1))
        if self.expiry == 0:
            self.known = self.doubtful = False
        await self.resume(anew, first)
        self.active = True
        self.after_input()
        self.flush()

    async def resume(self, anew: bool, first: bool) -> None:
        """Takes up the session: `anew` if the broker has none, `first` if it could have none."""

    def _connect(self, clean: bool) -> bytes:
        if not clean:
            self.doubtful = True
        flags = 2 if clean or (self.version == 4 and self.expiry == 0) else 0
        payload = text(self.name)
        if self.will:
            flags |= 4 | self.will.qos << 3
            if self.version == 5:
                delay = b"\x18" + self.will.delay.to_bytes(4, "big") if self.will.delay else b""
                payload += varint(len(delay)) + delay
            payload += text(self.will.topic) + text(self.will.payload)
        head = text("MQTT") + bytes((self.version, flags)) + (1200).to_bytes(2, "big")
        if self.version == 5:
            properties = b"\x11" + self.expiry.to_bytes(4, "big") + b"\x21" + self.receive_maximum.to_bytes(2, "big")
            head += varint(len(properties)) + properties
        return packet(0x10, head + payload)

    def _read_properties(self, data: bytes) -> None:
        """Takes the broker's receive maximum (0x21) out of CONNACK; of the others only the length counts."""
        sizes = {0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
        at, end = 1, 1 + data[0]
        if data[0] > 127:
            at, end = 2, 2 + (data[0] & 127 | data[1] << 7)
        while at < end:
            kind = data[at]
            at += 1
            if kind == 0x21:
                self.send_quota = min(self.world.window, struct.unpack_from(">H", data, at)[0])
            if kind == 0x26:
                at += 2 + struct.unpack_from(">H", data, at)[0]
                at += 2 + struct.unpack_from(">H", data, at)[0]
            elif kind in sizes:
                at += sizes[kind]
            else:
                at += 2 + struct.unpack_from(">H", data, at)[0]

    def say_goodbye(self) -> None:
        self.flush()
        self.link.write(b"\xe0\x00")

    # Bytes.

    def connection_made(self, transport) -> None:
        self.rest = b""
        self.out.clear()
        self.active = False
        self.opened(transport)

    def connection_lost(self, error) -> None:
        self.ended()

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        at, end = 0, len(data)
        handlers = self.handlers
        while end - at >= 2:
            length, body = data[at + 1], at + 2
            if length > 127:
                length &= 127
                shift = 7
                while body < end:
                    byte = data[body]
                    body += 1
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                else:
                    break
            if body + length > end:
                break
            first = data[at]
            handler = handlers.get(first >> 4)
            if handler is None:
                self.broken(f"packet type {first >> 4}")
                return
            handler(first, data[body : body + length])
            at = body + length
        self.rest = data[at:]
        self.after_input()
        if self.out:
            self.flush()

    def after_input(self) -> None:
        """All complete packets were read."""

    def flush(self) -> None:
        if self.out and self.link:
            self.link.write(b"".join(self.out))
        self.out.clear()

    def answer(self, first: int, identifier: int) -> None:
        """Adds an acknowledgement (reason 0) to what is written next."""
        self.out.append(bytes((first, 2, identifier >> 8, identifier & 255)))

    def free_id(self, open_ids) -> int:
        """The next identifier that is not open. The range is short, so that each is used again and again."""
        while True:
            self.next_id = self.next_id % 150 + 1
            if self.next_id not in open_ids:
                return self.next_id

    def broken(self, what: str) -> None:
        """The broker broke the protocol."""
        self.ledger.blame("protocol", f"{self.name}: {what}")
        self.leaving = True
        if self.link:
            self.link.abort()

    # Packets.

    def on_connack(self, first: int, body: bytes) -> None:
        if not self.answered("CONNACK", body):
            self.broken("CONNACK that nobody waits for")

    def on_disconnect(self, first: int, body: bytes) -> None:
        self.final_words = f"DISCONNECT {body[0] if body else 0:#x} {body[1:]!r}"

    def on_suback(self, first: int, body: bytes) -> None:
        if not self.answered(int.from_bytes(body[:2], "big"), body):
            self.broken("SUBACK or UNSUBACK that nobody waits for")

    def on_publish(self, first: int, body: bytes) -> None:
        self.broken("PUBLISH to a client without subscriptions")

    def on_puback(self, first: int, body: bytes) -> None:
        self.broken("PUBACK to a client that publishes nothing")

    on_pubrec = on_pubcomp = on_puback

    def on_pubrel(self, first: int, body: bytes) -> None:
        self.broken("PUBREL to a client without subscriptions")


async def stay(client: Client, ending: asyncio.Event) -> None:
    """Keeps a client connected whenever the broker is there, until `ending`."""
    broker = client.world.broker
    while not ending.is_set():
        await broker.up.wait()
        try:
            await client.open()
        except (Lost, OSError, TimeoutError):
            await asyncio.sleep(0.01)
            continue
        await client.closed.wait()
