//! Topic filters, shared subscriptions and matching.

use std::fmt;

use bytestring::ByteString;
use memchr::memchr3;

use super::topic::{Topic, TopicError, check_bounds};

/// A topic filter without its `$share/group/` part `[MQTT-4.7.1]`.
///
/// Valid by construction: wildcards stand alone in their level, `#` only in the last one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter {
    text: ByteString,
    wild: bool,
}

/// What a client subscribes to: a [`Filter`], alone or shared with others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionFilter {
    text: ByteString,
    kind: Kind,
    filter: Filter,
}

/// How the messages of a subscription are divided among its holders.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Each subscriber gets every message.
    Plain,
    /// `$share/{group}/{filter}`: each message goes to one member `[MQTT-4.8.2]`.
    Shared {
        /// The share name.
        group: ByteString,
    },
    /// `$queue/{name}`: competing consumers of a queue that keeps its messages while nobody is
    /// there. STOMP calls it `/queue/{name}`.
    Queue,
}

/// Why a text is not a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The rules that it shares with topic names.
    #[error(transparent)]
    Text(#[from] TopicError),
    /// `+` or `#` beside other characters in a level, or `#` before the last level
    /// `[MQTT-4.7.1-1]` `[MQTT-4.7.1-2]`.
    #[error("+ must be a level of its own and # the last level")]
    Wildcard,
    /// `$share` without a name, with a wildcard in the name, or without a filter
    /// `[MQTT-4.8.2-1]` `[MQTT-4.8.2-2]`.
    #[error("a shared subscription is $share/NAME/FILTER, NAME not empty and without + # /")]
    Share,
    /// A wildcard in a `$queue/` subscription, or a queue inside `$share`.
    #[error("a queue is subscribed by its exact name: $queue/NAME")]
    Queue,
}

impl Filter {
    /// Checks a text (without `$share`) and takes it as a filter.
    pub fn parse(
        text: ByteString,
        max_bytes: usize,
        max_levels: usize,
    ) -> Result<Self, FilterError> {
        check_bounds(&text, max_bytes, max_levels)?;
        let wild = memchr3(b'+', b'#', 0, text.as_bytes()).is_some();
        if wild {
            check_wildcards(&text)?;
        }
        Ok(Self { text, wild })
    }

    /// The filter that matches exactly one topic.
    pub fn exactly(topic: &Topic) -> Self {
        Self {
            text: topic.text().clone(),
            wild: false,
        }
    }

    /// The filter's text.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The filter's text as a shared string.
    #[inline]
    pub fn text(&self) -> &ByteString {
        &self.text
    }

    /// Whether it contains a wildcard.
    #[inline]
    pub fn is_wild(&self) -> bool {
        self.wild
    }

    /// The levels, from the left.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.text.split('/')
    }

    /// Whether a message on `topic` is for this filter `[MQTT-4.7]`.
    ///
    /// `#` also matches its parent level; a leading wildcard matches no `$` topic. Linear in the
    /// length, without recursion.
    pub fn matches(&self, topic: &Topic) -> bool {
        if !self.wild {
            return self.text == *topic.text();
        }
        if topic.is_system() && !self.text.starts_with('$') {
            return false;
        }
        let mut levels = topic.levels();
        for wanted in self.levels() {
            if wanted == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if wanted == "+" || wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

fn check_wildcards(text: &str) -> Result<(), FilterError> {
    let mut ended = false;
    for level in text.split('/') {
        if ended {
            return Err(FilterError::Wildcard);
        }
        match level {
            "+" => {}
            "#" => ended = true,
            _ => match memchr3(b'+', b'#', 0, level.as_bytes()) {
                None => {}
                Some(at) if level.as_bytes()[at] == 0 => {
                    return Err(FilterError::Text(TopicError::Nul));
                }
                Some(_) => return Err(FilterError::Wildcard),
            },
        }
    }
    Ok(())
}

impl SubscriptionFilter {
    /// Checks the text of a subscription, `$share/…` and `$queue/…` included.
    pub fn parse(
        text: ByteString,
        max_bytes: usize,
        max_levels: usize,
    ) -> Result<Self, FilterError> {
        if text == "$share" || text.starts_with("$share/") {
            return Self::parse_shared(text, max_bytes, max_levels);
        }
        let filter = Filter::parse(text.clone(), max_bytes, max_levels)?;
        let kind = if text.starts_with("$queue/") {
            Kind::Queue
        } else {
            Kind::Plain
        };
        if kind == Kind::Queue && filter.is_wild() {
            return Err(FilterError::Queue);
        }
        Ok(Self { text, kind, filter })
    }

    fn parse_shared(
        text: ByteString,
        max_bytes: usize,
        max_levels: usize,
    ) -> Result<Self, FilterError> {
        // The share name and `$share` do not count against the levels of the filter.
        check_bounds(&text, max_bytes, max_levels.saturating_add(2))?;
        let rest = text.strip_prefix("$share/").ok_or(FilterError::Share)?;
        let (group, filter) = rest.split_once('/').ok_or(FilterError::Share)?;
        if group.is_empty()
            || filter.is_empty()
            || memchr3(b'+', b'#', 0, group.as_bytes()).is_some()
        {
            return Err(FilterError::Share);
        }
        if filter.starts_with("$queue/") || filter.starts_with("$share/") {
            return Err(FilterError::Queue);
        }
        let group = text.slice_ref(group);
        let filter = Filter::parse(text.slice_ref(filter), max_bytes, max_levels)?;
        Ok(Self {
            text,
            kind: Kind::Shared { group },
            filter,
        })
    }

    /// The text as the client wrote it.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text as the client wrote it, shared.
    #[inline]
    pub fn text(&self) -> &ByteString {
        &self.text
    }

    /// What messages it matches.
    #[inline]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Alone or shared.
    #[inline]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, topic: &str) -> bool {
        let filter = Filter::parse(filter.into(), 1024, 32).unwrap();
        filter.matches(&Topic::parse(topic.into(), 1024, 32).unwrap())
    }

    #[test]
    fn the_examples_of_the_standard() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a", "a/b", false),
            ("A", "a", false),
            ("+/b/#", "a/b", true),
            ("a/#", "ab", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} on {topic}");
        }
    }

    #[test]
    fn wildcards_stand_alone() {
        for text in ["a+", "+a", "a/b#", "#/a", "a/#/b", "++", "##", "a/+b/c"] {
            assert_eq!(
                Filter::parse(text.into(), 1024, 32),
                Err(FilterError::Wildcard),
                "{text}"
            );
        }
        assert_eq!(
            Filter::parse("a\0".into(), 1024, 32),
            Err(FilterError::Text(TopicError::Nul))
        );
    }

    #[test]
    fn shared_subscriptions() {
        let parsed = SubscriptionFilter::parse("$share/g/a/+".into(), 64, 3).unwrap();
        assert_eq!(parsed.kind(), &Kind::Shared { group: "g".into() });
        assert_eq!(parsed.filter().as_str(), "a/+");
        for text in [
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/g+/a",
        ] {
            assert_eq!(
                SubscriptionFilter::parse(text.into(), 64, 8),
                Err(FilterError::Share),
                "{text}"
            );
        }
        assert_eq!(
            SubscriptionFilter::parse("$share/g/$queue/a".into(), 64, 8),
            Err(FilterError::Queue)
        );
    }

    #[test]
    fn queues_are_exact() {
        let parsed = SubscriptionFilter::parse("$queue/a/b".into(), 64, 8).unwrap();
        assert_eq!(parsed.kind(), &Kind::Queue);
        assert_eq!(
            SubscriptionFilter::parse("$queue/+".into(), 64, 8),
            Err(FilterError::Queue)
        );
    }
}
