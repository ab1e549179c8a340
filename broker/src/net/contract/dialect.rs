//! What a story needs to know of a protocol: how its clients ask, and how it answers.
//!
//! One implementation for each protocol of the registry, and for each version that answers
//! differently.

use std::fmt;

use protocols::connection::{Cause, Protocol};
use protocols::registry::PROTOCOLS;

use super::{json, mqtt, stomp};
use crate::telemetry::Transport;

/// Every dialect. A protocol without one fails [`every_protocol_has_a_dialect`].
static DIALECTS: &[&dyn Dialect] = &[
    &mqtt::Mqtt { version: 5 },
    &mqtt::Mqtt { version: 4 },
    &stomp::Stomp,
    &json::Json,
];

/// A protocol as its clients see it.
///
/// Requests are bytes of one or more whole frames; under WebSocket text messages, of one.
pub(super) trait Dialect: Sync {
    /// For people who read a failure: protocol and version.
    fn name(&self) -> &'static str;

    /// Its [`Protocol::name`].
    fn protocol(&self) -> &'static str;

    /// What can carry it.
    fn transports(&self) -> &'static [Transport];

    /// A login without a session that outlives it, padded by so many bytes.
    fn connect(&self, client_id: &str, padding: usize) -> Vec<u8>;

    /// A subscription at QoS 0 that asks for an answer.
    fn subscribe(&self, filter: &str) -> Vec<u8>;

    /// A message.
    fn publish(&self, publish: Publish<'_>) -> Vec<u8>;

    /// An orderly end.
    fn good_bye(&self) -> Vec<u8>;

    /// Frames that are none; together they end the connection.
    fn garbage(&self) -> Vec<Vec<u8>>;

    /// Reads one event from the beginning of what the broker sent, and how many bytes it had.
    /// `None` if it is not there as a whole.
    fn parse(&self, input: &[u8]) -> Option<(Event, usize)>;

    /// Answer to a publish to a topic that nobody may publish to.
    fn refused_publish(&self) -> Answer;

    /// Answer to a subscription with a filter that is none.
    fn refused_subscribe(&self) -> Answer;

    /// Answer to an orderly end.
    fn answer_to_good_bye(&self) -> Vec<Event>;

    /// Answer to [`Dialect::garbage`].
    fn answer_to_garbage(&self, logged_in: bool) -> Answer;

    /// What is said when a frame is too large, by the protocol or by what carries it.
    fn answer_to_large(&self, logged_in: bool) -> Vec<Event>;

    /// What is said when the broker ends a connection for this reason.
    fn last_words(&self, cause: Cause, logged_in: bool) -> Vec<Event>;

    /// Whether a slow reader is told how much it missed.
    fn tells_gaps(&self) -> bool;
}

/// A message to publish.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Publish<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a str,
    pub(super) retain: bool,
    /// Whether to ask for an answer; without, it is QoS 0.
    pub(super) asks: bool,
}

/// A message at QoS 0.
pub(super) fn plain<'a>(topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish {
        topic,
        payload,
        ..Publish::default()
    }
}

/// A message that asks for an answer.
pub(super) fn asking<'a>(topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish {
        asks: true,
        ..plain(topic, payload)
    }
}

/// A message to be kept, that asks for an answer.
pub(super) fn retained<'a>(topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish {
        retain: true,
        ..asking(topic, payload)
    }
}

/// What the broker told a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Connected,
    Subscribed,
    Published,
    Message {
        topic: String,
        payload: String,
        retained: bool,
    },
    /// A request was refused, in the protocol's code; the connection stays.
    Refused(String),
    /// The protocol's good-bye, in its own code.
    LastWords(String),
    /// An orderly end was confirmed.
    GoodBye,
    /// Messages were dropped because the client reads too slowly.
    Gap(u64),
    /// The close frame of WebSocket.
    WebSocketClose(Option<u16>),
    /// The broker closed.
    End,
    /// Something that no story expects.
    Other(String),
}

impl Event {
    pub(super) fn message(topic: &str, payload: &str, retained: bool) -> Self {
        Self::Message {
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            retained,
        }
    }

    pub(super) fn refused(code: impl Into<String>) -> Self {
        Self::Refused(code.into())
    }

    pub(super) fn last_words(code: impl Into<String>) -> Self {
        Self::LastWords(code.into())
    }
}

/// What a protocol answers to something that is not allowed.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) says: Vec<Event>,
    /// Why the connection ends, if it does.
    pub(super) ends: Option<Cause>,
}

impl Answer {
    pub(super) fn stays(says: Event) -> Self {
        Self {
            says: vec![says],
            ends: None,
        }
    }

    pub(super) fn ends(says: Vec<Event>, cause: Cause) -> Self {
        Self {
            says,
            ends: Some(cause),
        }
    }
}

/// A dialect on a transport.
#[derive(Clone, Copy)]
pub(super) struct Speaker {
    pub(super) dialect: &'static dyn Dialect,
    pub(super) transport: Transport,
}

impl Speaker {
    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let on = |&dialect: &&'static dyn Dialect| {
            let transports = dialect.transports().iter();
            transports
                .map(|&transport| Self { dialect, transport })
                .collect::<Vec<_>>()
        };
        DIALECTS.iter().flat_map(on).collect()
    }

    /// What it speaks, as the broker knows it.
    pub(super) fn protocol(self) -> &'static dyn Protocol {
        let mut known = PROTOCOLS.iter();
        *known
            .find(|known| known.name() == self.dialect.protocol())
            .expect("a dialect is of a protocol that is registered")
    }

    pub(super) fn is_web_socket(self) -> bool {
        self.transport == Transport::WebSocket
    }

    /// What a client sees when its connection ends: what the protocol says, then the transport.
    pub(super) fn ending(self, mut says: Vec<Event>, cause: Cause) -> Vec<Event> {
        if self.is_web_socket() {
            says.push(Event::WebSocketClose(Some(close_code(cause))));
        }
        says.push(Event::End);
        says
    }
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = self.transport.as_str();
        write!(f, "{} over {transport}", self.dialect.name())
    }
}

/// The code of WebSocket's close frame (RFC 6455 §7.4.1).
fn close_code(cause: Cause) -> u16 {
    match cause {
        Cause::Normal => 1000,
        Cause::Shutdown => 1001,
        Cause::Malformed | Cause::ProtocolError => 1002,
        Cause::WrongType => 1003,
        Cause::Refused => 1008,
        Cause::TooLarge => 1009,
        Cause::Unauthorized | Cause::Expired => 4401,
        Cause::LoginTimeout => 4408,
        Cause::TakenOver => 4409,
        other => panic!("no story ends so: {other:?}"),
    }
}

#[test]
fn every_protocol_has_a_dialect() {
    for protocol in PROTOCOLS {
        let name = protocol.name();
        let known = Speaker::all();
        assert!(
            known.iter().any(|known| known.dialect.protocol() == name),
            "{name} is in the registry, but has no Dialect in net/contract: add one, so that \
             every story runs for it too"
        );
        assert!(
            known
                .iter()
                .any(|known| known.dialect.protocol() == name && known.is_web_socket()),
            "{name} has subprotocols, but no story runs it over WebSocket"
        );
    }
}
