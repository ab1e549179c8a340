//! A distribution of latencies.

use hdrhistogram::Histogram;

/// Latencies from 1 us to 10 minutes, with three digits.
#[derive(Debug)]
pub struct Latency(Option<Histogram<u64>>);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).ok())
    }
}

impl Latency {
    /// Adds one, in nanoseconds.
    #[inline]
    pub fn record(&mut self, nanos: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record((nanos + 500) / 1000);
        }
    }

    /// Latencies recorded.
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The latency in microseconds that this part (0 to 1) of all stays within.
    pub fn micros(&self, quantile: f64) -> f64 {
        let value = |h: &Histogram<u64>| h.value_at_quantile(quantile);
        self.0.as_ref().map_or(0.0, |h| value(h) as f64)
    }

    /// The longest in microseconds.
    pub fn max_micros(&self) -> f64 {
        self.0.as_ref().map_or(0.0, |h| h.max() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut latency = Latency::default();
        for micros in 1..=1000u64 {
            latency.record(micros * 1000);
        }
        assert_eq!(latency.count(), 1000);
        assert!((latency.micros(0.5) - 500.0).abs() <= 1.0);
        assert!((latency.micros(0.99) - 990.0).abs() <= 1.0);
        assert!((latency.max_micros() - 1000.0).abs() <= 1.0);
    }
}
