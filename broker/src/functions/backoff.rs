//! How long to wait between attempts: a time drawn from between nothing and a bound that doubles, so
//! that what failed together does not come again together. The calls of events that must not be lost
//! ask it.

use std::time::Duration;

/// The most that is waited before the attempt after `waits` others: `base`, doubled with each, and
/// never more than `max`.
fn bound(base: Duration, max: Duration, waits: u32) -> Duration {
    let factor = 1_u32.checked_shl(waits.min(30)).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(max)
}

/// How long to wait before the attempt after `waits` others.
pub(super) fn pause(base: Duration, max: Duration, waits: u32) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness all come at once; that is no reason to stop.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    let part = f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX);
    bound(base, max, waits).mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_mins(1);

    #[test]
    fn the_bound_doubles_up_to_the_most() {
        let bounds = [0, 1, 2, 9, 10, 31, u32::MAX].map(|waits| bound(BASE, MAX, waits));
        let expected = [100, 200, 400, 51_200, 60_000, 60_000, 60_000];
        assert_eq!(bounds, expected.map(Duration::from_millis));
    }

    #[test]
    fn pauses_lie_anywhere_below_the_bound() {
        let pauses: Vec<Duration> = (0..1000).map(|_| pause(BASE, MAX, 3)).collect();
        assert!(pauses.iter().all(|pause| *pause <= BASE * 8));
        // Of a thousand at least one is in each quarter, but for once in 10^124 runs.
        for quarter in 0..4 {
            let (from, to) = (BASE * 2 * quarter, BASE * 2 * (quarter + 1));
            assert!(pauses.iter().any(|pause| (from..=to).contains(pause)));
        }
    }
}
