//! STOMP destinations to topics and back.
//!
//! STOMP leaves the meaning of a destination to the server. Here:
//!
//! | destination | topic or filter |
//! |---|---|
//! | `/topic/a/b` | `a/b` |
//! | `a/b` (bare) | `a/b` |
//! | `/queue/x` | `$queue/x` |
//! | `/group/g` | `$group/g` |
//! | `/user/id/x` | `$user/id/x` |
//! | `/broadcast` | `$broadcast` |
//! | `/temp-queue/x` | `$queue/temp/{connection}/x` |
//!
//! A bare destination that begins with `/` is refused, so that a misspelt prefix is never taken
//! for a topic; the topic `/a` is `/topic//a`.

use std::borrow::Cow;

use super::frame::{Buffer, Escaping};
use crate::connection::topics;

/// Destination of a queue that is private to one connection.
pub(super) const TEMP_QUEUE: &str = "/temp-queue/";
const TEMP: &str = "temp/";
const TOPIC: &str = "/topic/";
const BROADCAST: &str = "/broadcast";

/// Prefixes that stand for each other: destination, topic.
const PREFIXES: [(&str, &str); 3] = [
    ("/queue/", topics::QUEUE),
    ("/group/", topics::GROUP),
    ("/user/", topics::USER),
];

/// How a subscription spells destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `/topic/a/b`.
    Prefixed,
    /// `a/b`.
    Bare,
    /// `/temp-queue/x`.
    Temp,
}

/// Why a destination means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DestinationError {
    /// It begins with `/`, but with none of the prefixes.
    #[error(
        "supported are /topic/NAME, /queue/NAME, /group/NAME, /user/ID/NAME, /broadcast, \
         /temp-queue/NAME and bare topics; the topic /NAME is written /topic//NAME"
    )]
    Unsupported,
    /// Nothing behind the prefix.
    #[error("a name must follow the prefix")]
    NoName,
}

/// The text of the topic or filter that a destination stands for, and its spelling.
pub(super) fn to_topic<'a>(
    destination: &'a str,
    connection: &str,
) -> Result<(Cow<'a, str>, Style), DestinationError> {
    if !destination.starts_with('/') {
        return Ok((destination.into(), Style::Bare));
    }
    if destination == BROADCAST {
        return Ok((topics::BROADCAST.into(), Style::Prefixed));
    }
    if let Some(name) = destination.strip_prefix(TOPIC) {
        return Ok((named(name)?.into(), Style::Prefixed));
    }
    if let Some(name) = destination.strip_prefix(TEMP_QUEUE) {
        let prefix = format!("{}{TEMP}{connection}/", topics::QUEUE);
        return Ok(((prefix + named(name)?).into(), Style::Temp));
    }
    for (prefix, system) in PREFIXES {
        if let Some(name) = destination.strip_prefix(prefix) {
            let topic = [system, named(name)?].concat();
            return Ok((topic.into(), Style::Prefixed));
        }
    }
    Err(DestinationError::Unsupported)
}

fn named(name: &str) -> Result<&str, DestinationError> {
    if name.is_empty() {
        return Err(DestinationError::NoName);
    }
    Ok(name)
}

/// Whether a topic is a temporary queue of another connection.
pub(super) fn is_foreign_temp(topic: &str, connection: &str) -> bool {
    topic
        .strip_prefix(topics::QUEUE)
        .and_then(|name| name.strip_prefix(TEMP))
        .is_some_and(|name| {
            name.strip_prefix(connection)
                .is_none_or(|rest| !rest.starts_with('/'))
        })
}

/// Writes the destination of a topic as the value of a header.
pub(super) fn put(topic: &str, style: Style, escaping: Escaping, buffer: &mut Buffer) {
    if style == Style::Temp
        && let Some(name) = topic.splitn(4, '/').nth(3)
    {
        buffer.extend_from_slice(TEMP_QUEUE.as_bytes());
        return escaping.put_value(name, buffer);
    }
    // Bare, a topic that begins with a slash would read as a prefix.
    if style == Style::Bare && !topic.starts_with('/') {
        return escaping.put_value(topic, buffer);
    }
    if topic == topics::BROADCAST {
        return buffer.extend_from_slice(BROADCAST.as_bytes());
    }
    for (prefix, system) in PREFIXES {
        if let Some(name) = topic.strip_prefix(system)
            && !name.is_empty()
        {
            buffer.extend_from_slice(prefix.as_bytes());
            return escaping.put_value(name, buffer);
        }
    }
    buffer.extend_from_slice(TOPIC.as_bytes());
    escaping.put_value(topic, buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_topic(topic: &str, style: Style) -> String {
        let mut buffer = Buffer::new();
        put(topic, style, Escaping::Plain, &mut buffer);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn destinations_and_topics_stand_for_each_other() {
        for (destination, topic, style) in [
            ("/topic/a/b", "a/b", Style::Prefixed),
            ("/topic//a", "/a", Style::Prefixed),
            ("/topic/+/b/#", "+/b/#", Style::Prefixed),
            ("/topic//topic/a", "/topic/a", Style::Prefixed),
            ("/topic/$SYS/x", "$SYS/x", Style::Prefixed),
            ("/topic/$broadcast/x", "$broadcast/x", Style::Prefixed),
            ("a/b", "a/b", Style::Bare),
            ("$queue/x", "$queue/x", Style::Bare),
            ("/queue/a/b", "$queue/a/b", Style::Prefixed),
            ("/group/g", "$group/g", Style::Prefixed),
            ("/user/id/x", "$user/id/x", Style::Prefixed),
            ("/broadcast", "$broadcast", Style::Prefixed),
            ("/temp-queue/x/y", "$queue/temp/c1/x/y", Style::Temp),
        ] {
            assert_eq!(
                to_topic(destination, "c1"),
                Ok((topic.into(), style)),
                "{destination}"
            );
            assert_eq!(from_topic(topic, style), destination, "{topic}");
        }
    }

    #[test]
    fn other_spellings_lead_to_the_same_topic() {
        assert_eq!(to_topic("/topic/$queue/x", "c1").unwrap().0, "$queue/x");
        assert_eq!(from_topic("$queue/x", Style::Prefixed), "/queue/x");
        assert_eq!(from_topic("/a", Style::Bare), "/topic//a");
        assert_eq!(
            from_topic("$queue/temp/c1/x", Style::Prefixed),
            "/queue/temp/c1/x",
            "what others send an answer to"
        );
    }

    #[test]
    fn unknown_prefixes_are_refused() {
        for destination in [
            "/exchange/amq.topic/x",
            "/topics/a",
            "/",
            "/a",
            "/topic",
            "/broadcast/x",
        ] {
            assert_eq!(
                to_topic(destination, "c1"),
                Err(DestinationError::Unsupported),
                "{destination}"
            );
        }
        for destination in ["/topic/", "/queue/", "/temp-queue/"] {
            assert_eq!(to_topic(destination, "c1"), Err(DestinationError::NoName));
        }
    }

    #[test]
    fn temporary_queues_belong_to_their_connection() {
        assert!(!is_foreign_temp("$queue/temp/c1/x", "c1"));
        assert!(is_foreign_temp("$queue/temp/c12/x", "c1"));
        assert!(is_foreign_temp("$queue/temp/c2/x", "c1"));
        assert!(!is_foreign_temp("$queue/x", "c1"));
    }
}
