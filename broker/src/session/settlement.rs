//! What a client says about messages that it was sent: it has them, it is done with them, it
//! does not want them.
//!
//! A settled message makes room, so that a settlement ends with sending what waits. What a group
//! gets back is returned to the caller: a session's lock is held here, and a group's must be taken
//! before it.

use std::sync::Arc;

use protocols::connection::{Position, Settle, SubscriptionId};

use super::{Batch, Entry, Session, State};
use crate::store::{Op, QueueId, Urgency};
use crate::telemetry::Drop as DropReason;

/// What a settlement did.
#[derive(Debug, Default)]
pub struct Settled {
    /// Whether a message was open under that position.
    pub found: bool,
    /// Messages that go back to their group.
    pub returned: Vec<Entry>,
    /// Whether retained messages wait for room.
    pub more_retained: bool,
}

impl State {
    /// Carries out what the client says about messages that it was sent.
    pub fn settle(&mut self, me: &Arc<Session>, settle: Settle, batch: &mut Batch) -> Settled {
        let mut settled = Settled::default();
        match settle {
            Settle::Received(position) => {
                settled.found = self.receive(me, position, batch);
                return settled;
            }
            Settle::Done(position) => {
                settled.found = self.settle_one(me, position, batch);
                self.acknowledged(usize::from(settled.found));
            }
            Settle::DoneThrough(id, position) => {
                if let Some(at) = self.lane_of(id) {
                    let entries = self.lanes[at].settle_through(position);
                    settled.found = !entries.is_empty();
                    self.acknowledged(entries.len());
                    for entry in &entries {
                        self.done(me, entry, batch);
                    }
                }
            }
            Settle::Rejected { position, requeue } => {
                for at in 0..self.lanes.len() {
                    let Some(entry) = self.lanes[at].settle(position) else {
                        continue;
                    };
                    settled.found = true;
                    self.reject(me, at, entry, requeue, &mut settled.returned, batch);
                    break;
                }
            }
            Settle::RejectedThrough(id, position) => {
                if let Some(at) = self.lane_of(id) {
                    let entries = self.lanes[at].settle_through(position);
                    settled.found = !entries.is_empty();
                    // From the last to the first: each goes before the one that followed it.
                    for entry in entries.into_iter().rev() {
                        self.reject(me, at, entry, true, &mut settled.returned, batch);
                    }
                    settled.returned.reverse();
                }
            }
        }
        self.pump(me, batch);
        settled.more_retained = !self.retained().is_empty();
        settled
    }

    /// The client is done with these messages. Says whether retained ones wait for the room.
    pub fn settle_all(&mut self, me: &Arc<Session>, done: &[Position], batch: &mut Batch) -> bool {
        let settled = done
            .iter()
            .filter(|position| self.settle_one(me, **position, batch));
        let count = settled.count();
        self.acknowledged(count);
        self.pump(me, batch);
        !self.retained().is_empty()
    }

    /// Counts messages that the client said it has.
    fn acknowledged(&self, count: usize) {
        if let Some(link) = &self.link {
            link.metrics.acknowledged.add(count as u64);
        }
    }

    fn settle_one(&mut self, me: &Session, position: Position, batch: &mut Batch) -> bool {
        let mut lanes = self.lanes.iter_mut();
        let Some(entry) = lanes.find_map(|lane| lane.settle(position)) else {
            return false;
        };
        self.done(me, &entry, batch);
        true
    }

    /// The client has a message: from now on only PUBREL is sent for it.
    fn receive(&mut self, me: &Arc<Session>, position: u64, batch: &mut Batch) -> bool {
        for lane in &mut self.lanes {
            let queue = QueueId {
                owner: me.number,
                lane: lane.number(),
            };
            let is_stored = lane.is_stored();
            if lane.receive(position).is_some() {
                if is_stored {
                    batch.record(Op::Received { queue, position }, Urgency::Now);
                }
                return true;
            }
        }
        false
    }

    /// A message is done with: it is counted out, and the store forgets it.
    pub(super) fn done(&mut self, me: &Session, entry: &Entry, batch: &mut Batch) {
        self.forget(std::slice::from_ref(entry));
        entry.done(me, batch);
    }

    fn reject(
        &mut self,
        me: &Arc<Session>,
        lane: usize,
        entry: Entry,
        requeue: bool,
        returned: &mut Vec<Entry>,
        batch: &mut Batch,
    ) {
        if requeue && entry.group.is_none() {
            self.lanes[lane].requeue(entry);
            return;
        }
        if requeue {
            self.forget(std::slice::from_ref(&entry));
            returned.push(entry);
        } else {
            self.done(me, &entry, batch);
            batch.count_dropped(DropReason::Rejected, 1);
        }
    }

    fn lane_of(&self, id: SubscriptionId) -> Option<usize> {
        self.lane_at(Some(id))
    }
}
