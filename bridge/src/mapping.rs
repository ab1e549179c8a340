//! The mapping: which publication an event becomes.
//!
//! The topic is the attribute `topic` (or `mqtt.topic`), else that of the first route that matches,
//! else the template of the configuration, else what the source suggests. Other attributes with a meaning set the publication's fields;
//! the rest are carried as user properties, in their order. It does no I/O: `explain` and the run
//! loop use the same function.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use bytestring::ByteString;
use protocols::model::{Filter, QoS, Topic};

use crate::config::Section;
use crate::event::Event;
use crate::pattern::Pattern;
use crate::template::{FillError, Template, View};

/// The user property with the idempotency key: Polycast publishes the same key once.
pub const IDEMPOTENCY_PROPERTY: &str = "idempotency-key";

/// The user property with the names of the bridges that a message went through.
pub const VIA_PROPERTY: &str = "polycast-via";

/// Longest text of an MQTT packet in bytes, and so of a topic `[MQTT-1.5.4]`.
const TEXT_BYTES: usize = 65_535;

/// Longest idempotency key in bytes; a longer one is replaced by its digest.
const KEY_BYTES: usize = 256;

/// A message to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: QoS,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// Seconds until nobody wants it any more.
    pub expiry_secs: Option<u32>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// Where an answer goes.
    pub response_topic: Option<String>,
    /// What an answer refers to.
    pub correlation: Option<Bytes>,
    /// Names and values, repeats kept.
    pub user_properties: Vec<(String, String)>,
}

impl Publication {
    /// An event that goes no further, with `marks` that say why behind its own attributes.
    pub(crate) fn dead_letter(topic: &str, event: &Event, marks: [(&str, &str); 3]) -> Self {
        let marks = marks.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            topic: topic.to_owned(),
            payload: event.body.clone(),
            qos: QoS::AtLeastOnce,
            retain: false,
            expiry_secs: None,
            content_type: event.content_type.clone(),
            response_topic: None,
            correlation: None,
            user_properties: event.attributes.iter().cloned().chain(marks).collect(),
        }
    }

    /// Bytes that it occupies, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let properties = self.user_properties.iter();
        let properties: usize = properties
            .map(|(name, value)| name.len() + value.len() + 5)
            .sum();
        self.topic.len() + self.payload.len() + properties + 64
    }
}

/// Why an event has no publication: it is poison, trying again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A value that a template needs is not there or does not fit.
    #[error("{setting}: {error}")]
    Template {
        /// The setting with the template.
        setting: &'static str,
        /// What is wrong.
        error: FillError,
    },
    /// Neither an attribute nor a setting says where to.
    #[error("no topic: there is no attribute \"topic\" and no setting \"topic\"")]
    NoTopic,
    /// The topic is not one.
    #[error("\"{topic}\" is not a topic: {why}")]
    Topic {
        /// The text.
        topic: String,
        /// What is wrong with it.
        why: String,
    },
    /// The sender may not choose this topic.
    #[error("the attribute \"topic\" says \"{0}\", which is not among allowed_topics")]
    NotAllowed(String),
    /// An attribute with a meaning has a value without one.
    #[error("the attribute \"{name}\" cannot be \"{value}\"")]
    Attribute {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A name or value is longer than a packet can say.
    #[error("{0} is longer than {TEXT_BYTES} bytes")]
    TooLong(&'static str),
}

/// How a source's events become publications.
#[derive(Clone, Debug)]
pub struct Mapping {
    routes: Vec<Route>,
    topic: Option<Template>,
    topic_from_attribute: bool,
    allowed_topics: Vec<Filter>,
    qos: QoS,
    retain: bool,
    expiry_secs: Option<u32>,
    content_type: Option<Template>,
    response_topic: Option<Template>,
    correlation: Option<Template>,
    user_properties: Vec<(String, Template)>,
    carried: Carried,
    idempotency: Idempotency,
    order_by: Option<Template>,
    needs_body: bool,
}

/// A topic for events that match.
#[derive(Clone, Debug)]
struct Route {
    pattern: Pattern,
    topic: Template,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Carried {
    All,
    None,
    Named(Vec<String>),
}

#[derive(Clone, Debug)]
enum Idempotency {
    Auto,
    Off,
    Template(Template),
}

const QOS_NAMES: [(&str, QoS); 3] = [
    ("0", QoS::AtMostOnce),
    ("1", QoS::AtLeastOnce),
    ("2", QoS::ExactlyOnce),
];

impl Mapping {
    /// Reads it from a source's table.
    pub fn read(section: &mut Section) -> Self {
        let topic = read_topic(section);
        let max_expiry = std::time::Duration::from_secs(u64::from(u32::MAX));
        let expiry = section.optional_duration("expiry", SECOND..=max_expiry);
        let mut mapping = Self {
            routes: read_routes(section),
            topic,
            topic_from_attribute: section.flag("topic_from_attribute", true),
            allowed_topics: read_filters(section),
            qos: read_qos(section),
            retain: section.flag("retain", false),
            expiry_secs: expiry.and_then(|expiry| u32::try_from(expiry.as_secs()).ok()),
            content_type: section.template("content_type"),
            response_topic: section.template("response_topic"),
            correlation: section.template("correlation"),
            user_properties: section.templates("user_properties"),
            carried: read_carried(section),
            idempotency: read_idempotency(section),
            order_by: section.template("order_by"),
            needs_body: false,
        };
        let needs_body = mapping.templates().any(Template::needs_body);
        mapping.needs_body = needs_body;
        mapping
    }

    /// What an event becomes.
    pub fn publication(
        &self,
        event: &Event,
        source: &str,
        bridge: &str,
    ) -> Result<Publication, MappingError> {
        let view = View::new(event, source, self.needs_body);
        let mut publication = Publication {
            topic: self.topic(&view)?,
            payload: event.body.clone(),
            qos: choose(event, "qos", parse_qos)?.unwrap_or(self.qos),
            retain: choose(event, "retain", parse_flag)?.unwrap_or(self.retain),
            expiry_secs: choose(event, "expiry", |text| text.parse().ok())?.or(self.expiry_secs),
            content_type: self.content_type(&view)?,
            response_topic: fill_or(event, "response-topic", self.response_topic.as_ref(), &view)?,
            correlation: fill_or(event, "correlation-data", self.correlation.as_ref(), &view)?
                .map(Bytes::from),
            user_properties: self.carried(event),
        };
        for (name, template) in &self.user_properties {
            let value = fill("user_properties", template, &view)?;
            publication.user_properties.push((name.clone(), value));
        }
        let via = (VIA_PROPERTY.to_owned(), bridge.to_owned());
        publication.user_properties.push(via);
        if let Some(key) = self.key(&view)? {
            let property = (IDEMPOTENCY_PROPERTY.to_owned(), key);
            publication.user_properties.push(property);
        }
        check(&publication)?;
        Ok(publication)
    }

    /// Events with the same text keep their order; none if there is no order to keep.
    pub fn group(&self, event: &Event, source: &str) -> Result<Option<String>, MappingError> {
        match &self.order_by {
            None => Ok(event.group.clone()),
            Some(template) => {
                let view = View::new(event, source, template.needs_body());
                fill("order_by", template, &view).map(Some)
            }
        }
    }

    /// The idempotency key that the publication carries.
    fn key(&self, view: &View<'_>) -> Result<Option<String>, MappingError> {
        let key = match (
            &self.idempotency,
            view.event.attribute(IDEMPOTENCY_PROPERTY),
        ) {
            (Idempotency::Off, _) => return Ok(None),
            (Idempotency::Template(template), _) => {
                Some(Cow::Owned(fill("idempotency", template, view)?))
            }
            (Idempotency::Auto, Some(key)) => Some(Cow::Borrowed(key)),
            (Idempotency::Auto, None) => view.event.key.as_deref().map(Cow::Borrowed),
        };
        let key = key.filter(|key| !key.is_empty());
        Ok(key.map(|key| shortened([view.source, "/", &key].concat())))
    }

    fn topic(&self, view: &View<'_>) -> Result<String, MappingError> {
        let event = view.event;
        let asked = TOPIC_ATTRIBUTES
            .iter()
            .find_map(|name| event.attribute(name));
        if let Some(topic) = asked.filter(|_| self.topic_from_attribute) {
            let parsed = check_topic(topic)?;
            let allowed = self.allowed_topics.iter();
            if !self.allowed_topics.is_empty()
                && !allowed.into_iter().any(|filter| filter.matches(&parsed))
            {
                return Err(MappingError::NotAllowed(topic.to_owned()));
            }
            return Ok(topic.to_owned());
        }
        let mut routes = self.routes.iter();
        let route = routes.find(|route| route.pattern.matches_event(event));
        let template = route.map(|route| &route.topic).or(self.topic.as_ref());
        let topic = match (template, &event.topic) {
            (Some(template), _) => {
                if let Some(fixed) = template.fixed() {
                    // It was looked at when it was read.
                    return Ok(fixed.to_owned());
                }
                template.fill_topic(view).map_err(|error| {
                    let setting = "topic";
                    MappingError::Template { setting, error }
                })?
            }
            (None, Some(topic)) => topic.clone(),
            (None, None) => return Err(MappingError::NoTopic),
        };
        check_topic(&topic)?;
        Ok(topic)
    }

    fn content_type(&self, view: &View<'_>) -> Result<Option<String>, MappingError> {
        let said = fill_or(view.event, "content-type", self.content_type.as_ref(), view)?;
        Ok(said.or_else(|| view.event.content_type.clone()))
    }

    fn carried(&self, event: &Event) -> Vec<(String, String)> {
        let attributes = event.attributes.iter();
        let wanted = attributes.filter(|(name, _)| match &self.carried {
            _ if MEANINGFUL.contains(&name.as_str()) => false,
            Carried::All => true,
            Carried::None => name == VIA_PROPERTY,
            Carried::Named(names) => names.contains(name) || name == VIA_PROPERTY,
        });
        // Behind them come those of the configuration, and two of the bridge's own.
        let count = event.attributes.len() + self.user_properties.len() + 2;
        let mut carried = Vec::with_capacity(count);
        carried.extend(wanted.cloned());
        carried
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        let single = [
            &self.topic,
            &self.content_type,
            &self.response_topic,
            &self.correlation,
        ];
        let key = match &self.idempotency {
            Idempotency::Template(template) => Some(template),
            _ => None,
        };
        let properties = self.user_properties.iter().map(|(_, template)| template);
        let routes = self.routes.iter().map(|route| &route.topic);
        single
            .into_iter()
            .flatten()
            .chain(key)
            .chain(properties)
            .chain(routes)
    }
}

/// Attributes that say where to.
const TOPIC_ATTRIBUTES: [&str; 2] = ["topic", "mqtt.topic"];

/// Attributes that set a field and are not carried as user properties.
const MEANINGFUL: [&str; 9] = [
    "topic",
    "mqtt.topic",
    "qos",
    "retain",
    "expiry",
    "content-type",
    "response-topic",
    "correlation-data",
    IDEMPOTENCY_PROPERTY,
];

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

fn read_topic(section: &mut Section) -> Option<Template> {
    let topic = section.template("topic");
    if let Some(fixed) = topic.as_ref().and_then(Template::fixed)
        && let Err(error) = check_topic(fixed)
    {
        section.problem("topic", error.to_string());
    }
    topic
}

fn read_routes(section: &mut Section) -> Vec<Route> {
    let routes = section
        .tables("routes")
        .into_iter()
        .filter_map(|mut section| {
            for key in ["pattern", "topic"] {
                if !section.has(key) {
                    section.problem(key, "is missing");
                }
            }
            let pattern = Pattern::read(&mut section, "pattern");
            let topic = read_topic(&mut section);
            let (pattern, topic) = pattern.zip(topic)?;
            Some(Route { pattern, topic })
        });
    routes.collect()
}

fn read_qos(section: &mut Section) -> QoS {
    match section.count("qos", 1, 0..=2) {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn read_filters(section: &mut Section) -> Vec<Filter> {
    let mut filters = Vec::new();
    for text in section.texts("allowed_topics").unwrap_or_default() {
        match Filter::parse(ByteString::from(text.as_str()), TEXT_BYTES, usize::MAX) {
            Ok(filter) => filters.push(filter),
            Err(error) => section.problem("allowed_topics", format!("\"{text}\": {error}")),
        }
    }
    filters
}

fn read_carried(section: &mut Section) -> Carried {
    match section.texts("attributes") {
        None => Carried::All,
        Some(names) if names.is_empty() => Carried::None,
        Some(names) => Carried::Named(names),
    }
}

fn read_idempotency(section: &mut Section) -> Idempotency {
    match section.template("idempotency") {
        None => Idempotency::Auto,
        Some(template) => match template.fixed() {
            Some("auto") => Idempotency::Auto,
            Some("off") => Idempotency::Off,
            Some(_) => {
                section.problem("idempotency", "must be auto, off or a template with ${...}");
                Idempotency::Auto
            }
            None => Idempotency::Template(template),
        },
    }
}

fn choose<T>(
    event: &Event,
    name: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, MappingError> {
    match event.attribute(name) {
        None => Ok(None),
        Some(text) => match parse(text) {
            Some(value) => Ok(Some(value)),
            None => {
                let value = text.to_owned();
                Err(MappingError::Attribute { name, value })
            }
        },
    }
}

fn parse_qos(text: &str) -> Option<QoS> {
    let found = QOS_NAMES.iter().find(|(name, _)| *name == text);
    found.map(|(_, qos)| *qos)
}

fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn fill_or(
    event: &Event,
    attribute: &'static str,
    template: Option<&Template>,
    view: &View<'_>,
) -> Result<Option<String>, MappingError> {
    match (event.attribute(attribute), template) {
        (Some(value), _) => Ok(Some(value.to_owned())),
        (None, Some(template)) => fill(attribute, template, view).map(Some),
        (None, None) => Ok(None),
    }
}

fn fill(
    setting: &'static str,
    template: &Template,
    view: &View<'_>,
) -> Result<String, MappingError> {
    let filled = template.fill(view);
    filled.map_err(|error| MappingError::Template { setting, error })
}

fn check_topic(topic: &str) -> Result<Topic, MappingError> {
    let refused = |why: String| MappingError::Topic {
        topic: topic.to_owned(),
        why,
    };
    if topic == "$SYS" || topic.starts_with("$SYS/") || topic.starts_with("$share/") {
        return Err(refused("it is the broker's own".to_owned()));
    }
    Topic::parse(ByteString::from(topic), TEXT_BYTES, usize::MAX)
        .map_err(|error| refused(error.to_string()))
}

/// A packet says the length of a text in two bytes; a longer text would garble it.
fn check(publication: &Publication) -> Result<(), MappingError> {
    let long = |text: &str| text.len() > TEXT_BYTES;
    let maybe_long = |text: &Option<String>| text.as_deref().is_some_and(long);
    if let Some(topic) = &publication.response_topic {
        check_topic(topic)?;
    }
    if maybe_long(&publication.content_type) {
        return Err(MappingError::TooLong("the content type"));
    }
    if publication
        .correlation
        .as_ref()
        .is_some_and(|data| data.len() > TEXT_BYTES)
    {
        return Err(MappingError::TooLong("the correlation data"));
    }
    let properties = &publication.user_properties;
    if properties
        .iter()
        .any(|(name, value)| long(name) || long(value))
    {
        return Err(MappingError::TooLong("a user property"));
    }
    Ok(())
}

/// The key, or its digest if the broker would refuse its length.
fn shortened(key: String) -> String {
    if key.len() <= KEY_BYTES {
        return key;
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let mut text = String::from("sha256:");
    for byte in digest.as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
