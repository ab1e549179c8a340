//! Work on files that must not keep a flush waiting: the next segment is made ahead, and segments
//! in which nothing is live are removed. A thread of its own does it; who cannot wait for the next
//! segment does it itself.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing::{error, warn};

use super::Shared;
use super::directory::{JOURNAL, segment_name};
use super::disk::{DiskFile, is_no_space};
use super::segment::{HEADER, SegmentKey, header};

/// Segments that are made ahead. Two, because the place in them is also what is left for copies
/// and for all that cannot be refused when the disk is full: a whole segment can be freed then.
const SPARES: usize = 2;
/// Segments that the index need not know: a start reads that many in a moment, and most die before
/// it would be worth the work.
#[cfg(not(test))]
pub(super) const UNINDEXED: usize = 16;
#[cfg(test)]
pub(super) const UNINDEXED: usize = 1;
/// How often it is tried again when there was no space.
const RETRY: Duration = Duration::from_millis(200);

/// A segment in which nothing is.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) bytes: u64,
}

/// Why there is no next segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// The file system has no space, or less than is to be left free.
    Disk,
    /// The journal would be larger than it may be.
    Bound,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    state: Mutex<State>,
    wake: Condvar,
    /// Held while files are made or removed, before all other locks.
    work: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    spares: VecDeque<Fresh>,
    /// Segments that the index does not know yet, in order.
    sealed: VecDeque<u32>,
    /// Segments to be removed, in order.
    removals: VecDeque<u32>,
    blocked: Option<Blocked>,
    /// A segment could not be removed.
    stuck: bool,
    closing: bool,
}

impl State {
    fn unknown(&self) -> Option<u32> {
        let first = self.sealed.front().copied()?;
        let is_dead = self.removals.back().is_some_and(|last| first <= *last);
        let is_due = is_dead || self.sealed.len() > UNINDEXED;
        (is_due && !self.closing).then_some(first)
    }
}

impl Keeper {
    /// The store was opened with some segments to spare, and some that the index does not know.
    pub(super) fn new(spares: VecDeque<Fresh>, sealed: VecDeque<u32>) -> Self {
        Self {
            state: Mutex::new(State {
                spares,
                sealed,
                ..State::default()
            }),
            ..Self::default()
        }
    }

    /// Why segments cannot be made ahead; `None` if they are there or nothing was tried.
    pub(super) fn blocked(&self) -> Option<Blocked> {
        self.state.lock().blocked
    }

    /// The bytes of the segments that were made ahead.
    pub(super) fn spare_bytes(&self) -> u64 {
        self.state.lock().spares.iter().map(|it| it.bytes).sum()
    }

    fn has_spares(&self) -> bool {
        self.state.lock().spares.len() >= SPARES
    }

    /// A segment is written: the index should know what it says.
    pub(super) fn seal(&self, number: u32) {
        self.state.lock().sealed.push_back(number);
        self.wake.notify_one();
    }

    /// Segments are to be removed when there is time, in order.
    pub(super) fn remove(&self, number: u32) {
        self.state.lock().removals.push_back(number);
        self.wake.notify_one();
    }

    /// The next segment, with place for so many bytes behind its header. It is taken from a full
    /// disk's last reserve, and beyond the bound, because what is written now was promised a place.
    pub(super) fn take(&self, shared: &Shared, needed: u64) -> io::Result<Fresh> {
        let _work = self.work.lock();
        let needed = needed + HEADER as u64;
        let spare = {
            let mut state = self.state.lock();
            let fits = state.spares.iter().position(|it| it.bytes >= needed);
            // Those before it stay behind, empty.
            fits.and_then(|at| state.spares.drain(..=at).next_back())
        };
        let fresh = match spare {
            Some(spare) => spare,
            None => {
                let made = make(shared, needed.max(shared.config.segment_bytes))?;
                // They have lower numbers.
                self.state.lock().spares.clear();
                made
            }
        };
        self.wake.notify_one();
        Ok(fresh)
    }

    /// Lets the index know what sealed segments say.
    pub(super) fn index(&self, shared: &Shared) {
        // It stays in the list meanwhile, so that it is not removed.
        while let Some(number) = self.unknown() {
            shared.indexer.add(shared, number);
            self.state.lock().sealed.pop_front();
        }
    }

    /// How many segments the index does not know yet.
    pub(super) fn unindexed(&self) -> usize {
        self.state.lock().sealed.len()
    }

    /// The first segment that the index does not know and should: there are enough behind it, or it
    /// is to be removed. Those that are left when the store closes are read at the next start.
    fn unknown(&self) -> Option<u32> {
        self.state.lock().unknown()
    }

    /// Does what there is to do with segments.
    pub(super) fn work(&self, shared: &Shared) {
        let _work = self.work.lock();
        self.remove_segments(shared);
        let mut reason = None;
        while !self.has_spares() && reason.is_none() {
            reason = blocked(shared);
            if reason.is_none() {
                reason = self.make_spare(shared).err();
            }
        }
        self.state.lock().blocked = reason;
        shared.judge_room();
    }

    fn make_spare(&self, shared: &Shared) -> Result<(), Blocked> {
        match make(shared, shared.config.segment_bytes) {
            Ok(fresh) => {
                self.state.lock().spares.push_back(fresh);
                Ok(())
            }
            Err(problem) => {
                if !is_no_space(&problem) && self.blocked().is_none() {
                    let path = shared.disk.path(JOURNAL);
                    error!(path = %path.display(), error = %problem, "cannot make a segment");
                }
                Err(Blocked::Disk)
            }
        }
    }

    /// The last segment to be removed of which the index knows what it says.
    fn last_removable(&self) -> Option<u32> {
        let state = self.state.lock();
        let end = state.sealed.front().copied().unwrap_or(u32::MAX);
        let known = state.removals.iter().take_while(|number| **number < end);
        known.last().copied()
    }

    fn next_removal(&self) -> Option<u32> {
        self.state.lock().removals.front().copied()
    }

    fn remove_segments(&self, shared: &Shared) {
        let last = self.last_removable();
        if let Some(last) = last {
            shared.indexer.forget_before(last + 1);
        }
        let mut stuck = false;
        while let Some(number) = self.next_removal().filter(|it| !stuck && Some(*it) <= last) {
            // In order, and each for good before the next: what an older segment holds may be known
            // to be over only by what a younger one says.
            let removed = match shared.disk.remove(&segment_name(number)) {
                Err(problem) if problem.kind() != io::ErrorKind::NotFound => Err(problem),
                _ => shared.disk.sync_directory(JOURNAL),
            };
            if let Err(problem) = removed {
                let path = shared.disk.path(&segment_name(number));
                warn!(path = %path.display(), error = %problem, "cannot remove a segment");
                stuck = true;
            } else {
                // The index may have read it since it was given up.
                shared.files.forget(number);
                self.state.lock().removals.pop_front();
            }
        }
        self.state.lock().stuck = stuck;
    }

    /// The thread.
    pub(super) fn run(&self, shared: &Shared) {
        loop {
            // This first: the disk may be full.
            self.work(shared);
            self.index(shared);
            let mut state = self.state.lock();
            if state.closing {
                break;
            }
            let removes = !state.removals.is_empty() && !state.stuck;
            if removes || state.unknown().is_some() {
                continue;
            }
            if state.blocked.is_some() || state.stuck {
                self.wake.wait_for(&mut state, RETRY);
            } else if state.spares.len() >= SPARES {
                self.wake.wait(&mut state);
            }
        }
        shared.indexer.close();
    }

    /// Ends the thread after what it has begun.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.wake.notify_all();
    }
}

/// Whether a segment may not be made ahead.
fn blocked(shared: &Shared) -> Option<Blocked> {
    let config = &shared.config;
    let bytes = shared.memory.lock().segments.bytes();
    if bytes + config.segment_bytes > config.max_bytes {
        return Some(Blocked::Bound);
    }
    if config.min_free_bytes == 0 {
        return None;
    }
    let free = shared.disk.free().ok()?;
    (free < config.min_free_bytes + config.segment_bytes).then_some(Blocked::Disk)
}

/// Makes the segment behind all others. It is there wholly, and for good, when this returns.
fn make(shared: &Shared, bytes: u64) -> io::Result<Fresh> {
    let disk = shared.disk.as_ref();
    let number = shared.memory.lock().segments.end();
    let name = segment_name(number);
    let temporary = format!("{name}.new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary, bytes)?;
    let key = SegmentKey {
        store: shared.store,
        number,
    };
    let made = file
        .write_at(0, &header(key))
        .and_then(|()| file.sync())
        .and_then(|()| disk.rename(&temporary, &name))
        .and_then(|()| disk.sync_directory(JOURNAL));
    if let Err(error) = made {
        // Whichever of the two is there; without them nothing is lost.
        let _ = disk.remove(&temporary);
        let _ = disk.remove(&name);
        return Err(error);
    }
    shared.memory.lock().segments.push(number, bytes);
    Ok(Fresh {
        number,
        file,
        bytes,
    })
}
