//! Credentials that are no longer taken, although they have not ended.
//!
//! A token is revoked by its name (`jti`); a user or a client by theirs, which means all tokens
//! that were issued until then. Each entry is remembered until what it revokes has ended anyway.
//! The list is small, bounded, and kept in one file of the data directory, so that a restart
//! forgets nothing.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::model::Timestamp;
use serde::{Deserialize, Serialize};

use super::token::issued_at;
use super::{Identity, Method};

/// The file in the data directory.
const FILE: &str = "revocations.json";

/// Whose credentials end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// All tokens of a user.
    User(ByteString),
    /// One token, by its name (`jti`).
    Token(ByteString),
    /// All tokens that this client may have used.
    Client(ByteString),
}

/// The end of credentials before their time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whose.
    pub subject: Subject,
    /// When they would have ended anyway, if that is known: until then it is remembered. Otherwise
    /// for `auth.revocation_time`.
    pub until: Option<Timestamp>,
}

/// A revocation that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Whose.
    pub subject: Subject,
    /// When it was asked for: tokens that were issued later are taken.
    pub revoked_at: Timestamp,
    /// Until when it is remembered.
    pub until: Timestamp,
}

/// What a revocation has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Connections that were closed.
    pub connections: usize,
    /// Sessions that ended, with their wills, connected or not.
    pub sessions: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    kind: Kind,
    name: String,
    /// Milliseconds since 1970.
    revoked_at: u64,
    until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    User,
    Token,
    Client,
}

impl Subject {
    fn parts(&self) -> (Kind, &ByteString) {
        match self {
            Self::User(name) => (Kind::User, name),
            Self::Token(name) => (Kind::Token, name),
            Self::Client(name) => (Kind::Client, name),
        }
    }
}

impl Kind {
    fn subject(self, name: &str) -> Subject {
        let name = name.into();
        match self {
            Self::User => Subject::User(name),
            Self::Token => Subject::Token(name),
            Self::Client => Subject::Client(name),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Revocations {
    path: Option<PathBuf>,
    max: AtomicUsize,
    /// Whether there is none: most brokers, at all times.
    is_empty: AtomicBool,
    entries: Mutex<Vec<Entry>>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl Revocations {
    /// Those that are remembered in memory only.
    pub fn new(max: usize) -> Self {
        Self {
            max: AtomicUsize::new(max),
            is_empty: AtomicBool::new(true),
            ..Self::default()
        }
    }

    /// Those of a data directory.
    pub fn open(folder: &Path, max: usize) -> io::Result<Self> {
        let path = folder.join(FILE);
        let entries: Vec<Entry> = match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: {error}", path.display()),
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: Some(path),
            is_empty: AtomicBool::new(entries.is_empty()),
            entries: Mutex::new(entries),
            ..Self::new(max)
        })
    }

    /// All that hold now, in order.
    pub fn list(&self, now: Timestamp) -> Vec<Remembered> {
        let entries = self.entries.lock();
        let holding = entries.iter().filter(|entry| entry.until > now.0);
        let mut all: Vec<_> = holding
            .map(|entry| Remembered {
                subject: entry.kind.subject(&entry.name),
                revoked_at: Timestamp(entry.revoked_at),
                until: Timestamp(entry.until),
            })
            .collect();
        drop(entries);
        all.sort_by(|a, b| a.subject.cmp(&b.subject));
        all
    }

    /// Takes a revocation back: tokens that have not ended are good again. `false` if there is
    /// none. What has ended with it stays so.
    pub fn lift(&self, subject: &Subject, now: Timestamp) -> bool {
        let (kind, name) = subject.parts();
        let mut entries = self.entries.lock();
        let found = entries
            .iter()
            .position(|entry| entry.until > now.0 && (entry.kind, &*entry.name) == (kind, &**name));
        if let Some(found) = found {
            entries.remove(found);
            self.is_empty.store(entries.is_empty(), Ordering::Release);
        }
        found.is_some()
    }

    /// Remembers at most so many from now on.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Release);
    }

    /// Takes a revocation; it holds from the return of this on.
    pub(super) fn add(&self, subject: &Subject, now: Timestamp, until: Timestamp) {
        let (kind, name) = subject.parts();
        let mut entries = self.entries.lock();
        entries
            .retain(|entry| entry.until > now.0 && (entry.kind, &*entry.name) != (kind, &**name));
        entries.push(Entry {
            kind,
            name: name.to_string(),
            revoked_at: now.0,
            until: until.0,
        });
        let max = self.max.load(Ordering::Acquire);
        while entries.len() > max {
            // Not the one that was just asked for.
            let others = entries[..entries.len() - 1].iter().enumerate();
            let Some((first, _)) = others.min_by_key(|(_, entry)| entry.until) else {
                break;
            };
            let dropped = entries.remove(first);
            tracing::warn!(
                name = %crate::telemetry::Untrusted(&dropped.name),
                "a revocation is forgotten early: there are more than auth.revocations"
            );
        }
        self.is_empty.store(false, Ordering::Release);
    }

    /// Whether an identity of a client is revoked. Only tokens are: a password or a certificate
    /// is taken back where it was given.
    pub(super) fn covers(
        &self,
        identity: &Identity,
        client_id: Option<&str>,
        now: Timestamp,
    ) -> bool {
        if self.is_empty.load(Ordering::Acquire) {
            return false;
        }
        let is_token = identity.method == Method::Token;
        let issued = issued_at(&identity.claims).unwrap_or(Timestamp(0));
        let token_id = identity.token_id.as_deref();
        let user = identity.user.as_deref().filter(|_| is_token);
        let client_id = client_id.filter(|_| is_token);
        self.entries
            .lock()
            .iter()
            .filter(|entry| entry.until > now.0)
            .any(|entry| {
                let (name, all) = match entry.kind {
                    Kind::Token => (token_id, true),
                    Kind::User => (user, false),
                    Kind::Client => (client_id, false),
                };
                name == Some(&*entry.name) && (all || issued.0 <= entry.revoked_at)
            })
    }

    /// Writes the list down. Waits for the disk.
    pub fn save(&self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let _one_at_a_time = self.writing.lock();
        let json = serde_json::to_vec(&*self.entries.lock())?;
        let beside = path.with_extension("json.new");
        let mut file = File::create(&beside)?;
        file.write_all(&json)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The name of the file too.
        let folder = path.parent().map(File::open).transpose()?;
        folder.map_or(Ok(()), |folder| folder.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(10_000_000);

    fn token(user: &str, id: &str, issued_secs: Option<u64>) -> Identity {
        let mut identity = Identity {
            user: Some(user.into()),
            method: Method::Token,
            token_id: Some(id.into()),
            ..Identity::default()
        };
        if let Some(secs) = issued_secs {
            identity.claims.insert("iat".into(), secs.into());
        }
        identity
    }

    fn later(ms: u64) -> Timestamp {
        Timestamp(NOW.0 + ms)
    }

    #[test]
    fn what_was_issued_before_is_revoked_until_its_end() {
        let list = Revocations::new(10);
        let old = token("ann", "1", Some(9_999));
        assert!(!list.covers(&old, None, NOW));
        list.add(&Subject::User("ann".into()), NOW, later(1000));
        assert!(list.covers(&old, None, NOW) && list.covers(&old, None, later(999)));
        assert!(!list.covers(&old, None, later(1000)));
        assert!(
            list.covers(&token("ann", "2", None), None, NOW),
            "no telling when"
        );
        assert!(!list.covers(&token("ann", "3", Some(10_001)), None, NOW));
        assert!(!list.covers(&token("bob", "4", Some(1)), None, NOW));
        let password = Identity {
            method: Method::Password,
            ..old
        };
        assert!(!list.covers(&password, None, NOW));
    }

    #[test]
    fn tokens_and_clients_are_revoked_by_name() {
        let list = Revocations::new(10);
        list.add(&Subject::Token("1".into()), NOW, later(1000));
        list.add(&Subject::Client("c".into()), NOW, later(1000));
        assert!(list.covers(&token("ann", "1", Some(99_999)), None, NOW));
        assert!(list.covers(&token("ann", "2", Some(1)), Some("c"), NOW));
        assert!(!list.covers(&token("ann", "2", Some(1)), Some("d"), NOW));
        assert!(!list.covers(&token("1", "c", Some(1)), None, NOW));
    }

    #[test]
    fn what_holds_is_listed_and_can_be_lifted() {
        let list = Revocations::new(10);
        let (user, client) = (Subject::User("ann".into()), Subject::Client("c".into()));
        list.add(&client, NOW, later(500));
        list.add(&user, NOW, later(1000));
        let subjects =
            |at| -> Vec<_> { list.list(at).into_iter().map(|row| row.subject).collect() };
        assert_eq!(subjects(NOW), [user.clone(), client.clone()]);
        assert_eq!(subjects(later(500)), std::slice::from_ref(&user));
        assert_eq!(list.list(NOW)[0].revoked_at, NOW);
        assert_eq!(list.list(NOW)[0].until, later(1000));
        assert!(!list.lift(&client, later(500)), "it has ended");
        assert!(list.lift(&user, NOW) && !list.lift(&user, NOW));
        assert!(!list.covers(&token("ann", "1", Some(1)), None, NOW));
    }

    #[test]
    fn the_list_is_bounded_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let list = Revocations::open(folder.path(), 2).unwrap();
        for (id, ms) in [("long", 3000), ("short", 1000), ("last", 500)] {
            list.add(&Subject::Token(id.into()), NOW, later(ms));
        }
        list.save().unwrap();
        let again = Revocations::open(folder.path(), 2).unwrap();
        let covers = |id| again.covers(&token("u", id, None), None, NOW);
        assert!(covers("long") && covers("last") && !covers("short"));
        std::fs::write(folder.path().join(FILE), b"{").unwrap();
        assert!(
            Revocations::open(folder.path(), 2).is_err(),
            "not silently forgotten"
        );
    }
}
