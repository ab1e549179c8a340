//! The lines of an export: JSON objects, one a line, each with a `kind`.
//!
//! They are independent of how the store writes things down, and this module is all that knows
//! them. Names are those of the JSON protocol where it has one; times are milliseconds since the
//! Unix epoch; a body is `text` if it is valid UTF-8, otherwise `base64`.

use serde::{Deserialize, Serialize};

/// The version of the lines that this program writes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(super) enum Line {
    /// The first one.
    Export(Head),
    /// A session; before all that is its.
    Session(Box<Session>),
    /// A subscription of a session.
    Subscription(Box<Subscription>),
    /// A QoS 2 publish of a session that was accepted and not released.
    Accepted(Accepted),
    /// A `$share` group or queue.
    Group(Group),
    /// A retained message.
    Retained(Retained),
    /// An idempotency key and its answer.
    Key(Key),
    /// A message in a queue; in the queue's order.
    Entry(Box<Entry>),
}

/// See [`Line::Export`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Head {
    /// [`VERSION`].
    pub(super) version: u32,
    /// Sessions and groups of the broker had smaller numbers.
    pub(super) next_number: u64,
}

/// See [`Line::Session`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    pub(super) expiry_secs: u32,
    pub(super) connected: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ends_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) will_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) will: Option<Will>,
    pub(super) overlap: Overlap,
    pub(super) window: u16,
    pub(super) next_position: u64,
    pub(super) next_subscription: u32,
    /// Pairs of lane and position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) sent: Vec<(u32, u64)>,
    /// Who its client proved to be, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) who: Option<String>,
}

/// A session's will.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Will {
    pub(super) message: Message,
    pub(super) delay_secs: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expiry_secs: Option<u32>,
}

/// What several matching subscriptions of a session mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Overlap {
    Merge,
    Each,
}

/// See [`Line::Subscription`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Subscription {
    pub(super) session: u64,
    pub(super) id: u32,
    pub(super) key: String,
    pub(super) filter: String,
    pub(super) qos: u8,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) retain_handling: RetainHandling,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identifier: Option<u32>,
    /// The window of a subscription that has a queue of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) own_lane: Option<u16>,
    pub(super) auto_settle: bool,
    pub(super) durable: bool,
    pub(super) retained: RetainedProgress,
}

/// Which retained messages a new subscription gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum RetainHandling {
    Send,
    SendIfNew,
    DoNotSend,
}

/// How far a subscription's retained messages were queued.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum RetainedProgress {
    Done,
    Wanted,
    /// Up to and including this topic.
    Behind(String),
}

/// See [`Line::Accepted`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Accepted {
    pub(super) session: u64,
    pub(super) packet_id: u16,
}

/// See [`Line::Group`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Group {
    pub(super) number: u64,
    /// The share name; none for a queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) share: Option<String>,
    pub(super) filter: String,
}

/// See [`Line::Retained`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Retained {
    pub(super) message: Message,
}

/// See [`Line::Key`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Key {
    #[allow(clippy::struct_field_names)] // what it is called in the lines
    pub(super) key: String,
    pub(super) answer: u32,
    pub(super) until: u64,
}

/// See [`Line::Entry`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    /// The session's or group's number.
    pub(super) owner: u64,
    pub(super) lane: u32,
    pub(super) position: u64,
    pub(super) qos: u8,
    pub(super) retain: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) attempts: u32,
    /// The client has it (PUBREC).
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) received: bool,
    /// Numbers of subscriptions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) matched: Vec<u32>,
    /// The group that it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<From>,
    pub(super) message: Message,
}

/// A place in a group's queue.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct From {
    pub(super) group: u64,
    pub(super) position: u64,
}

/// A message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) body: Body,
    pub(super) qos: u8,
    pub(super) retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    /// The number of the session that published it; 0 for the broker.
    pub(super) publisher: u64,
    /// Of a retained message: who published it, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
    /// Of a retained message: since when it is kept, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retained_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) properties: Option<Properties>,
}

/// Bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Body {
    Text(String),
    Base64(String),
}

/// What travels with a message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Properties {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) correlation: Option<Body>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) payload_format: Option<PayloadFormat>,
    /// Names and values, in the publisher's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) user: Vec<(String, String)>,
}

/// Whether the publisher said that the body is text or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum PayloadFormat {
    Bytes,
    Utf8,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // what serde hands over
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // what serde hands over
fn is_false(flag: &bool) -> bool {
    !*flag
}
