//! A WebSocket client's half of the framing (RFC 6455 §5), as far as the stories need it.

use protocols::websocket::frame::OpCode;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame that the broker sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A whole message: its bytes.
    Data(Vec<u8>),
    /// The last frame: its code.
    Close(Option<u16>),
    /// A ping or a pong.
    Other,
}

/// One whole message or control frame.
pub(super) fn write(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, payload.len(), 0x80);
    frame.extend(MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}

/// The same without a mask, which no client may send (RFC 6455 §5.1).
pub(super) fn write_unmasked(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, payload.len(), 0);
    frame.extend(payload);
    frame
}

fn header(opcode: OpCode, length: usize, masked: u8) -> Vec<u8> {
    let first = 0x80 | opcode as u8;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => vec![first, masked | short],
        (_, Ok(long)) => {
            let [high, low] = long.to_be_bytes();
            vec![first, masked | 0x7e, high, low]
        }
        _ => panic!("no story sends so much at once"),
    }
}

/// Takes the first frame out of what came; `None` if it is not there as a whole.
pub(super) fn read(input: &mut Vec<u8>) -> Option<Received> {
    let (&[first, second], rest) = input.split_first_chunk::<2>()?;
    assert_eq!(first & 0xf0, 0x80, "each frame is a whole message");
    let (length, size) = match second {
        0..=125 => (usize::from(second), 2),
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => {
            let length = u64::from_be_bytes(*rest.first_chunk()?);
            (usize::try_from(length).expect("a length"), 10)
        }
        _ => panic!("a server does not mask"),
    };
    if input.len() < size + length {
        return None;
    }
    let payload: Vec<u8> = input.drain(..size + length).skip(size).collect();
    Some(match first & 0x0f {
        1 | 2 => Received::Data(payload),
        8 => Received::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
        _ => Received::Other,
    })
}
