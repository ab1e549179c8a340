//! Templates: text with `${...}` in it, filled in from an event.
//!
//! | written | is |
//! |---|---|
//! | `${body}` | the whole body, if it is text |
//! | `${body.a.b.0}` | a field of the JSON body; numbers pick from arrays |
//! | `${attributes.NAME}` | an attribute |
//! | `${meta.NAME}` | what the source says: `queue`, `subject`, `message-id`, … |
//! | `${id}`, `${group}`, `${key}`, `${source}` | of the event, and the source's name |
//! | `${path:-text}` | `text` if there is nothing at the path |
//! | `${path\|levels}` | in topics: the value may hold `/` |
//! | `$${` | `${` itself |
//!
//! Parsed once with the configuration; filling in fails if a value is missing, so that no message
//! goes to a topic that nobody meant.

use serde_json::Value;

use crate::event::Event;

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    written: String,
    place: Place,
    levels: bool,
    default: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Body(Vec<String>),
    Attribute(String),
    Meta(String),
    Id,
    Group,
    Key,
    Source,
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `${` without `}`.
    #[error("\"${{\" without \"}}\"")]
    Unclosed,
    /// The place is none of those that there are.
    #[error("\"${{{0}}}\" names none of body, attributes.NAME, meta.NAME, id, group, key, source")]
    UnknownPlace(String),
    /// After `|` stands something else than `levels`.
    #[error("\"{0}\" after \"|\" is not known, only \"levels\" is")]
    UnknownFilter(String),
}

/// Why a template could not be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// There is nothing at that place.
    #[error("nothing is at \"{0}\"")]
    Missing(String),
    /// A topic level may not be this.
    #[error("\"{value}\" at \"{place}\" cannot be a topic level")]
    NotALevel {
        /// Where it stood.
        place: String,
        /// What it was.
        value: String,
    },
}

/// An event with what is read of it more than once.
#[derive(Debug)]
pub struct View<'a> {
    /// The event.
    pub event: &'a Event,
    /// The name of the source in the configuration.
    pub source: &'a str,
    body: Option<Value>,
}

impl<'a> View<'a> {
    /// Looks at an event; its body is parsed now if one of the templates needs it.
    #[must_use]
    pub fn new(event: &'a Event, source: &'a str, needs_body: bool) -> Self {
        let body = needs_body.then(|| serde_json::from_slice(&event.body).ok());
        Self {
            event,
            source,
            body: body.flatten(),
        }
    }
}

impl Template {
    /// Parses a template.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                text.push_str(&rest[..at - 1]);
                text.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            text.push_str(&rest[..at]);
            let end = rest[at..].find('}').ok_or(TemplateError::Unclosed)? + at;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Field(Field::parse(&rest[at + 2..end])?));
            rest = &rest[end + 1..];
        }
        text.push_str(rest);
        if !text.is_empty() || parts.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self {
            source: source.to_owned(),
            parts,
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The text, if nothing is filled in.
    #[must_use]
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it looks into a JSON body.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.parts.iter().any(|part| {
            matches!(part, Part::Field(Field { place: Place::Body(path), .. }) if !path.is_empty())
        })
    }

    /// Fills it in.
    pub fn fill(&self, view: &View<'_>) -> Result<String, FillError> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(field) => out.push_str(&field.value(view)?),
            }
        }
        Ok(out)
    }

    /// Fills it in as a topic: a value is one level, unless it says `|levels`.
    pub fn fill_topic(&self, view: &View<'_>) -> Result<String, FillError> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(field) => out.push_str(&field.levels(view)?),
            }
        }
        Ok(out)
    }
}

impl Field {
    fn parse(written: &str) -> Result<Self, TemplateError> {
        let (head, default) = match written.split_once(":-") {
            Some((head, default)) => (head, Some(default.to_owned())),
            None => (written, None),
        };
        let (path, levels) = match head.split_once('|') {
            Some((path, "levels")) => (path, true),
            Some((_, filter)) => return Err(TemplateError::UnknownFilter(filter.to_owned())),
            None => (head, false),
        };
        let place =
            Place::parse(path).ok_or_else(|| TemplateError::UnknownPlace(written.to_owned()))?;
        Ok(Self {
            written: path.to_owned(),
            place,
            levels,
            default,
        })
    }

    fn value(&self, view: &View<'_>) -> Result<String, FillError> {
        match self.place.value(view).or_else(|| self.default.clone()) {
            Some(value) => Ok(value),
            None => Err(FillError::Missing(self.written.clone())),
        }
    }

    fn levels(&self, view: &View<'_>) -> Result<String, FillError> {
        let value = self.value(view)?;
        let forbidden = |c: char| matches!(c, '+' | '#' | '\0') || (c == '/' && !self.levels);
        if value.is_empty() || value.contains(forbidden) {
            let place = self.written.clone();
            return Err(FillError::NotALevel { place, value });
        }
        Ok(value)
    }
}

impl Place {
    fn parse(path: &str) -> Option<Self> {
        let (head, rest) = match path.split_once('.') {
            Some((head, rest)) if !rest.is_empty() => (head, Some(rest)),
            Some(_) => return None,
            None => (path, None),
        };
        match (head, rest) {
            ("body", None) => Some(Self::Body(Vec::new())),
            ("body", Some(rest)) => Some(Self::Body(rest.split('.').map(str::to_owned).collect())),
            ("attributes", Some(name)) => Some(Self::Attribute(name.to_owned())),
            ("meta", Some(name)) => Some(Self::Meta(name.to_owned())),
            ("id", None) => Some(Self::Id),
            ("group", None) => Some(Self::Group),
            ("key", None) => Some(Self::Key),
            ("source", None) => Some(Self::Source),
            _ => None,
        }
    }

    fn value(&self, view: &View<'_>) -> Option<String> {
        let event = view.event;
        match self {
            Self::Body(path) if path.is_empty() => String::from_utf8(event.body.to_vec()).ok(),
            Self::Body(path) => text(descend(view.body.as_ref()?, path)?),
            Self::Attribute(name) => event.attribute(name).map(str::to_owned),
            Self::Meta(name) => event.meta(name).map(str::to_owned),
            Self::Id => Some(event.id.clone()),
            Self::Group => event.group.clone(),
            Self::Key => event.key.clone(),
            Self::Source => Some(view.source.to_owned()),
        }
    }
}

fn descend<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Object(fields) => fields.get(step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Scalars as they read; objects and arrays as JSON; null is nothing.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            id: "m1".into(),
            group: Some("g".into()),
            attributes: vec![("region.name".into(), "eu/west".into())],
            meta: vec![("queue".into(), "orders".into())],
            body: r#"{"customer":{"id":7,"tags":["a","b"]},"path":"x/y","none":null,"bad":"a+b"}"#
                .into(),
            ..Event::default()
        }
    }

    fn fill(template: &str) -> Result<String, FillError> {
        let event = event();
        Template::parse(template)
            .unwrap()
            .fill(&View::new(&event, "shop", true))
    }

    fn topic(template: &str) -> Result<String, FillError> {
        let event = event();
        Template::parse(template)
            .unwrap()
            .fill_topic(&View::new(&event, "shop", true))
    }

    #[test]
    fn fills_in_from_everywhere() {
        for (template, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("orders/${body.customer.id}/new", "orders/7/new"),
            ("${body.customer.tags.1}", "b"),
            ("${body.customer}", r#"{"id":7,"tags":["a","b"]}"#),
            ("${attributes.region.name}", "eu/west"),
            ("${meta.queue}-${id}-${group}-${source}", "orders-m1-g-shop"),
            ("${body.missing:-guest}", "guest"),
            ("${body.none:-}x", "x"),
            ("$${id} costs $5", "${id} costs $5"),
        ] {
            assert_eq!(fill(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_missing_value_is_an_error() {
        for (template, place) in [
            ("${body.nobody}", "body.nobody"),
            ("${body.none}", "body.none"),
            ("${body.customer.tags.9}", "body.customer.tags.9"),
            ("${key}", "key"),
        ] {
            assert_eq!(fill(template), Err(FillError::Missing(place.into())));
        }
    }

    #[test]
    fn a_value_cannot_break_out_of_its_level() {
        assert!(matches!(
            topic("a/${body.path}"),
            Err(FillError::NotALevel { .. })
        ));
        assert!(matches!(
            topic("a/${body.bad|levels}"),
            Err(FillError::NotALevel { .. })
        ));
        assert!(matches!(
            topic("a/${body.nobody:-}"),
            Err(FillError::NotALevel { .. })
        ));
        assert_eq!(topic("a/${body.path|levels}").as_deref(), Ok("a/x/y"));
    }

    #[test]
    fn says_what_is_wrong_with_a_template() {
        assert_eq!(Template::parse("a${body"), Err(TemplateError::Unclosed));
        for unknown in ["x", "body.", "attributes", "meta", "id.x", ""] {
            assert_eq!(
                Template::parse(&format!("${{{unknown}}}")),
                Err(TemplateError::UnknownPlace(unknown.into()))
            );
        }
        assert_eq!(
            Template::parse("${id|upper}"),
            Err(TemplateError::UnknownFilter("upper".into()))
        );
    }

    #[test]
    fn the_body_is_parsed_only_for_fields() {
        assert!(Template::parse("${body.a}").unwrap().needs_body());
        assert!(!Template::parse("${body}/${id}").unwrap().needs_body());
    }
}
