//! Writes JSON objects by hand: names are constants, values are escaped.
//!
//! Safe against whatever other protocols let into a topic or a header: quotes, controls and the
//! two line separators that old JavaScript takes for line ends are escaped. Called by everything
//! in this protocol that writes a frame.

use std::fmt::{Display, Write as _};

use super::frame::Id;
use crate::find::{Special, find};

/// Room for most answers, so that they need not grow.
const FRAME_BYTES: usize = 96;

/// A JSON object that is being written.
#[derive(Debug)]
pub(super) struct Object {
    text: String,
    /// Whether a comma has to come before the next member.
    started: bool,
}

impl Object {
    /// A frame of this type that answers `id`.
    pub(super) fn frame(kind: &str, id: Option<&Id>) -> Self {
        let mut object = Self::open("{");
        object.string("type", kind);
        if let Some(id) = id {
            object.raw("id", id.as_json());
        }
        object
    }

    /// An object whose opening bracket is the end of `start`.
    pub(super) fn open(start: &str) -> Self {
        let mut text = String::with_capacity(start.len() + FRAME_BYTES);
        text.push_str(start);
        Self {
            text,
            started: false,
        }
    }

    /// The rest of an object that is opened elsewhere, in front of its first member.
    pub(super) fn rest(capacity: usize) -> Self {
        Self {
            text: String::with_capacity(capacity),
            started: false,
        }
    }

    /// A string.
    pub(super) fn string(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.name(name);
        write_string(&mut self.text, value);
        self
    }

    /// A string, if there is one.
    pub(super) fn maybe(&mut self, name: &'static str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.string(name, value);
        }
        self
    }

    /// A number or a truth value.
    pub(super) fn plain(&mut self, name: &'static str, value: impl Display) -> &mut Self {
        self.name(name);
        // Writing into a string does not fail.
        let _ = write!(self.text, "{value}");
        self
    }

    /// `true`, or nothing at all.
    pub(super) fn flag(&mut self, name: &'static str, value: bool) -> &mut Self {
        if value {
            self.plain(name, true);
        }
        self
    }

    /// A value that is JSON already.
    pub(super) fn raw(&mut self, name: &'static str, json: &str) -> &mut Self {
        self.name(name);
        self.text.push_str(json);
        self
    }

    /// An array of values that are JSON already.
    pub(super) fn array(
        &mut self,
        name: &'static str,
        elements: impl IntoIterator<Item = String>,
    ) -> &mut Self {
        self.name(name);
        self.text.push('[');
        for (index, element) in elements.into_iter().enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            self.text.push_str(&element);
        }
        self.text.push(']');
        self
    }

    /// Headers: a string for a name that comes once, an array for one that comes again. Names
    /// keep the order of their first, values that of their name.
    pub(super) fn headers<N: AsRef<str>, V: AsRef<str>>(
        &mut self,
        headers: &[(N, V)],
    ) -> &mut Self {
        if headers.is_empty() {
            return self;
        }
        self.name("headers");
        let mut inner = Self::open("{");
        for (index, (name, value)) in headers.iter().enumerate() {
            let name = name.as_ref();
            let earlier = headers[..index]
                .iter()
                .any(|(other, _)| other.as_ref() == name);
            if earlier {
                continue;
            }
            let more = headers[index + 1..]
                .iter()
                .filter(|(other, _)| other.as_ref() == name)
                .map(|(_, value)| string(value.as_ref()));
            let mut values = vec![string(value.as_ref())];
            values.extend(more);
            inner.any_name(name);
            match values.as_slice() {
                [single] => inner.text.push_str(single),
                several => {
                    let _ = write!(inner.text, "[{}]", several.join(","));
                }
            }
        }
        self.text.push_str(&inner.end());
        self
    }

    /// The text with its closing bracket.
    pub(super) fn end(mut self) -> String {
        self.text.push('}');
        self.text
    }

    /// A name of the protocol's own, in which nothing is to be escaped.
    fn name(&mut self, name: &'static str) {
        self.text.push_str(if self.started { ",\"" } else { "\"" });
        self.started = true;
        self.text.push_str(name);
        self.text.push_str("\":");
    }

    fn any_name(&mut self, name: &str) {
        if self.started {
            self.text.push(',');
        }
        self.started = true;
        write_string(&mut self.text, name);
        self.text.push(':');
    }
}

/// A text as a JSON string.
pub(crate) fn string(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    write_string(&mut text, value);
    text
}

/// Appends a text as a JSON string.
pub(super) fn write_string(out: &mut String, value: &str) {
    out.push('"');
    let mut rest = value;
    while let Some(at) = find_escape(rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let mut following = rest[at..].chars();
        if let Some(character) = following.next() {
            write_character(out, character);
        }
        rest = following.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

/// Whether a text is certain to stand in a JSON string as it is.
pub(super) fn is_plain(value: &str) -> bool {
    find_escape(value.as_bytes()).is_none()
}

fn find_escape(text: &[u8]) -> Option<usize> {
    find::<Escaped>(text)
}

/// What may need an escape: 0xE2 begins, among others, the two line separators.
struct Escaped;

impl Special for Escaped {
    const BELOW: u8 = 0x20;
    const OTHERS: &'static [u8] = b"\"\\\x7f\xe2";
}

fn write_character(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0'..='\x1f' | '\x7f' | '\u{2028}' | '\u{2029}' => {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        }
        other => out.push(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_what_could_break_out() {
        assert_eq!(
            string("a\"b\\c\n\r\t\0\u{1b}\u{7f}\u{2028}\u{2029}€ä"),
            "\"a\\\"b\\\\c\\n\\r\\t\\u0000\\u001b\\u007f\\u2028\\u2029€ä\""
        );
    }

    #[test]
    fn headers_keep_repeats_under_one_name() {
        let mut object = Object::open("{");
        object.headers(&[("b", "1"), ("a\"", "x"), ("b", "2")]);
        assert_eq!(object.end(), r#"{"headers":{"b":["1","2"],"a\"":"x"}}"#);
    }

    proptest! {
        #[test]
        fn strings_come_back(text in any::<String>()) {
            let written = string(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }
    }
}
