//! A session's permissions, with the verdicts of its last topics.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use protocols::model::Topic;

use super::{Action, Permissions, Verdict};
use crate::auth::{Identity, Method, stored};

/// Verdicts that a session remembers.
const VERDICTS: usize = 8;

/// Bytes of a topic whose verdict is remembered, at most.
const TOPIC_BYTES: usize = 128;

/// Who a client is and what it may do, by one version of the rules.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Who it is.
    pub who: Arc<Identity>,
    /// What it speaks.
    pub protocol: &'static str,
    /// [`super::Access::version`] when that was found out.
    pub version: u64,
    /// What it may do; `None` for everything.
    pub permissions: Option<Arc<Permissions>>,
}

/// See the module. Its lock is the innermost of all and held for one question.
#[derive(Debug, Default)]
pub struct Rights {
    /// Held while the standing changes and what follows from that is carried out, so that the
    /// last change has the last word. Taken before the locks of groups and sessions.
    pub changing: Mutex<()>,
    /// Whether there is something that it may not do: without, nothing else is looked at.
    restricted: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Shared by all of whom nothing is known, and in one place for the others.
    standing: Option<Arc<Standing>>,
    /// What follows from the standing, once it was asked for.
    known: Option<Box<Conclusions>>,
}

#[derive(Debug, Default)]
struct Conclusions {
    /// The client as it is written down with what it publishes to be kept.
    source: Option<Arc<str>>,
    verdicts: Verdicts,
}

/// The last verdicts, each in the place that its topic has.
#[derive(Debug, Default)]
struct Verdicts([Option<Known>; VERDICTS]);

#[derive(Debug)]
struct Known {
    action: Action,
    topic: Box<str>,
    allowed: bool,
}

impl Rights {
    /// Takes another standing and returns the one before.
    pub fn set(&self, standing: Standing) -> Option<Arc<Standing>> {
        let restricted = standing.permissions.is_some();
        let standing = shared(standing);
        let mut inner = self.inner.lock();
        inner.known = None;
        let old = inner.standing.replace(standing);
        self.restricted.store(restricted, Ordering::Release);
        old
    }

    /// The standing; `None` for a session that was restored and whose client was not seen since.
    pub fn standing(&self) -> Option<Arc<Standing>> {
        self.inner.lock().standing.clone()
    }

    /// The client as it is written down with messages that are kept, so that its right to publish
    /// them can be asked again; `None` if nothing is known of it and it may do everything, unless
    /// it is `always` to be said.
    pub fn source(&self, client_id: &str, always: bool) -> Option<Arc<str>> {
        let inner = &mut *self.inner.lock();
        let standing = inner.standing.as_ref()?;
        let is_known = standing.permissions.is_some() || standing.who.method != Method::Anonymous;
        if !is_known && !always {
            return None;
        }
        let source = &mut inner.known.get_or_insert_default().source;
        let written = || stored::write(&standing.who, client_id, standing.protocol).into();
        Some(Arc::clone(source.get_or_insert_with(written)))
    }

    /// The version of the rules that it follows.
    pub fn version(&self) -> Option<u64> {
        let inner = self.inner.lock();
        inner.standing.as_ref().map(|standing| standing.version)
    }

    /// The `protocol` label of what the client is refused.
    pub fn protocol(&self) -> &'static str {
        let inner = self.inner.lock();
        inner.standing.as_ref().map_or("none", |held| held.protocol)
    }

    /// Whether there is something that the client may not do.
    #[inline]
    pub fn is_restricted(&self) -> bool {
        self.restricted.load(Ordering::Acquire)
    }

    /// Whether the client may do something with a topic.
    #[inline]
    pub fn may(&self, action: Action, topic: &Topic) -> bool {
        !self.is_restricted() || self.inner.lock().may(action, topic)
    }

    /// Whether the client may be delivered messages of a topic.
    #[inline]
    pub fn may_receive(&self, topic: &Topic) -> bool {
        !self.is_restricted() || self.may(Action::of_delivery(topic), topic)
    }

    /// What becomes of a subscription, and the version of the rules that say so.
    pub fn subscription(&self, filter: &protocols::model::Filter) -> (Verdict, Option<u64>) {
        let Some(standing) = self.standing() else {
            return (Verdict::Full, None);
        };
        let permissions = standing.permissions.as_ref();
        let verdict = permissions.map_or(Verdict::Full, |held| held.subscription(filter));
        (verdict, Some(standing.version))
    }
}

impl Inner {
    fn may(&mut self, action: Action, topic: &Topic) -> bool {
        let permissions = self.standing.as_ref();
        let Some(permissions) = permissions.and_then(|held| held.permissions.as_ref()) else {
            return true;
        };
        if topic.as_str().len() > TOPIC_BYTES {
            return permissions.may(action, topic);
        }
        let slot = &mut self.known.get_or_insert_default().verdicts.0[place(action, topic)];
        if let Some(known) = slot
            && known.action == action
            && *known.topic == *topic.as_str()
        {
            return known.allowed;
        }
        let allowed = permissions.may(action, topic);
        *slot = Some(Known {
            action,
            // A copy: the topic may share its bytes with a large message.
            topic: topic.as_str().into(),
            allowed,
        });
        allowed
    }
}

/// One standing for all clients of which nothing is known and that may do everything: where nobody
/// logs in, that is each of them.
fn shared(standing: Standing) -> Arc<Standing> {
    /// The latest of each protocol.
    static ANYBODY: Mutex<Vec<Arc<Standing>>> = Mutex::new(Vec::new());
    if standing.permissions.is_some() || standing.who.method != Method::Anonymous {
        return Arc::new(standing);
    }
    let mut known = ANYBODY.lock();
    let place = known
        .iter()
        .position(|held| held.protocol == standing.protocol);
    match place {
        Some(at) if is_same(&known[at], &standing) => Arc::clone(&known[at]),
        place => {
            let standing = Arc::new(standing);
            match place {
                Some(at) => known[at] = Arc::clone(&standing),
                None => known.push(Arc::clone(&standing)),
            }
            standing
        }
    }
}

/// Whether two standings without permissions are one.
fn is_same(one: &Standing, other: &Standing) -> bool {
    Arc::ptr_eq(&one.who, &other.who) && one.version == other.version
}

fn place(action: Action, topic: &Topic) -> usize {
    let mut hasher = foldhash::fast::FixedState::with_seed(action as u64).build_hasher();
    hasher.write(topic.as_str().as_bytes());
    usize::try_from(hasher.finish() % VERDICTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(who: &Arc<Identity>, version: u64) -> Arc<Standing> {
        shared(Standing {
            who: Arc::clone(who),
            protocol: "of these tests",
            version,
            permissions: None,
        })
    }

    #[test]
    fn clients_of_whom_nothing_is_known_share_their_standing() {
        let nobody = Arc::new(Identity::default());
        let first = standing(&nobody, 1);
        assert!(Arc::ptr_eq(&first, &standing(&nobody, 1)));
        let later = standing(&nobody, 2);
        assert_eq!((first.version, later.version), (1, 2));
        let somebody = Arc::new(Identity {
            user: Some("u".into()),
            method: Method::Password,
            ..Identity::default()
        });
        let theirs = standing(&somebody, 2);
        assert!(Arc::ptr_eq(&theirs.who, &somebody));
        assert!(!Arc::ptr_eq(&theirs, &standing(&somebody, 2)));
        assert!(Arc::ptr_eq(&later, &standing(&nobody, 2)));
    }
}
