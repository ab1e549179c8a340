//! Reads messages back, on a thread of its own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use protocols::connection::Position;
use protocols::model::Message;
use tracing::{error, warn};

use super::super::codec::{self, Scanned};
use super::super::{Load, Loaded, LoadedEntry, Op, QueueId, Receiver, Seq, Unit, Urgency};
use super::Shared;
use super::directory::segment_name;
use super::disk::{Disk, DiskFile, is_unreadable, read_before};
use super::memory::Wanted;
use super::queue::{Place, RECEIVED};
use super::segment::{HEADER, RECORD_HEADER, Record, SegmentKey, claimed_length, verify};
use super::stats::add;

/// Files that are kept open for reading.
const OPEN_FILES: usize = 64;
/// What is read ahead where the next entry is near: neighbours in a queue often are in the journal.
pub(super) const READ_AHEAD: usize = 64 * 1024;
/// How near.
const NEAR: u32 = 8 * 1024;
/// What a record may need besides its message.
const RECORD_ABOUT: usize = 512;
/// How long to wait when the system has no means to read just now.
const RETRY: Duration = Duration::from_millis(50);

/// Wishes to read that wait for the reader.
#[derive(Default)]
pub(super) struct Loads {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    ready: VecDeque<Load>,
    /// Those that wait for a unit to have its effect.
    later: BTreeMap<Seq, Vec<Load>>,
    closing: bool,
}

impl Loads {
    /// A wish, to be carried out when the unit `seq` has had its effect.
    pub(super) fn push(&self, load: Load, seq: Seq, applied: impl Fn() -> Seq) {
        let mut waiting = self.waiting.lock();
        // Asked under the lock, so that news of it cannot slip by.
        if seq <= applied() {
            waiting.ready.push_back(load);
            drop(waiting);
            self.wake.notify_one();
        } else {
            waiting.later.entry(seq).or_default().push(load);
        }
    }

    /// Units up to this one have had their effect.
    pub(super) fn ready(&self, applied: Seq) {
        let mut waiting = self.waiting.lock();
        let first = waiting.later.first_key_value();
        if first.is_none_or(|(seq, _)| *seq > applied) {
            return;
        }
        let later = waiting.later.split_off(&(applied + 1));
        let ready = std::mem::replace(&mut waiting.later, later);
        waiting.ready.extend(ready.into_values().flatten());
        drop(waiting);
        self.wake.notify_one();
    }

    /// Carries out one wish, if one can be.
    pub(super) fn step(&self, shared: &Shared) -> bool {
        let load = self.waiting.lock().ready.pop_front();
        let found = load.is_some();
        if let Some(load) = load {
            carry_out(shared, load);
        }
        found
    }

    /// The thread.
    pub(super) fn run(&self, shared: &Shared) {
        loop {
            while self.step(shared) {}
            let mut waiting = self.waiting.lock();
            if waiting.ready.is_empty() {
                if waiting.closing {
                    return;
                }
                self.wake.wait(&mut waiting);
            }
        }
    }

    /// Ends the thread when it has done what it can.
    pub(super) fn close(&self) {
        self.waiting.lock().closing = true;
        self.wake.notify_all();
    }
}

/// Segments that are open for reading.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<HashMap<u32, Arc<dyn DiskFile>>>);

impl Files {
    /// A segment's file.
    pub(super) fn open(&self, shared: &Shared, number: u32) -> io::Result<Arc<dyn DiskFile>> {
        self.open_on(shared.disk.as_ref(), number)
    }

    /// The same without a store around it.
    pub(super) fn open_on(&self, disk: &dyn Disk, number: u32) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.0.lock().get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = disk.open(&segment_name(number))?;
        let mut files = self.0.lock();
        if files.len() >= OPEN_FILES {
            files.clear();
        }
        files.insert(number, Arc::clone(&file));
        Ok(file)
    }

    /// The segment is removed; an open file would keep its space.
    pub(super) fn forget(&self, number: u32) {
        self.0.lock().remove(&number);
    }
}

/// Why an entry was not read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// Its segment is not there (any more).
    NoFile,
    /// Not now, perhaps later.
    NotNow(io::Error),
    /// What is there is not what was written.
    Damaged,
    /// The disk cannot read it: a bad sector, or the disk has failed.
    Unreadable(io::Error),
}

/// Reads records of the journal, and a bit ahead.
#[derive(Debug)]
pub(super) struct Source<'a> {
    disk: &'a dyn Disk,
    files: &'a Files,
    store: u64,
    /// What was read last: of which segment, from which offset.
    segment: u32,
    from: usize,
    bytes: Vec<u8>,
}

impl<'a> Source<'a> {
    pub(super) fn new(disk: &'a dyn Disk, files: &'a Files, store: u64) -> Self {
        Self {
            disk,
            files,
            store,
            segment: 0,
            from: 0,
            bytes: Vec::new(),
        }
    }

    /// The record at a place; `about` so many bytes are read at first.
    pub(super) fn record(&mut self, place: Place, about: usize) -> Result<Record<'_>, ReadError> {
        let at = place.offset as usize;
        if self.cached(place.segment, at).is_none() {
            self.fill(place.segment, at, about)?;
            let rest = self.cached_from(at).unwrap_or_default();
            if let Some(length) = claimed_length(rest)
                && length > rest.len()
            {
                self.fill(place.segment, at, length)?;
            }
        }
        let key = SegmentKey {
            store: self.store,
            number: place.segment,
        };
        let rest = self.cached_from(at).unwrap_or_default();
        verify(rest, at, key).ok_or(ReadError::Damaged)
    }

    fn cached_from(&self, at: usize) -> Option<&[u8]> {
        self.bytes.get(at.checked_sub(self.from)?..)
    }

    /// A record's bytes, if all of them were read already.
    fn cached(&self, segment: u32, at: usize) -> Option<&[u8]> {
        if self.segment != segment {
            return None;
        }
        let rest = self.cached_from(at)?;
        rest.get(..claimed_length(rest)?)
    }

    fn fill(&mut self, segment: u32, at: usize, length: usize) -> Result<(), ReadError> {
        self.bytes.clear();
        let file = self.files.open_on(self.disk, segment).map_err(sorted)?;
        // A length that damage made up must not take all memory.
        let rest = file.bytes().map_err(sorted)?.saturating_sub(at as u64);
        let length = usize::try_from(rest).map_or(length, |rest| rest.min(length));
        self.bytes.resize(length.max(RECORD_HEADER), 0);
        let read = read_before(file.as_ref(), at as u64, &mut self.bytes).map_err(sorted)?;
        self.bytes.truncate(read);
        (self.segment, self.from) = (segment, at);
        Ok(())
    }

    /// An entry of a queue with its message. `next` is where the next one is that will be read.
    pub(super) fn entry(
        &mut self,
        wanted: &Wanted,
        next: Option<Place>,
    ) -> Result<LoadedEntry, ReadError> {
        let place = wanted.slot.place;
        let is_near = next.is_some_and(|next| {
            next.segment == place.segment && next.offset.wrapping_sub(place.offset) < NEAR
        });
        let about = if is_near {
            READ_AHEAD
        } else {
            wanted.slot.size as usize + RECORD_ABOUT
        };
        let record = self.record(place, about)?;
        let (message, receiver) = find_message(record.payload, wanted.origin)?;
        let terms = wanted.terms.clone().unwrap_or(receiver);
        Ok(LoadedEntry {
            position: wanted.slot.position,
            message: Arc::new(message),
            qos: terms.qos,
            retain: terms.retain,
            attempts: terms.attempts,
            received: wanted.slot.has(RECEIVED),
            matched: terms.matched,
            group: terms.group,
        })
    }
}

fn sorted(error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::NotFound => ReadError::NoFile,
        _ if is_unreadable(&error) => ReadError::Unreadable(error),
        _ => ReadError::NotNow(error),
    }
}

/// The last message in a record that goes to a queue's position.
fn find_message(
    payload: &[u8],
    (queue, position): (QueueId, Position),
) -> Result<(Message, Receiver), ReadError> {
    let mut found = None;
    for operation in codec::scan(payload) {
        let operation = operation.map_err(|_| ReadError::Damaged)?;
        if let Scanned::Message {
            receivers, body, ..
        } = operation.what
        {
            let mut receivers = receivers.into_iter();
            let wanted = |it: &Receiver| it.queue == queue && it.position == position;
            if let Some(receiver) = receivers.find(wanted) {
                found = Some((body, receiver));
            }
        }
    }
    let (body, receiver) = found.ok_or(ReadError::Damaged)?;
    let message = codec::message(&payload[body]).map_err(|_| ReadError::Damaged)?;
    Ok((message, receiver))
}

fn carry_out(shared: &Shared, load: Load) {
    let mut loaded = Loaded::default();
    let mut lost = Vec::new();
    while !read_some(shared, &load, &mut loaded, &mut lost) {}
    if !lost.is_empty() {
        loaded.lost = lost.len();
        forget_lost(shared, load.queue, &lost);
    }
    (load.then)(loaded);
}

/// Reads what is still wanted. Says whether it came to an end: it does not when a segment went
/// away under it, whose entries are elsewhere now.
fn read_some(
    shared: &Shared,
    load: &Load,
    loaded: &mut Loaded,
    lost: &mut Vec<(Position, Place)>,
) -> bool {
    let read = loaded.entries.last().map(|entry| entry.position);
    let after = load
        .after
        .max(read)
        .max(lost.last().map(|(position, _)| *position));
    let (wanted, more) = choose(shared, load, after, loaded);
    loaded.more = more;
    let mut source = Source::new(shared.disk.as_ref(), &shared.files, shared.store);
    let next = wanted.iter().skip(1).map(|it| Some(it.slot.place));
    let next: Vec<Option<Place>> = next.chain([None]).collect();
    for (wanted, next) in wanted.into_iter().zip(next) {
        match source.entry(&wanted, next) {
            Ok(entry) => loaded.entries.push(entry),
            Err(ReadError::NoFile) if has_moved(shared, load.queue, &wanted) => return false,
            Err(ReadError::NoFile | ReadError::Damaged) => {
                lost.push((wanted.slot.position, wanted.slot.place));
            }
            Err(ReadError::Unreadable(_)) if has_beginning(shared, wanted.slot.place.segment) => {
                lost.push((wanted.slot.position, wanted.slot.place));
            }
            Err(ReadError::Unreadable(problem)) => {
                // Nothing is lost as long as nobody gives it up: the disk may come back.
                shared.fail_to_read(wanted.slot.place.segment, &problem);
                loaded.more = true;
                return true;
            }
            Err(ReadError::NotNow(problem)) => {
                warn!(error = %problem, "cannot read from the journal just now");
                std::thread::sleep(RETRY);
                loaded.more = true;
                return true;
            }
        }
    }
    true
}

/// Whether a segment's beginning can be read: if not, more than a sector is bad.
fn has_beginning(shared: &Shared, segment: u32) -> bool {
    let mut beginning = [0; HEADER];
    let read = |file: Arc<dyn DiskFile>| file.read_at(0, &mut beginning);
    shared.files.open(shared, segment).and_then(read).is_ok()
}

/// The entries that are to be read, and whether there are more.
fn choose(
    shared: &Shared,
    load: &Load,
    after: Option<Position>,
    loaded: &Loaded,
) -> (Vec<Wanted>, bool) {
    let mut messages = load.messages.max(1).saturating_sub(loaded.entries.len());
    let mut bytes = load.bytes;
    for entry in &loaded.entries {
        bytes = bytes.saturating_sub(entry.message.size());
    }
    let memory = shared.memory.lock();
    let mut chosen = Vec::new();
    for wanted in memory.wanted(load.queue, after, load.before) {
        let is_first = chosen.is_empty() && loaded.entries.is_empty();
        if messages == 0 || (bytes == 0 && !is_first) {
            return (chosen, true);
        }
        messages -= 1;
        bytes = bytes.saturating_sub(wanted.slot.size as usize);
        chosen.push(wanted);
    }
    (chosen, false)
}

/// Whether an entry is elsewhere now, or gone.
fn has_moved(shared: &Shared, queue: QueueId, wanted: &Wanted) -> bool {
    let memory = shared.memory.lock();
    let slot = memory.find(queue, wanted.slot.position);
    slot.is_none_or(|slot| slot.place != wanted.slot.place)
}

/// Entries whose messages cannot be read any more are done with, for good.
fn forget_lost(shared: &Shared, queue: QueueId, lost: &[(Position, Place)]) {
    let mut unit = Unit::default();
    let mut memory = shared.memory.lock();
    for (position, place) in lost {
        if memory
            .find(queue, *position)
            .is_some_and(|slot| slot.place == *place)
        {
            memory.take(queue, *position);
        }
        let position = *position;
        unit.ops.push(Op::Done { queue, position });
    }
    drop(memory);
    shared.append(unit, Urgency::Later);
    add(&shared.counters.lost_records, lost.len() as u64);
    let segment = shared.disk.path(&segment_name(lost[0].1.segment));
    error!(
        path = %segment.display(), lost = lost.len(), owner = queue.owner,
        "messages cannot be read back: they are lost"
    );
}
