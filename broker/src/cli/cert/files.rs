//! Certificates and keys as files.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// A certificate and its key, both PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

fn paths(dir: &Path, file: &str) -> [PathBuf; 2] {
    [
        dir.join(format!("{file}.pem")),
        dir.join(format!("{file}-key.pem")),
    ]
}

/// Refuses to overwrite what is there.
pub(super) fn check(dir: &Path, file: &str, force: bool) -> Result<()> {
    for path in paths(dir, file) {
        if !force && fs::symlink_metadata(&path).is_ok() {
            bail!("{} exists; --force overwrites it", path.display());
        }
    }
    Ok(())
}

/// A pair that is there, or `None`.
pub(super) fn read(dir: &Path, file: &str) -> Result<Option<Pair>> {
    let [certificate, key] = paths(dir, file);
    let text = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    match (text(&certificate)?, text(&key)?) {
        (Some(certificate), Some(key)) => Ok(Some(Pair { certificate, key })),
        (None, None) => Ok(None),
        (None, _) => bail!("{} is missing", certificate.display()),
        (_, None) => bail!("{} is missing", key.display()),
    }
}

/// Writes a pair: the key for its owner alone, the certificate for everyone. Each file comes into
/// being whole, so that a broker that looks meanwhile sees the old or the new one.
pub(super) fn write(dir: &Path, file: &str, pair: &Pair, force: bool) -> Result<()> {
    check(dir, file, force)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let [certificate, key] = paths(dir, file);
    for (path, text, mode) in [
        (key, &pair.key, 0o600),
        (certificate, &pair.certificate, 0o644),
    ] {
        place(&path, text, mode, force)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn place(path: &Path, text: &str, mode: u32, force: bool) -> std::io::Result<()> {
    let unfinished = path.with_extension(format!("pem.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&unfinished)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    let placed = written.and_then(|()| {
        if force {
            return fs::rename(&unfinished, path);
        }
        // Unlike a rename, a link fails if somebody was faster.
        fs::hard_link(&unfinished, path)?;
        fs::remove_file(&unfinished)
    });
    if placed.is_err() {
        // It may not even have come into being.
        let _ = fs::remove_file(&unfinished);
    }
    placed
}
