//! How times spread, counted without locks.
//!
//! A [`Histogram`] is raised by many threads and read at a scrape. Its buckets are [`Counter`]s, so
//! threads do not touch each other's cache lines.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::Counter;
use super::metrics::Text;

/// Upper bounds of the buckets, in microseconds; one bucket more is without bound.
const BOUNDS_US: [u64; 16] = [
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    5_000_000,
    30_000_000,
    300_000_000,
];

/// A histogram of times between 50 microseconds and five minutes.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Counts a time, in microseconds.
    pub fn observe_us(&self, us: u64) {
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < us)].inc();
        self.sum_us.add(us);
    }

    /// Its samples in Prometheus' text format, where they stand apart from those of the broker.
    pub fn text(&self, name: &str, label: (&str, &str)) -> String {
        let mut text = Text::default();
        self.render(&mut text, name, label);
        text.into_string()
    }

    /// Writes its samples in Prometheus' text format.
    pub(super) fn render(&self, text: &mut Text, name: &str, label: (&str, &str)) {
        let bucket_name = format!("{name}_bucket");
        let mut count = 0;
        for (at, bucket) in self.buckets.iter().enumerate() {
            count += bucket.value();
            let bound = BOUNDS_US.get(at).map_or_else(
                || "+Inf".to_owned(),
                |bound| Duration::from_micros(*bound).as_secs_f64().to_string(),
            );
            text.sample(&bucket_name, &[label, ("le", &bound)], count);
        }
        let sum = Duration::from_micros(self.sum_us.value()).as_secs_f64();
        text.sample(&format!("{name}_sum"), &[label], sum);
        text.sample(&format!("{name}_count"), &[label], count);
    }
}

/// Microseconds since the first call in this process, never 0: for spans that are counted, not for
/// deadlines, which go by [`crate::clock::Clock`].
pub fn moment_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let passed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(passed.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_bucket_that_holds_them() {
        let histogram = Histogram::default();
        for us in [0, 50, 51, 400_000_000] {
            histogram.observe_us(us);
        }
        let mut text = Text::default();
        histogram.render(&mut text, "x_seconds", ("protocol", "mqtt"));
        let text = text.into_string();
        for line in [
            "polycast_x_seconds_bucket{protocol=\"mqtt\",le=\"0.00005\"} 2",
            "polycast_x_seconds_bucket{protocol=\"mqtt\",le=\"0.0001\"} 3",
            "polycast_x_seconds_bucket{protocol=\"mqtt\",le=\"300\"} 3",
            "polycast_x_seconds_bucket{protocol=\"mqtt\",le=\"+Inf\"} 4",
            "polycast_x_seconds_sum{protocol=\"mqtt\"} 400.000101",
            "polycast_x_seconds_count{protocol=\"mqtt\"} 4",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn moments_never_go_back() {
        let first = moment_us();
        assert!(first > 0 && moment_us() >= first);
    }
}
