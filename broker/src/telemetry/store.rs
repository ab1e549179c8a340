//! The store's figures in Prometheus' text format.

use crate::store::{Durability, FLUSH_BUCKETS_BYTES, FLUSH_BUCKETS_US, JournalStats};

use super::metrics::Text;

/// Writes the store's metrics; without a store, only that there is none.
pub(super) fn render(text: &mut Text, stats: Option<&JournalStats>) {
    text.family(
        "storage_info",
        "gauge",
        "1; what a promise of durability stands on.",
    );
    let durability = match stats.map(|stats| stats.durability) {
        None => "memory",
        Some(Durability::Fsync) => "fsync",
        Some(Durability::Interval(_)) => "interval",
        Some(Durability::None) => "none",
    };
    text.sample("storage_info", &[("durability", durability)], 1);
    let Some(stats) = stats else { return };
    let gauges = [
        (
            "storage_size_bytes",
            "Bytes of the journal.",
            stats.journal_bytes,
        ),
        (
            "storage_live_bytes",
            "Bytes of the journal that are live, about.",
            stats.live_bytes,
        ),
        ("storage_segments", "Files of the journal.", stats.segments),
        (
            "storage_messages",
            "Entries in all stored queues.",
            stats.stored_messages,
        ),
        (
            "storage_waiting_bytes",
            "Bytes that wait to be written.",
            stats.waiting_bytes,
        ),
        (
            "storage_full",
            "Whether messages that must be stored are refused.",
            u64::from(stats.room.is_err()),
        ),
    ];
    for (name, help, value) in gauges {
        text.family(name, "gauge", help);
        text.sample(name, &[], value);
    }
    let counters = [
        ("storage_units_total", "Units written.", stats.units),
        (
            "storage_written_bytes_total",
            "Bytes of units written.",
            stats.bytes,
        ),
        (
            "storage_copied_bytes_total",
            "Bytes of live records that were written again to free what lay around them.",
            stats.copied_bytes,
        ),
        (
            "storage_reclaimed_bytes_total",
            "Bytes of the journal that were freed.",
            stats.reclaimed_bytes,
        ),
        (
            "storage_damaged_total",
            "Records of the journal that could not be read.",
            stats.lost_records,
        ),
    ];
    for (name, help, value) in counters {
        text.family(name, "counter", help);
        text.sample(name, &[], value);
    }
    render_syncs(text, stats);
}

fn render_syncs(text: &mut Text, stats: &JournalStats) {
    let name = "storage_flush_seconds";
    text.family(name, "histogram", "Time that writing and syncing took.");
    let mut count = 0;
    for (bucket, bound) in stats.flush_buckets.iter().zip(FLUSH_BUCKETS_US) {
        count += bucket;
        let seconds = std::time::Duration::from_micros(bound).as_secs_f64();
        let bound = seconds.to_string();
        text.sample("storage_flush_seconds_bucket", &[("le", &bound)], count);
    }
    text.sample(
        "storage_flush_seconds_bucket",
        &[("le", "+Inf")],
        stats.flushes,
    );
    let sum = stats.flush_time.as_secs_f64();
    text.sample("storage_flush_seconds_sum", &[], sum);
    text.sample("storage_flush_seconds_count", &[], stats.flushes);
    let name = "storage_flush_bytes";
    text.family(name, "histogram", "Bytes that each sync made safe.");
    let mut count = 0;
    for (bucket, bound) in stats.flush_sizes.iter().zip(FLUSH_BUCKETS_BYTES) {
        count += bucket;
        let bound = bound.to_string();
        text.sample("storage_flush_bytes_bucket", &[("le", &bound)], count);
    }
    text.sample(
        "storage_flush_bytes_bucket",
        &[("le", "+Inf")],
        stats.flushes,
    );
    text.sample("storage_flush_bytes_sum", &[], stats.flush_bytes);
    text.sample("storage_flush_bytes_count", &[], stats.flushes);
}
