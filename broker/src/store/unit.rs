//! What the broker writes down: units of operations that are on disk together or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytestring::ByteString;
use protocols::connection::{Position, SubscriptionId};
use protocols::model::{Message, QoS, Timestamp};
use smallvec::SmallVec;

use super::{GroupRecord, SessionRecord, SubscriptionRecord};

/// Number of a unit in the journal: grows by one a unit, never used twice in a store's life. The
/// first is 1.
pub type Seq = u64;

/// Names a queue of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    /// The session's number, or the group's: both come from one counter.
    pub owner: u64,
    /// 0 for a session's own lane and for a group; otherwise the number of the subscription that
    /// has a lane of its own.
    pub lane: u32,
}

/// A queue that gets a message, and how it is to be delivered from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Which queue.
    pub queue: QueueId,
    /// Its position there: names the entry in its queue and says where it stands. Given by the hub,
    /// nearly always in growing order; never twice at the same time.
    pub position: Position,
    /// The level to deliver with.
    pub qos: QoS,
    /// The retain flag to show.
    pub retain: bool,
    /// How often it was sent before.
    pub attempts: u32,
    /// The subscriptions that it comes from; none in a group.
    pub matched: SmallVec<[SubscriptionId; 1]>,
    /// The group that a session has it from: its number, and the position that it had there.
    pub group: Option<(u64, Position)>,
}

/// One effect.
#[derive(Clone, Debug)]
pub enum Op {
    /// A message for one or more queues. Its body is stored once.
    Message {
        /// The message.
        message: Arc<Message>,
        /// Who gets it; at least one.
        receivers: Vec<Receiver>,
    },
    /// An entry is done with: delivered, dropped or given up.
    Done {
        /// Of which queue.
        queue: QueueId,
        /// Which.
        position: Position,
    },
    /// The client has an entry's message and must not get it again (PUBREC).
    Received {
        /// Of which queue.
        queue: QueueId,
        /// Which.
        position: Position,
    },
    /// An entry goes from one queue to another: a group hands it out or gets it back.
    Move {
        /// From which queue.
        from: QueueId,
        /// Which.
        position: Position,
        /// To where.
        to: Receiver,
    },
    /// A session, new or changed.
    Session(Box<SessionRecord>),
    /// A session ended, with its subscriptions, queues and packet identifiers.
    SessionEnd {
        /// Whose number was.
        number: u64,
    },
    /// A subscription of a session, new or changed.
    Subscription {
        /// The session.
        number: u64,
        /// The subscription.
        record: Box<SubscriptionRecord>,
    },
    /// A subscription ended, with its own lane if it had one.
    SubscriptionEnd {
        /// The session.
        number: u64,
        /// The subscription.
        id: SubscriptionId,
    },
    /// A QoS 2 publish of a session was accepted and not released yet.
    Accepted {
        /// The session.
        number: u64,
        /// The publish's packet identifier.
        packet_id: u16,
    },
    /// It was released.
    Released {
        /// The session.
        number: u64,
        /// The publish's packet identifier.
        packet_id: u16,
    },
    /// A `$share` group or queue whose messages are kept.
    Group {
        /// Its number.
        number: u64,
        /// What it is.
        record: GroupRecord,
    },
    /// A group was forgotten, with its queue.
    GroupEnd {
        /// Its number.
        number: u64,
    },
    /// The retained message of its topic.
    Retain {
        /// The message.
        message: Arc<Message>,
    },
    /// A topic has no retained message any more.
    Unretain {
        /// The topic.
        topic: ByteString,
    },
    /// An idempotency key and the answer that was given.
    Key {
        /// The key.
        key: ByteString,
        /// The answer: number of receivers.
        answer: u32,
        /// Until when it is remembered.
        until: Timestamp,
    },
}

/// Says whether a unit is on disk, to those who wait for it.
#[derive(Debug, Default)]
pub struct Ticket {
    seq: AtomicU64,
    durable: AtomicBool,
}

/// Someone who can go on when a unit is on disk. Called from the store's own thread: it must
/// be short and take no lock that is held for long.
pub trait Committed: Send + Sync {
    /// Units that concern it are on disk.
    fn committed(self: Arc<Self>);
}

/// Those who are told of a unit; one is usual.
pub type Waiting = SmallVec<[Arc<dyn Committed>; 1]>;

/// Operations that are on disk together or not at all.
#[derive(Default)]
pub struct Unit {
    /// What happens, in order.
    pub ops: SmallVec<[Op; 2]>,
    /// Filled in by the store.
    pub ticket: Arc<Ticket>,
    /// Told once when the unit is on disk.
    pub waiting: Waiting,
}

impl Ticket {
    /// The unit's number; `None` while it is not handed to the store.
    pub fn seq(&self) -> Option<Seq> {
        match self.seq.load(Ordering::Acquire) {
            0 => None,
            seq => Some(seq),
        }
    }

    /// Whether the unit is on disk.
    #[inline]
    pub fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    /// The store has taken the unit.
    pub(super) fn taken(&self, seq: Seq) {
        self.seq.store(seq, Ordering::Release);
    }

    /// The unit is on disk.
    pub(super) fn written(&self) {
        self.durable.store(true, Ordering::Release);
    }
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unit")
            .field("ops", &self.ops)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Unit {
    /// Whether nothing happens.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Adds a receiver of a message. Receivers of the same message that come one after the other
    /// share its body.
    pub fn deliver(&mut self, message: &Arc<Message>, receiver: Receiver) {
        if let Some(Op::Message {
            message: last,
            receivers,
        }) = self.ops.last_mut()
            && Arc::ptr_eq(last, message)
        {
            receivers.push(receiver);
            return;
        }
        self.ops.push(Op::Message {
            message: Arc::clone(message),
            receivers: vec![receiver],
        });
    }
}
