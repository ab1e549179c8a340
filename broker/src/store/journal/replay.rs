//! Reads the journal back: what it held when it was written last.
//!
//! Records have their effect in their order, by the same code as when they were written. Only the
//! end of the last segment may be torn; that was promised to nobody and is cut. All other bytes
//! that do not verify are reported, and the rest is served.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytestring::ByteString;
use protocols::model::{Message, Timestamp};

use super::super::codec::{self, Scanned};
use super::super::index::{Hint, Hinted, Index, IndexError, Stored, StoredRecord};
use super::super::{
    GroupRecord, Op, Recovered, RecoveredGroup, RecoveredQueue, RecoveredSession, Seq,
    SessionRecord, SubscriptionRecord,
};
use super::directory::{JOURNAL, OpenError, segment_name, segment_number};
use super::disk::{Disk, read_around};
use super::indexer::{Covered, covered};
use super::memory::{Latest, Memory, QueueSummary};
use super::queue::Place;
use super::reader::{Files, READ_AHEAD, ReadError, Source};
use super::segment::{Found, HEADER, Kind, Record, Scan, SegmentKey, is_header, is_zero, torn_at};

/// What a journal was found to hold.
pub(super) struct Replayed {
    pub(super) memory: Memory,
    pub(super) known: Known,
    /// The last unit.
    pub(super) seq: Seq,
    /// Where to go on; none if no segment can be continued.
    pub(super) tail: Option<Tail>,
    /// Segments behind the tail in which nothing is, in order.
    pub(super) empty: Vec<u32>,
    /// The last segment that was not read, because the index knew it.
    pub(super) covered: Option<u32>,
    /// Bytes of a torn write, in the tail.
    pub(super) torn: Option<Range<usize>>,
    pub(super) damage: Vec<Damage>,
}

/// The segment that was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) number: u32,
    pub(super) at: usize,
}

/// Something in the journal that does not verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}, bytes {} to {}: {what}", bytes.start, bytes.end)]
pub struct Damage {
    /// The file, below the data directory.
    pub name: String,
    /// Which bytes of it.
    pub bytes: Range<usize>,
    /// What is wrong with them.
    pub what: String,
}

/// What is kept by name, as it was said last.
#[derive(Debug, Default)]
pub(super) struct Known {
    sessions: BTreeMap<u64, KnownSession>,
    groups: BTreeMap<u64, GroupRecord>,
    keys: HashMap<ByteString, (Timestamp, u32)>,
    pub(super) retained: Vec<Arc<Message>>,
}

#[derive(Debug, Default)]
struct KnownSession {
    record: Option<Box<SessionRecord>>,
    subscriptions: BTreeMap<u32, Box<SubscriptionRecord>>,
}

impl Known {
    fn take(&mut self, op: Op) {
        match op {
            Op::Session(record) => {
                let session = self.sessions.entry(record.number).or_default();
                session.record = Some(record);
            }
            Op::SessionEnd { number } => {
                self.sessions.remove(&number);
            }
            Op::Subscription { number, record } => {
                let session = self.sessions.entry(number).or_default();
                session.subscriptions.insert(record.id.0, record);
            }
            Op::SubscriptionEnd { number, id } => {
                if let Some(session) = self.sessions.get_mut(&number) {
                    session.subscriptions.remove(&id.0);
                }
            }
            Op::Group { number, record } => {
                self.groups.insert(number, record);
            }
            Op::GroupEnd { number } => {
                self.groups.remove(&number);
            }
            Op::Key { key, answer, until } => {
                self.keys.insert(key, (until, answer));
            }
            Op::Message { .. }
            | Op::Done { .. }
            | Op::Received { .. }
            | Op::Move { .. }
            | Op::Accepted { .. }
            | Op::Released { .. }
            | Op::Retain { .. }
            | Op::Unretain { .. } => {}
        }
    }

    /// In the form that the store's user gets it.
    pub(super) fn recovered(self, memory: &Memory) -> Recovered {
        let sessions = self.sessions.into_iter().filter_map(|(number, session)| {
            let summaries = memory.queues(number);
            Some(RecoveredSession {
                record: *session.record?,
                subscriptions: session.subscriptions.into_values().map(|it| *it).collect(),
                accepted: memory.packet_ids(number),
                queues: summaries.into_iter().map(queue).collect(),
            })
        });
        let groups = self
            .groups
            .into_iter()
            .map(|(number, record)| RecoveredGroup {
                number,
                record,
                queue: memory
                    .queues(number)
                    .into_iter()
                    .next()
                    .map(queue)
                    .unwrap_or_default(),
            });
        let mut keys: Vec<_> = self
            .keys
            .into_iter()
            .filter(|(key, (until, _))| memory.has_key(key, *until))
            .map(|(key, (until, answer))| (until, key, answer))
            .collect();
        keys.sort_unstable();
        Recovered {
            sessions: sessions.collect(),
            groups: groups.collect(),
            retained: self.retained,
            keys,
            next_number: memory.next_number(),
        }
    }
}

fn queue(summary: QueueSummary) -> RecoveredQueue {
    RecoveredQueue {
        lane: summary.lane,
        messages: summary.messages,
        bytes: summary.bytes,
        last_position: summary.last_position,
        from_group: summary.from_group,
    }
}

/// Reads a journal. Nothing is written. What an index knows is taken from there; `Unfit` means that
/// it must be done without.
pub(super) fn replay(
    disk: &dyn Disk,
    store: u64,
    now: Timestamp,
    max_keys: usize,
    index: Option<&Index>,
) -> Result<Replayed, ReplayError> {
    let numbers = segments(disk)?;
    let mut replay = Replay {
        disk,
        store,
        memory: Memory::new(max_keys),
        known: Known::default(),
        seq: 0,
        damage: Vec::new(),
    };
    replay.account(&numbers)?;
    let (tail, empty) = replay.find_tail(&numbers)?;
    let covered = match index {
        Some(index) => Some(replay.start_from(index, &numbers, tail)?),
        None => None,
    };
    let mut torn = None;
    let mut at = None;
    let rest = |number: &&u32| covered.is_none_or(|it| **number > it.segment);
    for number in numbers.iter().filter(rest) {
        if Some(*number) > tail {
            continue;
        }
        let bytes = replay.read(*number)?;
        let is_tail = Some(*number) == tail;
        if is_tail {
            torn = torn_at(&bytes, replay.key(*number)).map(|cut| cut..bytes.len());
        }
        let end = torn.as_ref().map_or(bytes.len(), |torn| torn.start);
        let behind = replay.segment(*number, &bytes, end);
        if is_tail && is_header(&bytes, replay.key(*number)) {
            at = Some(Tail {
                number: *number,
                at: behind,
            });
        }
    }
    replay.memory.settle(now);
    if covered.is_some() && replay.memory.segments.strays() > 0 {
        return Err(ReplayError::Unfit(IndexError::Damaged(
            "it names segments that are gone",
        )));
    }
    replay.read_retained(now)?;
    Ok(Replayed {
        memory: replay.memory,
        known: replay.known,
        seq: replay.seq,
        tail: at,
        empty,
        covered: covered.map(|it| it.segment),
        torn,
        damage: replay.damage,
    })
}

/// Why a journal was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    /// It cannot be.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The index is of no use.
    #[error(transparent)]
    Unfit(#[from] IndexError),
}

/// The numbers of all segments, in order.
fn segments(disk: &dyn Disk) -> Result<Vec<u32>, OpenError> {
    let names = disk
        .list(JOURNAL)
        .map_err(|error| OpenError::io(disk.path(JOURNAL), "list", error))?;
    Ok(names
        .iter()
        .filter_map(|name| segment_number(name))
        .collect())
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    store: u64,
    memory: Memory,
    known: Known,
    seq: Seq,
    damage: Vec<Damage>,
}

impl Replay<'_> {
    fn key(&self, number: u32) -> SegmentKey {
        SegmentKey {
            store: self.store,
            number,
        }
    }

    fn open(&self, number: u32) -> Result<Arc<dyn super::disk::DiskFile>, OpenError> {
        let name = segment_name(number);
        self.disk
            .open(&name)
            .map_err(|error| OpenError::io(self.disk.path(&name), "open", error))
    }

    fn read(&self, number: u32) -> Result<Vec<u8>, OpenError> {
        let file = self.open(number)?;
        read_around(file.as_ref())
            .map_err(|error| OpenError::io(self.disk.path(&segment_name(number)), "read", error))
    }

    /// Enters all segments, so that what is live in them can be counted.
    fn account(&mut self, numbers: &[u32]) -> Result<(), OpenError> {
        for number in numbers {
            let expected = self.memory.segments.end();
            if self.memory.segments.len() > 0 && *number > expected {
                let missing = number - expected;
                self.damaged(
                    *number,
                    0..0,
                    format!("{missing} segments before it are missing"),
                );
            }
            let bytes = self.open(*number)?.bytes().map_err(|error| {
                OpenError::io(self.disk.path(&segment_name(*number)), "read", error)
            })?;
            self.memory.segments.push(*number, bytes);
        }
        Ok(())
    }

    /// Takes from an index what it knows.
    fn start_from(
        &mut self,
        index: &Index,
        numbers: &[u32],
        tail: Option<u32>,
    ) -> Result<Covered, ReplayError> {
        let sealed: Vec<u32> = numbers
            .iter()
            .copied()
            .filter(|number| Some(*number) < tail)
            .collect();
        let start_of = |number| self.start_of(number);
        let covered = covered(index, self.store, &sealed, tail, start_of)?
            .ok_or(IndexError::Damaged("it does not fit the journal"))?;
        for number in sealed.iter().filter(|number| **number <= covered.segment) {
            if let Some((_, next)) = self.mark_of(*number) {
                self.memory.skip_numbers(next);
            }
            if *number < covered.live_from {
                continue;
            }
            index.hints(u64::from(*number), |hint| self.hint(*number, &hint))?;
        }
        index.load(|stored| self.stored(stored))?;
        self.seq = covered.seq;
        Ok(covered)
    }

    /// The unit before the first one of a segment.
    fn start_of(&self, number: u32) -> Option<Seq> {
        self.mark_of(number).map(|(seq, _)| seq)
    }

    /// What a segment says at its start: the unit before it, and the next number of a session.
    fn mark_of(&self, number: u32) -> Option<(Seq, u64)> {
        let files = Files::default();
        let mut source = Source::new(self.disk, &files, self.store);
        let place = Place {
            segment: number,
            offset: u32::try_from(HEADER).ok()?,
        };
        let record = source.record(place, 64).ok()?;
        let next = record.payload.first_chunk()?;
        (record.kind == Kind::Mark).then(|| (record.seq, u64::from_le_bytes(*next)))
    }

    fn hint(&mut self, number: u32, hint: &Hint) {
        let Ok(offset) = u32::try_from(hint.offset) else {
            return;
        };
        let place = Place {
            segment: number,
            offset,
        };
        let bytes = u32::try_from(hint.length).unwrap_or(u32::MAX);
        match &hint.what {
            Hinted::Message { receivers, size } => {
                self.memory.message(receivers, *size, bytes, place, false);
            }
            Hinted::Other(op) => self.memory.other(op, Latest { place, bytes }),
        }
    }

    fn stored(&mut self, stored: Stored) {
        let place = (
            u32::try_from(stored.place.segment),
            u32::try_from(stored.place.offset),
        );
        let (Ok(segment), Ok(offset)) = place else {
            return;
        };
        let latest = Latest {
            place: Place { segment, offset },
            bytes: u32::try_from(stored.length).unwrap_or(u32::MAX),
        };
        match stored.record {
            StoredRecord::Op(Op::Retain { message }) => {
                let topic = message.topic.as_str();
                self.memory.retain(topic, message.expires_at, latest);
            }
            StoredRecord::RetainElsewhere { topic } => self.memory.retain(&topic, None, latest),
            StoredRecord::Op(op) => {
                self.memory.other(&op, latest);
                self.known.take(op);
            }
        }
    }

    /// The last segment in which something was written, and the empty ones behind it.
    fn find_tail(&mut self, numbers: &[u32]) -> Result<(Option<u32>, Vec<u32>), OpenError> {
        let mut empty = Vec::new();
        for number in numbers.iter().rev() {
            let bytes = self.read(*number)?;
            if !is_zero(bytes.get(HEADER..).unwrap_or_default()) {
                empty.reverse();
                return Ok((Some(*number), empty));
            }
            if is_header(&bytes, self.key(*number)) {
                empty.push(*number);
            } else {
                self.damaged(
                    *number,
                    0..bytes.len().min(HEADER),
                    "it does not begin as a segment",
                );
            }
        }
        empty.reverse();
        Ok((None, empty))
    }

    fn damaged(&mut self, number: u32, bytes: Range<usize>, what: impl Into<String>) {
        self.damage.push(Damage {
            name: segment_name(number),
            bytes,
            what: what.into(),
        });
    }

    /// Lets a segment have its effect, up to an offset. Returns where its last record ends.
    fn segment(&mut self, number: u32, bytes: &[u8], end: usize) -> usize {
        let key = self.key(number);
        if !is_header(bytes, key) {
            self.damaged(
                number,
                0..bytes.len().min(HEADER),
                "it does not begin as a segment",
            );
        }
        let mut behind = HEADER;
        // Damage explains a gap in the numbers behind it.
        let mut damaged = false;
        for found in Scan::new(&bytes[..end], key) {
            match found {
                Found::Record(record) => {
                    self.record(number, &record, damaged);
                    damaged = false;
                    behind = record.end();
                }
                Found::Damage { from, to } => {
                    self.damaged(number, from..to, "no record that verifies");
                    damaged = true;
                }
            }
        }
        behind
    }

    fn record(&mut self, number: u32, record: &Record<'_>, damaged: bool) {
        let range = record.offset..record.end();
        let expected = match record.kind {
            Kind::Unit => self.seq + 1,
            Kind::Copy | Kind::Mark => self.seq,
        };
        // What comes first follows nothing.
        let is_first = self.seq == 0;
        if record.seq < expected {
            let what = format!("unit {} comes behind unit {}", record.seq, self.seq);
            self.damaged(number, range, what);
            return;
        }
        if record.seq > expected && !damaged && !is_first {
            let what = format!(
                "units {expected} to {} are missing before it",
                record.seq - 1
            );
            self.damaged(number, range.clone(), what);
        }
        self.seq = record.seq;
        if record.kind == Kind::Mark {
            if let Some(next) = record.payload.first_chunk() {
                self.memory.skip_numbers(u64::from_le_bytes(*next));
            }
            return;
        }
        let place = Place {
            segment: number,
            // Segments are smaller than 4 GiB.
            offset: u32::try_from(record.offset).unwrap_or(u32::MAX),
        };
        let is_copy = record.kind == Kind::Copy;
        let known = &mut self.known;
        let applied = self.memory.apply(record.payload, place, is_copy, |seen| {
            if let Ok(op) = codec::build(seen, record.payload) {
                known.take(op);
            }
        });
        if let Err(malformed) = applied {
            self.damaged(number, range, malformed.to_string());
        }
    }

    /// Retained messages are read when it is known which they are.
    fn read_retained(&mut self, now: Timestamp) -> Result<(), OpenError> {
        let files = Files::default();
        let mut source = Source::new(self.disk, &files, self.store);
        for place in self.memory.retained_places() {
            let record = match source.record(place, READ_AHEAD) {
                Ok(record) => record,
                Err(ReadError::NotNow(error) | ReadError::Unreadable(error)) => {
                    let path = self.disk.path(&segment_name(place.segment));
                    return Err(OpenError::io(path, "read", error));
                }
                // It verified a moment ago.
                Err(_) => continue,
            };
            let mut found: Vec<(String, Arc<Message>)> = Vec::new();
            for operation in codec::scan(record.payload).flatten() {
                if let Scanned::Retain { topic, body, .. } = operation.what
                    && self.memory.has_retained(topic, place)
                    && let Ok(message) = codec::message(&record.payload[body])
                {
                    found.retain(|(other, _)| other != topic);
                    found.push((topic.to_owned(), Arc::new(message)));
                }
            }
            // The index does not know of all when they expire.
            let messages = found.into_iter().map(|(_, message)| message);
            let valid = |it: &Arc<Message>| it.expires_at.is_none_or(|at| at > now);
            self.known.retained.extend(messages.filter(valid));
        }
        Ok(())
    }
}

/// Cuts a torn write away: zeros take its place, so it is never taken for records.
pub(super) fn cut(disk: &dyn Disk, number: u32, torn: &Range<usize>) -> io::Result<u64> {
    let file = disk.open(&segment_name(number))?;
    let mut bytes = vec![0; torn.len()];
    let read = file.read_at(torn.start as u64, &mut bytes)?;
    let dirty = bytes[..read].iter().rposition(|byte| *byte != 0);
    let dirty = dirty.map_or(0, |last| last + 1);
    bytes[..dirty].fill(0);
    file.write_at(torn.start as u64, &bytes[..dirty])?;
    file.sync()?;
    Ok(dirty as u64)
}
