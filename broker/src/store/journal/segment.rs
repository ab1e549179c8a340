//! A segment of the journal: a header, and records one behind the other.
//!
//! ```text
//! header: magic 8, format u32, number u32, store u64, 0 u32, CRC32C of these u32
//! record: kind (2 bits) and length (30 bits) u32, CRC32C u32, seq u64, synced u32, payload
//! ```
//!
//! Numbers are little-endian. A record's checksum covers all of it and the names of its store and
//! segment, so bytes from elsewhere are never taken for a record. Where the kind is 0 no record
//! follows; from there on a segment is zeros. `synced` is the offset up to which the segment was on the
//! disk when the record was written: it tells a write that a power cut tore from damage to
//! what had been on the disk.
//!
//! This module knows bytes only, neither files nor what is in a payload.

use crc32c::{crc32c, crc32c_append};

use super::super::Seq;

/// Bytes before the first record.
pub(super) const HEADER: usize = 32;

/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER: usize = 20;

/// The longest payload.
pub(super) const MAX_PAYLOAD: usize = (1 << 30) - 1;

const MAGIC: &[u8; 8] = b"PCASTseg";
const FORMAT: u32 = 1;
const LENGTH: u32 = (1 << 30) - 1;

/// Names a segment: no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentKey {
    /// The store's number, drawn by lot.
    pub(super) store: u64,
    /// The segment's.
    pub(super) number: u32,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A unit, with a number of its own.
    Unit = 1,
    /// What is still needed of an older record. It changes nothing, and has the number of the unit
    /// that it stands behind.
    Copy = 2,
    /// Facts at the start of a segment; numbered like a copy.
    Mark = 3,
}

/// A record that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) seq: Seq,
    /// Up to which offset the segment was on the disk when this was written.
    pub(super) synced: u32,
    /// Where the record starts.
    pub(super) offset: usize,
    pub(super) payload: &'a [u8],
}

impl Record<'_> {
    /// Where the next one starts.
    pub(super) fn end(&self) -> usize {
        self.offset + RECORD_HEADER + self.payload.len()
    }
}

/// The bytes at the start of a segment.
pub(super) fn header(key: SegmentKey) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..16].copy_from_slice(&key.number.to_le_bytes());
    bytes[16..24].copy_from_slice(&key.store.to_le_bytes());
    let crc = crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Whether a segment starts as it should.
pub(super) fn is_header(bytes: &[u8], key: SegmentKey) -> bool {
    bytes.get(..HEADER) == Some(&header(key)[..])
}

/// Writes the header of a record whose payload lies behind it already.
///
/// `payload_crc` is the CRC32C of the payload alone, which may be known long before the rest.
pub(super) fn seal_record(
    record: &mut [u8],
    kind: Kind,
    payload_crc: u32,
    seq: Seq,
    synced: u32,
    key: SegmentKey,
) {
    // Units beyond the longest payload are refused before.
    let length = u32::try_from(record.len() - RECORD_HEADER).unwrap_or(LENGTH);
    let word = ((kind as u32) << 30) | length;
    let crc = finish_crc(payload_crc, word, seq, synced, key);
    record[..4].copy_from_slice(&word.to_le_bytes());
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    record[8..16].copy_from_slice(&seq.to_le_bytes());
    record[16..20].copy_from_slice(&synced.to_le_bytes());
}

fn finish_crc(payload_crc: u32, word: u32, seq: Seq, synced: u32, key: SegmentKey) -> u32 {
    let mut rest = [0; 28];
    rest[..4].copy_from_slice(&word.to_le_bytes());
    rest[4..12].copy_from_slice(&seq.to_le_bytes());
    rest[12..16].copy_from_slice(&synced.to_le_bytes());
    rest[16..24].copy_from_slice(&key.store.to_le_bytes());
    rest[24..].copy_from_slice(&key.number.to_le_bytes());
    crc32c_append(payload_crc, &rest)
}

/// The fields of a record's header, not verified.
struct Fields {
    kind: Kind,
    length: usize,
    word: u32,
    crc: u32,
    seq: Seq,
    synced: u32,
}

fn fields(bytes: &[u8]) -> Option<Fields> {
    let (word, rest) = bytes.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let word = u32::from_le_bytes(*word);
    let kind = match word >> 30 {
        1 => Kind::Unit,
        2 => Kind::Copy,
        3 => Kind::Mark,
        _ => return None,
    };
    Some(Fields {
        kind,
        length: usize::try_from(word & LENGTH).ok()?,
        word,
        crc: u32::from_le_bytes(*crc),
        seq: u64::from_le_bytes(*seq),
        synced: u32::from_le_bytes(*rest.first_chunk()?),
    })
}

/// How long a record says it is, header included: what must be read to verify it.
pub(super) fn claimed_length(header: &[u8]) -> Option<usize> {
    fields(header).map(|fields| RECORD_HEADER + fields.length)
}

/// The record at the front of `bytes`, if it verifies. `offset` is where that is in its segment.
pub(super) fn verify(bytes: &[u8], offset: usize, key: SegmentKey) -> Option<Record<'_>> {
    let fields = fields(bytes)?;
    let payload = bytes.get(RECORD_HEADER..RECORD_HEADER + fields.length)?;
    let crc = finish_crc(crc32c(payload), fields.word, fields.seq, fields.synced, key);
    (crc == fields.crc).then_some(Record {
        kind: fields.kind,
        seq: fields.seq,
        synced: fields.synced,
        offset,
        payload,
    })
}

/// What is found in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A record that verifies.
    Record(Record<'a>),
    /// Bytes that are none, up to the next record or the segment's end.
    Damage {
        /// Where they start.
        from: usize,
        /// Where they end.
        to: usize,
    },
}

/// Goes through all records of a segment, and over damage to the next one that verifies.
#[derive(Clone, Debug)]
pub(super) struct Scan<'a> {
    bytes: &'a [u8],
    key: SegmentKey,
    at: usize,
}

impl<'a> Scan<'a> {
    /// From the start. `bytes` is the whole segment.
    pub(super) fn new(bytes: &'a [u8], key: SegmentKey) -> Self {
        Self::from(bytes, key, HEADER)
    }

    /// From where a record starts.
    pub(super) fn from(bytes: &'a [u8], key: SegmentKey, at: usize) -> Self {
        Self { bytes, key, at }
    }

    /// The next record that verifies behind `from`. A record that was written later than what is
    /// damaged cannot lie about where it could have been written, which spares most checksums.
    fn resume(&self, from: usize) -> Option<Record<'a>> {
        (from..self.bytes.len().saturating_sub(RECORD_HEADER - 1)).find_map(|at| {
            let rest = &self.bytes[at..];
            let fields = fields(rest)?;
            let plausible = fields.length <= rest.len() - RECORD_HEADER
                && usize::try_from(fields.synced).is_ok_and(|synced| synced <= at);
            if plausible {
                verify(rest, at, self.key)
            } else {
                None
            }
        })
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..)?;
        if let Some(record) = verify(rest, self.at, self.key) {
            self.at = record.end();
            return Some(Found::Record(record));
        }
        if is_zero(rest) {
            return None;
        }
        let from = self.at;
        let to = self
            .resume(from + 1)
            .map_or(self.bytes.len(), |record| record.offset);
        self.at = to;
        Some(Found::Damage { from, to })
    }
}

/// Whether there is nothing but zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let chunks = bytes.chunks_exact(16);
    chunks.remainder().iter().all(|byte| *byte == 0)
        && chunks.into_iter().all(|chunk| chunk == [0; 16])
}

/// Where a torn write at the end of the last segment is to be cut; `None` if nothing is torn.
///
/// A write is torn if it does not verify and no record says that it was on the disk before: it was
/// never waited for, so nothing in it was promised. All behind it is cut too.
pub(super) fn torn_at(bytes: &[u8], key: SegmentKey) -> Option<usize> {
    let synced = Scan::new(bytes, key)
        .filter_map(|found| match found {
            Found::Record(record) => usize::try_from(record.synced).ok(),
            Found::Damage { .. } => None,
        })
        .max()
        .unwrap_or(0);
    Scan::new(bytes, key).find_map(|found| match found {
        Found::Damage { from, .. } if from >= synced => Some(from),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SegmentKey = SegmentKey {
        store: 7,
        number: 3,
    };

    fn put(bytes: &mut Vec<u8>, seq: Seq, synced: usize, payload: &[u8]) -> usize {
        let at = bytes.len();
        bytes.extend([0; RECORD_HEADER]);
        bytes.extend(payload);
        let synced = u32::try_from(synced).unwrap();
        seal_record(
            &mut bytes[at..],
            Kind::Unit,
            crc32c(payload),
            seq,
            synced,
            KEY,
        );
        at
    }

    /// Four records; the last two are in one write.
    fn segment() -> (Vec<u8>, [usize; 4]) {
        let mut bytes = header(KEY).to_vec();
        let a = put(&mut bytes, 1, 0, b"one");
        let b = put(&mut bytes, 2, a + 23, b"two, which is longer");
        let end = bytes.len();
        let c = put(&mut bytes, 3, end, b"");
        let d = put(&mut bytes, 4, end, b"four");
        bytes.extend([0; 100]);
        (bytes, [a, b, c, d])
    }

    fn seqs(bytes: &[u8]) -> Vec<Seq> {
        Scan::new(bytes, KEY)
            .filter_map(|found| match found {
                Found::Record(record) => Some(record.seq),
                Found::Damage { .. } => None,
            })
            .collect()
    }

    #[test]
    fn records_come_back_in_order() {
        let (bytes, at) = segment();
        assert!(is_header(&bytes, KEY));
        assert_eq!(seqs(&bytes), [1, 2, 3, 4]);
        assert_eq!(torn_at(&bytes, KEY), None);
        let record = verify(&bytes[at[1]..], at[1], KEY).unwrap();
        assert_eq!(record.payload, b"two, which is longer");
        assert_eq!(record.end(), at[2]);
        assert_eq!(claimed_length(&bytes[at[3]..]), Some(RECORD_HEADER + 4));
    }

    #[test]
    fn a_record_of_another_segment_or_store_is_none() {
        let (bytes, _) = segment();
        for other in [
            SegmentKey { number: 4, ..KEY },
            SegmentKey { store: 8, ..KEY },
        ] {
            assert!(!is_header(&bytes, other));
            assert!(verify(&bytes[HEADER..], HEADER, other).is_none());
        }
    }

    #[test]
    fn any_flipped_bit_is_seen_and_costs_one_record() {
        let (bytes, at) = segment();
        for bit in at[1] * 8..at[2] * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seqs(&damaged), [1, 3, 4], "bit {bit}");
            // The third says that the second was on the disk.
            assert_eq!(torn_at(&damaged, KEY), None, "bit {bit}");
        }
    }

    #[test]
    fn zeros_in_the_middle_are_not_the_end() {
        let (mut bytes, at) = segment();
        bytes[at[1]..at[2]].fill(0);
        assert_eq!(seqs(&bytes), [1, 3, 4]);
    }

    #[test]
    fn a_torn_write_is_cut_with_what_was_written_behind_it() {
        let (bytes, at) = segment();
        for bit in at[2] * 8..at[3] * 8 {
            let mut torn = bytes.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(torn_at(&torn, KEY), Some(at[2]), "bit {bit}");
        }
        let mut torn = bytes;
        torn[at[3] + RECORD_HEADER] ^= 1;
        assert_eq!(torn_at(&torn, KEY), Some(at[3]));
    }

    #[test]
    fn arbitrary_bytes_are_no_records() {
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..20_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_le_bytes()[7]
            })
            .collect();
        assert_eq!(seqs(&noise), Vec::<Seq>::new());
        for length in 0..HEADER + RECORD_HEADER {
            let _ = Scan::new(&noise[..length], KEY).count();
        }
    }
}
