//! Whether a retained message's publisher may still publish it, by the rules in force now.
//!
//! Who published it is kept with the message ([`crate::auth::stored`]). What such a client may do is
//! put together once for many messages; a bounded number of clients is remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use protocols::model::{Message, Topic};

use super::{Access, Action, Permissions};
use crate::auth::stored;

/// Publishers that are remembered.
const KNOWN: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Whether nobody is asked again.
    off: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The version of the rules that the others follow from.
    version: u64,
    /// `None` is a publisher that may do everything.
    permissions: HashMap<Arc<str>, Option<Arc<Permissions>>>,
}

impl Access {
    /// Whether publishers of retained messages are asked again.
    pub fn check_sources(&self, on: bool) {
        self.sources.off.store(!on, Ordering::Release);
    }

    /// Whether a message that is kept may be sent, as far as its publisher is concerned.
    pub fn may_still_publish(&self, message: &Message) -> bool {
        let Some(source) = &message.source else {
            return true;
        };
        if self.sources.off.load(Ordering::Acquire) {
            return true;
        }
        let permissions = self.permissions_of(source);
        permissions.is_none_or(|held| may_publish(&held, &message.topic))
    }

    fn permissions_of(&self, source: &Arc<str>) -> Option<Arc<Permissions>> {
        // Before the rules: what was put together meanwhile is known to be old.
        let version = self.version();
        {
            let known = self.sources.known.lock();
            if known.version == version
                && let Some(found) = known.permissions.get(source)
            {
                return found.clone();
            }
        }
        let found = stored::read(source).map(|stored| {
            self.permissions(&stored.who, &stored.client_id, stored.protocol)
                .unwrap_or_else(|_| Some(Arc::new(Permissions::nothing())))
        });
        // What nobody can read was written by nobody: it says nothing about anybody.
        let found = found.unwrap_or_default();
        let mut known = self.sources.known.lock();
        if known.version != version || known.permissions.len() >= KNOWN {
            known.permissions.clear();
            known.version = version;
        }
        known.permissions.insert(Arc::clone(source), found.clone());
        found
    }
}

fn may_publish(permissions: &Permissions, topic: &Topic) -> bool {
    permissions.may(Action::of_publish(topic), topic)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocols::model::QoS;
    use serde_json::json;

    use super::*;
    use crate::auth::access::{Policy, Rule};
    use crate::auth::{Identity, Method};

    fn message(source: Option<&str>) -> Message {
        let topic = Topic::parse("a/b".into(), 64, 8).unwrap();
        let mut message = Message::new(topic, Bytes::new(), QoS::AtMostOnce, true);
        message.source = source.map(Arc::from);
        message
    }

    fn policy(rules: &[serde_json::Value]) -> Policy {
        let rules = rules.iter().map(|rule| Rule::from_json(rule).unwrap());
        Policy {
            rules: rules.collect(),
            unmatched: false,
        }
    }

    #[test]
    fn the_rules_of_now_decide() {
        let access = Access::default();
        let ann = Identity {
            user: Some("ann".into()),
            method: Method::Password,
            ..Identity::default()
        };
        let of_ann = message(Some(&stored::write(&ann, "c", "mqtt")));
        assert!(access.may_still_publish(&of_ann), "there are no rules");
        access.set(policy(&[json!({"allow": "publish", "users": ["ann"]})]));
        assert!(access.may_still_publish(&of_ann));
        access.set(policy(&[json!({"allow": "publish", "users": ["bob"]})]));
        assert!(!access.may_still_publish(&of_ann));
        assert!(access.may_still_publish(&message(None)));
        assert!(access.may_still_publish(&message(Some("?"))));
        access.check_sources(false);
        assert!(access.may_still_publish(&of_ann));
        access.check_sources(true);
        let mut with_token = ann;
        with_token.claims = json!({"permissions": [{"allow": ["publish"], "topics": ["a/#"]}]})
            .as_object()
            .cloned()
            .unwrap();
        let allowed = message(Some(&stored::write(&with_token, "c", "mqtt")));
        assert!(access.may_still_publish(&allowed), "by its own token");
    }

    #[test]
    fn a_bounded_number_is_remembered() {
        let access = Access::default();
        for number in 0..2 * KNOWN {
            let who = Identity::default();
            access.may_still_publish(&message(Some(&stored::write(
                &who,
                &number.to_string(),
                "mqtt",
            ))));
        }
        assert!(access.sources.known.lock().permissions.len() <= KNOWN);
    }
}
