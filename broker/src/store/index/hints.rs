//! What sealed segments say about queues, without the messages.
//!
//! A segment's hints are one string of bytes, cut in chunks that sled likes: for each unit that says
//! something about queues its number and place (as differences to the one before) and its records:
//! a message's receivers and size, and the small operations as they are. The value at chunk 0
//! describes the whole.

use super::super::codec::wire::{Malformed, Reader, put_len, put_varint};
use super::super::codec::{self, Scanned, put_receivers, receivers};
use super::super::{Op, Receiver, Seq};
use super::IndexError;
use super::state::{closed, open};

/// A leaf of sled's tree holds up to 16 values and should stay below its bound for large pages.
const CHUNK: usize = 4 * 1024;

const MESSAGE: u8 = 0;
const OTHER: u8 = 1;

/// A segment with hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Sealed {
    /// Its number.
    pub(in crate::store) segment: u64,
    /// Which journal it is of.
    pub(in crate::store) epoch: u64,
    /// The first unit in it.
    pub(in crate::store) first: Seq,
    /// The last unit in it.
    pub(in crate::store) last: Seq,
}

/// What a unit's record says about queues.
#[derive(Debug)]
pub(in crate::store) struct Hint {
    /// The unit. For people who look at it.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests read it"))]
    pub(in crate::store) seq: Seq,
    /// Where the unit starts in its segment.
    pub(in crate::store) offset: u64,
    /// Bytes of the record in the unit.
    pub(in crate::store) length: usize,
    /// What it says.
    pub(in crate::store) what: Hinted,
}

/// See [`Hint`].
#[derive(Debug)]
pub(in crate::store) enum Hinted {
    /// [`Op::Message`].
    Message {
        /// Who gets it.
        receivers: Vec<Receiver>,
        /// What [`protocols::model::Message::size`] says of it.
        size: usize,
    },
    /// Done, Received, Move, or the end of a session, subscription or group.
    Other(Op),
}

/// Hints of a segment that is being written.
#[derive(Debug, Default)]
pub(in crate::store) struct Hints {
    bytes: Vec<u8>,
    seq: Seq,
    offset: u64,
}

impl Hints {
    /// Takes what a unit says, which starts at `offset` of the segment. Units come in order.
    pub(in crate::store) fn unit(
        &mut self,
        seq: Seq,
        offset: u64,
        payload: &[u8],
    ) -> Result<(), Malformed> {
        let mut records = Vec::new();
        let mut count = 0;
        for record in codec::scan(payload) {
            let record = record?;
            match &record.what {
                Scanned::Message {
                    receivers, size, ..
                } => {
                    put_len(&mut records, record.range.len());
                    records.push(MESSAGE);
                    put_receivers(&mut records, receivers);
                    put_len(&mut records, *size);
                }
                Scanned::Other(op) if is_about_queues(op) => {
                    put_len(&mut records, record.range.len());
                    records.push(OTHER);
                    records.extend_from_slice(&payload[record.range]);
                }
                // It is in the state.
                _ => continue,
            }
            count += 1;
        }
        if count > 0 {
            put_varint(&mut self.bytes, seq.wrapping_sub(self.seq));
            put_varint(&mut self.bytes, offset.wrapping_sub(self.offset));
            put_len(&mut self.bytes, count);
            self.bytes.append(&mut records);
            (self.seq, self.offset) = (seq, offset);
        }
        Ok(())
    }

    /// Bytes that they take.
    #[cfg(test)]
    pub(in crate::store) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Whether an operation changes what queues hold. What ends also ends queues.
fn is_about_queues(op: &Op) -> bool {
    matches!(
        op,
        Op::Done { .. }
            | Op::Received { .. }
            | Op::Move { .. }
            | Op::SessionEnd { .. }
            | Op::SubscriptionEnd { .. }
            | Op::GroupEnd { .. }
    )
}

/// Where the description of a segment's hints is.
pub(super) fn header_key(segment: u64) -> [u8; 12] {
    chunk_key(segment, 0)
}

fn chunk_key(segment: u64, chunk: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&segment.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// Hands over the keys and values of a segment's hints.
pub(super) fn write(sealed: Sealed, hints: &Hints, mut put: impl FnMut([u8; 12], Vec<u8>)) {
    let key = header_key(sealed.segment);
    let header = closed(&key, |out| {
        for number in [sealed.epoch, sealed.first, sealed.last] {
            put_varint(out, number);
        }
        put_len(out, hints.bytes.len());
        put_varint(out, u64::from(crc32c::crc32c(&hints.bytes)));
    });
    put(key, header);
    for (chunk, bytes) in (1..).zip(hints.bytes.chunks(CHUNK)) {
        put(chunk_key(sealed.segment, chunk), bytes.to_vec());
    }
}

/// What is at [`header_key`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) sealed: Sealed,
    /// Bytes of all chunks.
    pub(super) length: u64,
    /// Their checksum.
    crc: u32,
}

/// Reads what is at [`header_key`].
pub(super) fn read_header(key: &[u8], value: &[u8]) -> Result<Header, IndexError> {
    let Some((segment, [0, 0, 0, 0])) = key.split_first_chunk() else {
        return Err(IndexError::Damaged("hints without their description"));
    };
    let mut reader = open(key, value)?;
    let header = Header {
        sealed: Sealed {
            segment: u64::from_be_bytes(*segment),
            epoch: reader.varint()?,
            first: reader.varint()?,
            last: reader.varint()?,
        },
        length: reader.varint()?,
        crc: reader.varint_u32()?,
    };
    reader.finish()?;
    Ok(header)
}

/// Checks a segment's hints, whose chunks were put together, and hands them over.
pub(super) fn visit(
    header: Header,
    bytes: &[u8],
    mut visit: impl FnMut(Hint),
) -> Result<(), IndexError> {
    if header.length != bytes.len() as u64 || header.crc != crc32c::crc32c(bytes) {
        return Err(IndexError::Damaged("the hints of a segment"));
    }
    let mut reader = Reader::new("the hints of a segment", bytes);
    let (mut seq, mut offset) = (0_u64, 0_u64);
    while !reader.is_done() {
        seq = seq.wrapping_add(reader.varint()?);
        offset = offset.wrapping_add(reader.varint()?);
        for _ in 0..reader.count(2)? {
            let length = reader.length()?;
            let what = hinted(&mut reader)?;
            visit(Hint {
                seq,
                offset,
                length,
                what,
            });
        }
    }
    Ok(())
}

fn hinted(reader: &mut Reader<'_>) -> Result<Hinted, Malformed> {
    match reader.byte()? {
        MESSAGE => Ok(Hinted::Message {
            receivers: receivers(reader)?,
            size: reader.length()?,
        }),
        OTHER => codec::one(reader).map(Hinted::Other),
        _ => Err(reader.malformed("an unknown hint")),
    }
}
