//! WebSocket (RFC 6455) as the generator needs it: the client's handshake, masked frames out,
//! frames in. Compressed messages are inflated, without context takeover only.

use super::{Protocol, Unreadable};
use flate2::{Decompress, FlushDecompress};
use memchr::memmem;

/// The mask of every frame that the generator sends. A fixed one, so that frames can be encoded
/// in advance; not zero, so that the broker has all of its work.
pub const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Sizes beyond this are taken for a mistake.
const FRAME_MAX: usize = 64 << 20;

/// The request that asks for the upgrade.
pub fn handshake(out: &mut Vec<u8>, protocol: Protocol, host: &str, path: &str, deflate: bool) {
    let subprotocol = match protocol {
        Protocol::Mqtt => "mqtt",
        Protocol::Stomp => "v12.stomp",
        Protocol::Json => "polycast.json.v1",
    };
    let extension = if deflate {
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
         client_no_context_takeover\r\n"
    } else {
        ""
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n{extension}\r\n"
    );
    out.extend_from_slice(request.as_bytes());
}

/// What the broker answered to the handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not all of it is there yet.
    Incomplete,
    /// The upgrade was granted; so many bytes were the answer.
    Upgraded {
        /// Length of the answer in bytes.
        bytes: usize,
        /// Whether permessage-deflate was agreed on.
        deflate: bool,
    },
    /// The first line of a refusal.
    Refused(String),
}

/// Reads the answer to the handshake.
pub fn answer(bytes: &[u8]) -> Answer {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return Answer::Incomplete;
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let first = head.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) != Some("101") {
        return Answer::Refused(first.to_owned());
    }
    let deflate = head
        .to_ascii_lowercase()
        .lines()
        .any(|line| line.starts_with("sec-websocket-extensions:") && line.contains("deflate"));
    Answer::Upgraded {
        bytes: end + 4,
        deflate,
    }
}

/// The header of a masked frame with a payload of this length: text for STOMP and JSON, binary
/// for MQTT.
pub fn header(out: &mut Vec<u8>, protocol: Protocol, length: usize) {
    out.push(if protocol == Protocol::Mqtt {
        0x82
    } else {
        0x81
    });
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=0xFFFF => {
            out.push(0x80 | 0x7E);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 0x7F);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
}

/// Applies the mask to bytes that begin at `offset` of the frame's payload.
#[inline]
pub fn mask(bytes: &mut [u8], offset: usize) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= MASK[(offset + index) & 3];
    }
}

/// Appends a whole masked data frame.
pub fn data(out: &mut Vec<u8>, protocol: Protocol, payload: &[u8]) {
    header(out, protocol, payload.len());
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], 0);
}

/// Appends the pong that answers a ping.
pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&[0x8A, 0x80 | payload.len().min(125) as u8]);
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(&payload[..payload.len().min(125)]);
    mask(&mut out[start..], 0);
}

/// A frame from the broker.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// 1 text, 2 binary, 0 continuation, 8 close, 9 ping, 10 pong.
    pub opcode: u8,
    /// Whether the message ends with it.
    pub last: bool,
    /// Whether the message is compressed.
    pub compressed: bool,
    /// Where the payload begins and ends in the bytes that were read.
    pub payload: std::ops::Range<usize>,
}

/// The first frame in `bytes`; `None` if it is not complete.
#[inline]
pub fn read(bytes: &[u8]) -> Result<Option<Frame>, Unreadable> {
    let [first, second, ..] = *bytes else {
        return Ok(None);
    };
    let (start, length) = match second {
        0..=125 => (2, usize::from(second)),
        126 => match bytes.get(2..4) {
            Some(&[high, low]) => (4, usize::from(u16::from_be_bytes([high, low]))),
            _ => return Ok(None),
        },
        127 => match bytes.get(2..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(length) => (10, u64::from_be_bytes(*length) as usize),
            None => return Ok(None),
        },
        _ => return Err(Unreadable("masked WebSocket frame from the broker")),
    };
    if length > FRAME_MAX {
        return Err(Unreadable("WebSocket frame of more than 64 MiB"));
    }
    if bytes.len() < start + length {
        return Ok(None);
    }
    Ok(Some(Frame {
        opcode: first & 15,
        last: first & 0x80 != 0,
        compressed: first & 0x40 != 0,
        payload: start..start + length,
    }))
}

/// Inflates messages.
#[derive(Debug)]
pub struct Inflater {
    state: Decompress,
    out: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            state: Decompress::new(false),
            out: Vec::with_capacity(64 << 10),
        }
    }
}

impl Inflater {
    /// The message that this payload was compressed from.
    pub fn inflate(&mut self, payload: &[u8]) -> Result<&[u8], Unreadable> {
        const WRONG: Unreadable = Unreadable("WebSocket message that does not inflate");
        self.state.reset(false);
        self.out.clear();
        for (part, end) in [(payload, false), (&[0, 0, 0xFF, 0xFF][..], true)] {
            let mut part = part;
            while !part.is_empty() {
                if self.out.len() == self.out.capacity() {
                    if self.out.len() >= FRAME_MAX {
                        return Err(WRONG);
                    }
                    self.out.reserve(self.out.len().max(4096));
                }
                let before = self.state.total_in();
                let flush = if end {
                    FlushDecompress::Sync
                } else {
                    FlushDecompress::None
                };
                let room = self.out.len();
                self.state
                    .decompress_vec(part, &mut self.out, flush)
                    .map_err(|_| WRONG)?;
                let used = (self.state.total_in() - before) as usize;
                if used == 0 && self.out.len() == room && self.out.len() < self.out.capacity() {
                    return Err(WRONG);
                }
                part = &part[used..];
            }
        }
        Ok(&self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    #[test]
    fn frames_of_every_length_form() {
        for length in [0usize, 125, 126, 65_535, 65_536] {
            let mut bytes = vec![0x82];
            match length {
                0..=125 => bytes.push(length as u8),
                126..=65_535 => {
                    bytes.push(126);
                    bytes.extend_from_slice(&(length as u16).to_be_bytes());
                }
                _ => {
                    bytes.push(127);
                    bytes.extend_from_slice(&(length as u64).to_be_bytes());
                }
            }
            let start = bytes.len();
            assert_eq!(read(&bytes[..1]), Ok(None));
            bytes.resize(start + length, 1);
            let frame = read(&bytes).unwrap().unwrap();
            assert_eq!(frame.payload, start..start + length);
            assert!(frame.last && !frame.compressed && frame.opcode == 2);
        }
    }

    #[test]
    fn masking_twice_gives_the_payload_back() {
        let mut out = Vec::new();
        data(&mut out, Protocol::Json, b"hello");
        assert_eq!(out[..2], [0x81, 0x85]);
        assert_ne!(&out[6..], b"hello");
        mask(&mut out[6..8], 0);
        mask(&mut out[8..], 2);
        assert_eq!(&out[6..], b"hello");
    }

    #[test]
    fn hostile_frames_are_reported() {
        assert!(read(&[0x82, 0x81, 0, 0, 0, 0, 0]).is_err());
        assert!(read(&[0x82, 127, 255, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(Inflater::default().inflate(&[0xFF; 16]).is_err());
    }

    #[test]
    fn compressed_messages_come_back() {
        let text = b"reading t=21.5 reading t=21.6 reading t=21.7".repeat(5000);
        let mut compressed = Vec::with_capacity(text.len());
        Compress::new(Compression::fast(), false)
            .compress_vec(&text, &mut compressed, FlushCompress::Sync)
            .unwrap();
        compressed.truncate(compressed.len() - 4);
        let mut inflater = Inflater::default();
        for _ in 0..2 {
            assert_eq!(inflater.inflate(&compressed).unwrap(), text);
        }
    }

    #[test]
    fn the_handshake_is_granted_or_refused() {
        assert_eq!(answer(b"HTTP/1.1 101 S\r\n"), Answer::Incomplete);
        assert_eq!(
            answer(b"HTTP/1.1 101 S\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n\x82"),
            Answer::Upgraded {
                bytes: 64,
                deflate: true
            }
        );
        assert_eq!(
            answer(b"HTTP/1.1 403 Forbidden\r\n\r\n"),
            Answer::Refused("HTTP/1.1 403 Forbidden".into())
        );
    }
}
