//! The native JSON subprotocol, `polycast.json.v1` (alias `json`).
//!
//! One WebSocket text message is one JSON object, both ways; its `type` says what it is. The
//! whole of it, with examples that are tested, is in `docs/json-protocol.md`. In short:
//!
//! | client | server |
//! |---|---|
//! | `connect` (optional), or any other request, which logs in anonymously | `connected`, always first |
//! | `subscribe`, `unsubscribe`, `join`, `leave` | `ack` with a result for each topic, or `error` |
//! | `publish`, `broadcast`, `ack`, `nack` | `ack` or `error` by `id`; without `id` only `error` |
//! | | `message`, with `ackId` at QoS 1; `gap` |
//! | `ping`, `pong`, `disconnect` | the same |
//!
//! - A group is the topic `$group/NAME`, a user `$user/ID/…`, everyone `$broadcast`.
//! - `data` without `dataType` is text if it is a string and JSON otherwise; a payload is shown as
//!   JSON if its content type says so and it is, as base64 if it is not UTF-8 or declared to be
//!   bytes, otherwise as text.
//! - Unknown fields are ignored, a known field that comes twice is refused, an unknown type is
//!   answered with its name. Text that is not JSON is answered up to seven times.
//! - A publish with an `id` is QoS 1 unless it says otherwise, and its `ack` is a promise.
//! - Text that is not UTF-8 and frames over the limit close (1007, 1009).
//!
//! Where to look: `frame` is what a client may say (`plain` its commonest case), `command` what it means, `connection` the state
//! machine, `answer` and `message` what is written, [`client`] the other end, `scan` and `write` the
//! JSON text itself.

mod answer;
pub mod client;
mod command;
mod connection;
mod content;
mod error;
mod fields;
mod frame;
pub(crate) mod message;
mod plain;
mod scan;
pub(crate) mod write;

pub use content::{Content, Data, Expiry, Header};
pub use error::{ErrorCode, FrameError};
pub use frame::{
    ClientFrame, ConnectRequest, Id, Options, PublishRequest, Request, SubscribeRequest, Target,
};

use crate::connection::{Connection, Open, Protocol, WebSocketUse};

/// A message as a JSON object, as its receivers read it in a `message` frame.
pub fn object_of(message: &crate::model::Message) -> String {
    let body = message::body(message);
    let mut text = String::with_capacity(body.len() + 1);
    text.push('{');
    text.push_str(&String::from_utf8_lossy(&body));
    text
}

/// The protocol, for the registry.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Protocol for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn subprotocols(&self) -> &'static [&'static str] {
        &["polycast.json.v1", "json"]
    }

    fn web_socket_use(&self) -> WebSocketUse {
        WebSocketUse::TextMessages
    }

    fn open(&self, open: Open) -> Box<dyn Connection> {
        Box::new(connection::JsonConnection::new(open))
    }
}
