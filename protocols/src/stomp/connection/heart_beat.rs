//! Heart-beats both ways (STOMP 1.2 §Heart-beating).

use std::time::Duration;

use crate::limits::Limits;
use crate::model::Timestamp;

/// What was agreed, and when either side was last heard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeartBeat {
    /// Milliseconds within which the client is sent something; 0 is never.
    send_ms: u64,
    /// Milliseconds within which the client sends something; 0 is never.
    receive_ms: u64,
    sent: Timestamp,
    received: Timestamp,
}

impl HeartBeat {
    /// Agrees on the intervals with a client that can send every `can_ms` and wants to hear
    /// something every `wants_ms`; 0 is never.
    pub(super) fn agree(can_ms: u64, wants_ms: u64, limits: &Limits) -> Self {
        let agree = |theirs: u64, ours: u32| match (theirs, u64::from(ours)) {
            (0, _) | (_, 0) => 0,
            (theirs, ours) => theirs.max(ours),
        };
        Self {
            send_ms: agree(wants_ms, limits.stomp_heart_beat_min_ms),
            receive_ms: agree(can_ms, limits.stomp_heart_beat_ms),
            ..Self::default()
        }
    }

    /// The server's own header.
    pub(super) fn offer(limits: &Limits) -> String {
        format!(
            "{},{}",
            limits.stomp_heart_beat_min_ms, limits.stomp_heart_beat_ms
        )
    }

    /// Seconds within which the client sends something; 0 is never.
    pub(super) fn receive_secs(&self) -> u16 {
        u16::try_from(self.receive_ms.div_ceil(1000)).unwrap_or(u16::MAX)
    }

    /// Begins to count for both sides.
    pub(super) fn start(&mut self, now: Timestamp) {
        self.sent = now;
        self.received = now;
    }

    /// Something was sent.
    pub(super) fn sent(&mut self, now: Timestamp) {
        self.sent = now;
    }

    /// Something was received.
    pub(super) fn received(&mut self, now: Timestamp) {
        self.received = now;
    }

    /// When the next of the two is due.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        [self.send_at(), self.overdue_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a beat is due because nothing else was sent.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.send_at().is_some_and(|at| at <= now)
    }

    /// Whether the client was silent for too long: twice what was agreed, since timing is not
    /// exact and the network is not to be blamed on the client.
    pub(super) fn is_overdue(&self, now: Timestamp) -> bool {
        self.overdue_at().is_some_and(|at| at <= now)
    }

    /// A quarter before the agreed time, so that it is kept in spite of delays.
    fn send_at(&self) -> Option<Timestamp> {
        let span = self.send_ms - self.send_ms / 4;
        (self.send_ms > 0).then(|| self.sent + Duration::from_millis(span))
    }

    fn overdue_at(&self) -> Option<Timestamp> {
        let span = self.receive_ms.saturating_mul(2);
        (self.receive_ms > 0).then(|| self.received + Duration::from_millis(span))
    }
}
