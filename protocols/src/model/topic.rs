//! Topic names.

use std::fmt;

use bytestring::ByteString;
use memchr::{memchr_iter, memchr3};

/// A topic name: the same UTF-8 bytes in every protocol `[MQTT-4.7]`.
///
/// Not empty, no NUL, no wildcard, at most 65,535 bytes, within the configured length and
/// levels. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(ByteString);

/// Why a text is not a topic name (or not a filter: [`crate::model::FilterError`] holds this).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No bytes at all `[MQTT-4.7.3-1]`.
    #[error("it is empty")]
    Empty,
    /// A NUL character `[MQTT-4.7.3-2]`.
    #[error("it contains the NUL character")]
    Nul,
    /// `+` or `#` in a topic name `[MQTT-3.3.2-2]`.
    #[error("a topic to publish to must not contain the wildcards + and #")]
    Wildcard,
    /// More bytes than allowed.
    #[error("it has {length} bytes, at most {max} are allowed")]
    TooLong {
        /// Bytes it has.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// More levels than allowed.
    #[error("it has {levels} levels, at most {max} are allowed")]
    TooDeep {
        /// Levels it has.
        levels: usize,
        /// Levels allowed.
        max: usize,
    },
}

/// Bounds of a topic name or filter.
pub(crate) fn check_bounds(
    text: &str,
    max_bytes: usize,
    max_levels: usize,
) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    let max = max_bytes.min(usize::from(u16::MAX));
    if text.len() > max {
        return Err(TopicError::TooLong {
            length: text.len(),
            max,
        });
    }
    let levels = memchr_iter(b'/', text.as_bytes()).count() + 1;
    if levels > max_levels {
        return Err(TopicError::TooDeep {
            levels,
            max: max_levels,
        });
    }
    Ok(())
}

impl Topic {
    /// Checks a text and takes it as a topic name.
    pub fn parse(
        text: ByteString,
        max_bytes: usize,
        max_levels: usize,
    ) -> Result<Self, TopicError> {
        check_bounds(&text, max_bytes, max_levels)?;
        if let Some(at) = memchr3(b'+', b'#', 0, text.as_bytes()) {
            let nul = text.as_bytes()[at] == 0;
            return Err(if nul {
                TopicError::Nul
            } else {
                TopicError::Wildcard
            });
        }
        Ok(Self(text))
    }

    /// The name.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a shared string.
    #[inline]
    pub fn text(&self) -> &ByteString {
        &self.0
    }

    /// Whether the first character is `$`: such topics are matched by no filter that starts with
    /// a wildcard `[MQTT-4.7.2-1]`.
    #[inline]
    pub fn is_system(&self) -> bool {
        self.0.as_bytes().first() == Some(&b'$')
    }

    /// The levels, from the left.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Topic, TopicError> {
        Topic::parse(text.into(), 32, 4)
    }

    #[test]
    fn accepts_what_the_standard_accepts() {
        for text in ["a", "/", "a/b", "/a", "a/", "a//b", "$SYS/x", "ä/雪", " "] {
            assert_eq!(parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        assert_eq!(parse(""), Err(TopicError::Empty));
        assert_eq!(parse("a\0"), Err(TopicError::Nul));
        assert_eq!(parse("a/+"), Err(TopicError::Wildcard));
        assert_eq!(parse("a#"), Err(TopicError::Wildcard));
        assert_eq!(
            parse("a/b/c/d/e"),
            Err(TopicError::TooDeep { levels: 5, max: 4 })
        );
        assert_eq!(
            parse(&"x".repeat(33)),
            Err(TopicError::TooLong {
                length: 33,
                max: 32
            })
        );
    }
}
