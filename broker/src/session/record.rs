//! A session and the store: what is written of it, and how it comes back.

use std::sync::Arc;

use hashbrown::HashMap;
use protocols::connection::{Position, SubscriptionId, Will};
use protocols::model::Timestamp;

use super::{
    Batch, Bounds, Entry, Group, Matched, Queue, RetainedWork, Session, Share, Spill, State,
    Subscription, Wish,
};
use crate::auth::stored;
use crate::router::Cursor;
use crate::store::{
    Committed, Loaded, Op, RecoveredSession, RetainedProgress, SessionRecord, Store,
    SubscriptionRecord, Urgency, WillRecord,
};

/// What the broker knows when it restores sessions.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// The time.
    pub now: Timestamp,
    /// Seconds that clients which were connected have to come back before their wills are said.
    pub grace_secs: u32,
}

impl Session {
    /// Brings a session back. Its subscriptions are added by [`State::restore_subscription`].
    pub fn restore(
        recovered: &RecoveredSession,
        bounds: Arc<Bounds>,
        store: Arc<dyn Store>,
        restart: Restart,
    ) -> Self {
        let record = &recovered.record;
        let session = Self::new(
            record.number,
            record.client_id.clone(),
            record.user.clone(),
            bounds,
            Some(store),
        );
        session.lock().restore(recovered, restart);
        session
    }
}

impl State {
    /// Writes the session down, without its subscriptions.
    pub fn record(&self, me: &Session, batch: &mut Batch, urgency: Urgency) {
        if !me.is_stored() || self.ended {
            return;
        }
        let sent = self.lanes.iter().filter(|lane| lane.is_stored());
        let sent = sent.filter_map(|lane| Some((lane.number(), lane.sent_through()?)));
        let record = SessionRecord {
            number: me.number,
            client_id: me.client_id.clone(),
            user: me.user().cloned(),
            expiry_secs: self.expiry_secs,
            connected: self.link.is_some(),
            ends_at: self.ends_at().known(),
            will_at: self.will_at().known(),
            will: self.will().map(will_record),
            overlap: self.overlap,
            window: self.own_window(),
            next_position: self.next_position,
            next_subscription: self.next_subscription,
            sent: sent.collect(),
            who: self
                .identity
                .as_ref()
                .map(|who| stored::write(who, &me.client_id, me.rights.protocol()).into()),
        };
        batch.record(Op::Session(Box::new(record)), urgency);
    }

    /// Writes a subscription down, if it outlives the connection.
    pub fn record_subscription(
        &self,
        me: &Session,
        held: &Subscription,
        batch: &mut Batch,
        urgency: Urgency,
    ) {
        if !me.is_stored() || !held.request.durable {
            return;
        }
        let retained = self.retained().iter().find(|work| work.id == held.id);
        let retained = match retained {
            Some(work) if held.request.qos > protocols::model::QoS::AtMostOnce => {
                match &work.cursor {
                    Some(cursor) => cursor
                        .topic()
                        .map_or(RetainedProgress::Wanted, RetainedProgress::Behind),
                    None => RetainedProgress::Wanted,
                }
            }
            _ => RetainedProgress::Done,
        };
        let record = SubscriptionRecord {
            id: held.id,
            request: held.request.clone(),
            retained,
        };
        let op = Op::Subscription {
            number: me.number,
            record: Box::new(record),
        };
        batch.record(op, urgency);
    }

    /// Adds a subscription that was stored.
    pub fn restore_subscription(
        &mut self,
        record: SubscriptionRecord,
        group: Option<Arc<Group>>,
    ) -> Subscription {
        let SubscriptionRecord {
            id,
            request,
            retained,
        } = record;
        self.next_subscription = self.next_subscription.max(id.0);
        if let protocols::connection::Lane::Own { in_flight } = request.lane {
            self.lane_mut(Some(id), in_flight, request.auto_settle)
                .store();
        }
        let cursor = match retained {
            RetainedProgress::Done => None,
            RetainedProgress::Wanted => Some(None),
            RetainedProgress::Behind(topic) => Some(Some(Cursor::behind_topic(&topic))),
        };
        if let Some(cursor) = cursor {
            let request = request.clone();
            let work = RetainedWork {
                id,
                request,
                cursor,
            };
            self.change_retained(|works| works.push(work));
        }
        let held = Subscription { id, request, group };
        self.subscriptions.insert(held.clone());
        held
    }

    /// Takes messages that were read from the disk into a lane. `groups` finds a group by number.
    pub fn loaded(
        &mut self,
        lane: u32,
        wish: &Wish,
        loaded: Loaded,
        groups: &dyn Fn(u64) -> Option<Arc<Group>>,
    ) {
        let Some(at) = self.lanes.iter().position(|held| held.number() == lane) else {
            return;
        };
        let Some(gone) = self.lanes[at].loaded(wish, &loaded) else {
            return;
        };
        self.queued = self.queued.saturating_sub(gone);
        let identifiers: HashMap<SubscriptionId, _> = self
            .subscriptions
            .values()
            .map(|held| (held.id, held.request.identifier))
            .collect();
        for entry in loaded.entries {
            let matched = entry.matched.iter().map(|id| Matched {
                id: *id,
                identifier: identifiers.get(id).copied().flatten(),
            });
            let share = entry.group.and_then(|(number, position)| {
                let group = groups(number)?;
                Some(Share { group, position })
            });
            let entry = Entry {
                position: entry.position,
                message: entry.message,
                qos: entry.qos,
                retain: entry.retain,
                attempts: entry.attempts,
                received: entry.received,
                matched: matched.collect(),
                group: share,
                stored: Some(lane),
                ticket: None,
            };
            self.lanes[at].push_loaded(entry);
        }
        if let Some(link) = &mut self.link {
            link.nudge();
        }
    }

    /// The lanes that hold what a group would get back, to be read at once.
    pub fn restore_queues(
        &mut self,
        me: &Arc<Session>,
        recovered: &RecoveredSession,
        maybe_sent: bool,
    ) -> Vec<(Queue, Wish)> {
        let mut loads = Vec::new();
        for queue in &recovered.queues {
            let owner = (queue.lane != 0).then_some(SubscriptionId(queue.lane));
            let Some(lane) = self.lanes.iter_mut().find(|lane| lane.owner == owner) else {
                continue;
            };
            lane.restore(Spill::recovered(queue.messages, queue.bytes));
            self.queued += queue.messages;
            self.queued_bytes += queue.bytes;
            self.next_position = self.next_position.max(queue.last_position + 1);
            let sent = recovered.record.sent.iter();
            let through = sent
                .filter(|(lane, _)| *lane == queue.lane)
                .map(|(_, position): &(u32, Position)| *position)
                .max();
            // All that was in the queue may have been sent. "Marked as sent before" says no more.
            lane.recover_sent(if maybe_sent {
                Some(queue.last_position)
            } else {
                through
            });
            if queue.from_group
                && let Some(wish) = lane.wish(usize::MAX, self.next_position)
            {
                loads.push((Queue::Lane(Arc::clone(me), queue.lane), wish));
            }
        }
        loads
    }

    fn restore(&mut self, recovered: &RecoveredSession, restart: Restart) {
        let record = &recovered.record;
        self.expiry_secs = record.expiry_secs;
        self.overlap = record.overlap;
        self.next_position = record.next_position;
        self.next_subscription = record.next_subscription;
        self.accepted.extend(recovered.accepted.iter().copied());
        self.set_window(record.window, true);
        self.set_will(record.will.as_ref().map(will));
        self.set_will_at(record.will_at.unwrap_or(Timestamp::NEVER));
        self.set_ends_at(record.ends_at.unwrap_or(Timestamp::NEVER));
        if record.connected {
            self.lose(restart);
        }
    }

    /// The client's connection broke when the broker stopped: it has some time to come back, as
    /// the broker knows nothing of when it will be able to.
    fn lose(&mut self, restart: Restart) {
        let expiry = self.expiry_secs;
        let away = if expiry == 0 {
            0
        } else {
            expiry.max(restart.grace_secs)
        };
        self.end_after(restart.now, away);
        if let Some(mut will) = self.take_will() {
            will.delay_secs = will.delay_secs.max(restart.grace_secs);
            let delay = will.delay_secs.min(away);
            self.set_will(Some(will));
            self.set_will_at(restart.now.plus_secs(delay));
        }
    }

    fn own_window(&self) -> u16 {
        self.window
    }
}

impl Committed for Session {
    fn committed(self: Arc<Self>) {
        if let Some(link) = &mut self.lock().link {
            link.nudge();
        }
    }
}

fn will_record(will: &Will) -> WillRecord {
    WillRecord {
        message: Arc::new(will.message.copy()),
        delay_secs: will.delay_secs,
        expiry_secs: will.expiry_secs,
    }
}

fn will(record: &WillRecord) -> Box<Will> {
    Box::new(Will {
        message: record.message.copy(),
        delay_secs: record.delay_secs,
        expiry_secs: record.expiry_secs,
    })
}
