//! Competing consumers: `$share` groups and queues.
//!
//! Each message goes to one member that is connected and has room; the search begins behind the
//! member that got the last one, so the load is even among those who keep up. What nobody can
//! take waits in the group, not in a member: a slow or absent member holds nothing up. Members
//! ask for more ([`Group::drain`]) when they get room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::connection::SubscriptionId;
use protocols::model::{Filter, Message, QoS, Timestamp};

use super::{Batch, Entry, Session, SubRoute, Taken, Terms};
use crate::telemetry::Drop as DropReason;

/// Queues of one connection: `$queue/temp/{connection}/{name}`. They end with it.
pub const TEMPORARY: &str = "$queue/temp/";

/// Bounds of a group's backlog.
#[derive(Clone, Copy, Debug)]
pub struct GroupBounds {
    /// Messages that may wait.
    pub messages: usize,
    /// Bytes that may wait.
    pub bytes: usize,
    /// Bytes that may wait in all groups together.
    pub total_bytes: usize,
}

/// A `$share` group on one filter, or a queue.
#[derive(Debug)]
pub struct Group {
    /// Its number in the index.
    pub number: u64,
    /// What it is.
    pub name: GroupName,
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
    backlog: VecDeque<Waiting>,
    bytes: usize,
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
    message: Arc<Message>,
    attempts: u32,
}

impl Group {
    /// A group without members. `total` counts the bytes that wait in it and in others.
    pub fn new(number: u64, name: GroupName, bounds: GroupBounds, total: Arc<AtomicUsize>) -> Self {
        Self {
            number,
            name,
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
        let idle = state.members.is_empty() && (state.backlog.is_empty() || self.is_passing());
        if idle && !state.closed {
            state.closed = true;
            let left = state.backlog.len() as u64;
            if left > 0 {
                batch.count_dropped(DropReason::SessionEnded, left);
            }
            while self.take_first(&mut state).is_some() {}
            self.waiting.store(0, Ordering::Release);
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
        let behind = !state.backlog.is_empty();
        if !behind && state.hand_out(self, message, 0, batch) {
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
        self.count_in(&mut state, message.size());
        state.backlog.push_back(Waiting {
            message: Arc::clone(message),
            attempts: 0,
        });
        self.waiting.store(state.backlog.len(), Ordering::Release);
        if !behind {
            // A member may have got room after it was asked and before it could see that
            // something waits; it would not ask again.
            self.drain_locked(&mut state, batch);
        }
        Some(true)
    }

    /// Whether so many messages could wait here beside those that do.
    pub fn could_keep(&self, messages: usize, bytes: usize, batch: &mut Batch) -> bool {
        let state = &mut self.state.lock();
        let fits = |state: &State| {
            state.backlog.len().saturating_add(messages) <= self.bounds.messages
                && state.bytes.saturating_add(bytes) <= self.bounds.bytes
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
            let (message, attempts) = (Arc::clone(&first.message), first.attempts);
            if message.is_expired(batch.now) {
                batch.count_dropped(DropReason::Expired, 1);
            } else if !state.hand_out(self, &message, attempts, batch) {
                break;
            }
            self.take_first(state);
        }
        self.waiting.store(state.backlog.len(), Ordering::Release);
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
                continue;
            }
            self.count_in(&mut state, entry.message.size());
            let waiting = Waiting {
                message: entry.message,
                attempts: entry.attempts,
            };
            state.backlog.push_front(waiting);
        }
        self.waiting.store(state.backlog.len(), Ordering::Release);
        self.drain_locked(&mut state, batch);
        Ok(())
    }

    /// Whether another message may wait; those that are too old make room.
    fn has_room(&self, state: &mut State, size: usize, batch: &mut Batch) -> bool {
        for at in 0..2 {
            let total = self.total.load(Ordering::Relaxed);
            let fits = state.backlog.len() < self.bounds.messages
                && state.bytes.saturating_add(size) <= self.bounds.bytes
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
        state.backlog.retain(|waiting| {
            let expired = waiting.message.is_expired(batch.now);
            if expired {
                bytes += waiting.message.size();
                count += 1;
            }
            !expired
        });
        state.bytes = state.bytes.saturating_sub(bytes);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
        batch.count_dropped(DropReason::Expired, count);
        self.waiting.store(state.backlog.len(), Ordering::Release);
    }

    fn count_in(&self, state: &mut State, size: usize) {
        state.bytes += size;
        self.total.fetch_add(size, Ordering::Relaxed);
    }

    fn take_first(&self, state: &mut State) -> Option<Waiting> {
        let first = state.backlog.pop_front()?;
        let size = first.message.size();
        state.bytes = state.bytes.saturating_sub(size);
        self.total.fetch_sub(size, Ordering::Relaxed);
        Some(first)
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
    fn hand_out(
        &mut self,
        group: &Arc<Group>,
        message: &Arc<Message>,
        attempts: u32,
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
            let taken = session.lock().offer(session, message, &terms, group, batch);
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
