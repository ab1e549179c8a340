//! How far each shard was read, kept in sled.
//!
//! A checkpoint that is lost in a crash costs repeats, which their idempotency keys take care of;
//! one that is too far ahead would cost records. So they are written behind, the newest of each
//! shard a few times a second.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::source::SourceError;

const EVERY: Duration = Duration::from_millis(200);

/// How long, and how often, it is tried to open a folder that is locked.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// Checkpoints are few: sled's own default would be a gibibyte.
const CACHE_BYTES: u64 = 1 << 20;

/// The key beside those of shards that says when the stream was first read.
const BEGUN: &str = "";

/// How far a shard was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Checkpoint {
    /// Nothing of what arrived since then, in milliseconds since 1970.
    Since(u64),
    /// Up to this sequence number.
    After(String),
    /// To its end.
    Finished,
}

/// The checkpoints of one stream.
pub(super) struct Checkpoints {
    db: sled::Db,
    tree: sled::Tree,
    unwritten: Mutex<BTreeMap<String, Checkpoint>>,
}

impl Checkpoints {
    /// Opens those of a stream; nobody else can have the folder open. Blocks, for some seconds if
    /// somebody has.
    pub(super) fn open(folder: &Path, stream: &str) -> Result<Arc<Self>, SourceError> {
        Self::open_within(PATIENCE, folder, stream)
    }

    fn open_within(
        patience: Duration,
        folder: &Path,
        stream: &str,
    ) -> Result<Arc<Self>, SourceError> {
        let wrong = |error: &dyn std::fmt::Display| {
            SourceError::new(format!("checkpoints in {}: {error}", folder.display()))
        };
        let db = open_folder(folder, patience).map_err(|error| wrong(&error))?;
        let tree = db.open_tree(stream).map_err(|error| wrong(&error))?;
        Ok(Arc::new(Self {
            db,
            tree,
            unwritten: Mutex::default(),
        }))
    }

    /// Whether the stream has been read before.
    pub(super) fn have_begun(&self) -> bool {
        self.of(BEGUN).is_some()
    }

    /// It is read from now on, for the first time, and these shards from there. All of it is
    /// written together: half of it would make a restart read the others from their beginning.
    pub(super) fn begin(&self, now_ms: u64, shards: Vec<(String, Checkpoint)>) {
        let mut unwritten = self.unwritten.lock();
        unwritten.insert(BEGUN.to_owned(), Checkpoint::Since(now_ms));
        unwritten.extend(shards);
    }

    /// That of a shard. One that cannot be read is none.
    pub(super) fn of(&self, shard: &str) -> Option<Checkpoint> {
        if let Some(checkpoint) = self.unwritten.lock().get(shard) {
            return Some(checkpoint.clone());
        }
        let found = self.tree.get(shard).ok().flatten()?;
        serde_json::from_slice(&found).ok()
    }

    /// Moves one; it is written soon.
    pub(super) fn note(&self, shard: &str, checkpoint: Checkpoint) {
        self.unwritten.lock().insert(shard.to_owned(), checkpoint);
    }

    /// Forgets shards that the stream no longer has.
    pub(super) fn keep_only(&self, is_there: impl Fn(&str) -> bool) {
        for shard in self.tree.iter().keys().filter_map(Result::ok) {
            let known = shard == BEGUN || std::str::from_utf8(&shard).is_ok_and(&is_there);
            if !known && let Err(error) = self.tree.remove(&shard) {
                warn!(%error, "cannot remove a checkpoint");
            }
        }
    }

    /// Writes what was moved, and waits for it. What was moved counts as unwritten until it lies on
    /// the disk, also if this is dropped before.
    pub(super) async fn write(&self) {
        let moved = self.unwritten.lock().clone();
        if moved.is_empty() {
            return;
        }
        let mut batch = sled::Batch::default();
        for (shard, checkpoint) in &moved {
            let text = serde_json::to_vec(checkpoint).unwrap_or_default();
            batch.insert(shard.as_bytes(), text);
        }
        let written = self.tree.apply_batch(batch);
        let flushed = match written {
            Ok(()) => self.db.flush_async().await.map(|_| ()),
            Err(error) => Err(error),
        };
        match flushed {
            Ok(()) => {
                let mut unwritten = self.unwritten.lock();
                unwritten.retain(|shard, checkpoint| moved.get(shard) != Some(checkpoint));
            }
            Err(error) => warn!(%error, "cannot write checkpoints"),
        }
    }

    /// Writes a few times a second.
    pub(super) async fn write_for_ever(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            self.write().await;
        }
    }
}

/// sled writes in threads of its own, and these may still have the folder locked when the last one
/// who knew it has let go: a source that is opened again at once has to wait for them.
fn open_folder(folder: &Path, patience: Duration) -> Result<sled::Db, sled::Error> {
    let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES);
    let until = Instant::now() + patience;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if is_locked(&error) && Instant::now() < until => {
                std::thread::sleep(LOOK);
            }
            opened => return opened,
        }
    }
}

/// sled has the reason only in words.
fn is_locked(error: &std::io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn are_known_while_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path(), "s").unwrap();
        checkpoints.note("a", Checkpoint::After("7".into()));
        let writing = checkpoints.write().now_or_never();
        let known = Some(Checkpoint::After("7".into()));
        assert_eq!(checkpoints.of("a"), known, "begun: {writing:?}");
        checkpoints.note("a", Checkpoint::After("8".into()));
        checkpoints.write().await;
        assert!(checkpoints.unwritten.lock().is_empty());
        assert_eq!(checkpoints.of("a"), Some(Checkpoint::After("8".into())));
    }

    #[tokio::test]
    async fn a_folder_is_opened_as_soon_as_it_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let first = Checkpoints::open(folder.path(), "s").unwrap();
        let freed = std::thread::spawn(move || {
            std::thread::sleep(LOOK * 4);
            drop(first);
        });
        assert!(Checkpoints::open(folder.path(), "s").is_ok());
        freed.join().unwrap();
    }

    #[tokio::test]
    async fn come_back_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path(), "s").unwrap();
        assert!(!checkpoints.have_begun());
        checkpoints.begin(1, vec![("b".into(), Checkpoint::Since(1))]);
        assert_eq!(checkpoints.of("b"), Some(Checkpoint::Since(1)));
        checkpoints.note("a", Checkpoint::After("7".into()));
        checkpoints.note("a", Checkpoint::After("8".into()));
        checkpoints.note("b", Checkpoint::Finished);
        assert_eq!(checkpoints.of("b"), Some(Checkpoint::Finished));
        checkpoints.write().await;
        assert!(
            Checkpoints::open_within(Duration::ZERO, folder.path(), "s").is_err(),
            "it is locked"
        );
        drop(checkpoints);
        let checkpoints = Checkpoints::open(folder.path(), "s").unwrap();
        assert_eq!(checkpoints.of("a"), Some(Checkpoint::After("8".into())));
        assert_eq!(checkpoints.of("c"), None);
        checkpoints.keep_only(|shard| shard == "a");
        assert_eq!(checkpoints.of("b"), None);
        assert!(checkpoints.have_begun());
    }
}
