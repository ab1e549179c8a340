//! What a benchmark message carries: a stamp of 16 text characters that says which publisher sent
//! it and the how-manieth of that publisher's messages it is, then filler. Text, so that it goes
//! through STOMP and JSON unescaped and can be found there by its first byte. The time of sending
//! is not in it: the generator knows when each message was meant to be sent.

/// Bytes of a stamp, and so of the smallest payload.
pub const STAMP_BYTES: usize = 16;

/// The first byte of every payload; the filler does not contain it.
pub const MARK: u8 = b'~';

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The publisher's number, below 2^20.
    pub publisher: u32,
    /// Its messages are numbered from 0; below 2^40.
    pub sequence: u64,
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes the lowest `out.len()` hexadecimal digits of `value`.
#[inline]
pub fn write_hex(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = DIGITS[(value & 15) as usize];
        value >>= 4;
    }
}

/// The number that these lower-case hexadecimal digits spell.
#[inline]
pub fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, &digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(nibble))
    })
}

impl Stamp {
    /// The stamp's 16 bytes.
    #[inline]
    pub fn encode(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [MARK; STAMP_BYTES];
        write_hex(&mut bytes[1..6], u64::from(self.publisher));
        write_hex(&mut bytes[6..], self.sequence);
        bytes
    }

    /// The stamp at the beginning of a payload, if it is one of the generator's own.
    #[inline]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let bytes = payload.first_chunk::<STAMP_BYTES>()?;
        if bytes[0] != MARK {
            return None;
        }
        Some(Self {
            publisher: u32::try_from(read_hex(&bytes[1..6])?).ok()?,
            sequence: read_hex(&bytes[6..])?,
        })
    }
}

/// A payload of this size (at least [`STAMP_BYTES`]) with an empty stamp. The filler looks like
/// readings of a sensor, so that compression finds in it about what it finds in real traffic.
pub fn filled(bytes: usize) -> Vec<u8> {
    let mut payload = vec![MARK; STAMP_BYTES];
    let mut reading = 0x2545_F491_4F6C_DD1D_u64;
    while payload.len() < bytes {
        reading ^= reading << 13;
        reading ^= reading >> 7;
        reading ^= reading << 17;
        let line = format!(
            " t={} h={} p={}",
            reading % 400,
            (reading >> 9) % 100,
            reading >> 44
        );
        payload.extend_from_slice(line.as_bytes());
    }
    payload.truncate(bytes.max(STAMP_BYTES));
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back() {
        let stamp = Stamp {
            publisher: 0xABCDE,
            sequence: 0xFF_1234_5678,
        };
        assert_eq!(Stamp::decode(&stamp.encode()), Some(stamp));
    }

    #[test]
    fn foreign_payloads_have_no_stamp() {
        assert_eq!(Stamp::decode(b"~short"), None);
        assert_eq!(Stamp::decode(b"not one of our payloads"), None);
        assert_eq!(Stamp::decode(b"~0000z0000000000"), None);
    }

    #[test]
    fn filler_has_the_size_and_no_mark() {
        for bytes in [16, 17, 64, 65_536] {
            let payload = filled(bytes);
            assert_eq!(payload.len(), bytes);
            assert!(!payload[STAMP_BYTES..].contains(&MARK));
            assert!(payload.iter().all(|b| b.is_ascii_graphic() || *b == b' '));
        }
        assert_eq!(filled(0).len(), STAMP_BYTES);
    }
}
