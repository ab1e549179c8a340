//! The trace that a request belongs to, carried on in the messages that it publishes.
//!
//! `traceparent` and `tracestate` (W3C Trace Context) become user properties of these names, as which
//! every protocol carries them: MQTT 5 user properties, STOMP headers, `headers` in JSON.

use bytestring::ByteString;
use http::HeaderMap;
use protocols::model::Message;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Bytes of `tracestate` that are carried; the standard asks for 512 at least.
const STATE_BYTES: usize = 512;

/// Gives a message the trace of its request, unless it has one of its own or `max` properties.
pub(super) fn carry(headers: &HeaderMap, message: &mut Message, max: usize) {
    let value = |name| headers.get(name)?.to_str().ok();
    let Some(parent) = value(PARENT).filter(|text| is_trace_parent(text)) else {
        return;
    };
    let state = value(STATE).filter(|text| (1..=STATE_BYTES).contains(&text.len()));
    let user = &mut message.properties.get_or_insert_default().user;
    if user.iter().any(|(name, _)| name == PARENT) || user.len() >= max {
        return;
    }
    user.push((PARENT.into(), ByteString::from(parent)));
    if let Some(state) = state.filter(|_| user.len() < max) {
        user.push((STATE.into(), ByteString::from(state)));
    }
}

/// `VERSION-TRACE-SPAN-FLAGS` in lower-case hexadecimal, with neither trace nor span all zeros.
/// A later version may have more behind it (Trace Context §3.2.2, §4.3).
fn is_trace_parent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str, length| {
        let digits = part
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        part.len() == length && digits
    };
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    match &parts[..] {
        [version, trace, span, flags, rest @ ..] => {
            let known = is_hex(version, 2) && *version != "ff" && is_hex(flags, 2);
            let named = is_hex(trace, 32) && is_hex(span, 16) && !is_zero(trace) && !is_zero(span);
            known && named && (rest.is_empty() || *version != "00")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use protocols::model::{QoS, Topic};

    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn carried(
        headers: &[(&'static str, &'static str)],
        own: &[(&str, &str)],
        max: usize,
    ) -> Vec<String> {
        let topic = Topic::parse("a".into(), 8, 8).unwrap();
        let mut message = Message::new(topic, Bytes::new(), QoS::AtMostOnce, false);
        for (name, value) in own {
            let user = &mut message.properties.get_or_insert_default().user;
            user.push(((*name).into(), (*value).into()));
        }
        let headers = headers.iter().map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        carry(&headers.collect(), &mut message, max);
        let user = message.properties.map(|properties| properties.user);
        let user = user.unwrap_or_default().into_iter();
        user.map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn a_trace_is_carried_once_and_within_bounds() {
        let both = [("traceparent", TRACE), ("tracestate", "a=1")];
        assert_eq!(
            carried(&both, &[], 8),
            [format!("traceparent={TRACE}"), "tracestate=a=1".into()]
        );
        assert_eq!(carried(&both, &[], 1), [format!("traceparent={TRACE}")]);
        assert_eq!(
            carried(&both, &[("traceparent", "own")], 8),
            ["traceparent=own"]
        );
        assert_eq!(carried(&both, &[("x", "y")], 1), ["x=y"]);
        assert!(carried(&[("tracestate", "a=1")], &[], 8).is_empty());
    }

    #[test]
    fn what_is_no_trace_is_not_carried() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert!(!is_trace_parent(wrong), "{wrong}");
        }
        assert!(is_trace_parent(TRACE));
        assert!(is_trace_parent(
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes"
        ));
    }
}
