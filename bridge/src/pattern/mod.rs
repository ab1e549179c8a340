//! EventBridge event patterns: which events match.
//!
//! A pattern has the event's shape; its leaves are lists of alternatives. All fields must match. An
//! array in the event matches if one of its elements does, and an array of objects only if one and
//! the same element satisfies all fields beside each other. A dotted name is the same as objects
//! within each other, in patterns and in events.
//!
//! [`parse`](Pattern::parse) checks everything that EventBridge would refuse; matching cannot fail.

mod leaf;

use std::fmt;

use serde_json::{Map, Value};

use crate::config::Section;
use crate::event::Event;
use leaf::Matcher;

/// Longest pattern in characters.
const MAX_CHARS: usize = 4096;

/// Most combinations that `$or` may make.
const MAX_COMBINATIONS: usize = 1000;

/// A parsed pattern.
#[derive(Clone, Debug)]
pub struct Pattern(Object);

#[derive(Clone, Debug, Default)]
struct Object {
    fields: Vec<(String, Node)>,
    /// Of each list, one must match.
    or: Vec<Vec<Object>>,
}

#[derive(Clone, Debug)]
enum Node {
    Object(Object),
    Leaf(Vec<Matcher>),
}

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
        let value: Value = serde_json::from_str(text).map_err(PatternError::new)?;
        let Value::Object(fields) = value else {
            return Err(PatternError::new("it must be an object"));
        };
        let object = Object::parse(&fields)?;
        if object.combinations() > MAX_COMBINATIONS {
            return Err(PatternError::new("$or makes more than 1000 combinations"));
        }
        Ok(Self(object))
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
        self.0.matches(&undotted(event))
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
            put(&mut document, name.to_owned(), Value::String(value.clone()));
        }
        let mut meta = Map::new();
        for (name, value) in &event.meta {
            put(&mut meta, name.clone(), Value::String(value.clone()));
        }
        document.insert("meta".to_owned(), Value::Object(meta));
        document.insert("detail".to_owned(), body.clone());
        document.insert("body".to_owned(), body);
        self.matches(&Value::Object(document))
    }
}

impl Object {
    fn parse(fields: &Map<String, Value>) -> Result<Self, PatternError> {
        if fields.is_empty() {
            return Err(PatternError::new("an empty object"));
        }
        let mut object = Self::default();
        for (name, value) in fields {
            if let Some(alternatives) = alternatives(name, value) {
                let parsed = alternatives.into_iter().map(Self::parse);
                object.or.push(parsed.collect::<Result<_, _>>()?);
                continue;
            }
            let node = match value {
                Value::Object(fields) => Node::Object(Self::parse(fields)?),
                Value::Array(items) => Node::Leaf(parse_leaf(name, items)?),
                _ => {
                    return Err(PatternError::new(format!(
                        "\"{name}\" must be an object or an array"
                    )));
                }
            };
            object.add(name, node)?;
        }
        Ok(object)
    }

    /// Adds a field; a dotted name becomes objects within each other.
    fn add(&mut self, name: &str, node: Node) -> Result<(), PatternError> {
        let Some((head, rest)) = name.split_once('.') else {
            return self.merge(name, node);
        };
        let mut inner = Self::default();
        inner.add(rest, node)?;
        self.merge(head, Node::Object(inner))
    }

    fn merge(&mut self, name: &str, node: Node) -> Result<(), PatternError> {
        let same = self.fields.iter_mut().find(|(field, _)| field == name);
        match (same, node) {
            (None, node) => self.fields.push((name.to_owned(), node)),
            (Some((_, Node::Object(object))), Node::Object(more)) => {
                for (name, node) in more.fields {
                    object.merge(&name, node)?;
                }
                object.or.extend(more.or);
            }
            _ => return Err(PatternError::new(format!("\"{name}\" is there twice"))),
        }
        Ok(())
    }

    fn combinations(&self) -> usize {
        let inner = self.fields.iter().map(|(_, node)| match node {
            Node::Object(object) => object.combinations(),
            Node::Leaf(_) => 1,
        });
        let or = self.or.iter().map(|alternatives| {
            let counts = alternatives.iter().map(Self::combinations);
            counts.fold(0_usize, usize::saturating_add)
        });
        inner.chain(or).fold(1, usize::saturating_mul)
    }

    fn matches(&self, value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().any(|item| self.matches(item)),
            Value::Object(fields) => self.matches_fields(fields),
            _ => self.matches_absent(),
        }
    }

    fn matches_fields(&self, event: &Map<String, Value>) -> bool {
        let fields = self
            .fields
            .iter()
            .all(|(name, node)| match (node, event.get(name)) {
                (Node::Leaf(matchers), value) => leaf::matches(matchers, value),
                (Node::Object(object), Some(value)) => object.matches(value),
                (Node::Object(object), None) => object.matches_absent(),
            });
        let or =
            |alternatives: &Vec<Self>| alternatives.iter().any(|one| one.matches_fields(event));
        fields && self.or.iter().all(or)
    }

    /// Whether it matches where there is nothing: only if all it asks is that there is nothing.
    fn matches_absent(&self) -> bool {
        self.matches_fields(&Map::new())
    }
}

/// The alternatives of a `$or` that is one: at least two objects, no operator among their names.
fn alternatives<'a>(name: &str, value: &'a Value) -> Option<Vec<&'a Map<String, Value>>> {
    let items = value
        .as_array()
        .filter(|items| name == "$or" && items.len() >= 2)?;
    let objects: Option<Vec<_>> = items.iter().map(Value::as_object).collect();
    let operator = |object: &&Map<String, Value>| object.keys().any(|key| leaf::is_operator(key));
    objects.filter(|objects| !objects.iter().any(operator))
}

fn parse_leaf(name: &str, items: &[Value]) -> Result<Vec<Matcher>, PatternError> {
    if items.is_empty() {
        return Err(PatternError::new(format!("\"{name}\" is an empty array")));
    }
    items.iter().map(Matcher::parse).collect()
}

/// An event with dotted names as objects within each other. What both ways name is there twice.
fn undotted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut out = Map::new();
            for (name, value) in fields {
                let mut steps = name.rsplit('.');
                let last = steps.next().unwrap_or_default();
                let inner = steps.fold((last, undotted(value)), |(name, value), step| {
                    let object = Map::from_iter([(name.to_owned(), value)]);
                    (step, Value::Object(object))
                });
                put(&mut out, inner.0.to_owned(), inner.1);
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.iter().map(undotted).collect()),
        other => other.clone(),
    }
}

/// Adds a value beside one of the same name.
fn put(object: &mut Map<String, Value>, name: String, value: Value) {
    match (object.get_mut(&name), value) {
        (None, value) => {
            object.insert(name, value);
        }
        (Some(Value::Object(there)), Value::Object(more)) => {
            for (name, value) in more {
                put(there, name, value);
            }
        }
        (Some(Value::Array(there)), value) => there.push(value),
        (Some(there), value) => *there = Value::Array(vec![there.take(), value]),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod documented;
