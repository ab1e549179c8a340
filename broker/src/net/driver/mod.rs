//! The task of one connection: moves bytes between a socket and a state machine.
//!
//! It knows bytes and no meanings: what came is given to the [`Link`]'s connection, the commands
//! that come out are carried out by the [`Hub`], and what is in the outbox is written. It is one
//! hand-written state machine, so that an idle connection is a small struct: bytes are read into a
//! buffer that all connections of a thread share, and only an incomplete frame is kept.
//!
//! What comes in is worked through in [`input`], what goes out is written in [`output`], and
//! [`ending`] knows the deadlines and how a connection ends.
//!
//! The link is in one of three places ([`Home`]): here before the login, in the session after it,
//! and here again when the session has let it go.

mod ending;
mod input;
mod output;

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use protocols::Command;
use protocols::connection::{Cause, CloseReason};
use protocols::model::Timestamp;
use protocols::websocket::{self, Decoder};

use self::output::Courtesy;
use super::execute::Home;
use super::login::Gate;
use super::throttle::Throttle;
use super::timers::TimerId;
use super::{Live, Net, Wire};
use crate::auth::Door;
use crate::functions::Visit;
use crate::session::{Batch, Link};
use crate::telemetry::{ProtocolMetrics, Transport};

/// Bytes that are read at once, into a buffer that belongs to the thread.
const READ_BYTES: usize = 64 * 1024;

/// Reads before the task lets others run.
const READS_PER_TURN: u32 = 8;

thread_local! {
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static COMMANDS: Cell<Vec<Command>> = const { Cell::new(Vec::new()) };
    /// Of messages that came in WebSocket frames together.
    static ROW: Cell<Vec<Command>> = const { Cell::new(Vec::new()) };
    static STREAM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// See the module.
pub(super) struct Driver<S> {
    socket: S,
    net: Arc<Net>,
    home: Home,
    /// The settings of the time when the connection began.
    live: Arc<Live>,
    web_socket: Option<Box<WebSocket>>,
    /// Not there while the connection is idle.
    rare: Option<Box<Rare>>,
    timer: Option<TimerId>,
    metrics: Arc<ProtocolMetrics>,
    transport: Transport,
    has_begun: bool,
    courtesy: Courtesy,
    /// Whether nothing is written until the login's session is on disk.
    is_corked: bool,
    /// Whether the socket is given up: what is in it is not waited for.
    is_given_up: bool,
    is_over: bool,
}

/// What a connection has for a while, or seldom: an idle one is little else than its fields.
#[derive(Default)]
struct Rare {
    /// The beginning of a frame whose rest has not come.
    pending: Vec<u8>,
    /// What the socket had no room for.
    writing: VecDeque<Bytes>,
    /// The end, once it is decided; what is in the outbox is still written.
    closing: Option<Box<CloseReason>>,
    /// Since when the socket takes nothing.
    stalled_since: Option<Timestamp>,
    /// Since when all is written and the sending side is closed.
    lingers: Option<Linger>,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// How much the client has sent, if there is a limit.
    throttle: Option<Box<Throttle>>,
    /// The functions whose client it is.
    visit: Option<Arc<Visit>>,
}

impl Rare {
    /// Whether there is nothing in it.
    fn is_vacant(&self) -> bool {
        self.pending.is_empty()
            && self.writing.is_empty()
            && self.closing.is_none()
            && self.stalled_since.is_none()
            && self.lingers.is_none()
            && self.pause.is_none()
            && self.throttle.is_none()
            && self.visit.is_none()
    }
}

/// The time between the last words and the end: a socket that is closed while bytes wait to be
/// read would be reset, and the other side might never see what was written to it.
#[derive(Clone, Copy, Debug)]
struct Linger {
    since: Timestamp,
    discarded: usize,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Why.
    pub(super) reason: CloseReason,
    /// Whose it was, if the client was let in.
    pub(super) client_id: Option<ByteString>,
    /// Its address.
    pub(super) peer: Option<SocketAddr>,
}

/// The WebSocket layer of a connection.
#[derive(Debug)]
pub(super) struct WebSocket {
    decoder: Decoder,
    /// Whether each message is one frame of the protocol.
    whole: bool,
}

impl WebSocket {
    /// For a connection that was upgraded.
    pub(super) fn new(config: websocket::Config) -> Self {
        Self {
            decoder: Decoder::new(config),
            whole: config.whole,
        }
    }
}

impl<S: Wire> Driver<S> {
    /// Drives a connection whose first bytes are in `early`.
    pub(super) fn new(
        socket: S,
        net: Arc<Net>,
        live: Arc<Live>,
        link: Link,
        transport: Transport,
        web_socket: Option<WebSocket>,
        early: BytesMut,
    ) -> Self {
        let rare = Rare {
            pending: early.into(),
            throttle: live.throttling.begin(),
            ..Rare::default()
        };
        Self {
            socket,
            transport,
            metrics: Arc::clone(&link.metrics),
            net,
            live,
            home: Home::new(link),
            web_socket: web_socket.map(Box::new),
            rare: (!rare.is_vacant()).then(|| Box::new(rare)),
            timer: None,
            has_begun: false,
            courtesy: Courtesy::default(),
            is_corked: false,
            is_given_up: false,
            is_over: false,
        }
    }

    /// What came with the connection, for its login.
    pub(super) fn through(mut self, door: Door) -> Self {
        self.home.gate = Gate::new(door);
        self
    }

    /// The functions whose client it is.
    pub(super) fn visiting(mut self, visit: Option<Arc<Visit>>) -> Self {
        if visit.is_some() {
            self.rare().visit = visit;
        }
        self
    }

    /// Runs the connection until its end, and says how it ended.
    pub(super) fn run(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if !self.has_begun {
            self.has_begun = true;
            self.begin();
        } else if self.lets_others_first() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.turn(cx)
    }

    /// The functions whose client it is.
    pub(super) fn visit(&self) -> Option<&Visit> {
        self.rare.as_ref()?.visit.as_deref()
    }

    /// The connection's number, for logs.
    pub(super) fn number(&self) -> u64 {
        self.home.slot().0
    }

    /// What all connections share.
    pub(super) fn net(&self) -> &Net {
        &self.net
    }

    /// What carries the connection.
    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// Counters of the protocol.
    pub(super) fn metrics(&self) -> &ProtocolMetrics {
        &self.metrics
    }

    fn begin(&mut self) {
        let (link, slot) = self.home.slot();
        self.net.admission.begin_login(link, slot);
        let mut early = self.take_pending();
        if !early.is_empty() {
            self.take_in(&mut early);
        }
    }

    /// One turn of the task: writes, reads, and goes to sleep when there is nothing to do.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut reads = 0;
        loop {
            self.meet_deadline();
            self.release_answers();
            match self.write(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
                Poll::Ready(Ok(())) if self.is_closing() => return self.finish(cx),
                Poll::Pending if self.is_closing() => {
                    self.set_timer(cx);
                    return Poll::Pending;
                }
                Poll::Pending if self.is_backed_up() => {
                    if self.sleep(cx) {
                        return Poll::Pending;
                    }
                    continue;
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            match self.home.gate.poll(cx) {
                Poll::Ready(None) => {}
                Poll::Ready(Some(answered)) => {
                    self.go_on(answered);
                    continue;
                }
                Poll::Pending => {
                    if self.sleep(cx) {
                        return Poll::Pending;
                    }
                    continue;
                }
            }
            if self.is_held_up() || self.is_throttled() || self.is_paused(cx) {
                if self.sleep(cx) {
                    return Poll::Pending;
                }
                continue;
            }
            if reads == READS_PER_TURN {
                // Who never sleeps has deadlines too.
                self.set_timer(cx);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            match self.read(cx) {
                Poll::Pending if self.sleep(cx) => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
                Poll::Ready(Ok(0)) => {
                    // It may have closed its sending side only, and still read its answers.
                    self.part();
                    let lost = CloseReason::new(Cause::Lost, "the client closed the connection");
                    self.rare().closing.get_or_insert(Box::new(lost));
                }
                Poll::Pending | Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Learns from the link whether the connection is over.
    fn notice_end(&mut self) {
        if self.is_closing() {
            return;
        }
        let (web_socket, socket) = (self.transport.is_web_socket(), &self.socket);
        let reason = self.home.with(|link| {
            let reason = link.end.clone()?;
            // A client that has closed its side without a close frame gets none, as if it had
            // vanished: most have closed both.
            if web_socket && !socket.is_read_out() {
                websocket::close::write(&mut link.outbox, &reason);
            }
            Some(reason)
        });
        if reason.is_some() {
            self.rare().closing = reason;
        }
    }

    /// Leaves the waker where it is needed; `false` if there is something to do after all.
    fn sleep(&mut self, cx: &Context<'_>) -> bool {
        self.home.wake_for_answers(&self.net.hub, cx.waker());
        let stalled = self.stalled_since().is_some() || self.is_corked;
        let idle = self.home.with(|link| {
            if link.end.is_some() || link.nudged || !(stalled || link.outbox.is_empty()) {
                return false;
            }
            link.sleep(cx.waker(), stalled);
            true
        });
        if idle {
            self.rare.take_if(|rare| rare.is_vacant());
            self.set_timer(cx);
        } else {
            self.notice_end();
        }
        idle
    }
}

impl<S> Driver<S> {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Whether the end is decided.
    fn is_closing(&self) -> bool {
        self.closing().is_some()
    }

    fn closing(&self) -> Option<&CloseReason> {
        self.rare.as_ref()?.closing.as_deref()
    }

    fn take_closing(&mut self) -> Option<CloseReason> {
        let reason = self.rare.as_mut()?.closing.take();
        reason.map(|reason| *reason)
    }

    fn stalled_since(&self) -> Option<Timestamp> {
        self.rare.as_ref()?.stalled_since
    }

    /// The socket takes nothing from now on, or already since before.
    fn stall(&mut self) {
        let now = self.net.clock.now();
        self.rare().stalled_since.get_or_insert(now);
    }

    /// The socket takes something.
    fn flow(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.stalled_since = None;
        }
    }

    fn take_pending(&mut self) -> Vec<u8> {
        let rare = self.rare.as_mut();
        rare.map_or_else(Vec::new, |rare| std::mem::take(&mut rare.pending))
    }

    /// The connection is over: the session, if it still holds it, is told.
    fn leave(&mut self, reason: CloseReason) -> Ended {
        self.is_over = true;
        if let Some(id) = self.timer.take() {
            self.net.timers.disarm(id);
        }
        self.part();
        let (number, slot) = self.home.slot();
        self.net.admission.end_login(number);
        // The link knows the way to its slot: left in there, both would hold each other for ever.
        let link = slot.lock().take();
        Ended {
            reason,
            client_id: self.home.session().map(|held| held.client_id.clone()),
            peer: link.and_then(|link| link.origin.peer()),
        }
    }

    /// The session, if it still holds the link, lets it go.
    fn part(&mut self) {
        if self.home.has_left(&self.net.hub) {
            return;
        }
        let mut batch = Batch::new(self.net.clock.now());
        self.home.leave(&self.net.hub, true, None, &mut batch);
        batch.finish(&self.net.hub.metrics);
    }
}

/// A task that is torn down in the middle, by a fault of ours, leaves no session behind that
/// believes to be connected.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        if !self.is_over {
            self.leave(CloseReason::new(Cause::Io, ""));
        }
    }
}

#[cfg(test)]
mod tests;
