"""MQTT 3.1.1 and 5 packets, written and read byte by byte, and a client that shows each of them.

Independent of Polycast's codec on purpose. It checks nothing that a test did not ask for, so it
can say what a good client would never say.
"""

import socket
import struct
from dataclasses import dataclass, field

from .waiting import PATIENCE, unique

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = 8, 9, 10, 11, 12, 13, 14, 15

PROPERTIES = {
    "payload_format": (0x01, "byte"),
    "message_expiry": (0x02, "four"),
    "content_type": (0x03, "text"),
    "response_topic": (0x08, "text"),
    "correlation_data": (0x09, "data"),
    "subscription_identifier": (0x0B, "varint"),
    "session_expiry": (0x11, "four"),
    "assigned_client_id": (0x12, "text"),
    "server_keep_alive": (0x13, "two"),
    "authentication_method": (0x15, "text"),
    "authentication_data": (0x16, "data"),
    "request_problem_information": (0x17, "byte"),
    "will_delay": (0x18, "four"),
    "request_response_information": (0x19, "byte"),
    "response_information": (0x1A, "text"),
    "server_reference": (0x1C, "text"),
    "reason_string": (0x1F, "text"),
    "receive_maximum": (0x21, "two"),
    "topic_alias_maximum": (0x22, "two"),
    "topic_alias": (0x23, "two"),
    "maximum_qos": (0x24, "byte"),
    "retain_available": (0x25, "byte"),
    "user": (0x26, "pair"),
    "maximum_packet_size": (0x27, "four"),
    "wildcard_available": (0x28, "byte"),
    "identifiers_available": (0x29, "byte"),
    "shared_available": (0x2A, "byte"),
}
NAMES = {number: (name, kind) for name, (number, kind) in PROPERTIES.items()}
REPEATED = ("user", "subscription_identifier")


class Closed(Exception):
    """The broker closed the connection."""


# --- writing ------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def data(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(raw)) + raw


def _value(kind: str, value) -> bytes:
    if kind == "byte":
        return bytes([value])
    if kind == "two":
        return struct.pack(">H", value)
    if kind == "four":
        return struct.pack(">I", value)
    if kind == "varint":
        return varint(value)
    if kind == "pair":
        return data(value[0]) + data(value[1])
    return data(value)


def properties(values: dict | None) -> bytes:
    """A property block with its length."""
    out = b""
    for name, value in (values or {}).items():
        number, kind = PROPERTIES[name]
        for one in value if name in REPEATED and isinstance(value, list) else [value]:
            out += bytes([number]) + _value(kind, one)
    return varint(len(out)) + out


def packet(kind: int, flags: int, body: bytes) -> bytes:
    return bytes([kind << 4 | flags]) + varint(len(body)) + body


@dataclass
class Will:
    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: dict | None = None


def connect(
    client_id="",
    version=5,
    clean=True,
    keep_alive=60,
    props=None,
    will: Will | None = None,
    username=None,
    password=None,
) -> bytes:
    flags = (0x02 if clean else 0) | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    if will:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
    body = data("MQTT") + bytes([version, flags]) + struct.pack(">H", keep_alive)
    if version == 5:
        body += properties(props)
    body += data(client_id)
    if will:
        body += (properties(will.properties) if version == 5 else b"") + data(will.topic) + data(will.payload)
    for credential in (username, password):
        if credential is not None:
            body += data(credential)
    return packet(CONNECT, 0, body)


def publish(topic, payload=b"", qos=0, packet_id=None, retain=False, dup=False, props=None, version=5) -> bytes:
    payload = payload.encode() if isinstance(payload, str) else payload
    body = data(topic)
    if packet_id is not None:
        body += struct.pack(">H", packet_id)
    if version == 5:
        body += properties(props)
    return packet(PUBLISH, (8 if dup else 0) | qos << 1 | (1 if retain else 0), body + payload)


def acknowledge(kind: int, packet_id: int, reason: int | None = None) -> bytes:
    body = struct.pack(">H", packet_id) + (b"" if reason is None else bytes([reason]))
    return packet(kind, 2 if kind == PUBREL else 0, body)


def options(qos=0, no_local=False, retain_as_published=False, retain_handling=0) -> int:
    return qos | (4 if no_local else 0) | (8 if retain_as_published else 0) | retain_handling << 4


def subscribe(packet_id: int, filters: list[tuple[str, int]], props=None, version=5) -> bytes:
    body = struct.pack(">H", packet_id) + (properties(props) if version == 5 else b"")
    body += b"".join(data(filter) + bytes([option]) for filter, option in filters)
    return packet(SUBSCRIBE, 2, body)


def unsubscribe(packet_id: int, filters: list[str], version=5) -> bytes:
    body = struct.pack(">H", packet_id) + (properties(None) if version == 5 else b"")
    return packet(UNSUBSCRIBE, 2, body + b"".join(map(data, filters)))


def disconnect(reason: int | None = None, props=None) -> bytes:
    body = b"" if reason is None else bytes([reason]) + properties(props)
    return packet(DISCONNECT, 0, body)


# --- reading ------------------------------------------------------------------------------------


@dataclass
class Packet:
    """A packet from the broker; fields that its kind does not have keep their defaults."""

    kind: int
    flags: int = 0
    topic: str = ""
    payload: bytes = b""
    packet_id: int | None = None
    reason: int = 0
    reasons: list[int] = field(default_factory=list)
    session_present: bool = False
    properties: dict = field(default_factory=dict)

    @property
    def qos(self) -> int:
        return self.flags >> 1 & 3

    @property
    def retain(self) -> bool:
        return bool(self.flags & 1)

    @property
    def dup(self) -> bool:
        return bool(self.flags & 8)


class _Reader:
    def __init__(self, body: bytes):
        self.body = body
        self.at = 0

    def take(self, count: int) -> bytes:
        assert self.at + count <= len(self.body), f"packet ends early: {self.body.hex()}"
        self.at += count
        return self.body[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.body) - self.at)

    def more(self) -> bool:
        return self.at < len(self.body)

    def two(self) -> int:
        return struct.unpack(">H", self.take(2))[0]

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            digit = self.take(1)[0]
            value |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                return value

    def data(self) -> bytes:
        return self.take(self.two())

    def value(self, kind: str):
        if kind == "byte":
            return self.take(1)[0]
        if kind == "two":
            return self.two()
        if kind == "four":
            return struct.unpack(">I", self.take(4))[0]
        if kind == "varint":
            return self.varint()
        if kind == "pair":
            return (self.data().decode(), self.data().decode())
        return self.data().decode() if kind == "text" else self.data()

    def properties(self) -> dict:
        end = self.varint() + self.at
        values: dict = {}
        while self.at < end:
            name, kind = NAMES[self.take(1)[0]]
            value = self.value(kind)
            if name in REPEATED:
                values.setdefault(name, []).append(value)
            else:
                assert name not in values, f"{name} twice"
                values[name] = value
        assert self.at == end, "properties longer than said"
        return values


def decode(head: int, body: bytes, version: int) -> Packet:
    reader = _Reader(body)
    kind, flags = head >> 4, head & 15
    out = Packet(kind, flags)
    if kind == CONNACK:
        out.session_present = bool(reader.take(1)[0] & 1)
        out.reason = reader.take(1)[0]
        if version == 5 and reader.more():
            out.properties = reader.properties()
    elif kind == PUBLISH:
        out.topic = reader.data().decode()
        if out.qos:
            out.packet_id = reader.two()
        if version == 5:
            out.properties = reader.properties()
        out.payload = reader.rest()
    elif kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        out.packet_id = reader.two()
        _reason(out, reader)
    elif kind in (SUBACK, UNSUBACK):
        out.packet_id = reader.two()
        if version == 5:
            out.properties = reader.properties()
        out.reasons = list(reader.rest())
        out.reason = out.reasons[0] if out.reasons else 0
    elif kind in (DISCONNECT, AUTH):
        _reason(out, reader)
    assert not reader.more(), f"bytes left over in {out}: {body.hex()}"
    return out


def _reason(out: Packet, reader: _Reader) -> None:
    if reader.more():
        out.reason = reader.take(1)[0]
    if reader.more():
        out.properties = reader.properties()


# --- a client -----------------------------------------------------------------------------------


class Client:
    """A connection that shows every packet. `stream` is a socket or a WebSocket."""

    def __init__(self, stream, version: int = 5):
        self.stream = stream
        self.version = version
        self.input = b""
        self.kept: list[Packet] = []
        self.last_id = 0
        self.client_id = ""
        self.connack: Packet | None = None
        stream.settimeout(PATIENCE)

    @classmethod
    def plain(cls, port: int, version: int = 5) -> "Client":
        """Opens a socket and says nothing."""
        return cls(socket.create_connection(("127.0.0.1", port)), version)

    @classmethod
    def open(cls, port: int, version: int = 5, **options) -> "Client":
        """Opens a socket and logs in."""
        client = cls.plain(port, version)
        client.login(**options)
        return client

    def login(self, client_id: str | None = None, expect_reason: int = 0, **options) -> Packet:
        self.client_id = unique("client") if client_id is None else client_id
        self.send(connect(self.client_id, self.version, **options))
        self.connack = self.expect(CONNACK)
        assert self.connack.reason == expect_reason, self.connack
        return self.connack

    def send(self, raw: bytes) -> None:
        self.stream.sendall(raw)

    def receive(self) -> Packet:
        """The next packet; [`Closed`] at the end."""
        if self.kept:
            return self.kept.pop(0)
        return self._read()

    def _read(self) -> Packet:
        while True:
            taken = self._complete()
            if taken:
                return taken
            try:
                more = self.stream.recv(65536)
            except ConnectionError as error:
                raise Closed(str(error)) from None
            if not more:
                raise Closed(f"with {self.input!r} left over" if self.input else "")
            self.input += more

    def _complete(self) -> Packet | None:
        length, shift, at = 0, 0, 1
        while True:
            if at >= len(self.input):
                return None
            digit = self.input[at]
            length |= (digit & 0x7F) << shift
            shift += 7
            at += 1
            if not digit & 0x80:
                break
        if len(self.input) < at + length:
            return None
        head, body = self.input[0], self.input[at : at + length]
        self.input = self.input[at + length :]
        return decode(head, body, self.version)

    def expect(self, kind: int) -> Packet:
        """The next packet, which is of this kind."""
        packet = self.receive()
        assert packet.kind == kind, f"expected kind {kind}, got {packet}"
        return packet

    def await_kind(self, kind: int) -> Packet:
        """The next packet of this kind; those before it stay to be received."""
        for index, packet in enumerate(self.kept):
            if packet.kind == kind:
                return self.kept.pop(index)
        while True:
            packet = self._read()
            if packet.kind == kind:
                return packet
            self.kept.append(packet)

    def expect_closed(self) -> list[Packet]:
        """Reads to the end and returns what still came."""
        packets = []
        try:
            while True:
                packets.append(self.receive())
        except Closed:
            return packets

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def subscribe(self, *filters, props=None, **option) -> Packet:
        """Subscribes to filters with the same options and returns the SUBACK."""
        chosen = options(**option)
        packet_id = self.next_id()
        self.send(subscribe(packet_id, [(filter, chosen) for filter in filters], props, self.version))
        answer = self.await_kind(SUBACK)
        assert answer.packet_id == packet_id
        return answer

    def unsubscribe(self, *filters) -> Packet:
        packet_id = self.next_id()
        self.send(unsubscribe(packet_id, list(filters), self.version))
        answer = self.await_kind(UNSUBACK)
        assert answer.packet_id == packet_id
        return answer

    def publish(self, topic, payload=b"", qos=0, **fields) -> Packet | None:
        """Publishes, sees the handshake through, and returns the PUBACK or PUBREC."""
        packet_id = self.next_id() if qos else None
        self.send(publish(topic, payload, qos, packet_id, version=self.version, **fields))
        if not qos:
            return None
        answer = self.await_kind(PUBACK if qos == 1 else PUBREC)
        assert answer.packet_id == packet_id, answer
        if qos == 2 and answer.reason < 0x80:
            self.send(acknowledge(PUBREL, packet_id))
            done = self.await_kind(PUBCOMP)
            assert done.packet_id == packet_id and done.reason == 0, done
        return answer

    def message(self) -> Packet:
        """The next PUBLISH, acknowledged as its level asks."""
        packet = self.await_kind(PUBLISH)
        if packet.qos == 1:
            self.send(acknowledge(PUBACK, packet.packet_id))
        elif packet.qos == 2:
            self.send(acknowledge(PUBREC, packet.packet_id))
            release = self.await_kind(PUBREL)
            assert release.packet_id == packet.packet_id
            self.send(acknowledge(PUBCOMP, packet.packet_id))
        return packet

    def messages(self, count: int) -> list[Packet]:
        return [self.message() for _ in range(count)]

    def nothing_before(self, topic: str, publisher: "Client | None" = None) -> None:
        """Asserts that nothing waits before a mark that is now sent to `topic` at QoS 0."""
        mark = unique("mark").encode()
        (publisher or self).publish(topic, mark)
        packet = self.await_kind(PUBLISH)
        assert packet.payload == mark, f"unexpected: {packet}"

    def ping(self) -> None:
        """A sign of life, and its answer. It may overtake what waits for the broker."""
        self.send(packet(PINGREQ, 0, b""))
        self.await_kind(PINGRESP)

    def fence(self) -> None:
        """A round trip in order: what was sent before has been dealt with, what it caused has come."""
        self.publish(unique("fence"), qos=1)

    def disconnect(self, reason: int | None = None, props=None) -> None:
        self.send(disconnect(reason, props))
        self.expect_closed()
        self.close()

    def drop(self) -> None:
        """Ends the connection without a word."""
        self.close()

    def close(self) -> None:
        self.stream.close()
