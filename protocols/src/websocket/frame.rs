//! Frame headers and masks (RFC 6455 §5.2, §5.3).
//!
//! What the header of one frame can show is checked here, as soon as the byte that shows it is
//! there; what depends on the payload belongs to [`super::Decoder`].

use bytes::{BufMut, BytesMut};

use super::close::violation;
use crate::connection::{Cause, CloseReason};

/// Bytes of the longest header: two, the long length and the mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const MASKED: u8 = 0x80;

/// What a frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// Goes on with a fragmented message.
    Continuation = 0,
    /// UTF-8.
    Text = 1,
    /// Any bytes.
    Binary = 2,
    /// The last frame of a side.
    Close = 8,
    /// Wants a pong with the same payload.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl OpCode {
    /// Close, ping or pong: short, never fragmented, allowed between the fragments of a message.
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    const fn parse(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }
}

/// The header of a frame that the server sends: final and unmasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    opcode: OpCode,
    length: usize,
    compressed: bool,
}

impl Header {
    /// For a whole message or control frame from the server.
    pub const fn server(opcode: OpCode, length: usize) -> Self {
        Self {
            opcode,
            length,
            compressed: false,
        }
    }

    /// The same for a message that permessage-deflate has compressed (RFC 7692 §6).
    #[must_use]
    pub const fn compressed(self) -> Self {
        Self {
            compressed: true,
            ..self
        }
    }

    /// Appends the 2 to 10 bytes.
    #[allow(clippy::cast_possible_truncation)] // each arm has checked the range
    pub fn write(self, out: &mut BytesMut) {
        let rsv = if self.compressed { RSV1 } else { 0 };
        out.put_u8(FIN | rsv | self.opcode as u8);
        match self.length {
            0..=125 => out.put_u8(self.length as u8),
            126..=0xffff => {
                out.put_u8(126);
                out.put_u16(self.length as u16);
            }
            _ => {
                out.put_u8(127);
                out.put_u64(self.length as u64);
            }
        }
    }
}

/// The header of a frame from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientHeader {
    pub(super) opcode: OpCode,
    pub(super) fin: bool,
    /// RSV1: the message that begins here is compressed.
    pub(super) compressed: bool,
    /// Bytes of payload behind the header.
    pub(super) length: u64,
    pub(super) mask: [u8; 4],
    /// Bytes of the header itself.
    pub(super) size: usize,
}

/// What is allowed where the next header stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// permessage-deflate was negotiated.
    pub(super) deflate: bool,
    /// A fragmented message is open.
    pub(super) in_message: bool,
    /// Payload bytes that a data frame may bring.
    pub(super) room: u64,
    /// The same for a frame with RSV1.
    pub(super) room_compressed: u64,
}

impl ClientHeader {
    /// Reads the header that `bytes` begin with; `None` if more of them are needed.
    pub(super) fn parse(bytes: &[u8], rules: Rules) -> Result<Option<Self>, CloseReason> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let opcode = check_start(first, second, rules)?;
        let compressed = first & RSV1 != 0;
        let Some((length, rest)) = parse_length(second & !MASKED, rest)? else {
            return Ok(None);
        };
        let room = if compressed {
            rules.room_compressed
        } else {
            rules.room
        };
        if !opcode.is_control() && length > room {
            return Err(CloseReason::new(
                Cause::TooLarge,
                "the message is larger than allowed",
            ));
        }
        Ok(rest.first_chunk::<4>().map(|&mask| Self {
            opcode,
            fin: first & FIN != 0,
            compressed,
            length,
            mask,
            size: bytes.len() - rest.len() + mask.len(),
        }))
    }
}

/// What the first two bytes show (RFC 6455 §5.1, §5.2, §5.4, §5.5).
fn check_start(first: u8, second: u8, rules: Rules) -> Result<OpCode, CloseReason> {
    let Some(opcode) = OpCode::parse(first & 0x0f) else {
        return Err(violation("a reserved opcode"));
    };
    let begins = matches!(opcode, OpCode::Text | OpCode::Binary);
    if first & RSV2_RSV3 != 0 || (first & RSV1 != 0 && !(rules.deflate && begins)) {
        return Err(violation("a reserved bit is set"));
    }
    if second & MASKED == 0 {
        return Err(violation("a frame without a mask"));
    }
    if opcode.is_control() {
        if first & FIN == 0 {
            return Err(violation("a fragmented control frame"));
        }
        if second & !MASKED > 125 {
            return Err(violation("a control frame with more than 125 bytes"));
        }
    } else if begins && rules.in_message {
        return Err(violation("a new message inside a fragmented one"));
    } else if !begins && !rules.in_message {
        return Err(violation("a continuation without a beginning"));
    }
    Ok(opcode)
}

/// The payload length, in the only form that is allowed for it: the shortest (RFC 6455 §5.2).
fn parse_length(short: u8, bytes: &[u8]) -> Result<Option<(u64, &[u8])>, CloseReason> {
    let (length, rest, least) = match short {
        126 => match bytes.split_first_chunk::<2>() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest, 126),
            None => return Ok(None),
        },
        127 => match bytes.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest, 0x1_0000),
            None => return Ok(None),
        },
        _ => (u64::from(short), bytes, 0),
    };
    if length >> 63 != 0 {
        return Err(violation("a length with its top bit set"));
    }
    if length < least {
        return Err(violation("a length that is not in its shortest form"));
    }
    Ok(Some((length, rest)))
}

/// Takes the mask off `bytes`, or puts it on, and turns it to where the next bytes begin.
pub(super) fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
    mask.rotate_left(rest.len() % 4);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules {
        deflate: false,
        in_message: false,
        room: 1 << 20,
        room_compressed: 1 << 21,
    };

    fn refused(bytes: &[u8], rules: Rules) -> Cause {
        ClientHeader::parse(bytes, rules).unwrap_err().cause
    }

    /// S13: what a header alone can show.
    #[test]
    fn headers_are_refused_at_the_byte_that_shows_it() {
        let open = Rules {
            in_message: true,
            ..RULES
        };
        for (bytes, rules) in [
            (&[0x82, 0x05][..], RULES), // without a mask
            (&[0xc2, 0x80], RULES),     // RSV1 without deflate
            (&[0xa2, 0x80], RULES),     // RSV2
            (&[0x92, 0x80], RULES),     // RSV3
            (&[0x83, 0x80], RULES),     // reserved data opcodes
            (&[0x87, 0x80], RULES),
            (&[0x8b, 0x80], RULES), // reserved control opcodes
            (&[0x8f, 0x80], RULES),
            (&[0x09, 0x80], RULES), // fragmented ping
            (&[0x08, 0x80], RULES), // fragmented close
            (&[0x89, 0xfe], RULES), // long ping
            (&[0x88, 0xff], RULES), // long close
            (&[0x80, 0x80], RULES), // continuation of nothing
            (&[0x00, 0x80], RULES),
            (&[0x81, 0x80], open), // new message inside another
            (&[0x02, 0x80], open),
            (&[0x82, 0xfe, 0, 125], RULES), // long form of a short length
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], RULES),
            (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], RULES), // top bit
            (
                &[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                RULES,
            ),
        ] {
            assert_eq!(refused(bytes, rules), Cause::ProtocolError, "{bytes:x?}");
            let before = &bytes[..bytes.len() - 1];
            assert_eq!(ClientHeader::parse(before, rules), Ok(None), "{bytes:x?}");
        }
        for bytes in [
            &[0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0][..], // 2^62
            &[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1],     // one byte too many
        ] {
            assert_eq!(refused(bytes, RULES), Cause::TooLarge, "{bytes:x?}");
        }
    }

    #[test]
    fn rsv1_is_for_the_first_frame_of_a_message() {
        let deflate = Rules {
            deflate: true,
            ..RULES
        };
        let open = Rules {
            in_message: true,
            ..deflate
        };
        let header = ClientHeader::parse(&[0xc1, 0x80, 1, 2, 3, 4], deflate)
            .unwrap()
            .unwrap();
        assert!(header.compressed);
        assert_eq!(refused(&[0xc0, 0x80], open), Cause::ProtocolError);
        assert_eq!(refused(&[0xc9, 0x80], deflate), Cause::ProtocolError);
    }

    #[test]
    fn lengths_are_read_in_all_three_forms() {
        for (bytes, length) in [
            (&[0x82, 0xfd][..], 125),
            (&[0x82, 0xfe, 0, 126], 126),
            (&[0x82, 0xfe, 0xff, 0xff], 0xffff),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0], 0x1_0000),
        ] {
            let bytes = [bytes, &[1, 2, 3, 4, 5]].concat();
            let header = ClientHeader::parse(&bytes, RULES).unwrap().unwrap();
            assert_eq!(header.length, length);
            assert_eq!(header.mask, [1, 2, 3, 4]);
            assert_eq!(header.size, bytes.len() - 1);
        }
    }

    #[test]
    fn written_headers_have_the_shortest_length() {
        for (length, expected) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (0xffff, &[0x81, 126, 0xff, 0xff]),
            (0x1_0000, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = BytesMut::new();
            Header::server(OpCode::Text, length).write(&mut out);
            assert_eq!(out, expected);
        }
    }

    proptest! {
        #[test]
        fn unmasking_in_pieces_is_byte_wise_xor(
            bytes in prop::collection::vec(any::<u8>(), 0..100), mask: [u8; 4], cut in 1_usize..40,
        ) {
            let expected: Vec<u8> =
                bytes.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            let (mut got, mut turning) = (bytes, mask);
            for piece in got.chunks_mut(cut) {
                unmask(piece, &mut turning);
            }
            prop_assert_eq!(got, expected);
        }
    }
}
