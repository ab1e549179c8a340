//! The server's side of one MQTT connection: what a client may send when, and what it is
//! answered.
//!
//! ```text
//!         CONNECT            Reply::Connected
//!   New ───────────▶ Asked ───────────────────▶ Online
//!    │                 │ Reply::Refused           │ DISCONNECT, a fault, silence, close()
//!    └─────────────────┴──────────▶ Over ◀────────┘
//! ```
//!
//! A CONNECT that names `jwt` and brings no token is asked for one: between New and Asked it is
//! Challenged, until AUTH brings it.
//!
//! The codec has checked each packet for itself; what depends on earlier packets, on the limits
//! or on the time is checked here. A fault ends the connection: a version 5 client is told why,
//! one of version 3.1.1 has no packet for it `[MQTT-4.13.1-1]`. What a message means, who may
//! publish it and where it goes is the broker's.
//!
//! The broker opens a connection through [`Mqtt`]; start reading at [`Client`].

mod alias;
mod auth;
mod deliver;
mod login;
mod publish;
mod reason;
mod subscribe;
#[cfg(test)]
mod tests;
mod window;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use self::alias::Aliases;
use self::auth::Challenged;
use self::login::Asked;
use self::publish::AnswerOrder;
use self::window::{OpenIn, Sent};
use super::decode::{PLAIN_ACK_BYTES, plain_ack, plain_publish};
use super::packet::{Ack, Disconnect};
use super::{DecodeError, Decoded, Packet, PacketId, PacketType, ReasonCode, Side, Version};
use crate::connection::{
    Cause, CloseReason, Command, Connection, Delivered, Delivery, Elsewhere, Open, Output,
    Protocol, Reply, Settle, Token, WebSocketUse,
};
use crate::last_topic::LastTopic;
use crate::limits::Limits;
use crate::model::Timestamp;
use crate::outbox::{FrameType, Outbox};

/// MQTT 3.1.1 and 5.0 over TCP, TLS and WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct Mqtt;

impl Protocol for Mqtt {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    /// `[MQTT-6.0.0-3]`
    fn subprotocols(&self) -> &'static [&'static str] {
        &["mqtt"]
    }

    fn web_socket_use(&self) -> WebSocketUse {
        WebSocketUse::BinaryStream
    }

    fn open(&self, open: Open) -> Box<dyn Connection> {
        Box::new(Client::new(open))
    }
}

/// Unfinished bytes of a packet that count as a sign of life: a large packet on a slow line may
/// take longer than the keep alive, but not one byte at a time.
const PARTIAL_BYTES: u32 = 1024;

/// One client's connection. Rare state is boxed: most connections are idle.
#[derive(Debug)]
struct Client {
    limits: Arc<Limits>,
    phase: Phase,
    /// When the connection was opened; once online, when the client was last heard.
    heard: Timestamp,
    /// Milliseconds of silence that end the connection, half of them grace; 0 for never.
    silence_ms: u32,
    /// Length of the unfinished packet when it last counted as a sign of life.
    partial: u32,
    version: Version,
    /// Whether reason strings may go into any packet `[MQTT-3.1.2-29]`.
    problem_information: bool,
    /// Whether CONNECT asked for a session that ends with the connection.
    session_ends: bool,
    /// Whether CONNECT agreed on the authentication method `jwt`.
    enhanced: bool,
    /// The largest packet that the client takes.
    packet_max: u32,
    open: OpenIn,
    order: AnswerOrder,
    last_topic: LastTopic,
    sent: Sent,
    /// Made with the first one.
    aliases: Option<Box<Aliases>>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing but CONNECT is allowed `[MQTT-3.1.0-1]`.
    New,
    /// AUTH has asked for the token that CONNECT did not bring `[MQTT-4.12.0-2]`.
    Challenged(Box<Challenged>),
    /// The broker has the CONNECT; nothing more is read.
    Asked(Box<Asked>),
    /// CONNACK was sent.
    Online,
    /// Nothing is read or written any more.
    Over,
}

/// Why the connection must end.
#[derive(Debug)]
struct Fault {
    code: ReasonCode,
    cause: Cause,
    detail: Cow<'static, str>,
}

impl Fault {
    fn new(code: ReasonCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            cause: reason::cause_of(code),
            detail: detail.into(),
        }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

impl Connection for Client {
    fn receive(&mut self, input: &[u8], now: Timestamp, out: &mut Output<'_>) -> usize {
        match self.phase {
            Phase::New => {
                let used = self.receive_connect(input, out);
                match self.phase {
                    Phase::Challenged(_) => used + self.receive_token(&input[used..], out),
                    _ => used,
                }
            }
            Phase::Challenged(_) => self.receive_token(input, out),
            Phase::Asked(_) => 0,
            Phase::Online => self.receive_packets(input, now, out),
            Phase::Over => input.len(),
        }
    }

    fn reply(&mut self, reply: Reply, now: Timestamp, out: &mut Output<'_>) {
        match (&self.phase, reply) {
            (Phase::Asked(_), Reply::Connected(connected)) => {
                self.handle_connected(&connected, now, out);
            }
            (Phase::Asked(_), Reply::Refused(refusal)) => self.handle_refused(refusal, out),
            (Phase::Online, reply) => self.handle_reply(reply, out),
            _ => {}
        }
    }

    fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        if !matches!(self.phase, Phase::Online) {
            return Delivered::NotSubscribed;
        }
        self.write_publish(delivery, now, outbox)
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        let span = match self.phase {
            Phase::New | Phase::Challenged(_) | Phase::Asked(_) => self.limits.login_ms,
            Phase::Online if self.silence_ms > 0 => self.silence_ms,
            Phase::Online | Phase::Over => return None,
        };
        Some(self.heard + Duration::from_millis(u64::from(span)))
    }

    fn handle_timeout(&mut self, now: Timestamp, out: &mut Output<'_>) {
        if self.next_timeout().is_none_or(|at| now < at) {
            return;
        }
        let (cause, detail) = match self.phase {
            Phase::New | Phase::Challenged(_) | Phase::Asked(_) => {
                (Cause::LoginTimeout, "no login in time")
            }
            // [MQTT-3.1.2-22]
            Phase::Online | Phase::Over => (
                Cause::KeepAliveTimeout,
                "nothing was heard for 1.5 times the keep alive",
            ),
        };
        self.end(&CloseReason::new(cause, detail), out);
    }

    fn close(&mut self, reason: &CloseReason, outbox: &mut Outbox) {
        match &self.phase {
            Phase::New | Phase::Over => {}
            Phase::Asked(_) | Phase::Challenged(_) => {
                if let Some(code) = reason::connack_for_end(reason.cause) {
                    self.put_refusal(code, &reason.detail, outbox);
                }
            }
            Phase::Online => {
                if let Some(elsewhere) = &reason.elsewhere {
                    self.put_elsewhere(elsewhere, &reason.detail, outbox);
                } else if let Some(code) = reason::disconnect(reason.cause) {
                    self.put_disconnect(code, &reason.detail, outbox);
                }
            }
        }
        self.phase = Phase::Over;
    }
}

impl Client {
    fn new(open: Open) -> Self {
        Self {
            limits: open.limits,
            phase: Phase::New,
            heard: open.now,
            silence_ms: 0,
            partial: 0,
            version: Version::V311,
            problem_information: true,
            session_ends: true,
            enhanced: false,
            packet_max: u32::MAX,
            open: OpenIn::default(),
            order: AnswerOrder::default(),
            last_topic: LastTopic::default(),
            sent: Sent::default(),
            aliases: None,
        }
    }

    fn receive_packets(&mut self, input: &[u8], now: Timestamp, out: &mut Output<'_>) -> usize {
        let mut used = 0;
        while let Phase::Online = self.phase {
            let rest = &input[used..];
            match self.receive_plain(rest, out) {
                Ok(0) => {}
                Ok(consumed) => {
                    used += consumed;
                    self.heard = now;
                    self.partial = 0;
                    continue;
                }
                Err(fault) => {
                    self.fail(fault, out);
                    continue;
                }
            }
            match super::decode(rest, self.version, Side::Server, self.limits.packet_bytes) {
                Ok(Decoded::Packet { packet, consumed }) => {
                    let frame = &rest[..consumed];
                    used += consumed;
                    self.heard = now;
                    self.partial = 0;
                    if let Err(fault) = self.handle_packet(&packet, frame, now, out) {
                        self.fail(fault, out);
                    }
                }
                Ok(Decoded::NeedMore { .. }) => {
                    self.note_partial(rest.len(), now);
                    return used;
                }
                Err(error) => self.fail(error.into(), out),
            }
        }
        // Nothing behind the end is looked at [MQTT-3.14.4-2].
        input.len()
    }

    /// Takes the packet at the front if it is of those that nearly all traffic consists of, without
    /// the detour of a [`Packet`]: acknowledgements of success, and publishes to the topic before.
    /// Returns its bytes; 0 if it is another, or not whole.
    #[inline]
    fn receive_plain(&mut self, input: &[u8], out: &mut Output<'_>) -> Result<usize, Fault> {
        if let Some((packet_type, packet_id)) = plain_ack(input) {
            match packet_type {
                PacketType::PubRel => out.commands.push(Command::Release {
                    packet_id: packet_id.get(),
                }),
                PacketType::PubRec => {
                    self.handle_pubrec(&Ack::new(packet_id, ReasonCode::Success), out);
                }
                _ => {
                    if let Some(position) = self.sent.position(packet_id) {
                        push_settle(Settle::Done(position), out);
                    }
                }
            }
            return Ok(PLAIN_ACK_BYTES);
        }
        let Some(topic) = self.last_topic.kept() else {
            return Ok(0);
        };
        let max = self.limits.packet_bytes;
        let Some(publish) = plain_publish(input, self.version, max, topic.as_str()) else {
            return Ok(0);
        };
        let topic = topic.clone();
        self.handle_plain_publish(topic, &publish, out)?;
        Ok(publish.consumed)
    }

    fn note_partial(&mut self, length: usize, now: Timestamp) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if length >= self.partial.saturating_add(PARTIAL_BYTES) {
            self.partial = length;
            self.heard = now;
        }
    }

    fn handle_packet(
        &mut self,
        packet: &Packet<'_>,
        frame: &[u8],
        now: Timestamp,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish, frame, now, out)?,
            Packet::PubAck(ack) | Packet::PubComp(ack) => self.handle_done(ack, out),
            Packet::PubRec(ack) => self.handle_pubrec(ack, out),
            Packet::PubRel(ack) => out.commands.push(Command::Release {
                packet_id: ack.packet_id.get(),
            }),
            Packet::Subscribe(subscribe) => self.handle_subscribe(subscribe, out)?,
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(unsubscribe, out)?,
            // [MQTT-3.12.4-1]
            Packet::PingReq if out.commands.is_empty() => self.put_pingresp(out.outbox),
            // Clients ping to know that all before was taken: the answers to that go first.
            Packet::PingReq => out.commands.push(Command::Barrier {
                token: Token::default(),
            }),
            Packet::Disconnect(disconnect) => self.handle_disconnect(disconnect, out)?,
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => return Err(protocol_error("a second CONNECT")),
            Packet::Auth(auth) => self.handle_auth(auth, out)?,
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                return Err(protocol_error("a packet that only a server sends"));
            }
        }
        Ok(())
    }

    fn handle_reply(&mut self, reply: Reply, out: &mut Output<'_>) {
        match reply {
            Reply::Published { token, result } => self.handle_published(token, result, out),
            Reply::Released { packet_id, found } => self.handle_released(packet_id, found, out),
            Reply::Subscribed { token, results } => self.handle_subscribed(token, &results, out),
            Reply::Unsubscribed { token, existed } => {
                self.handle_unsubscribed(token, &existed, out);
            }
            Reply::Received { position, found } => {
                self.sent.note(position);
                let code = if found {
                    ReasonCode::Success
                } else {
                    ReasonCode::PacketIdentifierNotFound
                };
                let packet_id = Sent::packet_id(position).get();
                self.put_ack(PacketType::PubRel, packet_id, code, "", out.outbox);
            }
            Reply::Passed { .. } => self.put_pingresp(out.outbox),
            Reply::Refreshed { result, .. } => self.handle_refreshed(result, out),
            // Never asked for here.
            Reply::Connected(_)
            | Reply::Refused(_)
            | Reply::Settled { .. }
            | Reply::Committed { .. } => {}
        }
    }

    fn put_pingresp(&mut self, outbox: &mut Outbox) {
        self.put_bytes(&[0xd0, 0], outbox);
    }

    /// PUBACK and PUBCOMP. An identifier that stands for nothing is ignored.
    fn handle_done(&mut self, ack: &Ack<'_>, out: &mut Output<'_>) {
        let Some(position) = self.sent.position(ack.packet_id) else {
            return;
        };
        let refused = ack.reason.is_error() && ack.reason != ReasonCode::PacketIdentifierNotFound;
        let settle = if refused {
            Settle::Rejected {
                position,
                requeue: false,
            }
        } else {
            Settle::Done(position)
        };
        push_settle(settle, out);
    }

    /// `[MQTT-4.3.3-4]`: PUBREL follows when the broker has it on record.
    fn handle_pubrec(&mut self, ack: &Ack<'_>, out: &mut Output<'_>) {
        match self.sent.position(ack.packet_id) {
            Some(position) if ack.reason.is_error() => push_settle(
                Settle::Rejected {
                    position,
                    requeue: false,
                },
                out,
            ),
            Some(position) => push_settle(Settle::Received(position), out),
            None if ack.reason.is_error() => {}
            None => self.put_ack(
                PacketType::PubRel,
                ack.packet_id.get(),
                ReasonCode::PacketIdentifierNotFound,
                "",
                out.outbox,
            ),
        }
    }

    fn handle_disconnect(
        &mut self,
        disconnect: &Disconnect<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        let expiry = disconnect.properties.session_expiry_secs;
        // [MQTT-3.14.2-2] and section 3.14.2.2.2
        if self.session_ends && expiry.is_some_and(|secs| secs > 0) {
            return Err(protocol_error(
                "DISCONNECT gives a session expiry where CONNECT gave none",
            ));
        }
        out.commands.push(Command::Disconnect {
            // [MQTT-3.14.4-3] [MQTT-3.1.2-10]
            publish_will: disconnect.reason != ReasonCode::Success,
            session_expiry_secs: expiry.map(|secs| secs.min(self.limits.session_expiry_max_secs)),
        });
        out.end(Cause::Normal, "the client said good-bye");
        self.phase = Phase::Over;
        Ok(())
    }

    /// Ends the connection with the code of the fault.
    fn fail(&mut self, fault: Fault, out: &mut Output<'_>) {
        self.put_disconnect(fault.code, &fault.detail, out.outbox);
        out.end(fault.cause, fault.detail);
        self.phase = Phase::Over;
    }

    /// Ends the connection with the code of the reason.
    fn end(&mut self, reason: &CloseReason, out: &mut Output<'_>) {
        self.close(reason, out.outbox);
        out.end(reason.cause, reason.detail.clone());
    }

    /// DISCONNECT that names another server `[MQTT-3.14.2.2.5]`.
    fn put_elsewhere(&self, elsewhere: &Elsewhere, detail: &str, outbox: &mut Outbox) {
        if self.version != Version::V5 {
            return;
        }
        let code = if elsewhere.for_good {
            ReasonCode::ServerMoved
        } else {
            ReasonCode::UseAnotherServer
        };
        let mut packet = Disconnect::new(code);
        packet.properties.server_reference = Some(&elsewhere.server);
        if !self.put(&Packet::Disconnect(packet), outbox) {
            self.put_disconnect(code, detail, outbox);
        }
    }

    /// DISCONNECT, which a server sends in version 5 only `[MQTT-3.14.0-1]`.
    fn put_disconnect(&self, code: ReasonCode, detail: &str, outbox: &mut Outbox) {
        if self.version != Version::V5 {
            return;
        }
        let mut packet = Disconnect::new(code);
        packet.properties.reason_string = reason_string(detail);
        if !self.put(&Packet::Disconnect(packet), outbox) {
            self.put(&Packet::Disconnect(Disconnect::new(code)), outbox);
        }
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP, with the explanation if the client wants one and it
    /// fits `[MQTT-3.4.2-2]`.
    fn put_ack(
        &self,
        kind: PacketType,
        packet_id: u16,
        code: ReasonCode,
        detail: &str,
        outbox: &mut Outbox,
    ) {
        let first = (kind as u8) << 4 | u8::from(kind == PacketType::PubRel) << 1;
        let [high, low] = packet_id.to_be_bytes();
        if self.version == Version::V311 || code == ReasonCode::Success {
            return self.put_bytes(&[first, 2, high, low], outbox);
        }
        if !self.put_explained_ack(kind, packet_id, code, detail, outbox) {
            self.put_bytes(&[first, 3, high, low, code.as_u8()], outbox);
        }
    }

    fn put_explained_ack(
        &self,
        kind: PacketType,
        packet_id: u16,
        code: ReasonCode,
        detail: &str,
        outbox: &mut Outbox,
    ) -> bool {
        let (true, Some(text), Some(packet_id)) = (
            self.problem_information,
            reason_string(detail),
            PacketId::new(packet_id),
        ) else {
            return false;
        };
        let ack = Ack::new(packet_id, code).with_reason_string(text);
        let packet = match kind {
            PacketType::PubAck => Packet::PubAck(ack),
            PacketType::PubRec => Packet::PubRec(ack),
            PacketType::PubRel => Packet::PubRel(ack),
            _ => Packet::PubComp(ack),
        };
        self.put(&packet, outbox)
    }

    /// Writes a packet, unless the client does not take one of its size `[MQTT-3.1.2-24]`.
    fn put(&self, packet: &Packet<'_>, outbox: &mut Outbox) -> bool {
        let mut bytes = bytes::BytesMut::new();
        if super::encode(packet, self.version, &mut bytes).is_err() {
            return false;
        }
        let fits = bytes.len() <= self.packet_bytes_max();
        if fits {
            outbox.frame(FrameType::Binary, &[&bytes]);
        }
        fits
    }

    /// Bytes of the largest packet that the client takes.
    fn packet_bytes_max(&self) -> usize {
        usize::try_from(self.packet_max).unwrap_or(usize::MAX)
    }

    fn put_bytes(&self, bytes: &[u8], outbox: &mut Outbox) {
        if bytes.len() <= self.packet_bytes_max() {
            outbox.frame(FrameType::Binary, &[bytes]);
        }
    }
}

fn protocol_error(detail: &'static str) -> Fault {
    Fault::new(ReasonCode::ProtocolError, detail)
}

fn reason_string(detail: &str) -> Option<&str> {
    (!detail.is_empty()).then_some(detail)
}

fn push_settle(settle: Settle, out: &mut Output<'_>) {
    out.commands.push(Command::Settle {
        token: None,
        settle,
    });
}
