//! Messages out of a session's lanes into its connection's outbox, as far as there is room.
//!
//! Called with the session's lock held, for what was just queued, settled or read from disk, and
//! when the client has read. Nothing is written to a socket here: the connection's task is woken
//! at the end of the batch.

use std::sync::Arc;

use protocols::Delivery;
use protocols::Reply;
use protocols::connection::{Delivered, Notice, Position};
use protocols::model::Timestamp;
use smallvec::SmallVec;

use super::delivery::lost;
use super::{Batch, Entry, Lane, Link, Queue, Session, State};
use crate::telemetry::{Drop as DropReason, trace};

impl State {
    /// Sends what waits and may go out now.
    pub fn pump(&mut self, me: &Arc<Session>, batch: &mut Batch) {
        let limit = self.bounds.outbox_bytes;
        let Some(link) = self.link.as_mut().filter(|link| link.end.is_none()) else {
            return;
        };
        if link.outbox.is_empty() {
            // It has read all: it learns now what it missed, not with some later message.
            tell_gap(link, batch.now);
        }
        let memory = self.bounds.memory_bytes;
        let mut gone: SmallVec<[Entry; 4]> = SmallVec::new();
        let trust = (&**me, self.trusted_from);
        for lane in &mut self.lanes {
            pump_lane(lane, link, limit, trust, batch, &mut gone);
            if let Some(wish) = lane.wish(memory, self.next_position) {
                batch.load(Queue::Lane(Arc::clone(me), lane.number()), wish);
            }
        }
        for entry in &gone {
            self.done(me, entry, batch);
        }
        let missed = std::mem::take(&mut self.missed_offer);
        if missed || self.has_room() {
            for held in self.subscriptions.values() {
                if let Some(group) = held.group.as_ref().filter(|group| group.has_backlog()) {
                    batch.thirst(group);
                }
            }
        }
        self.rouse(me, batch);
    }

    /// A group may have something for it.
    pub fn ask_for_more(&mut self) {
        if let Some(link) = &mut self.link {
            self.missed_offer = true;
            link.nudge();
        }
    }

    /// Whether something waits that may go out when the outbox is empty again.
    pub fn has_more(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.gap > 0)
            || self.missed_offer
            || !self.retained().is_empty()
            || self.lanes.iter().any(|lane| lane.len() > lane.open())
    }

    /// Whether further messages may be produced for this client (retained ones, say): it is
    /// there, and reads, and its window has room.
    pub fn wants_more(&self) -> bool {
        let limit = self.bounds.outbox_bytes / 2;
        self.link
            .as_ref()
            .is_some_and(|link| link.end.is_none() && link.outbox.len() < limit)
            && self.lanes.iter().all(|lane| lane.len() <= lane.open())
    }

    /// Wakes the connection's task at the end of the batch, and remembers pressure.
    pub(super) fn rouse(&mut self, me: &Arc<Session>, batch: &mut Batch) {
        let Some(link) = &mut self.link else { return };
        if link.outbox.is_empty() {
            return;
        }
        link.bound(self.bounds.outbox_hard_bytes);
        if let Some(waker) = link.take_writer() {
            batch.wake(waker);
        }
        let pressed = link.outbox.len() > self.bounds.outbox_bytes / 2 && link.patience > 0;
        if pressed && batch.press(me) {
            link.patience -= 1;
        }
    }
}

/// Sends from one lane until its window, the outbox or the lane itself ends it. What is not sent
/// but dropped goes to `gone`, as does what needs no settlement. What was queued before
/// `trusted_from` may not be the client's any more.
pub(super) fn pump_lane(
    lane: &mut Lane,
    link: &mut Link,
    limit: usize,
    (me, trusted_from): (&Session, Position),
    batch: &mut Batch,
    gone: &mut SmallVec<[Entry; 4]>,
) {
    while link.outbox.len() <= limit {
        let Some(entry) = lane.due() else { return };
        if entry.received {
            let position = entry.position;
            link.drive(&mut Vec::new(), |connection, out| {
                connection.reply(
                    Reply::Received {
                        position,
                        found: true,
                    },
                    batch.now,
                    out,
                );
            });
            lane.sent();
            continue;
        }
        if entry.position < trusted_from && !me.rights.may_receive(&entry.message.topic) {
            batch.count_dropped(DropReason::NotAuthorized, 1);
            lost(me, &entry.message, DropReason::NotAuthorized);
            gone.extend(lane.drop_next());
            continue;
        }
        if entry.message.is_expired(batch.now) {
            batch.count_dropped(DropReason::Expired, 1);
            lost(me, &entry.message, DropReason::Expired);
            gone.extend(lane.drop_next());
            continue;
        }
        tell_gap(link, batch.now);
        let delivery = Delivery {
            message: &entry.message,
            qos: entry.qos,
            retain: entry.retain,
            position: Some(entry.position),
            attempts: entry.attempts,
            matched: &entry.matched,
        };
        match link
            .connection
            .deliver(&delivery, batch.now, &mut link.outbox)
        {
            Delivered::Written => {
                batch.count_delivered(&link.metrics, entry.qos);
                link.wrote(&entry.message, entry.retain);
                if entry.attempts > 0 {
                    link.metrics.redelivered.inc();
                }
                if trace::is_on() {
                    let (name, message) = (link.metrics.name, &entry.message);
                    trace::delivered(&me.client_id, name, message, entry.qos, entry.attempts);
                }
                if lane.auto_settle {
                    gone.extend(lane.drop_next());
                } else {
                    lane.sent();
                }
            }
            Delivered::TooLarge => {
                batch.count_dropped(DropReason::TooLarge, 1);
                lost(me, &entry.message, DropReason::TooLarge);
                gone.extend(lane.drop_next());
            }
            Delivered::NotSubscribed => return,
        }
    }
}

/// The client learns what it missed before anything else that it is sent.
pub(super) fn tell_gap(link: &mut Link, now: Timestamp) {
    if link.gap > 0 {
        let dropped = u64::from(std::mem::take(&mut link.gap));
        link.connection
            .notify(&Notice::Gap { dropped }, now, &mut link.outbox);
    }
}
