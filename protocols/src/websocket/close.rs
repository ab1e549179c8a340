//! Close frames: which code says what, reading them, writing them (RFC 6455 §5.5.1, §7.4).
//!
//! | [`Cause`] | code | meaning |
//! |---|---|---|
//! | `Normal`, `Lost` | 1000 | normal closure |
//! | `Shutdown` | 1001 | going away; come back later |
//! | `Malformed`, `ProtocolError` | 1002 | protocol error |
//! | `WrongType` | 1003 | unacceptable data type |
//! | `NotUtf8` | 1007 | text that is not UTF-8 |
//! | `Refused`, `Quota`, `Rate`, `ReceiveMaximum`, `SlowConsumer`, `Administrative` | 1008 | policy |
//! | `TooLarge` | 1009 | message too big |
//! | `Internal`, `Io` | 1011 | an error of ours |
//! | `Unavailable` | 1013 | try again later |
//! | `Unauthorized`, `Expired` | 4401 | credentials that are not good, or no longer (HTTP 401) |
//! | `LoginTimeout`, `KeepAliveTimeout` | 4408 | silent for too long (HTTP 408) |
//! | `TakenOver` | 4409 | another connection has the session (HTTP 409) |
//!
//! 4000 to 4999 are for private use; ours are the HTTP status plus 4000.

use crate::connection::{Cause, CloseReason};
use crate::outbox::Outbox;

use super::frame::OpCode;

/// Bytes that a close frame has for its reason: 125 without the code.
const REASON_BYTES: usize = 123;

/// The code that tells a client of this end.
pub const fn code(cause: Cause) -> u16 {
    match cause {
        Cause::Normal | Cause::Lost => 1000,
        Cause::Shutdown => 1001,
        Cause::Malformed | Cause::ProtocolError => 1002,
        Cause::WrongType => 1003,
        Cause::NotUtf8 => 1007,
        Cause::Refused
        | Cause::Quota
        | Cause::Rate
        | Cause::ReceiveMaximum
        | Cause::SlowConsumer
        | Cause::Administrative => 1008,
        Cause::TooLarge => 1009,
        Cause::Internal | Cause::Io => 1011,
        Cause::Unavailable => 1013,
        Cause::Unauthorized | Cause::Expired => 4401,
        Cause::LoginTimeout | Cause::KeepAliveTimeout => 4408,
        Cause::TakenOver => 4409,
    }
}

/// Puts the close frame for an end of ours: its code and as much of its detail as fits. Ignored on
/// a plain stream. Nothing may be put behind it.
pub fn write(outbox: &mut Outbox, reason: &CloseReason) {
    let detail = &reason.detail[..reason.detail.floor_char_boundary(REASON_BYTES)];
    let mut payload = [0; 2 + REASON_BYTES];
    payload[..2].copy_from_slice(&code(reason.cause).to_be_bytes());
    payload[2..2 + detail.len()].copy_from_slice(detail.as_bytes());
    outbox.control(OpCode::Close, &payload[..2 + detail.len()]);
}

/// Puts the answer to a client's close frame: its own code (RFC 6455 §5.5.1). Nothing may be put
/// behind it. `code` is that of [`super::Event::Close`].
pub fn answer(outbox: &mut Outbox, code: Option<u16>) {
    match code {
        Some(code) => outbox.control(OpCode::Close, &code.to_be_bytes()),
        None => outbox.control(OpCode::Close, &[]),
    }
}

/// Reads the payload of a client's close frame.
pub(super) fn parse(payload: &[u8]) -> Result<(Option<u16>, &str), CloseReason> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok((None, ""))
        } else {
            Err(violation("a close frame with one byte"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if !is_sendable(code) {
        return Err(violation("a close frame with a code that must not be sent"));
    }
    let reason = std::str::from_utf8(reason)
        .map_err(|_| CloseReason::new(Cause::NotUtf8, "a close reason that is not UTF-8"))?;
    Ok((Some(code), reason))
}

/// Whether a peer may send this code (RFC 6455 §7.4 and the registry of codes).
const fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

pub(super) fn violation(detail: &'static str) -> CloseReason {
    CloseReason::new(Cause::ProtocolError, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::WebSocketUse;

    fn written(reason: &CloseReason) -> Vec<u8> {
        let mut outbox = Outbox::web_socket(WebSocketUse::TextMessages);
        write(&mut outbox, reason);
        outbox
            .take()
            .iter()
            .flat_map(|piece| piece.to_vec())
            .collect()
    }

    #[test]
    fn every_cause_has_its_code() {
        for (cause, expected) in [
            (Cause::Normal, 1000),
            (Cause::Lost, 1000),
            (Cause::Refused, 1008),
            (Cause::Unavailable, 1013),
            (Cause::Malformed, 1002),
            (Cause::ProtocolError, 1002),
            (Cause::WrongType, 1003),
            (Cause::NotUtf8, 1007),
            (Cause::TooLarge, 1009),
            (Cause::ReceiveMaximum, 1008),
            (Cause::Quota, 1008),
            (Cause::LoginTimeout, 4408),
            (Cause::KeepAliveTimeout, 4408),
            (Cause::TakenOver, 4409),
            (Cause::SlowConsumer, 1008),
            (Cause::Shutdown, 1001),
            (Cause::Administrative, 1008),
            (Cause::Unauthorized, 4401),
            (Cause::Expired, 4401),
            (Cause::Rate, 1008),
            (Cause::Io, 1011),
            (Cause::Internal, 1011),
        ] {
            assert_eq!(code(cause), expected, "{cause:?}");
            assert!(is_sendable(code(cause)), "{cause:?}");
        }
    }

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let wire = written(&CloseReason::new(Cause::Shutdown, "é".repeat(100)));
        assert_eq!(wire[..4], [0x88, 124, 0x03, 0xe9]);
        assert_eq!(std::str::from_utf8(&wire[4..]), Ok("é".repeat(61).as_str()));
    }

    #[test]
    fn an_answer_repeats_the_code() {
        for (code, expected) in [(Some(4000), &[0x88, 2, 0x0f, 0xa0][..]), (None, &[0x88, 0])] {
            let mut outbox = Outbox::web_socket(WebSocketUse::BinaryStream);
            answer(&mut outbox, code);
            assert_eq!(outbox.take()[0], expected);
        }
    }

    #[test]
    fn codes_that_may_be_received() {
        let good = [
            1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999,
        ];
        let bad = [
            0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
        ];
        for code in good {
            let payload = [&u16::to_be_bytes(code)[..], b"bye"].concat();
            assert_eq!(parse(&payload), Ok((Some(code), "bye")));
        }
        for code in bad {
            let error = parse(&u16::to_be_bytes(code)).unwrap_err();
            assert_eq!(error.cause, Cause::ProtocolError, "{code}");
        }
        assert_eq!(parse(b""), Ok((None, "")));
        assert_eq!(parse(b"\x03").unwrap_err().cause, Cause::ProtocolError);
        assert_eq!(parse(b"\x03\xe8\xff").unwrap_err().cause, Cause::NotUtf8);
    }
}
