//! What the store counts about itself, for metrics and health.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::Full;
use super::Durability;

/// Upper bounds of the buckets of flush times, in microseconds; one bucket more is without bound.
pub const FLUSH_BUCKETS_US: [u64; 14] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000,
];

/// Upper bounds of the buckets of flush sizes, in bytes; one bucket more is without bound.
pub const FLUSH_BUCKETS_BYTES: [u64; 8] = [
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
];

/// A snapshot of what the store counts.
#[derive(Clone, Debug)]
pub struct JournalStats {
    /// What a promise stands on.
    pub durability: Durability,
    /// Flushes since the store was opened.
    pub flushes: u64,
    /// The time that these took in all.
    pub flush_time: Duration,
    /// How many of them took up to the bound of their bucket ([`FLUSH_BUCKETS_US`]), the last one
    /// longer than all.
    pub flush_buckets: [u64; FLUSH_BUCKETS_US.len() + 1],
    /// The bytes that these made safe in all.
    pub flush_bytes: u64,
    /// How many of them were up to the bound of their bucket ([`FLUSH_BUCKETS_BYTES`]), the last
    /// one larger than all.
    pub flush_sizes: [u64; FLUSH_BUCKETS_BYTES.len() + 1],
    /// Units that were written since the store was opened.
    pub units: u64,
    /// Bytes of them in the journal.
    pub bytes: u64,
    /// Bytes of live records that were copied since the store was opened, to free what lay around
    /// them.
    pub copied_bytes: u64,
    /// Bytes of segments that were removed since the store was opened.
    pub reclaimed_bytes: u64,
    /// Bytes of all segments.
    pub journal_bytes: u64,
    /// Bytes of what is live in them, about.
    pub live_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Segments that are written and that the index does not know yet.
    pub unindexed_segments: u64,
    /// Entries in all queues; a message in two queues counts twice.
    pub stored_messages: u64,
    /// Bytes that wait to be written.
    pub waiting_bytes: u64,
    /// Records that could not be read, since the store was opened and when it was.
    pub lost_records: u64,
    /// Bytes of a torn write that were cut away when the store was opened.
    pub cut_bytes: u64,
    /// Whether messages may be stored.
    pub room: Result<(), Full>,
    /// Whether a fault of the disk ended the store.
    pub failed: bool,
}

/// The counters behind [`JournalStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    flush_us: AtomicU64,
    flush_buckets: [AtomicU64; FLUSH_BUCKETS_US.len() + 1],
    pub(super) flush_bytes: AtomicU64,
    flush_sizes: [AtomicU64; FLUSH_BUCKETS_BYTES.len() + 1],
    pub(super) units: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) copied_bytes: AtomicU64,
    pub(super) reclaimed_bytes: AtomicU64,
    pub(super) lost_records: AtomicU64,
    pub(super) cut_bytes: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Reads a counter.
pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counters {
    /// A flush took so long and made so many bytes safe.
    pub(super) fn flushed(&self, time: Duration, bytes: u64) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = FLUSH_BUCKETS_US.partition_point(|bound| *bound < us);
        add(&self.flush_us, us);
        add(&self.flush_buckets[bucket], 1);
        let size = FLUSH_BUCKETS_BYTES.partition_point(|bound| *bound < bytes);
        add(&self.flush_bytes, bytes);
        add(&self.flush_sizes[size], 1);
    }

    /// The time of all flushes.
    pub(super) fn flush_time(&self) -> Duration {
        Duration::from_micros(read(&self.flush_us))
    }

    /// Flushes by time.
    pub(super) fn flush_buckets(&self) -> [u64; FLUSH_BUCKETS_US.len() + 1] {
        std::array::from_fn(|bucket| read(&self.flush_buckets[bucket]))
    }

    /// Flushes by size.
    pub(super) fn flush_sizes(&self) -> [u64; FLUSH_BUCKETS_BYTES.len() + 1] {
        std::array::from_fn(|bucket| read(&self.flush_sizes[bucket]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_counted_by_time() {
        let counters = Counters::default();
        for us in [50, 51, 7_000_000] {
            counters.flushed(Duration::from_micros(us), us);
        }
        let buckets = counters.flush_buckets();
        assert_eq!(buckets[..2], [1, 1]);
        assert_eq!(buckets[FLUSH_BUCKETS_US.len()], 1);
        assert_eq!(buckets.iter().sum::<u64>(), 3);
        assert_eq!(counters.flush_time(), Duration::from_micros(7_000_101));
        let sizes = counters.flush_sizes();
        assert_eq!((sizes[0], sizes[7]), (2, 1));
        assert_eq!(read(&counters.flush_bytes), 7_000_101);
    }
}
