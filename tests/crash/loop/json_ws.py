"""The JSON subprotocol over WebSocket: a publisher with idempotency keys, and sessions with an expiry."""

import asyncio
import json
from collections.abc import Callable

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from .broker import HOST
from .client import PATIENCE, Client, Lost, World
from .ledger import Inbox, Stream

ACKS_AT_ONCE = 20
CONFIRM_EACH = 3
"""Of so many frames with acknowledgements one asks for an answer."""
write_json = json.JSONEncoder(separators=(",", ":")).encode


class Link:
    """A WebSocket seen as a transport, with one task that reads and one that writes."""

    def __init__(self, client: "JsonClient", socket):
        self.client = client
        self.socket = socket
        self.queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.reader = asyncio.create_task(self._read())
        self.writer = asyncio.create_task(self._write())

    def write(self, frame: str) -> None:
        self.queue.put_nowait(frame)

    def close(self) -> None:
        self.queue.put_nowait(None)

    def abort(self) -> None:
        self.socket.transport.abort()

    async def _write(self) -> None:
        try:
            while (frame := await self.queue.get()) is not None:
                await self.socket.send(frame)
            await self.socket.close()
        except ConnectionClosed:
            pass

    async def _read(self) -> None:
        try:
            while True:
                self.client.handle(json.loads(await self.socket.recv()))
        except (ConnectionClosed, OSError):
            pass
        finally:
            self.writer.cancel()
            self.client.active = False
            self.client.ended()


class JsonClient(Client):
    """One client over all its connections; with `durable` its session outlives them."""

    def __init__(self, world: World, name: str, durable: bool = False):
        super().__init__(world, name)
        self.durable = durable
        self.active = False
        self.next_id = 0

    async def open(self) -> None:
        if self.link:
            return
        address = f"ws://{HOST}:{self.world.broker.http}/ws"
        options = {"subprotocols": ["polycast.json.v1"], "ping_interval": None, "compression": None, "proxy": None}
        try:
            socket = await connect(address, open_timeout=PATIENCE, close_timeout=1, **options)
        except (WebSocketException, EOFError) as error:
            raise Lost(str(error)) from None
        self.active = False
        self.opened(Link(self, socket))
        login = {"type": "connect", "id": "connect", "clientId": self.name, "inFlight": 60}
        login["session"] = {"expiry": 86400 if self.durable else 0}
        first = not self.known
        answer = await self.ask("connect", lambda: self.link.write(write_json(login)))
        if answer["type"] != "connected":
            self.ledger.blame("refused", f"connect of {self.name}: {answer}")
            raise Lost
        self.logged_in = True
        anew = True
        if self.durable:
            self.doubtful = True
            anew = self.check_session(answer["sessionPresent"])
        await self.resume(anew, first)
        self.active = True
        self.fill()

    async def resume(self, anew: bool, first: bool) -> None:
        """Takes up the session: `anew` if the broker has none, `first` if it could have none."""

    def fill(self) -> None:
        """Sends what is due."""

    def flush(self) -> None:
        """Frames are written one by one."""

    def say_goodbye(self) -> None:
        self.link.write('{"type":"disconnect"}')

    async def request(self, **fields) -> dict:
        """Sends a frame and waits for its answer."""
        self.next_id += 1
        fields["id"] = identifier = self.next_id
        answer = await self.ask(identifier, lambda: self.link.write(write_json(fields)))
        if answer["type"] == "error":
            self.ledger.blame("refused", f"{self.name}: {fields} got {answer}")
        return answer

    async def subscribe(self, topic: str) -> None:
        answer = await self.request(type="subscribe", topic=topic, qos=1)
        if answer.get("results", [{}])[0].get("qos") != 1:
            self.ledger.blame("refused", f"{self.name}: {topic} got {answer}")

    async def unsubscribe(self, topic: str) -> None:
        answer = await self.request(type="unsubscribe", topic=topic)
        if not answer["results"][0].get("existed"):
            self.ledger.blame("subscription lost", f"{self.name}: {topic} got {answer}")

    def handle(self, frame: dict) -> None:
        kind = frame["type"]
        if kind == "message":
            self.on_message(frame)
        elif kind == "ping":
            self.link.write('{"type":"pong"}')
        elif kind == "disconnect":
            self.final_words = str(frame)
        elif kind == "gap":
            self.ledger.notes["JSON gaps"] += 1
        elif not self.on_answer(frame.get("id"), frame):
            self.ledger.blame("protocol", f"{self.name}: {frame} answers nothing")

    def on_answer(self, identifier, frame: dict) -> bool:
        return self.answered(identifier, frame)

    def on_message(self, frame: dict) -> None:
        self.ledger.blame("protocol", f"{self.name}: a message without a subscription: {frame}")


class JsonPublisher(JsonClient):
    """Publishes its streams in turn, and what was not answered again under the same idempotency key."""

    def __init__(self, world: World, name: str, streams: list[Stream]):
        super().__init__(world, name)
        self.streams = streams
        self.turn = 0
        self.open_messages: dict[int, tuple[Stream, int, str]] = {}

    def idle(self) -> bool:
        return not self.open_messages

    async def resume(self, anew: bool, first: bool) -> None:
        for stream, number, frame in self.open_messages.values():
            stream.resent.add(number)
            self.link.write(frame)

    def fill(self) -> None:
        world = self.world
        if world.finishing or world.paused or not self.active:
            return
        while len(self.open_messages) < world.window:
            stream = self.streams[self.turn]
            self.turn = (self.turn + 1) % len(self.streams)
            number, payload = stream.next()
            self.next_id += 1
            frame = {"type": "publish", "id": self.next_id, "topic": stream.topic, "data": payload.decode(), "qos": 1}
            frame["idempotencyKey"] = f"{stream.name}-{number}"
            data = write_json(frame)
            self.open_messages[self.next_id] = stream, number, data
            self.link.write(data)

    poke = fill

    def on_answer(self, identifier, frame: dict) -> bool:
        message = self.open_messages.pop(identifier, None)
        if message is None:
            return self.answered(identifier, frame)
        if frame["type"] == "ack":
            message[0].ack(message[1])
        else:
            self.ledger.blame("refused", f"{self.name}: {frame}")
        self.fill()
        return True


class JsonSubscriber(JsonClient):
    """A session with an expiry that fills an inbox; acknowledges several messages at once."""

    def __init__(self, world: World, name: str, inbox: Inbox):
        super().__init__(world, name, durable=True)
        self.inbox = inbox
        self.holds = False
        self.held: list[tuple[int, object]] = []
        self.asked: dict[int, list] = {}
        self.frames = 0

    def idle(self) -> bool:
        return not (self.held or self.asked)

    def forget_connection(self) -> None:
        self.held.clear()
        self.asked.clear()

    async def resume(self, anew: bool, first: bool) -> None:
        if anew or first:
            for one in self.inbox.filters:
                await self.subscribe(one)

    def on_message(self, frame: dict) -> None:
        message = self.inbox.take(frame["topic"].encode(), frame["data"].encode())
        self.held.append((frame["ackId"], message))
        if len(self.held) >= ACKS_AT_ONCE:
            self.release()
        else:
            self.world.touched.add(self)

    def release(self) -> None:
        """Acknowledges what came since the last time."""
        if not self.held or self.link is None:
            return
        frame = {"type": "ack", "ackIds": [name for name, _ in self.held]}
        self.frames += 1
        if self.frames % CONFIRM_EACH == 0:
            self.next_id += 1
            frame["id"] = self.next_id
            self.asked[self.next_id] = [message for _, message in self.held]
        self.held.clear()
        self.link.write(write_json(frame))

    def on_answer(self, identifier, frame: dict) -> bool:
        messages = self.asked.pop(identifier, None)
        if messages is None:
            return self.answered(identifier, frame)
        if frame["type"] != "ack":
            self.ledger.blame("refused", f"{self.name}: {frame}")
            return True
        for message in messages:
            if message:
                self.inbox.settle(*message)
        return True


class JsonTalker(JsonClient):
    """A session whose subscriptions and messages others steer: `take(topic, payload)` gets each message."""

    def __init__(self, world: World, name: str, take: Callable):
        super().__init__(world, name, durable=True)
        self.take = take

    async def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        if not self.active:
            raise Lost
        await self.request(type="publish", topic=topic, data=payload.decode(), qos=1, retain=retain)

    def on_message(self, frame: dict) -> None:
        self.take(frame["topic"].encode(), frame["data"].encode())
        self.link.write(write_json({"type": "ack", "ackId": frame["ackId"]}))
