//! The state that is kept by name: sessions, subscriptions and groups as they are stored.

use std::sync::Arc;

use bytestring::ByteString;
use protocols::connection::{Overlap, Position, SubscribeRequest, SubscriptionId};
use protocols::model::{Filter, Message, Timestamp, Topic};

/// A session, without its subscriptions and queues.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// Its number: never used for another session of this store.
    pub number: u64,
    /// The client's name.
    pub client_id: ByteString,
    /// The user that it was recognised as.
    pub user: Option<ByteString>,
    /// Seconds that it outlives its connection; [`u32::MAX`] is for ever.
    pub expiry_secs: u32,
    /// Whether it had a connection when this was written.
    pub connected: bool,
    /// When it ends, while it has no connection.
    pub ends_at: Option<Timestamp>,
    /// When the will is due, while the client is away.
    pub will_at: Option<Timestamp>,
    /// What to publish if the client does not come back.
    pub will: Option<WillRecord>,
    /// What several matching subscriptions mean.
    pub overlap: Overlap,
    /// The in-flight window of its own lane.
    pub window: u16,
    /// The next position to be given; entries in its queues may be beyond it.
    pub next_position: Position,
    /// The next subscription number to be given; subscriptions may be beyond it.
    pub next_subscription: u32,
    /// The greatest position that was sent, by lane; known when the connection ended in good order.
    pub sent: Vec<(u32, Position)>,
    /// Who its client proved to be, in the words of `auth::stored`.
    pub who: Option<ByteString>,
}

/// A will as it is stored.
#[derive(Clone, Debug)]
pub struct WillRecord {
    /// What to publish.
    pub message: Arc<Message>,
    /// Seconds to wait for the client to come back.
    pub delay_secs: u32,
    /// Message expiry in seconds, from the moment of publishing.
    pub expiry_secs: Option<u32>,
}

/// A subscription of a session.
#[derive(Clone, Debug)]
pub struct SubscriptionRecord {
    /// Its number in the session.
    pub id: SubscriptionId,
    /// What the client asked for.
    pub request: SubscribeRequest,
    /// Retained messages that are still to be sent.
    pub retained: RetainedProgress,
}

/// How far a subscription's retained messages were queued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RetainedProgress {
    /// All were, or none are wanted.
    #[default]
    Done,
    /// None yet.
    Wanted,
    /// Those up to and including this topic.
    Behind(Topic),
}

/// A group whose messages are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The share name; `None` for a queue.
    pub share: Option<ByteString>,
    /// What it matches.
    pub filter: Filter,
}
