//! `Retry-After` [RFC 9110 §10.2.3]: a target that has too much to do says when it may be asked again.
//!
//! Only 429 and 503 are listened to. What waits for the target is held back until then, all of it, as
//! it is the target that is busy and not one event that is at fault; `Functions` asks before each
//! such call. A bound from the configuration keeps a target, or who speaks in its place, from
//! stopping what waits for ever. Calls that a client waits for are no attempts to be put off: they
//! neither set the time nor heed it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use protocols::model::Timestamp;

/// Until when a target is left alone because it asked for it.
#[derive(Debug)]
pub(super) struct Hold {
    /// The longest that is obeyed; zero obeys nothing.
    max: Duration,
    /// In milliseconds since 1970; zero if it was never asked for.
    until_ms: AtomicU64,
    obeyed: AtomicU64,
}

impl Hold {
    /// None yet.
    pub(super) fn new(max: Duration) -> Self {
        Self {
            max,
            until_ms: AtomicU64::default(),
            obeyed: AtomicU64::default(),
        }
    }

    /// The target has asked for `time`. It never shortens what was asked for before: answers of
    /// calls at once come in any order.
    pub(super) fn ask(&self, time: Duration, now: Timestamp) {
        let time = time.min(self.max);
        if time.is_zero() {
            return;
        }
        self.obeyed.fetch_add(1, Ordering::Relaxed);
        self.until_ms.fetch_max((now + time).0, Ordering::Relaxed);
    }

    /// How long it is still to be left alone.
    pub(super) fn left(&self, now: Timestamp) -> Option<Duration> {
        let until = self.until_ms.load(Ordering::Relaxed);
        (now.0 < until).then(|| Duration::from_millis(until - now.0))
    }

    /// Answers that held something back.
    pub(super) fn obeyed(&self) -> u64 {
        self.obeyed.load(Ordering::Relaxed)
    }
}

/// How long an answer asks to be left alone. `None` without a good header, and for a date that is
/// not after now.
pub(super) fn asked(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    if !matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        return None;
    }
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let time = match seconds(text) {
        Some(time) => time,
        // By the server's own clock if it shows it: ours may be another.
        None => {
            let here = UNIX_EPOCH + Duration::from_millis(now.0);
            let there = headers
                .get(DATE)
                .and_then(|value| date(value.to_str().ok()?));
            let moment = date(text)?.duration_since(there.unwrap_or(here));
            moment.unwrap_or_default()
        }
    };
    (!time.is_zero()).then_some(time)
}

/// Digits alone; more than fit are as many as can be.
fn seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

fn date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::HeaderName;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the standard's example.
    const NOW: Timestamp = Timestamp(784_111_777_000);

    fn of(status: u16, pairs: &[(HeaderName, &str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(name, value.parse().unwrap());
        }
        let asked = asked(StatusCode::from_u16(status).unwrap(), &headers, NOW);
        asked.map(|time| time.as_secs())
    }

    fn said(value: &str) -> Option<u64> {
        of(503, &[(RETRY_AFTER, value)])
    }

    #[test]
    fn seconds_are_read() {
        assert_eq!((said("120"), said(" 7 ")), (Some(120), Some(7)));
        assert_eq!(said("99999999999999999999999"), Some(u64::MAX));
        for none in ["", "0", "-1", "+5", "1.5", "5s", "soon", "0x10", "1 2"] {
            assert_eq!(said(none), None, "{none}");
        }
    }

    /// All three forms of [RFC 9110 §5.6.7].
    #[test]
    fn dates_are_read() {
        for minute_later in [
            "Sun, 06 Nov 1994 08:50:37 GMT",
            "Sunday, 06-Nov-94 08:50:37 GMT",
            "Sun Nov  6 08:50:37 1994",
        ] {
            assert_eq!(said(minute_later), Some(60), "{minute_later}");
        }
        for none in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:00:00 GMT",
            "Sun, 31 Feb 1994 08:50:37 GMT",
            "1994-11-06T08:50:37Z",
        ] {
            assert_eq!(said(none), None, "{none}");
        }
    }

    #[test]
    fn a_date_counts_by_the_clock_of_who_wrote_it() {
        let later = (RETRY_AFTER, "Sat, 01 Jan 2000 00:00:30 GMT");
        let shown = (DATE, "Sat, 01 Jan 2000 00:00:00 GMT");
        assert_eq!(of(503, &[later.clone(), shown]), Some(30));
        let broken = (DATE, "today");
        assert!(of(503, &[later, broken]).unwrap() > 24 * 3600);
    }

    #[test]
    fn only_who_has_too_much_to_do_is_listened_to() {
        for (status, expected) in [(429, Some(5)), (503, Some(5)), (500, None), (301, None)] {
            assert_eq!(of(status, &[(RETRY_AFTER, "5")]), expected, "{status}");
        }
        assert_eq!(of(429, &[]), None);
    }

    #[test]
    fn a_hold_is_bounded_and_never_shortened() {
        let hold = Hold::new(Duration::from_mins(1));
        assert_eq!((hold.left(NOW), hold.obeyed()), (None, 0));
        hold.ask(Duration::from_secs(10), NOW);
        hold.ask(Duration::from_secs(2), NOW);
        assert_eq!(hold.left(NOW), Some(Duration::from_secs(10)));
        hold.ask(Duration::MAX, NOW);
        assert_eq!(
            (hold.left(NOW), hold.obeyed()),
            (Some(Duration::from_mins(1)), 3)
        );
        let end = NOW + Duration::from_mins(1);
        assert_eq!(
            hold.left(Timestamp(end.0 - 1)),
            Some(Duration::from_millis(1))
        );
        assert_eq!(hold.left(end), None);
    }

    #[test]
    fn a_bound_of_nothing_obeys_nothing() {
        let hold = Hold::new(Duration::ZERO);
        hold.ask(Duration::from_secs(10), NOW);
        assert_eq!((hold.left(NOW), hold.obeyed()), (None, 0));
    }
}
