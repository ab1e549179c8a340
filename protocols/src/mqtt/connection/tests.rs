//! Stories: bytes and replies in, bytes and commands out, with a clock that is only pretended.

mod auth;
mod deliver;
mod hostile;
mod lifetime;
mod login;
mod publish;
mod subscribe;

use std::sync::Arc;

use bytes::Bytes;

use super::Client;
use crate::connection::{
    Cause, CloseReason, Command, Connected, Connection, Delivered, Delivery, Matched, Open, Output,
    Position, Refusal, RefusalCode, Reply, SubscriptionId, Token,
};
use crate::limits::Limits;
use crate::model::{Message, QoS, Timestamp, Topic};
use crate::outbox::Outbox;

/// When all stories begin.
const START: Timestamp = Timestamp(1_000_000);

/// A connection and all that it has said.
struct Story {
    client: Client,
    now: Timestamp,
    input: Vec<u8>,
    outbox: Outbox,
    commands: Vec<Command>,
    close: Option<CloseReason>,
}

impl Story {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// With other limits.
    fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        Self {
            client: Client::new(Open {
                subprotocol: None,
                connection_id: "c1".into(),
                limits: Arc::new(limits),
                now: START,
            }),
            now: START,
            input: Vec::new(),
            outbox: Outbox::new(),
            commands: Vec::new(),
            close: None,
        }
    }

    /// Logged in with version 5 and these properties.
    fn v5(change: impl FnOnce(&mut Limits), properties: &[u8]) -> Self {
        let mut story = Self::with(change);
        story.send(&connect_v5(2, 60, properties, b"\x00\x01c"));
        story.let_in();
        story
    }

    /// Logged in with version 3.1.1.
    fn v311(change: impl FnOnce(&mut Limits)) -> Self {
        let mut story = Self::with(change);
        story.send(&connect_v311(2, 60, b"\x00\x01c"));
        story.let_in();
        story
    }

    fn let_in(&mut self) {
        assert!(matches!(self.commands[..], [Command::Connect(_)]));
        self.commands.clear();
        self.reply(Reply::Connected(Connected {
            client_id: "c".into(),
            ..Connected::default()
        }));
        let written = self.written();
        assert_eq!((written[0], written[3]), (0x20, 0), "{written:02x?}");
    }

    fn act<T>(&mut self, act: impl FnOnce(&mut Client, Timestamp, &mut Output<'_>) -> T) -> T {
        let mut out = Output {
            outbox: &mut self.outbox,
            commands: &mut self.commands,
            close: &mut self.close,
        };
        act(&mut self.client, self.now, &mut out)
    }

    /// The client sends bytes.
    fn send(&mut self, bytes: &[u8]) -> &mut Self {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let used = self.act(|client, now, out| client.receive(&input, now, out));
        self.input = input[used..].to_vec();
        self
    }

    /// The broker answers; what the client had sent meanwhile is offered again.
    fn reply(&mut self, reply: Reply) -> &mut Self {
        self.act(|client, now, out| client.reply(reply, now, out));
        self.send(&[])
    }

    fn published(&mut self, token: Option<Token>, result: Result<u32, RefusalCode>) -> &mut Self {
        self.reply(Reply::Published {
            token: token.expect("a token"),
            result: result.map_err(|code| Refusal::new(code, "")),
        })
    }

    fn deliver(&mut self, delivery: &Delivery<'_>) -> Delivered {
        self.client.deliver(delivery, self.now, &mut self.outbox)
    }

    fn wait(&mut self, millis: u64) -> &mut Self {
        self.now = Timestamp(self.now.0 + millis);
        self.act(Client::handle_timeout);
        self
    }

    /// What was written since the last look.
    fn written(&mut self) -> Vec<u8> {
        let pieces = self.outbox.take();
        pieces.iter().flat_map(|piece| piece.to_vec()).collect()
    }

    /// The commands since the last look.
    fn commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    fn cause(&self) -> Option<Cause> {
        self.close.as_ref().map(|reason| reason.cause)
    }

    /// The one publish since the last look.
    fn publish(&mut self) -> crate::connection::Publish {
        match self.commands().pop() {
            Some(Command::Publish(publish)) if self.commands.is_empty() => publish,
            other => panic!("no publish: {other:?}"),
        }
    }

    /// That the connection ended with a DISCONNECT of this code (and a reason string).
    #[track_caller]
    fn ended(&mut self, code: u8) {
        let written = self.written();
        assert_eq!((written[0], written[2]), (0xe0, code), "{written:02x?}");
        assert!(self.close.is_some());
        assert_eq!(
            self.send(&[0xc0, 0]).written(),
            [0_u8; 0],
            "nothing more is read"
        );
    }

    /// That the connection ended without a word.
    #[track_caller]
    fn ended_silently(&mut self, cause: Cause) {
        assert_eq!(self.written(), [0_u8; 0]);
        assert_eq!(self.cause(), Some(cause));
    }
}

/// A packet with its fixed header; at most 16,383 bytes.
fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut packet = vec![first];
    if body.len() < 128 {
        packet.push(u8::try_from(body.len()).expect("short"));
    } else {
        packet.push(u8::try_from(body.len() & 0x7f).expect("7 bits") | 0x80);
        packet.push(u8::try_from(body.len() >> 7).expect("short"));
    }
    packet.extend_from_slice(&body);
    packet
}

/// A text or binary field.
fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("short");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// A property section.
fn section(properties: &[u8]) -> Vec<u8> {
    let mut bytes = packet(0, &[properties]);
    bytes.remove(0);
    bytes
}

fn connect_v311(flags: u8, keep_alive: u16, payload: &[u8]) -> Vec<u8> {
    let head = [&field("MQTT")[..], &[4, flags], &keep_alive.to_be_bytes()].concat();
    packet(0x10, &[&head, payload])
}

fn connect_v5(flags: u8, keep_alive: u16, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let head = [&field("MQTT")[..], &[5, flags], &keep_alive.to_be_bytes()].concat();
    packet(0x10, &[&head, &section(properties), payload])
}

/// A version 5 PUBLISH; without an identifier at QoS 0.
fn publish_v5(first: u8, topic: &str, id: &[u8], properties: &[u8], payload: &[u8]) -> Vec<u8> {
    packet(first, &[&field(topic), id, &section(properties), payload])
}

fn publish_v311(first: u8, topic: &str, id: &[u8], payload: &[u8]) -> Vec<u8> {
    packet(first, &[&field(topic), id, payload])
}

fn message(topic: &str, payload: &str) -> Arc<Message> {
    let topic = Topic::parse(topic.into(), 1024, 32).unwrap();
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Arc::new(Message::new(topic, payload, QoS::AtMostOnce, false))
}

/// A first delivery to one subscription without an identifier.
fn delivery(message: &Arc<Message>, qos: QoS, position: Option<Position>) -> Delivery<'_> {
    Delivery {
        message,
        qos,
        retain: false,
        position,
        attempts: 0,
        matched: &[Matched {
            id: SubscriptionId(1),
            identifier: None,
        }],
    }
}

/// A connection with nothing open costs little memory.
#[test]
fn a_connection_is_small() {
    let size = size_of::<Client>();
    assert!(size <= 128, "{size}");
}
