"""A publisher and a subscriber on Eclipse Paho: clients that others wrote, with their own idea of a session.

Paho runs in threads of its own. Its callbacks only append to queues, which `tick` empties in the loop's thread.
"""

import threading
from collections import deque

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from .broker import HOST
from .client import World
from .ledger import Inbox, Stream

WINDOW = 20


class PahoPair:
    """Both clients; they come back by themselves."""

    def __init__(self, world: World, streams: list[Stream], inbox: Inbox):
        self.world = world
        self.streams = streams
        self.inbox = inbox
        self.turn = 0
        self.open_messages: dict[int, tuple[Stream, int]] = {}
        self.acked: deque[int] = deque()
        self.arrived: deque = deque()
        self.sessions: deque[tuple[str, bool]] = deque()
        self.known: set[str] = set()
        self.subscribed = False
        self.lock = threading.Lock()
        self.fenced = False
        """Whether nothing new is published: Paho sends again what is open only after it calls itself connected."""
        self.publisher = paho.Client(CallbackAPIVersion.VERSION2, "paho-publisher", clean_session=False)
        self.publisher.on_publish = lambda client, data, identifier, code, properties: self.acked.append(identifier)
        self.subscriber = paho.Client(CallbackAPIVersion.VERSION2, "paho-subscriber", protocol=paho.MQTTv5)
        self.subscriber.on_message = lambda client, data, message: self.arrived.append(message)
        self.subscriber.on_subscribe = self._on_subscribe
        for client in (self.publisher, self.subscriber):
            client.on_connect = self._on_connect
            client.on_disconnect = self._on_disconnect
            client.reconnect_delay_set(0.05, 0.3)
            client.max_inflight_messages_set(WINDOW)

    def start(self) -> None:
        port = self.world.broker.mqtt
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 86400
        self.publisher.connect_async(HOST, port, keepalive=600)
        self.subscriber.connect_async(HOST, port, keepalive=600, clean_start=False, properties=properties)
        self.publisher.loop_start()
        self.subscriber.loop_start()

    def _on_connect(self, client, data, flags, code, properties) -> None:
        name = "publisher" if client is self.publisher else "subscriber"
        if code.is_failure:
            return
        self.sessions.append((name, flags.session_present))
        if client is self.subscriber and not flags.session_present:
            client.subscribe([(one, 2) for one in self.inbox.filters])

    def _on_disconnect(self, client, data, flags, code, properties) -> None:
        if client is self.publisher:
            with self.lock:
                self.fenced = True

    def _on_subscribe(self, client, data, identifier, codes, properties) -> None:
        self.subscribed = all(not code.is_failure for code in codes)

    def idle(self) -> bool:
        return not (self.open_messages or self.arrived)

    def tick(self) -> None:
        """Takes over what the threads have seen, and publishes while there is room."""
        ledger = self.world.ledger
        while self.sessions:
            name, present = self.sessions.popleft()
            if not present and name in self.known:
                ledger.blame("session lost", f"paho {name} has no session any more")
            self.known.add(name)
        while self.arrived:
            message = self.arrived.popleft()
            self.inbox.take(message.topic.encode(), message.payload, message.qos, message.dup)
        while self.acked:
            identifier = self.acked.popleft()
            if identifier in self.open_messages:
                stream, number = self.open_messages.pop(identifier)
                stream.ack(number)
        with self.lock:
            if not self.open_messages:
                self.fenced = False
            self._fill()

    def _fill(self) -> None:
        world = self.world
        if world.finishing or world.paused or self.fenced or not self.publisher.is_connected():
            return
        while len(self.open_messages) < min(WINDOW, world.window):
            stream = self.streams[self.turn]
            self.turn = (self.turn + 1) % len(self.streams)
            number, payload = stream.next()
            told = self.publisher.publish(stream.topic, payload, stream.qos)
            self.open_messages[told.mid] = stream, number

    def stop(self) -> None:
        for client in (self.publisher, self.subscriber):
            client.disconnect()
            client.loop_stop()
