//! Following one client or one topic through the broker, for those who look for a fault.
//!
//! While nobody looks it costs one load at each place. Whoever looks has a bounded queue of its own:
//! what does not fit, or comes too fast, is counted and told ([`Trace::take_lost`]), and nobody waits.
//! Payloads are never shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytestring::ByteString;
use parking_lot::{Mutex, RwLock};
use protocols::model::{Filter, Message, QoS, Topic};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Traces at a time.
pub const TRACES_MAX: usize = 16;
/// Events that wait for their reader.
const WAITING: usize = 1024;
/// Events of one trace in a second.
const PER_SECOND: u64 = 2000;

static ACTIVE: AtomicUsize = AtomicUsize::new(0);
static TRACES: RwLock<Vec<Arc<Trace>>> = RwLock::new(Vec::new());

/// What is followed.
#[derive(Clone, Debug)]
pub enum Follow {
    /// A client, by its identifier.
    Client(ByteString),
    /// All topics that a filter matches.
    Topics(Filter),
}

/// One who looks.
#[derive(Debug)]
pub struct Trace {
    follow: Follow,
    sender: mpsc::Sender<String>,
    lost: AtomicU64,
    /// The second that is counted, and its events.
    pace: Mutex<(u64, u64)>,
}

/// The reader's end; the trace ends when it is dropped.
#[derive(Debug)]
pub struct Reader {
    /// The events, each a line of JSON.
    pub events: mpsc::Receiver<String>,
    trace: Arc<Trace>,
}

/// Something that happened.
#[derive(Debug)]
pub struct Event<'a> {
    /// What: `connected`, `published`, `delivered`, `dropped`, …
    pub what: &'static str,
    /// To or by which client; empty where there is none.
    pub client: &'a str,
    /// With which topic, if with one.
    pub topic: Option<&'a Topic>,
    /// With which filter, if with one.
    pub filter: Option<&'a Filter>,
    /// More about it, an object.
    pub more: Value,
}

/// Whether anybody looks. To be asked before an event is put together.
#[inline]
pub fn is_on() -> bool {
    ACTIVE.load(Ordering::Relaxed) > 0
}

/// Begins to follow; `None` if there are as many traces as there may be.
pub fn follow(follow: Follow) -> Option<Reader> {
    let (sender, events) = mpsc::channel(WAITING);
    let trace = Arc::new(Trace {
        follow,
        sender,
        lost: AtomicU64::new(0),
        pace: Mutex::default(),
    });
    let mut traces = TRACES.write();
    if traces.len() >= TRACES_MAX {
        return None;
    }
    traces.push(Arc::clone(&trace));
    ACTIVE.store(traces.len(), Ordering::Relaxed);
    Some(Reader { events, trace })
}

/// Tells those who follow the client or the topic.
pub fn note(event: &Event<'_>) {
    let mut line = None;
    for trace in TRACES.read().iter().filter(|trace| trace.wants(event)) {
        let (at, second) = now();
        if !trace.has_room(second) {
            trace.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let line: &String = line.get_or_insert_with(|| event.line(at));
        if trace.sender.try_send(line.clone()).is_err() {
            trace.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A message was published, with what came of it.
pub fn published(client: &str, protocol: &str, message: &Message, outcome: &Value) {
    note(&Event {
        what: "published",
        client,
        topic: Some(&message.topic),
        filter: None,
        more: json!({
            "protocol": protocol,
            "qos": message.qos as u8,
            "retain": message.retain,
            "size": message.payload.len(),
            "outcome": outcome,
        }),
    });
}

/// A message was written for a client.
pub fn delivered(client: &str, protocol: &str, message: &Message, qos: QoS, attempts: u32) {
    note(&Event {
        what: "delivered",
        client,
        topic: Some(&message.topic),
        filter: None,
        more: json!({
            "protocol": protocol,
            "qos": qos as u8,
            "size": message.payload.len(),
            "again": attempts > 0,
        }),
    });
}

/// A message was not written for a client.
pub fn dropped(client: &str, message: &Message, reason: &'static str) {
    note(&Event {
        what: "dropped",
        client,
        topic: Some(&message.topic),
        filter: None,
        more: json!({"reason": reason, "qos": message.qos as u8}),
    });
}

/// Something happened to a client.
pub fn client(what: &'static str, client: &str, more: Value) {
    note(&Event {
        what,
        client,
        topic: None,
        filter: None,
        more,
    });
}

fn now() -> (u64, u64) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    (ms, since.as_secs())
}

impl Trace {
    fn wants(&self, event: &Event<'_>) -> bool {
        match &self.follow {
            Follow::Client(client) => *client == event.client,
            Follow::Topics(filter) => {
                event.topic.is_some_and(|topic| filter.matches(topic))
                    || event.filter.is_some_and(|held| concerns(filter, held))
            }
        }
    }

    fn has_room(&self, second: u64) -> bool {
        let mut pace = self.pace.lock();
        if pace.0 != second {
            *pace = (second, 0);
        }
        pace.1 += 1;
        pace.1 <= PER_SECOND
    }
}

/// Whether a subscription is of interest to who follows a filter: it is the same, or one of the
/// two is a topic that the other one matches.
fn concerns(filter: &Filter, held: &Filter) -> bool {
    let any = usize::from(u16::MAX);
    let topic = |filter: &Filter| Topic::parse(filter.as_str().into(), any, any).ok();
    filter == held
        || topic(filter).is_some_and(|topic| held.matches(&topic))
        || topic(held).is_some_and(|topic| filter.matches(&topic))
}

impl Event<'_> {
    fn line(&self, at: u64) -> String {
        let mut line = json!({"at": at, "event": self.what});
        if !self.client.is_empty() {
            line["clientId"] = json!(self.client);
        }
        if let Some(topic) = self.topic {
            line["topic"] = json!(topic.as_str());
        }
        if let Some(filter) = self.filter {
            line["filter"] = json!(filter.as_str());
        }
        if let (Value::Object(line), Value::Object(more)) = (&mut line, &self.more) {
            line.extend(more.clone());
        }
        format!("{line}\n")
    }
}

impl Reader {
    /// Events that were lost since it was last asked.
    pub fn take_lost(&self) -> u64 {
        self.trace.lost.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut traces = TRACES.write();
        traces.retain(|trace| !Arc::ptr_eq(trace, &self.trace));
        ACTIVE.store(traces.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(topic: &str) -> Message {
        let topic = Topic::parse(topic.into(), 64, 8).unwrap();
        Message::new(
            topic,
            Bytes::from_static(b"secret"),
            QoS::AtLeastOnce,
            false,
        )
    }

    fn filter(text: &str) -> Filter {
        Filter::parse(text.into(), 64, 8).unwrap()
    }

    /// One test, as the traces are one list for the whole process.
    #[test]
    fn who_looks_is_told_within_bounds() {
        let mut client = follow(Follow::Client("trace-c".into())).unwrap();
        let mut topic = follow(Follow::Topics(filter("trace/+"))).unwrap();
        assert!(is_on());
        delivered("trace-c", "mqtt", &message("other/x"), QoS::AtMostOnce, 0);
        dropped("trace-d", &message("trace/x"), "queue_full");
        published("trace-d", "json", &message("trace"), &json!(1));
        note(&Event {
            what: "subscribed",
            client: "trace-e",
            topic: None,
            filter: Some(&filter("trace/#")),
            more: json!({}),
        });
        note(&Event {
            what: "subscribed",
            client: "trace-e",
            topic: None,
            filter: Some(&filter("trace/x")),
            more: json!({"qos": 1}),
        });
        let said = |reader: &mut Reader| -> Vec<Value> {
            let lines = std::iter::from_fn(|| reader.events.try_recv().ok());
            lines
                .map(|line| serde_json::from_str(&line).unwrap())
                .collect()
        };
        let by_client = said(&mut client);
        assert_eq!(by_client.len(), 1);
        assert_eq!(by_client[0]["event"], "delivered");
        assert!(!by_client[0].to_string().contains("secret"));
        let by_topic = said(&mut topic);
        assert_eq!(by_topic.len(), 2, "{by_topic:?}");
        assert_eq!(by_topic[0]["reason"], "queue_full");
        assert_eq!(by_topic[1]["filter"], "trace/x");
        for _ in 0..2 * WAITING {
            dropped("trace-c", &message("x"), "expired");
        }
        let lost = client.take_lost();
        assert_eq!(said(&mut client).len() as u64 + lost, 2 * WAITING as u64);
        assert!(lost >= WAITING as u64);
        let held: Vec<_> = std::iter::from_fn(|| follow(Follow::Client("x".into()))).collect();
        assert_eq!(held.len(), TRACES_MAX - 2);
        drop((held, client, topic));
        assert!(!is_on());
    }
}
