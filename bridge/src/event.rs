//! The event: what every source yields and what the mapping turns into a publication.
//!
//! It knows neither where it came from nor where it goes. Sources build it, [`crate::envelope`]
//! unwraps it, [`crate::mapping`] reads it.

use bytes::Bytes;

/// Something that happened, as a source received it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Names the event for people: a `MessageId`, a sequence number.
    pub id: String,
    /// The same for each delivery of the same event; none if the source has no such thing.
    pub key: Option<String>,
    /// Events of the same group keep their order.
    pub group: Option<String>,
    /// Where the source would publish it if nothing else is said.
    pub topic: Option<String>,
    /// What the sender attached: carried on as user properties, in this order.
    pub attributes: Vec<(String, String)>,
    /// What the source says about it; templates can read it as `meta`, it is not carried on.
    pub meta: Vec<(String, String)>,
    /// The content.
    pub body: Bytes,
    /// What the body is.
    pub content_type: Option<String>,
    /// When the source accepted it, in milliseconds since 1970.
    pub accepted_ms: Option<u64>,
    /// How many times it has been received, this one included, as far as the source knows.
    pub received: Option<u64>,
}

impl Event {
    /// The first attribute of a name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        first(&self.attributes, name)
    }

    /// The first entry of the source's own of a name.
    #[must_use]
    pub fn meta(&self, name: &str) -> Option<&str> {
        first(&self.meta, name)
    }

    /// Adds to what the source says about it.
    #[must_use]
    pub fn with_meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.push((name.into(), value.into()));
        self
    }
}

fn first<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}
