//! Lists inside packets: filters, reason codes, user properties, subscription identifiers.

use std::fmt;
use std::num::NonZeroU32;

use super::Version;
use super::codec::{Reader, Sink};
use super::packet::Subscription;
use super::properties::PropertyId;
use super::reason::ReasonCode;
use crate::connection::RetainHandling;
use crate::model::QoS;

/// Name and value of a user property; both may be empty and may repeat.
pub type UserProperty<'a> = (&'a str, &'a str);

/// A list that is read from its packet's bytes while it is walked through, or that is a slice to
/// be sent.
///
/// Decoding checked the bytes already; nothing is allocated for it.
#[derive(Clone, Copy)]
pub struct List<'a, T>(Source<'a, T>);

#[derive(Clone, Copy)]
enum Source<'a, T> {
    Wire { bytes: &'a [u8], version: Version },
    Slice(&'a [T]),
}

/// What can be in a [`List`].
pub trait Item<'a>: Copy + PartialEq + fmt::Debug + sealed::Read<'a> {}

pub(super) mod sealed {
    use super::Version;

    pub trait Read<'a>: Sized {
        /// Takes the next item from bytes that were checked; `None` at the end.
        fn next(bytes: &mut &'a [u8], version: Version) -> Option<Self>;

        /// Passes over the next item; whether there was one.
        fn skip(bytes: &mut &'a [u8], version: Version) -> bool {
            Self::next(bytes, version).is_some()
        }
    }
}

use sealed::Read;

impl<'a, T: Item<'a>> List<'a, T> {
    /// A list to be sent.
    pub const fn new(items: &'a [T]) -> Self {
        Self(Source::Slice(items))
    }

    /// Bytes that were read through once without an error.
    pub(super) const fn wire(bytes: &'a [u8], version: Version) -> Self {
        Self(Source::Wire { bytes, version })
    }

    /// The items in their order.
    pub fn iter(&self) -> Iter<'a, T> {
        Iter(self.0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        match self.0 {
            Source::Wire { mut bytes, version } => !T::skip(&mut bytes, version),
            Source::Slice(items) => items.is_empty(),
        }
    }

    /// How many there are; walks through them.
    pub fn count(&self) -> usize {
        match self.0 {
            Source::Wire { mut bytes, version } => {
                std::iter::from_fn(|| T::skip(&mut bytes, version).then_some(())).count()
            }
            Source::Slice(items) => items.len(),
        }
    }
}

/// Walks through a [`List`].
#[derive(Clone)]
pub struct Iter<'a, T>(Source<'a, T>);

impl<'a, T: Item<'a>> Iterator for Iter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match &mut self.0 {
            Source::Wire { bytes, version } => T::next(bytes, *version),
            Source::Slice(items) => {
                let (&first, rest) = items.split_first()?;
                *items = rest;
                Some(first)
            }
        }
    }
}

impl<'a, T: Item<'a>> IntoIterator for &List<'a, T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self(Source::Slice(&[]))
    }
}

impl<'a, T: Item<'a>> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, T: Item<'a> + Eq> Eq for List<'a, T> {}

impl<'a, T: Item<'a>> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl Item<'_> for ReasonCode {}
impl<'a> Item<'a> for Subscription<'a> {}
impl<'a> Item<'a> for &'a str {}
impl<'a> Item<'a> for UserProperty<'a> {}
impl Item<'_> for NonZeroU32 {}

impl<'a> Read<'a> for ReasonCode {
    fn next(bytes: &mut &'a [u8], _: Version) -> Option<Self> {
        let (&code, rest) = bytes.split_first()?;
        *bytes = rest;
        Self::from_u8(code)
    }
}

impl<'a> Read<'a> for &'a str {
    fn next(bytes: &mut &'a [u8], _: Version) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let text = reader.text().ok();
        *bytes = reader.rest();
        text
    }
}

impl<'a> Read<'a> for Subscription<'a> {
    fn next(bytes: &mut &'a [u8], _: Version) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let filter = reader.text().ok()?;
        let options = reader.byte().ok()?;
        *bytes = reader.rest();
        Self::from_options(filter, options)
    }
}

impl<'a> Read<'a> for UserProperty<'a> {
    /// The bytes are a whole property section: the others are passed over.
    fn next(bytes: &mut &'a [u8], _: Version) -> Option<Self> {
        let (value, rest) = next_property(bytes, PropertyId::UserProperty)?;
        *bytes = rest;
        let mut reader = Reader::new(value);
        Some((reader.text().ok()?, reader.text().ok()?))
    }

    fn skip(bytes: &mut &'a [u8], _: Version) -> bool {
        pass_over(bytes, PropertyId::UserProperty)
    }
}

impl<'a> Read<'a> for NonZeroU32 {
    /// The bytes are a whole property section: the others are passed over.
    fn next(bytes: &mut &'a [u8], _: Version) -> Option<Self> {
        let (value, rest) = next_property(bytes, PropertyId::SubscriptionIdentifier)?;
        *bytes = rest;
        Self::new(Reader::new(value).varint().ok()?)
    }

    fn skip(bytes: &mut &'a [u8], _: Version) -> bool {
        pass_over(bytes, PropertyId::SubscriptionIdentifier)
    }
}

/// Goes behind the next property with this identifier, without reading it.
fn pass_over(bytes: &mut &[u8], wanted: PropertyId) -> bool {
    let Some((_, rest)) = next_property(bytes, wanted) else {
        return false;
    };
    *bytes = rest;
    true
}

/// The bytes of the next property with this identifier, and what is behind it.
fn next_property(section: &[u8], wanted: PropertyId) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(section);
    loop {
        let id = PropertyId::read(&mut reader).ok()?;
        let before = reader.rest();
        id.skip(&mut reader).ok()?;
        if id == wanted {
            let length = before.len() - reader.rest().len();
            return Some((&before[..length], reader.rest()));
        }
    }
}

impl<'a> Subscription<'a> {
    /// The options byte, 5's form; 3.1.1 has only the QoS in it `[MQTT-3.8.3.1]`. `None` for
    /// reserved values.
    pub(super) const fn from_options(filter: &'a str, options: u8) -> Option<Self> {
        let Some(qos) = QoS::from_u8(options & 0b11) else {
            return None;
        };
        let retain_handling = match options >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        };
        Some(Self {
            filter,
            qos,
            no_local: options & 0b100 != 0,
            retain_as_published: options & 0b1000 != 0,
            retain_handling,
        })
    }

    /// Whether the filter asks for a shared subscription `[MQTT-4.8.2-1]`.
    pub fn is_shared(&self) -> bool {
        self.filter.starts_with("$share/")
    }

    pub(super) fn write(&self, version: Version, sink: &mut impl Sink) {
        let mut options = self.qos as u8;
        if version == Version::V5 {
            options |= u8::from(self.no_local) << 2 | u8::from(self.retain_as_published) << 3;
            options |= match self.retain_handling {
                RetainHandling::Send => 0,
                RetainHandling::SendIfNew => 1 << 4,
                RetainHandling::DoNotSend => 2 << 4,
            };
        }
        sink.text(self.filter);
        sink.byte(options);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed over unread is as many as what is read, whatever else is in between.
    #[test]
    fn what_is_counted_is_what_comes() {
        // User properties "a"="b" and ""="", a content type, a third.
        let three = b"\x26\0\x01a\0\x01b\x26\0\0\0\0\x03\0\x01t\x26\0\x01c\0\x01d";
        for (bytes, count) in [
            (&three[..], 3),
            (&three[7..12], 1),
            (&three[12..16], 0),
            (b"", 0),
        ] {
            let list = List::<UserProperty<'_>>::wire(bytes, Version::V5);
            assert_eq!((list.count(), list.iter().count()), (count, count));
            assert_eq!(list.is_empty(), count == 0);
        }
    }
}
