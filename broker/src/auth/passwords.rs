//! The password file: one line a user, `NAME:HASH` with argon2id in PHC's format.
//!
//! A hash costs a processor for tens of milliseconds and 19 MiB, so that guessing is expensive.
//! So that asking is not the same attack, few are made at a time, on threads that do nothing
//! else, and a bounded number of logins waits. An unknown user costs the same work as a known one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use parking_lot::Mutex;

use super::credentials::Rejection;
use super::gate::Gate;
use super::token::is_name;

/// Bytes of a password file.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of a password.
pub(crate) const PASSWORD_BYTES: usize = 1024;

/// The entries of a file.
pub(crate) type Entries = BTreeMap<String, String>;

/// Checks passwords.
pub(super) struct Passwords {
    file: Arc<Held>,
    gate: Gate,
}

struct Held {
    path: PathBuf,
    loaded: Mutex<Loaded>,
    /// What the password of an unknown user is compared with.
    decoy: String,
}

#[derive(Default)]
struct Loaded {
    /// Time and size of the file that the entries are from.
    stamp: Option<(SystemTime, u64)>,
    entries: Arc<Entries>,
}

/// What a password proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the user's.
    Right,
    /// It is not.
    Wrong,
    /// Nothing: there is no such user here.
    Unknown,
}

impl Passwords {
    /// Reads the file, so that a mistake in it shows at the start.
    pub(super) fn open(path: &Path, at_a_time: usize, waiting: usize) -> anyhow::Result<Self> {
        let held = Held {
            path: path.to_owned(),
            loaded: Mutex::default(),
            decoy: hash(b"nobody knows this one")?,
        };
        held.entries()
            .map_err(|error| anyhow::anyhow!("auth.password_file {}: {error}", path.display()))?;
        Ok(Self {
            file: Arc::new(held),
            gate: Gate::new(at_a_time, waiting),
        })
    }

    /// Checks a password on a thread of its own.
    pub(super) async fn check(&self, user: &str, password: &[u8]) -> Result<Verdict, Rejection> {
        if password.len() > PASSWORD_BYTES {
            return Ok(Verdict::Wrong);
        }
        let permit = self.gate.enter().await.map_err(|_| Rejection::Busy)?;
        let (file, user, password) = (Arc::clone(&self.file), user.to_owned(), password.to_vec());
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            file.check(&user, &password)
        });
        checked.await.unwrap_or(Err(Rejection::FileUnavailable))
    }
}

impl Held {
    fn check(&self, user: &str, password: &[u8]) -> Result<Verdict, Rejection> {
        let entries = self.entries().map_err(|error| {
            tracing::error!(file = %self.path.display(), %error, "the password file cannot be read");
            Rejection::FileUnavailable
        })?;
        let known = entries.get(user);
        let is_right = matches(known.unwrap_or(&self.decoy), password);
        Ok(match (known, is_right) {
            (None, _) => Verdict::Unknown,
            (Some(_), true) => Verdict::Right,
            (Some(_), false) => Verdict::Wrong,
        })
    }

    /// The entries as they are in the file now.
    fn entries(&self) -> io::Result<Arc<Entries>> {
        let about = std::fs::metadata(&self.path)?;
        let stamp = (about.modified()?, about.len());
        let mut loaded = self.loaded.lock();
        if loaded.stamp != Some(stamp) {
            loaded.entries = Arc::new(read(&self.path)?);
            loaded.stamp = Some(stamp);
        }
        Ok(Arc::clone(&loaded.entries))
    }
}

/// Whether a password is the one of a hash. The comparison takes the same time wherever they
/// differ.
fn matches(hash: &str, password: &[u8]) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// Hashes a password with a new salt.
pub(crate) fn hash(password: &[u8]) -> anyhow::Result<String> {
    let salt = SaltString::generate(&mut OsRng);
    let hashed = Argon2::default().hash_password(password, &salt);
    Ok(hashed
        .map_err(|error| anyhow::anyhow!("the password cannot be hashed: {error}"))?
        .to_string())
}

/// Reads a password file. Empty lines and those that begin with `#` say nothing.
pub(crate) fn read(path: &Path) -> io::Result<Entries> {
    let mut text = String::new();
    File::open(path)?
        .take(FILE_BYTES)
        .read_to_string(&mut text)?;
    let mut entries = Entries::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("line {}: {what}", index + 1),
            )
        };
        let (user, hash) = line
            .split_once(':')
            .ok_or_else(|| wrong("it has no colon"))?;
        if !is_user(user) {
            return Err(wrong("this cannot be a user's name"));
        }
        let hashed = PasswordHash::new(hash).map_err(|_| wrong("this is not a hash"))?;
        if hashed.algorithm.as_str() != "argon2id" {
            return Err(wrong("the hash is not argon2id; polycast passwd writes it"));
        }
        if entries.insert(user.to_owned(), hash.to_owned()).is_some() {
            return Err(wrong("the user comes twice"));
        }
    }
    Ok(entries)
}

/// Whether a name can stand in a password file.
pub(crate) fn is_user(name: &str) -> bool {
    is_name(name) && !name.contains(':') && !name.starts_with('#') && name.trim() == name
}

/// Writes a password file, in one step: who reads it meanwhile finds the old one or the new one.
pub(crate) fn write(path: &Path, entries: &Entries) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        for (user, hash) in entries {
            writeln!(file, "{user}:{hash}")?;
        }
        file.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    if written.is_err() {
        // What is left of it helps nobody; the error that counts is the first.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwords");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[tokio::test]
    async fn a_password_is_right_or_wrong() {
        let line = format!("# users\n\nann:{}\n", hash(b"word").unwrap());
        let (_folder, path) = file(&line);
        let passwords = Passwords::open(&path, 1, 1).unwrap();
        let check = |user: &'static str, word: &'static [u8]| passwords.check(user, word);
        assert_eq!(check("ann", b"word").await, Ok(Verdict::Right));
        assert_eq!(check("ann", b"Word").await, Ok(Verdict::Wrong));
        assert_eq!(check("ann", b"").await, Ok(Verdict::Wrong));
        assert_eq!(check("bob", b"word").await, Ok(Verdict::Unknown));
        assert_eq!(
            check("ann", &[b'x'; PASSWORD_BYTES + 1]).await,
            Ok(Verdict::Wrong)
        );
        let mut entries = read(&path).unwrap();
        entries.insert("bob".into(), hash(b"other").unwrap());
        write(&path, &entries).unwrap();
        assert_eq!(
            check("bob", b"other").await,
            Ok(Verdict::Right),
            "read again"
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(check("ann", b"word").await, Err(Rejection::FileUnavailable));
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_whole() {
        let good = hash(b"x").unwrap();
        for (text, why) in [
            ("ann\n".to_owned(), "line 1: it has no colon"),
            ("ann:word\n".to_owned(), "line 1: this is not a hash"),
            (
                format!("ann:{good}\nann:{good}\n"),
                "line 2: the user comes twice",
            ),
            (format!(":{good}\n"), "line 1: this cannot be a user's name"),
            (
                format!("ann:{}\n", good.replace("argon2id", "argon2i")),
                "argon2id",
            ),
        ] {
            let (_folder, path) = file(&text);
            let error = Passwords::open(&path, 1, 1).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains(&good));
        }
    }

    #[test]
    fn hashes_are_argon2id_with_salt() {
        let (one, two) = (hash(b"word").unwrap(), hash(b"word").unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
    }

    #[test]
    fn only_the_owner_reads_the_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwords");
        write(&path, &Entries::new()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
