//! Searching text for bytes that cannot stand as they are.

/// A byte in each byte of a word.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Bytes that are looked at together as long as none of them is special: compilers make a few wide
/// instructions of a loop over so many.
const BLOCK: usize = 32;

/// Bytes that are looked at before: most names and many texts are not longer.
const NEAR: usize = 16;

/// Bytes to look for: those less than [`Special::BELOW`], and [`Special::OTHERS`].
///
/// Known when compiled, since what is looked for most often is looked for in names of a few bytes.
pub(crate) trait Special {
    /// At most 128.
    const BELOW: u8;
    const OTHERS: &'static [u8];

    #[inline]
    #[allow(
        clippy::needless_bitwise_bool,
        reason = "with branches the compiler makes no wide instructions of it"
    )]
    fn is(byte: u8) -> bool {
        Self::OTHERS
            .iter()
            .fold(byte < Self::BELOW, |found, other| found | (byte == *other))
    }
}

/// Where the first special byte is.
///
/// Eight bytes are looked at together, with ordinary instructions that every processor has, and in
/// longer texts, which are mostly plain, whole blocks.
#[inline]
pub(crate) fn find<S: Special>(bytes: &[u8]) -> Option<usize> {
    let Some((near, far)) = bytes.split_first_chunk::<NEAR>() else {
        return find_in_words::<S>(bytes);
    };
    if let Some(at) = find_in_words::<S>(near) {
        return Some(at);
    }
    let mut plain = 0;
    for block in far.as_chunks::<BLOCK>().0 {
        let found = block.iter().fold(false, |found, byte| found | S::is(*byte));
        if found {
            break;
        }
        plain += BLOCK;
    }
    find_in_words::<S>(&far[plain..]).map(|at| NEAR + plain + at)
}

#[inline]
fn find_in_words<S: Special>(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        if let Some(at) = find_in_word::<S>(*word) {
            return Some(8 * number + at);
        }
    }
    if rest.is_empty() {
        return None;
    }
    // The end together with some of what was looked at.
    if let Some(word) = bytes.last_chunk::<8>() {
        return find_in_word::<S>(*word).map(|at| bytes.len() - 8 + at);
    }
    rest.iter().position(|byte| S::is(*byte))
}

#[inline]
fn find_in_word<S: Special>(word: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    // The highest bit of a byte says that it is special. A borrow can set it for others too, but only
    // above one that is: the lowest one is always right.
    let mut found = word.wrapping_sub(each(S::BELOW)) & !word;
    for other in S::OTHERS {
        let zero = word ^ each(*other);
        found |= zero.wrapping_sub(each(1)) & !zero;
    }
    found &= each(0x80);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Few;
    impl Special for Few {
        const BELOW: u8 = 0x20;
        const OTHERS: &'static [u8] = b"b\x80\xff";
    }

    struct All;
    impl Special for All {
        const BELOW: u8 = 128;
        const OTHERS: &'static [u8] = b"";
    }

    proptest! {
        #[test]
        fn the_first_one_is_found(
            bytes in proptest::collection::vec(
                prop_oneof![40 => Just(b'a'), 1 => Just(0x7f), 1 => any::<u8>()], 0..140,
            ),
        ) {
            let first = |is: fn(u8) -> bool| bytes.iter().position(|byte| is(*byte));
            prop_assert_eq!(find::<Few>(&bytes), first(|byte| byte < 0x20 || b"b\x80\xff".contains(&byte)));
            prop_assert_eq!(find::<All>(&bytes), first(|byte| byte < 128));
        }

        #[test]
        fn among_many_too(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let expected = bytes.iter().position(|byte| Few::is(*byte));
            prop_assert_eq!(find::<Few>(&bytes), expected);
        }
    }
}
