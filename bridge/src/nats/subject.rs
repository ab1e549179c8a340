//! Subjects for topics, and back, as nats-server does it for its own MQTT.
//!
//! A level is a token: `orders/7/new` is `orders.7.new`. An empty level is the token `/`, and a `.` in
//! a level is `//`: `/a//b.c` is `/.a./.b//c`. Each topic that has a subject comes back as it was. A
//! topic with white space, `*` or `>` has none, and a subject with another `/` in it is no topic's.

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubjectError {
    /// The topic.
    #[error("the topic \"{0}\" has no NATS subject")]
    Topic(String),
    /// The subject.
    #[error("the NATS subject \"{0}\" is no topic's")]
    Subject(String),
}

/// The subject of a topic.
pub(crate) fn subject_of(topic: &str) -> Result<String, SubjectError> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
    if topic.is_empty() || topic.contains(forbidden) {
        return Err(SubjectError::Topic(topic.to_owned()));
    }
    let tokens = topic.split('/').map(|level| match level {
        "" => "/".to_owned(),
        level => level.replace('.', "//"),
    });
    Ok(tokens.collect::<Vec<_>>().join("."))
}

/// The topic of a subject.
pub(crate) fn topic_of(subject: &str) -> Result<String, SubjectError> {
    if is_plain(subject.as_bytes()) {
        return Ok(subject.replace('.', "/"));
    }
    let wrong = || SubjectError::Subject(subject.to_owned());
    let levels = subject.split('.').map(|token| match token {
        "" => Err(wrong()),
        "/" => Ok(String::new()),
        token => {
            let level = token.replace("//", ".");
            if level.contains(['/', '+', '#']) {
                Err(wrong())
            } else {
                Ok(level)
            }
        }
    });
    Ok(levels.collect::<Result<Vec<_>, _>>()?.join("/"))
}

/// Whether each token is a level as it is.
fn is_plain(subject: &[u8]) -> bool {
    let mut before = b'.';
    for &byte in subject {
        if matches!(byte, b'/' | b'+' | b'#') || (byte == b'.' && before == b'.') {
            return false;
        }
        before = byte;
    }
    before != b'.'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_has_its_other() {
        for (topic, subject) in [
            ("a", "a"),
            ("orders/7/new", "orders.7.new"),
            ("/a", "/.a"),
            ("a/", "a./"),
            ("a//b", "a./.b"),
            ("/", "/./"),
            ("a.b/c", "a//b.c"),
            ("./..", "//.////"),
            ("maß/雪", "maß.雪"),
        ] {
            assert_eq!(subject_of(topic).as_deref(), Ok(subject), "{topic}");
            assert_eq!(topic_of(subject).as_deref(), Ok(topic), "{subject}");
        }
    }

    #[test]
    fn some_have_none() {
        for topic in ["", "a b", "a/*", "a>b", "a\tb", "\u{1}"] {
            assert!(subject_of(topic).is_err(), "{topic}");
        }
        for subject in ["", "a..b", "a.", "a/b", "a.b/", "a+b", "a.#"] {
            assert!(topic_of(subject).is_err(), "{subject}");
        }
    }

    proptest! {
        #[test]
        fn a_topic_comes_back(topic in "[ab./]{1,12}") {
            let subject = subject_of(&topic).unwrap();
            prop_assert_eq!(topic_of(&subject), Ok(topic));
        }
    }
}
