//! Frame headers (RFC 6455 §5.2).

use bytes::{BufMut, BytesMut};

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

/// The header of a frame that the server sends: final and unmasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    opcode: OpCode,
    length: usize,
}

impl Header {
    /// For a whole message or control frame from the server.
    pub const fn server(opcode: OpCode, length: usize) -> Self {
        Self { opcode, length }
    }

    /// Appends the 2 to 10 bytes.
    #[allow(clippy::cast_possible_truncation)] // each arm has checked the range
    pub fn write(self, out: &mut BytesMut) {
        out.put_u8(0x80 | self.opcode as u8);
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
