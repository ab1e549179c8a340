//! Receipts of messages under way: extended while they are, deleted or given back afterwards.
//!
//! One task for each queue gathers what was decided into batches of ten, sends several batches at
//! a time, reads what failed and tries that again. A message stays held, and its visibility
//! extended, until SQS has said that it is deleted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use super::BATCH;
use super::api::{Api, Failed};
use crate::metrics::FlowMetrics;
use crate::retry::Backoff;
use crate::source::{Outcome, Settle, SourceError};

/// How long a batch that is not full waits for more.
const LINGER: Duration = Duration::from_millis(10);

/// Calls at a time.
const CALLS: usize = 8;

/// Tries of one entry. After the last one the message comes back by itself, and is then known.
const TRIES: u32 = 8;

const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// SQS keeps nothing invisible for longer, counted from receiving.
const LONGEST: Duration = Duration::from_mins(12 * 60 - 1);

/// What SQS is to be told of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Delete,
    /// Others see it again after so many seconds.
    Visible(u64),
}

#[derive(Debug)]
struct Held {
    receipt: String,
    since: Instant,
    extended: Instant,
    /// Not once it is to be given back.
    extend: bool,
}

/// The receipts of one queue.
#[derive(Debug)]
pub(super) struct Receipts {
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<(u64, Order)>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    api: Arc<dyn Api>,
    held: Mutex<HashMap<u64, Held>>,
    emptied: Notify,
    visibility: Duration,
    source: String,
    metrics: Arc<FlowMetrics>,
}

impl Receipts {
    /// Starts the task that talks to SQS. The number of messages held is bounded by the run loop.
    pub(super) fn start(
        api: Arc<dyn Api>,
        visibility: Duration,
        source: String,
        metrics: Arc<FlowMetrics>,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            api,
            held: Mutex::default(),
            emptied: Notify::new(),
            visibility,
            source,
            metrics,
        });
        let (orders, waiting) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(gather(Arc::clone(&shared), waiting));
        tasks.spawn(extend(Arc::clone(&shared)));
        Arc::new(Self {
            shared,
            orders,
            tasks: Mutex::new(tasks),
        })
    }

    /// Holds a message until its handle is settled.
    pub(super) fn hold(self: &Arc<Self>, receipt: String) -> Box<dyn Settle> {
        let now = Instant::now();
        let held = Held {
            receipt,
            since: now,
            extended: now,
            extend: true,
        };
        let mut all = self.shared.held.lock();
        let mut number = fastrand::u64(..);
        while all.contains_key(&number) {
            number = fastrand::u64(..);
        }
        all.insert(number, held);
        let receipts = Arc::clone(self);
        Box::new(Handle {
            number,
            receipts,
            settled: false,
        })
    }

    /// Waits until SQS has been told everything, and ends the tasks.
    pub(super) async fn settled(&self) {
        loop {
            let emptied = self.shared.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.shared.held.lock().is_empty() {
                break;
            }
            emptied.await;
        }
        self.tasks.lock().abort_all();
    }
}

/// Stands for one message.
struct Handle {
    number: u64,
    receipts: Arc<Receipts>,
    settled: bool,
}

impl Settle for Handle {
    fn settle(mut self: Box<Self>, outcome: Outcome) {
        let order = match outcome {
            Outcome::Done | Outcome::DeadLettered => Order::Delete,
            Outcome::Retry { after } => Order::Visible(after.as_secs()),
            // The queue's redrive policy counts how often; at once would be a busy loop without it.
            Outcome::Poison { .. } => Order::Visible(self.receipts.shared.visibility.as_secs()),
            Outcome::Released => Order::Visible(0),
        };
        self.tell(order);
    }
}

impl Handle {
    fn tell(&mut self, order: Order) {
        self.settled = true;
        if order != Order::Delete
            && let Some(held) = self.receipts.shared.held.lock().get_mut(&self.number)
        {
            held.extend = false;
        }
        // The receiver ends only when nothing is held any more.
        let _ = self.receipts.orders.send((self.number, order));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.settled {
            self.tell(Order::Visible(0));
        }
    }
}

impl Shared {
    fn release(&self, number: u64) {
        let mut held = self.held.lock();
        held.remove(&number);
        if held.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    fn receipts(&self, numbers: &[u64]) -> Vec<(u64, String)> {
        let held = self.held.lock();
        let found = numbers.iter().filter_map(|number| {
            let held = held.get(number)?;
            Some((*number, held.receipt.clone()))
        });
        found.collect()
    }
}

/// Makes batches of what comes.
async fn gather(shared: Arc<Shared>, mut waiting: mpsc::UnboundedReceiver<(u64, Order)>) {
    let mut calls = JoinSet::new();
    let (mut deletes, mut visible) = (Vec::new(), Vec::new());
    loop {
        let first = tokio::select! {
            first = waiting.recv() => first,
            Some(_) = calls.join_next() => continue,
        };
        let Some(first) = first else { break };
        let until = Instant::now() + LINGER;
        let mut next = Some(first);
        while let Some((number, order)) = next {
            match order {
                Order::Delete => deletes.push(number),
                Order::Visible(secs) => visible.push((number, secs)),
            }
            if deletes.len() >= BATCH || visible.len() >= BATCH {
                break;
            }
            next = tokio::time::timeout_at(until, waiting.recv())
                .await
                .ok()
                .flatten();
        }
        while calls.len() >= CALLS {
            calls.join_next().await;
        }
        if !deletes.is_empty() {
            calls.spawn(delete(Arc::clone(&shared), std::mem::take(&mut deletes)));
        }
        if !visible.is_empty() {
            calls.spawn(give_back(Arc::clone(&shared), std::mem::take(&mut visible)));
        }
    }
    while calls.join_next().await.is_some() {}
}

async fn delete(shared: Arc<Shared>, numbers: Vec<u64>) {
    let call: Call = |shared, entries| {
        let receipts = entries.into_iter().map(|(receipt, _)| receipt).collect();
        shared.api.delete(receipts)
    };
    let entries = numbers.into_iter().map(|number| (number, 0)).collect();
    tell(&shared, "delete", entries, call).await;
}

async fn give_back(shared: Arc<Shared>, entries: Vec<(u64, u64)>) {
    let call: Call = |shared, entries| shared.api.change_visibility(entries);
    tell(&shared, "give back", entries, call).await;
}

type Call =
    for<'a> fn(&'a Shared, Vec<(String, u64)>) -> BoxFuture<'a, Result<Vec<Failed>, SourceError>>;

/// Tells SQS, again where that can help; afterwards nothing of the batch is held.
async fn tell(shared: &Shared, what: &str, mut entries: Vec<(u64, u64)>, call: Call) {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    while !entries.is_empty() {
        let numbers: Vec<_> = entries.iter().map(|(number, _)| *number).collect();
        let receipts = shared.receipts(&numbers).into_iter().zip(&entries);
        let batch = receipts
            .map(|((_, receipt), (_, secs))| (receipt, *secs))
            .collect();
        let failed = match call(shared, batch).await {
            Ok(failed) => failed,
            Err(error) => {
                let all = 0..entries.len();
                let reason = error.to_string();
                let fail = |index| Failed {
                    index,
                    for_good: false,
                    reason: reason.clone(),
                };
                all.map(fail).collect()
            }
        };
        let mut again = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match failed.iter().find(|failed| failed.index == index) {
                Some(failure) if !failure.for_good && backoff.failures() + 1 < TRIES => {
                    debug!(
                        source = shared.source,
                        what,
                        reason = failure.reason,
                        "failed"
                    );
                    again.push(*entry);
                }
                Some(failure) => {
                    warn!(
                        source = shared.source,
                        what,
                        reason = failure.reason,
                        "gave up"
                    );
                    shared.metrics.errors.add(1);
                    shared.release(entry.0);
                }
                None => shared.release(entry.0),
            }
        }
        entries = again;
        if !entries.is_empty() {
            tokio::time::sleep(backoff.pause()).await;
        }
    }
}

/// Extends what is held, well before SQS would give it to others.
async fn extend(shared: Arc<Shared>) {
    let third = (shared.visibility / 3).max(Duration::from_millis(300));
    let mut ticks = tokio::time::interval(third / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let due = take_due(&shared, third);
        for batch in due.chunks(BATCH) {
            extend_batch(&shared, batch).await;
        }
    }
}

fn take_due(shared: &Shared, third: Duration) -> Vec<(u64, String)> {
    let now = Instant::now();
    let mut held = shared.held.lock();
    let due = held.iter_mut().filter(|(_, held)| {
        held.extend
            && now.duration_since(held.extended) >= third
            && now.duration_since(held.since) + shared.visibility < LONGEST
    });
    due.map(|(number, held)| {
        held.extended = now;
        (*number, held.receipt.clone())
    })
    .collect()
}

/// What cannot be extended comes to somebody else in time, and is not lost: it stays undeleted.
async fn extend_batch(shared: &Shared, batch: &[(u64, String)]) {
    let secs = shared.visibility.as_secs();
    let entries = batch
        .iter()
        .map(|(_, receipt)| (receipt.clone(), secs))
        .collect();
    match shared.api.change_visibility(entries).await {
        Ok(failed) => {
            for failure in failed {
                debug!(
                    source = shared.source,
                    reason = failure.reason,
                    "cannot extend"
                );
            }
        }
        Err(error) => {
            warn!(source = shared.source, %error, "cannot extend the visibility");
            shared.metrics.errors.add(1);
        }
    }
}

#[cfg(test)]
#[path = "receipts_tests.rs"]
mod tests;
