//! The broker as a whole: its status, its topics, its groups.

use http::StatusCode;
use protocols::model::{QoS, Topic};
use serde_json::{Value, json};

use super::problem::Problem;
use super::retained::filter;
use super::text::{cursor, read_cursor, wrong_cursor};
use super::{Answer, Call, body};
use crate::store::Durability;
use crate::telemetry::{ProtocolMetrics, Transport};

const TRANSPORTS: [Transport; 4] = [
    Transport::Tcp,
    Transport::Tls,
    Transport::WebSocket,
    Transport::WebSocketTls,
];
const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// `GET /api/v1/status`
#[allow(clippy::unnecessary_wraps)] // all operations look alike
pub(super) fn status(call: &Call<'_>) -> Result<Answer, Problem> {
    let (net, now) = (call.net, call.net.clock.now());
    let hub = &net.hub;
    hub.gauge();
    let metrics = &hub.metrics;
    let full = hub.store().and_then(|store| store.room().err());
    let state = match (hub.is_stopping(), &full) {
        (true, _) => "stopping",
        (false, Some(_)) => "degraded",
        (false, None) => "ok",
    };
    let protocols: Vec<Value> = metrics
        .protocols()
        .iter()
        .filter(|protocol| protocol.name != "none")
        .map(|protocol| protocol_row(protocol))
        .collect();
    let store = hub.store().and_then(|store| store.stats()).map(|stats| {
        json!({
            "durability": match stats.durability {
                Durability::Fsync => "fsync",
                Durability::Interval(_) => "interval",
                Durability::None => "none",
            },
            "messages": stats.stored_messages,
            "bytes": stats.journal_bytes,
        })
    });
    let value = json!({
        "status": state,
        "reason": full.map(|full| full.to_string()),
        "version": env!("CARGO_PKG_VERSION"),
        "uptimeSeconds": net.api.started.elapsed().as_secs(),
        "draining": net.api.control.draining(),
        "connections": net.admission.connections(),
        "clients": hub.connected_count(),
        "sessions": hub.session_count(),
        "subscriptions": metrics.subscriptions_in_all(),
        "groups": metrics.groups.value(),
        "retained": {
            "messages": metrics.retained_messages.value(),
            "bytes": metrics.retained_bytes.value(),
        },
        "protocols": protocols,
        "store": store,
        "bans": hub.guard.bans.len(now),
        "revocations": net.auth.load().revocations().list(now).len(),
    });
    Ok(body::json(StatusCode::OK, &value).into())
}

fn protocol_row(protocol: &ProtocolMetrics) -> Value {
    let connections: i64 = TRANSPORTS
        .iter()
        .map(|transport| protocol.connections(*transport).value())
        .sum();
    let received: u64 = LEVELS
        .iter()
        .map(|qos| protocol.received(*qos).value())
        .sum();
    let delivered: u64 = LEVELS
        .iter()
        .map(|qos| protocol.delivered(*qos).value())
        .sum();
    json!({
        "protocol": protocol.name,
        "connections": connections,
        "messagesReceived": received,
        "messagesDelivered": delivered,
    })
}

/// `GET /api/v1/topics`: those with a retained message first, then those that were published to
/// lately.
pub(super) fn topics(call: &Call<'_>) -> Result<Answer, Problem> {
    let filter = filter(call)?;
    let given = call.query.text("cursor").unwrap_or_default();
    let place = read_cursor(call.query, "cursor")?.unwrap_or_else(|| "r".to_owned());
    let (hub, now, limit) = (&call.net.hub, call.net.clock.now(), call.limit()?);
    let mut rows = Vec::new();
    let mut after = String::new();
    if let Some(text) = place.strip_prefix('r') {
        let any = usize::from(u16::MAX);
        let behind = (!text.is_empty()).then(|| Topic::parse(text.into(), any, any));
        let behind = behind
            .transpose()
            .map_err(|_| wrong_cursor("cursor", given))?;
        let page = hub.retained_page(filter.as_ref(), behind.as_ref(), limit, now);
        rows.extend(
            page.messages
                .iter()
                .map(|message| row(call, &message.topic)),
        );
        if let Some(next) = page.next {
            let next = cursor(&format!("r{}", next.as_str()));
            return Ok(answer(&rows, Some(&next)));
        }
    } else if let Some(text) = place.strip_prefix('k') {
        text.clone_into(&mut after);
    } else {
        return Err(wrong_cursor("cursor", given));
    }
    let room = limit.saturating_sub(rows.len());
    if room == 0 {
        return Ok(answer(&rows, Some(&cursor("k"))));
    }
    let page = hub.known_topics(filter.as_ref(), &after, room, now);
    rows.extend(page.topics.iter().map(|topic| row(call, topic)));
    let next = page.next.map(|next| cursor(&format!("k{next}")));
    Ok(answer(&rows, next.as_deref()))
}

fn answer(rows: &[Value], next: Option<&str>) -> Answer {
    let value = json!({"topics": rows, "cursor": next});
    body::json(StatusCode::OK, &value).into()
}

fn row(call: &Call<'_>, topic: &Topic) -> Value {
    let hub = &call.net.hub;
    let (subscribers, groups) = hub.describe_topic(topic);
    json!({
        "topic": topic.as_str(),
        "subscribers": subscribers,
        "shared": groups.len(),
        "retained": hub.retained(topic, call.net.clock.now()).is_some(),
    })
}

/// `GET /api/v1/groups`: shared groups and queues.
pub(super) fn groups(call: &Call<'_>) -> Result<Answer, Problem> {
    let after = read_cursor(call.query, "cursor")?.unwrap_or_default();
    let all = call.net.hub.groups();
    let from = all.partition_point(|(name, _)| *name <= after);
    let to = all.len().min(from + call.limit()?);
    let rows = all[from..to].iter().map(|(name, group)| {
        json!({
            "name": name,
            "kind": if group.is_queue() { "queue" } else { "share" },
            "members": group.members(),
            "waiting": group.backlog(),
            "durable": group.is_stored(),
        })
    });
    let rows: Vec<Value> = rows.collect();
    let next = all[from..to].last().filter(|_| to < all.len());
    let next = next.map(|(name, _)| cursor(name));
    let value = json!({"groups": rows, "cursor": next});
    Ok(body::json(StatusCode::OK, &value).into())
}
