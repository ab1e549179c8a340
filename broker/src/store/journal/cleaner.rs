//! Frees the oldest segment: what is live in it is copied to the end of the journal.
//!
//! The committer asks before a window whether that is due, and writes the copies before the window.
//! When all of them are on disk nothing is live in the segment, and it is removed. Since a
//! segment is freed only when most of the journal is dead, a byte is copied once on average.

use std::io;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::super::codec::{self, Scanned};
use super::super::{Op, Seq};
use super::Shared;
use super::directory::segment_name;
use super::disk::{is_unreadable, read_around};
use super::intake::Window;
use super::memory::Memory;
use super::queue::Place;
use super::segment::{Found, HEADER, Kind, Record, Scan, SegmentKey};
use super::stats::add;

/// What is copied before a window that somebody waits for, and else.
const COPIED_IN_BETWEEN: usize = 256 * 1024;
const COPIED_AT_REST: usize = 1024 * 1024;
/// When it is tried again to read a segment, if the system has no means to do so just now.
const RETRY: Duration = Duration::from_secs(1);
/// What is looked at for that.
const READ_AT_ONCE: usize = 1024 * 1024;

/// Where there are idempotency keys, so many segments may be dead before one is freed by copying: the
/// bound on keys makes most of them dead by then, and their segment goes without. They are small and
/// many, so that to copy them again and again would cost more than all else.
const FORGIVEN_WITH_KEYS: u64 = 8;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    segment: Option<Segment>,
    /// Not before this: a segment could not be read.
    rests_until: Option<Instant>,
}

/// The segment that is being freed.
#[derive(Debug)]
struct Segment {
    number: u32,
    bytes: Vec<u8>,
    /// Where the next record starts.
    at: usize,
    is_over: bool,
}

impl Cleaner {
    /// The segment is gone.
    pub(super) fn forget(&mut self) {
        self.segment = None;
    }

    /// Whether the oldest segment should be freed. `left` bytes of the active one are free.
    pub(super) fn is_due(&mut self, shared: &Shared, active: u32, left: u64) -> bool {
        let rests = self.rests_until.is_some_and(|until| Instant::now() < until);
        let due = !rests && is_due(shared, active, left);
        if !due {
            self.forget();
        }
        due
    }

    /// Collects some copies of what is live in the oldest segment, as records behind unit `seq`.
    pub(super) fn collect(
        &mut self,
        shared: &Shared,
        copies: &mut Window,
        seq: Seq,
        waited_for: bool,
    ) {
        let number = shared.memory.lock().segments.first();
        let mut segment = match self.segment.take() {
            Some(segment) if segment.number == number => segment,
            _ => match read(shared, number) {
                Some(segment) => segment,
                None => {
                    self.rests_until = Some(Instant::now() + RETRY);
                    return;
                }
            },
        };
        if segment.is_over {
            // All of it that can be read was copied, and there is something live left.
            give_up(shared, number);
            return;
        }
        let limit = if waited_for {
            COPIED_IN_BETWEEN.min(at_rest(shared))
        } else {
            at_rest(shared)
        };
        let key = SegmentKey {
            store: shared.store,
            number,
        };
        let until = segment.at + READ_AT_ONCE;
        let mut memory = shared.memory.lock();
        let mut copy = Vec::new();
        let mut scan = Scan::from(&segment.bytes, key, segment.at);
        segment.is_over = true;
        for found in &mut scan {
            match found {
                Found::Record(record) if record.kind != Kind::Mark => {
                    copy_record(shared, &mut memory, &record, number, &mut copy);
                    segment.at = record.end();
                }
                Found::Record(record) => segment.at = record.end(),
                Found::Damage { to, .. } => segment.at = to,
            }
            if !copy.is_empty() {
                copies.push(&copy, crc32c::crc32c(&copy), seq, None);
                copy.clear();
            }
            if copies.bytes.len() >= limit || segment.at >= until {
                segment.is_over = false;
                break;
            }
        }
        self.segment = Some(segment);
    }
}

/// What is copied in one go at most, unless one record is larger.
fn at_rest(shared: &Shared) -> usize {
    let part = shared.config.segment_bytes / 8;
    usize::try_from(part).map_or(COPIED_AT_REST, |part| part.min(COPIED_AT_REST))
}

fn is_due(shared: &Shared, active: u32, left: u64) -> bool {
    let config = &shared.config;
    let memory = shared.memory.lock();
    let segments = &memory.segments;
    let oldest = segments.first();
    if oldest >= active {
        return false;
    }
    let open: u64 = (active..segments.end())
        .map(|number| segments.bytes_of(number))
        .sum();
    let sealed = segments.bytes() - open;
    let live = segments.live_bytes();
    let dead = sealed.saturating_sub(live);
    let blocked = shared.keeper.blocked().is_some();
    let free = left + shared.keeper.spare_bytes();
    let tight = blocked || segments.bytes() + 2 * config.segment_bytes > config.max_bytes;
    // With little room each copy must gain much, until there is so little that anything helps.
    let mut worth_it = 2 * config.segment_bytes;
    if free >= config.segment_bytes {
        worth_it = worth_it.max(live / 8);
    }
    let forgiven = if memory.has_keys() {
        FORGIVEN_WITH_KEYS * config.segment_bytes
    } else {
        0
    };
    let is_wasteful = dead > live.max(forgiven);
    let wanted = is_wasteful || (tight && dead >= worth_it);
    // The place for copies is the one that is kept for what cannot be refused. Some must be left,
    // and the segment be freed in the end.
    let needed = segments.live_bytes_of(oldest) + config.segment_bytes / 4;
    wanted && (!blocked || free >= needed)
}

/// The segment, unless it cannot be read now. One that is not there has nothing in it.
fn read(shared: &Shared, number: u32) -> Option<Segment> {
    let file = shared.files.open(shared, number);
    let bytes = match file.and_then(|file| read_around(file.as_ref())) {
        Ok(bytes) => bytes,
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(problem) if is_unreadable(&problem) => {
            shared.fail_to_read(number, &problem);
            return None;
        }
        Err(problem) => {
            let path = shared.disk.path(&segment_name(number));
            warn!(path = %path.display(), error = %problem, "cannot read a segment just now");
            return None;
        }
    };
    Some(Segment {
        number,
        bytes,
        at: HEADER,
        is_over: false,
    })
}

/// Forgets what is in a segment that cannot be read.
fn give_up(shared: &Shared, number: u32) {
    let lost = shared.memory.lock().forget_segment(number);
    add(&shared.counters.lost_records, lost);
    let path = shared.disk.path(&segment_name(number));
    error!(path = %path.display(), lost, "a segment is damaged: messages or state in it are lost");
}

/// Writes what is live of a record: with those who still wait for it, under the names that they
/// have now.
fn copy_record(
    shared: &Shared,
    memory: &mut Memory,
    record: &Record<'_>,
    segment: u32,
    copy: &mut Vec<u8>,
) {
    let place = Place {
        segment,
        // Segments are smaller than 4 GiB.
        offset: u32::try_from(record.offset).unwrap_or(u32::MAX),
    };
    let payload = record.payload;
    for operation in codec::scan(payload) {
        // What does not verify was not applied either, so nothing of it is live.
        let Ok(operation) = operation else {
            return;
        };
        match operation.what {
            Scanned::Message {
                receivers, body, ..
            } => {
                let live = memory.live_receivers(receivers, place);
                copy_message(live, &payload[body], copy);
            }
            Scanned::Retain { topic, .. } => {
                if memory.is_retained(topic, place, shared.now()) {
                    copy.extend_from_slice(&payload[operation.range]);
                }
            }
            Scanned::Key { key, .. } => {
                if memory.is_key(key, place) {
                    copy.extend_from_slice(&payload[operation.range]);
                }
            }
            Scanned::Other(op) => {
                if memory.is_latest(&op, place) {
                    copy.extend_from_slice(&payload[operation.range]);
                }
            }
        }
    }
}

fn copy_message(live: Vec<(super::super::Receiver, bool)>, body: &[u8], copy: &mut Vec<u8>) {
    if live.is_empty() {
        return;
    }
    let received: Vec<Op> = live
        .iter()
        .filter(|(_, received)| *received)
        .map(|(receiver, _)| Op::Received {
            queue: receiver.queue,
            position: receiver.position,
        })
        .collect();
    let receivers: Vec<_> = live.into_iter().map(|(receiver, _)| receiver).collect();
    codec::encode_body(&receivers, body, copy);
    for op in received {
        codec::encode(&op, copy);
    }
}
