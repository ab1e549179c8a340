//! One client's connection: login, requests and their answers, pings, the end.
//!
//! ```text
//!            connect, or any other request
//!  Greeting ─────────────────────────────▶ Connecting ──Connected──▶ Open ◀─┐
//!     │                                        │                      │     │ any frame
//!     │ login time, disconnect                 │ Refused              ▼     │
//!     └───────────────▶ Ended ◀────────────────┴────────── Open, pinged ────┘
//! ```

mod requests;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;

use super::answer::{self, What, send};
use super::command;
use super::error::{ErrorCode, FrameError, reason, reconnect};
use super::frame::{ClientFrame, ConnectRequest, Id, Request};
use super::message;
use super::plain;
use super::write::Object;
use crate::connection::{
    Cause, CloseReason, Command, Connected, Connection, Delivered, Delivery, Notice, Open, Output,
    Refusal, Reply, Settle, Token,
};
use crate::last_topic::LastTopic;
use crate::limits::Limits;
use crate::model::Timestamp;
use crate::outbox::Outbox;

/// Frames that are not JSON before the connection is closed: enough for a person at a console,
/// little for someone who tries things out.
const MALFORMED_MAX: u8 = 8;

/// Requests that may wait for their answers at a time.
pub(super) const UNANSWERED_MAX: usize = 4096;

/// Token of a publish that is answered only if it is refused.
const SILENT: Token = Token(0);

/// A connection of the JSON subprotocol.
#[derive(Debug)]
pub(super) struct JsonConnection {
    id: ByteString,
    limits: Arc<Limits>,
    state: State,
    /// When [`Connection::handle_timeout`] has something to do.
    deadline: Option<Timestamp>,
    malformed: u8,
    /// What was asked and not answered yet, in order.
    unanswered: VecDeque<Unanswered>,
    last_topic: LastTopic,
    last_token: u64,
}

#[derive(Debug)]
enum State {
    /// Nothing was asked yet.
    Greeting,
    /// The broker was asked to let the client in.
    Connecting(Box<Login>),
    Open {
        pinged: bool,
    },
    Ended,
}

#[derive(Debug)]
struct Login {
    id: Option<Id>,
    /// The request that came without a `connect` before it, to be done afterwards.
    first: Option<Box<str>>,
    session_expiry_secs: u32,
    in_flight: u16,
}

#[derive(Debug)]
struct Unanswered {
    token: Token,
    id: Option<Id>,
    what: What,
}

impl JsonConnection {
    pub(super) fn new(open: Open) -> Self {
        let login = Duration::from_millis(open.limits.login_ms.into());
        Self {
            id: open.connection_id,
            limits: open.limits,
            state: State::Greeting,
            deadline: Some(open.now + login),
            malformed: 0,
            unanswered: VecDeque::new(),
            last_topic: LastTopic::default(),
            last_token: SILENT.0,
        }
    }

    fn receive_text(&mut self, text: &str, now: Timestamp, out: &mut Output<'_>) {
        let is_open = matches!(self.state, State::Open { .. });
        let result = if is_open && let Some(position) = plain::read_ack(text) {
            let settle = Settle::Done(position);
            out.commands.push(Command::Settle {
                token: None,
                settle,
            });
            Ok(())
        } else if is_open && let Some(plain) = plain::read(text, self.limits.json_depth) {
            self.publish_plain(plain, out)
        } else {
            ClientFrame::parse(text, &self.limits).and_then(|frame| {
                let id = frame.id.clone();
                self.handle(frame, text, now, out)
                    .map_err(|error| FrameError { id, ..error })
            })
        };
        if let Err(error) = result {
            send(out.outbox, answer::error(&error));
            out.commands.push(Command::Refused {
                reason: answer::label(error.code),
            });
            self.count_malformed(&error, out);
        }
    }

    fn count_malformed(&mut self, error: &FrameError, out: &mut Output<'_>) {
        if matches!(error.code, ErrorCode::Malformed | ErrorCode::TooDeep) {
            self.malformed += 1;
            if self.malformed == MALFORMED_MAX {
                self.end(Cause::Malformed, "too many frames that are not JSON", out);
            }
        }
    }

    fn handle(
        &mut self,
        frame: ClientFrame<'_>,
        text: &str,
        now: Timestamp,
        out: &mut Output<'_>,
    ) -> Result<(), FrameError> {
        match (&self.state, frame.request) {
            (State::Ended, _) => Ok(()),
            (
                _,
                Request::Disconnect {
                    session_expiry_secs,
                },
            ) => {
                self.disconnect(session_expiry_secs, out);
                Ok(())
            }
            (State::Greeting, Request::Connect(connect)) => {
                self.login(*connect, frame.id, None, out)
            }
            (State::Greeting, _) => self.login(ConnectRequest::default(), None, Some(text), out),
            (State::Connecting(_), _) => Err(FrameError::new(
                ErrorCode::Busy,
                "the login is not answered yet",
            )),
            (State::Open { .. }, request) => self.request(request, frame.id, now, out),
        }
    }

    fn login(
        &mut self,
        request: ConnectRequest<'_>,
        id: Option<Id>,
        first: Option<&str>,
        out: &mut Output<'_>,
    ) -> Result<(), FrameError> {
        let connect = command::connect(request, &self.limits)?;
        self.state = State::Connecting(Box::new(Login {
            id,
            first: first.map(Into::into),
            session_expiry_secs: connect.session_expiry_secs,
            in_flight: connect.in_flight,
        }));
        out.commands.push(Command::Connect(Box::new(connect)));
        Ok(())
    }

    fn disconnect(&mut self, session_expiry_secs: Option<u32>, out: &mut Output<'_>) {
        if let State::Open { .. } = self.state {
            let longest = self.limits.session_expiry_max_secs;
            out.commands.push(Command::Disconnect {
                publish_will: false,
                session_expiry_secs: session_expiry_secs.map(|secs| secs.min(longest)),
            });
        }
        self.end(Cause::Normal, "as the client asked", out);
    }

    /// Finds what an answer is for; the first one, as long as the broker keeps the order.
    fn asked(&mut self, token: Token) -> Option<(Option<Id>, What)> {
        let at = self
            .unanswered
            .iter()
            .position(|unanswered| unanswered.token == token)?;
        let found = self.unanswered.remove(at)?;
        if self.unanswered.is_empty() {
            // An idle connection owns no buffer.
            self.unanswered = VecDeque::new();
        }
        Some((found.id, found.what))
    }

    fn connected(&mut self, connected: &Connected, now: Timestamp, out: &mut Output<'_>) {
        let State::Connecting(login) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        self.state = State::Open { pinged: false };
        self.heard(now);
        let frame = answer::connected(
            login.id.as_ref(),
            &self.id,
            connected,
            (login.session_expiry_secs, login.in_flight),
            &self.limits,
        );
        send(out.outbox, frame);
        if let Some(first) = login.first {
            self.receive_text(&first, now, out);
        }
    }

    fn refused(&mut self, refusal: Refusal, out: &mut Output<'_>) {
        let State::Connecting(login) = &mut self.state else {
            return;
        };
        let id = login.id.take();
        let cause = refusal.code.login_cause();
        let error = FrameError {
            id,
            ..FrameError::from(refusal)
        };
        send(out.outbox, answer::error(&error));
        self.end(cause, error.detail, out);
    }

    /// The answer to a request that has nothing more to say than yes or no.
    fn settled(&mut self, token: Token, result: Result<(), Refusal>, out: &mut Output<'_>) {
        let Some((id, _)) = self.asked(token) else {
            return;
        };
        send(out.outbox, answer::done(id, result));
    }

    fn published(&mut self, token: Token, result: Result<u32, Refusal>, out: &mut Output<'_>) {
        if token == SILENT {
            if let Err(refusal) = result {
                send(out.outbox, answer::error(&refusal.into()));
            }
        } else if let Some((id, _)) = self.asked(token) {
            answer::published(id, result, out.outbox);
        }
    }

    /// Everything that comes from the client shows that it is there.
    fn heard(&mut self, now: Timestamp) {
        if let State::Open { pinged } = &mut self.state {
            *pinged = false;
            let silence = self.limits.json_ping_ms;
            self.deadline = (silence > 0).then(|| now + Duration::from_millis(silence.into()));
        }
    }

    /// Says good-bye and ends the connection.
    fn end(&mut self, cause: Cause, detail: impl Into<Cow<'static, str>>, out: &mut Output<'_>) {
        let reason = CloseReason::new(cause, detail);
        self.say_goodbye(&reason, out.outbox);
        out.end(cause, reason.detail);
    }

    fn say_goodbye(&mut self, said: &CloseReason, outbox: &mut Outbox) {
        if matches!(self.state, State::Ended) {
            return;
        }
        self.state = State::Ended;
        self.deadline = None;
        self.unanswered = VecDeque::new();
        let mut frame = Object::frame("disconnect", None);
        frame
            .string("reason", reason(said.cause))
            .string("message", &said.detail)
            .plain("reconnect", reconnect(said.cause));
        if let Some(elsewhere) = &said.elsewhere {
            frame
                .string("server", &elsewhere.server)
                .plain("serverMoved", elsewhere.for_good);
        }
        send(outbox, frame);
    }
}

impl Connection for JsonConnection {
    fn receive(&mut self, input: &[u8], now: Timestamp, out: &mut Output<'_>) -> usize {
        let longest = match self.state {
            State::Ended => return input.len(),
            State::Open { .. } => self.limits.packet_bytes,
            State::Greeting | State::Connecting(_) => self.limits.packet_bytes_before_login,
        };
        self.heard(now);
        if input.len() > longest {
            let detail = format!(
                "a frame of {} bytes, at most {longest} are allowed",
                input.len()
            );
            self.end(Cause::TooLarge, detail, out);
        } else if let Ok(text) = simdutf8::basic::from_utf8(input) {
            self.receive_text(text, now, out);
        } else {
            self.end(Cause::NotUtf8, "a frame is not UTF-8", out);
        }
        input.len()
    }

    fn reply(&mut self, reply: Reply, now: Timestamp, out: &mut Output<'_>) {
        if matches!(self.state, State::Ended) {
            return;
        }
        match reply {
            Reply::Connected(connected) => self.connected(&connected, now, out),
            Reply::Refused(refusal) => self.refused(refusal, out),
            Reply::Published { token, result } => self.published(token, result, out),
            Reply::Subscribed { token, results } => {
                if let Some((id, what)) = self.asked(token) {
                    send(out.outbox, answer::subscribed(id.as_ref(), &what, &results));
                }
            }
            Reply::Unsubscribed { token, existed } => {
                if let Some((id, what)) = self.asked(token) {
                    send(
                        out.outbox,
                        answer::unsubscribed(id.as_ref(), &what, &existed),
                    );
                }
            }
            Reply::Refreshed { token, result } => {
                if let Some((id, _)) = self.asked(token) {
                    send(out.outbox, answer::refreshed(id, result));
                }
            }
            Reply::Settled { token, result } | Reply::Committed { token, result } => {
                self.settled(token, result, out);
            }
            // Answers to what only QoS 2 asks.
            Reply::Released { .. } | Reply::Received { .. } | Reply::Passed { .. } => {}
        }
    }

    fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        if matches!(self.state, State::Ended) {
            return Delivered::NotSubscribed;
        }
        let own_head;
        let head = if message::is_plain(delivery) {
            message::HEAD
        } else {
            own_head = message::head(delivery, now);
            &own_head
        };
        message::put(delivery.message, head.as_bytes(), outbox);
        Delivered::Written
    }

    fn notify(&mut self, notice: &Notice, now: Timestamp, outbox: &mut Outbox) {
        match notice {
            _ if matches!(self.state, State::Ended) => {}
            Notice::Gap { dropped } => {
                let mut frame = Object::frame("gap", None);
                frame.plain("dropped", dropped);
                send(outbox, frame);
            }
            Notice::Expiring { at } => {
                let mut frame = Object::frame("expiring", None);
                let left = at.0.saturating_sub(now.0).div_ceil(1000);
                frame.plain("expiresAt", at.0).plain("expiresIn", left);
                send(outbox, frame);
            }
        }
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        self.deadline
    }

    fn handle_timeout(&mut self, now: Timestamp, out: &mut Output<'_>) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        match &mut self.state {
            State::Greeting | State::Connecting(_) => {
                self.end(Cause::LoginTimeout, "no login in time", out);
            }
            State::Open { pinged: true } => {
                self.end(Cause::KeepAliveTimeout, "a ping was not answered", out);
            }
            State::Open { pinged } => {
                *pinged = true;
                let patience = Duration::from_millis(self.limits.json_pong_ms.into());
                self.deadline = Some(now + patience);
                send(out.outbox, Object::frame("ping", None));
            }
            State::Ended => {}
        }
    }

    fn close(&mut self, reason: &CloseReason, outbox: &mut Outbox) {
        self.say_goodbye(reason, outbox);
    }
}
