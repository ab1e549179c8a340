//! Topic filters with places for the client's own values: `%c`, `%u`, `${claim}`.
//!
//! A value is put in as the text of a level and as nothing else: one that is empty or holds `+`,
//! `#`, `/` or NUL is not put in at all, and neither is one that would make a topic begin with `$`.
//! An allowing filter that lacks a value allows nothing; a denying one denies for all values.

use protocols::model::Filter;
use serde_json::Value;

use crate::auth::Identity;

/// Bytes of a pattern or of a filter made from one, at most.
const FILTER_BYTES: usize = 4096;

/// Levels of a pattern or of a filter made from one, at most.
const FILTER_LEVELS: usize = 128;

/// Filters that the rules make for one client, at most.
pub(super) const FILTERS_MAX: usize = 4096;

/// Who does something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    /// The user, with its claims.
    pub(super) who: &'a Identity,
    /// The client identifier; empty if it has none.
    pub(super) client_id: &'a str,
    /// What it speaks.
    pub(super) protocol: &'a str,
}

/// A topic filter with places for values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    text: String,
    levels: Vec<Vec<Part>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Client,
    User,
    Claim(String),
}

impl Pattern {
    /// Reads a pattern, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let levels = split(text)?;
        // With a plain name in each place it must be a filter.
        let example: Vec<String> = levels.iter().map(|level| example(level)).collect();
        let example = Filter::parse(example.join("/").into(), FILTER_BYTES, FILTER_LEVELS)
            .map_err(|error| error.to_string())?;
        if text == "$share" || text.starts_with("$share/") {
            return Err("write the filter without $share and the group".to_owned());
        }
        let first = levels.first().map_or(&[][..], Vec::as_slice);
        if example.as_str().starts_with('$') && first.len() > 1 {
            return Err("a first level with $ takes no placeholder".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
            levels,
        })
    }

    /// The pattern as it was written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Adds the filters that it stands for to `filters`. With `denies`, a missing or unusable
    /// value stands for all values; otherwise for none. `Err` if there are too many.
    pub(super) fn resolve(
        &self,
        subject: &Subject<'_>,
        denies: bool,
        filters: &mut Vec<Filter>,
    ) -> Result<(), TooMany> {
        let mut texts = vec![String::new()];
        for (depth, level) in self.levels.iter().enumerate() {
            let names = names(level, depth, subject, denies)?;
            let many = texts.len().saturating_mul(names.len());
            if filters.len().saturating_add(many) > FILTERS_MAX {
                return Err(TooMany);
            }
            texts = texts
                .iter()
                .flat_map(|text| names.iter().map(move |name| (text, name)))
                .map(|(text, name)| match depth {
                    0 => name.clone(),
                    _ => format!("{text}/{name}"),
                })
                .collect();
        }
        for text in texts {
            match Filter::parse(text.into(), FILTER_BYTES, FILTER_LEVELS) {
                Ok(filter) => filters.push(filter),
                // Longer than any topic may be: nothing is there to be denied or allowed.
                Err(error) => tracing::debug!(%error, "a rule names no topic"),
            }
        }
        Ok(())
    }
}

/// The rules name more filters than one client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// Reads the placeholders, then the levels: the name of a claim may contain slashes.
fn split(text: &str) -> Result<Vec<Vec<Part>>, String> {
    let mut levels = vec![Vec::new()];
    let mut plain = String::new();
    let mut rest = text;
    loop {
        let place = if let Some(after) = rest.strip_prefix("%c") {
            Some((Part::Client, after))
        } else if let Some(after) = rest.strip_prefix("%u") {
            Some((Part::User, after))
        } else if let Some(after) = rest.strip_prefix("${") {
            let (name, after) = after.split_once('}').ok_or("the } after ${ is missing")?;
            if name.is_empty() {
                return Err("${} names no claim".to_owned());
            }
            Some((Part::Claim(name.to_owned()), after))
        } else {
            None
        };
        let next = if place.is_some() {
            None
        } else {
            rest.chars().next()
        };
        let ends = place.is_some() || next.is_none_or(|char| char == '/');
        let level = levels.last_mut().expect("there is a first level");
        if ends && !plain.is_empty() {
            level.push(Part::Text(std::mem::take(&mut plain)));
        }
        match (place, next) {
            (Some((part, after)), _) => {
                level.push(part);
                rest = after;
            }
            (None, None) => return Ok(levels),
            (None, Some(char)) => {
                if char == '/' {
                    levels.push(Vec::new());
                } else {
                    plain.push(char);
                }
                rest = &rest[char.len_utf8()..];
            }
        }
    }
}

fn example(level: &[Part]) -> String {
    let parts = level.iter().map(|part| match part {
        Part::Text(text) => text.as_str(),
        Part::Client | Part::User | Part::Claim(_) => "x",
    });
    parts.collect()
}

/// The names that a level stands for.
fn names(
    level: &[Part],
    depth: usize,
    subject: &Subject<'_>,
    denies: bool,
) -> Result<Vec<String>, TooMany> {
    let mut names = vec![String::new()];
    let mut is_open = false;
    for (at, part) in level.iter().enumerate() {
        let values = match part {
            Part::Text(text) => {
                for name in &mut names {
                    name.push_str(text);
                }
                continue;
            }
            Part::Client => vec![subject.client_id.to_owned()],
            Part::User => subject.who.user.iter().map(ToString::to_string).collect(),
            Part::Claim(path) => claim(subject.who, path),
        };
        let asked = values.len();
        // A value at the start of a topic must not lead to the broker's own topics.
        let begins = depth == 0 && at == 0 && !denies;
        let values: Vec<_> = values
            .into_iter()
            .filter(|value| is_usable(value) && !(begins && value.starts_with('$')))
            .collect();
        is_open |= values.is_empty() || values.len() < asked;
        if names.len().saturating_mul(values.len()) > FILTERS_MAX {
            return Err(TooMany);
        }
        names = names
            .iter()
            .flat_map(|name| values.iter().map(move |value| format!("{name}{value}")))
            .collect();
    }
    if denies && is_open {
        return Ok(vec!["+".to_owned()]);
    }
    Ok(names)
}

/// Whether a value can stand in a level without meaning more than itself.
fn is_usable(value: &str) -> bool {
    !value.is_empty() && !value.contains(['+', '#', '/', '\0'])
}

/// The values of a claim: by its name, or by a path of names with dots between.
pub(super) fn claim(who: &Identity, path: &str) -> Vec<String> {
    let found = who.claims.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        rest.split('.')
            .try_fold(who.claims.get(first)?, |value, name| value.get(name))
    });
    match found {
        None => Vec::new(),
        // What is no name inside a list counts as a value that cannot be used.
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| scalar(item).unwrap_or_default())
            .collect(),
        Some(value) => scalar(value).into_iter().collect(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn who(user: &str, claims: Value) -> Identity {
        let Value::Object(claims) = claims else {
            panic!("claims are an object")
        };
        Identity {
            user: Some(user.to_owned().into()),
            claims,
            ..Identity::default()
        }
    }

    fn resolved(text: &str, who: &Identity, client_id: &str, denies: bool) -> Vec<String> {
        let subject = Subject {
            who,
            client_id,
            protocol: "mqtt",
        };
        let mut filters = Vec::new();
        let pattern = Pattern::parse(text).unwrap();
        pattern.resolve(&subject, denies, &mut filters).unwrap();
        filters.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_are_filled_in() {
        let claims = json!({
            "tenant": "t1", "site": {"id": 7}, "teams": ["a", "b"],
            "https://example.org/role": "r",
        });
        let who = who("ann", claims);
        for (text, expected) in [
            ("plain/+/#", vec!["plain/+/#"]),
            ("%u/%c", vec!["ann/c1"]),
            ("x-%c-y/#", vec!["x-c1-y/#"]),
            ("${tenant}/${site.id}/a", vec!["t1/7/a"]),
            ("t/${teams}/#", vec!["t/a/#", "t/b/#"]),
            ("${teams}/${teams}", vec!["a/a", "a/b", "b/a", "b/b"]),
            ("r/${https://example.org/role}", vec!["r/r"]),
            ("100%/%d", vec!["100%/%d"]),
            ("//", vec!["//"]),
            ("$user/%u/#", vec!["$user/ann/#"]),
        ] {
            assert_eq!(resolved(text, &who, "c1", false), expected, "{text}");
        }
    }

    #[test]
    fn values_smuggle_nothing_in() {
        let hostile = ["+", "#", "a/b", "", "a/#", "a+", "\0", "/"];
        for value in hostile {
            let who = who(value, json!({"x": value, "list": ["good", value]}));
            for text in ["d/%u/a", "d/%c/a", "d/${x}/a", "d/${none}/a", "d/k%u/#"] {
                let none: [String; 0] = [];
                assert_eq!(resolved(text, &who, value, false), none, "{text} {value}");
            }
            assert_eq!(resolved("d/${list}", &who, "c", false), ["d/good"]);
            // What is denied is denied all the more.
            assert_eq!(resolved("d/%u/a", &who, value, true), ["d/+/a"]);
            assert_eq!(resolved("d/k${list}/a", &who, value, true), ["d/+/a"]);
        }
    }

    #[test]
    fn values_lead_to_no_system_topic() {
        let who = who("$SYS", json!({}));
        assert!(resolved("%u/#", &who, "c", false).is_empty());
        assert_eq!(resolved("x/%u", &who, "c", false), ["x/$SYS"]);
        assert_eq!(resolved("%u/#", &who, "c", true), ["$SYS/#"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wrong) in [
            ("", "it is empty"),
            ("a/${b", "the } after ${ is missing"),
            ("a/${}", "${} names no claim"),
            ("a/+%c", "+ must be a level of its own and # the last level"),
            (
                "$share/g/a",
                "write the filter without $share and the group",
            ),
            ("$%c/a", "a first level with $ takes no placeholder"),
        ] {
            assert_eq!(Pattern::parse(text).unwrap_err(), wrong, "{text}");
        }
    }

    #[test]
    fn filters_are_bounded() {
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let who = who("u", json!({"x": many}));
        let subject = Subject {
            who: &who,
            client_id: "c",
            protocol: "mqtt",
        };
        let mut filters = Vec::new();
        for text in ["${x}/${x}", "${x}${x}", "a/${x}${x}${x}${x}${x}"] {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!(pattern.resolve(&subject, false, &mut filters), Err(TooMany));
        }
    }
}
