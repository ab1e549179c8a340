//! Who may not come in.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytestring::ByteString;
use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;
use protocols::model::Timestamp;

use super::Network;
use crate::telemetry::Untrusted;

/// Time between two looks at which bans have ended.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Who or what is banned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Addresses.
    Address(Network),
    /// A client identifier.
    Client(ByteString),
    /// A user.
    User(ByteString),
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Whom it keeps out.
    pub subject: Subject,
    /// When it ends; `None` for one that stays.
    pub until: Option<Timestamp>,
    /// Why, for people.
    pub reason: ByteString,
    /// Whether it comes from the configuration, and cannot be lifted.
    pub is_configured: bool,
}

/// The bans there are: those of the configuration, and those added while the broker runs, which
/// are forgotten when they end or when the broker stops.
#[derive(Debug, Default)]
pub struct Bans {
    lists: RwLock<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    configured: HashSet<Subject>,
    added: HashMap<Subject, Added>,
    max: usize,
    /// Networks of both lists that hold more than what [`Network::around`] an address is: these
    /// are looked through one by one.
    wide: Vec<Network>,
    swept: Timestamp,
}

#[derive(Clone, Debug)]
struct Added {
    until: Option<Timestamp>,
    reason: ByteString,
}

impl Lists {
    fn is_banned(&self, subject: &Subject, now: Timestamp) -> bool {
        let added = |added: &Added| added.until.is_none_or(|until| now < until);
        self.configured.contains(subject) || self.added.get(subject).is_some_and(added)
    }

    fn index(&mut self) {
        let all = self.configured.iter().chain(self.added.keys());
        self.wide = all
            .filter_map(|subject| match subject {
                Subject::Address(network) => Some(*network),
                Subject::Client(_) | Subject::User(_) => None,
            })
            .filter(|network| !network.is_source())
            .collect();
        self.wide.sort_unstable();
        self.wide.dedup();
    }

    /// Forgets what has ended.
    fn sweep(&mut self, now: Timestamp) {
        self.added
            .retain(|_, added| added.until.is_none_or(|until| now < until));
        self.swept = now;
        self.index();
    }

    /// Forgets the ban that ends first, so that there is room for another.
    fn make_room(&mut self) {
        let ends = |added: &Added| added.until.map_or(u64::MAX, |until| until.0);
        let first = self.added.iter().min_by_key(|(_, added)| ends(added));
        if let Some(subject) = first.map(|(subject, _)| subject.clone()) {
            self.added.remove(&subject);
        }
    }
}

impl Bans {
    /// Takes the bans of the configuration, and how many others there may be.
    pub(super) fn configure(&self, configured: &[Subject], max: usize) {
        let mut lists = self.lists.write();
        lists.configured = configured.iter().cloned().collect();
        lists.max = max;
        lists.index();
    }

    /// Bans somebody until a time, or for good; replaces an earlier ban that was added. Who is
    /// connected stays so: [`crate::hub::Hub::ban`] closes these too. If there are as many as there may be, the one that ends first is
    /// forgotten.
    pub fn add(
        &self,
        subject: Subject,
        until: Option<Timestamp>,
        reason: impl Into<ByteString>,
        now: Timestamp,
    ) {
        let mut lists = self.lists.write();
        let reason = reason.into();
        if !lists.added.contains_key(&subject) && lists.added.len() >= lists.max.max(1) {
            lists.sweep(now);
            if lists.added.len() >= lists.max.max(1) {
                lists.make_room();
            }
        }
        lists.added.insert(subject, Added { until, reason });
        lists.index();
    }

    /// Lifts a ban that was added; `false` if there is none.
    pub fn lift(&self, subject: &Subject) -> bool {
        let mut lists = self.lists.write();
        let was = lists.added.remove(subject).is_some();
        lists.index();
        was
    }

    /// All that hold now, in order.
    pub fn list(&self, now: Timestamp) -> Vec<Ban> {
        let mut lists = self.lists.write();
        lists.sweep(now);
        let configured = lists.configured.iter().map(|subject| Ban {
            subject: subject.clone(),
            until: None,
            reason: "configured".into(),
            is_configured: true,
        });
        let added = lists.added.iter().map(|(subject, added)| Ban {
            subject: subject.clone(),
            until: added.until,
            reason: added.reason.clone(),
            is_configured: false,
        });
        let mut all: Vec<_> = configured.chain(added).collect();
        all.sort_by(|a, b| a.subject.cmp(&b.subject));
        all
    }

    /// How many hold now, about: it is looked at most once a second which have ended.
    pub fn len(&self, now: Timestamp) -> usize {
        let mut lists = self.lists.write();
        if !lists.added.is_empty() && lists.swept + SWEEP_EVERY <= now {
            lists.sweep(now);
        }
        lists.configured.len() + lists.added.len()
    }

    /// Whether a client or user is banned, or exactly these addresses.
    pub fn is_banned(&self, subject: &Subject, now: Timestamp) -> bool {
        self.lists.read().is_banned(subject, now)
    }

    /// Whether an address is banned, alone or with others.
    pub fn is_address_banned(&self, ip: IpAddr, now: Timestamp) -> bool {
        let lists = self.lists.read();
        if lists.configured.is_empty() && lists.added.is_empty() {
            return false;
        }
        let around = Subject::Address(Network::around(ip));
        let wide = lists.wide.iter().filter(|network| network.contains(ip));
        lists.is_banned(&around, now)
            || wide
                .map(|network| Subject::Address(*network))
                .any(|subject| lists.is_banned(&subject, now))
    }
}

impl fmt::Display for Subject {
    /// For logs: names of clients' own choice are made harmless.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(network) => write!(f, "address {network}"),
            Self::Client(id) => write!(f, "client {}", Untrusted(id)),
            Self::User(user) => write!(f, "user {}", Untrusted(user)),
        }
    }
}
