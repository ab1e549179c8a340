//! One rule: what it allows or denies, where, and to whom.
//!
//! A rule reads the same in the configuration (TOML) and in the claim `permissions` of a token
//! (JSON): `{"allow": ["publish"], "topics": ["devices/%c/#"]}`.

use std::fmt;

use serde_json::{Map, Value};

use super::Action;
use super::pattern::{Pattern, Subject, claim};
use crate::auth::{Identity, Method};

/// Rules in a configuration, at most.
pub const RULES_MAX: usize = 4096;

/// Rules in a claim, at most.
const CLAIMED_MAX: usize = 256;

/// Texts in one list of a rule, at most.
const LIST_MAX: usize = 256;

/// Words that a rule's list `protocols` takes.
const PROTOCOLS: [&str; 5] = ["mqtt", "stomp", "json", "http", "gateway"];

const METHODS: [Method; 5] = [
    Method::Anonymous,
    Method::Password,
    Method::Token,
    Method::Certificate,
    Method::Callback,
];

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It allows.
    Allow,
    /// It denies, whatever else allows.
    Deny,
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Actions(u8);

impl Actions {
    /// Every action.
    pub(super) const ALL: Self = Self(0b11_1111);

    /// One action.
    pub(super) const fn of(action: Action) -> Self {
        Self(1 << action as u8)
    }

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it holds the action.
    pub(super) const fn has(self, action: Action) -> bool {
        self.0 & Self::of(action).0 != 0
    }

    /// Who is delivered a topic's messages is sent the retained one too.
    pub(super) fn implied(self) -> Self {
        if self.has(Action::Subscribe) || self.has(Action::Join) {
            self.with(Self::of(Action::Retained))
        } else {
            self
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub effect: Effect,
    pub(super) actions: Actions,
    /// Where; empty means every topic, those with `$` included.
    pub(super) topics: Vec<Pattern>,
    /// To whom, each list by one quality; an empty one does not ask for it.
    users: Vec<String>,
    clients: Vec<String>,
    groups: Vec<String>,
    protocols: Vec<String>,
    methods: Vec<String>,
}

impl Rule {
    /// Reads a rule, or says what is wrong with it.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let table = value.as_object().ok_or("a rule is a table")?;
        let (effect, actions) = match (table.get("allow"), table.get("deny")) {
            (Some(actions), None) => (Effect::Allow, actions),
            (None, Some(actions)) => (Effect::Deny, actions),
            _ => return Err("a rule has either allow or deny".to_owned()),
        };
        check_names(table)?;
        let topics = texts(table, "topics")?;
        let topics = topics
            .iter()
            .map(|text| Pattern::parse(text).map_err(|wrong| format!("topics: {text:?}: {wrong}")));
        Ok(Self {
            effect,
            actions: read_actions(actions)?,
            topics: topics.collect::<Result<_, _>>()?,
            users: texts(table, "users")?,
            clients: texts(table, "clients")?,
            groups: texts(table, "groups")?,
            protocols: one_of(texts(table, "protocols")?, "protocols", &PROTOCOLS)?,
            methods: one_of(
                texts(table, "methods")?,
                "methods",
                &METHODS.map(Method::as_str),
            )?,
        })
    }

    /// Whether it speaks of this client.
    pub(super) fn concerns(&self, subject: &Subject<'_>) -> bool {
        let has =
            |list: &[String], name: &str| list.is_empty() || list.iter().any(|one| one == name);
        let user = subject.who.user.as_deref();
        (self.users.is_empty() || user.is_some_and(|user| has(&self.users, user)))
            && has(&self.clients, subject.client_id)
            && has(&self.protocols, subject.protocol)
            && has(&self.methods, subject.who.method.as_str())
            && (self.groups.is_empty()
                || claim(subject.who, "groups")
                    .iter()
                    .any(|group| has(&self.groups, group)))
    }
}

/// As a table on one line of TOML, which reads back.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        let actions: Vec<&str> = Action::ALL
            .into_iter()
            .filter(|action| self.actions.has(*action))
            .map(Action::as_str)
            .collect();
        write!(f, "{{ {effect} = {}", toml_list(&actions))?;
        let topics: Vec<&str> = self.topics.iter().map(Pattern::as_str).collect();
        if !topics.is_empty() {
            write!(f, ", topics = {}", toml_list(&topics))?;
        }
        for (name, list) in [
            ("users", &self.users),
            ("clients", &self.clients),
            ("groups", &self.groups),
            ("protocols", &self.protocols),
            ("methods", &self.methods),
        ] {
            if !list.is_empty() {
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                write!(f, ", {name} = {}", toml_list(&list))?;
            }
        }
        f.write_str(" }")
    }
}

fn toml_list(texts: &[&str]) -> String {
    let quoted = texts
        .iter()
        .map(|text| toml::Value::String((*text).to_owned()).to_string());
    format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
}

/// The rules in the claim `permissions`. Plain texts in the list are others' permissions, as some
/// identity services put them there.
pub(super) fn claimed(who: &Identity) -> Result<Vec<Rule>, String> {
    let items = match who.claims.get("permissions") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err("the claim permissions is not a list of rules".to_owned()),
    };
    if items.len() > CLAIMED_MAX {
        return Err(format!(
            "the claim permissions has more than {CLAIMED_MAX} rules"
        ));
    }
    let rules = items
        .iter()
        .enumerate()
        .filter(|(_, item)| !item.is_string());
    rules
        .map(|(at, item)| {
            Rule::from_json(item)
                .map_err(|wrong| format!("rule {} of the claim permissions: {wrong}", at + 1))
        })
        .collect()
}

const NAMES: [&str; 8] = [
    "allow",
    "deny",
    "topics",
    "users",
    "clients",
    "groups",
    "protocols",
    "methods",
];

fn check_names(table: &Map<String, Value>) -> Result<(), String> {
    match table.keys().find(|name| !NAMES.contains(&name.as_str())) {
        Some(name) => Err(format!(
            "there is no {name:?}; there are: {}",
            NAMES.join(", ")
        )),
        None => Ok(()),
    }
}

fn read_actions(value: &Value) -> Result<Actions, String> {
    let names = match value {
        Value::String(name) if name == "all" => return Ok(Actions::ALL),
        Value::String(name) => vec![name.as_str()],
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().ok_or("an action is a text"))
            .collect::<Result<_, _>>()?,
        _ => return Err("actions are a list of texts, or \"all\"".to_owned()),
    };
    if names.is_empty() {
        return Err("a rule names at least one action".to_owned());
    }
    names.iter().try_fold(Actions::default(), |actions, name| {
        let known = Action::ALL
            .into_iter()
            .find(|action| action.as_str() == *name);
        let action = known.ok_or_else(|| {
            let all = Action::ALL.map(Action::as_str).join(", ");
            format!("{name:?} is no action; there are: {all}")
        })?;
        Ok(actions.with(Actions::of(action)))
    })
}

fn texts(table: &Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    let items = match table.get(name) {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![text.clone()]),
        Some(Value::Array(items)) if items.len() > LIST_MAX => {
            return Err(format!("{name} has more than {LIST_MAX} entries"));
        }
        // An empty list could be meant as nobody or as everybody.
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(Value::Array(_)) => return Err(format!("{name} is empty; leave it out for all")),
        Some(_) => return Err(format!("{name} is a list of texts")),
    };
    items
        .iter()
        .map(|item| match item {
            Value::String(text) => Ok(text.clone()),
            _ => Err(format!("{name} is a list of texts")),
        })
        .collect()
}

fn one_of(texts: Vec<String>, name: &str, known: &[&str]) -> Result<Vec<String>, String> {
    match texts.iter().find(|text| !known.contains(&text.as_str())) {
        Some(text) => Err(format!("{name}: {text:?} is none of {}", known.join(", "))),
        None => Ok(texts),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(value: &Value) -> String {
        Rule::from_json(value).unwrap_err()
    }

    #[test]
    fn mistakes_are_named() {
        let both = "a rule has either allow or deny";
        let all = "publish, subscribe, join, broadcast, retained, manage";
        for (value, expected) in [
            (json!("x"), "a rule is a table".to_owned()),
            (json!({"topics": ["a"]}), both.to_owned()),
            (json!({"allow": "all", "deny": "all"}), both.to_owned()),
            (
                json!({"allow": []}),
                "a rule names at least one action".to_owned(),
            ),
            (
                json!({"allow": ["read"]}),
                format!("\"read\" is no action; there are: {all}"),
            ),
            (
                json!({"allow": 7}),
                "actions are a list of texts, or \"all\"".to_owned(),
            ),
            (
                json!({"allow": "all", "topics": []}),
                "topics is empty; leave it out for all".to_owned(),
            ),
            (
                json!({"allow": "all", "topics": [1]}),
                "topics is a list of texts".to_owned(),
            ),
            (
                json!({"allow": "all", "topics": ["a+"]}),
                "topics: \"a+\": + must be a level of its own and # the last level".to_owned(),
            ),
            (
                json!({"allow": "all", "topic": ["a"]}),
                format!("there is no \"topic\"; there are: {}", NAMES.join(", ")),
            ),
            (
                json!({"deny": "all", "protocols": ["amqp"]}),
                "protocols: \"amqp\" is none of mqtt, stomp, json, http, gateway".to_owned(),
            ),
        ] {
            assert_eq!(wrong(&value), expected, "{value}");
        }
    }

    #[test]
    fn a_rule_concerns_whom_all_its_lists_name() {
        let claims = json!({"groups": ["ops", "dev"]});
        let who = Identity {
            user: Some("ann".into()),
            method: Method::Token,
            claims: claims.as_object().cloned().unwrap(),
            ..Identity::default()
        };
        let subject = Subject {
            who: &who,
            client_id: "c1",
            protocol: "stomp",
        };
        for (rule, expected) in [
            (json!({"allow": "all"}), true),
            (json!({"allow": "all", "users": ["bob", "ann"]}), true),
            (json!({"allow": "all", "users": ["bob"]}), false),
            (json!({"allow": "all", "groups": "dev"}), true),
            (json!({"allow": "all", "groups": ["sales"]}), false),
            (json!({"allow": "all", "clients": ["c1"]}), true),
            (json!({"allow": "all", "clients": ["C1"]}), false),
            (
                json!({"allow": "all", "protocols": ["mqtt", "stomp"]}),
                true,
            ),
            (json!({"allow": "all", "protocols": ["mqtt"]}), false),
            (json!({"allow": "all", "methods": ["token"]}), true),
            (json!({"allow": "all", "methods": ["anonymous"]}), false),
            (
                json!({"allow": "all", "users": ["ann"], "clients": ["c2"]}),
                false,
            ),
        ] {
            let read = Rule::from_json(&rule).unwrap();
            assert_eq!(read.concerns(&subject), expected, "{rule}");
        }
        let nobody = Identity::default();
        let anonymous = Subject {
            who: &nobody,
            ..subject
        };
        let rule = Rule::from_json(&json!({"allow": "all", "users": ["ann"]})).unwrap();
        assert!(!rule.concerns(&anonymous));
    }

    #[test]
    fn a_rule_reads_back_as_it_is_shown() {
        let rule = Rule::from_json(&json!({
            "deny": ["publish", "manage"], "topics": ["a/\"q\"/%u", "b/${x}"], "users": ["u"],
            "clients": ["c"], "groups": ["g"], "protocols": ["json"], "methods": ["password"],
        }))
        .unwrap();
        let table: toml::Table = format!("rule = {rule}").parse().unwrap();
        let value = serde_json::to_value(&table["rule"]).unwrap();
        assert_eq!(Rule::from_json(&value), Ok(rule));
    }

    #[test]
    fn claims_are_rules_or_refused() {
        let claimed = |permissions: Value| {
            let claims = json!({"permissions": permissions});
            claimed(&Identity {
                claims: claims.as_object().cloned().unwrap(),
                ..Identity::default()
            })
        };
        assert_eq!(claimed(json!(null)).unwrap().len(), 0);
        assert_eq!(
            claimed(json!(["read:news", {"allow": "all"}]))
                .unwrap()
                .len(),
            1
        );
        assert!(claimed(json!({"allow": "all"})).is_err());
        assert_eq!(
            claimed(json!([{"allow": "all"}, {"deny": "evrything"}])).unwrap_err(),
            "rule 2 of the claim permissions: \"evrything\" is no action; there are: publish, \
             subscribe, join, broadcast, retained, manage"
        );
        let many: Vec<Value> = vec![json!({"allow": "all"}); CLAIMED_MAX + 1];
        assert!(claimed(json!(many)).is_err());
    }
}
