//! Searching text for bytes that cannot stand as they are.

/// A byte in each byte of a word.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Where the first byte is that is less than `below`, which is at most 128, or one of `others`.
///
/// Texts are mostly plain: eight bytes are looked at together, with ordinary instructions that
/// every processor has.
#[inline]
pub(crate) fn find<const N: usize>(bytes: &[u8], below: u8, others: [u8; N]) -> Option<usize> {
    let look = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        // The highest bit of a byte says that it is special. A borrow can set it for others too, but
        // only above one that is: the lowest one is always right.
        let mut found = word.wrapping_sub(each(below)) & !word;
        for other in others {
            let zero = word ^ each(other);
            found |= zero.wrapping_sub(each(1)) & !zero;
        }
        found &= each(0x80);
        (found != 0).then(|| found.trailing_zeros() as usize / 8)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        if let Some(at) = look(word) {
            return Some(8 * number + at);
        }
    }
    if rest.is_empty() {
        return None;
    }
    // The end together with some of what was looked at.
    if let Some(word) = bytes.last_chunk::<8>() {
        return look(word).map(|at| bytes.len() - 8 + at);
    }
    let is_special = |byte: &u8| *byte < below || others.contains(byte);
    rest.iter().position(is_special)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_one_is_found(
            bytes in proptest::collection::vec(prop_oneof![Just(b'a'), Just(0x7f), any::<u8>()], 0..60),
            below in 0_u8..=128,
            other: u8,
        ) {
            let expected = bytes.iter().position(|byte| *byte < below || [other, b'b'].contains(byte));
            prop_assert_eq!(find(&bytes, below, [other, b'b']), expected);
        }
    }
}
