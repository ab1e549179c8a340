//! The sessions, by name and by age.
//!
//! A session is found under its own client identifier, which it holds itself: with 100,000 idle
//! clients a second copy of the key would be a tenth of what they cost. Locked for the time of one
//! look; no session is locked meanwhile.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use dashmap::DashSet;
use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::session::Session;

/// See the module.
#[derive(Default)]
pub(super) struct Directory {
    by_name: DashSet<Named, RandomState>,
    /// To be gone through a part at a time.
    by_age: Mutex<BTreeMap<u64, Arc<Session>>>,
}

/// A session that is compared by its client identifier.
struct Named(Arc<Session>);

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        &self.0.client_id
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (*self.0.client_id).hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.client_id == other.0.client_id
    }
}

impl Eq for Named {}

impl Directory {
    /// The session of a client.
    pub(super) fn get(&self, client_id: &str) -> Option<Arc<Session>> {
        self.by_name.get(client_id).map(|held| Arc::clone(&held.0))
    }

    /// Whether a client has a session.
    pub(super) fn contains(&self, client_id: &str) -> bool {
        self.by_name.contains(client_id)
    }

    /// Sessions.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Adds a session, in the place of one of the same name.
    pub(super) fn insert(&self, session: &Arc<Session>) {
        let named = Named(Arc::clone(session));
        if !self.by_name.insert(named) {
            // A set keeps the one that it has.
            self.by_name.remove(&*session.client_id);
            self.by_name.insert(Named(Arc::clone(session)));
        }
        let mut by_age = self.by_age.lock();
        by_age.insert(session.number, Arc::clone(session));
    }

    /// Removes a session, but not another one that has its name now.
    pub(super) fn remove(&self, session: &Arc<Session>) {
        let is_it = |held: &Named| Arc::ptr_eq(&held.0, session);
        self.by_name.remove_if(&*session.client_id, is_it);
        self.by_age.lock().remove(&session.number);
    }

    /// All sessions, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.by_age.lock().values().map(Arc::clone).collect()
    }

    /// Up to `limit` sessions with numbers above `after`, and whether there are more.
    pub(super) fn page(&self, after: u64, limit: usize) -> (Vec<Arc<Session>>, bool) {
        let by_age = self.by_age.lock();
        let mut rest = by_age.range((Bound::Excluded(after), Bound::Unbounded));
        let rows = rest.by_ref().take(limit);
        let rows = rows.map(|(_, session)| Arc::clone(session)).collect();
        (rows, rest.next().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Bounds;

    fn session(number: u64, name: &'static str) -> Arc<Session> {
        let bounds = Bounds {
            queue_messages: 1,
            queue_bytes: 1,
            drop_oldest: false,
            memory_bytes: 1,
            spare_bytes: 0,
            outbox_bytes: 1,
            outbox_hard_bytes: 1,
        };
        let session = Session::new(number, name.into(), None, Arc::new(bounds), None);
        Arc::new(session)
    }

    #[test]
    fn the_later_of_one_name_is_found_and_outlives_the_removal_of_the_earlier() {
        let directory = Directory::default();
        let (old, new) = (session(1, "a"), session(2, "a"));
        directory.insert(&old);
        directory.insert(&new);
        directory.remove(&old);
        let found = directory.get("a").map(|held| held.number);
        assert_eq!((found, directory.len()), (Some(2), 1));
        directory.remove(&new);
        assert!(directory.get("a").is_none() && !directory.contains("a"));
        assert!(directory.all().is_empty());
    }

    #[test]
    fn pages_go_by_age_and_say_whether_there_is_more() {
        let directory = Directory::default();
        for (number, name) in [(3, "c"), (1, "b"), (2, "a")] {
            directory.insert(&session(number, name));
        }
        let page = |after, limit| {
            let (rows, more) = directory.page(after, limit);
            let numbers: Vec<u64> = rows.iter().map(|session| session.number).collect();
            (numbers, more)
        };
        assert_eq!(page(0, 2), (vec![1, 2], true));
        assert_eq!(page(2, 2), (vec![3], false));
    }
}
