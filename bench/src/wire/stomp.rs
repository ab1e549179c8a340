//! STOMP 1.2 as the generator needs it. Called through [`Protocol`](super::Protocol). Topics are
//! given in MQTT spelling and become `/topic/...` with dots between levels, as RabbitMQ wants them; to
//! other brokers that is a topic of one level.

use super::payload::{MARK, Stamp, filled, read_hex};
use super::{Answer, Draft, IdForm, Incoming, Login, Message, Unreadable};
use memchr::{memchr, memmem};
use std::io::{self, Write};

/// Bytes of headers that are searched for their end before the frame is called unreadable.
const HEADERS_MAX: usize = 1 << 20;

/// CONNECT without heart-beats.
pub(super) fn connect(out: &mut Vec<u8>, login: &Login<'_>) {
    let frame = format!(
        "CONNECT\naccept-version:1.2\nhost:/\nheart-beat:0,0\nclient-id:{}\n\n\0",
        login.client_id
    );
    out.extend_from_slice(frame.as_bytes());
}

/// SUBSCRIBE frames with a receipt each; those of QoS 1 are acknowledged one by one.
pub(super) fn subscribe(out: &mut Vec<Vec<u8>>, login: &Login<'_>, filters: &[String], qos: u8) {
    let ack = if qos == 0 {
        "auto"
    } else {
        "client-individual"
    };
    let durable = if login.clean { "" } else { "durable:true\n" };
    for (index, filter) in filters.iter().enumerate() {
        let frame = format!(
            "SUBSCRIBE\nid:{index}\ndestination:{}\nack:{ack}\n{durable}receipt:sub\n\n\0",
            destination(filter)
        );
        out.push(frame.into_bytes());
    }
}

/// SEND; with a receipt if the QoS asks for one.
pub(super) fn publish(topic: &str, qos: u8, retain: bool, payload_bytes: usize) -> Draft {
    let payload = filled(payload_bytes);
    let mut head = format!("SEND\ndestination:{}\n", destination(topic));
    let mut id = None;
    if qos > 0 {
        head.push_str("receipt:");
        id = Some((head.len(), IdForm::Hex));
        head.push_str("0000\n");
    }
    if retain {
        head.push_str("retain:true\n");
    }
    head.push_str("content-length:");
    head.push_str(&payload.len().to_string());
    head.push_str("\n\n");
    let mut bytes = head.into_bytes();
    let stamp_at = bytes.len();
    bytes.extend_from_slice(&payload);
    bytes.push(0);
    Draft {
        bytes,
        stamp_at,
        id,
    }
}

/// ACK for a MESSAGE with this `ack` header.
pub fn acknowledge(out: &mut impl Write, token: &[u8]) -> io::Result<()> {
    out.write_all(b"ACK\nid:")?;
    out.write_all(token)?;
    out.write_all(b"\n\n\0")
}

/// The first frame in `bytes`; line ends between frames count as a frame of no interest.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Incoming<'_>, usize)>, Unreadable> {
    match bytes.first() {
        None => return Ok(None),
        Some(b'\n' | b'\r') => return Ok(Some((Incoming::Other, 1))),
        Some(_) => {}
    }
    let Some(head_end) = memmem::find(bytes, b"\n\n") else {
        if bytes.len() > HEADERS_MAX {
            return Err(Unreadable("STOMP headers without an end"));
        }
        return Ok(None);
    };
    let head = &bytes[..=head_end];
    let body = &bytes[head_end + 2..];
    let body_length = match header(head, b"\ncontent-length:") {
        Some(digits) => decimal(digits).ok_or(Unreadable("content-length is no number"))?,
        None => match memchr(0, body) {
            Some(end) => end,
            None => return Ok(None),
        },
    };
    if body.len() <= body_length {
        return Ok(None);
    }
    if body[body_length] != 0 {
        return Err(Unreadable("STOMP frame without NUL at its end"));
    }
    let incoming = frame(head, &body[..body_length]);
    Ok(Some((incoming, head_end + 2 + body_length + 1)))
}

fn frame<'a>(head: &'a [u8], body: &'a [u8]) -> Incoming<'a> {
    if head.starts_with(b"MESSAGE\n") {
        let token = header(head, b"\nack:");
        return Incoming::Message(Message {
            stamp: memchr(MARK, body).and_then(|at| Stamp::decode(&body[at..])),
            qos: u8::from(token.is_some()),
            answer: token.map_or(Answer::None, Answer::Token),
        });
    }
    if head.starts_with(b"CONNECTED\n") {
        return Incoming::Connected { resumed: false };
    }
    if head.starts_with(b"RECEIPT\n") {
        return match header(head, b"\nreceipt-id:") {
            Some(b"sub") => Incoming::Subscribed,
            Some(digits) => read_hex(digits)
                .and_then(|id| u16::try_from(id).ok())
                .map_or(Incoming::Other, Incoming::Acked),
            None => Incoming::Other,
        };
    }
    if head.starts_with(b"ERROR\n") {
        let text = header(head, b"\nmessage:").unwrap_or(body);
        return Incoming::Refused(format!("ERROR {}", String::from_utf8_lossy(text)));
    }
    Incoming::Other
}

/// The value of the header that `name` (with the line end before and the colon behind) begins.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = &head[memmem::find(head, name)? + name.len()..];
    Some(&value[..memchr(b'\n', value)?])
}

fn decimal(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn destination(topic: &str) -> String {
    let topic = topic.replace('\\', "\\\\").replace(':', "\\c");
    format!("/topic/{}", topic.replace('/', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_found_with_its_stamp_and_ack() {
        let bytes =
            b"MESSAGE\ndestination:/topic/a\nack:7-1\ncontent-length:18\n\n~00003000000004dxx\0\n";
        let (incoming, end) = read(bytes).unwrap().unwrap();
        assert_eq!(end, bytes.len() - 1);
        assert_eq!(
            incoming,
            Incoming::Message(Message {
                stamp: Some(Stamp {
                    publisher: 3,
                    sequence: 77
                }),
                qos: 1,
                answer: Answer::Token(b"7-1"),
            })
        );
        assert_eq!(read(&bytes[end..]).unwrap(), Some((Incoming::Other, 1)));
    }

    #[test]
    fn an_incomplete_frame_is_waited_for() {
        let draft = publish("a/b", 1, false, 40);
        for end in 0..draft.bytes.len() {
            assert_eq!(read(&draft.bytes[..end]), Ok(None), "{end} bytes");
        }
        assert!(read(&draft.bytes).unwrap().is_some());
    }

    #[test]
    fn receipts_are_for_publishes_or_for_subscribes() {
        let read = |bytes| read(bytes).unwrap().unwrap().0;
        assert_eq!(
            read(b"RECEIPT\nreceipt-id:00ff\n\n\0"),
            Incoming::Acked(0xFF)
        );
        assert_eq!(read(b"RECEIPT\nreceipt-id:sub\n\n\0"), Incoming::Subscribed);
        assert!(matches!(
            read(b"ERROR\nmessage:no\n\n\0"),
            Incoming::Refused(text) if text == "ERROR no"
        ));
    }

    #[test]
    fn wrong_lengths_are_reported() {
        assert!(read(b"MESSAGE\ncontent-length:x\n\n\0").is_err());
        assert!(read(b"MESSAGE\ncontent-length:1\n\nab\0").is_err());
    }
}
