//! Frames from client to server: read by the broker, written by clients.
//!
//! Only what a frame says, not what it means: whether a topic is a topic is decided by
//! [`super::command`].

use std::borrow::Cow;

use super::content::Content;
use super::error::{ErrorCode, FrameError};
use super::fields::{Fields, Name, as_string, must_be};
use super::scan::{self, Kind, Value};
use super::write::{self, Object};
use crate::connection::{Position, Publish, RetainHandling};
use crate::last_topic::LastTopic;
use crate::limits::Limits;
use crate::model::Timestamp;

/// The types that a client may send, as an answer to others names them.
const TYPES: &str = "connect, subscribe, unsubscribe, publish, ack, nack, join, leave, broadcast, \
                     ping, pong, refresh, disconnect";

/// Whole numbers above this are not exact in JavaScript and travel as strings.
const SAFE_INTEGER: u64 = (1 << 53) - 1;

/// The `id` by which an answer finds its question: a string or number, given back as it was
/// written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(Box<str>);

impl Id {
    /// A number.
    pub fn number(number: u64) -> Self {
        Self(number.to_string().into())
    }

    /// A string.
    pub fn text(text: &str) -> Self {
        Self(write::string(text).into())
    }

    pub(super) fn of_json(json: &str) -> Self {
        Self(json.into())
    }

    /// The `id` as it stands in the frame, quotes included.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// A frame that a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFrame<'a> {
    /// Comes back with the answer. Frames that are answered only on request are answered if it is
    /// there.
    pub id: Option<Id>,
    /// What it asks for.
    pub request: Request<'a>,
}

/// What a client asks for, by the frame's `type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `connect`.
    Connect(Box<ConnectRequest<'a>>),
    /// `subscribe`.
    Subscribe(SubscribeRequest<'a>),
    /// `unsubscribe`.
    Unsubscribe {
        /// What to unsubscribe from.
        topics: Vec<Cow<'a, str>>,
        /// The share that they were subscribed with.
        share: Option<Cow<'a, str>>,
    },
    /// `publish` and `broadcast`.
    Publish(Box<PublishRequest<'a>>),
    /// `ack`: these messages are done.
    Ack {
        /// The `ackId` of each.
        positions: Vec<Position>,
    },
    /// `nack`: these messages are not taken.
    Nack {
        /// The `ackId` of each.
        positions: Vec<Position>,
        /// Whether they come again.
        requeue: bool,
    },
    /// `join`: to be a member of a group.
    Join {
        /// The group.
        group: Cow<'a, str>,
        /// As in `subscribe`.
        options: Options,
    },
    /// `leave`.
    Leave {
        /// The group.
        group: Cow<'a, str>,
    },
    /// `refresh`: to go on with a new token.
    Refresh {
        /// The token.
        token: Cow<'a, str>,
    },
    /// `ping`.
    Ping,
    /// `pong`.
    Pong,
    /// `disconnect`.
    Disconnect {
        /// How long the session outlives the connection from now on, in seconds.
        session_expiry_secs: Option<u32>,
    },
}

/// A login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectRequest<'a> {
    /// The client's own name.
    pub client_id: Option<Cow<'a, str>>,
    /// A token, instead of name and password.
    pub token: Option<Cow<'a, str>>,
    /// User name.
    pub username: Option<Cow<'a, str>>,
    /// Password.
    pub password: Option<Cow<'a, str>>,
    /// Whether to forget an older session.
    pub clean_start: Option<bool>,
    /// How long the session outlives the connection, in seconds.
    pub session_expiry_secs: Option<u32>,
    /// How many messages of QoS 1 may be open towards the client.
    pub in_flight: Option<u64>,
}

/// A list of subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeRequest<'a> {
    /// The filters.
    pub topics: Vec<Cow<'a, str>>,
    /// The group that shares them.
    pub share: Option<Cow<'a, str>>,
    /// What holds for each.
    pub options: Options,
}

/// Options of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The highest QoS to deliver with: 0 or 1.
    pub qos: u8,
    /// Not what this same session published.
    pub no_local: bool,
    /// Which retained messages to send now.
    pub retained: RetainHandling,
}

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest<'a> {
    /// To whom.
    pub target: Target<'a>,
    /// What.
    pub content: Content<'a>,
    /// 0 or 1; `None` is 1 if the frame has an `id`, otherwise 0.
    pub qos: Option<u8>,
    /// Whether to keep it for later subscribers.
    pub retain: bool,
    /// The same key again within its window is answered alike but not published again.
    pub idempotency_key: Option<Cow<'a, str>>,
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Subscribers of a topic.
    Topic(Cow<'a, str>),
    /// Members of a group.
    Group(Cow<'a, str>),
    /// All connections of a user.
    User {
        /// The user.
        user: Cow<'a, str>,
        /// A topic below the user's own.
        topic: Option<Cow<'a, str>>,
    },
    /// Everyone (`broadcast`).
    Everyone,
}

impl<'a> ClientFrame<'a> {
    /// Reads a frame. Only the bounds that keep the reading cheap are checked here: nesting,
    /// number of topics, headers and acknowledgements.
    pub fn parse(text: &'a str, limits: &Limits) -> Result<Self, FrameError> {
        let fields = Fields::read(text, limits.json_depth)?;
        let id = fields.id()?;
        match Request::read(&fields, limits) {
            Ok(request) => Ok(Self { id, request }),
            Err(error) => Err(FrameError { id, ..error }),
        }
    }

    /// Writes the frame.
    pub fn to_json(&self) -> String {
        let mut object = Object::frame(self.request.kind(), self.id.as_ref());
        self.request.write(&mut object);
        object.end()
    }
}

impl<'a> PublishRequest<'a> {
    /// Reads a message that comes without a connection: the fields of a `publish` frame without its
    /// `type`, with `"broadcast":true` for everyone, or with a `connectionId`, which is returned
    /// beside it.
    pub fn read_body(
        text: &'a str,
        limits: &Limits,
    ) -> Result<(Self, Option<Cow<'a, str>>), FrameError> {
        let fields = Fields::read(text, limits.json_depth)?;
        let connection = fields.string(Name::ConnectionId)?;
        let everyone = fields.truth(Name::Broadcast)?.unwrap_or(false);
        let others = [Name::Topic, Name::Group, Name::User];
        let named = others.iter().any(|name| fields.any(*name).is_some());
        if named && (everyone || connection.is_some()) || everyone && connection.is_some() {
            return Err(FrameError::invalid(
                "the message is for one of \"topic\", \"group\", \"user\", \"connectionId\" and \
                 \"broadcast\", not for several",
            ));
        }
        let target = if everyone || connection.is_some() {
            Target::Everyone
        } else {
            Target::read(&fields)?
        };
        Ok((Self::read(target, &fields, limits)?, connection))
    }

    fn read(target: Target<'a>, fields: &Fields<'a>, limits: &Limits) -> Result<Self, FrameError> {
        Ok(Self {
            target,
            content: Content::read(fields, limits.user_properties)?,
            qos: fields.qos()?,
            retain: fields.truth(Name::Retain)?.unwrap_or(false),
            idempotency_key: fields.string(Name::IdempotencyKey)?,
        })
    }

    /// The message that is asked for, at QoS 1 unless it says otherwise; its publisher is nobody.
    pub fn into_publish(self, limits: &Limits, now: Timestamp) -> Result<Publish, FrameError> {
        super::command::publish(self, true, (limits, &mut LastTopic::default()), now)
    }
}

impl<'a> Request<'a> {
    fn read(fields: &Fields<'a>, limits: &Limits) -> Result<Self, FrameError> {
        let kind = required(fields, Name::Type)?;
        Ok(match kind.as_ref() {
            "connect" => Self::Connect(Box::new(ConnectRequest::read(fields)?)),
            "subscribe" => Self::Subscribe(SubscribeRequest {
                topics: read_topics(fields, limits)?,
                share: fields.string(Name::Share)?,
                options: Options::read(fields)?,
            }),
            "unsubscribe" => Self::Unsubscribe {
                topics: read_topics(fields, limits)?,
                share: fields.string(Name::Share)?,
            },
            "publish" => Self::publish(Target::read(fields)?, fields, limits)?,
            "broadcast" => Self::publish(Target::Everyone, fields, limits)?,
            "ack" => Self::Ack {
                positions: read_positions(fields, limits)?,
            },
            "nack" => Self::Nack {
                positions: read_positions(fields, limits)?,
                requeue: fields.truth(Name::Requeue)?.unwrap_or(true),
            },
            "join" => Self::Join {
                group: required(fields, Name::Group)?,
                options: Options::read(fields)?,
            },
            "leave" => Self::Leave {
                group: required(fields, Name::Group)?,
            },
            "refresh" => Self::Refresh {
                token: required(fields, Name::Token)?,
            },
            "ping" => Self::Ping,
            "pong" => Self::Pong,
            "disconnect" => Self::Disconnect {
                session_expiry_secs: read_session_expiry(fields)?,
            },
            other => return Err(unknown_type(other)),
        })
    }

    fn publish(
        target: Target<'a>,
        fields: &Fields<'a>,
        limits: &Limits,
    ) -> Result<Self, FrameError> {
        let request = PublishRequest::read(target, fields, limits)?;
        Ok(Self::Publish(Box::new(request)))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::Publish(publish) if publish.target == Target::Everyone => "broadcast",
            Self::Publish(_) => "publish",
            Self::Ack { .. } => "ack",
            Self::Nack { .. } => "nack",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Refresh { .. } => "refresh",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Disconnect { .. } => "disconnect",
        }
    }

    fn write(&self, object: &mut Object) {
        match self {
            Self::Connect(connect) => connect.write(object),
            Self::Subscribe(subscribe) => {
                write_topics(object, &subscribe.topics, subscribe.share.as_deref());
                subscribe.options.write(object);
            }
            Self::Unsubscribe { topics, share } => write_topics(object, topics, share.as_deref()),
            Self::Publish(publish) => publish.write(object),
            Self::Ack { positions } => write_positions(object, positions),
            Self::Nack { positions, requeue } => {
                write_positions(object, positions);
                if !requeue {
                    object.plain("requeue", false);
                }
            }
            Self::Join { group, options } => {
                object.string("group", group);
                options.write(object);
            }
            Self::Leave { group } => {
                object.string("group", group);
            }
            Self::Disconnect {
                session_expiry_secs,
            } => write_session(object, *session_expiry_secs),
            Self::Refresh { token } => {
                object.string("token", token);
            }
            Self::Ping | Self::Pong => {}
        }
    }
}

impl<'a> ConnectRequest<'a> {
    fn read(fields: &Fields<'a>) -> Result<Self, FrameError> {
        Ok(Self {
            client_id: fields.string(Name::ClientId)?,
            token: fields.string(Name::Token)?,
            username: fields.string(Name::Username)?,
            password: fields.string(Name::Password)?,
            clean_start: fields.truth(Name::CleanStart)?,
            session_expiry_secs: read_session_expiry(fields)?,
            in_flight: fields.whole(Name::InFlight)?,
        })
    }

    fn write(&self, object: &mut Object) {
        object
            .maybe("clientId", self.client_id.as_deref())
            .maybe("token", self.token.as_deref())
            .maybe("username", self.username.as_deref())
            .maybe("password", self.password.as_deref());
        if let Some(clean_start) = self.clean_start {
            object.plain("cleanStart", clean_start);
        }
        write_session(object, self.session_expiry_secs);
        if let Some(in_flight) = self.in_flight {
            object.plain("inFlight", in_flight);
        }
    }
}

impl PublishRequest<'_> {
    fn write(&self, object: &mut Object) {
        match &self.target {
            Target::Topic(topic) => {
                object.string("topic", topic);
            }
            Target::Group(group) => {
                object.string("group", group);
            }
            Target::User { user, topic } => {
                object.string("user", user).maybe("topic", topic.as_deref());
            }
            Target::Everyone => {}
        }
        self.content.write(object);
        if let Some(qos) = self.qos {
            object.plain("qos", qos);
        }
        object
            .flag("retain", self.retain)
            .maybe("idempotencyKey", self.idempotency_key.as_deref());
    }
}

impl<'a> Target<'a> {
    fn read(fields: &Fields<'a>) -> Result<Self, FrameError> {
        let topic = fields.string(Name::Topic)?;
        let group = fields.string(Name::Group)?;
        let user = fields.string(Name::User)?;
        match (topic, group, user) {
            (Some(topic), None, None) => Ok(Self::Topic(topic)),
            (None, Some(group), None) => Ok(Self::Group(group)),
            (topic, None, Some(user)) => Ok(Self::User { user, topic }),
            _ => Err(FrameError::invalid(
                "exactly one of \"topic\", \"group\" and \"user\" must be there (\"user\" may have a \
                 \"topic\" beside it)",
            )),
        }
    }
}

impl Options {
    fn read(fields: &Fields<'_>) -> Result<Self, FrameError> {
        let retained = fields.string(Name::Retained)?;
        Ok(Self {
            qos: fields.qos()?.unwrap_or(0),
            no_local: fields.truth(Name::NoLocal)?.unwrap_or(false),
            retained: match retained.as_deref() {
                None | Some("send") => RetainHandling::Send,
                Some("new") => RetainHandling::SendIfNew,
                Some("none") => RetainHandling::DoNotSend,
                Some(_) => return Err(must_be(Name::Retained, "\"send\", \"new\" or \"none\"")),
            },
        })
    }

    fn write(self, object: &mut Object) {
        if self.qos > 0 {
            object.plain("qos", self.qos);
        }
        object.flag("noLocal", self.no_local);
        match self.retained {
            RetainHandling::Send => {}
            RetainHandling::SendIfNew => {
                object.string("retained", "new");
            }
            RetainHandling::DoNotSend => {
                object.string("retained", "none");
            }
        }
    }
}

/// Writes a position so that every reader of JSON gets it exactly.
pub(super) fn push_position(out: &mut String, position: Position) {
    let quote = if position <= SAFE_INTEGER { "" } else { "\"" };
    out.push_str(quote);
    out.push_str(itoa::Buffer::new().format(position));
    out.push_str(quote);
}

fn position_json(position: Position) -> String {
    let mut text = String::new();
    push_position(&mut text, position);
    text
}

/// Reads what [`push_position`] writes.
pub(super) fn read_position(name: Name, value: Value<'_>) -> Result<Position, FrameError> {
    let position = match value.kind {
        Kind::Number => value.whole(),
        Kind::String { .. } => value.string().parse().ok(),
        _ => None,
    };
    position.ok_or_else(|| must_be(name, "what a message gave as its \"ackId\""))
}

fn read_positions(fields: &Fields<'_>, limits: &Limits) -> Result<Vec<Position>, FrameError> {
    match (fields.value(Name::AckId), fields.value(Name::AckIds)) {
        (Some(value), None) => Ok(vec![read_position(Name::AckId, value)?]),
        (None, Some(value)) => read_list(
            Name::AckIds,
            value,
            usize::from(limits.in_flight_max.max(1)),
            |value| read_position(Name::AckIds, value),
        ),
        _ => Err(FrameError::invalid(
            "exactly one of \"ackId\" and \"ackIds\" must be there",
        )),
    }
}

fn write_positions(object: &mut Object, positions: &[Position]) {
    if let [position] = positions {
        object.raw("ackId", &position_json(*position));
    } else {
        object.array("ackIds", positions.iter().copied().map(position_json));
    }
}

fn read_topics<'a>(fields: &Fields<'a>, limits: &Limits) -> Result<Vec<Cow<'a, str>>, FrameError> {
    match (fields.value(Name::Topic), fields.value(Name::Topics)) {
        (Some(value), None) => Ok(vec![as_string("topic", value)?]),
        (None, Some(value)) => read_list(
            Name::Topics,
            value,
            limits.filters_per_subscribe,
            |element| as_string("topics", element),
        ),
        _ => Err(FrameError::invalid(
            "exactly one of \"topic\" and \"topics\" must be there",
        )),
    }
}

fn write_topics(object: &mut Object, topics: &[Cow<'_, str>], share: Option<&str>) {
    if let [topic] = topics {
        object.string("topic", topic);
    } else {
        object.array("topics", topics.iter().map(|topic| write::string(topic)));
    }
    object.maybe("share", share);
}

/// A list of at least one and at most `max` elements.
fn read_list<'a, T>(
    name: Name,
    value: Value<'a>,
    max: usize,
    read: impl Fn(Value<'a>) -> Result<T, FrameError>,
) -> Result<Vec<T>, FrameError> {
    if value.kind != Kind::Array {
        return Err(must_be(name, "an array"));
    }
    let mut list = Vec::new();
    scan::array(value.raw, usize::MAX, |element| {
        if list.len() == max {
            let detail = format!("\"{}\" has more than {max} elements", name.as_str());
            return Err(FrameError::new(ErrorCode::TooLarge, detail));
        }
        list.push(read(element)?);
        Ok(())
    })?;
    if list.is_empty() {
        return Err(must_be(name, "an array with at least one element"));
    }
    Ok(list)
}

/// `"session": {"expiry": seconds}`.
pub(super) fn read_session_expiry(fields: &Fields<'_>) -> Result<Option<u32>, FrameError> {
    let Some(session) = fields.value(Name::Session) else {
        return Ok(None);
    };
    let wrong = || must_be(Name::Session, "{\"expiry\": seconds}");
    if session.kind != Kind::Object {
        return Err(wrong());
    }
    let mut expiry = None;
    scan::object(session.raw, usize::MAX, |key, value| {
        if key.string() == "expiry" {
            let secs = value.whole().ok_or_else(wrong)?;
            if expiry.replace(secs).is_some() {
                return Err(FrameError::invalid("\"expiry\" comes twice"));
            }
        }
        Ok(())
    })?;
    Ok(expiry.map(|secs| u32::try_from(secs).unwrap_or(u32::MAX)))
}

pub(super) fn write_session(object: &mut Object, expiry_secs: Option<u32>) {
    if let Some(secs) = expiry_secs {
        object.raw("session", &format!("{{\"expiry\":{secs}}}"));
    }
}

fn required<'a>(fields: &Fields<'a>, name: Name) -> Result<Cow<'a, str>, FrameError> {
    fields
        .string(name)?
        .ok_or_else(|| FrameError::invalid(format!("\"{}\" is missing", name.as_str())))
}

fn unknown_type(kind: &str) -> FrameError {
    let shown: String = kind.chars().take(64).collect();
    let detail = format!("unknown type {}; known are {TYPES}", write::string(&shown));
    FrameError::new(ErrorCode::UnknownType, detail)
}
