//! The deadlines of a connection, and its end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use protocols::connection::{Cause, CloseReason};
use protocols::model::Timestamp;
use tokio::io::ReadBuf;

use super::super::Wire;
use super::{Driver, Ended, Linger, READ_BUFFER, READ_BYTES};
use crate::session::Batch;

/// How long a connection that is over waits for the other side to have read its last words.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read and thrown away meanwhile.
const LINGER_BYTES: usize = 1024 * 1024;

impl<S: Wire> Driver<S> {
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let rare = self.rare.as_deref();
        if let Some(linger) = rare.and_then(|rare| rare.lingers) {
            return Some(linger.since + LINGER);
        }
        let stall = self.stalled_since().map(|since| since + self.live.stall);
        if self.is_closing() {
            return stall;
        }
        let (next, due) = self.home.with(|link| {
            let due = link.due.known();
            (link.connection.next_timeout(), due)
        });
        let throttle = rare.and_then(|rare| rare.throttle.as_ref());
        let slowed =
            throttle.and_then(|held| held.deadline(&self.live.throttling, self.net.clock.now()));
        [stall, next, due, slowed].into_iter().flatten().min()
    }

    pub(super) fn set_timer(&mut self, cx: &Context<'_>) {
        let Some(at) = self.deadline() else { return };
        let timers = &self.net.timers;
        match self.timer {
            Some(armed) if timers.is_in_time(armed, at) => {}
            old => {
                if let Some(id) = old {
                    timers.disarm(id);
                }
                self.timer = Some(timers.arm(at, cx.waker()));
            }
        }
    }

    pub(super) fn meet_deadline(&mut self) {
        let Some(armed) = self.timer else { return };
        let now = self.net.clock.now();
        if !self.net.timers.is_due(armed, now) {
            return;
        }
        self.timer = None;
        let stall = self.live.stall;
        if self
            .stalled_since()
            .is_some_and(|since| since + stall <= now)
        {
            self.give_up();
            return;
        }
        if self.is_closing() {
            return;
        }
        if let Some(session) = self.home.session() {
            session.lock().look_at_credentials(self.home.number(), now);
        }
        let mut commands = Vec::new();
        let mut batch = Batch::new(now);
        self.home.with(|link| {
            let due = link.connection.next_timeout().is_some_and(|at| at <= now);
            if due && link.end.is_none() {
                link.drive(&mut commands, |connection, out| {
                    connection.handle_timeout(now, out);
                });
            }
        });
        self.carry_out(&mut commands, &mut batch);
        self.end_batch(batch);
    }

    /// The client reads nothing: there is no point in writing more.
    pub(super) fn give_up(&mut self) {
        let secs = self.live.stall.as_secs();
        self.rare().closing.get_or_insert_with(|| {
            let detail = format!("the client has read nothing for {secs} seconds");
            Box::new(CloseReason::new(Cause::SlowConsumer, detail))
        });
        self.is_given_up = true;
        // Before the rest is thrown away, so that no publisher puts more behind it.
        self.part();
        let rare = self.rare();
        rare.stalled_since = None;
        rare.writing.clear();
        self.home.with(|link| drop(link.outbox.take()));
    }

    pub(super) fn broken(&mut self, error: &io::Error) -> Ended {
        let failed = || CloseReason::new(Cause::Io, format!("the socket failed: {error}"));
        let reason = self.take_closing().unwrap_or_else(failed);
        self.leave(reason)
    }

    /// All is written: says so to the other side, and waits a little for its end.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut linger = match self.rare().lingers {
            Some(linger) => linger,
            None => {
                self.part();
                if self.socket.is_read_out() {
                    // What was written still gets there: nothing that is unread can reset it.
                    return Poll::Ready(self.ended());
                }
                match Pin::new(&mut self.socket).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => {}
                    // TLS has last words of its own, and they too may find no room.
                    Poll::Pending if !self.is_given_up => {
                        self.stall();
                        self.set_timer(cx);
                        return Poll::Pending;
                    }
                    // An error here means that the other side is gone already.
                    Poll::Ready(Err(_)) | Poll::Pending => return Poll::Ready(self.ended()),
                }
                self.flow();
                Linger {
                    since: self.net.clock.now(),
                    discarded: 0,
                }
            }
        };
        let mut buffer = READ_BUFFER.take();
        buffer.resize(READ_BYTES, 0);
        let over = loop {
            let mut into = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.socket).poll_read(cx, &mut into) {
                Poll::Pending => break false,
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    linger.discarded += into.filled().len();
                    if linger.discarded > LINGER_BYTES {
                        break true;
                    }
                }
                Poll::Ready(_) => break true,
            }
        };
        READ_BUFFER.set(buffer);
        self.rare().lingers = Some(linger);
        if over || linger.since + LINGER <= self.net.clock.now() {
            return Poll::Ready(self.ended());
        }
        self.set_timer(cx);
        Poll::Pending
    }

    pub(super) fn ended(&mut self) -> Ended {
        let reason = self.take_closing();
        self.leave(reason.unwrap_or_else(|| CloseReason::new(Cause::Normal, "")))
    }
}
