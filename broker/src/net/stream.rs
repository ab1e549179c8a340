//! A connection that is the body of an HTTP answer: Server-Sent Events.
//!
//! Like [`super::driver`], it moves bytes and knows no meanings; but it only writes, and hyper owns the
//! socket and asks for more when it has room. A client that reads nothing stops hyper from asking;
//! [`Pulse`] lets the task of the HTTP connection see that and give it up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use protocols::Outbox;
use protocols::connection::{Cause, CloseReason, Connect, Connection, Refusal};
use protocols::model::Timestamp;

use super::execute::{Home, Step};
use super::login::first_due;
use super::timers::TimerId;
use super::{Ends, Net};
use crate::auth::Identity;
use crate::http::StreamPlace;
use crate::session::{Batch, Carrier, Link, Origin, Session};
use crate::telemetry::{ProtocolMetrics, Transport, Untrusted};

/// When an HTTP connection last gave bytes of a stream to its socket, if some wait there; shared by
/// the stream and the connection's task.
#[derive(Debug, Default)]
pub(crate) struct Pulse(AtomicU64);

impl Pulse {
    /// Since when bytes may be waiting.
    pub(super) fn waits_since(&self) -> Option<Timestamp> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Timestamp(at)),
        }
    }

    /// Bytes wait from now on.
    pub(super) fn begin(&self, at: Timestamp) {
        self.set(at);
    }

    /// None wait.
    pub(super) fn end(&self) {
        self.set(Timestamp(0));
    }

    fn set(&self, at: Timestamp) {
        self.0.store(at.0, Ordering::Relaxed);
    }
}

/// A stream of events, from the login on.
pub struct EventBody {
    net: Arc<Net>,
    home: Home,
    metrics: Arc<ProtocolMetrics>,
    number: u64,
    pieces: VecDeque<Bytes>,
    timer: Option<(Timestamp, TimerId)>,
    pulse: Arc<Pulse>,
    /// Its place among the streams that may be open.
    place: Option<StreamPlace>,
    /// Whether all was written and nothing will come.
    is_over: bool,
}

impl Net {
    /// Lets a client in whose connection is the body of an HTTP answer.
    pub(crate) fn open_stream(
        self: &Arc<Self>,
        connection: Box<dyn Connection>,
        (connect, identity): (Connect, Identity),
        ends: &Ends,
        pulse: &Arc<Pulse>,
        batch: &mut Batch,
    ) -> Result<(EventBody, Arc<Session>), Refusal> {
        let number = self.admission.number();
        let metrics = self.hub.metrics.protocol("sse");
        let mut link = Link::new(
            number,
            Arc::clone(&metrics),
            connection,
            Outbox::new(),
            Arc::default(),
        );
        link.origin = Origin::new(ends.peer, Carrier::Http, batch.now);
        let mut home = Home::new(link);
        let warns_at = self.auth.load().warns_at(&identity);
        home.with(|link| link.due = first_due(warns_at, &identity));
        let session = home.let_in(&self.hub, (connect, identity), batch)?;
        metrics.opened.inc();
        metrics.connections(Transport::Tcp).inc();
        if let Some(functions) = self.functions.get() {
            functions.arrived(&session, number);
        }
        tracing::info!(
            connection = number,
            protocol = metrics.name,
            peer = %ends.peer,
            client = %Untrusted(&session.client_id),
            "connection opened"
        );
        let body = EventBody {
            net: Arc::clone(self),
            home,
            metrics,
            number,
            pieces: VecDeque::new(),
            timer: None,
            pulse: Arc::clone(pulse),
            place: None,
            is_over: false,
        };
        Ok((body, session))
    }
}

impl EventBody {
    /// Keeps a place until the stream is over.
    pub(crate) fn holds(&mut self, place: StreamPlace) {
        self.place = Some(place);
    }

    /// The next bytes; `None` at the end.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                self.metrics.bytes_sent.add(piece.len() as u64);
                self.pulse.set(self.net.clock.now());
                return Poll::Ready(Some(piece));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            self.pulse.set(Timestamp(0));
            self.meet_deadline();
            let outgoing = self.home.take_outgoing(&self.net.hub);
            if let Some(seq) = outgoing.cork {
                if let Some(store) = self.net.hub.store() {
                    store.wake_at(seq, cx.waker());
                }
                return Poll::Pending;
            }
            self.pieces = outgoing.pieces;
            if outgoing.nudged {
                self.pump();
            }
            if !self.pieces.is_empty() {
                self.drained();
                continue;
            }
            if self.home.with(|link| link.outbox.is_empty()) {
                if self.home.with(|link| link.end.is_some()) {
                    self.is_over = true;
                } else if self.sleep(cx) {
                    return Poll::Pending;
                }
            }
        }
    }

    /// Publishers that waited for this reader go on, and what waited for room follows.
    fn drained(&mut self) {
        let Some(session) = self.home.session() else {
            return;
        };
        session.emptied();
        if session.lock().has_more() {
            self.pump();
        }
    }

    fn pump(&mut self) {
        let Some(session) = self.home.session() else {
            return;
        };
        let mut batch = Batch::new(self.net.clock.now());
        self.net.hub.pump(session, &mut batch);
        batch.finish(&self.net.hub.metrics);
    }

    /// Lets the state machine do what its time has come for.
    fn meet_deadline(&mut self) {
        let now = self.net.clock.now();
        if let Some(session) = self.home.session() {
            session.lock().look_at_credentials(self.number, now);
        }
        let mut commands = Vec::new();
        self.home.with(|link| {
            let due = link.connection.next_timeout().is_some_and(|at| at <= now);
            if due && link.end.is_none() {
                link.drive(&mut commands, |connection, out| {
                    connection.handle_timeout(now, out);
                });
            }
        });
        if commands.is_empty() {
            return;
        }
        let mut batch = Batch::new(now);
        Step {
            net: &self.net,
            batch: &mut batch,
        }
        .run(&mut self.home, &mut commands);
        batch.finish(&self.net.hub.metrics);
    }

    /// Leaves the waker where it is needed; `false` if there is something to do after all.
    fn sleep(&mut self, cx: &Context<'_>) -> bool {
        let idle = self.home.with(|link| {
            if link.end.is_some() || link.nudged || !link.outbox.is_empty() {
                return None;
            }
            link.sleep(cx.waker(), false);
            let due = link.due.known();
            let next = link.connection.next_timeout();
            Some(next.into_iter().chain(due).min())
        });
        let Some(next) = idle else { return false };
        if let Some(at) = next {
            self.arm(at, cx);
        }
        true
    }

    fn arm(&mut self, at: Timestamp, cx: &Context<'_>) {
        let now = self.net.clock.now();
        match self.timer {
            Some((armed, _)) if armed <= at && armed > now => {}
            old => {
                if let Some((_, id)) = old {
                    self.net.timers.disarm(id);
                }
                self.timer = Some((at, self.net.timers.arm(at, cx.waker())));
            }
        }
    }
}

/// The client has gone, or the broker has ended the stream.
impl Drop for EventBody {
    fn drop(&mut self) {
        if let Some((_, id)) = self.timer.take() {
            self.net.timers.disarm(id);
        }
        let mut batch = Batch::new(self.net.clock.now());
        self.home.leave(&self.net.hub, false, None, &mut batch);
        batch.finish(&self.net.hub.metrics);
        let reason = self.home.with(|link| link.end.clone());
        // The link knows the way to its slot: left in there, both would hold each other for ever.
        let (_, slot) = self.home.slot();
        let link = slot.lock().take();
        drop(link);
        let lost = || CloseReason::new(Cause::Lost, "the client closed the connection");
        let reason = reason.map_or_else(lost, |reason| *reason);
        self.metrics.connections(Transport::Tcp).dec();
        if let (Some(session), Some(functions)) = (self.home.session(), self.net.functions.get()) {
            functions.left(&session.client_id, self.number, &reason);
        }
        self.net
            .hub
            .metrics
            .connection_closed(self.metrics.name, reason.cause);
        tracing::info!(
            connection = self.number,
            protocol = self.metrics.name,
            reason = reason.cause.as_str(),
            detail = %Untrusted(&reason.detail),
            "connection closed"
        );
    }
}
