"""STOMP 1.2 over TCP: a publisher that asks for receipts, durable subscribers and consumers of queues."""

import asyncio
from collections.abc import Callable

from .broker import HOST
from .client import PATIENCE, Client, Lost, World
from .ledger import Inbox, Stream

RECEIPT_EACH = 8
"""Of so many ACKs one asks for a receipt."""


class StompClient(Client, asyncio.Protocol):
    """One client over all its connections; with `durable` under a client-id, otherwise without a session."""

    def __init__(self, world: World, name: str, durable: bool = False):
        super().__init__(world, name)
        self.durable = durable
        self.active = False
        self.out: list[bytes] = []
        self.rest = b""
        self.next_receipt = 0

    async def open(self) -> None:
        if self.link:
            return
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().create_connection(lambda: self, HOST, self.world.broker.stomp)
        login = f"CONNECT\naccept-version:1.2\nhost:localhost\nclient-id:{self.name}\nsession-expiry:86400\n\n\0"
        if not self.durable:
            login = "CONNECT\naccept-version:1.2\nhost:localhost\n\n\0"
        first = not self.known
        headers = await self.ask("CONNECTED", lambda: self.link.write(login.encode()))
        self.logged_in = True
        anew = True
        if self.durable:
            self.doubtful = True
            anew = self.check_session(headers.get(b"session-present") == b"true")
        await self.resume(anew, first)
        self.active = True
        self.after_input()
        self.flush()

    async def resume(self, anew: bool, first: bool) -> None:
        """Takes up the session: `anew` if the broker has none, `first` if it could have none."""

    async def request(self, command: str, headers: str, body: bytes = b"") -> None:
        """Sends a frame with a receipt and waits for it."""
        receipt = self.receipt()
        frame = f"{command}\n{headers}receipt:{receipt}\n\n".encode() + body + b"\0"
        await self.ask(str(receipt).encode(), lambda: self.link.write(frame))

    def receipt(self) -> int:
        self.next_receipt += 1
        return self.next_receipt

    def say_goodbye(self) -> None:
        self.flush()
        self.link.write(b"DISCONNECT\n\n\0")

    def connection_made(self, transport) -> None:
        self.rest = b""
        self.out.clear()
        self.active = False
        self.opened(transport)

    def connection_lost(self, error) -> None:
        self.active = False
        self.ended()

    def data_received(self, data: bytes) -> None:
        # Bodies here are text without NUL, so NUL ends a frame wherever it is.
        frames = (self.rest + data).split(b"\0")
        self.rest = frames.pop()
        for frame in frames:
            head, _, body = frame.lstrip(b"\n").partition(b"\n\n")
            lines = head.split(b"\n")
            headers = dict(line.split(b":", 1) for line in lines[1:])
            if int(headers.get(b"content-length", len(body))) != len(body):
                self.broken(f"content-length of {frame[:300]!r}")
            self.handle(lines[0], headers, body)
        self.after_input()
        self.flush()

    def after_input(self) -> None:
        """All complete frames were read."""

    def flush(self) -> None:
        if self.out and self.link:
            self.link.write(b"".join(self.out))
        self.out.clear()

    def handle(self, command: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
        if command == b"MESSAGE":
            self.on_message(headers, body)
        elif command == b"RECEIPT":
            self.on_receipt(headers[b"receipt-id"])
        elif command == b"CONNECTED":
            self.answered("CONNECTED", headers)
        elif command == b"ERROR":
            self.final_words = f"ERROR {headers.get(b'message')!r} {body[:300]!r}"
        else:
            self.broken(f"unknown frame {command!r}")

    def on_message(self, headers: dict[bytes, bytes], body: bytes) -> None:
        self.broken("MESSAGE without a subscription")

    def on_receipt(self, receipt: bytes) -> None:
        if not self.answered(receipt, None):
            self.broken(f"RECEIPT {receipt!r} that nobody waits for")

    def broken(self, what: str) -> None:
        self.ledger.blame("protocol", f"{self.name}: {what}")


def destination(topic: str) -> str:
    """A topic or filter as STOMP spells it."""
    return "/queue/" + topic.removeprefix("$queue/") if topic.startswith("$queue/") else "/topic/" + topic


class StompPublisher(StompClient):
    """Sends its streams in turn, each message with a receipt, and those without an answer again under the same key."""

    def __init__(self, world: World, name: str, streams: list[Stream]):
        super().__init__(world, name)
        self.streams = streams
        self.turn = 0
        self.open_messages: dict[bytes, tuple[Stream, int, bytes]] = {}

    def idle(self) -> bool:
        return not self.open_messages

    async def resume(self, anew: bool, first: bool) -> None:
        for stream, number, frame in self.open_messages.values():
            stream.resent.add(number)
            self.out.append(frame)

    def after_input(self) -> None:
        world = self.world
        if world.finishing or world.paused or not self.active:
            return
        while len(self.open_messages) < world.window:
            stream = self.streams[self.turn]
            self.turn = (self.turn + 1) % len(self.streams)
            number, payload = stream.next()
            receipt = str(self.receipt())
            head = (
                f"SEND\ndestination:{destination(stream.topic)}\nqos:{stream.qos}\nreceipt:{receipt}\n"
                f"idempotency-key:{stream.name}-{number}\ncontent-length:{len(payload)}\n\n"
            )
            frame = head.encode() + payload + b"\0"
            self.open_messages[receipt.encode()] = stream, number, frame
            self.out.append(frame)

    def poke(self) -> None:
        self.after_input()
        self.flush()

    def on_receipt(self, receipt: bytes) -> None:
        message = self.open_messages.pop(receipt, None)
        if message:
            message[0].ack(message[1])
        else:
            super().on_receipt(receipt)


class StompSubscriber(StompClient):
    """Subscribes to one destination, `ack:client-individual`, and fills an inbox."""

    def __init__(self, world: World, name: str, inbox: Inbox, topic_filter: str, durable: bool):
        super().__init__(world, name, durable)
        self.inbox = inbox
        self.topic_filter = topic_filter
        self.holds = False
        self.held: list[tuple[bytes, object]] = []
        self.asked: dict[bytes, object] = {}
        self.acks = 0
        self.topics: dict[bytes, bytes] = {}

    def idle(self) -> bool:
        return not (self.held or self.asked)

    def forget_connection(self) -> None:
        self.held.clear()
        self.asked.clear()

    async def resume(self, anew: bool, first: bool) -> None:
        durable = "durable:true\n" if self.durable else ""
        where = destination(self.topic_filter)
        options = f"id:0\ndestination:{where}\nack:client-individual\nprefetch-count:60\n{durable}"
        await self.request("SUBSCRIBE", options)

    def on_message(self, headers: dict[bytes, bytes], body: bytes) -> None:
        where = headers[b"destination"]
        topic = self.topics.get(where)
        if topic is None:
            topic = b"$queue/" + where[7:] if where.startswith(b"/queue/") else where.removeprefix(b"/topic/")
            self.topics[where] = topic
        message = self.inbox.take(topic, body)
        self.held.append((headers[b"ack"], message))
        if not self.holds or len(self.held) >= 25:
            self.release()
        else:
            self.world.touched.add(self)

    def release(self) -> None:
        """Acknowledges what was held back."""
        for name, message in self.held:
            self.acks += 1
            if self.acks % RECEIPT_EACH == 0:
                receipt = str(self.receipt()).encode()
                self.asked[receipt] = message
                self.out.append(b"ACK\nid:%s\nreceipt:%s\n\n\0" % (name, receipt))
            else:
                self.out.append(b"ACK\nid:%s\n\n\0" % name)
        self.held.clear()

    def on_receipt(self, receipt: bytes) -> None:
        message = self.asked.pop(receipt, None)
        if message:
            self.inbox.settle(*message)
        else:
            super().on_receipt(receipt)


class StompTalker(StompClient):
    """A durable session whose subscriptions and messages others steer: `take(topic, payload)` gets each message."""

    def __init__(self, world: World, name: str, take: Callable):
        super().__init__(world, name, durable=True)
        self.take = take

    async def subscribe(self, topic: str) -> None:
        options = f"id:{topic}\ndestination:/topic/{topic}\nack:client-individual\ndurable:true\n"
        await self.request("SUBSCRIBE", options)

    async def unsubscribe(self, topic: str) -> None:
        await self.request("UNSUBSCRIBE", f"id:{topic}\n")

    async def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        if not self.active:
            raise Lost
        mark = "true" if retain else "false"
        length = len(payload)
        await self.request("SEND", f"destination:/topic/{topic}\nretain:{mark}\ncontent-length:{length}\n", payload)

    def on_message(self, headers: dict[bytes, bytes], body: bytes) -> None:
        self.take(headers[b"destination"].removeprefix(b"/topic/"), body)
        self.out.append(b"ACK\nid:%s\n\n\0" % headers[b"ack"])
