//! A frame as it lies in the bytes that were read, and how headers are escaped.
//!
//! Nothing is copied: names and values are unescaped when they are asked for, and only if they
//! contain an escape. Made by [`super::decode`], which has checked all of it.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::Version;
use crate::find::{Special, find};

/// Bytes under construction.
pub(crate) type Buffer = Vec<u8>;

/// Room for what most heads need.
pub(super) fn buffer() -> Buffer {
    Buffer::with_capacity(256)
}

/// One frame, borrowed from the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub(super) raw: &'a [u8],
    pub(super) command: &'a str,
    /// Name and value as they lie on the wire.
    pub(super) headers: SmallVec<[(&'a str, &'a str); 8]>,
    pub(super) body: &'a [u8],
    /// [`Escaping::Plain`] too if there is no escape in it.
    pub(super) escaping: Escaping,
}

impl<'a> Frame<'a> {
    /// The command: `SEND`, `MESSAGE`, …
    pub fn command(&self) -> &'a str {
        self.command
    }

    /// The body, without its NUL.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// All bytes of the frame, its NUL included.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The value of a header; of repeated ones the first (STOMP 1.2 §Repeated Header Entries).
    ///
    /// `name` is one of the protocol's own, which nobody needs to escape.
    #[inline]
    pub fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        self.headers
            .iter()
            .find(|(raw, _)| *raw == name)
            .map(|(_, value)| self.escaping.unescape(value))
    }

    /// Whether there is a header with such a name, as it is on the wire.
    pub(super) fn has_header(&self, is_such: impl Fn(&str) -> bool) -> bool {
        self.headers.iter().any(|(name, _)| is_such(name))
    }

    /// All headers in their order, repeats included.
    pub fn headers(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + '_ {
        self.headers
            .iter()
            .map(|(name, value)| (self.escaping.unescape(name), self.escaping.unescape(value)))
    }
}

/// How the headers of a frame are escaped (STOMP 1.2 §Value Encoding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escaping {
    /// Not at all: STOMP 1.0, and the frames of the login in every version.
    Plain,
    /// `\n`, `\c`, `\\`.
    V1_1,
    /// `\r`, `\n`, `\c`, `\\`.
    V1_2,
}

impl Escaping {
    /// What holds for a command under a version; `None` before one was negotiated.
    ///
    /// `STOMP` is `CONNECT` under another name, and its senders do not escape it either.
    pub fn of(command: &str, version: Option<Version>) -> Self {
        match (command, version) {
            ("CONNECT" | "STOMP" | "CONNECTED", _) | (_, None | Some(Version::V1_0)) => Self::Plain,
            (_, Some(Version::V1_1)) => Self::V1_1,
            (_, Some(Version::V1_2)) => Self::V1_2,
        }
    }

    /// Whether every escape in `text` is defined. An undefined one is a fatal error (STOMP 1.2
    /// §Value Encoding).
    pub(super) fn accepts(self, text: &str) -> bool {
        if self == Self::Plain {
            return true;
        }
        let mut rest = text.as_bytes();
        while let Some(at) = memchr::memchr(b'\\', rest) {
            match rest.get(at + 1) {
                Some(code) if self.meaning(*code).is_some() => rest = &rest[at + 2..],
                _ => return false,
            }
        }
        true
    }

    /// The text that an accepted `text` stands for.
    #[inline]
    pub(super) fn unescape(self, text: &str) -> Cow<'_, str> {
        if self == Self::Plain || !text.contains('\\') {
            return Cow::Borrowed(text);
        }
        self.unescape_some(text)
    }

    fn unescape_some(self, text: &str) -> Cow<'_, str> {
        let mut plain = String::with_capacity(text.len());
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            if character != '\\' {
                plain.push(character);
                continue;
            }
            let code = characters.next().and_then(|code| u8::try_from(code).ok());
            plain.extend(code.and_then(|code| self.meaning(code)).map(char::from));
        }
        Cow::Owned(plain)
    }

    fn meaning(self, code: u8) -> Option<u8> {
        match code {
            b'n' => Some(b'\n'),
            b'c' => Some(b':'),
            b'\\' => Some(b'\\'),
            b'r' if self == Self::V1_2 => Some(b'\r'),
            _ => None,
        }
    }

    fn code(self, byte: u8) -> Option<u8> {
        match (self, byte) {
            (Self::V1_1 | Self::V1_2, b'\n') => Some(b'n'),
            (Self::V1_1 | Self::V1_2, b':') => Some(b'c'),
            (Self::V1_1 | Self::V1_2, b'\\') => Some(b'\\'),
            (Self::V1_2, b'\r') => Some(b'r'),
            _ => None,
        }
    }

    /// Writes a header's value. What the version has no escape for and what would end the line
    /// or the frame becomes a space, so that no text can bring a header of its own.
    pub(crate) fn put_value(self, text: &str, buffer: &mut Buffer) {
        self.put(text, buffer, |byte| match byte {
            b'\n' | b'\r' | 0 => b' ',
            other => other,
        });
    }

    /// Writes a header's name: as a value, but what cannot be said becomes `_`, and so does the
    /// colon where it cannot be escaped.
    pub(crate) fn put_name(self, text: &str, buffer: &mut Buffer) {
        self.put(text, buffer, |byte| match byte {
            b'\n' | b'\r' | b':' | 0 => b'_',
            other => other,
        });
    }

    fn put(self, text: &str, buffer: &mut Buffer, replace: impl Fn(u8) -> u8) {
        let mut rest = text.as_bytes();
        while let Some(at) = find::<Escaped>(rest) {
            buffer.extend_from_slice(&rest[..at]);
            match self.code(rest[at]) {
                Some(code) => buffer.extend_from_slice(&[b'\\', code]),
                None => buffer.push(replace(rest[at])),
            }
            rest = &rest[at + 1..];
        }
        buffer.extend_from_slice(rest);
    }
}

/// What an escaped header may need an escape for.
struct Escaped;

impl Special for Escaped {
    const BELOW: u8 = 1;
    const OTHERS: &'static [u8] = b"\n\r:\\";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(escaping: Escaping, text: &str) -> String {
        let mut buffer = Buffer::new();
        escaping.put_value(text, &mut buffer);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn values_are_escaped_by_version() {
        let text = "a\nb\rc:d\\e\0";
        assert_eq!(value(Escaping::V1_2, text), r"a\nb\rc\cd\\e ");
        assert_eq!(value(Escaping::V1_1, text), r"a\nb c\cd\\e ");
        assert_eq!(value(Escaping::Plain, text), r"a b c:d\e ");
    }

    #[test]
    fn a_plain_name_keeps_no_colon() {
        let mut buffer = Buffer::new();
        Escaping::Plain.put_name("a:b\nc", &mut buffer);
        assert_eq!(buffer.as_slice(), b"a_b_c");
    }

    #[test]
    fn unescaping_is_the_way_back() {
        let text = "a\nb\rc:d\\e\\n";
        let escaped = value(Escaping::V1_2, text);
        assert!(Escaping::V1_2.accepts(&escaped));
        assert_eq!(Escaping::V1_2.unescape(&escaped), text);
        assert_eq!(Escaping::Plain.unescape(&escaped), escaped.as_str());
    }

    #[test]
    fn undefined_escapes_are_seen() {
        for (escaping, text, accepted) in [
            (Escaping::V1_2, r"\t", false),
            (Escaping::V1_2, r"\r", true),
            (Escaping::V1_1, r"\r", false),
            (Escaping::V1_1, r"a\", false),
            (Escaping::V1_1, r"\\t", true),
            (Escaping::Plain, r"\t", true),
        ] {
            assert_eq!(escaping.accepts(text), accepted, "{escaping:?} {text}");
        }
    }
}
