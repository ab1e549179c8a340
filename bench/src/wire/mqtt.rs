//! MQTT 3.1.1 as the generator needs it. Called through [`Protocol`](super::Protocol).

use super::payload::{STAMP_BYTES, Stamp, filled};
use super::{Answer, Draft, IdForm, Incoming, Login, Message, Unreadable};

/// Filters in one SUBSCRIBE: brokers limit it, and Polycast to 100.
const FILTERS_PER_SUBSCRIBE: usize = 100;

/// Long enough that no PINGREQ is due while anything is measured. Not 0, which some refuse.
const KEEP_ALIVE_SECS: u16 = 1200;

/// CONNECT without a login.
pub(super) fn connect(out: &mut Vec<u8>, login: &Login<'_>) {
    let id = login.client_id.as_bytes();
    out.push(0x10);
    length(out, 12 + id.len());
    out.extend_from_slice(b"\x00\x04MQTT\x04");
    out.push(u8::from(login.clean) << 1);
    out.extend_from_slice(&KEEP_ALIVE_SECS.to_be_bytes());
    string(out, id);
}

/// SUBSCRIBE packets, each with as many filters as brokers take.
pub(super) fn subscribe(out: &mut Vec<Vec<u8>>, filters: &[String], qos: u8) {
    for (index, chunk) in filters.chunks(FILTERS_PER_SUBSCRIBE).enumerate() {
        let body: usize = chunk.iter().map(|filter| filter.len() + 3).sum();
        let mut packet = vec![0x82];
        length(&mut packet, body + 2);
        packet.extend_from_slice(&(index as u16 + 1).to_be_bytes());
        for filter in chunk {
            string(&mut packet, filter.as_bytes());
            packet.push(qos);
        }
        out.push(packet);
    }
}

/// PUBLISH with an empty stamp and the identifier 0.
pub(super) fn publish(topic: &str, qos: u8, retain: bool, payload_bytes: usize) -> Draft {
    let payload = filled(payload_bytes);
    let mut bytes = vec![0x30 | qos << 1 | u8::from(retain)];
    let id_bytes = if qos > 0 { 2 } else { 0 };
    length(&mut bytes, 2 + topic.len() + id_bytes + payload.len());
    string(&mut bytes, topic.as_bytes());
    let id = (qos > 0).then_some((bytes.len(), IdForm::Binary));
    bytes.extend_from_slice(&[0, 0][..id_bytes]);
    let stamp_at = bytes.len();
    bytes.extend_from_slice(&payload);
    Draft {
        bytes,
        stamp_at,
        id,
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP: the packet's first byte and its identifier.
#[inline]
pub fn acknowledge(first: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [first, 2, high, low]
}

/// The first packet in `bytes`.
#[inline]
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Incoming<'_>, usize)>, Unreadable> {
    let Some((body_at, end)) = boundary(bytes)? else {
        return Ok(None);
    };
    let Some(body) = bytes.get(body_at..end) else {
        return Ok(None);
    };
    let incoming = match bytes[0] >> 4 {
        3 => Incoming::Message(message(bytes[0], body)?),
        2 => connack(body)?,
        4 | 7 => Incoming::Acked(identifier(body)?),
        5 => Incoming::Received(identifier(body)?),
        6 => Incoming::Released(identifier(body)?),
        9 => suback(body)?,
        _ => Incoming::Other,
    };
    Ok(Some((incoming, end)))
}

/// Where the body of the first packet begins and ends; `None` if the fixed header is incomplete.
#[inline]
fn boundary(bytes: &[u8]) -> Result<Option<(usize, usize)>, Unreadable> {
    let mut remaining = 0usize;
    for place in 0..4 {
        let Some(&byte) = bytes.get(1 + place) else {
            return Ok(None);
        };
        remaining |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + place, 2 + place + remaining)));
        }
    }
    Err(Unreadable("remaining length of more than four bytes"))
}

#[inline]
fn message(first: u8, body: &[u8]) -> Result<Message<'_>, Unreadable> {
    const SHORT: Unreadable = Unreadable("PUBLISH shorter than its topic");
    let topic = usize::from(identifier(body)?);
    let qos = first >> 1 & 3;
    let mut rest = body.get(2 + topic..).ok_or(SHORT)?;
    let mut answer = Answer::None;
    if qos > 0 {
        answer = Answer::Packet(identifier(rest)?);
        rest = &rest[2..];
    }
    Ok(Message {
        stamp: Stamp::decode(rest),
        qos,
        answer,
    })
}

#[inline]
fn identifier(body: &[u8]) -> Result<u16, Unreadable> {
    let pair = body
        .first_chunk::<2>()
        .ok_or(Unreadable("packet without its identifier"))?;
    Ok(u16::from_be_bytes(*pair))
}

fn connack(body: &[u8]) -> Result<Incoming<'static>, Unreadable> {
    match body {
        [flags, 0, ..] => Ok(Incoming::Connected {
            resumed: flags & 1 == 1,
        }),
        [_, code, ..] => Ok(Incoming::Refused(format!("CONNACK with code {code}"))),
        _ => Err(Unreadable("CONNACK without a code")),
    }
}

fn suback(body: &[u8]) -> Result<Incoming<'static>, Unreadable> {
    let codes = body.get(2..).ok_or(Unreadable("SUBACK without codes"))?;
    Ok(match codes.iter().find(|code| **code > 2) {
        Some(code) => Incoming::Refused(format!("SUBACK with code {code:#x}")),
        None => Incoming::Subscribed,
    })
}

fn length(out: &mut Vec<u8>, mut value: usize) {
    while value > 127 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

const _: () = assert!(
    STAMP_BYTES < 128,
    "the smallest PUBLISH has a length of one byte"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_reads_back_with_its_stamp() {
        for (qos, size) in [(0, 16), (1, 16), (2, 200), (1, 65_536)] {
            let mut draft = publish("a/b", qos, false, size);
            let stamp = Stamp {
                publisher: 3,
                sequence: 77,
            };
            draft.bytes[draft.stamp_at..][..STAMP_BYTES].copy_from_slice(&stamp.encode());
            if let Some((at, form)) = draft.id {
                assert_eq!(form, IdForm::Binary);
                draft.bytes[at + 1] = 9;
            }
            let (incoming, end) = read(&draft.bytes).unwrap().unwrap();
            assert_eq!(end, draft.bytes.len());
            let answer = if qos == 0 {
                Answer::None
            } else {
                Answer::Packet(9)
            };
            assert_eq!(
                incoming,
                Incoming::Message(Message {
                    stamp: Some(stamp),
                    qos,
                    answer
                })
            );
        }
    }

    #[test]
    fn an_incomplete_packet_is_waited_for() {
        let draft = publish("a/b", 1, false, 300);
        for end in 0..draft.bytes.len() {
            assert_eq!(read(&draft.bytes[..end]), Ok(None), "{end} bytes");
        }
    }

    #[test]
    fn answers_of_the_broker() {
        let read = |bytes| read(bytes).unwrap().unwrap().0;
        assert_eq!(
            read(b"\x20\x02\x01\x00"),
            Incoming::Connected { resumed: true }
        );
        assert!(matches!(read(b"\x20\x02\x00\x05"), Incoming::Refused(_)));
        assert_eq!(read(b"\x40\x02\x01\x02"), Incoming::Acked(0x102));
        assert_eq!(read(b"\x50\x02\x00\x02"), Incoming::Received(2));
        assert_eq!(read(b"\x62\x02\x00\x02"), Incoming::Released(2));
        assert_eq!(read(b"\x70\x02\x00\x02"), Incoming::Acked(2));
        assert_eq!(read(b"\x90\x03\x00\x01\x01"), Incoming::Subscribed);
        assert!(matches!(
            read(b"\x90\x04\x00\x01\x00\x80"),
            Incoming::Refused(_)
        ));
    }

    #[test]
    fn hostile_bytes_are_reported() {
        assert!(read(b"\x30\xff\xff\xff\xff\x01").is_err());
        assert!(read(b"\x30\x02\x00\x09").is_err());
        assert!(read(b"\x40\x01\x00").is_err());
    }

    #[test]
    fn many_filters_are_spread_over_packets() {
        let filters: Vec<String> = (0..250).map(|n| format!("a/{n}")).collect();
        let mut out = Vec::new();
        subscribe(&mut out, &filters, 1);
        assert_eq!(out.len(), 3);
        assert_eq!(boundary(&out[0]).unwrap().unwrap().1, out[0].len());
    }
}
