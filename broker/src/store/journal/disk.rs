//! The narrow way to the file system: all that the journal does with files goes through [`Disk`].
//!
//! Names are relative to the data directory. Nothing here knows what is in the files. In tests a
//! simulated disk takes the place of the real one, to stop and crash at any operation.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// What a disk reads at once or not at all.
const SECTOR: usize = 4096;

/// A directory with files in it.
pub(super) trait Disk: Send + Sync + Debug {
    /// Creates a file that has all its space already, zeros. The file must not exist.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of files in a directory, sorted.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;

    /// Gives a file another name, in place of what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes a directory; it may exist.
    fn make_directory(&self, name: &str) -> io::Result<()>;

    /// Makes what was created, renamed and removed in a directory last.
    fn sync_directory(&self, name: &str) -> io::Result<()>;

    /// Bytes that may still be taken.
    fn free(&self) -> io::Result<u64>;

    /// Where a file is, for people.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub(super) trait DiskFile: Send + Sync + Debug {
    /// Writes all of `bytes` at an offset.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bytes` from an offset; fewer are read only at the file's end.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;

    /// Waits until all that was written is on the disk.
    fn sync(&self) -> io::Result<()>;

    /// The size of the file.
    fn bytes(&self) -> io::Result<u64>;
}

/// Whether an error says that there is no space, which may change.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// All of a file.
pub(super) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let bytes = usize::try_from(file.bytes()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut content = vec![0; bytes];
    let read = file.read_at(0, &mut content)?;
    content.truncate(read);
    Ok(content)
}

/// Whether an error says that the disk cannot read what is there (`EIO`).
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// Fills `bytes` from an offset, up to the first of them that the disk cannot read.
pub(super) fn read_before(file: &dyn DiskFile, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    match file.read_at(offset, bytes) {
        Err(error) if is_unreadable(&error) => {}
        whole => return whole,
    }
    let mut read = 0;
    while read < bytes.len() {
        let at = offset + read as u64;
        // Up to where the next sector begins.
        let length = SECTOR - usize::try_from(at % SECTOR as u64).unwrap_or(0);
        let end = bytes.len().min(read + length);
        match file.read_at(at, &mut bytes[read..end]) {
            Err(error) if read == 0 || !is_unreadable(&error) => return Err(error),
            Ok(more) if more > 0 => read += more,
            Ok(_) | Err(_) => break,
        }
    }
    Ok(read)
}

/// All of a segment that can be read: where the disk cannot, there are zeros. An error if its
/// beginning cannot be read either, because then it is not for bad sectors.
pub(super) fn read_around(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    match read_all(file) {
        Err(error) if is_unreadable(&error) => {}
        whole => return whole,
    }
    let bytes = usize::try_from(file.bytes()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut content = vec![0; bytes];
    for (number, sector) in content.chunks_mut(SECTOR).enumerate() {
        match file.read_at((number * SECTOR) as u64, sector) {
            // What it may have read of it before is not to be taken for more than that.
            Err(error) if is_unreadable(&error) && number > 0 => sector.fill(0),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(content)
}

/// Writes a small file such that it is there wholly or not at all.
pub(super) fn write_whole(disk: &dyn Disk, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary, content.len() as u64)?;
    file.write_at(0, content)?;
    file.sync()?;
    disk.rename(&temporary, name)?;
    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
    disk.sync_directory(directory)
}

/// The file system below a directory.
#[derive(Debug)]
pub(super) struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The directory must exist.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        if let Err(error) = allocate(&file, bytes) {
            // What was allocated so far would be missed by others that need space.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        let path = self.path(name);
        let file = match options.clone().write(true).open(&path) {
            // An inspection may come from someone who must not write.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => options.open(&path),
            opened => opened,
        }?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path(directory))? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn make_directory(&self, name: &str) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.path(name))
    }

    fn sync_directory(&self, name: &str) -> io::Result<()> {
        File::open(self.path(name))?.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let facts = statvfs(&self.root)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            return self.root.clone();
        }
        self.root.join(name)
    }
}

/// Takes space for a file, so that no write into it can meet a full disk.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, bytes),
        Err(error) => Err(error.into()),
    }
}

/// For file systems that cannot allocate otherwise.
fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = [0; 16 * 1024];
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(zeros.len() as u64);
        // The length is at most that of the array.
        let length = usize::try_from(length).unwrap_or(zeros.len());
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < bytes.len() {
            match self.0.read_at(&mut bytes[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_has_its_space_and_is_zeros() {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(root.path());
        disk.make_directory("journal").unwrap();
        let file = disk.create("journal/a", 10_000).unwrap();
        assert_eq!(read_all(file.as_ref()).unwrap(), vec![0; 10_000]);
        file.write_at(9_998, b"ab").unwrap();
        file.sync().unwrap();
        disk.sync_directory("journal").unwrap();
        let mut end = [0; 5];
        let again = disk.open("journal/a").unwrap();
        assert_eq!(again.read_at(9_998, &mut end).unwrap(), 2);
        assert_eq!(&end[..2], b"ab");
        let exists = disk.create("journal/a", 1).unwrap_err();
        assert_eq!(exists.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.list("journal").unwrap(), ["a"]);
        assert!(disk.free().unwrap() > 0);
    }

    #[test]
    fn a_small_file_is_replaced_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(root.path());
        for content in [&b"longer"[..], b"short"] {
            write_whole(&disk, "format", content).unwrap();
            let file = disk.open("format").unwrap();
            assert_eq!(read_all(file.as_ref()).unwrap(), content);
        }
        assert_eq!(disk.list("").unwrap(), ["format"]);
    }
}
