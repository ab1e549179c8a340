//! Reads the shards of a stream, each when its turn has come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::{self, Permit};
use tokio::task::{Id, JoinSet};
use tracing::{debug, info, warn};

use super::api::{Api, ApiError, Page, Position, Record, Shard};
use super::checkpoints::{Checkpoint, Checkpoints};
use super::progress::Progress;
use super::{Pace, Read, Start};
use crate::metrics::FlowMetrics;
use crate::retry::Backoff;
use crate::run::now_ms;

/// Pauses while Kinesis fails or says that it is too much.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Kinesis allows five calls of a shard in a second.
const SOONEST: Duration = Duration::from_millis(200);

/// What the readers of all shards share.
pub(super) struct Reader {
    pub(super) source: String,
    pub(super) api: Arc<dyn Api>,
    pub(super) checkpoints: Arc<Checkpoints>,
    pub(super) metrics: Arc<FlowMetrics>,
    pub(super) pages: mpsc::Sender<Vec<Read>>,
    pub(super) start: Start,
    pub(super) pace: Pace,
    /// How far behind each shard is, in milliseconds.
    pub(super) behind: Mutex<BTreeMap<Arc<str>, u64>>,
}

/// How a pass over a shard ended.
enum End {
    /// There will be no more records.
    Shard,
    /// Something must be read again.
    Again,
    /// Nobody takes records any more.
    Source,
}

impl Reader {
    /// Reads for ever: each shard as soon as its parents are finished.
    pub(super) async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut running = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let pause = match self.api.shards().await {
                Ok(shards) => {
                    backoff.reset();
                    for shard in self.due(&shards) {
                        if running.values().any(|reading| *reading == shard) {
                            continue;
                        }
                        info!(source = self.source, shard, "reading a shard");
                        let reading = tasks.spawn(Arc::clone(&self).read(shard.clone()));
                        running.insert(reading.id(), shard);
                    }
                    self.pace.discover
                }
                Err(error) => self.failed("list the shards", &error, &mut backoff),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let id: Id = match &ended {
                        Ok((id, ())) => *id,
                        Err(error) => error.id(),
                    };
                    running.remove(&id);
                }
            }
        }
    }

    /// The shards that may be read: not finished, and nor is any parent unfinished. A parent that
    /// the stream no longer has holds nothing that could come before.
    fn due(&self, shards: &[Shard]) -> Vec<String> {
        if !self.checkpoints.have_begun() {
            let now = now_ms();
            let starts = match self.start {
                Start::Now => from_now_on(shards, now),
                Start::Oldest => Vec::new(),
            };
            self.checkpoints.begin(now, starts);
        }
        self.checkpoints
            .keep_only(|id| shards.iter().any(|shard| shard.id == id));
        let finished = |id: &str| self.checkpoints.of(id) == Some(Checkpoint::Finished);
        let waits = |id: &String| shards.iter().any(|shard| shard.id == *id) && !finished(id);
        let due = shards.iter().filter(|shard| {
            let has_begun = self.checkpoints.of(&shard.id).is_some();
            !finished(&shard.id) && (has_begun || !shard.parents.iter().any(waits))
        });
        due.map(|shard| shard.id.clone()).collect()
    }

    /// Reads a shard to its end.
    async fn read(self: Arc<Self>, shard: String) {
        let shard: Arc<str> = shard.into();
        loop {
            let progress = Progress::new(Arc::clone(&shard), Arc::clone(&self.checkpoints));
            let end = self.pass(&shard, &progress).await;
            let again = progress.emptied().await;
            match (end, again) {
                (End::Source, _) => return,
                (End::Shard, None) => {
                    info!(source = self.source, %shard, "read to its end");
                    self.checkpoints.note(&shard, Checkpoint::Finished);
                    self.note_behind(&shard, Duration::ZERO);
                    return;
                }
                (_, after) => tokio::time::sleep(after.unwrap_or_default()).await,
            }
        }
    }

    async fn pass(&self, shard: &Arc<str>, progress: &Arc<Progress>) -> End {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut position = self.position(shard);
        let mut iterator: Option<String> = None;
        loop {
            // Room first: what was read would wait in memory.
            let room = tokio::select! {
                room = self.pages.reserve() => room,
                () = progress.voided() => return End::Again,
            };
            let Ok(room) = room else { return End::Source };
            let pause = match self.page(shard, &position, &mut iterator).await {
                Ok(page) => {
                    backoff.reset();
                    if let Some(last) = page.records.last() {
                        position = Position::After(last.sequence.clone());
                    }
                    self.note_behind(shard, page.behind);
                    let has_more = page.records.len() >= self.pace.batch || !page.behind.is_zero();
                    iterator.clone_from(&page.next);
                    hand_over(room, page.records, shard, progress);
                    if iterator.is_none() {
                        return End::Shard;
                    }
                    if has_more { SOONEST } else { self.pace.poll }
                }
                Err(ApiError::Expired) => {
                    debug!(source = self.source, %shard, "a new iterator");
                    iterator = None;
                    Duration::ZERO
                }
                Err(error) => {
                    drop(room);
                    self.failed("read", &error, &mut backoff)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = progress.voided() => return End::Again,
            }
        }
    }

    async fn page(
        &self,
        shard: &str,
        position: &Position,
        iterator: &mut Option<String>,
    ) -> Result<Page, ApiError> {
        let current = match iterator {
            Some(iterator) => iterator,
            None => iterator.insert(self.api.iterator(shard, position).await?),
        };
        self.api.records(current, self.pace.batch).await
    }

    fn position(&self, shard: &str) -> Position {
        match self.checkpoints.of(shard) {
            Some(Checkpoint::After(sequence)) => Position::After(sequence),
            Some(Checkpoint::Since(ms)) => Position::Since(ms),
            Some(Checkpoint::Finished) | None => Position::Oldest,
        }
    }

    fn note_behind(&self, shard: &Arc<str>, behind: Duration) {
        let mut all = self.behind.lock();
        let ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
        if ms == 0 {
            all.remove(shard);
        } else {
            all.insert(Arc::clone(shard), ms);
        }
        let most = all.values().copied().max();
        self.metrics.behind_ms.set(most.unwrap_or(0));
    }

    fn failed(&self, what: &str, error: &ApiError, backoff: &mut Backoff) -> Duration {
        let pause = backoff.pause();
        if matches!(error, ApiError::Throttled(_)) {
            debug!(source = self.source, %error, retry_in = ?pause, "cannot {what}");
        } else {
            self.metrics.errors.add(1);
            warn!(source = self.source, %error, retry_in = ?pause, "cannot {what}");
        }
        pause
    }
}

/// The moment is written down, so that a restart before the first record misses nothing.
fn from_now_on(shards: &[Shard], now_ms: u64) -> Vec<(String, Checkpoint)> {
    let starts = shards.iter().map(|shard| {
        let checkpoint = if shard.closed {
            Checkpoint::Finished
        } else {
            Checkpoint::Since(now_ms)
        };
        (shard.id.clone(), checkpoint)
    });
    starts.collect()
}

/// A page goes to the run loop, each record with its place in the shard.
fn hand_over(
    room: Permit<'_, Vec<Read>>,
    records: Vec<Record>,
    shard: &Arc<str>,
    progress: &Arc<Progress>,
) {
    if records.is_empty() {
        return;
    }
    let read = records.into_iter().map(|record| Read {
        shard: Arc::clone(shard),
        hold: progress.hold(record.sequence.clone()),
        record,
    });
    room.send(read.collect());
}
