//! Who may read what the broker says of itself without showing anything: `/metrics` for Prometheus,
//! and the figures in answers about its health.

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::Uri;

use crate::config::MetricsAccess;
use crate::net::{Ends, Net, is_address};

/// How `/metrics` answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figures {
    /// To whoever asks.
    Open,
    /// To whoever may `manage`.
    Protected,
    /// To nobody.
    Off,
}

/// What proxies add to what they pass on.
const PASSED_ON: [HeaderName; 4] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
];

/// How it answers this one.
pub(crate) fn figures(net: &Net, headers: &HeaderMap, ends: &Ends) -> Figures {
    match net.live.load().metrics {
        MetricsAccess::Open => Figures::Open,
        MetricsAccess::Protected => Figures::Protected,
        MetricsAccess::Off => Figures::Off,
        MetricsAccess::Auto => {
            let has_keys = net.api.settings.load().keys.are_there();
            let is_everyones = !net.auth.load().is_on() && !has_keys;
            if is_everyones || is_from_here(headers, ends.is_local) {
                Figures::Open
            } else {
                Figures::Protected
            }
        }
    }
}

/// Whether it comes from this machine, and not from a proxy on it or from a page whose name points
/// here (DNS rebinding).
fn is_from_here(headers: &HeaderMap, is_local: bool) -> bool {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    is_local
        && host.is_none_or(is_address)
        && !PASSED_ON.iter().any(|name| headers.contains_key(name))
}

/// The operation that gives the same to those who show who they are.
pub(crate) fn protected(asked: &Uri) -> Uri {
    let path = "/api/v1/metrics";
    let whole = asked.query().map(|query| format!("{path}?{query}"));
    let whole = whole.and_then(|text| text.parse().ok());
    whole.unwrap_or(Uri::from_static(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_passed_on_is_not_from_here() {
        let from = |is_local: bool, shown: &[(&'static str, &'static str)]| {
            let pairs = shown.iter().map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            });
            is_from_here(&pairs.collect(), is_local)
        };
        assert!(from(true, &[]));
        assert!(from(true, &[("host", "127.0.0.1:8080")]));
        assert!(from(true, &[("host", "localhost")]));
        assert!(!from(false, &[("host", "localhost")]));
        assert!(!from(true, &[("host", "broker.example.org")]));
        for name in ["forwarded", "via", "x-forwarded-for", "x-real-ip"] {
            assert!(!from(true, &[("host", "localhost"), (name, "x")]), "{name}");
        }
    }

    #[test]
    fn what_was_asked_goes_along() {
        let to = |asked: &str| protected(&asked.parse().unwrap()).to_string();
        assert_eq!(to("/metrics"), "/api/v1/metrics");
        assert_eq!(
            to("/metrics?access_token=x"),
            "/api/v1/metrics?access_token=x"
        );
    }
}
