//! A group and the store: what is written of it, and how it comes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocols::connection::Position;
use protocols::model::Message;

use super::{Group, State, Waiting};
use crate::session::{Batch, Entry, Session, Share, Spill, Wish};
use crate::store::{Committed, GroupRecord, Loaded, Op, QueueId, Receiver, Ticket, Urgency};

impl Group {
    /// From now on it survives a crash, with what waits in it.
    pub fn become_stored(self: &Arc<Self>, batch: &mut Batch) {
        if self.is_stored() {
            return;
        }
        let mut state = self.state.lock();
        if self.stored.swap(true, Ordering::AcqRel) {
            return;
        }
        for at in 0..state.backlog.len() {
            let waiting = &state.backlog[at];
            let receiver = self.receiver(&waiting.message, waiting.position, waiting.attempts);
            let message = Arc::clone(&waiting.message);
            self.record(&mut state, batch);
            state.backlog[at].ticket = Some(batch.keep(&message, receiver));
        }
        batch.tell(self);
    }

    /// It was found in the store, with so much in its queue.
    pub fn recovered(&self, messages: usize, bytes: usize, last_position: Position) {
        let mut state = self.state.lock();
        self.stored.store(true, Ordering::Release);
        state.recorded = true;
        state.spill = Spill::recovered(messages, bytes);
        state.next_position = last_position + 1;
        self.count_in(&mut state, bytes);
        self.publish_waiting(&state);
    }

    /// The store learns of the group before its first message.
    pub(super) fn record(&self, state: &mut State, batch: &mut Batch) {
        if std::mem::replace(&mut state.recorded, true) {
            return;
        }
        let record = GroupRecord {
            share: self.name.share.clone(),
            filter: self.name.filter.clone(),
        };
        let op = Op::Group {
            number: self.number,
            record,
        };
        batch.record(op, Urgency::Later);
    }

    pub(super) fn queue(&self) -> QueueId {
        QueueId {
            owner: self.number,
            lane: 0,
        }
    }

    pub(super) fn receiver(
        &self,
        message: &Message,
        position: Position,
        attempts: u32,
    ) -> Receiver {
        Receiver {
            queue: self.queue(),
            position,
            qos: message.qos,
            retain: message.retain,
            attempts,
            matched: smallvec::SmallVec::new(),
            group: None,
        }
    }

    /// Takes what was read from the disk.
    pub fn loaded(self: &Arc<Self>, wish: Wish, loaded: Loaded, batch: &mut Batch) {
        let mut state = self.state.lock();
        let Some(gone) = state.spill.loaded(&wish, &loaded) else {
            return;
        };
        if gone > 0 {
            tracing::debug!(
                group = self.name.filter.as_str(),
                gone,
                "messages were gone"
            );
        }
        for entry in loaded.entries {
            state.memory += entry.message.size();
            state.backlog.push_back(Waiting {
                position: entry.position,
                message: entry.message,
                attempts: entry.attempts,
                ticket: None,
            });
        }
        self.publish_waiting(&state);
        batch.thirst(self);
    }

    /// A message that comes back has its old place again, in the store too; if it is of a group
    /// that was forgotten meanwhile, it gets a new one.
    pub(super) fn take_over(
        self: &Arc<Self>,
        state: &mut State,
        from: &Session,
        entry: &Entry,
        batch: &mut Batch,
    ) -> (Position, Option<Arc<Ticket>>) {
        let share = entry.group.as_ref();
        let old = share.filter(|share| Arc::ptr_eq(&share.group, self));
        let position = old.map_or_else(|| state.new_position(), |share| share.position);
        if !self.is_stored() {
            return (position, None);
        }
        batch.tell(self);
        let receiver = self.receiver(&entry.message, position, entry.attempts);
        let ticket = match (entry.queue(from), old) {
            (Some(queue), _) => Some(batch.relocate(queue, entry.position, receiver)),
            (None, Some(_)) => entry.ticket.clone(),
            (None, None) => {
                self.record(state, batch);
                Some(batch.keep(&entry.message, receiver))
            }
        };
        (position, ticket)
    }
}

impl Committed for Group {
    /// Members that have room ask for what is on disk now.
    fn committed(self: Arc<Self>) {
        let state = self.state.lock();
        for member in &state.members {
            member.session.lock().ask_for_more();
        }
    }
}

impl Entry {
    /// The store forgets the message, which was for this session.
    pub fn done(&self, session: &Session, batch: &mut Batch) {
        match (self.queue(session), &self.group) {
            (Some(queue), _) => {
                let position = self.position;
                batch.record(Op::Done { queue, position }, Urgency::Later);
            }
            (None, Some(share)) => share.done(batch),
            (None, None) => {}
        }
    }
}

impl Share {
    /// The group's queue in the store.
    pub fn queue(&self) -> QueueId {
        self.group.queue()
    }

    /// The group as a receiver of a message that one of its members has not settled yet.
    pub fn receiver(&self, message: &Message, attempts: u32) -> Receiver {
        self.group.receiver(message, self.position, attempts)
    }

    /// The group is done with the message.
    pub fn done(&self, batch: &mut Batch) {
        if self.group.is_stored() {
            let op = Op::Done {
                queue: self.queue(),
                position: self.position,
            };
            batch.record(op, Urgency::Later);
        }
    }
}
