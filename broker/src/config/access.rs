//! The section `access`: what clients may do.

use serde_json::{Map, Value};

use super::section::section;
use super::setting::Bounds::Type;
use super::setting::{Bounds, Raw, Setting};
use super::values::Unmatched;
use crate::auth::access::{Policy, RULES_MAX, Rule};

section! {
    /// What clients may do. Rules in the claim `permissions` of a token have the same shape and
    /// count as well. docs/security.md says more.
    pub struct Access in "access" {
        /// The rules, written as tables [[access.rules]]. Each has `allow` or `deny` with a list
        /// of publish, subscribe, join, broadcast, retained and manage (or "all"), `topics` with
        /// filters in which %c is the client identifier, %u the user and ${claim} what the token
        /// says, and whom it concerns: `users`, `groups`, `clients`, `protocols`, `methods`. What
        /// is left out means all. A deny wins over every allow, wherever it stands.
        rules: AccessRules = AccessRules::default(), Type, Live;
        /// What holds for what no rule speaks of. `auto` denies it as soon as clients can log in,
        /// and allows it while nobody has to.
        unmatched: Unmatched = Unmatched::Auto, Type, Live;
        /// Whether a retained message is sent only while whoever published it may still publish
        /// it, by the rules of now and what it logged in with then.
        check_retained_publishers: bool = true, Type, Live;
    }
}

impl Access {
    /// The policy to put in force; `authentication` says whether clients can log in.
    pub fn policy(&self, authentication: bool) -> Policy {
        Policy {
            rules: self.rules.0.clone(),
            unmatched: match self.unmatched {
                Unmatched::Auto => !authentication,
                Unmatched::Allow => true,
                Unmatched::Deny => false,
            },
        }
    }
}

/// The rules of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRules(Vec<Rule>);

impl Setting for AccessRules {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let value = match raw {
            Raw::Bare(text) if text.is_empty() => Value::Array(Vec::new()),
            Raw::Bare(text) => serde_json::from_str(text)
                .map_err(|error| format!("in a variable it is a list in JSON: {error}"))?,
            other => json(other)?,
        };
        let Value::Array(items) = value else {
            return Err("a list of tables is needed".to_owned());
        };
        if items.len() > RULES_MAX {
            return Err(format!("there are more than {RULES_MAX} rules"));
        }
        let rules = items.iter().enumerate().map(|(at, item)| {
            Rule::from_json(item).map_err(|wrong| format!("rule {}: {wrong}", at + 1))
        });
        self.0 = rules.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        let rules: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        format!("[{}]", rules.join(", "))
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of tables, each with allow or deny, as in { allow = [\"publish\"], topics = \
         [\"devices/%c/#\"] }; in a variable the same as JSON"
            .to_owned()
    }
}

/// A value as JSON, for keys that are lists of tables.
pub(super) fn json(raw: &Raw) -> Result<Value, String> {
    Ok(match raw {
        Raw::Text(text) | Raw::Bare(text) => Value::String(text.clone()),
        Raw::Integer(number) => i64::try_from(*number).map_or(Value::Null, Value::from),
        Raw::Boolean(value) => Value::Bool(*value),
        Raw::List(items) => Value::Array(items.iter().map(json).collect::<Result<_, _>>()?),
        Raw::Table(entries) => {
            let entries = entries.iter();
            let entries = entries.map(|(name, value)| Ok((name.clone(), json(value)?)));
            Value::Object(entries.collect::<Result<Map<_, _>, String>>()?)
        }
        Raw::Other(kind) => return Err(format!("{kind} has no place here")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &Raw) -> Result<AccessRules, String> {
        let mut rules = AccessRules::default();
        rules.read(raw, Type).map(|()| rules)
    }

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    fn table(entries: &[(&str, Raw)]) -> Raw {
        let entries = entries.iter();
        Raw::Table(
            entries
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        )
    }

    #[test]
    fn the_same_rules_from_a_file_and_from_a_variable() {
        let topics = Raw::List(vec![text("a/%u"), text("b")]);
        let file = Raw::List(vec![
            table(&[("allow", text("all")), ("topics", topics)]),
            table(&[("deny", Raw::List(vec![text("publish")]))]),
        ]);
        let variable = r#"[{"allow":"all","topics":["a/%u","b"]},{"deny":["publish"]}]"#;
        let rules = read(&file).unwrap();
        assert_eq!(read(&Raw::Bare(variable.to_owned())), Ok(rules.clone()));
        assert_eq!(rules.0.len(), 2);
        assert_eq!(read(&Raw::Bare(String::new())), Ok(AccessRules::default()));
    }

    #[test]
    fn mistakes_say_which_rule() {
        let rules = Raw::List(vec![table(&[("allow", text("all"))]), table(&[])]);
        assert_eq!(
            read(&rules).unwrap_err(),
            "rule 2: a rule has either allow or deny"
        );
        assert_eq!(
            read(&Raw::List(vec![Raw::Other("a date")])).unwrap_err(),
            "a date has no place here"
        );
        assert_eq!(read(&text("x")).unwrap_err(), "a list of tables is needed");
        assert!(read(&Raw::Bare("[{]".into())).is_err());
        let many = Raw::List(vec![table(&[("allow", text("all"))]); RULES_MAX + 1]);
        assert!(read(&many).is_err());
    }

    #[test]
    fn what_no_rule_speaks_of_depends_on_whether_there_is_a_login() {
        let mut access = Access::default();
        assert!(access.policy(false).unmatched);
        assert!(!access.policy(true).unmatched);
        access.unmatched = Unmatched::Allow;
        assert!(access.policy(true).unmatched);
        access.unmatched = Unmatched::Deny;
        assert!(!access.policy(false).unmatched);
    }
}
