//! Compressing and inflating one message (RFC 7692 §7.2), without memory of the one before.
//!
//! The state of zlib is some ten kilobytes, so no connection owns any: each thread keeps one of
//! each kind and every message starts it anew.

use std::cell::Cell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::connection::{Cause, CloseReason};

/// What a flush ends with and the wire does without (RFC 7692 §7.2.1).
pub(crate) const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Speed against size: zlib's scale of 1 to 9.
const LEVEL: u32 = 3;

/// Streams that one message may consist of: a final block ends one (RFC 7692 §7.2.3.5).
const STREAMS_MAX: usize = 1024;

thread_local! {
    static INFLATER: Cell<Option<Decompress>> = const { Cell::new(None) };
    /// With the window bits that it was made for.
    static COMPRESSOR: Cell<Option<(u8, Compress)>> = const { Cell::new(None) };
}

/// Inflates the payload of a message to at most `max` bytes; more is [`Cause::TooLarge`].
pub(crate) fn inflate(wire: &[u8], max: usize) -> Result<Vec<u8>, CloseReason> {
    let mut inflater = INFLATER.take().unwrap_or_else(|| Decompress::new(false));
    let result = inflate_with(&mut inflater, wire, max);
    inflater.reset(false);
    INFLATER.set(Some(inflater));
    result
}

fn inflate_with(
    inflater: &mut Decompress,
    wire: &[u8],
    max: usize,
) -> Result<Vec<u8>, CloseReason> {
    let mut out = Vec::new();
    let mut streams = 1;
    for mut input in [wire, &TAIL] {
        while !input.is_empty() || out.len() == out.capacity() {
            // One byte more than allowed, so that too much shows itself.
            let room = max.saturating_add(1).saturating_sub(out.len());
            out.reserve_exact(room.min(out.len().max(input.len() * 2).max(256)));
            let (before, had) = (inflater.total_in(), out.len());
            let status = inflater
                .decompress_vec(input, &mut out, FlushDecompress::None)
                .map_err(|_| CloseReason::new(Cause::Malformed, "compressed data is damaged"))?;
            let used = usize::try_from(inflater.total_in() - before).unwrap_or(input.len());
            input = &input[used..];
            if out.len() > max {
                return Err(too_large(
                    "the message is larger than allowed when inflated",
                ));
            }
            if status == Status::StreamEnd {
                streams += 1;
                if streams > STREAMS_MAX {
                    return Err(too_large("a compressed message of too many streams"));
                }
                inflater.reset(false);
            } else if used == 0 && out.len() == had {
                break;
            }
        }
    }
    Ok(out)
}

fn too_large(detail: &'static str) -> CloseReason {
    CloseReason::new(Cause::TooLarge, detail)
}

/// Compresses `parts` as one text, to be inflated with a window of `window_bits`. The result still
/// has its [`TAIL`]. `None` if zlib fails, which only a lack of memory explains.
pub(crate) fn compress(window_bits: u8, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let mut compressor = match COMPRESSOR.take() {
        Some((bits, compressor)) if bits == window_bits => compressor,
        _ => Compress::new_with_window_bits(Compression::new(LEVEL), false, window_bits),
    };
    let result = compress_with(&mut compressor, parts);
    compressor.reset();
    COMPRESSOR.set(Some((window_bits, compressor)));
    result.filter(|bytes| bytes.ends_with(&TAIL))
}

fn compress_with(compressor: &mut Compress, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length / 2 + 64);
    for part in parts {
        deflate(compressor, part, FlushCompress::None, &mut out)?;
    }
    deflate(compressor, &[], FlushCompress::Sync, &mut out)?;
    Some(out)
}

/// Feeds all of `input` and makes room until nothing more comes.
fn deflate(
    compressor: &mut Compress,
    mut input: &[u8],
    flush: FlushCompress,
    out: &mut Vec<u8>,
) -> Option<()> {
    loop {
        out.reserve(64);
        let before = compressor.total_in();
        compressor.compress_vec(input, out, flush).ok()?;
        let used = usize::try_from(compressor.total_in() - before).ok()?;
        input = &input[used..];
        if out.len() < out.capacity() {
            return input.is_empty().then_some(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn on_the_wire(window_bits: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = compress(window_bits, parts).unwrap();
        bytes.truncate(bytes.len() - TAIL.len());
        bytes
    }

    /// The examples of RFC 7692 §7.2.3.
    #[test]
    fn examples_of_the_standard() {
        for wire in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ] {
            assert_eq!(inflate(wire, 100).unwrap(), b"Hello", "{wire:x?}");
        }
        assert_eq!(inflate(&[0x00], 100).unwrap(), b"");
    }

    /// S15: whatever it would become, no more than the bound is made of it.
    #[test]
    fn a_bomb_stops_at_the_bound() {
        let bomb = on_the_wire(15, &[&vec![0; 4 << 20]]);
        assert!(bomb.len() < 32 * 1024);
        assert_eq!(inflate(&bomb, 1 << 20).unwrap_err().cause, Cause::TooLarge);
        assert_eq!(inflate(&bomb, 4 << 20).unwrap().len(), 4 << 20);
        assert_eq!(
            inflate(&bomb, (4 << 20) - 1).unwrap_err().cause,
            Cause::TooLarge
        );
    }

    #[test]
    fn endless_streams_are_refused() {
        let many = [0x03, 0x00].repeat(5000);
        assert_eq!(inflate(&many, 100).unwrap_err().cause, Cause::TooLarge);
    }

    #[test]
    fn damage_is_told_and_forgotten() {
        assert_eq!(
            inflate(&[0x07, 0xff], 100).unwrap_err().cause,
            Cause::Malformed
        );
        assert_eq!(inflate(&on_the_wire(15, &[b"fine"]), 100).unwrap(), b"fine");
    }

    proptest! {
        #[test]
        fn inflates_what_was_compressed(
            parts in prop::collection::vec(prop::collection::vec(0_u8..4, 0..3000), 0..4),
            window_bits in 9_u8..=15,
        ) {
            let plain = parts.concat();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let wire = on_the_wire(window_bits, &parts);
            prop_assert_eq!(inflate(&wire, plain.len()).unwrap(), plain);
        }

        #[test]
        fn noise_does_no_harm(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(plain) = inflate(&wire, 10_000) {
                prop_assert!(plain.len() <= 10_000);
            }
        }
    }
}
