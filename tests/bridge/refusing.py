"""A wire to an MQTT broker on which one topic is refused without a word why, which Polycast itself never does."""

import contextlib
import socket
import threading

LOOPBACK = "127.0.0.1"
PUBLISH, PUBACK = 3, 4
UNSPECIFIED_ERROR = 0x80


class Refusing:
    """Carries packets to a broker; publishes at QoS 1 to `topic` are answered here, while it `refuses`."""

    def __init__(self, target: int, topic: str):
        self.target = target
        self.topic = topic
        self.refuses = True
        self.refused = 0
        """How often it said no."""
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((LOOPBACK, self.target))
                # Answers of both go to the client, each as a whole.
                lock = threading.Lock()
                threading.Thread(target=self._carry, args=(near, far, near, lock), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, None, lock), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, answers: socket.socket | None, lock) -> None:
        with contextlib.suppress(OSError), source, sink, source.makefile("rb") as packets:
            while packet := _packet(packets):
                if answers and self.refuses and (packet_id := self._is_refused(packet)):
                    self.refused += 1
                    with lock:
                        answers.sendall(bytes([PUBACK << 4, 3]) + packet_id + bytes([UNSPECIFIED_ERROR]))
                elif answers:
                    sink.sendall(packet)
                else:
                    with lock:
                        sink.sendall(packet)

    def _is_refused(self, packet: bytes) -> bytes | None:
        """The packet identifier of a publish to the topic."""
        if packet[0] >> 4 != PUBLISH:
            return None
        body = packet[1:]
        while body[0] >= 0x80:
            body = body[1:]
        body = body[1:]
        length = int.from_bytes(body[:2], "big")
        if body[2 : 2 + length] != self.topic.encode():
            return None
        return body[2 + length : 4 + length]


def _packet(packets) -> bytes:
    """The next one, with its fixed header [MQTT-2.1]; empty at the end."""
    head, length, shift = packets.read(1), 0, 0
    while head:
        byte = packets.read(1)
        head += byte
        length |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return head + packets.read(length)
    return b""
