//! The hub: carries out what clients ask.
//!
//! All protocols meet here. The hub knows messages, sessions and groups; it knows no bytes and no
//! sockets, does no I/O and awaits nothing. A connection's task calls it with a [`Batch`] that
//! collects what is put off until the end of what was read.

mod access;
mod banned;
mod connect;
mod directory;
mod drain;
mod durable;
mod idempotency;
mod leave;
mod listing;
mod outside;
mod publish;
mod quotas;
mod revoke;
mod subscribe;
mod system;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use protocols::connection::{Position, Settle};
use protocols::model::Timestamp;
use tokio::sync::Notify;

use crate::auth::access::Access;
use crate::guard::Guard;
use crate::router::{Retained, Router};
use crate::session::{
    Batch, Bounds, Entry, Group, GroupBounds, GroupName, Plan, Route, Session, Spare,
};
use crate::store::Store;
use crate::telemetry::{Drop as DropReason, Metrics, Spans, trace};
use directory::Directory;
use idempotency::Window;
pub use listing::{KnownTopics, Receiver};
pub use outside::{Page, PublishedRetained};
use quotas::Quotas;

/// Number of locks that names are spread over; what has one name shares one lock.
const LOCKS: usize = 64;

/// Bounds of the hub, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct HubBounds {
    /// Of each session that ends with its connection or with the broker.
    pub session: Bounds,
    /// Of each session that survives a crash.
    pub stored_session: Bounds,
    /// Of each group and queue.
    pub group: GroupBounds,
    /// Groups and queues in all.
    pub groups: usize,
    /// Subscriptions of one session.
    pub subscriptions: usize,
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions of one user that outlive their connections; 0 for no bound.
    pub sessions_per_user: usize,
    /// Whether retained messages are kept.
    pub retain_available: bool,
    /// Idempotency keys remembered.
    pub idempotency_keys: usize,
    /// How long an idempotency key is remembered, in milliseconds.
    pub idempotency_ms: u64,
}

/// Everything that clients share.
pub struct Hub {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What clients may do.
    pub access: Access,
    /// Who is kept out.
    pub guard: Guard,
    /// Spans of what is published.
    pub spans: Spans,
    bounds: ArcSwap<Shared>,
    router: Router<RouteKey, Route, Plan>,
    retained: Retained,
    /// Where durable state is kept, if it is.
    store: Option<Arc<dyn Store>>,
    /// Itself, for what is read from the disk and comes back later.
    me: Weak<Hub>,
    sessions: Directory,
    quotas: Quotas,
    /// The session that a connection belongs to, by the connection's number.
    connections: DashMap<u64, Arc<Session>, RandomState>,
    groups: Mutex<Groups>,
    /// Bytes that wait in all groups.
    backlog_bytes: Arc<AtomicUsize>,
    deadlines: Mutex<BTreeMap<(Timestamp, u64), Arc<Session>>>,
    /// Told when the first deadline ([`Hub::until_due`]) is now an earlier one.
    pub earlier: Notify,
    idempotency: Mutex<Window>,
    /// Held while a client comes, goes or ends, by [`stripe`] of its identifier.
    logins: [Mutex<()>; LOCKS],
    /// Held while something is published with an idempotency key, by [`stripe`] of the key.
    keys: [Mutex<()>; LOCKS],
    numbers: AtomicU64,
    stopping: AtomicBool,
    /// Whether a session can be taken over by its own user only.
    owned: AtomicBool,
    /// Whether somebody has subscribed to what the broker says about itself since that was said.
    system_wanted: AtomicBool,
}

/// The bounds, those of sessions in the form in which all of them share them.
struct Shared {
    all: HubBounds,
    session: Arc<Bounds>,
    stored_session: Arc<Bounds>,
}

impl Shared {
    fn new(all: HubBounds) -> Self {
        Self {
            session: Arc::new(all.session),
            stored_session: Arc::new(all.stored_session),
            all,
        }
    }
}

impl std::ops::Deref for Shared {
    type Target = HubBounds;

    fn deref(&self) -> &HubBounds {
        &self.all
    }
}

/// The groups, by what they are and, as the store knows them, by number.
#[derive(Default)]
struct Groups {
    by_name: HashMap<GroupName, Arc<Group>>,
    by_number: HashMap<u64, Arc<Group>>,
}

/// What names a subscription in the index: session and subscription, or 0 and the group's number.
pub type RouteKey = (u64, u64);

impl Hub {
    /// Bytes that wait for a client above which its connection is given up.
    pub fn outbox_hard_bytes(&self) -> usize {
        self.bounds.load().session.outbox_hard_bytes
    }

    /// A hub without clients. With a store, what must survive a crash is kept there.
    pub fn new(
        bounds: HubBounds,
        router: Router<RouteKey, Route, Plan>,
        retained: Retained,
        metrics: Arc<Metrics>,
        store: Option<Arc<dyn Store>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            metrics,
            access: Access::default(),
            guard: Guard::default(),
            spans: Spans::default(),
            store,
            me: Weak::clone(me),
            bounds: ArcSwap::from_pointee(Shared::new(bounds)),
            router,
            retained,
            sessions: Directory::default(),
            quotas: Quotas::default(),
            connections: DashMap::default(),
            groups: Mutex::default(),
            backlog_bytes: Arc::default(),
            deadlines: Mutex::default(),
            earlier: Notify::new(),
            idempotency: Mutex::new(Window::new(bounds.idempotency_keys, bounds.idempotency_ms)),
            logins: std::array::from_fn(|_| Mutex::new(())),
            keys: std::array::from_fn(|_| Mutex::new(())),
            numbers: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            owned: AtomicBool::new(false),
            system_wanted: AtomicBool::new(false),
        })
    }

    /// The session of a client, if there is one.
    pub fn session(&self, client_id: &str) -> Option<Arc<Session>> {
        self.sessions.get(client_id)
    }

    /// Sessions, connected or not.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Sets the gauges that are counted elsewhere; to be called before a scrape.
    pub fn gauge(&self) {
        self.metrics.sessions.set(self.sessions.len());
        self.metrics.sessions_connected.set(self.connections.len());
        let retained = self.retained.stats();
        self.metrics.retained_messages.set(retained.messages);
        self.metrics.retained_bytes.set(retained.bytes);
        self.metrics.groups.set(self.groups.lock().by_name.len());
        let keys = self.idempotency.lock().len();
        self.metrics.idempotency_keys.set(keys);
        self.metrics
            .stored_queues_memory
            .set(Spare::of_process().lent());
        let routes = self.router.stats();
        self.metrics.route_cache_topics.set(routes.cached_topics);
    }

    /// Carries out a settlement. `true` if a message was open under its position. `asked` says
    /// whether the client waits for the answer.
    pub fn settle(
        &self,
        session: &Arc<Session>,
        settle: Settle,
        asked: bool,
        batch: &mut Batch,
    ) -> bool {
        if trace::is_on() {
            let more = serde_json::json!({"what": format!("{settle:?}")});
            trace::client("settled", &session.client_id, more);
        }
        let settled = session.lock().settle(session, settle, batch);
        self.give_back(session, settled.returned, batch);
        if asked {
            batch.hurry();
        }
        if settled.more_retained {
            self.send_retained(session, batch);
        }
        self.commit_batch(batch);
        if !settled.found && session.is_stored() {
            // It may have been settled a moment ago, and not be on disk yet.
            self.promise_all(batch);
        }
        settled.found
    }

    /// Carries out settlements that nobody waits for, each of one message that is done with.
    pub fn settle_all(&self, session: &Arc<Session>, done: &[Position], batch: &mut Batch) {
        if trace::is_on() {
            let more = serde_json::json!({"messages": done.len()});
            trace::client("acknowledged", &session.client_id, more);
        }
        let more_retained = session.lock().settle_all(session, done, batch);
        if more_retained {
            self.send_retained(session, batch);
        }
        self.commit_batch(batch);
    }

    /// Sends what became possible because the client has read: lanes, groups, retained messages.
    pub fn pump(&self, session: &Arc<Session>, batch: &mut Batch) {
        session.lock().pump(session, batch);
        self.send_retained(session, batch);
        self.commit_batch(batch);
    }

    /// Uses other bounds from now on: for new sessions, groups and subscriptions.
    pub fn set_bounds(&self, bounds: HubBounds) {
        self.bounds.store(Arc::new(Shared::new(bounds)));
    }

    /// Whether users are known to be who they are: then a session is its own user's alone.
    pub fn set_owned(&self, owned: bool) {
        self.owned.store(owned, Ordering::Release);
    }

    /// Hands messages of a session back to the groups that they came from; others are dropped.
    fn give_back(&self, session: &Arc<Session>, entries: Vec<Entry>, batch: &mut Batch) {
        // Those that are no group's are gone.
        for entry in entries.iter().filter(|entry| entry.group.is_none()) {
            entry.done(session, batch);
        }
        let mut rest = entries;
        while let Some(group) = rest.iter().find_map(group_of) {
            let (mine, others) = rest.into_iter().partition(|entry| {
                let share = entry.group.as_ref();
                share.is_some_and(|share| Arc::ptr_eq(&share.group, &group))
            });
            rest = others;
            self.give_back_to(group, session, mine, batch);
        }
    }

    /// A queue is made again if it was forgotten while a client that had unsubscribed from it
    /// still held its messages.
    fn give_back_to(
        &self,
        mut group: Arc<Group>,
        session: &Arc<Session>,
        mut entries: Vec<Entry>,
        batch: &mut Batch,
    ) {
        while let Err(returned) = group.give_back(session, entries, batch) {
            let again = if group.is_passing() {
                None
            } else {
                self.group(group.name.clone()).ok()
            };
            let Some(again) = again else {
                batch.count_dropped(DropReason::SessionEnded, returned.len() as u64);
                for entry in &returned {
                    entry.done(session, batch);
                }
                return;
            };
            (group, entries) = (again, returned);
        }
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

fn group_of(entry: &Entry) -> Option<Arc<Group>> {
    entry.group.as_ref().map(|share| Arc::clone(&share.group))
}

/// Which of the locks a name has.
fn stripe(name: &str) -> usize {
    let mut hasher = foldhash::fast::FixedState::with_seed(0).build_hasher();
    hasher.write(name.as_bytes());
    usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests;
