//! What outlives a connection, in protocol-neutral terms.
//!
//! A [`Session`] holds a client's subscriptions, the messages that wait for it or are on their way
//! ([`Lane`]), its will, and, while it is connected, its [`Link`]. One lock guards it all: a
//! publisher takes it for the time of one delivery. Nothing is awaited under it.
//!
//! Lock order: a group's lock may be held when a session's is taken, never the other way round,
//! and never two sessions' at once.

mod accepted;
mod aside;
mod batch;
mod credentials;
mod delivery;
mod group;
mod lane;
mod link;
mod record;
mod route;
mod sending;
mod settlement;
mod spare;
mod spill;
mod subscriptions;

use std::sync::{Arc, OnceLock};

use bytestring::ByteString;
use parking_lot::{Mutex, MutexGuard};
use protocols::connection::{
    CloseReason, Lane as LaneChoice, Matched, Overlap, Position, SubscribeRequest, SubscriptionId,
};
use protocols::model::{QoS, Timestamp};
use tokio::sync::Notify;

pub use accepted::Accepted;
pub use batch::{Batch, Queue};
pub use delivery::{Offer, Outcome, Taken, Terms};
pub use group::{Group, GroupBounds, GroupName, TEMPORARY};
pub use lane::{Dropped, Entry, Lane, Share};
pub use link::{Carrier, Link, Origin, PATIENCE, WayBack, connection_id};
pub use record::Restart;
pub use route::{Plan, Route, SubRoute, Target};
pub use settlement::Settled;
pub use spare::Spare;
pub use spill::{Spill, Wish};
pub use subscriptions::Subscriptions;

use self::aside::Aside;
use crate::auth::Identity;
use crate::auth::access::Rights;
use crate::router::Cursor;
use crate::store::Store;

/// One client's state, with or without a connection.
#[derive(Debug)]
pub struct Session {
    /// Unique among all sessions of this process; see `Message::publisher`.
    pub number: u64,
    /// The client's name.
    pub client_id: ByteString,
    user: Option<Box<ByteString>>,
    /// Who its client is and what it may do.
    pub rights: Rights,
    /// Told when its outbox was emptied; made for the first publisher that waits for it.
    drained: OnceLock<Box<Notify>>,
    /// Where it is kept, if it outlives its connections.
    pub store: Option<Arc<dyn Store>>,
    /// Held by the connection that has the session while it carries out what it has read: who
    /// takes the session over waits for that, so that nothing of the old connection comes behind
    /// the new one. Taken before any other lock.
    pub turn: Mutex<()>,
    state: Mutex<State>,
}

/// Bounds of a session, the same for all.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages that may wait.
    pub queue_messages: usize,
    /// Bytes of messages that may wait.
    pub queue_bytes: usize,
    /// Whether a full queue drops its oldest message instead of the one that comes.
    pub drop_oldest: bool,
    /// Bytes of a stored queue's messages that are kept in memory; the others are on disk only.
    pub memory_bytes: usize,
    /// What stored queues may hold in memory beyond that, all together.
    pub spare_bytes: usize,
    /// Bytes in the outbox above which QoS 0 messages are dropped and others wait.
    pub outbox_bytes: usize,
    /// Bytes in the outbox above which the connection is given up.
    pub outbox_hard_bytes: usize,
}

/// The part of a session that its lock guards.
#[derive(Debug)]
pub struct State {
    /// The connection, while there is one. Not in a box: each delivery would have to look in one
    /// place more.
    pub link: Option<Link>,
    /// Who its client has proved to be, since the last login or renewal of this process. None for
    /// anonymous clients.
    pub identity: Option<Arc<Identity>>,
    /// Whether the session was ended and must not be used any more.
    pub ended: bool,
    /// What it has subscribed to.
    pub subscriptions: Subscriptions,
    /// Seconds that it outlives its connection.
    pub expiry_secs: u32,
    /// Its will, its deadlines, retained messages on their way.
    aside: Option<Box<Aside>>,
    /// What several matching subscriptions mean.
    pub overlap: Overlap,
    /// Packet identifiers of QoS 2 publishes that were accepted and not released.
    pub accepted: Accepted,
    /// Whether a subscription of its matches what its client must not get.
    pub guarded: bool,
    /// Messages before this one were queued when other rules were in force.
    trusted_from: Position,
    /// Whether a group had a message for it while its outbox was full.
    missed_offer: bool,
    /// The window of the session's own lane, which is made when it is needed.
    window: u16,
    lanes: Vec<Lane>,
    next_position: Position,
    next_subscription: u32,
    queued: usize,
    queued_bytes: usize,
    bounds: Arc<Bounds>,
}

/// One of a session's subscriptions.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its number.
    pub id: SubscriptionId,
    /// What the client asked for.
    pub request: SubscribeRequest,
    /// The group that it is a member of, if it is shared.
    pub group: Option<Arc<Group>>,
}

/// Retained messages on their way to a subscription, a batch at a time.
#[derive(Debug)]
pub struct RetainedWork {
    /// For which subscription.
    pub id: SubscriptionId,
    /// How it wants them.
    pub request: SubscribeRequest,
    /// Where to go on; `None` at the start.
    pub cursor: Option<Cursor>,
}

impl Session {
    /// A session without a connection.
    pub fn new(
        number: u64,
        client_id: ByteString,
        user: Option<ByteString>,
        bounds: Arc<Bounds>,
        store: Option<Arc<dyn Store>>,
    ) -> Self {
        let state = State {
            link: None,
            identity: None,
            ended: false,
            subscriptions: Subscriptions::default(),
            expiry_secs: 0,
            aside: None,
            overlap: Overlap::Merge,
            accepted: Accepted::default(),
            guarded: false,
            trusted_from: 0,
            missed_offer: false,
            window: 0,
            lanes: Vec::new(),
            next_position: 0,
            next_subscription: 0,
            queued: 0,
            queued_bytes: 0,
            bounds,
        };
        Self {
            number,
            client_id,
            user: user.map(Box::new),
            rights: Rights::default(),
            drained: OnceLock::new(),
            store,
            turn: Mutex::default(),
            state: Mutex::new(state),
        }
    }

    /// The user that it was recognised as.
    pub fn user(&self) -> Option<&ByteString> {
        self.user.as_deref()
    }

    /// The same, as text.
    pub fn user_name(&self) -> Option<&str> {
        self.user().map(|user| &**user)
    }

    /// Told when the outbox is emptied: for publishers that wait for a slow client.
    pub fn drained(&self) -> &Notify {
        self.drained.get_or_init(Box::default)
    }

    /// The outbox is empty.
    pub fn emptied(&self) {
        if let Some(drained) = self.drained.get() {
            drained.notify_waiters();
        }
    }

    /// Whether it survives a crash of the broker.
    pub fn is_stored(&self) -> bool {
        self.store.is_some()
    }

    /// Locks the state. Held for one step at a time, never across an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Runs a step on the link if the session still holds the connection `link`.
    pub fn with_link<R>(&self, link: u64, step: impl FnOnce(&mut Link) -> R) -> Option<R> {
        let mut state = self.lock();
        let held = state.link.as_mut();
        held.filter(|held| held.id == link).map(step)
    }
}

impl State {
    /// Gives the session a connection.
    pub fn attach(&mut self, link: Box<Link>) -> &mut Link {
        self.link.insert(*link)
    }

    /// Takes the connection away, if it is this one or any.
    pub fn detach(&mut self, link: Option<u64>) -> Option<Box<Link>> {
        if link.is_some_and(|id| self.link.as_ref().is_none_or(|held| held.id != id)) {
            return None;
        }
        for lane in &mut self.lanes {
            lane.reset();
        }
        // What an acknowledged subscription was promised outlives the connection, as its queue does.
        self.change_retained(|works| {
            works.retain(|work| work.request.durable && work.request.qos > QoS::AtMostOnce);
        });
        self.missed_offer = false;
        self.link.take().map(Box::new)
    }

    /// Ends the connection for a reason of the broker's and lets it go.
    pub fn dismiss(&mut self, reason: CloseReason) -> bool {
        match self.detach(None) {
            Some(mut link) => {
                link.close(reason);
                link.hand_back();
                true
            }
            None => false,
        }
    }

    /// The client's rights have changed: what waits is looked at again before it is sent. `guarded`
    /// says whether a subscription matches what it must not get. Returns what it would have got
    /// from a group.
    pub fn guard(&mut self, rights: &Rights, guarded: bool) -> Vec<Entry> {
        self.guarded = guarded;
        if !rights.is_restricted() {
            self.trusted_from = 0;
            return Vec::new();
        }
        self.trusted_from = self.next_position;
        let mut left = Vec::new();
        for lane in &mut self.lanes {
            left.extend(lane.take_waiting(|entry| {
                entry.group.is_some() && !rights.may_receive(&entry.message.topic)
            }));
        }
        self.forget(&left);
        left
    }

    /// Messages that wait or are open, and their bytes.
    pub fn queued(&self) -> (usize, usize) {
        (self.queued, self.queued_bytes)
    }

    /// Messages that were sent and wait for the client's acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.lanes.iter().map(Lane::open).sum()
    }

    /// Sets the window of the session's own lane, which is stored if the session is.
    pub fn set_window(&mut self, window: u16, stored: bool) {
        self.window = window;
        if stored {
            self.lane_mut(None, window, false).store();
        }
        if let Some(at) = self.lane_at(None) {
            self.lanes[at].window = window;
        }
    }

    /// Adds or replaces a subscription and says whether its key was there before.
    pub fn subscribe(
        &mut self,
        request: SubscribeRequest,
        group: Option<Arc<Group>>,
        stored: bool,
    ) -> (Subscription, Option<Subscription>) {
        let old = self.subscriptions.remove(&request.key);
        let id = match &old {
            Some(old) => old.id,
            None => {
                self.next_subscription += 1;
                SubscriptionId(self.next_subscription)
            }
        };
        if let LaneChoice::Own { in_flight } = request.lane {
            let lane = self.lane_mut(Some(id), in_flight, request.auto_settle);
            lane.window = in_flight;
            lane.auto_settle = request.auto_settle;
            if stored && request.durable {
                lane.store();
            }
        }
        let new = Subscription { id, request, group };
        self.subscriptions.insert(new.clone());
        (new, old)
    }

    /// Removes a subscription with its lane. Returns what the lane held, for its group.
    pub fn unsubscribe(&mut self, key: &str) -> Option<(Subscription, Vec<Entry>)> {
        let old = self.subscriptions.remove(key)?;
        self.change_retained(|works| works.retain(|work| work.id != old.id));
        let mut left = Vec::new();
        if let Some(at) = self
            .lanes
            .iter()
            .position(|lane| lane.owner == Some(old.id))
        {
            let mut lane = self.lanes.remove(at);
            self.forget_spilled(&lane);
            left.extend(lane.drain());
            self.forget(&left);
        }
        Some((old, left))
    }

    /// The client is away from now on and has `secs` to come back.
    pub fn end_after(&mut self, now: Timestamp, secs: u32) {
        self.set_ends_at(match secs {
            u32::MAX => Timestamp::NEVER,
            _ => now.plus_secs(secs),
        });
    }

    /// Ends the session: what it held is returned, for groups.
    pub fn end(&mut self) -> (Vec<Subscription>, Vec<Entry>) {
        self.ended = true;
        self.set_ends_at(Timestamp::NEVER);
        self.set_will_at(Timestamp::NEVER);
        let mut entries = Vec::new();
        for lane in &mut self.lanes {
            entries.extend(lane.drain());
        }
        self.lanes.clear();
        self.change_retained(Vec::clear);
        self.accepted = Accepted::default();
        self.queued = 0;
        self.queued_bytes = 0;
        let mut subscriptions = self.subscriptions.take();
        subscriptions.sort_by_key(|held| held.id);
        (subscriptions, entries)
    }

    fn lane_mut(&mut self, owner: Option<SubscriptionId>, window: u16, auto: bool) -> &mut Lane {
        let at = match self.lane_at(owner) {
            Some(at) => at,
            None => {
                // Most sessions have one at most.
                self.lanes.reserve_exact(1);
                self.lanes.push(Lane::new(owner, window, auto));
                self.lanes.len() - 1
            }
        };
        &mut self.lanes[at]
    }

    fn lane_at(&self, owner: Option<SubscriptionId>) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.owner == owner)
    }

    /// Whether a further message could be sent at once, in some lane.
    fn has_room(&self) -> bool {
        let own = self.window > 0 && self.lane_at(None).is_none();
        own || self.lanes.iter().any(Lane::has_room)
    }

    fn forget(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.queued = self.queued.saturating_sub(1);
            self.queued_bytes = self.queued_bytes.saturating_sub(entry.message.size());
        }
        if self.queued == 0 {
            // What was on disk only is known about, not to the byte.
            self.queued_bytes = 0;
        }
    }

    fn forget_spilled(&mut self, lane: &Lane) {
        self.queued = self.queued.saturating_sub(lane.spilled());
        self.queued_bytes = self.queued_bytes.saturating_sub(lane.spilled_bytes());
    }
}
