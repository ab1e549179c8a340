//! The smallest pieces of the encoding: varints, byte strings and flags.
//!
//! Everything that is read is checked against what is left before anything is allocated.

use bytestring::ByteString;

/// Why bytes are not an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at} of {of}")]
pub(in crate::store) struct Malformed {
    /// What is wrong.
    pub(in crate::store) what: &'static str,
    /// Where it was seen, from the start of `of`.
    pub(in crate::store) at: usize,
    /// What was being read.
    pub(in crate::store) of: &'static str,
}

/// Writes a number in as few bytes as it needs, seven bits in each, the lowest first (LEB128).
pub(in crate::store) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Writes a count or length.
pub(in crate::store) fn put_len(out: &mut Vec<u8>, length: usize) {
    // A usize has no more than 64 bits on any machine that this runs on.
    put_varint(out, length as u64);
}

/// Writes bytes with their length before them.
pub(in crate::store) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Writes a varint if there is one; the reader knows from a flag.
pub(in crate::store) fn put_optional(out: &mut Vec<u8>, value: Option<u64>) {
    if let Some(value) = value {
        put_varint(out, value);
    }
}

/// Reads from the front of some bytes.
#[derive(Clone, Debug)]
pub(in crate::store) struct Reader<'a> {
    of: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`, which are called `of` when they are wrong.
    pub(in crate::store) fn new(of: &'static str, bytes: &'a [u8]) -> Self {
        Self { of, bytes, at: 0 }
    }

    /// Bytes that were read.
    pub(in crate::store) fn at(&self) -> usize {
        self.at
    }

    /// Whether nothing is left.
    pub(in crate::store) fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// An error about what was read last.
    pub(in crate::store) fn malformed(&self, what: &'static str) -> Malformed {
        Malformed {
            what,
            at: self.at,
            of: self.of,
        }
    }

    /// One byte.
    pub(in crate::store) fn byte(&mut self) -> Result<u8, Malformed> {
        let Some(byte) = self.bytes.get(self.at) else {
            return Err(self.malformed("an unexpected end"));
        };
        self.at += 1;
        Ok(*byte)
    }

    /// A byte of flags, of which only those in `known` may be set.
    pub(in crate::store) fn flags(&mut self, known: u8) -> Result<u8, Malformed> {
        let flags = self.byte()?;
        if flags & !known != 0 {
            return Err(self.malformed("an unknown flag"));
        }
        Ok(flags)
    }

    /// A number.
    pub(in crate::store) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.malformed("a number that is longer than it needs to be"));
                }
                return Ok(value);
            }
        }
        Err(self.malformed("a number beyond 64 bits"))
    }

    /// A number below 2^32.
    pub(in crate::store) fn varint_u32(&mut self) -> Result<u32, Malformed> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| self.malformed("a number beyond 32 bits"))
    }

    /// A number below 2^16.
    pub(in crate::store) fn varint_u16(&mut self) -> Result<u16, Malformed> {
        let value = self.varint()?;
        u16::try_from(value).map_err(|_| self.malformed("a number beyond 16 bits"))
    }

    /// A number if a flag says that it is there.
    pub(in crate::store) fn optional(&mut self, present: bool) -> Result<Option<u64>, Malformed> {
        present.then(|| self.varint()).transpose()
    }

    /// How many items follow, of which each takes `least` bytes or more.
    pub(in crate::store) fn count(&mut self, least: usize) -> Result<usize, Malformed> {
        let count = self.varint()?;
        let left = self.bytes.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left / least.max(1) => Ok(count),
            _ => Err(self.malformed("a count beyond what is left")),
        }
    }

    /// A length of something that is elsewhere.
    pub(in crate::store) fn length(&mut self) -> Result<usize, Malformed> {
        let length = self.varint()?;
        usize::try_from(length).map_err(|_| self.malformed("a length beyond this machine"))
    }

    /// Bytes with their length before them.
    pub(in crate::store) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.count(1)?;
        let bytes = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(bytes)
    }

    /// All that is left.
    pub(in crate::store) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    /// Text with its length before it.
    pub(in crate::store) fn str(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.bytes()?;
        self.utf8(bytes)
    }

    /// Bytes that must be text.
    pub(in crate::store) fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str, Malformed> {
        std::str::from_utf8(bytes).map_err(|_| self.malformed("text that is not UTF-8"))
    }

    /// Text that owns its memory and no more.
    pub(in crate::store) fn text(&mut self) -> Result<ByteString, Malformed> {
        self.str().map(ByteString::from)
    }

    /// Text if a flag says that it is there.
    pub(in crate::store) fn optional_text(
        &mut self,
        present: bool,
    ) -> Result<Option<ByteString>, Malformed> {
        present.then(|| self.text()).transpose()
    }

    /// Checks that nothing is left.
    pub(in crate::store) fn finish(&self) -> Result<(), Malformed> {
        if self.is_done() {
            return Ok(());
        }
        Err(self.malformed("bytes behind the end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_as_few_bytes_as_they_need() {
        for (value, length) in [
            (0, 1),
            (127, 1),
            (128, 2),
            (16_383, 2),
            (16_384, 3),
            (u64::from(u32::MAX), 5),
            (u64::MAX, 10),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), length);
            let mut reader = Reader::new("test", &out);
            assert_eq!(reader.varint(), Ok(value));
            assert!(reader.is_done());
        }
    }

    #[test]
    fn numbers_have_bounds() {
        for bytes in [
            &[0x80][..],
            &[0x80, 0x00],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[0xff; 11],
        ] {
            assert!(Reader::new("test", bytes).varint().is_err(), "{bytes:?}");
        }
        let mut out = Vec::new();
        put_varint(&mut out, 0x1_0000);
        assert!(Reader::new("test", &out).varint_u16().is_err());
        put_varint(&mut out, 0x1_0000_0000);
        assert!(Reader::new("test", &out[3..]).varint_u32().is_err());
    }

    #[test]
    fn lengths_are_checked_before_anything_is_taken() {
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        out.extend([0; 8]);
        assert!(Reader::new("test", &out).bytes().is_err());
        let mut reader = Reader::new("test", &[3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(reader.clone().count(2), Ok(3));
        assert!(reader.count(3).is_err());
    }
}
