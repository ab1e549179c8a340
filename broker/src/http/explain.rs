//! Why a message goes where it goes: who would receive it, as what frame, and which rule decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use protocols::model::{Message, QoS, Topic};
use protocols::registry::PROTOCOLS;
use serde_json::{Value, json};

use super::frames;
use super::problem::Problem;
use super::retained::topic as read_topic;
use super::text::{cursor, number_cursor, shown};
use super::{Answer, Call, body};
use crate::auth::access::{Action, Reason};
use crate::auth::{Identity, Method};
use crate::hub::{Hub, Receiver};

/// Receivers of one page: for each of them all rules are gone through.
const ROWS: usize = 50;
/// What the explained message says.
const PAYLOAD: &[u8] = b"example";

/// `GET /api/v1/explain`
pub(super) fn explain(call: &Call<'_>) -> Result<Answer, Problem> {
    let text = call.query.text("topic").unwrap_or_default();
    let topic = read_topic(call, text)?;
    let qos = QoS::from_u8(u8::try_from(call.query.number("qos", 0, 2)?.unwrap_or(1)).unwrap_or(1));
    let qos = qos.unwrap_or_default();
    let only = protocol(call, "as")?;
    let (publish, publisher) = publisher(call, &topic)?;
    let mut message = Message::new(topic.clone(), Bytes::from_static(PAYLOAD), qos, false);
    message.publisher = publisher;
    let message = Arc::new(message);
    let skip = usize::try_from(number_cursor(call.query)?).unwrap_or(usize::MAX);
    let limit = call.limit()?.min(ROWS);
    let hub = &call.net.hub;
    let (found, all) = hub.receivers(&topic, skip, limit);
    let mut asked = BTreeMap::new();
    if let Some(only) = only {
        asked.insert(only.to_owned(), qos);
    }
    let rows: Vec<Value> = found
        .iter()
        .filter_map(|receiver| row(call, &message, receiver, only, &mut asked))
        .collect();
    let frames: BTreeMap<&str, Option<String>> = asked
        .iter()
        .map(|(name, qos)| {
            let frame = frames::shown(name, &message, *qos, &call.live.limits);
            (name.as_str(), frame)
        })
        .collect();
    let next = (skip.saturating_add(limit) < all).then(|| cursor(&(skip + limit).to_string()));
    let value = json!({
        "topic": topic.as_str(),
        "publish": publish,
        "receivers": rows,
        "shared": shared(call, &topic),
        "frames": frames,
        "cursor": next,
    });
    Ok(body::json(StatusCode::OK, &value).into())
}

/// The groups of which one member gets it.
fn shared(call: &Call<'_>, topic: &Topic) -> Vec<Value> {
    let (_, groups) = call.net.hub.describe_topic(topic);
    let rows = groups.iter().map(
        |(name, members, waiting)| json!({"name": name, "members": members, "waiting": waiting}),
    );
    rows.collect()
}

/// A protocol that the query names.
fn protocol<'a>(call: &'a Call<'_>, name: &str) -> Result<Option<&'a str>, Problem> {
    let Some(text) = call.query.text(name) else {
        return Ok(None);
    };
    let known = || PROTOCOLS.iter().map(|protocol| protocol.name());
    if known().chain(["http"]).any(|known| known == text) {
        return Ok(Some(text));
    }
    let known: Vec<&str> = known().collect();
    Err(Problem::invalid(format!(
        "`{name}` is {}; there are {}",
        shown(text),
        known.join(", ")
    )))
}

/// Whether the publisher may, and its number.
fn publisher(call: &Call<'_>, topic: &Topic) -> Result<(Value, u64), Problem> {
    let protocol = protocol(call, "from")?.unwrap_or("mqtt");
    let action = Action::of_publish(topic);
    let access = &call.net.hub.access;
    if let Some(rule) = Hub::reserved(topic) {
        let reason = Reason {
            allowed: false,
            rule,
        };
        return Ok((reason_json(&reason, action), 0));
    }
    let reason = if let Some(id) = call.query.text("clientId") {
        let session = call.net.hub.session(id);
        let session = session.ok_or_else(|| super::clients::no_client(id))?;
        let standing = session.rights.standing();
        let (who, spoken) = standing.map_or_else(
            || (Arc::default(), protocol),
            |held| (Arc::clone(&held.who), held.protocol),
        );
        let reason = access.explain(&who, (id, spoken), action, topic);
        return Ok((reason_json(&reason, action), session.number));
    } else {
        let user = call.query.text("user");
        let who = Identity {
            user: user.map(Into::into),
            method: if user.is_some() {
                Method::Password
            } else {
                Method::Anonymous
            },
            ..Identity::default()
        };
        access.explain(&who, ("", protocol), action, topic)
    };
    Ok((reason_json(&reason, action), 0))
}

fn reason_json(reason: &Reason, action: Action) -> Value {
    json!({"action": action.as_str(), "allowed": reason.allowed, "rule": reason.rule})
}

/// One receiver, and in `asked` what it speaks; `None` if only others are asked for.
fn row(
    call: &Call<'_>,
    message: &Arc<Message>,
    receiver: &Receiver,
    only: Option<&str>,
    asked: &mut BTreeMap<String, QoS>,
) -> Option<Value> {
    let session = &receiver.session;
    let standing = session.rights.standing();
    let spoken = standing.as_ref().map_or("none", |held| held.protocol);
    if only.is_some_and(|only| only != spoken) {
        return None;
    }
    let who = standing.map_or_else(Arc::default, |held| Arc::clone(&held.who));
    let action = Action::of_delivery(&message.topic);
    let access = &call.net.hub.access;
    let reason = access.explain(&who, (&session.client_id, spoken), action, &message.topic);
    let local = message.publisher == session.number;
    let mut terms = receiver.terms.iter().filter(|sub| !(local && sub.no_local));
    let qos = terms.clone().map(|sub| sub.effective(message.qos)).max();
    let is_durable = terms.any(|sub| sub.durable);
    let state = session.lock();
    if state.ended {
        return None;
    }
    let connected = state.link.as_ref().is_some_and(|link| link.end.is_none());
    let held = state.subscriptions.values();
    let subscriptions: Vec<&str> = held
        .filter(|held| receiver.terms.iter().any(|sub| sub.matched.id == held.id))
        .map(|held| held.request.filter.as_str())
        .collect();
    let outcome = match (qos, reason.allowed, connected) {
        (None, ..) => "not its own (no local)",
        (_, false, _) => "withheld",
        (Some(_), true, true) => "delivered",
        (Some(QoS::AtMostOnce), true, false) => "dropped: the client is away",
        (Some(_), true, false) if is_durable => "queued",
        (Some(_), true, false) => "dropped: the client is away",
    };
    let qos = qos.unwrap_or_default();
    if spoken != "none" {
        let level = asked.entry(spoken.to_owned()).or_insert(qos);
        *level = (*level).max(qos);
    }
    Some(json!({
        "clientId": &*session.client_id,
        "user": session.user_name(),
        "protocol": spoken,
        "connected": connected,
        "subscriptions": subscriptions,
        "qos": qos as u8,
        "outcome": outcome,
        "allowed": reason.allowed,
        "rule": reason.rule,
    }))
}
