//! Competing consumers: `$share` groups and queues.
//!
//! Each message goes to one member that is connected and has room; the search begins behind the
//! member that got the last one, so the load is even among those who keep up. What nobody can
//! take waits in the group, not in a member: a slow or absent member holds nothing up. Members
//! ask for more ([`Group::drain`]) when they get room.
//!
//! A *stored* group survives a crash with what waits in it: queues do, and share groups that have
//! or had a member that does. A member that is stored itself takes a message over into its own queue;
//! for any other the group's entry stays in the store until the member is done with the message.

mod stored;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::connection::{Position, SubscriptionId};
use protocols::model::{Filter, Message, QoS, Timestamp};

use super::{Batch, Entry, Offer, Queue, Session, Share, Spill, SubRoute, Taken, Terms};
use crate::store::{Op, Ticket, Urgency};
use crate::telemetry::Drop as DropReason;

/// Messages in memory below which more are read from the disk.
const READ_AHEAD: usize = 32;

/// Messages that are read from the disk at once.
const READ_AT_ONCE: usize = 256;

/// Queues of one connection: `$queue/temp/{connection}/{name}`. They end with it.
pub const TEMPORARY: &str = "$queue/temp/";

/// Bounds of a group's backlog.
#[derive(Clone, Copy, Debug)]
pub struct GroupBounds {
    /// Messages that may wait.
    pub messages: usize,
    /// Bytes that may wait.
    pub bytes: usize,
    /// Messages that may wait in a stored group.
    pub stored_messages: usize,
    /// Bytes that may wait in a stored group.
    pub stored_bytes: usize,
    /// Bytes that may wait in all groups together.
    pub total_bytes: usize,
    /// Bytes of a stored group's messages that are kept in memory; the others are on disk only.
    pub memory_bytes: usize,
}

impl GroupBounds {
    /// Messages and bytes that may wait in one group.
    pub fn of(&self, stored: bool) -> (usize, usize) {
        if stored {
            (self.stored_messages, self.stored_bytes)
        } else {
            (self.messages, self.bytes)
        }
    }
}

/// A `$share` group on one filter, or a queue.
#[derive(Debug)]
pub struct Group {
    /// Its number in the index.
    pub number: u64,
    /// What it is.
    pub name: GroupName,
    /// Whether it survives a crash.
    stored: AtomicBool,
    waiting: AtomicUsize,
    state: Mutex<State>,
    bounds: GroupBounds,
    /// Bytes that wait in all groups.
    total: Arc<AtomicUsize>,
}

/// What tells one group from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupName {
    /// The share name; `None` for a queue.
    pub share: Option<ByteString>,
    /// What it matches.
    pub filter: Filter,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Member>,
    next: usize,
    /// What waits, the first in memory.
    backlog: VecDeque<Waiting>,
    /// Bytes of those in memory.
    memory: usize,
    /// What waits on disk only, behind those in memory.
    spill: Spill,
    /// Bytes of all that waits.
    bytes: usize,
    next_position: Position,
    /// Whether the store knows of the group.
    recorded: bool,
    /// When it is looked for messages that are too old again.
    next_purge: Option<Timestamp>,
    /// Whether it was forgotten; who still holds it asks the hub for another.
    closed: bool,
}

#[derive(Debug)]
struct Member {
    session: Arc<Session>,
    sub: SubRoute,
}

#[derive(Debug)]
struct Waiting {
    position: Position,
    message: Arc<Message>,
    attempts: u32,
    /// What must be on disk before it is sent, if the group is stored.
    ticket: Option<Arc<Ticket>>,
}

impl Group {
    /// A group without members. `total` counts the bytes that wait in it and in others.
    pub fn new(number: u64, name: GroupName, bounds: GroupBounds, total: Arc<AtomicUsize>) -> Self {
        Self {
            number,
            name,
            stored: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            state: Mutex::new(State::default()),
            bounds,
            total,
        }
    }

    /// Whether it keeps messages while it has no members at all.
    pub fn is_queue(&self) -> bool {
        self.name.share.is_none()
    }

    /// Whether it keeps messages only for its members: a share group, or a queue that belongs to
    /// one connection.
    pub fn is_passing(&self) -> bool {
        !self.is_queue() || self.name.filter.as_str().starts_with(TEMPORARY)
    }

    /// Whether it survives a crash.
    pub fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Acquire)
    }

    fn publish_waiting(&self, state: &State) {
        self.waiting.store(state.waiting(), Ordering::Release);
    }

    /// Whether messages wait.
    pub fn has_backlog(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Messages that wait.
    pub fn backlog(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Members, connected or not.
    pub fn members(&self) -> usize {
        self.state.lock().members.len()
    }

    /// Takes a subscription in, or renews it; `false` if the group was forgotten meanwhile.
    pub fn join(&self, session: &Arc<Session>, sub: SubRoute) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        let old = state
            .members
            .iter_mut()
            .find(|member| member.is(session, sub.matched.id));
        match old {
            Some(member) => member.sub = sub,
            None => state.members.push(Member {
                session: Arc::clone(session),
                sub,
            }),
        }
        true
    }

    /// Lets a subscription go.
    pub fn leave(&self, session: &Arc<Session>, id: SubscriptionId) {
        let mut state = self.state.lock();
        state.members.retain(|member| !member.is(session, id));
    }

    /// Closes the group for good if it has no members and nothing to keep for later ones.
    pub fn close_if_idle(&self, batch: &mut Batch) -> bool {
        let mut state = self.state.lock();
        let idle = state.members.is_empty() && (state.waiting() == 0 || self.is_passing());
        if idle && !state.closed {
            state.closed = true;
            let left = state.waiting() as u64;
            if left > 0 {
                batch.count_dropped(DropReason::SessionEnded, left);
            }
            state.backlog.clear();
            state.spill = Spill::default();
            self.count_out(&mut state, usize::MAX);
            self.publish_waiting(&state);
            if state.recorded {
                let number = self.number;
                batch.record(Op::GroupEnd { number }, Urgency::Later);
            }
        }
        state.closed
    }

    /// Hands a message to one member, or keeps it. Says whether it is not lost; `None` if the
    /// group was forgotten meanwhile.
    pub fn dispatch(self: &Arc<Self>, message: &Arc<Message>, batch: &mut Batch) -> Option<bool> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        let behind = state.waiting() > 0;
        if self.is_stored() {
            self.record(&mut state, batch);
        }
        let position = state.next_position;
        let offer = Offer {
            share: Share {
                group: Arc::clone(self),
                position,
            },
            waits: false,
        };
        if !behind && state.hand_out(message, 0, &offer, batch) {
            state.new_position();
            return Some(true);
        }
        if !self.keeps(&state, message) {
            batch.count_dropped(DropReason::Qos0, 1);
            return Some(false);
        }
        if !self.has_room(&mut state, message.size(), batch) {
            batch.count_dropped(DropReason::QueueFull, 1);
            return Some(false);
        }
        state.new_position();
        self.put_last(&mut state, message, position, batch);
        if !behind {
            // A member may have got room after it was asked and before it could see that
            // something waits; it would not ask again.
            batch.thirst(self);
        }
        Some(true)
    }

    fn put_last(
        self: &Arc<Self>,
        state: &mut State,
        message: &Arc<Message>,
        position: Position,
        batch: &mut Batch,
    ) {
        let size = message.size();
        self.count_in(state, size);
        let ticket = self.is_stored().then(|| {
            batch.tell(self);
            batch.keep(message, self.receiver(message, position, 0))
        });
        let is_long = state.memory >= self.bounds.memory_bytes && !state.backlog.is_empty();
        match ticket {
            Some(ticket) if is_long || !state.spill.is_empty() => {
                state.spill.push(position, size, ticket);
            }
            ticket => {
                state.memory += size;
                state.spill.pass(position);
                state.backlog.push_back(Waiting {
                    position,
                    message: Arc::clone(message),
                    attempts: 0,
                    ticket,
                });
            }
        }
        self.publish_waiting(state);
    }

    /// Whether so many messages could wait here beside those that do.
    pub fn could_keep(&self, messages: usize, bytes: usize, batch: &mut Batch) -> bool {
        let state = &mut self.state.lock();
        let (max_messages, max_bytes) = self.bounds.of(self.is_stored());
        let fits = |state: &State| {
            state.waiting().saturating_add(messages) <= max_messages
                && state.bytes.saturating_add(bytes) <= max_bytes
        };
        if !fits(state) {
            self.purge(state, batch);
        }
        fits(state)
    }

    /// Hands out what waits, as far as members have room.
    pub fn drain(self: &Arc<Self>, batch: &mut Batch) {
        self.drain_locked(&mut self.state.lock(), batch);
    }

    fn drain_locked(self: &Arc<Self>, state: &mut State, batch: &mut Batch) {
        while let Some(first) = state.backlog.front() {
            if first
                .ticket
                .as_ref()
                .is_some_and(|ticket| !ticket.is_durable())
            {
                // Its members are told when it is on disk.
                break;
            }
            let (message, attempts) = (Arc::clone(&first.message), first.attempts);
            let share = Share {
                group: Arc::clone(self),
                position: first.position,
            };
            if message.is_expired(batch.now) {
                batch.count_dropped(DropReason::Expired, 1);
                share.done(batch);
            } else {
                let offer = Offer { share, waits: true };
                if !state.hand_out(&message, attempts, &offer, batch) {
                    break;
                }
            }
            self.take_first(state);
        }
        self.publish_waiting(state);
        if state.backlog.len() < READ_AHEAD
            && state.has_member_online()
            && let end = state.next_position
            && let Some(wish) = state
                .spill
                .wish(READ_AT_ONCE, self.bounds.memory_bytes, end)
        {
            batch.load(Queue::Group(Arc::clone(self)), wish);
        }
    }

    /// Takes back messages that a member will not settle any more, in front of all others, and
    /// offers them to the others first. A QoS 2 message that was sent is not given to another member
    /// `[MQTT-4.8.2-5]`. They come back if the group was forgotten meanwhile.
    pub fn give_back(
        self: &Arc<Self>,
        from: &Arc<Session>,
        entries: Vec<Entry>,
        batch: &mut Batch,
    ) -> Result<(), Vec<Entry>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(entries);
        }
        if let Some(last) = entries.last().and_then(|entry| entry.matched.first()) {
            let mut members = state.members.iter();
            if let Some(at) = members.position(|member| member.is(from, last.id)) {
                state.next = at + 1;
            }
        }
        for entry in entries.into_iter().rev() {
            if entry.qos == QoS::ExactlyOnce && entry.attempts > 0 {
                batch.count_dropped(DropReason::SessionEnded, 1);
                entry.done(from, batch);
                continue;
            }
            let (position, ticket) = self.take_over(&mut state, from, &entry, batch);
            self.count_in(&mut state, entry.message.size());
            state.memory += entry.message.size();
            state.backlog.push_front(Waiting {
                position,
                message: entry.message,
                attempts: entry.attempts,
                ticket,
            });
        }
        self.publish_waiting(&state);
        batch.thirst(self);
        Ok(())
    }

    /// Whether another message may wait; those that are too old make room.
    fn has_room(&self, state: &mut State, size: usize, batch: &mut Batch) -> bool {
        let (max_messages, max_bytes) = self.bounds.of(self.is_stored());
        for at in 0..2 {
            let total = self.total.load(Ordering::Relaxed);
            let fits = state.waiting() < max_messages
                && state.bytes.saturating_add(size) <= max_bytes
                && total.saturating_add(size) <= self.bounds.total_bytes;
            if fits || at == 1 || state.next_purge.is_some_and(|next| batch.now < next) {
                return fits;
            }
            self.purge(state, batch);
        }
        false
    }

    /// Removes what is too old, wherever it is in the backlog. Not at every message that finds a
    /// full queue, as it looks at all of them.
    fn purge(&self, state: &mut State, batch: &mut Batch) {
        state.next_purge = Some(batch.now.plus_secs(1));
        let (mut bytes, mut count) = (0, 0);
        let is_stored = self.is_stored();
        let queue = self.queue();
        state.backlog.retain(|waiting| {
            let expired = waiting.message.is_expired(batch.now);
            if expired {
                bytes += waiting.message.size();
                count += 1;
                if is_stored {
                    let position = waiting.position;
                    batch.record(Op::Done { queue, position }, Urgency::Later);
                }
            }
            !expired
        });
        state.memory = state.memory.saturating_sub(bytes);
        self.count_out(state, bytes);
        batch.count_dropped(DropReason::Expired, count);
        self.publish_waiting(state);
    }

    fn count_in(&self, state: &mut State, size: usize) {
        state.bytes += size;
        self.total.fetch_add(size, Ordering::Relaxed);
    }

    /// Counts bytes out, all that there are at most.
    fn count_out(&self, state: &mut State, size: usize) {
        let size = if state.waiting() == 0 {
            state.bytes
        } else {
            size.min(state.bytes)
        };
        state.bytes -= size;
        self.total.fetch_sub(size, Ordering::Relaxed);
    }

    fn take_first(&self, state: &mut State) {
        if let Some(first) = state.backlog.pop_front() {
            let size = first.message.size();
            state.memory = state.memory.saturating_sub(size);
            self.count_out(state, size);
        }
    }

    /// Whether a message that nobody takes now is kept: a queue keeps all, a share group what at
    /// least one member is to get with an acknowledgement.
    fn keeps(&self, state: &State, message: &Message) -> bool {
        self.is_queue()
            || state
                .members
                .iter()
                .any(|member| member.sub.effective(message.qos) > QoS::AtMostOnce)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.total
            .fetch_sub(self.state.get_mut().bytes, Ordering::Relaxed);
    }
}

impl State {
    /// Messages that wait, in memory and on disk.
    fn waiting(&self) -> usize {
        self.backlog.len() + self.spill.len()
    }

    fn new_position(&mut self) -> Position {
        self.next_position += 1;
        self.next_position - 1
    }

    fn has_member_online(&self) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.session.lock().link.is_some())
    }

    fn hand_out(
        &mut self,
        message: &Arc<Message>,
        attempts: u32,
        offer: &Offer,
        batch: &mut Batch,
    ) -> bool {
        let count = self.members.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            let Member { session, sub } = &self.members[at];
            let terms = Terms {
                qos: sub.effective(message.qos),
                retain: sub.retain_as_published && message.retain,
                matched: &[sub.matched],
                lane: sub.lane(),
                attempts,
            };
            let mut member = session.lock();
            let taken = member.offer(session, message, &terms, offer.clone(), batch);
            if taken == Taken::Yes {
                self.next = (at + 1) % count;
                return true;
            }
        }
        false
    }
}

impl Member {
    fn is(&self, session: &Arc<Session>, id: SubscriptionId) -> bool {
        self.session.number == session.number && self.sub.matched.id == id
    }
}
