//! Spans of publishes, for a collector that speaks OTLP.
//!
//! A message whose `traceparent` says that its trace is sampled leaves a span: when the broker took
//! it, how long it took to hand it to all receivers, and to how many. [`Spans`] gathers them, and
//! [`to_json`] writes them as OTLP has it over HTTP; sending is the server's. While nothing is
//! exported, a publish costs one relaxed load.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use protocols::model::{Message, Timestamp};
use serde_json::{Value, json};

use super::{Counter, moment_us};

/// Spans that wait to be sent; further ones are counted and forgotten.
const WAITING: usize = 4096;

/// Where spans are gathered.
#[derive(Debug, Default)]
pub struct Spans {
    is_on: AtomicBool,
    waiting: Mutex<Vec<Span>>,
    numbers: AtomicU64,
    identifiers: RandomState,
    /// Spans that were not sent: too many at once, or the collector did not take them.
    pub lost: Counter,
}

/// A span that has begun.
#[derive(Debug)]
pub struct Begun {
    trace: String,
    parent: String,
    at: Timestamp,
    moment_us: u64,
}

/// A span.
#[derive(Debug)]
pub struct Span {
    begun: Begun,
    took_us: u64,
    id: u64,
    topic: String,
    bytes: usize,
    /// How many took the message; `None` if it was refused.
    receivers: Option<u32>,
}

impl Spans {
    /// Spans are gathered from now on.
    pub fn switch_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Begins the span of a publish, if anybody wants it.
    #[inline]
    pub fn begin(&self, message: &Message, at: Timestamp) -> Option<Begun> {
        if !self.is_on.load(Ordering::Relaxed) {
            return None;
        }
        let user = &message.properties.as_ref()?.user;
        let (_, parent) = user.iter().find(|(name, _)| name == "traceparent")?;
        let (trace, parent) = sampled(parent)?;
        Some(Begun {
            trace: trace.to_owned(),
            parent: parent.to_owned(),
            at,
            moment_us: moment_us(),
        })
    }

    /// Ends a span.
    pub fn end(&self, begun: Begun, message: &Message, receivers: Option<u32>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let span = Span {
            took_us: moment_us().saturating_sub(begun.moment_us),
            begun,
            // All zeros is no identifier.
            id: self.identifiers.hash_one(number).max(1),
            topic: message.topic.as_str().to_owned(),
            bytes: message.payload.len(),
            receivers,
        };
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING {
            self.lost.inc();
            return;
        }
        waiting.push(span);
    }

    /// What is counted, in Prometheus' text format.
    pub fn render(&self) -> String {
        let name = "polycast_trace_spans_lost_total";
        format!(
            "# HELP {name} Spans that were not sent.\n# TYPE {name} counter\n{name} {}\n",
            self.lost.value()
        )
    }

    /// The spans that wait to be sent, once.
    pub fn take(&self) -> Vec<Span> {
        std::mem::take(&mut *self.waiting.lock())
    }
}

/// The trace and the span of a `traceparent` that is sampled (Trace Context §3.2.2).
fn sampled(parent: &str) -> Option<(&str, &str)> {
    let mut parts = parent.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let is_good = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && flags & 1 == 1;
    is_good.then_some((trace, span))
}

/// `ExportTraceServiceRequest` in JSON (OTLP 1.x).
pub fn to_json(spans: &[Span]) -> Value {
    json!({"resourceSpans": [{
        "resource": {"attributes": [text("service.name", "polycast"), text("service.version", env!("CARGO_PKG_VERSION"))]},
        "scopeSpans": [{
            "scope": {"name": "polycast", "version": env!("CARGO_PKG_VERSION")},
            "spans": spans.iter().map(span).collect::<Vec<_>>(),
        }],
    }]})
}

fn span(span: &Span) -> Value {
    /// `SPAN_KIND_SERVER`.
    const KIND: u32 = 2;
    /// `STATUS_CODE_ERROR`.
    const ERROR: u32 = 2;
    let start = span.begun.at.0.saturating_mul(1_000_000);
    let end = start.saturating_add(span.took_us.saturating_mul(1000));
    let mut attributes = vec![
        text("messaging.system", "polycast"),
        text("messaging.operation.type", "send"),
        text("messaging.destination.name", &span.topic),
        number("messaging.message.body.size", span.bytes as u64),
    ];
    if let Some(receivers) = span.receivers {
        attributes.push(number("polycast.receivers", receivers.into()));
    }
    json!({
        "traceId": span.begun.trace,
        "spanId": format!("{:016x}", span.id),
        "parentSpanId": span.begun.parent,
        "name": format!("publish {}", span.topic),
        "kind": KIND,
        "startTimeUnixNano": start.to_string(),
        "endTimeUnixNano": end.to_string(),
        "attributes": attributes,
        "status": if span.receivers.is_some() { json!({}) } else { json!({"code": ERROR}) },
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocols::model::{QoS, Topic};

    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn traced(parent: &str) -> Message {
        let topic = Topic::parse("a/b".into(), 8, 8).unwrap();
        let mut message = Message::new(topic, Bytes::from_static(b"xyz"), QoS::AtMostOnce, false);
        let user = &mut message.properties.get_or_insert_default().user;
        user.push(("traceparent".into(), parent.into()));
        message
    }

    #[test]
    fn only_sampled_traces_leave_spans_and_only_if_they_are_wanted() {
        let spans = Spans::default();
        assert!(spans.begin(&traced(TRACE), Timestamp(1)).is_none());
        spans.switch_on();
        assert!(spans.begin(&traced(TRACE), Timestamp(1)).is_some());
        for other in [&TRACE.replace("-01", "-00"), "x", "00-x-y-01", ""] {
            assert!(
                spans.begin(&traced(other), Timestamp(1)).is_none(),
                "{other}"
            );
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let spans = Spans::default();
        spans.switch_on();
        let message = traced(TRACE);
        for _ in 0..WAITING + 3 {
            let begun = spans.begin(&message, Timestamp(1)).unwrap();
            spans.end(begun, &message, Some(1));
        }
        assert_eq!(spans.lost.value(), 3);
        assert_eq!(spans.take().len(), WAITING);
        assert!(spans.take().is_empty());
    }

    #[test]
    fn spans_are_written_as_otlp_has_them() {
        let spans = Spans::default();
        spans.switch_on();
        let message = traced(TRACE);
        for receivers in [Some(2), None] {
            let begun = spans.begin(&message, Timestamp(1_700_000_000_123)).unwrap();
            spans.end(begun, &message, receivers);
        }
        let value = to_json(&spans.take());
        let spans = &value["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(spans[0]["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(spans[0]["parentSpanId"], "00f067aa0ba902b7");
        assert_eq!(spans[0]["startTimeUnixNano"], "1700000000123000000");
        assert_eq!(spans[0]["name"], "publish a/b");
        assert_eq!(spans[0]["attributes"][4]["value"]["intValue"], "2");
        assert_eq!(spans[1]["status"]["code"], 2);
        assert_ne!(spans[0]["spanId"], spans[1]["spanId"]);
    }
}
