//! How much room a folder takes on its disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that the files in a folder and below take on the disk: allocated blocks, so that holes
/// and files that were made larger in advance count as what they are.
pub fn usage(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| {
            if metadata.is_dir() {
                usage(&path)
            } else {
                metadata.blocks() * 512
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_folders_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), vec![7; 20_000]).unwrap();
        let file = fs::File::open(folder.path().join("a/b")).unwrap();
        file.sync_all().unwrap();
        assert!(usage(folder.path()) >= 20_000);
        assert_eq!(usage(Path::new("/does/not/exist")), 0);
    }
}
