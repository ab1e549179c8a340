//! Messages and what travels with them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use bytestring::ByteString;

use super::{QoS, Timestamp, Topic};

/// One published message, shared by all its receivers.
///
/// The unit is the same for every protocol; how it looks on a wire is computed at most once per
/// [`Encoding`] and kept with it.
#[derive(Debug)]
pub struct Message {
    /// Where it was published.
    pub topic: Topic,
    /// The body. May be empty.
    pub payload: Bytes,
    /// The level that the publisher asked for.
    pub qos: QoS,
    /// Whether the publisher asked to keep it for later subscribers.
    pub retain: bool,
    /// Whether the publisher said that the payload is text or not.
    pub payload_format: Option<PayloadFormat>,
    /// What else travels with it; `None` is the common case and costs a word.
    pub properties: Option<Box<Properties>>,
    /// When it stops being of interest to those who did not get it yet.
    pub expires_at: Option<Timestamp>,
    /// The publisher's session number, for no-local subscriptions; 0 for the broker itself.
    pub publisher: u64,
    /// Who published it, in the broker's own words: kept with retained messages, to be asked again
    /// before they are sent. No protocol writes it.
    pub source: Option<Arc<str>>,
    /// When the broker took it, in microseconds of a clock of its own; 0 if that is not known. For
    /// figures only: nothing is decided by it.
    pub taken_us: u64,
    /// When the broker kept it as the retained message of its topic; 0 if it was not kept, or that
    /// is not known.
    pub retained_at: Timestamp,
    is_for_one: AtomicBool,
    encodings: OnceLock<Box<Encoded>>,
    deflated: OnceLock<Box<Deflated>>,
}

/// Properties that all protocols can carry, beside topic, payload with its format and quality of
/// service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// MIME type of the payload (MQTT 5 content type, STOMP `content-type`, JSON `contentType`).
    pub content_type: Option<ByteString>,
    /// Topic for the answer (response topic, `reply-to`, `replyTo`).
    pub reply_to: Option<ByteString>,
    /// Ties an answer to its request (correlation data, `correlation-id`, `correlationId`).
    pub correlation: Option<Bytes>,
    /// User properties or headers in the publisher's order, repeats kept.
    pub user: Vec<(ByteString, ByteString)>,
}

/// The payload format indicator `[MQTT-3.3.2.3.2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadFormat {
    /// Unspecified bytes (0).
    Bytes,
    /// UTF-8 (1).
    Utf8,
}

/// Names one way to write a message on a wire, for [`Message::encoded`].
///
/// Each protocol makes its own constants; two are the same if their names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding(pub &'static str);

#[derive(Debug)]
struct Encoded {
    encoding: Encoding,
    bytes: Bytes,
    next: OnceLock<Box<Encoded>>,
}

/// Compressed forms that one message keeps, for as many wire forms and sizes of window.
const DEFLATED_MAX: usize = 4;

/// A body and what it is compressed.
#[derive(Debug)]
struct Deflated {
    /// Kept, so that its address stays its own.
    body: Bytes,
    window_bits: u8,
    bytes: Bytes,
    next: OnceLock<Box<Deflated>>,
}

impl Message {
    /// There is one receiver only: no form of it needs to be kept for others. A hint, which costs
    /// nothing but time if it is wrong.
    pub fn set_for_one(&self) {
        self.is_for_one.store(true, Ordering::Relaxed);
    }

    /// See [`Message::set_for_one`].
    #[inline]
    pub fn is_for_one(&self) -> bool {
        self.is_for_one.load(Ordering::Relaxed)
    }

    /// A message without properties.
    pub fn new(topic: Topic, payload: Bytes, qos: QoS, retain: bool) -> Self {
        Self {
            topic,
            payload,
            qos,
            retain,
            payload_format: None,
            properties: None,
            expires_at: None,
            publisher: 0,
            source: None,
            taken_us: 0,
            retained_at: Timestamp(0),
            is_for_one: AtomicBool::new(false),
            encodings: OnceLock::new(),
            deflated: OnceLock::new(),
        }
    }

    /// The same message with nothing encoded yet, to be changed before it is sent on.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self {
            topic: self.topic.clone(),
            payload: self.payload.clone(),
            qos: self.qos,
            retain: self.retain,
            payload_format: self.payload_format,
            properties: self.properties.clone(),
            expires_at: self.expires_at,
            publisher: self.publisher,
            source: self.source.clone(),
            taken_us: 0,
            retained_at: self.retained_at,
            is_for_one: AtomicBool::new(false),
            encodings: OnceLock::new(),
            deflated: OnceLock::new(),
        }
    }

    /// The wire form under `encoding`, made by `encode` at the first call and shared afterwards.
    ///
    /// `encode` must depend on nothing but the message: what differs between receivers (packet
    /// identifier, subscription header) is written beside it.
    pub fn encoded(&self, encoding: Encoding, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        let mut encode = Some(encode);
        let mut slot = &self.encodings;
        loop {
            let entry = slot.get_or_init(|| {
                let bytes = encode.take().map_or_else(Bytes::new, |encode| encode(self));
                Box::new(Encoded {
                    encoding,
                    bytes,
                    next: OnceLock::new(),
                })
            });
            if entry.encoding == encoding {
                return &entry.bytes;
            }
            slot = &entry.next;
        }
    }

    /// The compressed form of `body`, which is this message under some encoding, for a window of
    /// this size; made by `deflate` at the first call and shared afterwards.
    ///
    /// Only a body that is shared is found again, one from [`Message::encoded`] or the payload.
    pub(crate) fn deflated(
        &self,
        body: &Bytes,
        window_bits: u8,
        deflate: impl FnOnce(&[u8]) -> Bytes,
    ) -> Bytes {
        let mut deflate = Some(deflate);
        let mut slot = &self.deflated;
        for _ in 0..DEFLATED_MAX {
            let entry = slot.get_or_init(|| {
                Box::new(Deflated {
                    body: body.clone(),
                    window_bits,
                    bytes: deflate
                        .take()
                        .map_or_else(Bytes::new, |deflate| deflate(body)),
                    next: OnceLock::new(),
                })
            });
            let is_same = entry.body.as_ptr() == body.as_ptr() && entry.body.len() == body.len();
            if is_same && entry.window_bits == window_bits {
                return entry.bytes.clone();
            }
            slot = &entry.next;
        }
        deflate.map_or_else(Bytes::new, |deflate| deflate(body))
    }

    /// Whether it is nothing but topic, payload, quality of service and the retain flag.
    #[inline]
    pub fn is_bare(&self) -> bool {
        self.properties.is_none() && self.payload_format.is_none()
    }

    /// Whether it is of no more interest at `now`.
    #[inline]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whole seconds left at `now`, rounded, but at least 1: a live message never says 0. `None`
    /// without expiry.
    pub fn expires_in_secs(&self, now: Timestamp) -> Option<u32> {
        let left = self.expires_at?.0.saturating_sub(now.0);
        let left = (left.saturating_add(500) / 1000).max(1);
        Some(u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// Bytes that it holds in memory, about: topic, payload and properties.
    pub fn size(&self) -> usize {
        let properties = self
            .properties
            .as_ref()
            .map_or(0, |properties| properties.size());
        let source = self.source.as_ref().map_or(0, |source| source.len());
        size_of::<Self>() + self.topic.as_str().len() + self.payload.len() + properties + source
    }
}

/// Like [`Message::copy`], for [`Arc::make_mut`].
impl Clone for Message {
    fn clone(&self) -> Self {
        self.copy()
    }
}

impl Properties {
    /// Bytes of all names and values.
    pub fn size(&self) -> usize {
        let user: usize = self
            .user
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        size_of::<Self>()
            + self.content_type.as_ref().map_or(0, |text| text.len())
            + self.reply_to.as_ref().map_or(0, |text| text.len())
            + self.correlation.as_ref().map_or(0, Bytes::len)
            + user
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let topic = Topic::parse("a/b".into(), 64, 8).unwrap();
        Message::new(topic, Bytes::from_static(b"1"), QoS::AtMostOnce, false)
    }

    #[test]
    fn is_encoded_once_per_encoding() {
        let message = message();
        let first = message
            .encoded(Encoding("x"), |_| Bytes::from_static(b"x"))
            .clone();
        let other = message
            .encoded(Encoding("y"), |_| Bytes::from_static(b"y"))
            .clone();
        let again = message.encoded(Encoding("x"), |_| panic!("encoded twice"));
        assert_eq!(
            (first.as_ref(), other.as_ref(), again.as_ref()),
            (&b"x"[..], &b"y"[..], &b"x"[..])
        );
    }

    #[test]
    fn is_compressed_once_per_body_and_window() {
        let message = message();
        let body = Bytes::from_static(b"body");
        let deflate = |_: &[u8]| Bytes::from_static(b"b");
        assert_eq!(message.deflated(&body, 15, deflate), "b");
        assert_eq!(
            message.deflated(&body, 15, |_| panic!("compressed twice")),
            "b"
        );
        let other = |_: &[u8]| Bytes::from_static(b"o");
        assert_eq!(message.deflated(&body, 9, other), "o");
        assert_eq!(message.deflated(&body.slice(1..), 15, other), "o");
        assert_eq!(
            message.deflated(&body, 15, |_| panic!("compressed twice")),
            "b"
        );
    }

    #[test]
    fn keeps_few_compressed_forms() {
        let message = message();
        let bodies: Vec<Bytes> = (0..9).map(|n| Bytes::from(vec![n; 8])).collect();
        for body in &bodies {
            let deflated = message.deflated(body, 15, Bytes::copy_from_slice);
            assert_eq!(deflated, body);
        }
        assert!(bodies[DEFLATED_MAX..].iter().all(Bytes::is_unique));
    }

    #[test]
    fn expiry_rounds_and_ends() {
        let mut message = message();
        assert_eq!(message.expires_in_secs(Timestamp(5)), None);
        message.expires_at = Some(Timestamp(10_000));
        assert_eq!(message.expires_in_secs(Timestamp(8_400)), Some(2));
        assert!(!message.is_expired(Timestamp(9_999)));
        assert!(message.is_expired(Timestamp(10_000)));
    }
}
