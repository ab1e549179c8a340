//! The bytes of each protocol as the load generator needs them: frames that are encoded once and
//! stamped for each message, and a reader that finds frame boundaries and the stamp, nothing else.
//! It is no codec: it trusts the broker to send well-formed frames, except that it reports what it
//! cannot read. The generator's connections call it.

pub mod http;
pub mod json;
pub mod mqtt;
pub mod payload;
pub mod stomp;
pub mod url;
pub mod websocket;

use payload::Stamp;
use std::fmt;

/// A protocol that the generator speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// MQTT 3.1.1: the version that every rival speaks, and the one with the fewest bytes.
    Mqtt,
    /// STOMP 1.2.
    Stomp,
    /// The JSON subprotocol `polycast.json.v1`.
    Json,
}

/// What carries the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A TCP connection.
    Tcp,
    /// A WebSocket.
    WebSocket,
}

/// A protocol on a transport, as in `mqtt`, `mqtt+ws`, `stomp`, `stomp+ws`, `json+ws`; with TLS
/// `mqtts`, `mqtt+wss` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wire {
    /// What is spoken.
    pub protocol: Protocol,
    /// Over what.
    pub transport: Transport,
    /// Whether all of it is within TLS.
    pub tls: bool,
}

impl Wire {
    /// MQTT over TCP, which every broker speaks.
    pub const MQTT: Self = Self {
        protocol: Protocol::Mqtt,
        transport: Transport::Tcp,
        tls: false,
    };

    /// The wire with this name, which is also the scheme of its URL.
    pub fn from_name(name: &str) -> Option<Self> {
        let (protocol, transport, tls) = match name {
            "mqtt" | "tcp" => (Protocol::Mqtt, Transport::Tcp, false),
            "mqtts" => (Protocol::Mqtt, Transport::Tcp, true),
            "mqtt+ws" => (Protocol::Mqtt, Transport::WebSocket, false),
            "mqtt+wss" => (Protocol::Mqtt, Transport::WebSocket, true),
            "stomp" => (Protocol::Stomp, Transport::Tcp, false),
            "stomps" => (Protocol::Stomp, Transport::Tcp, true),
            "stomp+ws" => (Protocol::Stomp, Transport::WebSocket, false),
            "stomp+wss" => (Protocol::Stomp, Transport::WebSocket, true),
            "json+ws" | "json" => (Protocol::Json, Transport::WebSocket, false),
            "json+wss" => (Protocol::Json, Transport::WebSocket, true),
            _ => return None,
        };
        Some(Self {
            protocol,
            transport,
            tls,
        })
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.protocol, self.transport) {
            (Protocol::Mqtt, Transport::Tcp) => "mqtt",
            (Protocol::Mqtt, Transport::WebSocket) => "mqtt+ws",
            (Protocol::Stomp, Transport::Tcp) => "stomp",
            (Protocol::Stomp, Transport::WebSocket) => "stomp+ws",
            (Protocol::Json, _) => "json+ws",
        })?;
        f.write_str(if self.tls { "s" } else { "" })
    }
}

/// What the broker sent, as far as the generator cares.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// The login was accepted; `resumed` if the broker kept a session.
    Connected {
        /// CONNACK's session present and the like.
        resumed: bool,
    },
    /// The broker refused something; in words, for the report.
    Refused(String),
    /// One request to subscribe was granted.
    Subscribed,
    /// A message was delivered.
    Message(Message<'a>),
    /// The broker took responsibility for the publish with this identifier (PUBACK, PUBCOMP,
    /// RECEIPT, ack).
    Acked(u16),
    /// PUBREC for this identifier: PUBREL is to be sent.
    Received(u16),
    /// PUBREL for this identifier: PUBCOMP is to be sent.
    Released(u16),
    /// The broker wants a sign of life.
    Ping,
    /// Nothing of interest.
    Other,
}

/// A message that was delivered.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Who published it and the how-manieth it was; `None` if it is not the generator's own.
    pub stamp: Option<Stamp>,
    /// The quality of service it came with.
    pub qos: u8,
    /// How it is acknowledged.
    pub answer: Answer<'a>,
}

/// How a delivered message is acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Not at all.
    None,
    /// By an MQTT packet identifier.
    Packet(u16),
    /// By STOMP's `ack` header or JSON's `ackId`, byte for byte.
    Token(&'a [u8]),
}

/// Why bytes from the broker could not be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable(pub &'static str);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What to send once the connection stands: CONNECT.
#[derive(Clone, Debug)]
pub struct Login<'a> {
    /// The client's own name.
    pub client_id: &'a str,
    /// Whether the session ends with the connection and an older one is forgotten.
    pub clean: bool,
}

impl Protocol {
    /// The first frame after the connection stands.
    pub fn connect(self, out: &mut Vec<u8>, login: &Login<'_>) {
        match self {
            Self::Mqtt => mqtt::connect(out, login),
            Self::Stomp => stomp::connect(out, login),
            Self::Json => json::connect(out, login),
        }
    }

    /// Frames that subscribe to `filters` (MQTT spelling); returns how many answers to expect.
    pub fn subscribe(
        self,
        out: &mut Vec<Vec<u8>>,
        login: &Login<'_>,
        filters: &[String],
        qos: u8,
    ) -> usize {
        let before = out.len();
        match self {
            Self::Mqtt => mqtt::subscribe(out, filters, qos),
            Self::Stomp => stomp::subscribe(out, login, filters, qos),
            Self::Json => json::subscribe(out, filters, qos),
        }
        out.len() - before
    }

    /// A PUBLISH that can be stamped.
    pub fn publish(self, topic: &str, qos: u8, retain: bool, payload_bytes: usize) -> Draft {
        match self {
            Self::Mqtt => mqtt::publish(topic, qos, retain, payload_bytes),
            Self::Stomp => stomp::publish(topic, qos, retain, payload_bytes),
            Self::Json => json::publish(topic, qos, retain, payload_bytes),
        }
    }

    /// A good-bye after which the broker keeps the session if it is a durable one.
    pub fn disconnect(self, out: &mut Vec<u8>) {
        match self {
            Self::Mqtt => out.extend_from_slice(&[0xE0, 0]),
            Self::Stomp => out.extend_from_slice(b"DISCONNECT\n\n\0"),
            Self::Json => {}
        }
    }

    /// The first frame in `bytes` and its length; `None` if it is not complete.
    #[inline]
    pub fn read(self, bytes: &[u8]) -> Result<Option<(Incoming<'_>, usize)>, Unreadable> {
        match self {
            Self::Mqtt => mqtt::read(bytes),
            Self::Stomp => stomp::read(bytes),
            Self::Json => Ok((!bytes.is_empty()).then(|| (json::read(bytes), bytes.len()))),
        }
    }
}

/// A frame with the places where the stamp and the identifier are written for each message.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The whole frame.
    pub bytes: Vec<u8>,
    /// Where the payload's stamp begins.
    pub stamp_at: usize,
    /// Where the identifier is, and how it is written.
    pub id: Option<(usize, IdForm)>,
}

/// How an identifier is written into a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdForm {
    /// Two bytes, big-endian (MQTT).
    Binary,
    /// Four hexadecimal digits (STOMP's `receipt`, JSON's `id`).
    Hex,
}
