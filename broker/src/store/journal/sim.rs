//! A disk in memory that stops, crashes and fills up when it is told to.
//!
//! It is as unkind as a real one may be: what was not synced is lost at a crash, or kept, or kept
//! sector by sector; files that were made, renamed or removed are back as they were or not.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// Numbers that look random and are the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let bound = bound as u64;
        usize::try_from((self.0 >> 11) % bound).unwrap()
    }

    pub(super) fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

#[derive(Clone, Debug, Default)]
struct Content {
    synced: Vec<u8>,
    current: Vec<u8>,
    /// What was written since the last sync: where, and how much.
    writes: Vec<(usize, usize)>,
}

#[derive(Clone, Debug)]
enum Change {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

#[derive(Clone, Debug, Default)]
struct State {
    /// By number; a name is a way to one.
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    /// Names as they are after a crash, and changes that may be lost.
    kept_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    operations: u64,
    stop_at: Option<u64>,
    capacity: Option<u64>,
    fail_syncs: bool,
    /// What cannot be read: of a file, or of all.
    bad: Vec<(Option<usize>, Range<usize>)>,
    /// There are no means to open files.
    cannot_open: bool,
}

fn change(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Rename(from, to, file) => {
            if names.get(from) == Some(file) {
                names.remove(from);
            }
            names.insert(to.clone(), *file);
        }
        Change::Remove(name) => {
            names.remove(name);
        }
    }
}

fn directory_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

impl State {
    /// Counts an operation; those from the one to stop at fail.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.stop_at.is_some_and(|stop| self.operations >= stop) {
            return Err(io::Error::other("stopped"));
        }
        Ok(())
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|file| self.files[*file].current.len() as u64)
            .sum()
    }

    fn change(&mut self, new: Change) {
        change(&mut self.names, &new);
        self.changes.push(new);
    }
}

/// See the module's documentation. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// All operations from the `n`-th on fail, counted from now.
    pub(super) fn stop_after(&self, n: u64) {
        let mut state = self.0.lock();
        state.stop_at = Some(state.operations + n);
    }

    pub(super) fn is_stopped(&self) -> bool {
        let state = self.0.lock();
        state.stop_at.is_some_and(|stop| state.operations >= stop)
    }

    /// How much may be in it; `None` is without bound.
    pub(super) fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    pub(super) fn used(&self) -> u64 {
        self.0.lock().used()
    }

    pub(super) fn fail_syncs(&self) {
        self.0.lock().fail_syncs = true;
    }

    /// What cannot be read from now on: of a file, or all there is.
    pub(super) fn fail_reads(&self, of: Option<(&str, Range<usize>)>) {
        let mut state = self.0.lock();
        let bad = match of {
            Some((name, range)) => (Some(state.file(name).unwrap()), range),
            None => (None, 0..usize::MAX),
        };
        state.bad.push(bad);
    }

    /// Whether files cannot be opened for want of descriptors.
    pub(super) fn fail_opens(&self, fails: bool) {
        self.0.lock().cannot_open = fails;
    }

    /// Changes bytes behind everybody's back.
    pub(super) fn damage(&self, name: &str, run: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let file = state.file(name).unwrap();
        run(&mut state.files[file].current);
        state.files[file].synced = state.files[file].current.clone();
    }

    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.0.lock();
        let file = state.file(name).unwrap();
        state.files[file].current.clone()
    }

    /// The names of all files.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// What is there after a crash.
    pub(super) fn crash(&self, dice: &mut Dice) -> Self {
        let state = self.0.lock();
        let mut names = state.kept_names.clone();
        let lost_from = dice.below(state.changes.len() + 1);
        for (at, new) in state.changes.iter().enumerate() {
            if at < lost_from || dice.one_in(2) {
                change(&mut names, new);
            }
        }
        let files = state.files.iter().map(|file| survivor(file, dice));
        Self(Arc::new(Mutex::new(State {
            files: files.collect(),
            kept_names: names.clone(),
            names,
            capacity: state.capacity,
            ..State::default()
        })))
    }
}

fn survivor(file: &Content, dice: &mut Dice) -> Content {
    let mut bytes = file.synced.clone();
    bytes.resize(file.current.len(), 0);
    // All of it, none of it, or some sectors.
    let mode = dice.below(3);
    for (at, length) in &file.writes {
        let mut start = *at;
        while start < at + length {
            let end = (start / SECTOR * SECTOR + SECTOR).min(at + length);
            if mode == 0 || (mode == 1 && dice.one_in(2)) {
                bytes[start..end].copy_from_slice(&file.current[start..end]);
            }
            start = end;
        }
    }
    Content {
        synced: bytes.clone(),
        current: bytes,
        writes: Vec::new(),
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.operate()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state
            .capacity
            .is_some_and(|bound| state.used() + bytes > bound)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = usize::try_from(bytes).unwrap();
        state.files.push(Content {
            synced: vec![0; length],
            current: vec![0; length],
            writes: Vec::new(),
        });
        let file = state.files.len() - 1;
        state.change(Change::Create(name.to_owned(), file));
        let disk = self.clone();
        Ok(Arc::new(SimFile { disk, file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.lock();
        if state.cannot_open {
            return Err(Errno::MFILE.into());
        }
        let file = state.file(name)?;
        let disk = self.clone();
        Ok(Arc::new(SimFile { disk, file }))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        let names = state.names.keys();
        Ok(names
            .filter(|name| directory_of(name) == directory)
            .map(|name| name[directory.len()..].trim_start_matches('/').to_owned())
            .collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        let file = state.file(from)?;
        state.change(Change::Rename(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.file(name)?;
        state.operate()?;
        state.change(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn make_directory(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate()?;
        let changes = std::mem::take(&mut state.changes);
        for new in changes {
            let (Change::Create(of, _) | Change::Rename(of, _, _) | Change::Remove(of)) = &new;
            if directory_of(of) == name {
                change(&mut state.kept_names, &new);
            } else {
                state.changes.push(new);
            }
        }
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        let state = self.0.lock();
        let bound = state.capacity.unwrap_or(u64::MAX);
        Ok(bound.saturating_sub(state.used()))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("sim").join(name)
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let result = state.operate();
        let file = &mut state.files[self.file];
        let offset = usize::try_from(offset).unwrap();
        let end = offset + bytes.len();
        if file.current.len() < end {
            file.current.resize(end, 0);
        }
        // The write that is stopped may reach the disk all the same.
        file.current[offset..end].copy_from_slice(bytes);
        file.writes.push((offset, bytes.len()));
        result
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.0.lock();
        let file = &state.files[self.file].current;
        let offset = usize::try_from(offset).unwrap().min(file.len());
        let length = bytes.len().min(file.len() - offset);
        let is_bad = |(file, range): &(Option<usize>, Range<usize>)| {
            file.is_none_or(|file| file == self.file)
                && range.start < offset + length
                && offset < range.end
        };
        if state.bad.iter().any(is_bad) {
            return Err(Errno::IO.into());
        }
        bytes[..length].copy_from_slice(&file[offset..offset + length]);
        Ok(length)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.operate()?;
        if state.fail_syncs {
            return Err(io::Error::from_raw_os_error(5));
        }
        let file = &mut state.files[self.file];
        file.synced = file.current.clone();
        file.writes.clear();
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.file].current.len() as u64)
    }
}
