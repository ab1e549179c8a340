//! The seam between protocols and broker: one trait for a protocol, one for its connections.
//!
//! ```text
//!            bytes                                   Command
//!  socket ──────────▶  Connection::receive  ───────────────────────▶  broker
//!         ◀──────────  Outbox   ◀── Connection::reply   ◀── Reply     (answers, in order)
//!                               ◀── Connection::deliver ◀── Delivery  (messages)
//! ```
//!
//! Rules that the broker keeps:
//!
//! - Commands are carried out in their order. Each command that expects an answer is answered by
//!   exactly one [`Reply`], in the order of the commands; the [`Token`] comes back unchanged.
//! - After [`Command::Connect`] nothing more is received until its reply was given.
//! - An answer that promises durability is given only when the promise is kept.
//! - [`Connection::deliver`] may be called from the task of any publisher, between any two other
//!   calls, but never at the same time as another.
//!
//! Rules that a connection keeps: it never blocks, reads no clock, and treats its input as
//! hostile. It is opened before the first byte and dropped after the last.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

use crate::limits::Limits;
use crate::model::{Message, QoS, SubscriptionFilter, Timestamp, Topic};
use crate::outbox::Outbox;

/// A protocol that clients speak; one static value each, listed in [`crate::registry`].
pub trait Protocol: Send + Sync {
    /// Name for people, logs and the `protocol` label of metrics: `mqtt`, `stomp`, `json`.
    fn name(&self) -> &'static str;

    /// Tokens of `Sec-WebSocket-Protocol` that choose this protocol, the preferred one first.
    fn subprotocols(&self) -> &'static [&'static str];

    /// How its frames lie in WebSocket messages.
    fn web_socket_use(&self) -> WebSocketUse;

    /// Begins a connection.
    fn open(&self, open: Open) -> Box<dyn Connection>;
}

/// How a protocol uses WebSocket messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebSocketUse {
    /// Binary messages that together are one stream; frames may share or span messages. Text
    /// messages are refused (MQTT `[MQTT-6.0.0-1]`).
    BinaryStream,
    /// Text or binary messages that together are one stream; each outgoing frame is one message,
    /// binary if it is not UTF-8 (STOMP).
    FramedStream,
    /// Each text message is exactly one frame, both ways (JSON). Binary messages are refused.
    TextMessages,
}

/// What a connection knows from its start.
#[derive(Clone, Debug)]
pub struct Open {
    /// The subprotocol that was negotiated; `None` on plain TCP or TLS.
    pub subprotocol: Option<&'static str>,
    /// A name for this connection that is never used again.
    pub connection_id: ByteString,
    /// The bounds to keep.
    pub limits: Arc<Limits>,
    /// When it was accepted.
    pub now: Timestamp,
}

/// One client's connection: a state machine between bytes and commands.
pub trait Connection: Send {
    /// Takes bytes from the client and returns how many of them it used up.
    ///
    /// What is left (an incomplete frame, or anything behind a [`Command::Connect`]) is offered
    /// again with more behind it. Under [`WebSocketUse::TextMessages`] the input is one whole
    /// message and is used up whole.
    fn receive(&mut self, input: &[u8], now: Timestamp, out: &mut Output<'_>) -> usize;

    /// Takes the broker's answer to a command.
    fn reply(&mut self, reply: Reply, now: Timestamp, out: &mut Output<'_>);

    /// Writes a message for the client, or says why it cannot be written.
    fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered;

    /// Writes a notice that is not an answer, if the protocol has words for it.
    fn notify(&mut self, notice: &Notice, now: Timestamp, outbox: &mut Outbox) {
        let _ = (notice, now, outbox);
    }

    /// When [`Connection::handle_timeout`] wants to be called, if the client stays silent.
    fn next_timeout(&self) -> Option<Timestamp>;

    /// Acts on the time that has come: closes a client that is too late, sends a ping.
    fn handle_timeout(&mut self, now: Timestamp, out: &mut Output<'_>);

    /// Writes the protocol's last words for an end that the broker decided. Nothing is written
    /// afterwards.
    fn close(&mut self, reason: &CloseReason, outbox: &mut Outbox);
}

/// Where a connection puts what comes of an input.
#[derive(Debug)]
pub struct Output<'a> {
    /// Bytes for the client.
    pub outbox: &'a mut Outbox,
    /// What the client asks of the broker, in order.
    pub commands: &'a mut Vec<Command>,
    /// Set when the connection is over: the broker carries out the commands, writes what is in
    /// the outbox and closes. The connection has written its own last words already.
    pub close: &'a mut Option<CloseReason>,
}

impl Output<'_> {
    /// Ends the connection for a reason; the first reason stays.
    pub fn end(&mut self, cause: Cause, detail: impl Into<Cow<'static, str>>) {
        self.close
            .get_or_insert_with(|| CloseReason::new(cause, detail));
    }
}

/// Comes back with the answer to a command; only the connection knows what it means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Number of a queued or in-flight message in its session: grows by one a message, never used
/// twice in a session's life. The first is 0.
///
/// A packet identifier is a function of it, so that the same message has the same identifier
/// after a crash.
pub type Position = u64;

/// Number of a subscription in its session, given by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub u32);

/// What a client asks of the broker.
#[derive(Debug)]
pub enum Command {
    /// To be let in. Answered by [`Reply::Connected`] or [`Reply::Refused`].
    Connect(Box<Connect>),
    /// To publish. Answered by [`Reply::Published`] if it has a token.
    Publish(Publish),
    /// The second half of a QoS 2 publish (PUBREL): forget the packet identifier. Answered by
    /// [`Reply::Released`].
    Release {
        /// The packet identifier that the publish had.
        packet_id: u16,
    },
    /// To subscribe. Answered by [`Reply::Subscribed`].
    Subscribe(Box<Subscribe>),
    /// To unsubscribe. Answered by [`Reply::Unsubscribed`].
    Unsubscribe {
        /// Comes back with the answer.
        token: Token,
        /// [`SubscribeRequest::key`] of each.
        keys: SmallVec<[ByteString; 1]>,
    },
    /// To settle messages that were delivered. Answered by [`Reply::Received`] for
    /// [`Settle::Received`], otherwise by [`Reply::Settled`] if `token` is there.
    Settle {
        /// Set if the client wants to know.
        token: Option<Token>,
        /// What it says about them.
        settle: Settle,
    },
    /// Several publishes and settlements that happen together or not at all. Answered by one
    /// [`Reply::Committed`]; tokens inside are ignored.
    Transaction {
        /// Comes back with the answer.
        token: Token,
        /// [`Command::Publish`] and [`Command::Settle`] only.
        commands: Vec<Command>,
    },
    /// To know that all commands before it were answered. Answered by [`Reply::Passed`].
    Barrier {
        /// Comes back with the answer.
        token: Token,
    },
    /// To go on with new credentials. Answered by [`Reply::Refreshed`].
    Refresh {
        /// Comes back with the answer.
        token: Token,
        /// The new token of the same user.
        credentials: Secret,
    },
    /// Not a question: the connection refused a request by itself, has told the client and goes
    /// on. It is counted. Not answered.
    Refused {
        /// Short name for the `reason` label of metrics: [`RefusalCode::as_str`] or one that the
        /// protocol adds.
        reason: &'static str,
    },
    /// To say good-bye. Not answered; the connection ends itself with [`Output::end`].
    Disconnect {
        /// Whether the will is to be published all the same.
        publish_will: bool,
        /// A new session expiry in seconds, if it gave one.
        session_expiry_secs: Option<u32>,
    },
}

/// Bytes that nobody may read by accident: logs and error messages show three stars.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub Bytes);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A login. Its [`Debug`](std::fmt::Debug) shows no secrets.
#[derive(Default)]
pub struct Connect {
    /// Protocol and version for people: `mqtt 5`, `stomp 1.2`, `json 1`.
    pub protocol: &'static str,
    /// The client's own name; `None` asks for one.
    pub client_id: Option<ByteString>,
    /// Whether to begin anew, forgetting an older session.
    pub clean_start: bool,
    /// How long the session outlives the connection, in seconds: 0 ends with it, [`u32::MAX`]
    /// never. Already within [`Limits::session_expiry_max_secs`].
    pub session_expiry_secs: u32,
    /// Seconds of silence allowed, for information; the connection itself watches it.
    pub keep_alive_secs: u16,
    /// User name, if given.
    pub username: Option<ByteString>,
    /// Password or token, if given. Never logged.
    pub password: Option<Bytes>,
    /// What the client itself calls a token: authentication data of the method `jwt` (MQTT 5), an
    /// `Authorization` header (STOMP), `token` (JSON).
    pub token: Option<Secret>,
    /// The host that the client believes to talk to (STOMP).
    pub host: Option<ByteString>,
    /// What to publish if the connection ends without [`Command::Disconnect`].
    pub will: Option<Box<Will>>,
    /// How many unacknowledged messages the client takes in the session's own lane.
    pub in_flight: u16,
    /// What happens when several subscriptions of the session match one message.
    pub overlap: Overlap,
    /// Whether the session is always subscribed to `$broadcast` and to its own user's topics
    /// (`$user/{user}/#`).
    pub auto_subscribe: bool,
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("protocol", &self.protocol)
            .field("client_id", &self.client_id)
            .field("clean_start", &self.clean_start)
            .field("session_expiry_secs", &self.session_expiry_secs)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// What several matching subscriptions of one session mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// One delivery with all their identifiers and the highest granted QoS (MQTT, JSON).
    #[default]
    Merge,
    /// One delivery for each (STOMP).
    Each,
}

/// A last will `[MQTT-3.1.2.5]`.
#[derive(Debug)]
pub struct Will {
    /// What to publish. Its expiry is in [`Will::expiry_secs`], since it starts with the publish.
    pub message: Message,
    /// Seconds to wait for the client to come back.
    pub delay_secs: u32,
    /// Message expiry interval in seconds, from the moment of publishing.
    pub expiry_secs: Option<u32>,
}

/// A message to publish.
#[derive(Debug)]
pub struct Publish {
    /// Set if the client waits for an answer.
    pub token: Option<Token>,
    /// The packet identifier of a QoS 2 publish: the same one again, before its
    /// [`Command::Release`], is answered but not published again `[MQTT-4.3.3]`.
    pub exactly_once: Option<u16>,
    /// The same key again within its window is answered alike but not published again.
    pub idempotency_key: Option<ByteString>,
    /// The message; [`Message::publisher`] is filled in by the broker. It stays in the place where
    /// it was made, from here to its last receiver.
    pub message: Arc<Message>,
}

/// A list of subscriptions to make.
#[derive(Debug)]
pub struct Subscribe {
    /// Comes back with the answer.
    pub token: Token,
    /// Each is answered; one that the connection itself refused keeps its place.
    pub requests: SmallVec<[Result<SubscribeRequest, Refusal>; 1]>,
}

/// One subscription.
#[derive(Clone, Debug)]
pub struct SubscribeRequest {
    /// What names it in its session: the filter's text in MQTT, the `id` in STOMP. Subscribing
    /// again with the same key replaces it.
    pub key: ByteString,
    /// What it matches.
    pub filter: SubscriptionFilter,
    /// The highest QoS to deliver with.
    pub qos: QoS,
    /// Not what this same session published.
    pub no_local: bool,
    /// Deliver with the retain flag that the publisher set.
    pub retain_as_published: bool,
    /// Which retained messages to send now.
    pub retain_handling: RetainHandling,
    /// The client's subscription identifier, given back with deliveries.
    pub identifier: Option<NonZeroU32>,
    /// Where its acknowledged messages wait and how many may be open.
    pub lane: Lane,
    /// Whether a message is settled as soon as it is written, because the client never
    /// acknowledges (STOMP `ack:auto` on a durable subscription).
    pub auto_settle: bool,
    /// Whether it stays while the client is away (within the session's expiry). A subscription
    /// that does not ends with its connection.
    pub durable: bool,
}

/// The queue that a subscription's acknowledged messages go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// The session's one queue, in one order (MQTT, JSON).
    #[default]
    Session,
    /// A queue of its own with its own window of unacknowledged messages (STOMP).
    Own {
        /// How many may be open.
        in_flight: u16,
    },
}

/// Which retained messages a new subscription gets `[MQTT-3.8.3.1]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetainHandling {
    /// All that match (0).
    #[default]
    Send,
    /// All that match if the subscription did not exist (1).
    SendIfNew,
    /// None (2).
    DoNotSend,
}

/// What a client says about delivered messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// The first answer at QoS 2 (PUBREC): it has the message, and must not get it again.
    Received(Position),
    /// It has it and it is done: PUBACK, PUBCOMP, a single ACK.
    Done(Position),
    /// All up to and including this one of a subscription are done (cumulative ACK).
    DoneThrough(SubscriptionId, Position),
    /// It does not take this one. With `requeue` it comes again, to another consumer if there is
    /// one; otherwise it is dropped and counted.
    Rejected {
        /// Which.
        position: Position,
        /// Whether it comes again.
        requeue: bool,
    },
    /// It takes none of those open up to and including this one (cumulative NACK); they come
    /// again.
    RejectedThrough(SubscriptionId, Position),
}

/// The broker's answer to a command.
#[derive(Debug)]
pub enum Reply {
    /// The client is in.
    Connected(Connected),
    /// The client is not let in. The connection writes its refusal; the broker then closes.
    Refused(Refusal),
    /// Answer to a [`Command::Publish`] with a token.
    Published {
        /// The command's.
        token: Token,
        /// Number of sessions and groups that it went to, or why it was not accepted.
        result: Result<u32, Refusal>,
    },
    /// Answer to [`Command::Release`].
    Released {
        /// The command's.
        packet_id: u16,
        /// Whether it was open.
        found: bool,
    },
    /// Answer to [`Command::Subscribe`]. Retained messages follow.
    Subscribed {
        /// The command's.
        token: Token,
        /// One for each request, in order.
        results: SmallVec<[Result<Granted, Refusal>; 1]>,
    },
    /// Answer to [`Command::Unsubscribe`].
    Unsubscribed {
        /// The command's.
        token: Token,
        /// For each key, whether there was such a subscription.
        existed: SmallVec<[bool; 1]>,
    },
    /// Answer to [`Settle::Received`]: it is on record; write PUBREL. Also given after a resume,
    /// in place of a delivery, for a message that the client had received already.
    Received {
        /// Which message.
        position: Position,
        /// Whether such a message was open.
        found: bool,
    },
    /// Answer to [`Command::Settle`] with a token.
    Settled {
        /// The command's.
        token: Token,
        /// Why not, if not.
        result: Result<(), Refusal>,
    },
    /// Answer to [`Command::Barrier`].
    Passed {
        /// The command's.
        token: Token,
    },
    /// Answer to [`Command::Refresh`]: when the new credentials end, if they do. After a refusal
    /// the old ones hold.
    Refreshed {
        /// The command's.
        token: Token,
        /// Why not, if not.
        result: Result<Option<Timestamp>, Refusal>,
    },
    /// Answer to [`Command::Transaction`].
    Committed {
        /// The command's.
        token: Token,
        /// Why not, if not.
        result: Result<(), Refusal>,
    },
}

/// What a client that was let in is told.
#[derive(Clone, Debug, Default)]
pub struct Connected {
    /// Its name: its own or the one that it was given.
    pub client_id: ByteString,
    /// Whether the broker chose that name.
    pub assigned: bool,
    /// Whether an older session goes on.
    pub session_present: bool,
    /// The user that it was recognised as.
    pub user: Option<ByteString>,
    /// The session's number, see [`Message::publisher`].
    pub session: u64,
}

/// A subscription that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Its number: deliveries name it. Stable while the session lives.
    pub id: SubscriptionId,
    /// The highest QoS that it will get.
    pub qos: QoS,
}

/// A no, in words that each protocol turns into its own code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind.
    pub code: RefusalCode,
    /// For the client: what is wrong and, where that helps, what to do. No secrets.
    pub detail: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with its explanation.
    pub fn new(code: RefusalCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

/// Kinds of refusal, one for each answer that some protocol can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// Something of ours went wrong (0x80, 500).
    Unspecified,
    /// Not allowed by a limit or a setting of this broker (0x83).
    Implementation,
    /// The client identifier is not acceptable (0x85).
    ClientId,
    /// Unknown user, wrong password, bad token (0x86).
    BadCredentials,
    /// Known but not allowed (0x87).
    NotAuthorized,
    /// The broker cannot take it now: it is stopping, or its store is not available (0x88).
    Unavailable,
    /// Too busy; try again later (0x89).
    Busy,
    /// Banned (0x8A).
    Banned,
    /// The filter is well formed but not accepted (0x8F).
    FilterInvalid,
    /// The topic is well formed but not accepted (0x90).
    TopicInvalid,
    /// Larger than allowed (0x95).
    TooLarge,
    /// Over a quota (0x97).
    Quota,
    /// The payload is not what its format indicator says (0x99).
    PayloadFormat,
    /// Too many connections or messages in a time (0x9F).
    Rate,
    /// The message that it speaks of is not open.
    Unknown,
}

impl RefusalCode {
    /// Short name for logs and the `reason` label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Implementation => "implementation",
            Self::ClientId => "client_id",
            Self::BadCredentials => "bad_credentials",
            Self::NotAuthorized => "not_authorized",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Banned => "banned",
            Self::FilterInvalid => "filter_invalid",
            Self::TopicInvalid => "topic_invalid",
            Self::TooLarge => "too_large",
            Self::Quota => "quota",
            Self::PayloadFormat => "payload_format",
            Self::Rate => "rate",
            Self::Unknown => "unknown",
        }
    }

    /// Which kind of end a login is that is refused for this.
    pub const fn login_cause(self) -> Cause {
        match self {
            Self::BadCredentials | Self::NotAuthorized => Cause::Unauthorized,
            Self::Unavailable | Self::Busy => Cause::Unavailable,
            _ => Cause::Refused,
        }
    }
}

/// A message on its way to one client.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// The message, shared with its other receivers.
    pub message: &'a Arc<Message>,
    /// The level that it is delivered with.
    pub qos: QoS,
    /// The retain flag to show.
    pub retain: bool,
    /// Its number in the session; `None` at QoS 0.
    pub position: Option<Position>,
    /// How often it was sent to this session or group before; 0 the first time.
    pub attempts: u32,
    /// The subscriptions that it comes from; one unless [`Overlap::Merge`] put several together.
    pub matched: &'a [Matched],
}

/// A subscription that matched a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The broker's number.
    pub id: SubscriptionId,
    /// The client's identifier, if it gave one.
    pub identifier: Option<NonZeroU32>,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivered {
    /// It is in the outbox.
    Written,
    /// The client does not take frames of this size; drop it and count it `[MQTT-3.1.2-25]`.
    TooLarge,
    /// The subscription is unknown to this connection (a durable one that was not renewed); keep
    /// or drop it as for a client that is away.
    NotSubscribed,
}

/// Something to tell a client without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Messages were dropped because the client reads too slowly.
    Gap {
        /// How many since the last notice.
        dropped: u64,
    },
    /// The client's credentials end soon: without new ones the connection ends then.
    Expiring {
        /// When.
        at: Timestamp,
    },
}

/// Why a connection ends: the protocols choose their code from `cause`, logs and metrics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The kind.
    pub cause: Cause,
    /// For people, and for the client where the protocol has a place for it.
    pub detail: Cow<'static, str>,
    /// Where the client finds another server, if it is sent to one.
    pub elsewhere: Option<Elsewhere>,
}

/// Another server that clients are sent to (the server reference of MQTT 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its name, as clients understand it: `host`, `host:port` or a URL.
    pub server: Arc<str>,
    /// Whether clients are to use it from now on, and not only this time.
    pub for_good: bool,
}

/// Kinds of end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The client said good-bye.
    Normal,
    /// The client closed without a word.
    Lost,
    /// The client was not let in.
    Refused,
    /// The client was not let in because the broker cannot do it now; it may come back later.
    Unavailable,
    /// The client was not let in, or is not allowed to stay, because of who it is or is not.
    Unauthorized,
    /// Bytes that are not the protocol's.
    Malformed,
    /// Frames that are not allowed here.
    ProtocolError,
    /// A WebSocket message of the wrong type.
    WrongType,
    /// Text that is not UTF-8.
    NotUtf8,
    /// A packet or frame over the limit.
    TooLarge,
    /// More in flight than the receive maximum.
    ReceiveMaximum,
    /// A quota was used up.
    Quota,
    /// No login in time.
    LoginTimeout,
    /// Silence beyond the keep alive.
    KeepAliveTimeout,
    /// Another connection took the session over.
    TakenOver,
    /// The client reads too slowly.
    SlowConsumer,
    /// The broker stops.
    Shutdown,
    /// An operator closed it.
    Administrative,
    /// Its credentials are no longer good.
    Expired,
    /// Too many messages in a time.
    Rate,
    /// The socket failed.
    Io,
    /// Something of ours went wrong.
    Internal,
}

impl Cause {
    /// Short name for logs and the `reason` label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Lost => "lost",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Unauthorized => "unauthorized",
            Self::Malformed => "malformed",
            Self::ProtocolError => "protocol_error",
            Self::WrongType => "wrong_type",
            Self::NotUtf8 => "not_utf8",
            Self::TooLarge => "too_large",
            Self::ReceiveMaximum => "receive_maximum",
            Self::Quota => "quota",
            Self::LoginTimeout => "login_timeout",
            Self::KeepAliveTimeout => "keep_alive_timeout",
            Self::TakenOver => "taken_over",
            Self::SlowConsumer => "slow_consumer",
            Self::Shutdown => "shutdown",
            Self::Administrative => "administrative",
            Self::Expired => "expired",
            Self::Rate => "rate",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }
}

impl CloseReason {
    /// A reason with its explanation.
    pub fn new(cause: Cause, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            cause,
            detail: detail.into(),
            elsewhere: None,
        }
    }
}

/// Well-known topics that the mapping between protocols is built on.
pub mod topics {
    /// Everyone who listens: JSON clients always, others by subscribing.
    pub const BROADCAST: &str = "$broadcast";
    /// `$group/{group}`: members of a group.
    pub const GROUP: &str = "$group/";
    /// `$user/{user}/…`: all connections of a user.
    pub const USER: &str = "$user/";
    /// `$queue/{name}`: a queue of competing consumers.
    pub const QUEUE: &str = "$queue/";
    /// `$SYS/…`: the broker about itself, read-only.
    pub const SYS: &str = "$SYS/";
    /// `$auth/…`: credentials of the connection itself; nothing is routed there.
    pub const AUTH: &str = "$auth/";
    /// A client publishes its new token here.
    pub const AUTH_REFRESH: &str = "$auth/refresh";
    /// Who subscribes to it is told before its credentials end.
    pub const AUTH_EXPIRING: &str = "$auth/expiring";
}

/// Shorthand that the protocols use to read a topic within the limits.
pub(crate) fn parse_topic(
    text: ByteString,
    limits: &Limits,
) -> Result<Topic, crate::model::TopicError> {
    Topic::parse(text, limits.topic_bytes, limits.topic_levels)
}

/// Shorthand that the protocols use to read a subscription's filter within the limits.
pub(crate) fn parse_filter(
    text: ByteString,
    limits: &Limits,
) -> Result<SubscriptionFilter, crate::model::FilterError> {
    SubscriptionFilter::parse(text, limits.topic_bytes, limits.topic_levels)
}
