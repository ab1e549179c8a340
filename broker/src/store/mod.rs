//! Durable state: what must survive any crash, behind one narrow trait.
//!
//! The hub hands over [`Unit`]s: operations that are on disk together or not at all. Each gets a
//! number ([`Seq`]), and is durable when all units up to it are. Answers that promise something wait
//! for that ([`Store::wake_at`]); nothing here knows protocols, sessions or sockets.
//!
//! Queues hold entries in order; memory keeps where each is, not the messages, which are read
//! back when they are needed ([`Store::load`]).

mod codec;
mod index;
mod journal;
#[cfg(test)]
pub(crate) mod memory;
mod records;
mod unit;

use std::fmt::Debug;
use std::sync::Arc;
use std::task::Waker;

use protocols::connection::{Position, SubscriptionId};
use protocols::model::{Message, QoS};
use smallvec::SmallVec;

#[cfg(test)]
pub(crate) use codec::arbitrary;
pub use journal::{
    Damage, Durability, FLUSH_BUCKETS_BYTES, FLUSH_BUCKETS_US, Inspection, Journal, JournalConfig,
    JournalStats, OnFailure, OpenError, inspect,
};
pub use records::{GroupRecord, RetainedProgress, SessionRecord, SubscriptionRecord, WillRecord};
pub use unit::{Committed, Op, QueueId, Receiver, Seq, Ticket, Unit, Waiting};

/// When a unit should be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Within a tenth of a second, or with the next one that someone waits for.
    Later,
    /// As soon as the disk is free: somebody waits.
    Now,
}

/// A place where units are kept. Methods never wait for the disk.
pub trait Store: Send + Sync + Debug {
    /// Takes a unit and returns its number. The unit's ticket is filled in when this returns.
    fn append(&self, unit: Unit, urgency: Urgency) -> Seq;

    /// The last number that was given to a unit; 0 before the first.
    fn taken(&self) -> Seq;

    /// All units up to this one are durable.
    fn durable(&self) -> Seq;

    /// Wakes a task once the unit is durable, at once if it is.
    fn wake_at(&self, seq: Seq, waker: &Waker);

    /// Whether so much waits to be written that publishers should not be read from for now.
    fn is_pressed(&self) -> bool;

    /// Whether messages may be stored: `Err` while the disk is full or the bound is reached.
    /// Other units are taken in any case.
    fn room(&self) -> Result<(), Full>;

    /// Reads durable entries of a queue, in order, and hands them over from another thread.
    fn load(&self, load: Load);

    /// Takes the first durable entry behind `after` out of a queue, to make room. Returns its
    /// position and the size of its message, as [`Message::size`] counts it.
    ///
    /// It is out of the queue at once, and the store writes down by itself that it is done with.
    /// `after` must lie behind all entries that units which are not durable yet take out or move.
    fn drop_first(&self, queue: QueueId, after: Option<Position>) -> Option<(Position, usize)>;

    /// What the store counts about itself, if it does.
    fn stats(&self) -> Option<JournalStats> {
        None
    }

    /// Writes all that was taken and closes the store in good order. Waits for the disk.
    fn close(&self);
}

/// Why messages cannot be stored at present.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The file system has no space.
    #[error("the disk is full")]
    Disk,
    /// The configured bound is reached.
    #[error("the store has reached its bound of {max} bytes (limits.store_size)")]
    Bound {
        /// The bound in bytes.
        max: u64,
    },
}

/// A wish to read from a queue.
pub struct Load {
    /// Which queue.
    pub queue: QueueId,
    /// Behind which position; `None` from the start.
    pub after: Option<Position>,
    /// Only positions below this one; `None` to the end. All below it are durable or gone.
    pub before: Option<Position>,
    /// At most so many messages, at least one.
    pub messages: usize,
    /// About so many bytes of them; one is read in any case.
    pub bytes: usize,
    /// Whether all units taken before this wish must have had their effect first: a queue that is
    /// read from its start again must not show what was done with a moment ago.
    pub settled: bool,
    /// Gets the answer.
    pub then: Box<dyn FnOnce(Loaded) + Send>,
}

/// What was read from a queue.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In order.
    pub entries: Vec<LoadedEntry>,
    /// Whether there are more durable entries in what was asked for.
    pub more: bool,
    /// Entries that could not be read any more. They were removed, counted and reported.
    pub lost: usize,
}

/// An entry of a queue with its message.
#[derive(Clone, Debug)]
pub struct LoadedEntry {
    /// Which.
    pub position: Position,
    /// The message.
    pub message: Arc<Message>,
    /// The level to deliver with.
    pub qos: QoS,
    /// The retain flag to show.
    pub retain: bool,
    /// How often it was sent before.
    pub attempts: u32,
    /// Whether the client has it already (PUBREC).
    pub received: bool,
    /// The subscriptions that it comes from.
    pub matched: SmallVec<[SubscriptionId; 1]>,
    /// The group that it was taken from, with the position that it had there.
    pub group: Option<(u64, Position)>,
}

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Sessions, by number.
    pub sessions: Vec<RecoveredSession>,
    /// Groups, by number.
    pub groups: Vec<RecoveredGroup>,
    /// Retained messages, in no order.
    pub retained: Vec<Arc<Message>>,
    /// Idempotency keys with their answers, by the time until which they are remembered.
    pub keys: Vec<(protocols::model::Timestamp, bytestring::ByteString, u32)>,
    /// A number above all that sessions and groups of this store ever had.
    pub next_number: u64,
}

/// A session that was stored.
#[derive(Debug)]
pub struct RecoveredSession {
    /// The session.
    pub record: SessionRecord,
    /// Its subscriptions, by number.
    pub subscriptions: Vec<SubscriptionRecord>,
    /// Packet identifiers of QoS 2 publishes that were not released.
    pub accepted: Vec<u16>,
    /// Its queues that hold something.
    pub queues: Vec<RecoveredQueue>,
}

/// A group that was stored.
#[derive(Debug)]
pub struct RecoveredGroup {
    /// Its number.
    pub number: u64,
    /// What it is.
    pub record: GroupRecord,
    /// Its queue.
    pub queue: RecoveredQueue,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveredQueue {
    /// 0, or the subscription's number.
    pub lane: u32,
    /// Messages.
    pub messages: usize,
    /// Their bytes as [`Message::size`] counts them, about.
    pub bytes: usize,
    /// The greatest position; of a group, also of messages that sessions have from it
    /// ([`Receiver::group`]).
    pub last_position: Position,
    /// Whether some of them came from a group.
    pub from_group: bool,
}
