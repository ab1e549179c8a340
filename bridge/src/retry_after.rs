//! `Retry-After` [RFC 9110 §10.2.3]: a target that has too much to do says when it may be called
//! again.
//!
//! Only 429 and 503 are listened to; AWS says it in milliseconds in a header of its own, with
//! whatever status. The whole sink waits until then, as it is the target that is busy and not one
//! message that is at fault. `retry_after_max` keeps a target, or who answers in its place, from
//! stopping a sink for ever.

use std::time::{Duration, SystemTime};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;

/// AWS's own, which its SDKs obey.
const AMZ_RETRY_AFTER: &str = "x-amz-retry-after";

/// Until when a target is left alone because it asked for it.
#[derive(Debug)]
pub(crate) struct Hold {
    /// The longest that is obeyed; zero obeys nothing.
    max: Duration,
    until: Mutex<Option<Instant>>,
}

impl Hold {
    /// None yet.
    pub(crate) fn new(max: Duration) -> Self {
        let until = Mutex::default();
        Self { max, until }
    }

    /// The target has asked for `time`; how much of it is obeyed. It never shortens what was asked
    /// for before: answers to calls at once come in any order.
    pub(crate) fn ask(&self, time: Duration) -> Option<Duration> {
        let time = time.min(self.max);
        if time.is_zero() {
            return None;
        }
        let mut until = self.until.lock();
        *until = (*until).max(Some(Instant::now() + time));
        Some(time)
    }

    /// How long it is still to be left alone.
    pub(crate) fn left(&self) -> Option<Duration> {
        let until = (*self.until.lock())?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

/// How long an answer asks to be left alone. None without a good header, and for a date that is not
/// after now.
pub(crate) fn asked(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let is_busy = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let text = headers.get(RETRY_AFTER).filter(|_| is_busy)?;
    let text = text.to_str().ok()?.trim();
    let time = match number(text) {
        Some(secs) => Duration::from_secs(secs),
        None => {
            // By the server's own clock if it shows it: ours may be another.
            let there = headers
                .get(DATE)
                .and_then(|value| date(value.to_str().ok()?));
            let moment = date(text)?.duration_since(there.unwrap_or(now));
            moment.unwrap_or_default()
        }
    };
    (!time.is_zero()).then_some(time)
}

/// The same of a refusal of an AWS service.
pub(crate) fn asked_by_aws(
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Option<Duration> {
    let own = headers
        .get(AMZ_RETRY_AFTER)
        .and_then(|value| number(value.to_str().ok()?.trim()));
    match own {
        Some(ms) if ms > 0 => Some(Duration::from_millis(ms)),
        _ => asked(status, headers, now),
    }
}

/// Digits alone; more than fit are as many as can be.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

fn date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the standard's example.
    const NOW_SECS: u64 = 784_111_777;

    type Read = fn(StatusCode, &HeaderMap, SystemTime) -> Option<Duration>;

    fn of(read: Read, status: u16, pairs: &[(&'static str, &str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        let now = UNIX_EPOCH + Duration::from_secs(NOW_SECS);
        let time = read(StatusCode::from_u16(status).unwrap(), &headers, now);
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    fn said(value: &str) -> Option<u64> {
        of(asked, 503, &[("retry-after", value)])
    }

    #[test]
    fn seconds_are_read() {
        assert_eq!((said("120"), said(" 7 ")), (Some(120_000), Some(7000)));
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
            assert_eq!(said(minute_later), Some(60_000), "{minute_later}");
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
        let later = ("retry-after", "Sat, 01 Jan 2000 00:00:30 GMT");
        let shown = ("date", "Sat, 01 Jan 2000 00:00:00 GMT");
        assert_eq!(of(asked, 503, &[later, shown]), Some(30_000));
        assert!(of(asked, 503, &[later, ("date", "today")]).unwrap() > 24 * 3_600_000);
    }

    #[test]
    fn only_who_has_too_much_to_do_is_listened_to() {
        for (status, expected) in [
            (429, Some(5000)),
            (503, Some(5000)),
            (500, None),
            (301, None),
        ] {
            assert_eq!(of(asked, status, &[("retry-after", "5")]), expected);
        }
        assert_eq!(of(asked, 429, &[]), None);
    }

    #[test]
    fn aws_says_it_in_milliseconds_with_any_status() {
        let own = (AMZ_RETRY_AFTER, "1500");
        assert_eq!(of(asked_by_aws, 400, &[own]), Some(1500));
        assert_eq!(of(asked, 400, &[own]), None, "others do not");
        let both = [own, ("retry-after", "9")];
        assert_eq!(of(asked_by_aws, 503, &both), Some(1500));
        for nothing in ["0", "-1", "soon"] {
            let pairs = [(AMZ_RETRY_AFTER, nothing), ("retry-after", "9")];
            assert_eq!(of(asked_by_aws, 429, &pairs), Some(9000), "{nothing}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_is_bounded_and_never_shortened() {
        let secs = Duration::from_secs;
        let hold = Hold::new(secs(60));
        assert_eq!(hold.left(), None);
        assert_eq!(hold.ask(secs(10)), Some(secs(10)));
        assert_eq!(hold.ask(secs(2)), Some(secs(2)));
        assert_eq!(hold.left(), Some(secs(10)));
        assert_eq!(hold.ask(Duration::MAX), Some(secs(60)));
        tokio::time::advance(secs(59)).await;
        assert_eq!(hold.left(), Some(secs(1)));
        tokio::time::advance(secs(1)).await;
        assert_eq!(hold.left(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_of_nothing_obeys_nothing() {
        let hold = Hold::new(Duration::ZERO);
        assert_eq!(hold.ask(Duration::from_secs(10)), None);
        assert_eq!(hold.left(), None);
    }
}
