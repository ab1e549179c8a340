//! The data directory: who may use it, and what is in it.
//!
//! ```text
//! format               the number of the format and of the store, text
//! lock                 held while the store is open; says by which process
//! journal/<number>.seg segments
//! index/               what spares reading the journal; may be deleted at any time
//! broken/              copies of what could not be read
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::disk::{Disk, read_all, write_whole};

/// The format that this version reads and writes.
pub(super) const FORMAT: u32 = 1;

pub(super) const FORMAT_FILE: &str = "format";
pub(super) const JOURNAL: &str = "journal";
pub(super) const BROKEN: &str = "broken";

/// Why a store cannot be opened, for people: the path, what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system refused something.
    #[error("{}: cannot {what}: {error}; {advice}", path.display())]
    Io {
        /// Of which file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// Another process has the directory.
    #[error("{}: another process uses this data directory{by}; stop it, or give this one a \
             directory of its own (data_dir)", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// ` (process 17)`, if it is known.
        by: String,
    },
    /// The directory comes from a newer version.
    #[error("{}: the format of this store is {found}, and this version knows {FORMAT} at most; use \
             the version of polycast that wrote it, or a newer one", path.display())]
    Newer {
        /// The format file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The directory holds something else.
    #[error("{}: {what}; if the directory is not polycast's, give another one (data_dir); \
             otherwise restore it from a copy, or move it away to start empty", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl OpenError {
    pub(super) fn io(path: PathBuf, what: &'static str, error: io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "let the user that runs polycast read and write the data directory"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free some space on this file system"
            }
            io::ErrorKind::ReadOnlyFilesystem => "mount the file system for writing",
            io::ErrorKind::NotFound => "check data_dir",
            _ => "check the disk and the system's log",
        };
        Self::Io {
            path,
            what,
            error,
            advice,
        }
    }
}

/// The name of a segment's file.
pub(super) fn segment_name(number: u32) -> String {
    format!("{JOURNAL}/{number:016x}.seg")
}

/// The number of a segment, from its file's name without the directory.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 16)
        .then(|| u32::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Holds a data directory against other processes until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes a data directory; with `create` it is made if it does not exist.
pub(super) fn lock(root: &Path, create: bool) -> Result<Lock, OpenError> {
    if create {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|error| OpenError::io(root.into(), "create the data directory", error))?;
    } else {
        std::fs::read_dir(root)
            .map_err(|error| OpenError::io(root.into(), "read the data directory", error))?;
    }
    let path = root.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| OpenError::io(path.clone(), "open the lock", error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // That it is locked is what counts.
            let _ = file.read_to_string(&mut holder);
            let holder: Result<u32, _> = holder.trim().parse();
            return Err(OpenError::InUse {
                path: root.into(),
                by: holder.map_or_else(|_| String::new(), |id| format!(" (process {id})")),
            });
        }
        Err(TryLockError::Error(error)) => return Err(OpenError::io(path, "lock", error)),
    }
    // The number helps people; if it cannot be written the lock holds all the same.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Lock { _file: file })
}

/// Segments of a data directory.
pub(super) fn segments(root: &Path) -> io::Result<usize> {
    let files = std::fs::read_dir(root.join(JOURNAL))?;
    let names = files.filter_map(Result::ok).map(|file| file.path());
    Ok(names
        .filter(|path| path.extension().is_some_and(|it| it == "seg"))
        .count())
}

/// Checks the format of a data directory, or sets an empty one up if `create` says so. Returns the
/// store's number.
pub(super) fn prepare(disk: &dyn Disk, create: bool) -> Result<u64, OpenError> {
    let path = disk.path(FORMAT_FILE);
    match disk.open(FORMAT_FILE) {
        Ok(file) => {
            let text = read_all(file.as_ref())
                .map_err(|error| OpenError::io(path.clone(), "read", error))?;
            let store = parse_format(&String::from_utf8_lossy(&text), path)?;
            if create {
                make_directories(disk)?;
            }
            Ok(store)
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(OpenError::io(path, "open", error))
        }
        Err(_) if has_segments(disk) => Err(OpenError::Unknown {
            path,
            what: "there is a journal, but no file that says in which format".to_owned(),
        }),
        Err(error) if !create => Err(OpenError::io(path, "open", error)),
        Err(_) => {
            make_directories(disk)?;
            // Each of these is seeded by the system anew.
            let store = RandomState::new().build_hasher().finish();
            let text = format!("polycast store\nformat {FORMAT}\nstore {store:016x}\n");
            write_whole(disk, FORMAT_FILE, text.as_bytes())
                .map_err(|error| OpenError::io(path, "write", error))?;
            Ok(store)
        }
    }
}

fn make_directories(disk: &dyn Disk) -> Result<(), OpenError> {
    for directory in [JOURNAL, BROKEN] {
        disk.make_directory(directory)
            .map_err(|error| OpenError::io(disk.path(directory), "create", error))?;
    }
    disk.sync_directory("")
        .map_err(|error| OpenError::io(disk.path(""), "sync", error))
}

fn has_segments(disk: &dyn Disk) -> bool {
    disk.list(JOURNAL)
        .is_ok_and(|names| names.iter().any(|name| segment_number(name).is_some()))
}

fn parse_format(text: &str, path: PathBuf) -> Result<u64, OpenError> {
    let mut lines = text.lines();
    let unknown = |path, what: &str| OpenError::Unknown {
        path,
        what: what.to_owned(),
    };
    if lines.next() != Some("polycast store") {
        return Err(unknown(
            path,
            "this is not the format file of a polycast store",
        ));
    }
    let format = lines.next().and_then(|line| line.strip_prefix("format "));
    match format.and_then(|number| number.parse().ok()) {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => return Err(OpenError::Newer { path, found }),
        _ => return Err(unknown(path, "the format of this store is not known")),
    }
    let store = lines.next().and_then(|line| line.strip_prefix("store "));
    store
        .and_then(|number| u64::from_str_radix(number, 16).ok())
        .ok_or_else(|| unknown(path, "the store's number cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::super::disk::RealDisk;
    use super::*;

    #[test]
    fn a_directory_is_set_up_once() {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(root.path());
        assert!(matches!(prepare(&disk, false), Err(OpenError::Io { .. })));
        let store = prepare(&disk, true).unwrap();
        assert_eq!(prepare(&disk, true).unwrap(), store);
        assert_eq!(prepare(&disk, false).unwrap(), store);
    }

    #[test]
    fn what_is_not_ours_is_refused_with_its_path() {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(root.path());
        prepare(&disk, true).unwrap();
        for (text, says) in [
            (
                "polycast store\nformat 2\nstore 7\n",
                "format of this store is 2",
            ),
            ("polycast store\nformat x\nstore 7\n", "not known"),
            ("polycast store\nformat 1\nstore ?\n", "cannot be read"),
            ("", "not the format file"),
        ] {
            std::fs::write(root.path().join("format"), text).unwrap();
            let error = prepare(&disk, true).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(error.contains(root.path().to_str().unwrap()), "{error}");
        }
        std::fs::remove_file(root.path().join("format")).unwrap();
        std::fs::write(root.path().join(segment_name(3)), "").unwrap();
        let error = prepare(&disk, true).unwrap_err().to_string();
        assert!(error.contains("there is a journal"), "{error}");
    }

    #[test]
    fn one_process_has_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let first = lock(root.path(), true).unwrap();
        let error = lock(root.path(), true).unwrap_err().to_string();
        let process = format!("(process {})", std::process::id());
        assert!(error.contains(&process), "{error}");
        drop(first);
        lock(root.path(), false).unwrap();
        let missing = root.path().join("missing");
        assert!(matches!(lock(&missing, false), Err(OpenError::Io { .. })));
    }

    #[test]
    fn names_of_segments() {
        assert_eq!(segment_name(0x1f), "journal/000000000000001f.seg");
        assert_eq!(segment_number("000000000000001f.seg"), Some(0x1f));
        assert_eq!(segment_number("000000000000001f.new"), None);
        assert_eq!(segment_number("1f.seg"), None);
    }
}
