//! The JSON subprotocol as the generator needs it. Called through [`Protocol`](super::Protocol).
//! Reads by searching for the few fields of interest: the payloads are the generator's own and
//! contain none of them.

use super::payload::{MARK, Stamp, filled, read_hex};
use super::{Answer, Draft, IdForm, Incoming, Login, Message};
use memchr::{memchr, memmem};
use std::io::{self, Write};

/// Topics in one subscribe, a limit of the subprotocol.
const TOPICS_PER_FRAME: usize = 100;

/// `connect`; a session that is kept is kept for an hour.
pub(super) fn connect(out: &mut Vec<u8>, login: &Login<'_>) {
    let session = if login.clean {
        ""
    } else {
        r#","session":{"expiry":3600}"#
    };
    let frame = format!(
        r#"{{"type":"connect","clientId":"{}"{session}}}"#,
        login.client_id
    );
    out.extend_from_slice(frame.as_bytes());
}

/// `subscribe` frames, each with as many topics as one may have.
pub(super) fn subscribe(out: &mut Vec<Vec<u8>>, filters: &[String], qos: u8) {
    for chunk in filters.chunks(TOPICS_PER_FRAME) {
        let topics = serde_json::to_string(chunk).unwrap_or_default();
        let frame = format!(r#"{{"type":"subscribe","id":"sub","topics":{topics},"qos":{qos}}}"#);
        out.push(frame.into_bytes());
    }
}

/// `publish` with the payload as text.
pub(super) fn publish(topic: &str, qos: u8, retain: bool, payload_bytes: usize) -> Draft {
    let mut head = String::from(r#"{"type":"publish","#);
    let mut id = None;
    if qos > 0 {
        head.push_str(r#""id":""#);
        id = Some((head.len(), IdForm::Hex));
        head.push_str(r#"0000","qos":1,"#);
    }
    if retain {
        head.push_str(r#""retain":true,"#);
    }
    let topic = serde_json::to_string(topic).unwrap_or_default();
    head.push_str(r#""topic":"#);
    head.push_str(&topic);
    head.push_str(r#","data":""#);
    let mut bytes = head.into_bytes();
    let stamp_at = bytes.len();
    bytes.extend_from_slice(&filled(payload_bytes));
    bytes.extend_from_slice(br#""}"#);
    Draft {
        bytes,
        stamp_at,
        id,
    }
}

/// `ack` for the message with this `ackId`.
pub fn acknowledge(out: &mut impl Write, token: &[u8]) -> io::Result<()> {
    out.write_all(br#"{"type":"ack","ackId":"#)?;
    out.write_all(token)?;
    out.write_all(b"}")
}

/// The answer to a `ping`.
pub const PONG: &[u8] = br#"{"type":"pong"}"#;

/// What this frame is.
pub(super) fn read(frame: &[u8]) -> Incoming<'_> {
    match text_of(frame, br#""type":""#) {
        Some(b"message") => Incoming::Message(message(frame)),
        Some(b"connected") => Incoming::Connected {
            resumed: memmem::find(frame, br#""sessionPresent":true"#).is_some(),
        },
        Some(b"ack") => match text_of(frame, br#""id":""#) {
            Some(b"sub") => Incoming::Subscribed,
            Some(digits) => read_hex(digits)
                .and_then(|id| u16::try_from(id).ok())
                .map_or(Incoming::Other, Incoming::Acked),
            None => Incoming::Other,
        },
        Some(b"error" | b"disconnect") => {
            Incoming::Refused(String::from_utf8_lossy(frame).into_owned())
        }
        Some(b"ping") => Incoming::Ping,
        _ => Incoming::Other,
    }
}

fn message(frame: &[u8]) -> Message<'_> {
    let token = memmem::find(frame, br#""ackId":"#).map(|at| {
        let value = &frame[at + 8..];
        let end = value.iter().position(|byte| matches!(byte, b',' | b'}'));
        &value[..end.unwrap_or(value.len())]
    });
    Message {
        stamp: memchr(MARK, frame).and_then(|at| Stamp::decode(&frame[at..])),
        qos: u8::from(token.is_some()),
        answer: token.map_or(Answer::None, Answer::Token),
    }
}

/// The text that follows `start`, up to the next quotation mark.
fn text_of<'a>(frame: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    let value = &frame[memmem::find(frame, start)? + start.len()..];
    Some(&value[..memchr(b'"', value)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_with_and_without_an_ack() {
        let stamp = Some(Stamp {
            publisher: 3,
            sequence: 77,
        });
        assert_eq!(
            read(
                br#"{"type":"message","topic":"a","dataType":"text","data":"~00003000000004dxx"}"#
            ),
            Incoming::Message(Message {
                stamp,
                qos: 0,
                answer: Answer::None
            })
        );
        assert_eq!(
            read(br#"{"type":"message","qos":1,"ackId":17,"data":"~00003000000004dxx"}"#),
            Incoming::Message(Message {
                stamp,
                qos: 1,
                answer: Answer::Token(b"17")
            })
        );
    }

    #[test]
    fn answers_of_the_broker() {
        assert_eq!(
            read(br#"{"type":"ack","id":"00ff","receivers":3}"#),
            Incoming::Acked(255)
        );
        assert_eq!(
            read(br#"{"type":"ack","id":"sub","results":[]}"#),
            Incoming::Subscribed
        );
        assert_eq!(
            read(br#"{"type":"connected","sessionPresent":true}"#),
            Incoming::Connected { resumed: true }
        );
        assert_eq!(read(br#"{"type":"ping"}"#), Incoming::Ping);
        assert!(matches!(
            read(br#"{"type":"error","code":"x"}"#),
            Incoming::Refused(_)
        ));
        assert_eq!(read(b"nonsense"), Incoming::Other);
    }

    #[test]
    fn a_publish_is_json_with_its_stamp_in_place() {
        let draft = publish("a/\"b", 1, true, 40);
        let value: serde_json::Value = serde_json::from_slice(&draft.bytes).unwrap();
        assert_eq!(value["topic"], "a/\"b");
        assert_eq!(value["data"].as_str().unwrap().len(), 40);
        assert_eq!(draft.bytes[draft.stamp_at], MARK);
    }
}
