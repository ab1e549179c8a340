//! What one client may do: the rules that concern it, with its own values filled in.

use protocols::model::{Filter, Topic};
use serde_json::json;

use super::cover::{covered, overlaps};
use super::pattern::{FILTERS_MAX, Subject, TooMany};
use super::rule::{Actions, Effect, Rule};
use super::{Action, Policy};

/// See the module.
#[derive(Clone, Debug)]
pub struct Permissions {
    /// Whether what is neither allowed nor denied is allowed.
    unmatched: bool,
    allowed: Vec<Entry>,
    denied: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    actions: Actions,
    /// `None` for every topic.
    filter: Option<Filter>,
}

/// What becomes of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that it matches may be delivered.
    Full,
    /// Some of what it matches is denied and must be left out.
    Filtered,
    /// It is not allowed.
    Refused,
}

impl Permissions {
    /// Puts the rules together that concern a client: those of the policy, its own, and what
    /// every client may do.
    pub(super) fn compile(
        policy: &Policy,
        own: &[Rule],
        subject: &Subject<'_>,
    ) -> Result<Self, String> {
        let mut permissions = Self {
            unmatched: policy.unmatched,
            allowed: Vec::new(),
            denied: Vec::new(),
        };
        let rules = policy.rules.iter().chain(own).chain(everyones());
        for rule in rules.filter(|rule| rule.concerns(subject)) {
            permissions.add(rule, subject).map_err(|TooMany| {
                format!("the rules name more than {FILTERS_MAX} topics for this client")
            })?;
        }
        if permissions.unmatched {
            // They have nothing to add.
            permissions.allowed = Vec::new();
        }
        permissions.allowed.shrink_to_fit();
        permissions.denied.shrink_to_fit();
        Ok(permissions)
    }

    /// Permissions to do nothing at all.
    pub fn nothing() -> Self {
        Self {
            unmatched: false,
            allowed: Vec::new(),
            denied: Vec::new(),
        }
    }

    /// Whether one rule speaks of an action of a client with a topic.
    pub(super) fn speaks(
        rule: &Rule,
        subject: &Subject<'_>,
        action: Action,
        topic: &Topic,
    ) -> bool {
        let mut alone = Self::nothing();
        let added = rule.concerns(subject) && alone.add(rule, subject).is_ok();
        let mut entries = alone.allowed.iter().chain(&alone.denied);
        added && entries.any(|entry| entry.actions.has(action) && entry.matches(topic))
    }

    fn add(&mut self, rule: &Rule, subject: &Subject<'_>) -> Result<(), TooMany> {
        let denies = rule.effect == Effect::Deny;
        let actions = rule.actions.implied();
        let entries = if denies {
            &mut self.denied
        } else {
            &mut self.allowed
        };
        if rule.topics.is_empty() {
            entries.push(Entry {
                actions,
                filter: None,
            });
        }
        for pattern in &rule.topics {
            let mut filters = Vec::new();
            pattern.resolve(subject, denies, &mut filters)?;
            entries.extend(filters.into_iter().map(|filter| Entry {
                actions,
                filter: Some(filter),
            }));
        }
        if entries.len() > FILTERS_MAX {
            return Err(TooMany);
        }
        Ok(())
    }

    /// Whether it allows everything.
    pub(super) fn is_open(&self) -> bool {
        self.unmatched && self.denied.is_empty()
    }

    /// Whether something may be done with a topic.
    pub fn may(&self, action: Action, topic: &Topic) -> bool {
        let speaks = |entry: &Entry| entry.actions.has(action) && entry.matches(topic);
        !self.denied.iter().any(speaks) && (self.unmatched || self.allowed.iter().any(speaks))
    }

    /// Whether a rule denies it, whatever is allowed.
    pub fn denies(&self, action: Action, topic: &Topic) -> bool {
        let mut denied = self.denied.iter();
        denied.any(|entry| entry.actions.has(action) && entry.matches(topic))
    }

    /// What becomes of a subscription to a filter (without `$share/…`): all its topics must be
    /// allowed, by rules taken together; those that are denied all the same are left out, unless
    /// nothing would be left.
    pub fn subscription(&self, filter: &Filter) -> Verdict {
        let action = Action::of_filter(filter);
        let (allowed, denied) = (
            filters(&self.allowed, action),
            filters(&self.denied, action),
        );
        let by_rules = || allowed.is_none_or(|allowed| covered(filter, allowed.into_iter()));
        if !self.unmatched && !by_rules() {
            return Verdict::Refused;
        }
        let Some(denied) = denied else {
            return Verdict::Refused;
        };
        if covered(filter, denied.iter().copied()) {
            Verdict::Refused
        } else if denied.iter().any(|other| overlaps(filter, other)) {
            Verdict::Filtered
        } else {
            Verdict::Full
        }
    }
}

/// The filters of the entries that speak of an action; `None` if one speaks of every topic.
fn filters(entries: &[Entry], action: Action) -> Option<Vec<&Filter>> {
    let entries = entries.iter().filter(|entry| entry.actions.has(action));
    entries.map(|entry| entry.filter.as_ref()).collect()
}

impl Entry {
    fn matches(&self, topic: &Topic) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.matches(topic))
    }
}

/// What every client may do unless a rule denies it: to hear what is said to everyone and to its
/// own user, to read its own temporary queues, and to renew its own credentials.
pub(super) fn everyones() -> &'static [Rule] {
    static RULES: std::sync::LazyLock<Vec<Rule>> = std::sync::LazyLock::new(|| {
        let rules = [
            json!({
                "allow": "subscribe",
                "topics": ["$broadcast", "$user/%u/#", "$queue/temp/#", "$auth/expiring"],
            }),
            json!({"allow": "publish", "topics": ["$auth/refresh"]}),
        ];
        rules
            .iter()
            .filter_map(|rule| Rule::from_json(rule).ok())
            .collect()
    });
    &RULES
}
