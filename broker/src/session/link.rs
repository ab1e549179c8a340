//! A client's connection as its session sees it.

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::task::Waker;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use protocols::connection::{Cause, CloseReason, Connection};
use protocols::model::{Message, Timestamp};
use protocols::{Command, Outbox, Output};

use crate::guard::Place;
use crate::store::Seq;
use crate::telemetry::{ProtocolMetrics, Transport, moment_us};

/// The connection side of a session: the protocol's state machine and what it has written.
///
/// It belongs to the connection's task until the login, then to the session (behind the session's
/// lock, so that any publisher can deliver), and returns to the task when the session lets go.
pub struct Link {
    /// Unique among all connections of this process.
    pub id: u64,
    /// The counters of its protocol.
    pub metrics: Arc<ProtocolMetrics>,
    /// The state machine.
    pub connection: Box<dyn Connection>,
    /// What waits to be written.
    pub outbox: Outbox,
    /// How to wake the task; set while it sleeps.
    pub sleeper: Option<Waker>,
    /// Whether the task sleeps because its socket takes nothing: more to write does not help it.
    pub stalled: bool,
    /// Set when the connection is over; in a box, as it is once in its life.
    pub end: Option<Box<CloseReason>>,
    /// Whether its task is to see what the session has for it, see [`Link::nudge`].
    pub nudged: bool,
    /// Nothing is written before this unit is on disk: the login that made it promises a session.
    pub cork: Seq,
    /// When the broker took the oldest message in the outbox, see [`Message::taken_us`]; 0 for none.
    pub oldest_us: u64,
    /// Messages dropped since the client was last told.
    pub gap: u32,
    /// How many more batches this client may hold up before it is left to itself.
    pub patience: u16,
    /// When its client's credentials have to be looked at next, or [`Timestamp::NEVER`].
    pub due: Timestamp,
    /// Where the session puts the link when it lets go.
    pub way_back: WayBack,
    /// Its place among the connections of its user.
    pub place: Option<Box<Place>>,
    /// Where it came from, for those who ask.
    pub origin: Origin,
}

/// Where a connection came from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The client's address and port, without what IPv6 has beside them: an idle connection is
    /// little else than this.
    peer: Option<(IpAddr, u16)>,
    /// What carries it.
    pub carrier: Carrier,
    /// Protocol and version, once the client was let in: `mqtt 5`.
    pub protocol: &'static str,
    /// When it began.
    pub opened_at: Timestamp,
    /// When its client last said something.
    pub active_at: Timestamp,
}

/// What carries a connection, for those who ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// A socket of its own.
    Socket(Transport),
    /// The answer to an HTTP request.
    Http,
    /// Nothing: a client inside the broker.
    #[default]
    Inside,
}

impl Carrier {
    /// As people read it: `tcp`, `tls`, `ws`, `wss`, `http` or `none`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket(transport) => transport.as_str(),
            Self::Http => "http",
            Self::Inside => "none",
        }
    }
}

impl Origin {
    /// Of a connection that is made now.
    pub fn new(peer: SocketAddr, carrier: Carrier, now: Timestamp) -> Self {
        Self {
            peer: Some((peer.ip(), peer.port())),
            carrier,
            protocol: "",
            opened_at: now,
            active_at: now,
        }
    }

    /// Of a client inside the broker: a rule that gives messages to a function.
    pub fn inside(now: Timestamp) -> Self {
        Self {
            peer: None,
            carrier: Carrier::Inside,
            protocol: "",
            opened_at: now,
            active_at: now,
        }
    }

    /// The client's address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.peer.map(|(ip, _)| ip)
    }

    /// The client's address and port.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer.map(SocketAddr::from)
    }
}

/// The place where a connection's task finds its [`Link`] again.
pub type WayBack = Arc<Mutex<Option<Box<Link>>>>;

/// Batches of publishers that one slow client may hold up, each for a bounded time, before it has
/// read what waits for it.
pub const PATIENCE: u16 = 16;

impl Link {
    /// A link of a connection that was just opened.
    pub fn new(
        id: u64,
        metrics: Arc<ProtocolMetrics>,
        connection: Box<dyn Connection>,
        outbox: Outbox,
        way_back: WayBack,
    ) -> Self {
        Self {
            id,
            metrics,
            connection,
            outbox,
            sleeper: None,
            stalled: false,
            end: None,
            nudged: false,
            cork: 0,
            oldest_us: 0,
            gap: 0,
            patience: PATIENCE,
            due: Timestamp::NEVER,
            way_back,
            place: None,
            origin: Origin::default(),
        }
    }

    /// Its name, see [`protocols::connection::Open::connection_id`].
    pub fn connection_id(&self) -> String {
        connection_id(self.id)
    }

    /// Runs the state machine with a place for what it puts out.
    pub fn drive<R>(
        &mut self,
        commands: &mut Vec<Command>,
        step: impl FnOnce(&mut dyn Connection, &mut Output<'_>) -> R,
    ) -> R {
        let mut end = self.end.take().map(|end| *end);
        let mut output = Output {
            outbox: &mut self.outbox,
            commands,
            close: &mut end,
        };
        let result = step(self.connection.as_mut(), &mut output);
        self.end = end.map(Box::new);
        result
    }

    /// A message was written into the outbox. What a new subscriber gets of retained messages has
    /// waited for it, not for the broker.
    #[inline]
    pub fn wrote(&mut self, message: &Message, is_retained: bool) {
        if self.oldest_us == 0 && !is_retained {
            self.oldest_us = message.taken_us;
        }
    }

    /// The outbox is given to the socket: counts how long its oldest message took.
    #[inline]
    pub fn handed_over(&mut self) {
        let taken = std::mem::take(&mut self.oldest_us);
        if taken != 0 {
            let took = moment_us().saturating_sub(taken);
            self.metrics.delay.observe_us(took);
        }
    }

    /// The task goes to sleep; `stalled` if what it waits for is room in its socket.
    pub fn sleep(&mut self, waker: &Waker, stalled: bool) {
        self.stalled = stalled;
        match &mut self.sleeper {
            Some(held) => held.clone_from(waker),
            None => self.sleeper = Some(waker.clone()),
        }
    }

    /// There may be something new to send: the task looks for it.
    pub fn nudge(&mut self) {
        self.nudged = true;
        if let Some(waker) = self.take_writer() {
            waker.wake();
        }
    }

    /// How to wake the task if it sleeps and could write what has come.
    pub fn take_writer(&mut self) -> Option<Waker> {
        if self.stalled {
            return None;
        }
        self.sleeper.take()
    }

    /// Gives the connection up if its client leaves more than `limit` bytes unread. Only the last words are kept
    /// of what was not given to the socket.
    pub fn bound(&mut self, limit: usize) {
        if self.end.is_some() || self.outbox.len() <= limit {
            return;
        }
        drop(self.outbox.take());
        let detail = format!("more than {limit} bytes wait for the client to read them");
        self.close(CloseReason::new(Cause::SlowConsumer, detail));
        if let Some(waker) = self.sleeper.take() {
            waker.wake();
        }
    }

    /// The broker ends the connection: the protocol says its last words.
    pub fn close(&mut self, reason: CloseReason) {
        if self.end.is_none() {
            self.connection.close(&reason, &mut self.outbox);
            self.end = Some(Box::new(reason));
        }
    }

    /// Gives the link back to its task and wakes it.
    pub fn hand_back(mut self: Box<Self>) {
        let sleeper = self.sleeper.take();
        let way_back = Arc::clone(&self.way_back);
        *way_back.lock() = Some(self);
        if let Some(waker) = sleeper {
            waker.wake();
        }
    }
}

/// The name of a connection: unique among all of all runs of the broker.
pub fn connection_id(number: u64) -> String {
    /// Names this run.
    static RUN: LazyLock<String> = LazyLock::new(|| {
        let random = RandomState::default().build_hasher().finish();
        format!("{:012x}-", random & 0xffff_ffff_ffff)
    });
    let mut digits = itoa::Buffer::new();
    [RUN.as_str(), digits.format(number)].concat()
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.id)
            .field("protocol", &self.metrics.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_s_name_ends_with_its_number() {
        for number in [0, 1, 9, 10, 1234, 99_999, 100_000, u64::MAX] {
            let name = connection_id(number);
            let (run, rest) = name.split_once('-').unwrap();
            assert_eq!((run.len(), rest), (12, number.to_string().as_str()));
        }
    }
}
