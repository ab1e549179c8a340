//! Keeps the index in step with the journal, and starts from it.
//!
//! When a segment is sealed, what it says is added to the index: the latest of everything that is
//! kept by name, and what it says about queues, without messages. A start then reads the
//! index and the segments behind it. Whenever the index is of no use, for whatever reason, it is
//! made anew in the background and the start reads the whole journal: nothing depends on it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::model::Timestamp;
use tracing::warn;

use super::super::index::{Changes, Hints, Index, IndexError, Place, Sealed, StoredRecord};
use super::super::{Op, Seq};
use super::Shared;
use super::disk::read_all;
use super::segment::{Found, Kind, Scan, SegmentKey};

/// How often what expired is taken out, and after how many segments at the latest.
const PURGE_EVERY: Duration = Duration::from_hours(1);
const PURGE_AFTER: u32 = 64;
/// How often it is looked whether the index should be written anew.
const REWRITE_EVERY: Duration = Duration::from_mins(5);

/// The first unit of a segment in which nothing is live, nor in any before it: none of them
/// says anything about queues any more.
pub(super) const DEAD: Seq = 0;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Indexer {
    index: Mutex<Option<Index>>,
    times: Mutex<Times>,
}

/// When what was done last.
#[derive(Debug)]
struct Times {
    purged: Instant,
    added_since: u32,
    looked: Instant,
}

/// Opens the index of a data directory, if it can be opened; one that cannot be is removed.
pub(super) fn open(root: &Path) -> Option<Index> {
    let path = index_path(root);
    match Index::open(&path) {
        Ok(index) => Some(index),
        Err(problem) => {
            warn!(path = %path.display(), error = %problem, "the index is made anew");
            afresh(root)
        }
    }
}

/// An empty index in the place of one that is of no use.
pub(super) fn afresh(root: &Path) -> Option<Index> {
    let path = index_path(root);
    let removed = match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    };
    let opened = removed.and_then(|()| Index::open(&path));
    opened
        .inspect_err(|problem| {
            warn!(path = %path.display(), error = %problem, "there is no index: starts take longer");
        })
        .ok()
}

fn index_path(root: &Path) -> PathBuf {
    root.join("index")
}

impl Indexer {
    /// Without an index nothing is done.
    pub(super) fn new(index: Option<Index>) -> Self {
        let now = Instant::now();
        Self {
            index: Mutex::new(index),
            times: Mutex::new(Times {
                purged: now,
                added_since: 0,
                looked: now,
            }),
        }
    }

    /// Adds a sealed segment, the one behind the last that was added.
    pub(super) fn add(&self, shared: &Shared, number: u32) {
        self.attempt(|index| {
            // Those before the first are gone or about to be removed.
            let first = shared.memory.lock().segments.first();
            add(index, shared, number, first > number)?;
            if self.is_purge_due() {
                purge(index, shared.store, shared.now(), first)?;
            }
            Ok(())
        });
        if self
            .is_time(|times| &mut times.looked, REWRITE_EVERY, shared)
            .is_some()
        {
            self.rewrite_if_wasteful();
        }
    }

    /// The segments before this one are about to be removed: what the index says instead of them
    /// must be on disk.
    pub(super) fn forget_before(&self, number: u32) {
        self.attempt(|index| {
            index.forget_before(u64::from(number))?;
            index.flush()
        });
    }

    /// Ends the work on it.
    pub(super) fn close(&self) {
        let index = self.index.lock().take();
        if let Some(Err(problem)) = index.map(Index::close) {
            warn!(error = %problem, "the index was not closed in good order");
        }
    }

    /// Does something with the index, if there is one. After an error there is none until the next
    /// start, which sees that it is behind.
    fn attempt(&self, run: impl FnOnce(&Index) -> Result<(), IndexError>) {
        let mut index = self.index.lock();
        let Some(Err(problem)) = index.as_ref().map(run) else {
            return;
        };
        warn!(error = %problem, "the index is given up: the next start takes longer");
        let given_up = index.take();
        drop(index);
        // It did what it could; how it ends does not matter.
        let _ = given_up.map(Index::close);
    }

    fn is_purge_due(&self) -> bool {
        let mut times = self.times.lock();
        times.added_since += 1;
        let due = times.added_since >= PURGE_AFTER || times.purged.elapsed() >= PURGE_EVERY;
        if due {
            times.added_since = 0;
            times.purged = Instant::now();
        }
        due
    }

    fn is_time(
        &self,
        which: impl Fn(&mut Times) -> &mut Instant,
        every: Duration,
        shared: &Shared,
    ) -> Option<Timestamp> {
        let mut times = self.times.lock();
        let last = which(&mut times);
        if last.elapsed() < every {
            return None;
        }
        *last = Instant::now();
        Some(shared.now())
    }

    fn rewrite_if_wasteful(&self) {
        let mut held = self.index.lock();
        let wasteful = held
            .as_ref()
            .is_some_and(|it| matches!(it.is_wasteful(), Ok(true)));
        if !wasteful {
            return;
        }
        match held.take().map(Index::rewrite) {
            Some(Ok(index)) => *held = Some(index),
            Some(Err(problem)) => {
                warn!(error = %problem, "the index is given up: the next start takes longer");
            }
            None => {}
        }
    }
}

fn add(index: &Index, shared: &Shared, number: u32, is_dead: bool) -> Result<(), IndexError> {
    let file = shared.files.open(shared, number)?;
    let bytes = read_all(file.as_ref())?;
    let before = index.meta().map_or(0, |meta| meta.through);
    let mut changes = Changes::default();
    changes.known(before);
    let mut hints = Hints::default();
    let key = SegmentKey {
        store: shared.store,
        number,
    };
    for found in Scan::new(&bytes, key) {
        let Found::Record(record) = found else {
            continue;
        };
        if record.kind == Kind::Mark {
            changes.known(record.seq);
            continue;
        }
        let place = Place {
            segment: u64::from(number),
            offset: record.offset as u64,
        };
        let (seq, payload) = (record.seq, record.payload);
        // What a segment says about queues is of no use when it will be gone before the next start.
        if !is_dead && hints.unit(seq, place.offset, payload).is_err() {
            // It was reported when the journal was opened.
            continue;
        }
        // The same is true here.
        let _ = changes.unit(seq, place, payload);
    }
    index.seal(
        Sealed {
            segment: u64::from(number),
            epoch: shared.store,
            first: if is_dead { DEAD } else { before + 1 },
            last: changes.through(),
        },
        &hints,
    )?;
    index.apply(&changes, shared.store)
}

/// Takes out what expired, and keys in segments before `first`: they were forgotten for newer ones.
fn purge(index: &Index, store: u64, now: Timestamp, first: u32) -> Result<(), IndexError> {
    let mut changes = Changes::default();
    let mut keys: Vec<ByteString> = Vec::new();
    let mut topics: Vec<ByteString> = Vec::new();
    index.load(|stored| match stored.record {
        StoredRecord::Op(Op::Key { key, until, .. })
            if until <= now || stored.place.segment < u64::from(first) =>
        {
            keys.push(key);
        }
        StoredRecord::Op(Op::Retain { message })
            if message.expires_at.is_some_and(|at| at <= now) =>
        {
            topics.push(message.topic.as_str().into());
        }
        _ => {}
    })?;
    for key in &keys {
        changes.forget_key(key);
    }
    for topic in &topics {
        changes.forget_retained(topic);
    }
    index.apply(&changes, store)
}

/// What of a journal need not be read, because an index knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Covered {
    /// The last segment.
    pub(super) segment: u32,
    /// The last unit.
    pub(super) seq: Seq,
    /// Nothing is live in segments before this one.
    pub(super) live_from: u32,
}

/// Which of the sealed segments need not be read. `None` if the index is behind what is not there
/// any more, or does not fit otherwise. The segment behind the sealed ones is `tail`.
pub(super) fn covered(
    index: &Index,
    store: u64,
    sealed: &[u32],
    tail: Option<u32>,
    start_of: impl Fn(u32) -> Option<Seq>,
) -> Result<Option<Covered>, IndexError> {
    let Some(meta) = index.meta().filter(|meta| meta.epoch == store) else {
        return Ok(None);
    };
    let known: BTreeMap<u64, Sealed> = index
        .sealed()?
        .into_iter()
        .filter(|it| it.epoch == store && it.last <= meta.through)
        .map(|it| (it.segment, it))
        .collect();
    let dead = known.values().rev().find(|it| it.first == DEAD);
    let live_from = dead.map_or(0, |it| it.segment + 1);
    let mut covered = dead.map(|it| (it.segment, it.last));
    let mut next = tail;
    for number in sealed.iter().filter(|it| u64::from(**it) >= live_from) {
        match known.get(&u64::from(*number)) {
            Some(known) => covered = Some((known.segment, known.last)),
            None => {
                next = Some(*number);
                break;
            }
        }
    }
    // Behind them the next unit must be the first that the state does not know.
    let fits = match (covered, next.and_then(start_of)) {
        (_, Some(start)) => start == meta.through,
        (Some((_, last)), None) => last == meta.through,
        (None, None) => false,
    };
    // Without any, only the state is of use: it is all that is left of what was before.
    let before_all = next.and_then(|next| u64::from(next).checked_sub(1));
    let covered = covered.or(before_all.map(|before| (before, meta.through)));
    let Some((segment, seq)) = covered.filter(|_| fits) else {
        return Ok(None);
    };
    Ok(u32::try_from(segment).ok().map(|segment| Covered {
        segment,
        seq,
        live_from: u32::try_from(live_from).unwrap_or(u32::MAX),
    }))
}
