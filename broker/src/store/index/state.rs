//! What the index knows by name: keys, values, and changes that wait to be written.
//!
//! A key is a byte for the kind and the name; a value is `crc32c, version, seq, segment, offset,
//! length of the record in the journal, record`. The checksum covers the key too.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;

use super::super::codec::wire::{Reader, put_bytes, put_varint};
use super::super::codec::{self, Malformed, Record, Scanned};
use super::super::{Op, Seq};
use super::{IndexError, Place};

/// Where [`Meta`] is.
pub(super) const META_KEY: &[u8] = &[0];

const SESSION: u8 = 1;
const SUBSCRIPTION: u8 = 2;
const ACCEPTED: u8 = 3;
const GROUP: u8 = 4;
const RETAINED: u8 = 5;
const KEY: u8 = 6;

/// The layout of all values.
const VERSION: u8 = 1;

/// Larger records stay in the journal only: sled is slow with them.
const RECORD_MAX: usize = 16 * 1024;

/// Bytes of a checksum.
const CRC: usize = 4;

/// What the state holds as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Meta {
    /// Which journal it is of.
    pub(in crate::store) epoch: u64,
    /// The units up to this one had their effect on it.
    pub(in crate::store) through: Seq,
    /// Records in it.
    pub(in crate::store) count: u64,
    /// Sum of their checksums.
    pub(in crate::store) sum: u64,
    /// Bytes of their values.
    pub(in crate::store) bytes: u64,
}

impl Meta {
    pub(super) fn read(value: &[u8]) -> Result<Self, IndexError> {
        let mut reader = open(META_KEY, value)?;
        let meta = Self {
            epoch: reader.varint()?,
            through: reader.varint()?,
            count: reader.varint()?,
            sum: reader.varint()?,
            bytes: reader.varint()?,
        };
        reader.finish()?;
        Ok(meta)
    }

    pub(super) fn written(&self) -> Vec<u8> {
        closed(META_KEY, |out| {
            for number in [self.epoch, self.through, self.count, self.sum, self.bytes] {
                put_varint(out, number);
            }
        })
    }

    /// One value takes the place of another, or of none.
    pub(super) fn replace(&mut self, old: Option<&[u8]>, new: Option<&[u8]>) {
        if let Some(old) = old {
            self.count = self.count.wrapping_sub(1);
            self.sum = self.sum.wrapping_sub(weight(old));
            self.bytes = self.bytes.wrapping_sub(old.len() as u64);
        }
        if let Some(new) = new {
            self.count = self.count.wrapping_add(1);
            self.sum = self.sum.wrapping_add(weight(new));
            self.bytes = self.bytes.wrapping_add(new.len() as u64);
        }
    }
}

/// The latest record of something.
#[derive(Debug)]
pub(in crate::store) struct Stored {
    /// The unit that it came in. For people who look at it.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests read it"))]
    pub(in crate::store) seq: Seq,
    /// Where that unit is.
    pub(in crate::store) place: Place,
    /// Bytes of the record in the unit.
    pub(in crate::store) length: u64,
    /// What it says.
    pub(in crate::store) record: StoredRecord,
}

/// What a record says.
#[derive(Debug)]
pub(in crate::store) enum StoredRecord {
    /// Session, Subscription, Accepted, Group, Retain or Key.
    Op(Op),
    /// An [`Op::Retain`] that is too large for the index: it is read from the journal.
    RetainElsewhere {
        /// Its topic.
        topic: ByteString,
    },
}

/// Changes that wait to be written, the latest of each name.
#[derive(Debug, Default)]
pub(in crate::store) struct Changes {
    through: Seq,
    /// Sessions that ended, with all that was theirs before the changes in here.
    ended: BTreeSet<u64>,
    records: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
}

impl Changes {
    /// Takes what a unit changes. Units come in order.
    pub(in crate::store) fn unit(
        &mut self,
        seq: Seq,
        place: Place,
        payload: &[u8],
    ) -> Result<(), Malformed> {
        for record in codec::scan(payload) {
            self.record(seq, place, &record?, payload);
        }
        self.through = self.through.max(seq);
        Ok(())
    }

    /// Takes what a record of a unit changes. The unit itself counts as known only after
    /// [`Changes::known`].
    pub(in crate::store) fn record(
        &mut self,
        seq: Seq,
        place: Place,
        record: &Record<'_>,
        payload: &[u8],
    ) {
        let op = match &record.what {
            Scanned::Message { .. } => return,
            Scanned::Retain { topic, .. } => {
                let key = named(RETAINED, topic.as_bytes());
                return self.put(key, seq, place, &payload[record.range.clone()]);
            }
            Scanned::Key { key, .. } => {
                let key = named(KEY, key.as_bytes());
                return self.put(key, seq, place, &payload[record.range.clone()]);
            }
            Scanned::Other(op) => op,
        };
        let key = match op {
            Op::Session(session) => numbered(SESSION, session.number),
            Op::Subscription { number, record } => {
                numbered_twice(SUBSCRIPTION, *number, &record.id.0.to_be_bytes())
            }
            Op::Accepted { number, packet_id } => {
                numbered_twice(ACCEPTED, *number, &packet_id.to_be_bytes())
            }
            Op::Group { number, .. } => numbered(GROUP, *number),
            gone => return self.gone(gone),
        };
        self.put(key, seq, place, &payload[record.range.clone()]);
    }

    /// All units up to this one were taken.
    pub(in crate::store) fn known(&mut self, through: Seq) {
        self.through = self.through.max(through);
    }

    /// An idempotency key is forgotten: its time is over.
    pub(in crate::store) fn forget_key(&mut self, key: &str) {
        self.set(named(KEY, key.as_bytes()), None);
    }

    /// A retained message is forgotten: it expired.
    pub(in crate::store) fn forget_retained(&mut self, topic: &str) {
        self.set(named(RETAINED, topic.as_bytes()), None);
    }

    /// The last unit that was taken.
    pub(in crate::store) fn through(&self) -> Seq {
        self.through
    }

    /// Bytes that wait, about.
    #[cfg(test)]
    pub(in crate::store) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits to be written.
    #[cfg(test)]
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.ended.is_empty()
    }

    /// Beginnings of the keys that are gone, unless they are in here.
    pub(super) fn ended(&self) -> impl Iterator<Item = Vec<u8>> {
        let kinds = [SESSION, SUBSCRIPTION, ACCEPTED];
        let numbers = self.ended.iter();
        numbers.flat_map(move |number| kinds.map(|kind| numbered(kind, *number)))
    }

    /// Whether the key's fate is in here.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.records.contains_key(key)
    }

    /// What becomes of each key, by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let records = self.records.iter();
        records.map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    fn gone(&mut self, op: &Op) {
        match op {
            Op::SessionEnd { number } => self.end(*number),
            Op::SubscriptionEnd { number, id } => {
                let id = id.0.to_be_bytes();
                self.set(numbered_twice(SUBSCRIPTION, *number, &id), None);
            }
            Op::Released { number, packet_id } => {
                let id = packet_id.to_be_bytes();
                self.set(numbered_twice(ACCEPTED, *number, &id), None);
            }
            Op::GroupEnd { number } => self.set(numbered(GROUP, *number), None),
            Op::Unretain { topic } => self.forget_retained(topic),
            // Queues are not part of the state.
            _ => {}
        }
    }

    fn end(&mut self, number: u64) {
        self.ended.insert(number);
        for kind in [SESSION, SUBSCRIPTION, ACCEPTED] {
            let first = numbered(kind, number);
            let theirs = self.records.range(first.clone()..);
            let theirs: Vec<_> = theirs
                .map(|(key, _)| key.clone())
                .take_while(|key| key.starts_with(&first))
                .collect();
            for key in theirs {
                self.records.remove(&key);
            }
        }
    }

    fn put(&mut self, key: Vec<u8>, seq: Seq, place: Place, record: &[u8]) {
        let value = closed(&key, |out| {
            put_varint(out, seq);
            put_varint(out, place.segment);
            put_varint(out, place.offset);
            let kept = if record.len() > RECORD_MAX {
                &[]
            } else {
                record
            };
            put_varint(out, record.len() as u64);
            put_bytes(out, kept);
        });
        self.set(key, Some(value));
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len) + 96;
        self.records.insert(key, value);
    }
}

/// Reads a value of the state.
pub(super) fn read(key: &[u8], value: &[u8]) -> Result<Stored, IndexError> {
    let mut reader = open(key, value)?;
    let seq = reader.varint()?;
    let place = Place {
        segment: reader.varint()?,
        offset: reader.varint()?,
    };
    let length = reader.varint()?;
    let record = reader.bytes()?;
    reader.finish()?;
    let record = match (record, key) {
        ([], [RETAINED, topic @ ..]) => StoredRecord::RetainElsewhere {
            topic: reader.utf8(topic)?.into(),
        },
        (record, _) => {
            let op = codec::decode(record)?.pop();
            StoredRecord::Op(op.ok_or(IndexError::Damaged("a value is empty"))?)
        }
    };
    Ok(Stored {
        seq,
        place,
        length,
        record,
    })
}

/// What a value adds to [`Meta::sum`]: its checksum.
pub(super) fn weight(value: &[u8]) -> u64 {
    let crc = value.first_chunk().copied();
    u64::from(u32::from_le_bytes(crc.unwrap_or_default()))
}

/// A value with its checksum and version.
pub(super) fn closed(key: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut value = vec![0; CRC];
    value.push(VERSION);
    write(&mut value);
    let crc = checksum(key, &value[CRC..]);
    value[..CRC].copy_from_slice(&crc.to_le_bytes());
    value
}

/// A reader of a value whose checksum and version are right.
pub(super) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<Reader<'a>, IndexError> {
    let Some((crc, rest)) = value.split_first_chunk::<CRC>() else {
        return Err(IndexError::Damaged("a value is too short"));
    };
    if u32::from_le_bytes(*crc) != checksum(key, rest) {
        return Err(IndexError::Damaged("the checksum of a value"));
    }
    let mut reader = Reader::new("a value of the index", rest);
    if reader.byte()? != VERSION {
        return Err(IndexError::Damaged("a value of an unknown version"));
    }
    Ok(reader)
}

fn checksum(key: &[u8], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), rest)
}

fn numbered(kind: u8, number: u64) -> Vec<u8> {
    named(kind, &number.to_be_bytes())
}

fn numbered_twice(kind: u8, number: u64, second: &[u8]) -> Vec<u8> {
    let mut key = numbered(kind, number);
    key.extend_from_slice(second);
    key
}

fn named(kind: u8, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(kind);
    key.extend_from_slice(name);
    key
}
