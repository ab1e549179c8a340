//! An index of the journal, kept in sled, so that a start need not read the journal.
//!
//! Two trees: `state` holds the latest record of everything that is kept by name, and says up to
//! which unit it knows ([`Meta::through`]); `hints` holds for each sealed segment what it says about
//! queues, without the messages. **Nothing in here is the truth**: it is written behind the journal
//! and may lag, may be lost and may be deleted. What is read is checked (every value, their count
//! and their sum); whoever opens it throws it away when [`IndexError`] says so and makes it anew.
//!
//! sled is not trusted either: it may panic or never come back when its files are damaged, so it is
//! opened and closed on a thread of its own with a limit of time, and its panics are errors here.
//! All methods read or write a disk: they are for the store's own threads.

mod hints;
mod state;

#[cfg(test)]
mod measure;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, io, thread};

use parking_lot::Mutex;
use sled::{Batch, Db, Tree};

use super::codec::Malformed;
use hints::Header;
pub(super) use hints::{Hint, Hinted, Hints, Sealed};
pub(super) use state::{Changes, Meta, Stored, StoredRecord};

/// What sled may keep of its pages in memory. The index is written in the background and read once.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// How often sled writes what it has, and reclaims what is dead in its file.
const SLED_FLUSH_MS: u64 = 500;

/// Opening replays sled's log; beyond this it is taken for stuck.
const OPEN_LIMIT: Duration = Duration::from_mins(1);

/// Closing writes what is left; beyond this it is taken for stuck.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Files of less than this are not worth rewriting.
const WASTE_LEAST: u64 = 64 * 1024 * 1024;

/// How many times what it holds the files may take beyond that; about two times is normal.
const WASTE_TIMES: u64 = 4;

/// Changes of one batch. All of it is held in memory by sled until it is written.
const BATCH_CHANGES: usize = 2048;

/// Where a unit is in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment's number.
    pub(super) segment: u64,
    /// Where the unit starts in it.
    pub(super) offset: u64,
}

/// Why the index is of no use. It must be deleted and made anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// sled reports an error.
    #[error("the index: {0}")]
    Sled(#[from] sled::Error),
    /// A file of it could not be handled.
    #[error("the index: {0}")]
    Io(#[from] io::Error),
    /// sled gave up in a panic.
    #[error("the index gave up: {0}")]
    Panicked(String),
    /// sled did not come back.
    #[error("the index did not {0} within its time")]
    Stuck(&'static str),
    /// What it holds does not verify.
    #[error("the index does not verify: {0}")]
    Damaged(&'static str),
    /// A value is not what it should be.
    #[error("the index does not verify: {0}")]
    Malformed(#[from] Malformed),
}

/// The index. One thread writes it.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    db: Db,
    state: Tree,
    hints: Tree,
    /// What the state holds, as its last batch says.
    meta: Mutex<Option<Meta>>,
}

impl Index {
    /// Opens or creates the index in a directory.
    ///
    /// If that fails with files of sled's snapshots there, they are moved aside and it is tried once
    /// more: they are the part that hard stops damage, and sled can do without them.
    pub(super) fn open(path: &Path) -> Result<Self, IndexError> {
        match fs::remove_dir_all(beside(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        match Self::open_once(path) {
            Err(error @ (IndexError::Sled(_) | IndexError::Panicked(_))) => {
                if !move_snapshots(path)? {
                    return Err(error);
                }
                Self::open_once(path)
            }
            other => other,
        }
    }

    fn open_once(path: &Path) -> Result<Self, IndexError> {
        let path = path.to_path_buf();
        apart("open", OPEN_LIMIT, move || {
            let db = sled::Config::new()
                .path(&path)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(Some(SLED_FLUSH_MS))
                .open()?;
            let state = db.open_tree("state")?;
            let hints = db.open_tree("hints")?;
            let meta = state.get(state::META_KEY)?;
            let meta = meta.map(|value| Meta::read(&value)).transpose()?;
            Ok(Self {
                path,
                db,
                state,
                hints,
                meta: Mutex::new(meta),
            })
        })
    }

    /// What the state claims to hold; `None` when nothing was ever applied.
    pub(super) fn meta(&self) -> Option<Meta> {
        *self.meta.lock()
    }

    /// Hands over all of the state, in no order. It holds only if this returns `Ok`: that all
    /// verifies is known at the end.
    pub(super) fn load(&self, mut visit: impl FnMut(Stored)) -> Result<Option<Meta>, IndexError> {
        let Some(meta) = self.meta() else {
            return Ok(None);
        };
        guarded(|| {
            let (mut count, mut sum) = (0, 0_u64);
            for item in &self.state {
                let (key, value) = item?;
                if key == state::META_KEY {
                    continue;
                }
                count += 1;
                sum = sum.wrapping_add(state::weight(&value));
                visit(state::read(&key, &value)?);
            }
            if (count, sum) != (meta.count, meta.sum) {
                return Err(IndexError::Damaged("records are missing or too many"));
            }
            Ok(Some(meta))
        })
    }

    /// Writes changes of the state; afterwards it knows the units up to `changes.through()`.
    ///
    /// Large changes are written in several steps of which the last one moves `through`: what is
    /// ahead of it does no harm, since the units behind it are replayed over the state.
    pub(super) fn apply(&self, changes: &Changes, epoch: u64) -> Result<(), IndexError> {
        let mut meta = self.meta.lock();
        let mut next = meta.unwrap_or_default();
        next.epoch = epoch;
        let through = changes.through().max(next.through);
        guarded(|| {
            let mut batch = Batch::default();
            let mut waiting = 0;
            let mut write = |key: &[u8], value: Option<&[u8]>| {
                let old = self.state.get(key)?;
                next.replace(old.as_deref(), value);
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
                waiting += 1;
                if waiting == BATCH_CHANGES {
                    waiting = 0;
                    let mut full = std::mem::take(&mut batch);
                    full.insert(state::META_KEY, next.written());
                    self.state.apply_batch(full)?;
                    *meta = Some(next);
                }
                Ok::<_, IndexError>(())
            };
            for prefix in changes.ended() {
                for key in self.state.scan_prefix(prefix).keys() {
                    let key = key?;
                    if !changes.contains(&key) {
                        write(&key, None)?;
                    }
                }
            }
            for (key, value) in changes.iter() {
                write(key, value)?;
            }
            next.through = through;
            batch.insert(state::META_KEY, next.written());
            self.state.apply_batch(batch)?;
            *meta = Some(next);
            Ok(())
        })
    }

    /// Writes what a sealed segment holds.
    pub(super) fn seal(&self, sealed: Sealed, hints: &Hints) -> Result<(), IndexError> {
        guarded(|| {
            let mut batch = Batch::default();
            hints::write(sealed, hints, |key, value| batch.insert(&key, value));
            Ok(self.hints.apply_batch(batch)?)
        })
    }

    /// The segments that there are hints for, in order.
    pub(super) fn sealed(&self) -> Result<Vec<Sealed>, IndexError> {
        let headers = guarded(|| self.headers())?;
        Ok(headers.iter().map(|header| header.sealed).collect())
    }

    fn headers(&self) -> Result<Vec<Header>, IndexError> {
        let mut found = Vec::new();
        let mut next = Some(0);
        while let Some(segment) = next
            && let Some(item) = self.hints.range(hints::header_key(segment)..).next()
        {
            let (key, value) = item?;
            let header = hints::read_header(&key, &value)?;
            found.push(header);
            next = header.sealed.segment.checked_add(1);
        }
        Ok(found)
    }

    /// Hands over what a sealed segment holds, in order; `false` if there are no hints for it. It
    /// holds only if this returns `Ok(true)`.
    pub(super) fn hints(&self, segment: u64, visit: impl FnMut(Hint)) -> Result<bool, IndexError> {
        guarded(|| {
            let mut values = self.hints.scan_prefix(segment.to_be_bytes());
            let Some(header) = values.next() else {
                return Ok(false);
            };
            let (key, header) = header?;
            let header = hints::read_header(&key, &header)?;
            let mut chunks = Vec::new();
            for value in values.values() {
                chunks.extend_from_slice(&value?);
            }
            hints::visit(header, &chunks, visit)?;
            Ok(true)
        })
    }

    /// Forgets the hints of all segments before this one.
    pub(super) fn forget_before(&self, segment: u64) -> Result<(), IndexError> {
        guarded(|| {
            let mut batch = Batch::default();
            for key in self.hints.range(..hints::header_key(segment)).keys() {
                batch.remove(key?);
            }
            Ok(self.hints.apply_batch(batch)?)
        })
    }

    /// Writes all that was applied to the disk.
    pub(super) fn flush(&self) -> Result<(), IndexError> {
        guarded(|| {
            self.db.flush()?;
            // sled's own flush asks the kernel to write, not the drive.
            fs::File::open(self.path.join("db"))?.sync_data()?;
            Ok(())
        })
    }

    /// Whether its files are much larger than what it holds: sled hardly gives space back that was
    /// in use once. Then it is time to [`Index::rewrite`] it.
    pub(super) fn is_wasteful(&self) -> Result<bool, IndexError> {
        let state = self.meta().map_or(0, |meta| meta.bytes);
        let hints = guarded(|| self.headers())?;
        let hints: u64 = hints.iter().map(|header| header.length).sum();
        let live = state.saturating_add(hints);
        Ok(self.size_on_disk()? > WASTE_LEAST.saturating_add(live.saturating_mul(WASTE_TIMES)))
    }

    /// Copies what it holds into new files and puts them in the place of the old ones. Takes some
    /// seconds for a million hints; stopped half-way it leaves no index, or the old one.
    pub(super) fn rewrite(self) -> Result<Self, IndexError> {
        let path = self.path.clone();
        let copy = Self::open(&beside(&path))?;
        guarded(|| {
            copy_tree(&self.state, &copy.state)?;
            copy_tree(&self.hints, &copy.hints)
        })?;
        copy.close()?;
        self.close()?;
        fs::remove_dir_all(&path)?;
        fs::rename(beside(&path), &path)?;
        Self::open(&path)
    }

    /// Bytes of its files.
    pub(super) fn size_on_disk(&self) -> Result<u64, IndexError> {
        guarded(|| Ok(self.db.size_on_disk()?))
    }

    /// Writes what is left and closes the files: they may be opened again when this returns.
    pub(super) fn close(self) -> Result<(), IndexError> {
        apart("close", CLOSE_LIMIT, move || {
            let flushed = self.flush();
            let file = fs::File::open(self.path.join("db"))?;
            drop(self);
            // Threads of sled may hold its lock a moment longer.
            file.lock()?;
            flushed
        })
    }
}

/// Where a new index is made while the old one is in use.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn copy_tree(from: &Tree, to: &Tree) -> Result<(), IndexError> {
    let mut batch = Batch::default();
    for (number, item) in (1..).zip(from) {
        let (key, value) = item?;
        batch.insert(key, value);
        if number % BATCH_CHANGES == 0 {
            to.apply_batch(std::mem::take(&mut batch))?;
        }
    }
    Ok(to.apply_batch(batch)?)
}

/// Moves the files of sled's snapshots out of its sight. Says whether there were any.
fn move_snapshots(path: &Path) -> io::Result<bool> {
    let mut moved = false;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("snap.") {
            let aside = path.join("aside");
            fs::create_dir_all(&aside)?;
            fs::rename(entry.path(), aside.join(name))?;
            moved = true;
        }
    }
    Ok(moved)
}

/// Runs something whose panics are errors.
fn guarded<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    // Whatever state a panic leaves behind is not used any more: the index is deleted.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("for no stated reason");
        Err(IndexError::Panicked(text.to_owned()))
    })
}

/// Runs something on a thread of its own and waits only so long for it.
fn apart<T: Send + 'static>(
    what: &'static str,
    limit: Duration,
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let (done, wait) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("index".to_owned())
        .spawn(move || {
            // Nobody listens after the limit.
            let _ = done.send(guarded(work));
        })?;
    wait.recv_timeout(limit)
        .unwrap_or(Err(IndexError::Stuck(what)))
}
