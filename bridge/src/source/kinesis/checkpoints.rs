//! How far each shard was read, kept in sled.
//!
//! A checkpoint that is lost in a crash costs repeats, which their idempotency keys take care of;
//! one that is too far ahead would cost records. So they are written behind, the newest of each
//! shard a few times a second.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::source::SourceError;

const EVERY: Duration = Duration::from_millis(200);

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
    /// Opens those of a stream; nobody else can have the folder open.
    pub(super) fn open(folder: &Path, stream: &str) -> Result<Arc<Self>, SourceError> {
        let wrong = |error: &dyn std::fmt::Display| {
            SourceError::new(format!("checkpoints in {}: {error}", folder.display()))
        };
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES);
        let db = config.open().map_err(|error| wrong(&error))?;
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

    /// It is read from now on, for the first time.
    pub(super) fn begin(&self, now_ms: u64) {
        self.note(BEGUN, Checkpoint::Since(now_ms));
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

    /// Writes what was moved, and waits for it.
    pub(super) async fn write(&self) {
        let moved = std::mem::take(&mut *self.unwritten.lock());
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
        if let Err(error) = flushed {
            warn!(%error, "cannot write checkpoints");
            let mut unwritten = self.unwritten.lock();
            for (shard, checkpoint) in moved {
                unwritten.entry(shard).or_insert(checkpoint);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn come_back_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path(), "s").unwrap();
        assert!(!checkpoints.have_begun());
        checkpoints.begin(1);
        checkpoints.note("a", Checkpoint::After("7".into()));
        checkpoints.note("a", Checkpoint::After("8".into()));
        checkpoints.note("b", Checkpoint::Finished);
        assert_eq!(checkpoints.of("b"), Some(Checkpoint::Finished));
        checkpoints.write().await;
        assert!(
            Checkpoints::open(folder.path(), "s").is_err(),
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
