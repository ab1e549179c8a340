//! Which rule decides. It goes through all rules one by one, so it is for people who ask why, not
//! for deliveries.

use protocols::model::Topic;

use super::permissions::everyones;
use super::{Access, Action, Effect, Permissions, Rule, pattern, rule};
use crate::auth::Identity;

/// What is decided, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The rule that says so, with its place; or what holds where no rule speaks.
    pub rule: String,
}

impl Access {
    /// Whether a client may do something with a topic, and by which rule: a deny before an allow,
    /// of several the first.
    pub fn explain(
        &self,
        who: &Identity,
        (client_id, protocol): (&str, &str),
        action: Action,
        topic: &Topic,
    ) -> Reason {
        let policy = self.policy();
        let own = match rule::claimed(who) {
            Ok(own) => own,
            Err(wrong) => {
                return Reason {
                    allowed: false,
                    rule: wrong,
                };
            }
        };
        let subject = pattern::Subject {
            who,
            client_id,
            protocol,
        };
        let speaks = |rule: &Rule| Permissions::speaks(rule, &subject, action, topic);
        for effect in [Effect::Deny, Effect::Allow] {
            for (rules, place) in [
                (&policy.rules[..], "of the configuration"),
                (&own[..], "of the claim permissions"),
                (everyones(), "that all clients have"),
            ] {
                let mut rules = rules.iter().enumerate();
                if let Some((at, rule)) =
                    rules.find(|(_, rule)| rule.effect == effect && speaks(rule))
                {
                    return Reason {
                        allowed: effect == Effect::Allow,
                        rule: format!("rule {} {place}: {rule}", at + 1),
                    };
                }
            }
        }
        Reason {
            allowed: policy.unmatched,
            rule: match (policy.unmatched, policy.rules.is_empty() && own.is_empty()) {
                (true, true) => "there are no rules",
                (true, false) => "no rule speaks of it, and access.unmatched allows that",
                (false, _) => "no rule speaks of it, and access.unmatched denies that",
            }
            .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::access::Policy;

    #[test]
    fn the_rule_that_decides_is_named() {
        let access = Access::default();
        let topic = |text: &str| Topic::parse(text.into(), 64, 8).unwrap();
        let mut ann = Identity {
            user: Some("ann".into()),
            ..Identity::default()
        };
        let ask = |access: &Access, who: &Identity, action, text| {
            let reason = access.explain(who, ("c", "mqtt"), action, &topic(text));
            // The same as everybody else is told.
            let permissions = access.permissions(who, "c", "mqtt").unwrap();
            let may = permissions.is_none_or(|held| held.may(action, &topic(text)));
            assert_eq!(may, reason.allowed, "{reason:?}");
            reason.rule
        };
        assert_eq!(
            ask(&access, &ann, Action::Publish, "a"),
            "there are no rules"
        );
        let rules = [
            json!({"allow": ["publish"], "topics": ["a/%u/#"]}),
            json!({"deny": "all", "topics": ["a/+/secret"], "users": ["ann"]}),
        ];
        access.set(Policy {
            rules: rules
                .iter()
                .map(|rule| Rule::from_json(rule).unwrap())
                .collect(),
            unmatched: false,
        });
        let said = ask(&access, &ann, Action::Publish, "a/ann/x");
        assert!(said.starts_with("rule 1 of the configuration: "), "{said}");
        let said = ask(&access, &ann, Action::Publish, "a/ann/secret");
        assert!(said.starts_with("rule 2 of the configuration: "), "{said}");
        let said = ask(&access, &ann, Action::Subscribe, "b");
        assert!(said.contains("access.unmatched denies"), "{said}");
        let said = ask(&access, &ann, Action::Subscribe, "$user/ann/x");
        assert!(said.contains("that all clients have"), "{said}");
        let claims = json!({"permissions": [{"allow": ["subscribe"], "topics": ["b"]}]});
        ann.claims = claims.as_object().cloned().unwrap();
        let said = ask(&access, &ann, Action::Subscribe, "b");
        assert!(
            said.starts_with("rule 1 of the claim permissions: "),
            "{said}"
        );
    }
}
