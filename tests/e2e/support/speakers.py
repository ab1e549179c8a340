"""One message in every protocol's own words: the same three verbs for MQTT, STOMP and JSON."""

import base64
import json
import time
from dataclasses import dataclass, field, replace

from . import json_client, mqtt, stomp

BASE64 = "base64:"


@dataclass
class Message:
    """What a message means, in no protocol's words."""

    topic: str = ""
    payload: bytes = b"21.5"
    qos: int = 1
    retained: bool = False
    content_type: str | None = None
    correlation: bytes | None = None
    reply_to: str | None = None
    user: list[tuple[str, str]] = field(default_factory=list)
    expires_in: int | None = None

    def on(self, topic: str) -> "Message":
        return replace(self, topic=topic + self.topic)

    def comparable(self) -> dict:
        """As a mapping; of user properties the order within a name counts."""
        values = dict(self.__dict__)
        names = {name for name, _ in self.user}
        values["user"] = {name: [value for key, value in self.user if key == name] for name in names}
        return values


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _given(**fields) -> dict:
    return {name: value for name, value in fields.items() if value is not None}


class MqttSpeaker:
    """Properties of MQTT 5."""

    def __init__(self, broker):
        self.client = mqtt.Client.open(broker.mqtt)

    def subscribe(self, topic: str) -> None:
        self.client.subscribe(topic, qos=1)

    def publish(self, message: Message) -> None:
        props = _given(
            content_type=message.content_type,
            correlation_data=message.correlation,
            response_topic=message.reply_to,
            message_expiry=message.expires_in,
            user=message.user or None,
        )
        self.client.publish(message.topic, message.payload, qos=message.qos, retain=message.retained, props=props)

    def receive(self) -> Message:
        packet = self.client.message()
        props = packet.properties
        return Message(
            packet.topic,
            packet.payload,
            packet.qos,
            packet.retain,
            props.get("content_type"),
            props.get("correlation_data"),
            props.get("response_topic"),
            props.get("user", []),
            props.get("message_expiry"),
        )


class StompSpeaker:
    """Headers of STOMP 1.2."""

    OWN = {"destination", "subscription", "message-id", "ack", "content-length", "content-type", "correlation-id"}
    OWN |= {"reply-to", "expires", "retained", "redelivered", "delivery-count", "persistent", "receipt"}

    def __init__(self, broker):
        self.client = stomp.Client.open(broker.stomp)

    def subscribe(self, topic: str) -> None:
        self.client.subscribe(f"/topic/{topic}", ack="client-individual")

    def publish(self, message: Message) -> None:
        headers = [("destination", f"/topic/{message.topic}"), ("content-length", str(len(message.payload)))]
        if message.content_type is not None:
            headers.append(("content-type", message.content_type))
        if message.correlation is not None:
            text = _text(message.correlation)
            coded = BASE64 + base64.b64encode(message.correlation).decode()
            headers.append(("correlation-id", coded if text is None else text))
        if message.reply_to is not None:
            headers.append(("reply-to", f"/topic/{message.reply_to}"))
        if message.expires_in is not None:
            headers.append(("expires", str(int((time.time() + message.expires_in) * 1000))))
        if message.retained:
            headers.append(("retain", "true"))
        if message.qos == 0:
            # The receipt asks for more by itself.
            headers.append(("qos", "0"))
        for name, value in message.user:
            headers.append((f"user-{name}" if name in self.OWN else name, value))
        headers.append(("receipt", "sent"))
        self.client.send("SEND", headers, message.payload)
        assert self.client.await_command("RECEIPT")["receipt-id"] == "sent"

    def receive(self) -> Message:
        frame = self.client.message()
        self.client.settle("ACK", frame)
        headers = frame.headers
        correlation = headers.get("correlation-id")
        if correlation is not None:
            coded = correlation.startswith(BASE64)
            correlation = base64.b64decode(correlation[len(BASE64) :]) if coded else correlation.encode()
        expires = headers.get("expires")
        return Message(
            headers["destination"].removeprefix("/topic/"),
            frame.body,
            1 if headers.get("persistent") == "true" else 0,
            headers.get("retained") == "true",
            headers.get("content-type"),
            correlation,
            headers["reply-to"].removeprefix("/topic/") if "reply-to" in headers else None,
            [(name.removeprefix("user-"), value) for name, value in frame.pairs if name not in self.OWN],
            round(int(expires) / 1000 - time.time()) if expires else None,
        )


class JsonSpeaker:
    """Fields of the JSON subprotocol."""

    def __init__(self, broker):
        self.client = json_client.Client.open(broker.http)

    def subscribe(self, topic: str) -> None:
        self.client.request("subscribe", topic=topic, qos=1)

    def publish(self, message: Message) -> None:
        fields = _given(contentType=message.content_type, replyTo=message.reply_to, expiresIn=message.expires_in)
        text = _text(message.payload)
        if text is None:
            fields |= {"dataType": "base64", "data": base64.b64encode(message.payload).decode()}
        else:
            fields |= {"dataType": "text", "data": text}
        if message.correlation is not None:
            correlation = _text(message.correlation)
            if correlation is None:
                fields["correlationIdBase64"] = base64.b64encode(message.correlation).decode()
            else:
                fields["correlationId"] = correlation
        headers: dict[str, list[str]] = {}
        for name, value in message.user:
            headers.setdefault(name, []).append(value)
        if headers:
            fields["headers"] = headers
        self.client.request("publish", topic=message.topic, qos=message.qos, retain=message.retained, **fields)

    def receive(self) -> Message:
        frame = self.client.message()
        if "ackId" in frame:
            self.client.request("ack", ackId=frame["ackId"])
        correlation = frame.get("correlationId")
        if "correlationIdBase64" in frame:
            correlation = base64.b64decode(frame["correlationIdBase64"])
        user = []
        for name, values in frame.get("headers", {}).items():
            user += [(name, value) for value in (values if isinstance(values, list) else [values])]
        return Message(
            frame["topic"],
            _payload(frame),
            frame.get("qos", 0),
            frame.get("retained", False),
            frame.get("contentType"),
            correlation.encode() if isinstance(correlation, str) else correlation,
            frame.get("replyTo"),
            user,
            frame.get("expiresIn"),
        )


def _payload(frame: dict) -> bytes:
    if frame["dataType"] == "base64":
        return base64.b64decode(frame["data"])
    if frame["dataType"] == "json":
        return json.dumps(frame["data"], separators=(",", ":"), ensure_ascii=False).encode()
    return frame["data"].encode()


SPEAKERS = {"mqtt": MqttSpeaker, "stomp": StompSpeaker, "json": JsonSpeaker}
