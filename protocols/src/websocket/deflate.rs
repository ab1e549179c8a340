//! permessage-deflate: its negotiation and what outgoing messages look like under it (RFC 7692).
//!
//! Both sides forget each message (`no_context_takeover`): an idle connection owns no window, and
//! one compression serves all receivers of a message. What differs between receivers (an
//! identifier, a packet number) is put around the shared part in stored blocks.

use bytes::{BufMut, Bytes};

pub(crate) use super::inflate::{TAIL, compress, inflate};

/// Frames and bodies below this many bytes are sent as they are.
pub const DEFLATE_BYTES_MIN: usize = 128;

/// Offers that are looked at; the rest is ignored.
const OFFERS_MAX: usize = 16;

/// Bytes of one header value that are looked at; a longer one is ignored.
const VALUE_BYTES_MAX: usize = 1024;

/// What was agreed on with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// Size of the window that the client inflates with, as a power of two: 9 to 15.
    window_bits: u8,
    /// Whether the client asked for a window, so that the answer has to say it.
    told: bool,
    /// Whether everything is compressed.
    always: bool,
}

impl Deflate {
    /// Agrees to the first acceptable offer in the values of `Sec-WebSocket-Extensions`; `None` if
    /// there is none. What is malformed, unknown or cannot be honoured (a window of 8 bits, which
    /// zlib does not have) is declined (RFC 7692 §5.1, §7.1).
    pub fn negotiate<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        values
            .into_iter()
            .filter(|value| value.len() <= VALUE_BYTES_MAX)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .take(OFFERS_MAX)
            .find_map(parse_offer)
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer.
    pub fn answer(self) -> String {
        let mut answer =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if self.told {
            answer.push_str("; server_max_window_bits=");
            answer.push_str(&self.window_bits.to_string());
        }
        answer
    }

    /// The same, but every frame is compressed, also where that makes it larger: to try out how a
    /// client inflates.
    #[must_use]
    pub const fn always(self) -> Self {
        Self {
            always: true,
            ..self
        }
    }

    /// Whether a frame of this length is worth trying.
    pub(crate) const fn is_for(self, length: usize) -> bool {
        length >= DEFLATE_BYTES_MIN || self.always
    }

    /// Whether to send the compressed form of a frame.
    pub(crate) const fn is_gain(self, compressed: usize, length: usize) -> bool {
        compressed < length || self.always
    }

    /// Size of the window to compress for, as a power of two.
    pub(crate) const fn window_bits(self) -> u8 {
        self.window_bits
    }
}

/// Parameters of an offer (RFC 7692 §7.1).
#[derive(Default)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: bool,
}

fn parse_offer(offer: &str) -> Option<Deflate> {
    let mut parts = offer.split(';').map(trim);
    if parts.next() != Some("permessage-deflate") {
        return None;
    }
    let mut seen = Offer::default();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (trim(name), Some(unquote(trim(value))?)),
            None => (part, None),
        };
        let is_first = match (name, value) {
            ("server_no_context_takeover", None) => set(&mut seen.server_no_context_takeover),
            ("client_no_context_takeover", None) => set(&mut seen.client_no_context_takeover),
            ("server_max_window_bits", Some(bits)) => seen
                .server_max_window_bits
                .replace(parse_bits(bits)?)
                .is_none(),
            // Only a hint: the largest window inflates what any smaller one was made for, and
            // nothing in the answer asks the client to use less.
            ("client_max_window_bits", value) => {
                if let Some(bits) = value {
                    parse_bits(bits)?;
                }
                set(&mut seen.client_max_window_bits)
            }
            _ => return None,
        };
        if !is_first {
            return None;
        }
    }
    match seen.server_max_window_bits {
        Some(8) => None,
        bits => Some(Deflate {
            window_bits: bits.unwrap_or(15),
            told: bits.is_some(),
            always: false,
        }),
    }
}

/// Sets a flag and says whether it was not set before.
fn set(flag: &mut bool) -> bool {
    !std::mem::replace(flag, true)
}

/// 8 to 15 without leading zeros (RFC 7692 §7.1.2).
fn parse_bits(text: &str) -> Option<u8> {
    match text {
        "8" => Some(8),
        "9" => Some(9),
        _ if text.len() == 2 && text.starts_with('1') => {
            text.parse().ok().filter(|bits| (10..=15).contains(bits))
        }
        _ => None,
    }
}

/// A value may be quoted if what is inside is a token (RFC 6455 §9.1).
fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(inside) => inside.strip_suffix('"'),
        None => Some(value),
    }
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// The compressed form of a shared body, with its [`TAIL`]; empty if that is no gain.
pub(crate) fn compress_body(deflate: Deflate, body: &[u8]) -> Bytes {
    match compress(deflate.window_bits, &[body]) {
        Some(bytes) if deflate.is_gain(bytes.len(), body.len()) => bytes.into(),
        _ => Bytes::new(),
    }
}

/// Bytes of one stored block (RFC 1951 §3.2.4).
const BLOCK_BYTES_MAX: usize = 0xffff;

/// Bytes that `length` bytes become in stored blocks.
pub(crate) const fn stored_bytes(length: usize) -> usize {
    length + 5 * length.div_ceil(BLOCK_BYTES_MAX)
}

/// Writes bytes in stored blocks, beginning and ending at a byte; nothing for no bytes.
pub(crate) fn put_stored(out: &mut impl BufMut, parts: &[&[u8]]) {
    let mut left: usize = parts.iter().map(|part| part.len()).sum();
    let mut block = 0;
    for mut part in parts.iter().copied() {
        while !part.is_empty() {
            if block == 0 {
                block = left.min(BLOCK_BYTES_MAX);
                put_block_header(out, block);
            }
            let (here, rest) = part.split_at(block.min(part.len()));
            out.put_slice(here);
            block -= here.len();
            left -= here.len();
            part = rest;
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // a block has at most 65,535 bytes
fn put_block_header(out: &mut impl BufMut, length: usize) {
    out.put_u8(0);
    out.put_u16_le(length as u16);
    out.put_u16_le(!(length as u16));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(values: &[&str]) -> Option<String> {
        Deflate::negotiate(values.iter().map(|value| value.as_bytes())).map(Deflate::answer)
    }

    const PLAIN: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn offers_and_answers() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=8",
            "permessage-deflate;client_max_window_bits = \"12\"\t; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate; unknown, permessage-deflate",
        ] {
            assert_eq!(answer(&[offer]).as_deref(), Some(PLAIN), "{offer}");
        }
        assert_eq!(
            answer(&["permessage-deflate; server_max_window_bits=10"]),
            Some(format!("{PLAIN}; server_max_window_bits=10"))
        );
        assert_eq!(
            answer(&["foo", "permessage-deflate; server_max_window_bits=\"15\""]),
            Some(format!("{PLAIN}; server_max_window_bits=15"))
        );
    }

    #[test]
    fn what_is_declined() {
        for offer in [
            "",
            ";",
            "permessage-deflat",
            "Permessage-Deflate-Not",
            "permessage-deflate;",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; server_max_window_bits=1é",
            "permessage-deflate; server_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=20",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=\"\"",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        ] {
            assert_eq!(answer(&[offer]), None, "{offer}");
        }
        let long = format!("permessage-deflate{}", " ".repeat(VALUE_BYTES_MAX));
        assert_eq!(answer(&[&long]), None);
        let late = format!("{}permessage-deflate", "x,".repeat(OFFERS_MAX));
        assert_eq!(answer(&[&late]), None);
        assert_eq!(Deflate::negotiate([&b"permessage-deflate\xff"[..]]), None);
    }

    #[test]
    fn stored_blocks_inflate_to_themselves() {
        for length in [0, 1, 0xffff, 0x1_0000, 200_000] {
            let plain = vec![7; length];
            let mut wire = Vec::new();
            let (start, end) = plain.split_at(length / 3);
            put_stored(&mut wire, &[start, &[], end]);
            assert_eq!(wire.len(), stored_bytes(length));
            wire.push(0);
            assert_eq!(inflate(&wire, length).unwrap(), plain);
        }
    }
}
