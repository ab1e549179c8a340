//! Writes what was taken: the one thread that appends to the journal.
//!
//! A round takes the window that filled while the one before was written, writes it, flushes once,
//! lets memory know, and tells that all of it is on disk. Before the window go copies of what is
//! live in the oldest segment, when that is to be freed: they describe the state before the window,
//! so nothing in it can be undone by them.

use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::error;

use super::super::{Full, Seq};
use super::cleaner::Cleaner;
use super::disk::{DiskFile, is_no_space};
use super::intake::{Call, Window};
use super::keeper::Fresh;
use super::queue::Place;
use super::segment::{HEADER, Kind, RECORD_HEADER, SegmentKey, seal_record};
use super::stats::add;
use super::{Durability, Shared};

/// How often it is tried again while there is no space.
const RETRY: Duration = Duration::from_millis(100);
/// How often it is tried when the store is to be closed.
const LAST_RETRIES: u32 = 50;
/// Records that memory takes in one go; others that need it wait so long at most.
const APPLIED_AT_ONCE: usize = 256;
/// Header and payload of a mark.
const MARK: usize = RECORD_HEADER + 8;

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Active {
    number: u32,
    file: Arc<dyn DiskFile>,
    capacity: u64,
    /// Where the next record goes.
    at: usize,
    /// What is on disk for sure.
    synced: usize,
}

impl Active {
    /// A segment in which nothing is.
    pub(super) fn fresh(fresh: Fresh) -> Self {
        Self::new(fresh.number, fresh.file, fresh.bytes, HEADER)
    }

    /// A segment that is continued at an offset; all before it is on disk.
    pub(super) fn new(number: u32, file: Arc<dyn DiskFile>, capacity: u64, at: usize) -> Self {
        Self {
            number,
            file,
            capacity,
            at,
            synced: at,
        }
    }

    /// The number of the segment.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    fn left(&self) -> u64 {
        self.capacity.saturating_sub(self.at as u64)
    }
}

/// Why a round did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// There is no space; what is left is tried again.
    NoSpace,
    /// The disk failed. Nothing can be promised any more.
    Failed,
}

/// What a round found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Nothing.
    Idle,
    /// Something, and there may be more that nobody called for.
    Busy,
}

/// Records that are written and not applied.
struct Placed {
    copies: bool,
    entries: Range<usize>,
    /// Where the first of them is in its segment and in its window.
    offset: usize,
    from: usize,
}

/// A window that is being written, and up to where it is.
#[derive(Default)]
struct Writing {
    window: Window,
    next: usize,
}

impl Writing {
    fn is_over(&self) -> bool {
        self.next == self.window.entries.len()
    }
}

/// See the module's documentation.
pub(super) struct Committer {
    shared: Arc<Shared>,
    active: Active,
    /// The last unit that was written.
    seq: Seq,
    units: Option<Writing>,
    copies: Writing,
    placed: Vec<Placed>,
    cleaner: Cleaner,
    /// When something was written that is not flushed.
    unsynced: Option<Instant>,
    /// Segment and offset at the start: nothing was written if they are still the same.
    began: (u32, usize),
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, active: Active, seq: Seq) -> Self {
        let began = (active.number, active.at);
        let committer = Self {
            shared,
            active,
            began,
            seq,
            units: None,
            copies: Writing::default(),
            placed: Vec::new(),
            cleaner: Cleaner::default(),
            unsynced: None,
        };
        committer.tell_room();
        committer
    }

    /// The segment that is written.
    #[cfg(test)]
    pub(super) fn active_number(&self) -> u32 {
        self.active.number
    }

    /// The thread. Ends when the store closes or fails.
    pub(super) fn run(mut self) {
        let mut retries = 0;
        let mut round = Round::Idle;
        loop {
            if self.units.is_none() {
                let call = self
                    .shared
                    .intake
                    .wait(self.sync_due(), round == Round::Busy);
                if call == Call::Close {
                    break;
                }
            }
            round = match self.round() {
                Ok(round) => round,
                Err(Halt::Failed) => return,
                Err(Halt::NoSpace) => {
                    let closing = self.shared.intake.pause(RETRY);
                    retries += u32::from(closing);
                    if retries > LAST_RETRIES {
                        let path = self.shared.disk.path("");
                        let waiting = self.shared.intake.waiting_bytes();
                        error!(path = %path.display(), waiting, "the disk is full: what nobody \
                               was told to be stored is lost");
                        return;
                    }
                    Round::Idle
                }
            };
        }
        // Whatever the durability, what is closed in good order is on disk.
        let _ = self.sync().and_then(|()| self.seal_end());
    }

    /// Says behind the last unit that all before is on disk: if it does not verify one day, it is
    /// damaged, not torn.
    fn seal_end(&mut self) -> Result<(), Halt> {
        let is_unchanged = self.began == (self.active.number, self.active.at);
        if is_unchanged || self.active.left() < MARK as u64 {
            return Ok(());
        }
        self.mark()?;
        self.sync()
    }

    /// Writes what waits, if anything does.
    pub(super) fn round(&mut self) -> Result<Round, Halt> {
        if self.shared.failed.load(Ordering::Acquire) {
            return Err(Halt::Failed);
        }
        if self.units.is_none() {
            let window = self.shared.intake.take();
            self.units = window.map(|window| Writing { window, next: 0 });
        }
        if self.is_cleaning_due() {
            let waited_for = self.units.is_some();
            let copies = &mut self.copies.window;
            self.cleaner
                .collect(&self.shared, copies, self.seq, waited_for);
        }
        let written = self.write();
        if written == Err(Halt::Failed) {
            return Err(Halt::Failed);
        }
        // Also when there was no space for all: what was written counts.
        self.settle()?;
        let all_copied = self.finish_windows();
        self.reclaim()?;
        self.tell_room();
        written?;
        let busy = all_copied && self.is_cleaning_due();
        Ok(if busy { Round::Busy } else { Round::Idle })
    }

    fn write(&mut self) -> Result<(), Halt> {
        let mut copies = mem::take(&mut self.copies);
        let outcome = self.place(&mut copies, true);
        if outcome == Err(Halt::NoSpace) {
            // They can be made again; nothing waits for them.
            self.cleaner.forget();
        }
        // Settling needs the window, so it goes back at once.
        self.copies = copies;
        if outcome == Err(Halt::Failed) {
            return outcome;
        }
        let Some(mut units) = self.units.take() else {
            return Ok(());
        };
        let written = self.place(&mut units, false);
        self.units = Some(units);
        written
    }

    /// Writes records of a window, as many as there is place for in segments.
    fn place(&mut self, writing: &mut Writing, copies: bool) -> Result<(), Halt> {
        while !writing.is_over() {
            let marks = if self.active.at == HEADER { MARK } else { 0 };
            let end = self.fitting(writing, marks);
            if end == writing.next {
                let needed = MARK + writing.window.entries[end].length;
                self.swap_in(writing, copies, |this| this.roll(needed))?;
                continue;
            }
            if marks > 0 {
                self.mark()?;
            }
            self.write_records(writing, end, copies)?;
        }
        Ok(())
    }

    /// Does something that needs all windows in their places.
    fn swap_in(
        &mut self,
        writing: &mut Writing,
        copies: bool,
        run: impl FnOnce(&mut Self) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        let borrowed = mem::take(writing);
        if copies {
            self.copies = borrowed;
        } else {
            self.units = Some(borrowed);
        }
        let result = run(self);
        *writing = if copies {
            mem::take(&mut self.copies)
        } else {
            self.units.take().unwrap_or_default()
        };
        result
    }

    /// Behind the last record that the active segment has place for.
    fn fitting(&self, writing: &Writing, marks: usize) -> usize {
        let mut left = self.active.left().saturating_sub(marks as u64);
        let entries = &writing.window.entries;
        let mut end = writing.next;
        while let Some(entry) = entries.get(end)
            && entry.length as u64 <= left
        {
            left -= entry.length as u64;
            end += 1;
        }
        end
    }

    fn write_records(
        &mut self,
        writing: &mut Writing,
        end: usize,
        copies: bool,
    ) -> Result<(), Halt> {
        let key = self.key();
        let synced = offset(self.active.synced);
        let kind = if copies { Kind::Copy } else { Kind::Unit };
        let Window { bytes, entries, .. } = &mut writing.window;
        let placed = &entries[writing.next..end];
        let from = placed[0].at;
        let mut behind = from;
        for entry in placed {
            behind = entry.at + entry.length;
            let record = &mut bytes[entry.at..behind];
            seal_record(record, kind, entry.crc, entry.seq, synced, key);
        }
        self.write_at_end(&bytes[from..behind])?;
        if let (Some(last), false) = (placed.last(), copies) {
            self.seq = last.seq;
        }
        self.placed.push(Placed {
            copies,
            entries: writing.next..end,
            offset: self.active.at - (behind - from),
            from,
        });
        writing.next = end;
        Ok(())
    }

    /// Says at the start of a segment what may be nowhere else once older segments are gone.
    fn mark(&mut self) -> Result<(), Halt> {
        let next_number = self.shared.memory.lock().next_number();
        let mut record = [0; MARK];
        record[RECORD_HEADER..].copy_from_slice(&next_number.to_le_bytes());
        let crc = crc32c::crc32c(&record[RECORD_HEADER..]);
        let synced = offset(self.active.synced);
        let key = self.key();
        seal_record(&mut record, Kind::Mark, crc, self.seq, synced, key);
        self.write_at_end(&record)
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> Result<(), Halt> {
        match self.active.file.write_at(self.active.at as u64, bytes) {
            Ok(()) => {}
            // Space was taken ahead, but not every file system keeps to that.
            Err(problem) if is_no_space(&problem) => return Err(Halt::NoSpace),
            Err(problem) => return Err(self.fail("write", &problem)),
        }
        self.active.at += bytes.len();
        self.unsynced.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn key(&self) -> SegmentKey {
        SegmentKey {
            store: self.shared.store,
            number: self.active.number,
        }
    }

    /// Goes on in the next segment. All that is in this one is on disk then.
    fn roll(&mut self, needed: usize) -> Result<(), Halt> {
        self.settle()?;
        self.sync()?;
        match self.shared.keeper.take(&self.shared, needed as u64) {
            Ok(fresh) => {
                // Those that are passed over are empty, but the index must know that.
                for number in self.active.number..fresh.number {
                    self.shared.keeper.seal(number);
                }
                self.active = Active::fresh(fresh);
                Ok(())
            }
            Err(_) => {
                // Whatever the reason, nothing was lost, and it may work later.
                self.shared.judge_room();
                Err(Halt::NoSpace)
            }
        }
    }

    fn sync(&mut self) -> Result<(), Halt> {
        if self.active.synced == self.active.at {
            self.unsynced = None;
            return Ok(());
        }
        let start = Instant::now();
        if let Err(problem) = self.active.file.sync() {
            return Err(self.fail("flush", &problem));
        }
        let bytes = self.active.at.saturating_sub(self.active.synced) as u64;
        self.shared.counters.flushed(start.elapsed(), bytes);
        self.active.synced = self.active.at;
        self.unsynced = None;
        Ok(())
    }

    /// When what was written must be flushed, if it is not at once.
    fn sync_due(&self) -> Option<Instant> {
        match self.shared.config.durability {
            Durability::Interval(interval) => self.unsynced.map(|since| since + interval),
            Durability::Fsync | Durability::None => None,
        }
    }

    /// A disk that failed once to keep what it was given may have lost it, whatever it says when it
    /// is asked again.
    fn fail(&self, what: &'static str, problem: &io::Error) -> Halt {
        let name = super::directory::segment_name(self.active.number);
        let path = self.shared.disk.path(&name);
        self.shared.fail(&format!(
            "{}: cannot {what} the journal: {problem}; polycast ends, because it could not keep \
             what it promises: check the disk, then start it again",
            path.display()
        ));
        Halt::Failed
    }

    /// Makes what was written durable, lets memory know, and says so.
    fn settle(&mut self) -> Result<(), Halt> {
        let due = match self.shared.config.durability {
            Durability::Fsync => true,
            Durability::Interval(_) => self.sync_due().is_some_and(|due| due <= Instant::now()),
            Durability::None => false,
        };
        if due {
            self.sync()?;
        }
        for placed in mem::take(&mut self.placed) {
            self.apply(&placed);
        }
        let none = &mut Vec::new();
        let waiting = match &mut self.units {
            Some(units) if units.is_over() => &mut units.window.waiting,
            _ => none,
        };
        self.shared.herald.publish(self.seq, waiting);
        self.shared.loads.ready(self.seq);
        Ok(())
    }

    fn apply(&self, placed: &Placed) {
        let writing = match &self.units {
            Some(units) if !placed.copies => units,
            _ => &self.copies,
        };
        let window = &writing.window;
        let now = self.shared.now();
        let mut bytes = 0;
        for entries in window.entries[placed.entries.clone()].chunks(APPLIED_AT_ONCE) {
            let mut memory = self.shared.memory.lock();
            memory.expire_keys(now);
            for entry in entries {
                let place = Place {
                    segment: self.active.number,
                    offset: offset(placed.offset + entry.at - placed.from),
                };
                let payload = &window.bytes[entry.at + RECORD_HEADER..entry.at + entry.length];
                bytes += entry.length as u64;
                if let Err(malformed) = memory.apply(payload, place, placed.copies, |_| {}) {
                    // It was encoded by this very process.
                    error!(%malformed, seq = entry.seq, "a unit cannot be read back");
                }
            }
            drop(memory);
            for ticket in entries.iter().filter_map(|entry| entry.ticket.as_ref()) {
                ticket.written();
            }
        }
        let counters = &self.shared.counters;
        if placed.copies {
            add(&counters.copied_bytes, bytes);
        } else {
            add(&counters.bytes, bytes);
            add(&counters.units, placed.entries.len() as u64);
        }
    }

    /// Gives back windows that are written. Says whether all copies were.
    fn finish_windows(&mut self) -> bool {
        let all_copied = self.copies.is_over();
        self.copies.window.clear();
        self.copies.next = 0;
        if let Some(units) = self.units.take_if(|units| units.is_over()) {
            self.shared.intake.done(units.window);
        }
        all_copied
    }

    /// Removes the oldest segments as long as nothing in them is live.
    fn reclaim(&mut self) -> Result<(), Halt> {
        loop {
            let (number, bytes) = {
                let segments = &self.shared.memory.lock().segments;
                let number = segments.first();
                if number >= self.active.number || segments.live(number) > 0 {
                    return Ok(());
                }
                (number, segments.bytes_of(number))
            };
            if self.active.at == HEADER {
                // What the oldest ones know of numbers must be somewhere.
                self.mark()?;
            }
            // That nothing is live may be known only since what was written last.
            self.sync()?;
            self.shared.memory.lock().segments.pop();
            self.shared.files.forget(number);
            self.shared.keeper.remove(number);
            self.cleaner.forget();
            add(&self.shared.counters.reclaimed_bytes, bytes);
        }
    }

    fn is_cleaning_due(&mut self) -> bool {
        let (number, left) = (self.active.number, self.active.left());
        self.cleaner.is_due(&self.shared, number, left)
    }

    /// Lets the others know how much place is left.
    fn tell_room(&self) {
        let left = self.active.left();
        self.shared.active_left.store(left, Ordering::Relaxed);
        self.shared.judge_room();
    }
}

impl Shared {
    /// Decides whether messages may be stored, and says so when that changes.
    pub(super) fn judge_room(&self) {
        // Beyond this there is still place for what is not refused: that messages are done with,
        // and copies of what is live in a segment, to free it.
        let reserve = self.config.segment_bytes * 3 / 2;
        let left = self.active_left.load(Ordering::Relaxed) + self.keeper.spare_bytes();
        let blocked = self.keeper.blocked().filter(|_| left < reserve);
        let room = match blocked {
            None => Ok(()),
            Some(super::keeper::Blocked::Disk) => Err(Full::Disk),
            Some(super::keeper::Blocked::Bound) => Err(Full::Bound {
                max: self.config.max_bytes,
            }),
        };
        self.set_room(room);
    }
}

/// Segments are smaller than 4 GiB.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
