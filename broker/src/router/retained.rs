//! Retained messages: the last one of each topic, for those who subscribe later.
//!
//! Kept in the order of the topics' levels, which is also the order of delivery. A subscribe asks
//! for batches, so that a `#` over a hundred thousand messages holds the lock for a moment at a
//! time; what is set meanwhile behind the [`Cursor`] is in a later batch, and what is set before
//! it reaches the subscriber as a live message, as its subscription is already in the index.
//! Messages past their expiry are never handed out; they are removed when others are set and by
//! [`Retained::expire`]. Nothing here knows who may read or write what.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytestring::ByteString;
use parking_lot::RwLock;
use protocols::model::{Filter, Message, Timestamp, Topic};

use super::holders::{Held, Holders, Users};
use super::reverse::{Key, Verdict, Walk, key, topic};

/// Topics looked at in one batch.
const LOOKED_AT: usize = 512;

/// Messages past their expiry that are removed when one is set.
const EXPIRED_PER_SET: usize = 4;

/// Bytes that a message costs beside its own and twice its topic's, about.
const ENTRY_BYTES: usize = 64;

/// Bounds of the retained messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of all of them: topics, payloads, properties and what it takes to keep them.
    pub bytes: usize,
}

/// Why a message is not retained; the one before it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetainedFull {
    /// There are as many messages as are allowed.
    #[error("there are {max} retained messages, the most that is allowed")]
    Messages {
        /// Messages allowed.
        max: usize,
    },
    /// Together they would have more bytes than are allowed.
    #[error("the retained messages would have more than {max} bytes")]
    Bytes {
        /// Bytes allowed.
        max: usize,
    },
    /// Its publisher has as many messages as one user may have.
    #[error("this user has {max} retained messages, the most that one may have")]
    UserMessages {
        /// Messages of one user.
        max: usize,
    },
    /// Its publisher's messages would have more bytes than one user's may.
    #[error("this user's retained messages would have more than {max} bytes")]
    UserBytes {
        /// Bytes of one user's messages.
        max: usize,
    },
}

impl RetainedFull {
    /// The name of the bound, for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Messages { .. } => "retained_messages",
            Self::Bytes { .. } => "retained_size",
            Self::UserMessages { .. } => "retained_messages_per_user",
            Self::UserBytes { .. } => "retained_size_per_user",
        }
    }
}

/// Where a batch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(Key);

impl Cursor {
    /// To go on behind a message.
    pub fn behind(message: &Message) -> Self {
        Self::behind_topic(&message.topic)
    }

    /// To go on behind a topic.
    pub fn behind_topic(topic: &Topic) -> Self {
        Self(key(topic))
    }

    /// The topic that it is behind.
    pub fn topic(&self) -> Option<Topic> {
        topic(&self.0)
    }
}

/// Some of the messages that were asked for.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In the order of their topics. May be empty with more to come.
    pub messages: Vec<Arc<Message>>,
    /// Where to go on; `None` when there are no more.
    pub next: Option<Cursor>,
    /// Topics looked at, matching or not.
    pub looked_at: usize,
}

/// What is retained and has been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetainedStats {
    /// Messages, those past their expiry included until they are removed.
    pub messages: usize,
    /// Bytes that count against the limit.
    pub bytes: usize,
    /// Messages that have an expiry.
    pub expiring: usize,
    /// Messages removed past their expiry so far.
    pub expired: u64,
    /// Messages refused at a limit so far.
    pub refused: u64,
}

/// The retained messages, for many threads.
pub struct Retained {
    limits: RetainedLimits,
    /// Whether users have a bound.
    counts_users: bool,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    messages: BTreeMap<Key, Arc<Message>>,
    /// Those with an expiry, the next to expire first.
    expiries: BTreeSet<(Timestamp, Key)>,
    /// Who has how many, if that is bounded.
    holders: Option<Holders>,
    bytes: usize,
    expired: u64,
    refused: u64,
}

impl Default for RetainedLimits {
    fn default() -> Self {
        Self {
            messages: 1_000_000,
            bytes: 1024 * 1024 * 1024,
        }
    }
}

impl Retained {
    /// No messages yet.
    pub fn new(limits: RetainedLimits) -> Self {
        Self {
            limits,
            counts_users: false,
            inner: RwLock::default(),
        }
    }

    /// The same, with a bound for each user. To be called before the first message is kept.
    #[must_use]
    pub fn for_users(mut self, users: Users) -> Self {
        let holders = Holders::new(users);
        self.counts_users = holders.is_some();
        self.inner.get_mut().holders = holders;
        self
    }

    /// Whether users have a bound: then it matters who publishes.
    pub fn counts_users(&self) -> bool {
        self.counts_users
    }

    /// Keeps a message that was kept before the process started, whatever its publisher has by now.
    pub fn restore(&self, message: Arc<Message>, now: Timestamp) -> Result<(), RetainedFull> {
        let key = key(&message.topic);
        let mut inner = self.inner.write();
        if message.payload.is_empty() || message.is_expired(now) {
            return Ok(());
        }
        inner.check_total(&key, &message, self.limits)?;
        inner.remove(&key);
        inner.add(key, message);
        Ok(())
    }

    /// Keeps the message in place of its topic's last one, which is returned; one with an empty
    /// payload only removes that `[MQTT-3.3.1-5]` `[MQTT-3.3.1-6]`, and so does one already
    /// expired.
    ///
    /// The message's topic and payload should have memory of their own: a slice keeps all that
    /// it is a slice of.
    pub fn set(
        &self,
        message: Arc<Message>,
        now: Timestamp,
    ) -> Result<Option<Arc<Message>>, RetainedFull> {
        self.set_and(message, now, || {})
    }

    /// The same, with something to be done at the same moment: of two that set the same topic, the
    /// one that comes later does it later.
    pub fn set_and(
        &self,
        message: Arc<Message>,
        now: Timestamp,
        then: impl FnOnce(),
    ) -> Result<Option<Arc<Message>>, RetainedFull> {
        let key = key(&message.topic);
        let mut inner = self.inner.write();
        inner.expire(now, EXPIRED_PER_SET);
        if message.payload.is_empty() || message.is_expired(now) {
            then();
            return Ok(inner.remove(&key).filter(|last| !last.is_expired(now)));
        }
        while let Err(full) = inner.check(&key, &message, self.limits) {
            if inner.expire(now, 1) == 0 {
                inner.refused += 1;
                return Err(full);
            }
        }
        then();
        let last = inner.remove(&key);
        inner.add(key, message);
        Ok(last.filter(|last| !last.is_expired(now)))
    }

    /// Whether all these of one publisher could be kept together, each in place of its topic's last
    /// one.
    pub fn check<'a>(
        &self,
        messages: &(impl Iterator<Item = &'a Message> + Clone),
        now: Timestamp,
    ) -> Result<(), RetainedFull> {
        let mut inner = self.inner.write();
        loop {
            match inner.check_all(messages.clone(), self.limits) {
                Err(_) if inner.expire(now, EXPIRED_PER_SET) > 0 => {}
                checked => return checked,
            }
        }
    }

    /// Removes the topic's message and returns it.
    pub fn remove(&self, topic: &Topic) -> Option<Arc<Message>> {
        self.inner.write().remove(&key(topic))
    }

    /// The topic's message.
    pub fn message(&self, topic: &Topic, now: Timestamp) -> Option<Arc<Message>> {
        let inner = self.inner.read();
        let message = inner.messages.get(&key(topic))?;
        (!message.is_expired(now)).then(|| Arc::clone(message))
    }

    /// At most `limit` messages (at least one) whose topics match, behind `after`.
    ///
    /// Looks at no more than 512 topics, so a batch may be smaller, even empty, with more to
    /// come: it is the last one when its `next` is `None`. Topics that cannot match are leapt
    /// over; `$` topics are not for a leading wildcard `[MQTT-4.7.2-1]`.
    pub fn matching(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Batch {
        let walk = Walk::of(filter);
        let mut start = Vec::new();
        walk.start(&mut start);
        self.batch(&start, after, (limit, now), |key, leap| {
            walk.judge(key, leap)
        })
    }

    /// At most `limit` messages (at least one) behind `after`, `$` topics and all.
    pub fn list(&self, after: Option<&Cursor>, limit: usize, now: Timestamp) -> Batch {
        self.batch(&[], after, (limit, now), |_, _| Verdict::Match)
    }

    /// Removes up to `limit` messages past their expiry, the oldest first, and says how many.
    pub fn expire(&self, now: Timestamp, limit: usize) -> usize {
        self.inner.write().expire(now, limit)
    }

    /// What is retained and has been.
    pub fn stats(&self) -> RetainedStats {
        let inner = self.inner.read();
        RetainedStats {
            messages: inner.messages.len(),
            bytes: inner.bytes,
            expiring: inner.expiries.len(),
            expired: inner.expired,
            refused: inner.refused,
        }
    }

    fn batch(
        &self,
        start: &[u8],
        after: Option<&Cursor>,
        (limit, now): (usize, Timestamp),
        judge: impl Fn(&[u8], &mut Vec<u8>) -> Verdict,
    ) -> Batch {
        let inner = self.inner.read();
        let start = after.map_or(Bound::Included(start), |after| Bound::Excluded(&*after.0));
        let mut entries = inner.messages.range::<[u8], _>((start, Bound::Unbounded));
        let mut batch = Batch::default();
        let mut leap = Vec::new();
        while let Some((key, message)) = entries.next() {
            batch.looked_at += 1;
            match judge(key, &mut leap) {
                Verdict::Match if message.is_expired(now) => {}
                Verdict::Match => batch.messages.push(Arc::clone(message)),
                Verdict::End => break,
                Verdict::Leap => {
                    // The next one is often where the leap would lead to.
                    if entries.clone().next().is_some_and(|(key, _)| **key < *leap) {
                        let start = Bound::Included(&*leap);
                        entries = inner.messages.range::<[u8], _>((start, Bound::Unbounded));
                    }
                }
            }
            if batch.messages.len() >= limit.max(1) || batch.looked_at >= LOOKED_AT {
                batch.next = Some(Cursor(Arc::clone(key)));
                break;
            }
        }
        batch
    }
}

impl Inner {
    /// Whether the message may take the place of its topic's last one.
    fn check(
        &mut self,
        key: &Key,
        message: &Message,
        limits: RetainedLimits,
    ) -> Result<(), RetainedFull> {
        self.check_total(key, message, limits)?;
        match &mut self.holders {
            Some(holders) => {
                let last = self.messages.get(key).map(|last| &**last);
                holders.check_one(message, last, cost)
            }
            None => Ok(()),
        }
    }

    fn check_total(
        &self,
        key: &Key,
        message: &Message,
        limits: RetainedLimits,
    ) -> Result<(), RetainedFull> {
        let last = self.messages.get(key);
        if last.is_none() && self.messages.len() >= limits.messages {
            return Err(RetainedFull::Messages {
                max: limits.messages,
            });
        }
        let freed = last.map_or(0, |last| cost(last));
        if self.bytes - freed + cost(message) > limits.bytes {
            return Err(RetainedFull::Bytes { max: limits.bytes });
        }
        Ok(())
    }

    fn check_all<'a>(
        &mut self,
        messages: impl Iterator<Item = &'a Message>,
        limits: RetainedLimits,
    ) -> Result<(), RetainedFull> {
        let (mut count, mut bytes) = (self.messages.len(), self.bytes);
        let mut seen = BTreeSet::new();
        // Of the publisher, who is the same for all.
        let mut own: Option<(ByteString, Held)> = None;
        for message in messages.filter(|message| !message.payload.is_empty()) {
            let key = key(&message.topic);
            if let Some(holders) = &mut self.holders
                && own.is_none()
                && let Some(user) = holders.user(message)
            {
                let held = holders.held(&user);
                own = Some((user, held));
            }
            let last = self.messages.get(&key);
            let is_new = seen.insert(key);
            match last {
                Some(last) if is_new => bytes -= cost(last),
                Some(_) => {}
                None => count += usize::from(is_new),
            }
            if let (Some(holders), Some((user, held))) = (&mut self.holders, &mut own) {
                if let Some(last) = last.filter(|_| is_new)
                    && holders.user(last).as_ref() == Some(user)
                {
                    held.take(cost(last));
                }
                held.add(cost(message));
                held.messages -= usize::from(!is_new);
            }
            bytes += cost(message);
        }
        if let (Some(holders), Some((_, held))) = (&self.holders, own) {
            holders.check(held)?;
        }
        if count > limits.messages {
            return Err(RetainedFull::Messages {
                max: limits.messages,
            });
        }
        if bytes > limits.bytes {
            return Err(RetainedFull::Bytes { max: limits.bytes });
        }
        Ok(())
    }

    fn add(&mut self, key: Key, message: Arc<Message>) {
        self.bytes += cost(&message);
        if let Some(holders) = &mut self.holders {
            holders.add(&message, cost(&message));
        }
        if let Some(at) = message.expires_at {
            self.expiries.insert((at, Arc::clone(&key)));
        }
        self.messages.insert(key, message);
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Message>> {
        let message = self.messages.remove(key)?;
        self.bytes -= cost(&message);
        if let Some(holders) = &mut self.holders {
            holders.remove(&message, cost(&message));
        }
        if let Some(at) = message.expires_at {
            self.expiries.remove(&(at, Arc::clone(key)));
        }
        Some(message)
    }

    fn expire(&mut self, now: Timestamp, limit: usize) -> usize {
        let mut count = 0;
        while count < limit
            && let Some((at, key)) = self.expiries.first()
            && *at <= now
        {
            let key = Arc::clone(key);
            self.remove(&key);
            self.expired += 1;
            count += 1;
        }
        count
    }
}

fn cost(message: &Message) -> usize {
    message.size() + message.topic.as_str().len() + ENTRY_BYTES
}

#[cfg(test)]
#[path = "retained_tests.rs"]
mod tests;
