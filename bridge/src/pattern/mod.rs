//! EventBridge event patterns: which events match.
//!
//! A pattern has the event's shape; its leaves are lists of alternatives. All fields must match. An
//! array in the event matches if one of its elements does, and an array of objects only if one and
//! the same element satisfies all fields beside each other. A dotted name is the same as objects
//! within each other, in patterns and in events.
//!
//! [`parse`](Pattern::parse) checks everything that EventBridge would refuse; matching cannot fail.
//! Behaviour is that of AWS's open rule engine, which the service runs. Left out on purpose: there a
//! number is within `0.0.0.0/0`, and a list within `anything-but` may be empty (and fails later).

mod compile;
mod document;
mod json;
mod leaf;

use std::fmt;

use serde_json::{Map, Value};

use crate::config::Section;
use crate::event::Event;
use compile::Rule;
use document::Document;
use json::Json;

/// Longest pattern in characters.
const MAX_CHARS: usize = 4096;

/// A parsed pattern: what `$or` means is written out, so one of these must match.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<Rule>);

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event pattern is not valid: {0}")]
pub struct PatternError(String);

impl PatternError {
    fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

impl Pattern {
    /// Parses a pattern's JSON text.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.chars().count() > MAX_CHARS {
            return Err(PatternError::new(format!(
                "longer than {MAX_CHARS} characters"
            )));
        }
        let value: Json = serde_json::from_str(text).map_err(PatternError::new)?;
        compile::compile(&value).map(Self)
    }

    /// Reads one from a table.
    pub fn read(section: &mut Section, key: &str) -> Option<Self> {
        let text = section.text(key)?;
        let parsed = Self::parse(&text);
        parsed
            .map_err(|error| section.problem(key, error.to_string()))
            .ok()
    }

    /// Whether an event's JSON matches.
    #[must_use]
    pub fn matches(&self, event: &Value) -> bool {
        let document = Document::new(event);
        self.0.iter().any(|rule| rule.matches(&document))
    }

    /// Whether an event of any source matches.
    ///
    /// What is matched: its attributes as fields of their names, the body as `detail` and `body`
    /// (as JSON if it is JSON, else as text), and the source's own as `meta`. An EventBridge
    /// event looks as it was in its envelope.
    #[must_use]
    pub fn matches_event(&self, event: &Event) -> bool {
        let body = serde_json::from_slice(&event.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&event.body).into_owned()));
        let mut document = Map::new();
        for (name, value) in &event.attributes {
            let name = if name == "resource" {
                "resources"
            } else {
                name
            };
            put(&mut document, name, value);
        }
        let mut meta = Map::new();
        for (name, value) in &event.meta {
            put(&mut meta, name, value);
        }
        document.insert("meta".to_owned(), Value::Object(meta));
        document.insert("detail".to_owned(), body.clone());
        document.insert("body".to_owned(), body);
        self.matches(&Value::Object(document))
    }
}

/// Adds a text; several of one name are an array.
fn put(object: &mut Map<String, Value>, name: &str, text: &str) {
    let text = Value::String(text.to_owned());
    match object.get_mut(name) {
        None => {
            object.insert(name.to_owned(), text);
        }
        Some(Value::Array(there)) => there.push(text),
        Some(there) => *there = Value::Array(vec![there.take(), text]),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod documented;

// Its tables are read by their columns.
#[cfg(test)]
#[rustfmt::skip]
mod engine_cases;
