//! What clients may do.
//!
//! A [`Policy`] is the list of [`Rule`]s of the configuration; a token may bring more in its claim
//! `permissions`. At a login the rules that concern the client are put together, with its name and
//! claims filled in, to [`Permissions`]; [`Rights`] are a session's permissions with the verdicts of
//! its last topics. A rule that denies wins over all that allow, wherever they stand, so the order
//! of rules has no meaning.
//!
//! It asks nobody and awaits nothing. The `hub` calls it for everything that a client does, and the
//! HTTP interface through [`Access::may`].

mod cover;
mod explain;
mod pattern;
mod permissions;
mod rights;
mod rule;
mod sources;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use protocols::connection::{Refusal, RefusalCode, topics};
use protocols::model::{Filter, Topic};

use super::Identity;
pub use explain::Reason;
pub use permissions::{Permissions, Verdict};
pub use rights::{Rights, Standing};
pub use rule::{Effect, RULES_MAX, Rule};

/// Something that a client does and that rules speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// To publish to a topic, and to have a will there.
    Publish,
    /// To subscribe, and to be delivered what is published.
    Subscribe,
    /// To be a member of a group: to subscribe to `$group/…`.
    Join,
    /// To publish to everyone: to `$broadcast`.
    Broadcast,
    /// To be sent what is retained.
    Retained,
    /// To look at and change what belongs to others, over HTTP.
    Manage,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Publish,
        Self::Subscribe,
        Self::Join,
        Self::Broadcast,
        Self::Retained,
        Self::Manage,
    ];

    /// Its name in rules and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Join => "join",
            Self::Broadcast => "broadcast",
            Self::Retained => "retained",
            Self::Manage => "manage",
        }
    }

    /// What publishing to a topic is.
    pub fn of_publish(topic: &Topic) -> Self {
        if is_below(topic.as_str(), topics::BROADCAST) {
            Self::Broadcast
        } else {
            Self::Publish
        }
    }

    /// What receiving the messages of a topic is.
    pub fn of_delivery(topic: &Topic) -> Self {
        Self::receiving(topic.as_str())
    }

    /// What subscribing to a filter (without `$share/…`) is. It is one action for all topics of
    /// the filter, as a leading wildcard matches no `$` topic.
    pub fn of_filter(filter: &Filter) -> Self {
        Self::receiving(filter.as_str())
    }

    fn receiving(text: &str) -> Self {
        if is_below(text, topics::GROUP.trim_end_matches('/')) {
            Self::Join
        } else {
            Self::Subscribe
        }
    }
}

/// Whether a topic or filter is `top` or lies below it.
fn is_below(text: &str, top: &str) -> bool {
    text.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The rules in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The rules of the configuration.
    pub rules: Vec<Rule>,
    /// Whether what no rule speaks of is allowed: only sensible where nobody has to log in.
    pub unmatched: bool,
}

impl Default for Policy {
    /// Everything is allowed.
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            unmatched: true,
        }
    }
}

/// Decides what clients may do. One for the whole broker.
#[derive(Debug, Default)]
pub struct Access {
    policy: ArcSwap<Policy>,
    /// Grows whenever the policy changes, after it did.
    version: AtomicU64,
    sources: sources::Sources,
}

impl Access {
    /// Puts other rules in force. Who holds [`Permissions`] learns it from [`Access::version`].
    pub fn set(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// The rules in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Grows whenever the rules change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What a client may do, as it stands now; `None` if it may do everything. `protocol` is
    /// `mqtt`, `stomp`, `json` or `http`.
    ///
    /// # Errors
    ///
    /// If the claim `permissions` is not a list of rules, or the rules name too much: a client of
    /// which it is not clear what it is denied is not let in.
    pub fn permissions(
        &self,
        who: &Identity,
        client_id: &str,
        protocol: &str,
    ) -> Result<Option<Arc<Permissions>>, Refusal> {
        let refused = |detail| Refusal::new(RefusalCode::NotAuthorized, detail);
        let policy = self.policy.load();
        let own = rule::claimed(who).map_err(refused)?;
        if policy.rules.is_empty() && policy.unmatched && own.is_empty() {
            return Ok(None);
        }
        let subject = pattern::Subject {
            who,
            client_id,
            protocol,
        };
        let permissions = Permissions::compile(&policy, &own, &subject).map_err(refused)?;
        Ok((!permissions.is_open()).then(|| Arc::new(permissions)))
    }

    /// Where a client stands at its login: what it may do, and by which version of the rules.
    ///
    /// # Errors
    ///
    /// As [`Access::permissions`].
    pub fn standing(
        &self,
        who: Arc<Identity>,
        client_id: &str,
        protocol: &'static str,
    ) -> Result<Standing, Refusal> {
        // Read before the rules: if they change meanwhile, the standing is known to be old.
        let version = self.version();
        let permissions = self.permissions(&who, client_id, protocol)?;
        Ok(Standing {
            who,
            protocol,
            version,
            permissions,
        })
    }

    /// Whether someone may do one thing, for requests over HTTP. `client_id` is empty for those
    /// that have none. Who asks for many things asks for [`Access::permissions`] once.
    pub fn may(&self, who: &Identity, client_id: &str, action: Action, topic: &Topic) -> bool {
        match self.permissions(who, client_id, "http") {
            Ok(None) => true,
            Ok(Some(permissions)) => permissions.may(action, topic),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
