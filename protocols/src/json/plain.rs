//! The `publish` and the `ack` that most clients send, read on a way of their own.
//!
//! A topic, a payload that stands in the frame as it is, perhaps an `id`, a QoS, a retain flag: such
//! a frame is gone through once and nothing of it is copied. An `ack` is for one message and has no
//! `id`. All that is less usual, and all that is wrong, is left to
//! [`ClientFrame::parse`](super::ClientFrame::parse), which begins anew; a property test sees to it
//! that both say the same of what is read here.
//!
//! Called by [`super::connection`].

use std::borrow::Cow;

use super::content::Data;
use super::fields::ID_BYTES;
use super::scan::{self, Kind, ScanError, Value};
use crate::connection::Position;

/// A `publish` frame to a topic that asks for nothing else.
#[derive(Debug, Default)]
pub(super) struct Plain<'a> {
    /// As it stands in the frame, see [`Id`](super::Id).
    pub(super) id: Option<&'a str>,
    pub(super) topic: &'a str,
    /// Text or JSON, as it stands in the frame.
    pub(super) data: Data<'a>,
    pub(super) qos: Option<u8>,
    pub(super) retain: bool,
}

/// The frame is another one, or not in order.
struct Other;

impl From<ScanError> for Other {
    fn from(_: ScanError) -> Self {
        Self
    }
}

/// Reads a frame, if it is one of these.
pub(super) fn read(text: &str, max_depth: usize) -> Option<Plain<'_>> {
    let mut plain = Plain::default();
    let begins = text.starts_with(BEGINNING);
    let mut seen = if begins { TYPE } else { 0 };
    let visit = |key, value| {
        let bit = plain.member(key, value)?;
        if seen & bit != 0 {
            return Err(Other);
        }
        seen |= bit;
        Ok(())
    };
    let result = if begins {
        scan::object_after(BEGINNING, text, max_depth, visit)
    } else {
        scan::object(text, max_depth, visit)
    };
    let is_whole = result.is_ok() && seen & (TYPE | TOPIC) == TYPE | TOPIC;
    is_whole.then_some(plain)
}

/// How most programs begin it, which need not be taken apart.
const BEGINNING: &str = r#"{"type":"publish","#;

/// Reads an `ack` for one message, if it is written as most programs do: the position.
pub(super) fn read_ack(text: &str) -> Option<Position> {
    let rest = text.strip_prefix(r#"{"type":"ack","ackId":"#)?;
    let digits = rest.strip_suffix('}')?;
    // So many digits are exact in every reader; a zero in front is not JSON.
    let is_number = matches!(digits.as_bytes(), [b'1'..=b'9', ..] | [b'0'])
        && digits.len() < 16
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

// A bit for each member that may be there.
const TYPE: u8 = 1;
const TOPIC: u8 = 1 << 1;
const DATA: u8 = 1 << 2;
const ID: u8 = 1 << 3;
const QOS: u8 = 1 << 4;
const RETAIN: u8 = 1 << 5;

impl<'a> Plain<'a> {
    /// Takes a member and says which it is.
    #[inline]
    fn member(&mut self, key: Value<'a>, value: Value<'a>) -> Result<u8, Other> {
        Ok(match (key.raw, value.kind) {
            ("\"type\"", _) if value.raw == "\"publish\"" => TYPE,
            ("\"topic\"", Kind::String { plain: true }) => {
                self.topic = value.inside();
                TOPIC
            }
            ("\"data\"", kind) => {
                self.data = match kind {
                    Kind::String { plain: true } => Data::Text(Cow::Borrowed(value.inside())),
                    Kind::String { plain: false } => return Err(Other),
                    _ => Data::Json(Cow::Borrowed(value.raw)),
                };
                DATA
            }
            ("\"id\"", Kind::String { .. } | Kind::Number) if value.raw.len() <= ID_BYTES => {
                self.id = Some(value.raw);
                ID
            }
            ("\"qos\"", Kind::Number) => {
                self.qos = Some(match value.raw {
                    "0" => 0,
                    "1" => 1,
                    _ => return Err(Other),
                });
                QOS
            }
            ("\"retain\"", Kind::Bool(retain)) => {
                self.retain = retain;
                RETAIN
            }
            _ => return Err(Other),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::command;
    use super::super::content::Content;
    use super::super::frame::{ClientFrame, Id, PublishRequest, Request, Target};
    use super::*;
    use crate::last_topic::LastTopic;
    use crate::limits::Limits;
    use crate::model::Timestamp;

    #[test]
    fn reads_what_most_clients_send() {
        for text in [
            r#"{"type":"publish","topic":"a/b","data":"x"}"#,
            r#"{"type":"publish","topic":"a/b"}"#,
            r#" { "data" : {"t":[21.5]} , "topic" : "a" , "type" : "publish" } "#,
            r#"{"type":"publish","id":"7","qos":1,"retain":true,"topic":"a","data":null}"#,
        ] {
            assert!(read(text, 32).is_some(), "{text}");
        }
    }

    #[test]
    fn leaves_all_else_to_the_general_reader() {
        for text in [
            "",
            "{}",
            r#"{"type":"publish",}"#,
            r#"{"type":"publish","topic":"a"} x"#,
            r#"{"type":"publish","data":"no topic"}"#,
            r#"{"topic":"no type"}"#,
            r#"{"type":"subscribe","topic":"a"}"#,
            r#"{"type":"publish","type":"publish","topic":"a"}"#,
            r#"{"type":"publish","topic":"a","topic":"b"}"#,
            r#"{"type":"publish","topic":"a\u0062"}"#,
            r#"{"type":"publish","topic":"a","data":"\n"}"#,
            r#"{"type":"publish","topic":"a","qos":2}"#,
            r#"{"type":"publish","topic":"a","qos":1.0}"#,
            r#"{"type":"publish","topic":"a","id":null}"#,
            r#"{"type":"publish","topic":"a","group":"g"}"#,
            r#"{"type":"publish","topic":"a","unknown":1}"#,
        ] {
            assert!(read(text, 32).is_none(), "{text}");
        }
        let long = format!(
            r#"{{"type":"publish","topic":"a","id":"{}"}}"#,
            "x".repeat(ID_BYTES)
        );
        assert!(read(&long, 32).is_none());
        let nested = r#"{"type":"publish","topic":"a","data":[[1]]}"#;
        assert!(read(nested, 3).is_some());
        assert!(read(nested, 2).is_none());
        assert!(read(nested, 0).is_none());
    }

    #[test]
    fn an_ack_is_a_number_and_nothing_else() {
        let ack = |position: &str| format!(r#"{{"type":"ack","ackId":{position}}}"#);
        for (position, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("999999999999999", Some(999_999_999_999_999)),
            ("", None),
            ("07", None),
            ("-1", None),
            ("1.0", None),
            ("1 ", None),
            ("\"7\"", None),
            ("7,\"id\":1", None),
            ("1000000000000000", None),
        ] {
            let text = ack(position);
            assert_eq!(read_ack(&text), expected, "{text}");
            if let Some(position) = expected {
                let frame = ClientFrame {
                    id: None,
                    request: Request::Ack {
                        positions: vec![position],
                    },
                };
                let limits = Limits::default();
                assert_eq!(ClientFrame::parse(&text, &limits), Ok(frame));
            }
        }
    }

    fn member() -> impl Strategy<Value = String> {
        const KEYS: &[&str] = &[
            "type", "topic", "data", "id", "qos", "retain", "dataType", "other",
        ];
        const VALUES: &[&str] = &[
            "\"publish\"",
            "\"a/b\"",
            "\"a\\\"b\"",
            "\"+\"",
            "\"\"",
            "0",
            "1",
            "1.0",
            "true",
            "null",
            "{\"a\":[1]}",
            "\"\\ud800\"",
            "01",
        ];
        let value = prop_oneof![
            proptest::sample::select(VALUES).prop_map(str::to_owned),
            ".{0,40}".prop_map(|text| super::super::write::string(&text)),
        ];
        (proptest::sample::select(KEYS), value, " ?")
            .prop_map(|(key, value, space)| format!("\"{key}\":{space}{value}"))
    }

    proptest! {
        #[test]
        fn says_the_same_as_the_general_reader(
            begins: bool, members in proptest::collection::vec(member(), 0..6),
        ) {
            let mut members = members;
            if begins {
                members.insert(0, r#""type":"publish""#.to_owned());
            }
            if !members.iter().any(|member| member.starts_with("\"topic\"")) {
                members.push(r#""topic":"a/b""#.to_owned());
            }
            let text = format!("{{{}}}", members.join(","));
            let limits = Limits::default();
            let Some(plain) = read(&text, limits.json_depth) else {
                return Ok(());
            };
            let request = PublishRequest {
                target: Target::Topic(plain.topic.into()),
                content: Content::from(plain.data.clone()),
                qos: plain.qos,
                retain: plain.retain,
                idempotency_key: None,
            };
            let expected = ClientFrame {
                id: plain.id.map(Id::of_json),
                request: Request::Publish(Box::new(request.clone())),
            };
            prop_assert_eq!(ClientFrame::parse(&text, &limits).unwrap(), expected);
            let has_id = plain.id.is_some();
            let (mut one, mut other) = (LastTopic::default(), LastTopic::default());
            let general = command::publish(request, has_id, (&limits, &mut one), Timestamp(1));
            let own = command::publish_plain(plain, &limits, &mut other);
            prop_assert_eq!(format!("{general:?}"), format!("{own:?}"));
        }
    }
}
