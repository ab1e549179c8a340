//! A journal: every unit is appended to it, checksummed, and it alone is the truth.
//!
//! ```text
//! append -> intake -> committer -> segments (write, fdatasync) -> memory -> herald
//!                        ^ cleaner: copies of what is live in the oldest segment
//! load   -> reader  <- segments
//! open   <- replay  <- segments      keeper: the next segment, removal of old ones
//! ```
//!
//! - A unit is one record; a record that verifies had its whole effect or none.
//! - Flushes are shared: while one runs, all that comes fills the window of the next.
//! - Memory holds where each entry is ([`memory`]); messages are read back when they are needed.
//! - Segments go in order, the oldest first, when nothing in them is live. What still is gets
//!   copied to the end when most of the journal is dead ([`cleaner`]).
//! - All file access goes through [`disk`], so that tests can stop and crash it at any point.
//!
//! Nothing here knows what queues are for.

mod cleaner;
mod committer;
mod directory;
mod disk;
mod herald;
mod indexer;
mod inspect;
mod intake;
mod keeper;
mod memory;
mod queue;
mod reader;
mod replay;
mod segment;
mod segments;
mod stats;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use protocols::connection::Position;
use protocols::model::Timestamp;
use tracing::{error, info, warn};

use super::index::Index;
use super::{Full, Load, Op, QueueId, Recovered, Seq, Store, Unit, Urgency};
use committer::{Active, Committer};
use directory::{BROKEN, JOURNAL, Lock, segment_name};
use disk::{Disk, RealDisk};
use herald::Herald;
use indexer::Indexer;
use intake::Intake;
use keeper::{Fresh, Keeper};
use memory::Memory;
use reader::{Files, Loads};
use replay::{ReplayError, Replayed};
use stats::{Counters, read};

pub use directory::OpenError;
pub use inspect::{Inspection, inspect};
pub use replay::Damage;
pub use stats::{FLUSH_BUCKETS_BYTES, FLUSH_BUCKETS_US, JournalStats};

/// What an acknowledgement stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is on disk (fdatasync): nothing acknowledged is lost, even when the power fails.
    Fsync,
    /// It was handed to the system, and is on disk so much later at most: what was acknowledged
    /// since may be lost when the power or the system fails, nothing when the broker does.
    Interval(Duration),
    /// It was handed to the system, which writes it when it likes.
    None,
}

/// Called with a text for people when the disk failed and nothing can be promised any more.
pub type OnFailure = Arc<dyn Fn(&str) + Send + Sync>;

/// How a journal is kept.
#[derive(Clone)]
pub struct JournalConfig {
    /// The data directory. It is created if it does not exist.
    pub path: PathBuf,
    /// What an acknowledgement stands on.
    pub durability: Durability,
    /// Bytes of a segment, from 64 KiB to 1 GiB. It is the unit in which space is taken and freed.
    pub segment_bytes: u64,
    /// Bytes of all segments at most; beyond it messages are refused. At least eight segments.
    pub max_bytes: u64,
    /// Messages are refused when less than this is free on the file system.
    pub min_free_bytes: u64,
    /// Idempotency keys that are kept at most; the oldest goes first. No more are of use than the
    /// store's user remembers.
    pub max_keys: usize,
    /// When more bytes than this wait to be written, publishers should not be read from.
    pub max_waiting_bytes: usize,
    /// Segments that there must be at the start for an index to be kept beside the journal (in
    /// sled), so that a start need not read all of it; `None` for never. A short journal is read
    /// faster than an index that was not closed in good order.
    pub index_from: Option<usize>,
    /// What happens when the disk fails: by default the process ends with exit code 74.
    pub on_failure: OnFailure,
}

/// Segments from which an index is worth what it costs.
const INDEX_FROM: usize = 32;

/// The exit code when the disk failed: `EX_IOERR` of sysexits.
const EXIT_IO_ERROR: i32 = 74;

impl JournalConfig {
    /// The defaults, for a data directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::Fsync,
            segment_bytes: 8 * 1024 * 1024,
            max_bytes: 8 * 1024 * 1024 * 1024,
            min_free_bytes: 64 * 1024 * 1024,
            max_keys: 100_000,
            max_waiting_bytes: 8 * 1024 * 1024,
            index_from: Some(INDEX_FROM),
            on_failure: Arc::new(|_| std::process::exit(EXIT_IO_ERROR)),
        }
    }

    fn within_limits(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(SEGMENT_LEAST, 1 << 30);
        self.max_bytes = self.max_bytes.max(8 * self.segment_bytes);
        self
    }
}

impl fmt::Debug for JournalConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JournalConfig")
            .field("path", &self.path)
            .field("durability", &self.durability)
            .field("segment_bytes", &self.segment_bytes)
            .field("max_bytes", &self.max_bytes)
            .field("min_free_bytes", &self.min_free_bytes)
            .field("max_waiting_bytes", &self.max_waiting_bytes)
            .field("index_from", &self.index_from)
            .finish_non_exhaustive()
    }
}

/// Tests use small segments, to see many.
#[cfg(not(test))]
const SEGMENT_LEAST: u64 = 64 * 1024;
#[cfg(test)]
const SEGMENT_LEAST: u64 = 512;

/// The store on disk. See the module's documentation.
pub struct Journal {
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

/// What runs while the store is open.
struct Running {
    committer: JoinHandle<()>,
    reader: JoinHandle<()>,
    keeper: JoinHandle<()>,
    herald: JoinHandle<()>,
    /// Held until all of them ended.
    _lock: Lock,
}

/// What the threads of a store share.
struct Shared {
    config: JournalConfig,
    disk: Arc<dyn Disk>,
    /// The store's number.
    store: u64,
    /// The time when it was opened.
    opened: (Timestamp, Instant),
    intake: Intake,
    herald: Herald,
    memory: Mutex<Memory>,
    loads: Loads,
    files: Files,
    keeper: Keeper,
    indexer: Indexer,
    counters: Counters,
    /// Bytes that the segment which is written has place for.
    active_left: AtomicU64,
    room: AtomicU8,
    failed: AtomicBool,
}

const ROOM: u8 = 0;
const DISK_FULL: u8 = 1;
const AT_BOUND: u8 = 2;

impl Journal {
    /// Opens a data directory, or makes a new one, and reads what it holds. `now` is the time;
    /// what expired before it is left out.
    ///
    /// Takes as long as it takes to read the journal. What cannot be read is reported in the log,
    /// copied to `broken/`, and the rest is served.
    pub fn open(
        config: JournalConfig,
        now: Timestamp,
    ) -> Result<(Arc<Self>, Recovered), OpenError> {
        let lock = directory::lock(&config.path, true)?;
        let disk = Arc::new(RealDisk::new(&config.path));
        let is_long = |from| directory::segments(&config.path).unwrap_or(0) >= from;
        let index = config.index_from.is_some_and(is_long);
        let index = index.then(|| config.path.clone());
        let (shared, committer, recovered) = assemble(config, disk, now, index.as_deref())?;
        let running = start(&shared, committer, lock)?;
        let journal = Self {
            shared,
            running: Mutex::new(Some(running)),
        };
        Ok((Arc::new(journal), recovered))
    }

    /// What the store counts about itself.
    pub fn stats(&self) -> JournalStats {
        self.shared.stats()
    }
}

impl Store for Journal {
    fn stats(&self) -> Option<JournalStats> {
        Some(Self::stats(self))
    }

    fn append(&self, unit: Unit, urgency: Urgency) -> Seq {
        self.shared.append(unit, urgency)
    }

    fn taken(&self) -> Seq {
        self.shared.intake.taken()
    }

    fn durable(&self) -> Seq {
        self.shared.herald.durable()
    }

    fn wake_at(&self, seq: Seq, waker: &Waker) {
        self.shared.herald.wake_at(seq, waker);
    }

    fn is_pressed(&self) -> bool {
        self.shared.intake.waiting_bytes() > self.shared.config.max_waiting_bytes
    }

    fn room(&self) -> Result<(), Full> {
        self.shared.room()
    }

    fn load(&self, load: Load) {
        self.shared.load(load);
    }

    fn drop_first(&self, queue: QueueId, after: Option<Position>) -> Option<(Position, usize)> {
        self.shared.drop_first(queue, after)
    }

    fn close(&self) {
        let Some(running) = self.running.lock().take() else {
            return;
        };
        let shared = &self.shared;
        shared.intake.close();
        ended(running.committer);
        shared.loads.close();
        ended(running.reader);
        shared.keeper.close();
        ended(running.keeper);
        shared.herald.close();
        ended(running.herald);
    }
}

fn ended(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        error!("a thread of the store panicked");
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Journal")
            .field("config", &self.shared.config)
            .field("taken", &self.taken())
            .field("durable", &self.durable())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn append(&self, unit: Unit, urgency: Urgency) -> Seq {
        match self.intake.append(unit, urgency) {
            Ok(seq) => seq,
            Err(bytes) => {
                // Nothing that clients may send is nearly as large.
                self.fail(&format!(
                    "a unit of {bytes} bytes cannot be stored; polycast ends"
                ));
                Seq::MAX
            }
        }
    }

    fn load(&self, load: Load) {
        let seq = if load.settled { self.intake.taken() } else { 0 };
        if seq > self.herald.durable() {
            self.intake.hurry();
        }
        self.loads.push(load, seq, || self.herald.durable());
    }

    fn drop_first(&self, queue: QueueId, after: Option<Position>) -> Option<(Position, usize)> {
        let mut memory = self.memory.lock();
        let slot = memory.wanted(queue, after, None).next()?.slot;
        memory.take(queue, slot.position);
        drop(memory);
        let mut unit = Unit::default();
        unit.ops.push(Op::Done {
            queue,
            position: slot.position,
        });
        self.append(unit, Urgency::Later);
        Some((slot.position, slot.size as usize))
    }

    fn room(&self) -> Result<(), Full> {
        match self.room.load(Ordering::Acquire) {
            DISK_FULL => Err(Full::Disk),
            AT_BOUND => Err(Full::Bound {
                max: self.config.max_bytes,
            }),
            _ => Ok(()),
        }
    }

    fn set_room(&self, room: Result<(), Full>) {
        let code = match &room {
            Ok(()) => ROOM,
            Err(Full::Disk) => DISK_FULL,
            Err(Full::Bound { .. }) => AT_BOUND,
        };
        if self.room.swap(code, Ordering::AcqRel) == code {
            return;
        }
        let path = self.disk.path("");
        match room {
            Ok(()) => info!(path = %path.display(), "there is room for messages again"),
            Err(full) => warn!(path = %path.display(), "messages are refused: {full}"),
        }
    }

    /// Nothing can be promised any more.
    fn fail(&self, text: &str) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            error!("{text}");
            (self.config.on_failure)(text);
        }
    }

    /// The disk cannot read a segment at all.
    fn fail_to_read(&self, segment: u32, problem: &std::io::Error) {
        let path = self.disk.path(&directory::segment_name(segment));
        self.fail(&format!(
            "{}: cannot read the journal: {problem}; polycast ends, because the disk has failed: \
             check it, then start it again",
            path.display()
        ));
    }

    fn now(&self) -> Timestamp {
        let (at, start) = self.opened;
        let passed = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(at.0.saturating_add(passed))
    }

    fn stats(&self) -> JournalStats {
        let counters = &self.counters;
        let flush_buckets = counters.flush_buckets();
        let memory = self.memory.lock();
        let segments = &memory.segments;
        JournalStats {
            durability: self.config.durability,
            flushes: flush_buckets.iter().sum(),
            flush_time: counters.flush_time(),
            flush_buckets,
            flush_bytes: read(&counters.flush_bytes),
            flush_sizes: counters.flush_sizes(),
            units: read(&counters.units),
            bytes: read(&counters.bytes),
            copied_bytes: read(&counters.copied_bytes),
            reclaimed_bytes: read(&counters.reclaimed_bytes),
            journal_bytes: segments.bytes(),
            live_bytes: segments.live_bytes(),
            segments: segments.len() as u64,
            unindexed_segments: self.keeper.unindexed() as u64,
            stored_messages: memory.entries(),
            waiting_bytes: self.intake.waiting_bytes() as u64,
            lost_records: read(&counters.lost_records),
            cut_bytes: read(&counters.cut_bytes),
            room: self.room(),
            failed: self.failed.load(Ordering::Acquire),
        }
    }
}

/// Reads what a disk holds and puts the parts of a store together, without threads.
fn assemble(
    config: JournalConfig,
    disk: Arc<dyn Disk>,
    now: Timestamp,
    index: Option<&Path>,
) -> Result<(Arc<Shared>, Committer, Recovered), OpenError> {
    let config = config.within_limits();
    let started = Instant::now();
    let store = directory::prepare(disk.as_ref(), true)?;
    let (replayed, index) = read_back(disk.as_ref(), store, now, config.max_keys, index)?;
    let counters = Counters::default();
    report(disk.as_ref(), &replayed, now, &counters)?;
    let (active, spares) = continue_at(disk.as_ref(), &replayed)?;
    let end = active.as_ref().map_or(0, Active::number);
    let known = replayed.covered.map_or(0, |last| last + 1);
    let unknown = (known.max(replayed.memory.segments.first())..end).collect();
    let recovered = replayed.known.recovered(&replayed.memory);
    let shared = Arc::new(Shared {
        config,
        disk,
        store,
        opened: (now, started),
        intake: Intake::new(replayed.seq),
        herald: Herald::new(replayed.seq),
        memory: Mutex::new(replayed.memory),
        loads: Loads::default(),
        files: Files::default(),
        keeper: Keeper::new(spares, unknown),
        indexer: Indexer::new(index),
        counters,
        active_left: AtomicU64::new(0),
        room: AtomicU8::new(ROOM),
        failed: AtomicBool::new(false),
    });
    let active = match active {
        Some(active) => active,
        None => shared
            .keeper
            .take(&shared, 0)
            .map(Active::fresh)
            .map_err(|error| {
                OpenError::io(shared.disk.path(JOURNAL), "make a segment in", error)
            })?,
    };
    let committer = Committer::new(Arc::clone(&shared), active, replayed.seq);
    Ok((shared, committer, recovered))
}

/// Reads the journal, from its index if there is one that fits.
fn read_back(
    disk: &dyn Disk,
    store: u64,
    now: Timestamp,
    max_keys: usize,
    root: Option<&Path>,
) -> Result<(Replayed, Option<Index>), OpenError> {
    let mut index = root.and_then(indexer::open);
    // One that knows nothing yet does not make it worth a warning.
    let used = index.as_ref().filter(|index| index.meta().is_some());
    match replay::replay(disk, store, now, max_keys, used) {
        Ok(replayed) => return Ok((replayed, index)),
        Err(ReplayError::Open(error)) => return Err(error),
        Err(ReplayError::Unfit(problem)) => {
            let path = disk.path("index");
            warn!(path = %path.display(), error = %problem, "the index is made anew");
            drop(index.take().map(Index::close));
        }
    }
    match replay::replay(disk, store, now, max_keys, None) {
        Ok(replayed) => Ok((replayed, root.and_then(indexer::afresh))),
        Err(ReplayError::Open(error)) => Err(error),
        Err(ReplayError::Unfit(problem)) => Err(OpenError::Unknown {
            path: disk.path(JOURNAL),
            what: problem.to_string(),
        }),
    }
}

/// Says what was found that should not be there, cuts what was torn, and keeps copies of what is
/// damaged.
fn report(
    disk: &dyn Disk,
    replayed: &Replayed,
    now: Timestamp,
    counters: &Counters,
) -> Result<(), OpenError> {
    let root = disk.path("");
    for damage in &replayed.damage {
        error!(path = %root.display(), "the journal is damaged: {damage}");
    }
    stats::add(&counters.lost_records, replayed.damage.len() as u64);
    let mut names: Vec<&str> = replayed.damage.iter().map(|it| it.name.as_str()).collect();
    names.dedup();
    for name in names {
        match set_aside(disk, name, now) {
            Ok(Some(copy)) => {
                error!(path = %root.display(), "{name} is damaged; there is a copy: {copy}");
            }
            Ok(None) => {}
            // What is good can be served without the copy.
            Err(problem) => {
                error!(path = %root.display(), error = %problem, "cannot copy {name}");
            }
        }
    }
    if let (Some(torn), Some(tail)) = (&replayed.torn, replayed.tail) {
        let name = segment_name(tail.number);
        let cut = replay::cut(disk, tail.number, torn)
            .map_err(|error| OpenError::io(disk.path(&name), "cut the torn end of", error))?;
        stats::add(&counters.cut_bytes, cut);
        warn!(path = %disk.path(&name).display(), bytes = cut, "a torn write was cut away");
    }
    Ok(())
}

/// Copies a damaged file to `broken/`, unless it was copied before. Returns the copy's name.
fn set_aside(disk: &dyn Disk, name: &str, now: Timestamp) -> std::io::Result<Option<String>> {
    let stem = name.trim_start_matches(JOURNAL).trim_start_matches('/');
    let stem = stem.trim_end_matches(".seg");
    let before = disk.list(BROKEN)?;
    if before
        .iter()
        .any(|name| name.starts_with(stem) && name.as_bytes().ends_with(b".seg"))
    {
        return Ok(None);
    }
    let copy = format!("{BROKEN}/{stem}-{}.seg", now.0);
    let content = disk::read_all(disk.open(name)?.as_ref())?;
    disk::write_whole(disk, &copy, &content)?;
    Ok(Some(copy))
}

/// Where to go on: the last segment, and empty ones behind it.
fn continue_at(
    disk: &dyn Disk,
    replayed: &Replayed,
) -> Result<(Option<Active>, VecDeque<Fresh>), OpenError> {
    let open = |number| {
        let name = segment_name(number);
        disk.open(&name)
            .and_then(|file| Ok((file.bytes()?, file)))
            .map_err(|error| OpenError::io(disk.path(&name), "open", error))
    };
    let mut active = match replayed.tail {
        Some(tail) => {
            let (bytes, file) = open(tail.number)?;
            Some(Active::new(tail.number, file, bytes, tail.at))
        }
        None => None,
    };
    let mut spares = VecDeque::new();
    for number in &replayed.empty {
        let (bytes, file) = open(*number)?;
        let fresh = Fresh {
            number: *number,
            file,
            bytes,
        };
        if active.is_none() {
            active = Some(Active::fresh(fresh));
        } else {
            spares.push_back(fresh);
        }
    }
    Ok((active, spares))
}

/// Starts the threads.
fn start(shared: &Arc<Shared>, committer: Committer, lock: Lock) -> Result<Running, OpenError> {
    let path = shared.disk.path("");
    let spawn = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| {
        let shared = Arc::clone(shared);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&shared))
            .map_err(|error| OpenError::io(path.clone(), "start a thread for", error))
    };
    Ok(Running {
        committer: spawn("store-commit", Box::new(move |_| committer.run()))?,
        reader: spawn("store-read", Box::new(|shared| shared.loads.run(shared)))?,
        keeper: spawn("store-keep", Box::new(|shared| shared.keeper.run(shared)))?,
        herald: spawn("store-tell", Box::new(|shared| shared.herald.run()))?,
        _lock: lock,
    })
}
