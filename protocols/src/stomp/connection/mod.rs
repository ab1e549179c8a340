//! The server's side of a STOMP connection: which frame may come when, and what it asks for.
//!
//! ```text
//!   Opened ──CONNECT──▶ Connecting ──let in──▶ Active ──DISCONNECT──▶ Leaving
//!     │                     │ refused            │                       │ all answered
//!     └────── ERROR ────────┴────────────────────┴──────▶ Ended ◀────────┘
//! ```
//!
//! Any frame that is not allowed is answered by ERROR and ends the connection (STOMP 1.2 §ERROR).
//! One file each for what the frames are about: [`login`], [`publish`] (SEND), [`subscribe`],
//! [`settle`] (ACK, NACK), [`transaction`], [`deliver`] (MESSAGE).

mod answers;
mod deliver;
mod fault;
mod heart_beat;
mod login;
mod publish;
mod settle;
mod subscribe;
mod transaction;

use std::borrow::Cow;
use std::sync::Arc;

use bytestring::ByteString;

use self::answers::{Answers, Wait};
use self::fault::{Fault, last_words, quoted};
use self::heart_beat::HeartBeat;
use self::subscribe::Subscriptions;
use self::transaction::Transactions;
use super::decode::receipt_of;
use super::{Bounds, Decoded, Decoder, Frame, FrameWriter, Version};
use crate::connection::{
    Cause, CloseReason, Command, Connection, Delivered, Delivery, Open, Output, Refusal,
    RefusalCode, Reply, Token,
};
use crate::last_topic::LastTopic;
use crate::limits::Limits;
use crate::model::Timestamp;
use crate::outbox::{FrameType, Outbox};

/// One client's connection.
pub(super) struct StompConnection {
    id: ByteString,
    limits: Arc<Limits>,
    /// The versions that may be negotiated.
    versions: &'static [Version],
    state: State,
    login_deadline: Timestamp,
    /// Set by CONNECT.
    version: Option<Version>,
    /// Whether the session has a name and may have durable subscriptions.
    durable: bool,
    decoder: Decoder,
    heart_beat: HeartBeat,
    answers: Answers,
    subscriptions: Subscriptions,
    transactions: Transactions,
    last_topic: LastTopic,
    /// Messages written, for their identifiers.
    serial: u64,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but CONNECT or STOMP may come.
    Opened,
    /// The broker is asked.
    Connecting,
    /// Logged in.
    Active,
    /// DISCONNECT came; the frames before it are not all answered.
    Leaving,
    /// Nothing is read or written any more.
    Ended,
}

impl StompConnection {
    pub(super) fn new(open: Open) -> Self {
        let login = std::time::Duration::from_millis(open.limits.login_ms.into());
        Self {
            id: open.connection_id,
            versions: login::versions(open.subprotocol),
            state: State::Opened,
            login_deadline: open.now + login,
            limits: open.limits,
            version: None,
            durable: false,
            decoder: Decoder::new(),
            heart_beat: HeartBeat::default(),
            answers: Answers::default(),
            subscriptions: Subscriptions::default(),
            transactions: Transactions::default(),
            last_topic: LastTopic::default(),
            serial: 0,
        }
    }

    fn bounds(&self) -> Bounds {
        match self.state {
            State::Opened => Bounds::before_login(&self.limits),
            _ => Bounds::after_login(&self.limits),
        }
    }

    /// Looks at the beginning of the input; says how much of it was used up, 0 for none.
    fn step(&mut self, input: &[u8], now: Timestamp, out: &mut Output<'_>) -> usize {
        let bounds = self.bounds();
        match self.decoder.decode(input, &bounds) {
            Ok(Decoded::HeartBeats(length)) => length,
            Ok(Decoded::Frame(frame)) => {
                if let Err(fault) = self.frame(&frame, now, out) {
                    self.fail(&fault, frame.header("receipt").as_deref(), now, out);
                }
                frame.raw().len()
            }
            Ok(Decoded::Incomplete) => {
                if self.state == State::Opened
                    && let Err(fault) = login::check_beginning(input)
                {
                    self.fail(&fault, None, now, out);
                    return input.len();
                }
                0
            }
            Err(error) => {
                self.fail(&error.into(), receipt_of(input, &bounds), now, out);
                input.len()
            }
        }
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        now: Timestamp,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        let command = frame.command();
        // Some clients end every frame with line ends before the NUL.
        if command != "SEND" && !frame.body().trim_ascii().is_empty() {
            let detail = format!("{} must not have a body", quoted(command));
            return Err(Fault::protocol("Body not allowed", detail));
        }
        match (self.state, command) {
            (State::Opened, "CONNECT" | "STOMP") => return self.login(frame, out),
            (State::Opened, _) => {
                let detail = "the first frame must be CONNECT or STOMP";
                return Err(Fault::protocol("Not connected", detail));
            }
            _ => {}
        }
        let wait = self.request(frame, out)?;
        let receipt = frame.header("receipt").map(|receipt| (*receipt).into());
        self.wait(wait, receipt)?;
        self.answer_ready(now, out);
        Ok(())
    }

    /// Carries out a frame of a client that is logged in.
    fn request(&mut self, frame: &Frame<'_>, out: &mut Output<'_>) -> Result<Wait, Fault> {
        match frame.command() {
            "SEND" => self.send(frame, out),
            "SUBSCRIBE" => self.subscribe(frame, out),
            "UNSUBSCRIBE" => self.unsubscribe(frame, out),
            "ACK" => self.ack(frame, out),
            "NACK" => self.nack(frame, out),
            "BEGIN" => self.begin(frame),
            "COMMIT" => self.commit(frame, out),
            "ABORT" => self.abort(frame),
            "DISCONNECT" => {
                self.state = State::Leaving;
                Ok(Wait::Farewell)
            }
            "CONNECT" | "STOMP" => Err(Fault::protocol(
                "Already connected",
                "a connection has one CONNECT",
            )),
            other => {
                let detail = format!("{} is not a client command", quoted(other));
                Err(Fault::protocol("Unknown command", detail))
            }
        }
    }

    /// Remembers what a frame waits for.
    fn wait(&mut self, wait: Wait, receipt: Option<ByteString>) -> Result<(), Fault> {
        if self.answers.push(wait, receipt, self.limits.packet_bytes) {
            return Ok(());
        }
        let detail = "too many frames wait for their receipt";
        Err(Fault::of(Cause::Quota, detail))
    }

    /// Writes the receipts that wait for nothing more.
    fn answer_ready(&mut self, now: Timestamp, out: &mut Output<'_>) {
        while let Some(waiting) = self.answers.ready() {
            self.write_receipt(waiting.receipt.as_deref(), now, out.outbox);
            if waiting.wait == Wait::Farewell {
                out.commands.push(Command::Disconnect {
                    publish_will: false,
                    session_expiry_secs: None,
                });
                out.end(Cause::Normal, "DISCONNECT");
                self.end();
            }
        }
    }

    /// Takes the broker's answer to the first frame that waits for one.
    fn answered(
        &mut self,
        token: Token,
        result: Result<(), Refusal>,
        now: Timestamp,
        out: &mut Output<'_>,
    ) {
        let Some(waiting) = self.answers.answered(token) else {
            return;
        };
        match result {
            Err(refusal) if !is_forgiven(waiting.wait, &refusal) => {
                self.fail(&refusal.into(), waiting.receipt.as_deref(), now, out);
            }
            _ => {
                self.write_receipt(waiting.receipt.as_deref(), now, out.outbox);
                self.answer_ready(now, out);
            }
        }
    }

    fn write_receipt(&mut self, receipt: Option<&str>, now: Timestamp, outbox: &mut Outbox) {
        if let Some(receipt) = receipt {
            let frame = FrameWriter::new("RECEIPT", self.version).header("receipt-id", receipt);
            self.write(&frame.end(), now, outbox);
        }
    }

    fn write(&mut self, frame: &[u8], now: Timestamp, outbox: &mut Outbox) {
        outbox.frame(FrameType::Text, &[frame]);
        self.heart_beat.sent(now);
    }

    /// Writes ERROR and ends the connection.
    fn fail(&mut self, fault: &Fault, receipt: Option<&str>, now: Timestamp, out: &mut Output<'_>) {
        self.write(&fault.frame(self.version, receipt), now, out.outbox);
        out.end(fault.cause, fault.detail.clone());
        self.end();
    }

    /// Forgets everything: nothing is read or written any more.
    fn end(&mut self) {
        self.state = State::Ended;
        self.answers = Answers::default();
        self.subscriptions = Subscriptions::default();
        self.transactions = Transactions::default();
    }
}

/// Whether it does not matter that the message was not open any more.
fn is_forgiven(wait: Wait, refusal: &Refusal) -> bool {
    matches!(wait, Wait::Lenient(_)) && refusal.code == RefusalCode::Unknown
}

impl Connection for StompConnection {
    fn receive(&mut self, input: &[u8], now: Timestamp, out: &mut Output<'_>) -> usize {
        self.heart_beat.received(now);
        let mut used = 0;
        while used < input.len() {
            match self.state {
                State::Opened | State::Active => {}
                State::Connecting => break,
                State::Leaving | State::Ended => return input.len(),
            }
            match self.step(&input[used..], now, out) {
                0 => break,
                length => used += length,
            }
        }
        used
    }

    fn reply(&mut self, reply: Reply, now: Timestamp, out: &mut Output<'_>) {
        if self.state == State::Ended {
            return;
        }
        match reply {
            Reply::Connected(connected) => self.connected(&connected, now, out),
            Reply::Refused(refusal) => {
                let cause = refusal.code.login_cause();
                let fault = Fault::from(refusal).with_cause(cause);
                self.fail(&fault, None, now, out);
            }
            Reply::Subscribed { token, results } => {
                let result = self.subscribed(token, results.into_iter().next());
                self.answered(token, result, now, out);
            }
            Reply::Published { token, result } => {
                self.answered(token, result.map(drop), now, out);
            }
            Reply::Unsubscribed { token, .. } => self.answered(token, Ok(()), now, out),
            Reply::Settled { token, result } | Reply::Committed { token, result } => {
                self.answered(token, result, now, out);
            }
            // Answers to what STOMP never asks.
            Reply::Released { .. }
            | Reply::Received { .. }
            | Reply::Passed { .. }
            | Reply::Refreshed { .. } => {}
        }
    }

    fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        match (self.state, self.version) {
            (State::Active, Some(version)) => self.message(delivery, version, now, outbox),
            _ => Delivered::NotSubscribed,
        }
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        match self.state {
            State::Opened => Some(self.login_deadline),
            State::Active => self.heart_beat.next_timeout(),
            State::Connecting | State::Leaving | State::Ended => None,
        }
    }

    fn handle_timeout(&mut self, now: Timestamp, out: &mut Output<'_>) {
        match self.state {
            State::Opened if self.login_deadline <= now => {
                let fault = Fault::of(Cause::LoginTimeout, "no CONNECT came in time");
                self.fail(&fault, None, now, out);
            }
            State::Active if self.heart_beat.is_overdue(now) => {
                let detail = "nothing came for twice the agreed heart-beat interval";
                let fault = Fault::of(Cause::KeepAliveTimeout, detail);
                self.fail(&fault, None, now, out);
            }
            State::Active if self.heart_beat.is_due(now) => {
                // What waits to be written will be heard as well as a beat.
                if out.outbox.is_empty() {
                    out.outbox.frame(FrameType::Text, &[b"\n"]);
                }
                self.heart_beat.sent(now);
            }
            _ => {}
        }
    }

    fn close(&mut self, reason: &CloseReason, outbox: &mut Outbox) {
        if self.state != State::Ended && last_words(reason.cause).is_some() {
            let fault = Fault::of(reason.cause, reason.detail.clone());
            let fault = fault.elsewhere(reason.elsewhere.as_ref());
            outbox.frame(FrameType::Text, &[&fault.frame(self.version, None)]);
        }
        self.end();
    }
}

/// A header that a command must have.
fn required<'a>(frame: &Frame<'a>, name: &str) -> Result<Cow<'a, str>, Fault> {
    frame
        .header(name)
        .ok_or_else(|| Fault::missing(frame.command(), name))
}

/// A header that is `true` or `false`; false if it is not there.
fn flag(frame: &Frame<'_>, name: &str) -> Result<bool, Fault> {
    match frame.header(name) {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
        Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
        Some(value) => Err(Fault::invalid(name, &value, "true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<StompConnection>() <= 512);
    }
}
