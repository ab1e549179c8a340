//! An event as patterns see it: places with names, each with what stands there.
//!
//! A dotted name leads to the same place as objects within each other, so that a place may hold a
//! value and other places at once.

use std::collections::BTreeMap;

use serde_json::Value;

/// A place in an event, and all below it.
#[derive(Debug, Default)]
pub(super) struct Document<'a> {
    /// Strings, numbers, `true`, `false` and `null` right here.
    pub(super) scalars: Vec<&'a Value>,
    pub(super) fields: BTreeMap<&'a str, Document<'a>>,
    /// The objects and arrays in an array here: what is within one of them belongs together, while
    /// its scalars are here. Of several arrays, which only dotted names can put at one place, the
    /// elements are taken together.
    pub(super) items: Vec<Document<'a>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(value: &'a Value) -> Self {
        let mut document = Self::default();
        document.add(value);
        document
    }

    fn add(&mut self, value: &'a Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let mut place = &mut *self;
                    for step in name.split('.') {
                        place = place.fields.entry(step).or_default();
                    }
                    place.add(value);
                }
            }
            Value::Array(items) => {
                for item in items {
                    match item {
                        Value::Object(_) | Value::Array(_) => self.items.push(Self::new(item)),
                        scalar => self.scalars.push(scalar),
                    }
                }
            }
            scalar => self.scalars.push(scalar),
        }
    }

    /// Whether a value stands at a path, in whatever elements of arrays.
    pub(super) fn has(&self, path: &[String]) -> bool {
        let here = match path {
            [] => !self.scalars.is_empty(),
            [step, rest @ ..] => {
                let field = self.fields.get(step.as_str());
                field.is_some_and(|field| field.has(rest))
            }
        };
        here || self.items.iter().any(|item| item.has(path))
    }
}
