//! Reads JSON text (RFC 8259) in one pass, without building a tree.
//!
//! A frame's members are handed out as slices of the text, checked as far as the grammar goes;
//! who wants the value of one asks for it. Nesting costs a byte a level and no recursion, so the
//! depth is bounded by the caller's limit and never by the stack. Stricter than the grammar where
//! readers are known to differ: a lone surrogate and a number beyond a double are errors.
//!
//! Called by [`super::frame`] and [`super::client`] for frames and by [`super::message`] to tell
//! whether a payload is JSON.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::find::{Special, find};

/// A JSON value that was checked, as it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value<'a> {
    /// The text, without space around it.
    pub(super) raw: &'a str,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number,
    /// `plain` if what stands between the quotes is the string itself.
    String {
        plain: bool,
    },
    Array,
    Object,
}

/// Why a text is not taken as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub(super) struct ScanError {
    /// Offset in the text.
    pub(super) at: usize,
    pub(super) problem: Problem,
}

/// Kinds of [`ScanError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("the text ends too early")]
    End,
    #[error("unexpected character")]
    Unexpected,
    #[error("control character in a string")]
    Control,
    #[error("unknown escape in a string")]
    Escape,
    #[error("half of a surrogate pair in a string")]
    Surrogate,
    #[error("number out of range")]
    Range,
    #[error("nested too deeply")]
    TooDeep,
    #[error("text behind the value")]
    Trailing,
}

/// Checks that a text is one JSON value of at most `max_depth` nested objects and arrays.
pub(super) fn value(text: &str, max_depth: usize) -> Result<Value<'_>, ScanError> {
    let mut scanner = Scanner::new(text, max_depth);
    scanner.space();
    let value = scanner.value(0)?;
    scanner.finish()?;
    Ok(value)
}

/// Checks that a text is one JSON object and shows each of its members, name and value, to
/// `visit`.
pub(super) fn object<'a, E: From<ScanError>>(
    text: &'a str,
    max_depth: usize,
    visit: impl FnMut(Value<'a>, Value<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut scanner = Scanner::new(text, max_depth);
    scanner.enter(b'{')?;
    if scanner.leave(b'}') {
        return Ok(scanner.finish()?);
    }
    members(scanner, visit)
}

/// The same for an object that begins with `known`: some members and a comma, which are not shown.
pub(super) fn object_after<'a, E: From<ScanError>>(
    known: &str,
    text: &'a str,
    max_depth: usize,
    visit: impl FnMut(Value<'a>, Value<'a>) -> Result<(), E>,
) -> Result<(), E> {
    debug_assert!(text.starts_with(known), "the text begins so");
    let mut scanner = Scanner::new(text, max_depth);
    scanner.enter(b'{')?;
    scanner.at = known.len();
    scanner.space();
    members(scanner, visit)
}

/// The members of an object from the next one on, and the end of the text.
#[inline]
fn members<'a, E: From<ScanError>>(
    mut scanner: Scanner<'a>,
    mut visit: impl FnMut(Value<'a>, Value<'a>) -> Result<(), E>,
) -> Result<(), E> {
    loop {
        let key = scanner.key()?;
        let value = scanner.value(1)?;
        visit(key, value)?;
        if !scanner.next(b'}')? {
            return Ok(scanner.finish()?);
        }
    }
}

/// Checks that a text is one JSON array and shows each of its elements to `visit`.
pub(super) fn array<'a, E: From<ScanError>>(
    text: &'a str,
    max_depth: usize,
    mut visit: impl FnMut(Value<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut scanner = Scanner::new(text, max_depth);
    scanner.enter(b'[')?;
    if scanner.leave(b']') {
        return Ok(scanner.finish()?);
    }
    loop {
        visit(scanner.value(1)?)?;
        if !scanner.next(b']')? {
            return Ok(scanner.finish()?);
        }
    }
}

impl<'a> Value<'a> {
    /// The string's value; the text itself if it is no string.
    pub(super) fn string(self) -> Cow<'a, str> {
        match self.kind {
            Kind::String { plain: true } => Cow::Borrowed(self.inside()),
            // It cannot fail, since the text was checked already.
            Kind::String { plain: false } => {
                serde_json::from_str(self.raw).map_or(Cow::Borrowed(self.raw), Cow::Owned)
            }
            _ => Cow::Borrowed(self.raw),
        }
    }

    /// What stands between the quotes of a string.
    pub(super) fn inside(self) -> &'a str {
        self.raw.get(1..self.raw.len() - 1).unwrap_or_default()
    }

    /// The number, if it is one that is whole and not negative, however it is written.
    pub(super) fn whole(self) -> Option<u64> {
        if self.kind != Kind::Number {
            return None;
        }
        if let Ok(number) = self.raw.parse() {
            return Some(number);
        }
        let number: f64 = self.raw.parse().ok()?;
        // Doubles tell whole numbers apart up to 2^53.
        let exact = (0.0..=9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0;
        exact.then(|| format!("{number:.0}").parse().ok())?
    }

    /// The number as a double.
    pub(super) fn double(self) -> Option<f64> {
        (self.kind == Kind::Number)
            .then(|| self.raw.parse().ok())
            .flatten()
    }
}

/// What ends a plain piece of a string.
struct EndOrEscape;

impl Special for EndOrEscape {
    const BELOW: u8 = 0x20;
    const OTHERS: &'static [u8] = b"\"\\";
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    max_depth: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str, max_depth: usize) -> Self {
        Self {
            text,
            at: 0,
            max_depth,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, problem: Problem) -> ScanError {
        ScanError {
            at: self.at,
            problem,
        }
    }

    /// The error for a character that cannot stand here, or for the end of the text.
    fn unexpected(&self) -> ScanError {
        self.error(match self.peek() {
            Some(_) => Problem::Unexpected,
            None => Problem::End,
        })
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ScanError> {
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error(Problem::Trailing)),
        }
    }

    /// Opens the outermost object or array.
    fn enter(&mut self, open: u8) -> Result<(), ScanError> {
        self.space();
        self.take(open)?;
        if self.max_depth == 0 {
            return Err(self.error(Problem::TooDeep));
        }
        self.space();
        Ok(())
    }

    /// Takes the closing bracket if it comes next.
    fn leave(&mut self, close: u8) -> bool {
        let closed = self.peek() == Some(close);
        self.at += usize::from(closed);
        closed
    }

    /// Whether another member or element follows; takes the comma or the closing bracket.
    fn next(&mut self, close: u8) -> Result<bool, ScanError> {
        self.space();
        if self.leave(close) {
            return Ok(false);
        }
        self.take(b',')?;
        self.space();
        Ok(true)
    }

    /// A member's name and its colon, up to the value.
    fn key(&mut self) -> Result<Value<'a>, ScanError> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let kind = self.string()?;
        let raw = &self.text[start..self.at];
        self.space();
        self.take(b':')?;
        self.space();
        Ok(Value { raw, kind })
    }

    /// One value inside `depth` open objects and arrays.
    fn value(&mut self, depth: usize) -> Result<Value<'a>, ScanError> {
        let start = self.at;
        let kind = match self.peek() {
            Some(b'{') => self.container(depth, Kind::Object)?,
            Some(b'[') => self.container(depth, Kind::Array)?,
            _ => self.scalar()?,
        };
        let raw = &self.text[start..self.at];
        Ok(Value { raw, kind })
    }

    /// A whole object or array, with a stack of one byte for each level that is open.
    fn container(&mut self, depth: usize, kind: Kind) -> Result<Kind, ScanError> {
        let mut closers: SmallVec<[u8; 32]> = SmallVec::new();
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth + closers.len() >= self.max_depth {
                        return Err(self.error(Problem::TooDeep));
                    }
                    self.at += 1;
                    self.space();
                    let close = if open == b'{' { b'}' } else { b']' };
                    if !self.leave(close) {
                        closers.push(close);
                        self.key_inside(close)?;
                        continue;
                    }
                }
                _ => {
                    self.scalar()?;
                }
            }
            // A value has ended, and with it perhaps the objects and arrays around it.
            loop {
                let Some(&close) = closers.last() else {
                    return Ok(kind);
                };
                if self.next(close)? {
                    self.key_inside(close)?;
                    break;
                }
                closers.pop();
            }
        }
    }

    fn key_inside(&mut self, close: u8) -> Result<(), ScanError> {
        if close == b'}' {
            self.key()?;
        }
        Ok(())
    }

    fn scalar(&mut self) -> Result<Kind, ScanError> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Kind::Bool(true)),
            Some(b'f') => self.literal("false", Kind::Bool(false)),
            Some(b'n') => self.literal("null", Kind::Null),
            _ => Err(self.unexpected()),
        }
    }

    fn literal(&mut self, word: &str, kind: Kind) -> Result<Kind, ScanError> {
        for &byte in word.as_bytes() {
            self.take(byte)?;
        }
        Ok(kind)
    }

    fn number(&mut self) -> Result<Kind, ScanError> {
        let start = self.at;
        self.leave(b'-');
        if !self.leave(b'0') {
            self.digits()?;
        }
        if self.leave(b'.') {
            self.digits()?;
        }
        let exponent = self.leave(b'e') || self.leave(b'E');
        if exponent {
            let _ = self.leave(b'+') || self.leave(b'-');
            self.digits()?;
        }
        let raw = &self.text[start..self.at];
        // Below 10^300 nothing can overflow.
        if (exponent || raw.len() > 300) && !raw.parse::<f64>().is_ok_and(f64::is_finite) {
            self.at = start;
            return Err(self.error(Problem::Range));
        }
        Ok(Kind::Number)
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected());
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<Kind, ScanError> {
        self.at += 1;
        let mut plain = true;
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let Some(length) = find::<EndOrEscape>(rest) else {
                self.at = self.text.len();
                return Err(self.error(Problem::End));
            };
            self.at += length;
            match rest[length] {
                b'"' => {
                    self.at += 1;
                    return Ok(Kind::String { plain });
                }
                b'\\' => {
                    plain = false;
                    self.escape()?;
                }
                _ => return Err(self.error(Problem::Control)),
            }
        }
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                return Ok(());
            }
            Some(b'u') => {}
            Some(_) => return Err(self.error(Problem::Escape)),
            None => return Err(self.error(Problem::End)),
        }
        let lone = ScanError {
            at: start,
            problem: Problem::Surrogate,
        };
        match self.hex()? {
            0xd800..=0xdbff => {
                let pair = self.text.as_bytes()[self.at..].starts_with(b"\\u");
                if !pair {
                    return Err(lone);
                }
                self.at += 1;
                match self.hex()? {
                    0xdc00..=0xdfff => Ok(()),
                    _ => Err(lone),
                }
            }
            0xdc00..=0xdfff => Err(lone),
            _ => Ok(()),
        }
    }

    /// The four digits behind `u`.
    fn hex(&mut self) -> Result<u32, ScanError> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(match self.peek() {
                    Some(_) => self.error(Problem::Escape),
                    None => self.error(Problem::End),
                });
            };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(text: &str) -> Problem {
        value(text, 32).unwrap_err().problem
    }

    #[test]
    fn takes_what_the_grammar_takes() {
        for text in [
            "null",
            " true ",
            "false",
            "0",
            "-0",
            "10",
            "1.5",
            "1e3",
            "1E+3",
            "1e-999",
            "\"\"",
            "\"a\\u00e4\\n\"",
            "\"\\ud83d\\ude00\"",
            "[]",
            "{}",
            "[ ]",
            "{ }",
            "[1,[2],{\"a\":[]}]",
            "{\"a\" : {\"b\":[{}]} , \"c\":null}",
        ] {
            assert!(value(text, 32).is_ok(), "{text}");
        }
    }

    #[test]
    fn refuses_with_the_place() {
        for (text, at, expected) in [
            ("", 0, Problem::End),
            ("{", 1, Problem::End),
            ("[1,", 3, Problem::End),
            ("[1,]", 3, Problem::Unexpected),
            ("{,}", 1, Problem::Unexpected),
            ("{\"a\":1,}", 7, Problem::Unexpected),
            ("{\"a\"}", 4, Problem::Unexpected),
            ("{1:2}", 1, Problem::Unexpected),
            ("[1}", 2, Problem::Unexpected),
            ("01", 1, Problem::Trailing),
            ("1.", 2, Problem::End),
            ("-", 1, Problem::End),
            ("+1", 0, Problem::Unexpected),
            ("NaN", 0, Problem::Unexpected),
            ("nul", 3, Problem::End),
            ("'a'", 0, Problem::Unexpected),
            ("\"a", 2, Problem::End),
            ("\"a\n\"", 2, Problem::Control),
            ("\"\\x\"", 2, Problem::Escape),
            ("\"\\u12g4\"", 5, Problem::Escape),
            ("\"\\ud800\"", 1, Problem::Surrogate),
            ("\"\\udc00\"", 1, Problem::Surrogate),
            ("\"\\ud800\\u0041\"", 1, Problem::Surrogate),
            ("1e400", 0, Problem::Range),
            ("[-1e400]", 1, Problem::Range),
            ("1 2", 2, Problem::Trailing),
        ] {
            assert_eq!(
                value(text, 32),
                Err(ScanError {
                    at,
                    problem: expected
                }),
                "{text}"
            );
        }
        assert_eq!(problem(&"9".repeat(400)), Problem::Range);
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(value(&nested(32), 32).is_ok());
        assert_eq!(problem(&nested(33)), Problem::TooDeep);
        assert!(value(&nested(1_000_000), usize::MAX).is_ok());
        assert_eq!(problem(&"{\"a\":".repeat(100_000)), Problem::TooDeep);
        let frame = format!("{{\"a\":{}}}", nested(32));
        let deep = object(&frame, 32, |_, _| Ok::<_, ScanError>(())).unwrap_err();
        assert_eq!(
            deep.problem,
            Problem::TooDeep,
            "the frame itself is a level"
        );
    }

    #[test]
    fn members_and_elements_come_as_they_are_written() {
        let mut seen = Vec::new();
        let text = " {\"a\\u0062\": [1 , 2], \"c\":\"\\u0041\"} ";
        object(text, 8, |key, value| {
            seen.push((
                key.string().into_owned(),
                value.raw,
                value.string().into_owned(),
            ));
            Ok::<_, ScanError>(())
        })
        .unwrap();
        assert_eq!(seen[0], ("ab".into(), "[1 , 2]", "[1 , 2]".into()));
        assert_eq!(seen[1], ("c".into(), "\"\\u0041\"", "A".into()));
        let mut elements = Vec::new();
        array("[1, \"b\" ,{}]", 8, |value| {
            elements.push(value.raw);
            Ok::<_, ScanError>(())
        })
        .unwrap();
        assert_eq!(elements, ["1", "\"b\"", "{}"]);
        assert!(array("{}", 8, |_| Ok::<_, ScanError>(())).is_err());
        assert!(object("[]", 8, |_, _| Ok::<_, ScanError>(())).is_err());
    }

    #[test]
    fn whole_numbers_however_written() {
        for (text, expected) in [
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("7e2", Some(700)),
            ("18446744073709551615", Some(u64::MAX)),
            ("-1", None),
            ("1.5", None),
            ("1e300", None),
            ("\"7\"", None),
        ] {
            assert_eq!(value(text, 1).unwrap().whole(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "\\PC*") {
            let _ = value(&text, 8);
        }

        #[test]
        fn no_brackets_panic(text in "[\\[\\]{}\",:\\\\u0d8e1 -]{0,40}") {
            let ours = value(&text, 64).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }
}
