//! The other end: what a client of this protocol reads.
//!
//! Frames to the server are written with [`ClientFrame::to_json`]; frames from it are read with
//! [`ServerFrame::parse`]. No state and no I/O: a client connects, sends text messages and answers
//! each [`ServerFrame::Ping`] with [`pong`] and each message that has an `ack_id` with [`ack`].

use std::borrow::Cow;

use super::content::Content;
use super::error::FrameError;
use super::fields::{Fields, Name, must_be};
use super::frame::{
    ClientFrame, Id, Options, PublishRequest, Request, SubscribeRequest, Target, read_position,
    read_session_expiry,
};
use super::scan::{self, Kind, Value};
use crate::connection::Position;

/// The subprotocol to ask for.
pub const SUBPROTOCOL: &str = "polycast.json.v1";

/// Nesting that a client accepts; the broker's messages stay below it.
const DEPTH: usize = 128;

/// A frame that the server sends.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerFrame<'a> {
    /// The login worked.
    Connected(Connected<'a>),
    /// A request was carried out.
    Ack {
        /// The request's.
        id: Option<Id>,
        /// To how many sessions and groups a message went.
        receivers: Option<u64>,
        /// What became of each topic of a request.
        results: Vec<TopicResult<'a>>,
    },
    /// A request, or something that is not one, was refused.
    Error {
        /// The request's.
        id: Option<Id>,
        /// The kind.
        code: Cow<'a, str>,
        /// For people.
        message: Cow<'a, str>,
    },
    /// A message.
    Message(Box<ReceivedMessage<'a>>),
    /// Messages are missing, because this client reads too slowly.
    Gap {
        /// How many since the last notice.
        dropped: u64,
    },
    /// The token ends soon; a `refresh` with a new one keeps the connection.
    Expiring {
        /// When, in milliseconds since 1970.
        expires_at: u64,
    },
    /// To be answered with [`pong`].
    Ping {
        /// To be given back, if there is one.
        id: Option<Id>,
    },
    /// The answer to a ping.
    Pong {
        /// The ping's.
        id: Option<Id>,
    },
    /// The server closes the connection.
    Disconnect {
        /// The kind.
        reason: Cow<'a, str>,
        /// For people.
        message: Cow<'a, str>,
        /// Whether to come back.
        reconnect: bool,
    },
    /// A type of a later version, to be ignored.
    Other {
        /// The type.
        kind: Cow<'a, str>,
    },
}

/// What a client that was let in learns.
#[derive(Clone, Debug, PartialEq)]
pub struct Connected<'a> {
    /// The name of this connection.
    pub connection_id: Cow<'a, str>,
    /// The name of this client.
    pub client_id: Cow<'a, str>,
    /// The user that it was recognised as.
    pub user: Option<Cow<'a, str>>,
    /// Whether an older session goes on.
    pub session_present: bool,
    /// How long the session outlives the connection, in seconds.
    pub session_expiry_secs: u32,
    /// Silence in milliseconds after which the server pings; 0 for never.
    pub ping_interval_ms: u64,
}

/// What became of one topic (or group) of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicResult<'a> {
    /// The topic or the group.
    pub name: Cow<'a, str>,
    /// Code and explanation of the refusal, if it was refused.
    pub error: Option<(Cow<'a, str>, Cow<'a, str>)>,
}

/// A message as a client gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedMessage<'a> {
    /// Where it was published.
    pub topic: Cow<'a, str>,
    /// Payload and properties; the expiry counts from now.
    pub content: Content<'a>,
    /// To be given back with [`ack`]; `None` if nothing is expected.
    pub ack_id: Option<Position>,
    /// Whether it was kept from before the subscription.
    pub retained: bool,
    /// How often it was sent, this time included.
    pub delivery_count: u64,
}

impl<'a> ServerFrame<'a> {
    /// Reads a frame.
    pub fn parse(text: &'a str) -> Result<Self, FrameError> {
        let fields = Fields::read(text, DEPTH)?;
        let string = |name| fields.string(name).map(Option::unwrap_or_default);
        let kind = string(Name::Type)?;
        Ok(match kind.as_ref() {
            "connected" => Self::Connected(Connected::read(&fields)?),
            "ack" => Self::Ack {
                id: fields.id()?,
                receivers: fields.whole(Name::Receivers)?,
                results: read_results(&fields)?,
            },
            "error" => Self::Error {
                id: fields.id()?,
                code: string(Name::Code)?,
                message: string(Name::Message)?,
            },
            "message" => Self::Message(Box::new(ReceivedMessage::read(&fields)?)),
            "gap" => Self::Gap {
                dropped: fields.whole(Name::Dropped)?.unwrap_or_default(),
            },
            "expiring" => Self::Expiring {
                expires_at: fields.whole(Name::ExpiresAt)?.unwrap_or_default(),
            },
            "ping" => Self::Ping { id: fields.id()? },
            "pong" => Self::Pong { id: fields.id()? },
            "disconnect" => Self::Disconnect {
                reason: string(Name::Reason)?,
                message: string(Name::Message)?,
                reconnect: fields.truth(Name::Reconnect)?.unwrap_or(false),
            },
            _ => Self::Other { kind },
        })
    }
}

impl<'a> Connected<'a> {
    fn read(fields: &Fields<'a>) -> Result<Self, FrameError> {
        Ok(Self {
            connection_id: fields.string(Name::ConnectionId)?.unwrap_or_default(),
            client_id: fields.string(Name::ClientId)?.unwrap_or_default(),
            user: fields.string(Name::User)?,
            session_present: fields.truth(Name::SessionPresent)?.unwrap_or(false),
            session_expiry_secs: read_session_expiry(fields)?.unwrap_or(0),
            ping_interval_ms: fields.whole(Name::PingIntervalMs)?.unwrap_or(0),
        })
    }
}

impl<'a> ReceivedMessage<'a> {
    fn read(fields: &Fields<'a>) -> Result<Self, FrameError> {
        Ok(Self {
            topic: fields.string(Name::Topic)?.unwrap_or_default(),
            content: Content::read(fields, usize::MAX)?,
            ack_id: fields
                .value(Name::AckId)
                .map(|value| read_position(Name::AckId, value))
                .transpose()?,
            retained: fields.truth(Name::Retained)?.unwrap_or(false),
            delivery_count: fields.whole(Name::DeliveryCount)?.unwrap_or(1),
        })
    }
}

fn read_results<'a>(fields: &Fields<'a>) -> Result<Vec<TopicResult<'a>>, FrameError> {
    let Some(value) = fields.value(Name::Results) else {
        return Ok(Vec::new());
    };
    if value.kind != Kind::Array {
        return Err(must_be(Name::Results, "an array"));
    }
    let mut results = Vec::new();
    scan::array(value.raw, usize::MAX, |element| {
        results.push(read_result(element)?);
        Ok::<_, FrameError>(())
    })?;
    Ok(results)
}

fn read_result(element: Value<'_>) -> Result<TopicResult<'_>, FrameError> {
    let mut result = TopicResult {
        name: Cow::Borrowed(""),
        error: None,
    };
    scan::object(element.raw, usize::MAX, |key, value| {
        match key.string().as_ref() {
            "topic" | "group" => result.name = value.string(),
            "error" => {
                let error = Fields::read(value.raw, usize::MAX)?;
                let part = |name| error.string(name).map(Option::unwrap_or_default);
                result.error = Some((part(Name::Code)?, part(Name::Message)?));
            }
            _ => {}
        }
        Ok::<_, FrameError>(())
    })?;
    Ok(result)
}

/// A `subscribe` frame for one topic filter.
pub fn subscribe(id: u64, filter: &str, options: Options) -> String {
    let request = Request::Subscribe(SubscribeRequest {
        topics: vec![Cow::Borrowed(filter)],
        share: None,
        options,
    });
    to_json(Some(id), request)
}

/// A `publish` frame. With an `id` the server answers; at QoS 1 the answer is its promise.
pub fn publish(
    id: Option<u64>,
    topic: &str,
    content: Content<'_>,
    qos: u8,
    retain: bool,
) -> String {
    let request = Request::Publish(Box::new(PublishRequest {
        target: Target::Topic(Cow::Borrowed(topic)),
        content,
        qos: Some(qos),
        retain,
        idempotency_key: None,
    }));
    to_json(id, request)
}

/// The frame that says that a message is done.
pub fn ack(ack_id: Position) -> String {
    let positions = vec![ack_id];
    to_json(None, Request::Ack { positions })
}

/// The answer to a ping.
pub fn pong(id: Option<Id>) -> String {
    let request = Request::Pong;
    ClientFrame { id, request }.to_json()
}

/// The frame that ends a connection in peace.
pub fn disconnect() -> String {
    let session_expiry_secs = None;
    to_json(
        None,
        Request::Disconnect {
            session_expiry_secs,
        },
    )
}

fn to_json(id: Option<u64>, request: Request<'_>) -> String {
    let id = id.map(Id::number);
    ClientFrame { id, request }.to_json()
}
