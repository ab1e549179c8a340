//! UTF-8 checked piece by piece, failing at the first byte that cannot be right.

/// Where a text stands between two of its pieces: at most three bytes of an open character.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Utf8 {
    open: [u8; 4],
    len: u8,
}

impl Utf8 {
    /// Takes the next piece; false if the text can no longer become UTF-8.
    pub(crate) fn accept(&mut self, mut bytes: &[u8]) -> bool {
        while self.len > 0 {
            let Some((&byte, rest)) = bytes.split_first() else {
                return true;
            };
            bytes = rest;
            self.open[usize::from(self.len)] = byte;
            self.len += 1;
            match std::str::from_utf8(&self.open[..usize::from(self.len)]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match simdutf8::compat::from_utf8(bytes) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                for &byte in &bytes[error.valid_up_to()..] {
                    self.open[usize::from(self.len)] = byte;
                    self.len += 1;
                }
                true
            }
        }
    }

    /// Whether no character is open.
    pub(crate) fn is_complete(self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fails_at_the_first_impossible_byte() {
        for (good, bad) in [
            (&b"\xf4"[..], 0x90),    // beyond U+10FFFF
            (b"\xed", 0xa0),         // a surrogate
            (b"\xe0", 0x80),         // overlong
            (b"\xce\xba\xe1", 0xff), // not a continuation
            (b"", 0xc0),             // never allowed
            (b"\xf0\x9f\x98", 0x41), // broken off
        ] {
            let mut text = Utf8::default();
            for byte in good {
                assert!(text.accept(&[*byte]), "{good:x?}");
            }
            assert!(!text.accept(&[bad]), "{good:x?} {bad:x}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(
            text in ".{0,20}", noise in prop::collection::vec(any::<u8>(), 0..4),
            at in any::<prop::sample::Index>(), cut in 1_usize..9,
        ) {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, noise);
            let mut utf8 = Utf8::default();
            let accepted = bytes.chunks(cut).all(|piece| utf8.accept(piece));
            prop_assert_eq!(accepted && utf8.is_complete(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
