//! STOMP 1.0, 1.1 and 1.2: codec for both sides, connection of the server.
//!
//! - [`frame`]: a frame as it lies in the bytes that were read, header escaping by version.
//! - [`decode`]: frames out of a byte stream, bounded and resumable; for servers and clients.
//! - [`encode`]: frames into bytes; for servers and clients.
//! - `destination`: STOMP destinations to topics and back.
//! - `message`: SEND to [`crate::model::Message`], and that to MESSAGE.
//! - `connection`: the server's state machine.
//!
//! Headers beyond the standard's:
//!
//! | frame | header | meaning |
//! |---|---|---|
//! | CONNECT | `client-id` | name of a session that outlives the connection |
//! | CONNECT | `session-expiry` | by how many seconds |
//! | CONNECTED | `session-present` | whether the named session goes on |
//! | SUBSCRIBE | `durable:true` | the subscription stays while the client is away |
//! | SUBSCRIBE | `share:g` | competes with the other members of the group |
//! | SUBSCRIBE | `prefetch-count` | unacknowledged messages at a time; 0 for the most |
//! | SUBSCRIBE | `no-local:true` | not what this session sent |
//! | SUBSCRIBE | `retain-handling` | retained messages: 0 all, 1 if new, 2 none |
//! | SEND | `qos:0`, `1`, `2` | how safely; 1 with `persistent:true`, `receipt` or a queue |
//! | SEND | `retain:true` | keep it for later subscribers |
//! | SEND | `idempotency-key` | the same again is not published again |
//! | SEND, MESSAGE | `content-type`, `correlation-id`, `reply-to` | as in the other protocols |
//! | SEND, MESSAGE | `expires` | end of interest, milliseconds since 1970, 0 for never |
//! | SEND, MESSAGE | `user-NAME` | user property whose name has a meaning here; `user-`: none |
//! | MESSAGE | `persistent:true` | it was sent with `QoS` 1 or 2 |
//! | MESSAGE | `retained:true` | it was kept |
//! | MESSAGE | `subscription:server-N` | of a subscription that was made in the client's place |
//! | MESSAGE | `redelivered:true`, `delivery-count` | how often it was delivered, with this time |
//! | NACK | `requeue:false` | drop the message instead of delivering it again |
//!
//! Clients, such as those of the command line, use [`Decoder`] and [`FrameWriter`] alone.

mod connection;
pub mod decode;
mod destination;
pub mod encode;
pub mod frame;
mod message;

use std::fmt;

use crate::connection::{Connection, Open, Protocol, WebSocketUse};

pub use decode::{Bounds, DecodeError, Decoded, Decoder};
pub use encode::FrameWriter;
pub use frame::Frame;

/// How the names begin of subscriptions that were made in a client's place. Their number follows,
/// which is the identifier that such a [`crate::connection::SubscribeRequest`] has: clients of STOMP
/// give none themselves.
pub const GIVEN: &str = "server-";

/// STOMP, every version; the one value is listed in [`crate::registry`].
#[derive(Clone, Copy, Debug)]
pub struct Stomp;

impl Protocol for Stomp {
    fn name(&self) -> &'static str {
        "stomp"
    }

    fn subprotocols(&self) -> &'static [&'static str] {
        &["v12.stomp", "v11.stomp", "v10.stomp", "stomp"]
    }

    fn web_socket_use(&self) -> WebSocketUse {
        WebSocketUse::FramedStream
    }

    fn open(&self, open: Open) -> Box<dyn Connection> {
        Box::new(connection::StompConnection::new(open))
    }
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// STOMP 1.0: no escapes, no heart-beats, no NACK.
    V1_0,
    /// STOMP 1.1: escapes `\n`, `\c`, `\\`.
    V1_1,
    /// STOMP 1.2: also `\r`, CRLF as the end of a line, ACK by `id`.
    V1_2,
}

impl Version {
    /// All of them, the oldest first.
    pub const ALL: [Self; 3] = [Self::V1_0, Self::V1_1, Self::V1_2];

    /// The protocol and the version, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1_0 => "stomp 1.0",
            Self::V1_1 => "stomp 1.1",
            Self::V1_2 => "stomp 1.2",
        }
    }

    /// The number as it stands in `version` and `accept-version`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        }
    }

    /// The version with this number.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
