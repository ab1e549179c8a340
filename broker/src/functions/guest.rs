//! A WebSocket client whose messages go to functions.
//!
//! It has two halves: the connection, a state machine as of any protocol, which hands each message on
//! and writes what it gets as it is; and the work, a task that calls functions with one message after
//! the other, in their order, and lives only while there is something to do.
//!
//! ```text
//!  socket ─▶ GuestConnection::receive ─▶ mailbox (bounded) ─▶ work: route, call ─▶ the client
//!                                            end of the connection ─▶ $disconnect, behind the rest
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::Command;
use protocols::connection::{
    Cause, CloseReason, Connect, Connection, Delivered, Delivery, Lane, Open, Output, Position,
    Protocol, Reply, RetainHandling, Settle, Subscribe, SubscribeRequest, Token, WebSocketUse,
};
use protocols::model::{Message, QoS, SubscriptionFilter, Timestamp, Topic};
use protocols::outbox::{FrameType, Outbox};
use protocols::websocket::close;
use serde_json::Value;

use super::Functions;
use super::answer::error_frame;
use super::connect::STATE_BYTES;
use super::event::{About, Caller, new_id, status_of};
use crate::auth::Identity;
use crate::session::Batch;

/// The messages that a session keeps open until the next turn of the timers.
const WINDOW: u16 = 1024;

/// The protocol of WebSocket clients that are the functions'. Its connections are opened with the
/// guest that they belong to, not by this.
pub static GATEWAY: Gateway = Gateway;

/// See [`GATEWAY`].
#[derive(Clone, Copy, Debug)]
pub struct Gateway;

impl Protocol for Gateway {
    fn name(&self) -> &'static str {
        "gateway"
    }

    fn subprotocols(&self) -> &'static [&'static str] {
        &[]
    }

    fn web_socket_use(&self) -> WebSocketUse {
        WebSocketUse::TextMessages
    }

    fn open(&self, _open: Open) -> Box<dyn Connection> {
        Box::new(GuestConnection::new(None))
    }
}

/// See the module.
pub struct Guest {
    functions: Arc<Functions>,
    caller: Caller,
    identity: Identity,
    groups: Vec<ByteString>,
    mailbox: Mutex<Mailbox>,
    ended: OnceLock<()>,
}

struct Mailbox {
    jobs: VecDeque<Job>,
    /// Bytes of the messages among them.
    bytes: usize,
    is_working: bool,
    /// What the functions keep with the connection.
    state: Value,
}

enum Job {
    Message(String, Timestamp),
    End(Cause, Timestamp),
}

impl Guest {
    /// A guest that the functions know of from now on.
    pub(super) fn new(
        functions: &Arc<Functions>,
        caller: Caller,
        identity: Identity,
        groups: Vec<ByteString>,
        state: Value,
    ) -> Arc<Self> {
        if let Some(route) = functions.routes.get("$disconnect")
            && let Some(queue) = functions.queues.get(&route.target.name)
        {
            let last = caller.disconnect(&state, (1001, "broker-restart"), functions.clock.now());
            queue.begin(&key(&caller), &last, None);
        }
        Arc::new(Self {
            functions: Arc::clone(functions),
            caller,
            identity,
            groups,
            mailbox: Mutex::new(Mailbox {
                jobs: VecDeque::new(),
                bytes: 0,
                is_working: false,
                state,
            }),
            ended: OnceLock::new(),
        })
    }

    /// Who the client is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The state machine of its connection.
    pub fn connection(self: &Arc<Self>) -> Box<dyn Connection> {
        Box::new(GuestConnection::new(Some(Arc::clone(self))))
    }

    /// Its connection is over; only the first call counts.
    pub fn ended(self: &Arc<Self>, reason: &CloseReason) {
        if self.ended.set(()).is_ok() {
            self.put(Job::End(reason.cause, self.functions.clock.now()));
        }
    }

    /// Takes a message, if there is room for it.
    fn take(self: &Arc<Self>, text: String, now: Timestamp) -> bool {
        let config = &self.functions.config;
        {
            let mut mailbox = self.mailbox.lock();
            // The first one fits, however large it is.
            let is_full = mailbox.jobs.len() >= config.queue_messages
                || (mailbox.bytes > 0 && mailbox.bytes + text.len() > config.queue_size);
            if is_full {
                return false;
            }
            mailbox.bytes += text.len();
        }
        self.put(Job::Message(text, now));
        true
    }

    fn put(self: &Arc<Self>, job: Job) {
        let mut mailbox = self.mailbox.lock();
        mailbox.jobs.push_back(job);
        if !mailbox.is_working {
            mailbox.is_working = true;
            let me = Arc::clone(self);
            self.functions.runtime.spawn(async move { me.work().await });
        }
    }

    async fn work(self: Arc<Self>) {
        loop {
            let job = {
                let mut mailbox = self.mailbox.lock();
                let job = mailbox.jobs.pop_front();
                if let Some(Job::Message(text, _)) = &job {
                    mailbox.bytes -= text.len();
                }
                if job.is_none() {
                    mailbox.is_working = false;
                    mailbox.jobs = VecDeque::new();
                }
                job
            };
            match job {
                Some(Job::Message(text, at)) => self.handle(&text, at).await,
                Some(Job::End(cause, at)) => self.leave(cause, at),
                None => return,
            }
        }
    }

    /// Finds a message's route and calls its function.
    async fn handle(&self, text: &str, at: Timestamp) {
        let functions = &self.functions;
        let selected = functions.selection.evaluate(text);
        let found = selected
            .as_deref()
            .filter(|key| !matches!(*key, "$connect" | "$disconnect"))
            .and_then(|key| functions.routes.get_key_value(key))
            .or_else(|| functions.routes.get_key_value("$default"));
        let Some((key, route)) = found else {
            self.say(error_frame(
                "Forbidden",
                &self.caller.connection_id,
                &new_id(),
            ));
            return;
        };
        let state = self.mailbox.lock().state.clone();
        let about = About {
            route: key,
            kind: "MESSAGE",
            state: &state,
            now: at,
        };
        let event = self.caller.message(&about, text);
        let answer = match functions.call(&route.target, &event).await {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::debug!(target = %route.target.name, %failure, "a message came to nothing");
                let id = &self.caller.connection_id;
                self.say(error_frame("Internal server error", id, &event.id));
                return;
            }
        };
        if let Some(state) = answer.value.get("state") {
            if state.to_string().len() <= STATE_BYTES {
                self.mailbox.lock().state = state.clone();
            } else {
                tracing::warn!(target = %route.target.name, "a connection's state is too large");
            }
        }
        if let (true, Some(body)) = (route.response, answer.body) {
            self.say(body);
        }
    }

    /// Writes to the client, if it is still there.
    fn say(&self, text: String) {
        let id = &self.caller.connection_id;
        let any = usize::from(u16::MAX);
        let Ok(topic) = Topic::parse(format!("$connection/{id}").into(), any, any) else {
            return;
        };
        let message = Message::new(topic, text.into(), QoS::AtMostOnce, false);
        let hub = &self.functions.hub;
        let mut batch = Batch::new(self.functions.clock.now());
        // One that is gone or reads too slowly misses it, as at API Gateway.
        let _ = hub.send_to_connection(id, &Arc::new(message), None, &mut batch);
        batch.finish(&hub.metrics);
    }

    fn leave(&self, cause: Cause, at: Timestamp) {
        let functions = &self.functions;
        let Some(route) = functions.routes.get("$disconnect") else {
            return;
        };
        let state = self.mailbox.lock().state.clone();
        let event = self.caller.disconnect(&state, status_of(cause), at);
        if let Some(queue) = functions.queues.get(&route.target.name) {
            queue.end(&key(&self.caller), &event);
        }
    }
}

/// Names a connection in a queue, where clients may be named too.
fn key(caller: &Caller) -> String {
    format!("$connection/{}", caller.connection_id)
}

/// See [`Guest`].
struct GuestConnection {
    guest: Option<Arc<Guest>>,
    has_logged_in: bool,
    /// Written and not settled.
    open: VecDeque<Position>,
}

impl GuestConnection {
    fn new(guest: Option<Arc<Guest>>) -> Self {
        Self {
            guest,
            has_logged_in: false,
            open: VecDeque::new(),
        }
    }
}

impl Connection for GuestConnection {
    /// The first message is none of the client's: the upgrade was its login, and an empty message
    /// stands for it (see `net/gateway.rs`).
    fn receive(&mut self, input: &[u8], now: Timestamp, out: &mut Output<'_>) -> usize {
        let Some(guest) = &self.guest else {
            out.end(Cause::Internal, "a connection without its guest");
            return input.len();
        };
        if !self.has_logged_in {
            self.has_logged_in = true;
            out.commands.push(Command::Connect(Box::new(Connect {
                protocol: "gateway",
                clean_start: true,
                in_flight: WINDOW,
                auto_subscribe: true,
                ..Connect::default()
            })));
            return input.len();
        }
        let text = String::from_utf8_lossy(input).into_owned();
        if !guest.take(text, now) {
            let id = &guest.caller.connection_id;
            let frame = error_frame("Limit Exceeded", id, &new_id());
            out.outbox.frame(FrameType::Text, &[frame.as_bytes()]);
            out.commands.push(Command::Refused { reason: "quota" });
        }
        input.len()
    }

    fn reply(&mut self, reply: Reply, _now: Timestamp, out: &mut Output<'_>) {
        match (reply, &self.guest) {
            (Reply::Connected(_), Some(guest)) if !guest.groups.is_empty() => {
                let requests = guest.groups.iter().filter_map(|group| join(group)).map(Ok);
                out.commands.push(Command::Subscribe(Box::new(Subscribe {
                    token: Token::default(),
                    requests: requests.collect(),
                })));
            }
            (Reply::Refused(refusal), _) => {
                let cause = refusal.code.login_cause();
                close::write(out.outbox, &CloseReason::new(cause, refusal.detail));
            }
            _ => {}
        }
    }

    fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        _now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        self.open.extend(delivery.position);
        let payload = &delivery.message.payload;
        let kind = match std::str::from_utf8(payload) {
            Ok(_) => FrameType::Text,
            Err(_) => FrameType::Binary,
        };
        outbox.frame_of(delivery.message, kind, &[], payload, &[]);
        Delivered::Written
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        (!self.open.is_empty()).then_some(Timestamp(0))
    }

    fn handle_timeout(&mut self, _now: Timestamp, out: &mut Output<'_>) {
        for position in std::mem::take(&mut self.open) {
            out.commands.push(Command::Settle {
                token: None,
                settle: Settle::Done(position),
            });
        }
    }

    fn close(&mut self, reason: &CloseReason, outbox: &mut Outbox) {
        close::write(outbox, reason);
    }
}

fn join(group: &str) -> Option<SubscribeRequest> {
    let any = usize::from(u16::MAX);
    let text: ByteString = format!("$group/{group}").into();
    Some(SubscribeRequest {
        filter: SubscriptionFilter::parse(text.clone(), any, any).ok()?,
        key: text,
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::DoNotSend,
        identifier: None,
        lane: Lane::Session,
        auto_settle: false,
        durable: false,
    })
}
