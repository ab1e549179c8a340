//! Server-Sent Events (HTML Living Standard §9.2): a subscription that is one long HTTP answer.
//!
//! Its client says nothing after the request, so this state machine only writes: each message is an
//! event whose data is the `message` frame of the JSON protocol. It is no subprotocol of WebSocket and
//! stands in no registry; the HTTP API opens it.
//!
//! ```text
//! event: connected        event: gap              id: 7-41
//! data: {"clientId":…}    data: {"dropped":12}    data: {"type":"message","qos":1,…}
//! ```
//!
//! An event that the session keeps has the session's number and its position as `id`. Its client acknowledges nothing, so the
//! last [`Config::replay`] events stay open: who comes back with `Last-Event-ID` gets what came behind
//! it. Older ones are settled as new ones are written.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use memchr::memchr2;

use crate::Command;
use crate::connection::{
    CloseReason, Connection, Delivered, Delivery, Notice, Output, Position, Reply, Settle,
};
use crate::json::{message, write};
use crate::model::{Encoding, Message, Timestamp};
use crate::outbox::{FrameType, Outbox};

/// Names the data of an event among a message's encodings.
const ENCODING: Encoding = Encoding("sse");

/// The name of a kept event: whose it is and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The session's number; another session's positions say nothing.
    pub session: u64,
    /// The message's position in it.
    pub position: Position,
}

impl EventId {
    /// Reads what a client sends back as `Last-Event-ID`.
    pub fn parse(text: &str) -> Option<Self> {
        let (session, position) = text.split_once('-')?;
        Some(Self {
            session: session.parse().ok()?,
            position: position.parse().ok()?,
        })
    }
}

/// What an event stream keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Silence after which a comment is written, so that no proxy takes the stream for dead.
    pub heartbeat: Duration,
    /// Events of a session that stay open for a client that comes back.
    pub replay: usize,
    /// The last event that the client has, if it says so.
    pub last_event: Option<EventId>,
}

/// One client's stream.
#[derive(Debug)]
pub struct EventStream {
    config: Config,
    last_write: Timestamp,
    /// The session's number, once the client was let in.
    session: u64,
    /// Written and not settled, the oldest first.
    open: VecDeque<Position>,
}

impl EventStream {
    /// A stream that begins now.
    pub fn new(config: Config, now: Timestamp) -> Self {
        Self {
            config,
            last_write: now,
            session: 0,
            open: VecDeque::new(),
        }
    }

    /// Whether the client said that it has this one.
    fn has(&self, position: Position) -> bool {
        self.config
            .last_event
            .is_some_and(|last| last.session == self.session && position <= last.position)
    }
}

impl Connection for EventStream {
    fn receive(&mut self, input: &[u8], _now: Timestamp, _out: &mut Output<'_>) -> usize {
        input.len()
    }

    fn reply(&mut self, reply: Reply, now: Timestamp, out: &mut Output<'_>) {
        if let Reply::Connected(connected) = reply {
            self.session = connected.session;
            let id = write::string(&connected.client_id);
            let present = connected.session_present;
            let data = format!("{{\"clientId\":{id},\"sessionPresent\":{present}}}");
            event("connected", &data, out.outbox);
            self.last_write = now;
        }
    }

    fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        let id = match delivery.position {
            Some(position) => {
                self.open.push_back(position);
                if self.has(position) {
                    return Delivered::Written;
                }
                format!("id: {}-{position}\ndata: ", self.session)
            }
            None => "data: ".to_owned(),
        };
        let head = message::head(delivery, now);
        let body = delivery.message.encoded(ENCODING, lines);
        let parts = [id.as_bytes(), head.as_bytes()];
        outbox.frame_of(delivery.message, FrameType::Text, &parts, body, b"\n\n");
        self.last_write = now;
        Delivered::Written
    }

    fn notify(&mut self, notice: &Notice, now: Timestamp, outbox: &mut Outbox) {
        match notice {
            Notice::Gap { dropped } => {
                event("gap", &format!("{{\"dropped\":{dropped}}}"), outbox);
            }
            Notice::Expiring { at } => {
                event("expiring", &format!("{{\"expiresAt\":{}}}", at.0), outbox);
            }
        }
        self.last_write = now;
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        if self.open.len() > self.config.replay {
            return Some(Timestamp(0));
        }
        Some(self.last_write + self.config.heartbeat)
    }

    fn handle_timeout(&mut self, now: Timestamp, out: &mut Output<'_>) {
        while self.open.len() > self.config.replay {
            if let Some(position) = self.open.pop_front() {
                out.commands.push(Command::Settle {
                    token: None,
                    settle: Settle::Done(position),
                });
            }
        }
        if now >= self.last_write + self.config.heartbeat {
            out.outbox.frame(FrameType::Text, &[b":\n\n"]);
            self.last_write = now;
        }
    }

    fn close(&mut self, reason: &CloseReason, outbox: &mut Outbox) {
        let (cause, detail) = (reason.cause.as_str(), write::string(&reason.detail));
        let data = format!("{{\"reason\":\"{cause}\",\"detail\":{detail}}}");
        event("close", &data, outbox);
    }
}

fn event(name: &str, data: &str, outbox: &mut Outbox) {
    let parts = ["event: ", name, "\ndata: ", data, "\n\n"].map(str::as_bytes);
    outbox.frame(FrameType::Text, &parts);
}

/// The data of an event. A payload that is JSON may hold line ends between its values, and each line
/// of an event's data has the field's name in front.
fn lines(message: &Message) -> Bytes {
    let body = message::body(message);
    if memchr2(b'\n', b'\r', &body).is_none() {
        return body;
    }
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut rest = &body[..];
    while let Some(at) = memchr2(b'\n', b'\r', rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"\ndata: ");
        let end = if rest[at..].starts_with(b"\r\n") {
            2
        } else {
            1
        };
        rest = &rest[at + end..];
    }
    out.extend_from_slice(rest);
    out.into()
}

#[cfg(test)]
mod tests;
