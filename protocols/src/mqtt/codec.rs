//! The data types of the standard `[MQTT-1.5]`: reading them from bytes, writing them to a
//! [`Sink`].
//!
//! Writing runs twice over the same code: once into a [`Measure`], which counts and checks, then
//! into a [`Writer`], which cannot fail.

use bytes::BufMut;
use memchr::memchr;

use super::error::{DecodeError, EncodeError};

/// The largest value of a variable byte integer, and of a remaining length.
pub(super) const VARINT_MAX: u32 = 268_435_455;

const TRUNCATED: DecodeError = DecodeError::Malformed("a field is longer than its packet");

/// A variable byte integer at the start of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Varint {
    /// The bytes end before it does.
    Incomplete,
    /// More than four bytes.
    TooLong,
    /// Its value, its bytes, and whether fewer bytes would have done.
    Value {
        value: u32,
        bytes: usize,
        padded: bool,
    },
}

impl Varint {
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut value = 0;
        for (at, &byte) in bytes.iter().take(4).enumerate() {
            value |= u32::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Self::Value {
                    value,
                    bytes: at + 1,
                    padded: at > 0 && byte == 0,
                };
            }
        }
        if bytes.len() < 4 {
            Self::Incomplete
        } else {
            Self::TooLong
        }
    }
}

/// Reads fields from the front of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left, without taking it.
    #[inline]
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A variable byte integer in as few bytes as it needs `[MQTT-1.5.5-1]`.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        match Varint::parse(self.rest) {
            Varint::Value { padded: true, .. } => Err(DecodeError::Malformed(
                "a variable byte integer is longer than needed",
            )),
            Varint::Value { value, bytes, .. } => {
                self.rest = &self.rest[bytes..];
                Ok(value)
            }
            Varint::TooLong => Err(DecodeError::Malformed(
                "a variable byte integer has more than four bytes",
            )),
            Varint::Incomplete => Err(TRUNCATED),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes behind their length in two bytes `[MQTT-1.5.6]`.
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// UTF-8 without NUL behind its length `[MQTT-1.5.4-1]` `[MQTT-1.5.4-2]`.
    ///
    /// Surrogates are not UTF-8. A byte order mark stays what it is `[MQTT-1.5.4-3]`; control
    /// characters are allowed, as the standard leaves open.
    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        if memchr(0, bytes).is_some() {
            return Err(DecodeError::Malformed("a text contains the NUL character"));
        }
        simdutf8::basic::from_utf8(bytes)
            .map_err(|_| DecodeError::Malformed("a text is not valid UTF-8"))
    }

    /// The properties of a packet behind their length `[MQTT-2.2.2.1]`.
    #[inline]
    pub(super) fn section(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.varint()?;
        self.take(length as usize)
    }

    /// Nothing may be left.
    #[inline]
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed("bytes behind the last field"))
        }
    }
}

/// Where fields are written to.
pub(super) trait Sink {
    fn slice(&mut self, bytes: &[u8]);

    /// Records why what is being written must not be sent.
    fn fail(&mut self, error: EncodeError) {
        let _ = error;
    }

    fn byte(&mut self, byte: u8) {
        self.slice(&[byte]);
    }

    fn u16(&mut self, value: u16) {
        self.slice(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.slice(&value.to_be_bytes());
    }

    fn varint(&mut self, value: u32) {
        let (bytes, length) = varint_bytes(value);
        self.slice(&bytes[..length]);
    }

    fn binary(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).unwrap_or_else(|_| {
            self.fail(EncodeError::FieldTooLong);
            0
        });
        self.u16(length);
        self.slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.binary(text.as_bytes());
    }
}

/// A variable byte integer and how many of the four bytes it takes; values above [`VARINT_MAX`]
/// are refused before.
#[inline]
pub(super) const fn varint_bytes(value: u32) -> ([u8; 4], usize) {
    let [a, b, c, d] = [
        (value & 0x7f) as u8,
        (value >> 7 & 0x7f) as u8,
        (value >> 14 & 0x7f) as u8,
        (value >> 21 & 0x7f) as u8,
    ];
    match value {
        0..=0x7f => ([a, 0, 0, 0], 1),
        0x80..=0x3fff => ([a | 0x80, b, 0, 0], 2),
        0x4000..=0x1f_ffff => ([a | 0x80, b | 0x80, c, 0], 3),
        _ => ([a | 0x80, b | 0x80, c | 0x80, d], 4),
    }
}

/// Counts bytes and keeps the first error.
#[derive(Debug, Default)]
pub(super) struct Measure {
    pub(super) length: usize,
    pub(super) error: Option<EncodeError>,
}

impl Measure {
    /// The length as a variable byte integer.
    pub(super) fn varint(&self) -> Result<u32, EncodeError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        u32::try_from(self.length)
            .ok()
            .filter(|&length| length <= VARINT_MAX)
            .ok_or(EncodeError::TooLarge)
    }
}

impl Sink for Measure {
    fn slice(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
    }

    fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    fn text(&mut self, text: &str) {
        if memchr(0, text.as_bytes()).is_some() {
            self.fail(EncodeError::Nul);
        }
        self.binary(text.as_bytes());
    }
}

/// Appends to a buffer what was measured before.
pub(super) struct Writer<'b, B>(pub(super) &'b mut B);

impl<B: BufMut> Sink for Writer<'_, B> {
    fn slice(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }
}
