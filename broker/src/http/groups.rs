//! What clients listen to: their subscriptions, groups and who is in them, and topics.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytestring::ByteString;
use http::StatusCode;
use protocols::connection::{
    Lane, Overlap, RetainHandling, Subscribe, SubscribeRequest, Token, topics,
};
use protocols::model::{Kind, QoS, SubscriptionFilter};
use protocols::stomp;
use serde::Deserialize;
use serde_json::{Value, json};
use smallvec::SmallVec;

use super::clients::session;
use super::problem::Problem;
use super::retained::topic as read_topic;
use super::text::{cursor, number_cursor, read_cursor, shown, wrong_cursor};
use super::{Answer, Call, body};
use crate::session::{Batch, Session, Subscription};

/// Topics of one request.
const TOPICS: usize = 1000;

fn row(held: &Subscription) -> Value {
    let request = &held.request;
    let share = match request.filter.kind() {
        Kind::Shared { group } => Some(group.to_string()),
        _ => None,
    };
    json!({
        "topic": request.filter.as_str(),
        "filter": request.filter.filter().as_str(),
        "share": share,
        "qos": request.qos as u8,
        "noLocal": request.no_local,
        "durable": request.durable,
    })
}

/// The subscriptions of a session behind the one with this number, by number, and the number of the
/// last if there are more.
fn page(session: &Session, after: u32, limit: usize) -> (Vec<Value>, Option<u32>) {
    let mut held: Vec<Subscription> = {
        let state = session.lock();
        let all = state.subscriptions.values();
        all.filter(|held| held.id.0 > after).cloned().collect()
    };
    held.sort_by_key(|held| held.id);
    let more = held.len() > limit;
    held.truncate(limit);
    let last = held.last().map(|held| held.id.0).filter(|_| more);
    (held.iter().map(row).collect(), last)
}

/// `GET /api/v1/clients/{clientId}/subscriptions`
pub(super) fn subscriptions(call: &Call<'_>) -> Result<Answer, Problem> {
    let session = session(call)?;
    let after = u32::try_from(number_cursor(call.query)?).unwrap_or(u32::MAX);
    let (rows, next) = page(&session, after, call.limit()?);
    let value = json!({
        "subscriptions": rows,
        "cursor": next.map(|number| cursor(&number.to_string())),
    });
    Ok(body::json(StatusCode::OK, &value).into())
}

/// `GET /api/v1/subscriptions`: of all clients.
pub(super) fn all_subscriptions(call: &Call<'_>) -> Result<Answer, Problem> {
    let limit = call.limit()?;
    let (mut number, mut after) = match read_cursor(call.query, "cursor")? {
        None => (0, 0),
        Some(text) => text
            .split_once('.')
            .and_then(|(number, after)| Some((number.parse::<u64>().ok()?, after.parse().ok()?)))
            .ok_or_else(|| wrong_cursor("cursor", call.query.text("cursor").unwrap_or_default()))?,
    };
    let mut rows = Vec::new();
    let mut next = None;
    // One of its own for a session whose subscriptions did not all fit.
    let sessions = call.net.hub.sessions_page(number.saturating_sub(1), limit);
    for session in &sessions.rows {
        let from = if session.number == number { after } else { 0 };
        let (found, more) = page(session, from, limit - rows.len());
        rows.extend(found.into_iter().map(|mut row| {
            row["clientId"] = json!(&*session.client_id);
            row
        }));
        (number, after) = (session.number, more.unwrap_or(u32::MAX));
        if more.is_some() || rows.len() >= limit {
            next = Some(format!("{number}.{after}"));
            break;
        }
    }
    let behind = sessions.next.map(|number| format!("{}.0", number + 1));
    let next = next.or(behind).map(|text| cursor(&text));
    let value = json!({"subscriptions": rows, "cursor": next});
    Ok(body::json(StatusCode::OK, &value).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wish {
    topics: Vec<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    no_local: bool,
    retained: Option<bool>,
}

/// `POST /api/v1/clients/{clientId}/subscriptions`: subscribes in the client's place.
pub(super) fn subscribe(call: &Call<'_>) -> Result<Answer, Problem> {
    let wish: Wish = serde_json::from_slice(&call.body).map_err(|error| {
        Problem::invalid(format!(
            "the body is not {{\"topics\":[\"a/b\"],\"qos\":1}}: {error}"
        ))
    })?;
    if wish.topics.is_empty() || wish.topics.len() > TOPICS {
        let detail = format!("`topics` must name 1 to {TOPICS} topics");
        return Err(Problem::invalid(detail));
    }
    let qos = QoS::from_u8(wish.qos)
        .ok_or_else(|| Problem::invalid(format!("`qos` is {}; 0, 1 or 2 is needed", wish.qos)))?;
    let handling = match wish.retained {
        Some(true) | None => RetainHandling::Send,
        Some(false) => RetainHandling::DoNotSend,
    };
    let requests = wish.topics.iter().map(|text| {
        let mut request = request(call, text, qos, handling)?;
        request.no_local = wish.no_local && matches!(request.filter.kind(), Kind::Plain);
        Ok(request)
    });
    let requests = requests.collect::<Result<Vec<_>, Problem>>()?;
    let (answer, results) = make(call, requests)?;
    let results: Vec<Value> = wish
        .topics
        .iter()
        .zip(results)
        .map(|(topic, result)| match result {
            Ok(qos) => json!({"topic": topic, "status": 200, "qos": qos as u8}),
            Err(problem) => json!({
                "topic": topic,
                "status": problem.status.as_u16(),
                "error": problem.to_json(),
            }),
        })
        .collect();
    let response = body::json(StatusCode::OK, &json!({"results": results}));
    Ok(Answer { response, ..answer })
}

/// A subscription as a client that speaks MQTT or JSON would make it: its key is its text, so that
/// the client itself can end it.
pub(super) fn request(
    call: &Call<'_>,
    text: &str,
    qos: QoS,
    retain_handling: RetainHandling,
) -> Result<SubscribeRequest, Problem> {
    let limits = &call.live.limits;
    let filter = SubscriptionFilter::parse(text.into(), limits.topic_bytes, limits.topic_levels)
        .map_err(|error| {
            let detail = format!("{} is not a topic filter: {error}", shown(text));
            Problem::new(StatusCode::BAD_REQUEST, "filterInvalid", detail)
        })?;
    Ok(SubscribeRequest {
        key: filter.text().clone(),
        filter,
        qos: qos.min(limits.maximum_qos),
        no_local: false,
        retain_as_published: false,
        retain_handling,
        identifier: None,
        lane: Lane::Session,
        auto_settle: false,
        durable: true,
    })
}

/// Makes subscriptions for the client that the path names.
fn make(
    call: &Call<'_>,
    mut requests: Vec<SubscribeRequest>,
) -> Result<(Answer, Vec<Result<QoS, Problem>>), Problem> {
    let session = session(call)?;
    let hub = &call.net.hub;
    let mut batch = call.batch();
    // After what the client itself is asking for at this moment.
    let _turn = session.turn.lock();
    name_for_stomp(&session, &mut requests);
    let subscribe = Subscribe {
        token: Token::default(),
        requests: requests.into_iter().map(Ok).collect::<SmallVec<_>>(),
    };
    let results = hub.subscribe(&session, subscribe, &mut batch);
    hub.pump(&session, &mut batch);
    let results = results
        .into_iter()
        .map(|result| result.map(|granted| granted.qos).map_err(Problem::from))
        .collect();
    let answer = Answer::of(call, batch, body::empty(StatusCode::NO_CONTENT));
    Ok((answer, results))
}

/// STOMP names the subscription of each message. What is made in a client's place is named
/// `server-N`, and lasts as long as the connection; nobody acknowledges its messages, as the client
/// did not say that it would.
fn name_for_stomp(session: &Session, requests: &mut [SubscribeRequest]) {
    let state = session.lock();
    if state.overlap != Overlap::Each {
        return;
    }
    let held = state.subscriptions.values().map(|held| &held.request);
    let given = held.filter_map(|held| Some((held.filter.clone(), held.identifier?)));
    let mut given: Vec<(SubscriptionFilter, NonZeroU32)> = given.collect();
    drop(state);
    for request in requests {
        let known = given.iter().find(|(filter, _)| *filter == request.filter);
        let identifier = known.map_or_else(
            || {
                let last = given.iter().map(|(_, number)| *number).max();
                last.map_or(NonZeroU32::MIN, |last| last.saturating_add(1))
            },
            |(_, number)| *number,
        );
        given.push((request.filter.clone(), identifier));
        request.identifier = Some(identifier);
        request.key = format!("{}{identifier}", stomp::GIVEN).into();
        request.qos = QoS::AtMostOnce;
        request.durable = false;
    }
}

/// Ends subscriptions of a client; says for each whether it was there.
fn end(
    call: &Call<'_>,
    session: &Arc<Session>,
    topics: &[&str],
    batch: &mut Batch,
) -> SmallVec<[bool; 1]> {
    let keys: Vec<ByteString> = {
        let state = session.lock();
        // Those that were made in the place of a STOMP client have names that nobody asked for.
        let given = |topic: &str| {
            let mut held = state.subscriptions.values().map(|held| &held.request);
            let is_it = |held: &&SubscribeRequest| {
                held.identifier.is_some() && held.filter.as_str() == topic
            };
            let found = held.find(is_it).filter(|_| state.overlap == Overlap::Each);
            found.map_or_else(|| topic.into(), |held| held.key.clone())
        };
        topics.iter().copied().map(given).collect()
    };
    call.net.hub.unsubscribe(session, &keys, batch)
}

/// `DELETE /api/v1/clients/{clientId}/subscriptions?topic=…`
pub(super) fn unsubscribe(call: &Call<'_>) -> Result<Answer, Problem> {
    let topics: Vec<&str> = call.query.all("topic").collect();
    if topics.is_empty() || topics.len() > TOPICS {
        let detail = format!("`topic` must name 1 to {TOPICS} subscriptions: ?topic=a/b");
        return Err(Problem::invalid(detail));
    }
    let session = session(call)?;
    let mut batch = call.batch();
    let _turn = session.turn.lock();
    let existed = end(call, &session, &topics, &mut batch);
    let results: Vec<Value> = topics
        .iter()
        .zip(existed)
        .map(|(topic, existed)| json!({"topic": topic, "status": if existed { 200 } else { 404 }}))
        .collect();
    let response = body::json(StatusCode::OK, &json!({"results": results}));
    Ok(Answer::of(call, batch, response))
}

/// The topic of the group that the path names.
fn group_topic(text: &str) -> Result<String, Problem> {
    if text.is_empty() || text.contains(['/', '+', '#', '\0']) {
        let detail = format!(
            "the group is {}; it must not be empty and not contain / + # or NUL",
            shown(text)
        );
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "topicInvalid",
            detail,
        ));
    }
    Ok(format!("{}{text}", topics::GROUP))
}

/// `PUT /api/v1/clients/{clientId}/groups/{group}`
pub(super) fn join(call: &Call<'_>) -> Result<Answer, Problem> {
    let topic = group_topic(&call.path[1])?;
    let qos = QoS::from_u8(u8::from(call.query.number("qos", 0, 1)? != Some(0)));
    let request = request(
        call,
        &topic,
        qos.unwrap_or_default(),
        RetainHandling::SendIfNew,
    )?;
    let (answer, results) = make(call, vec![request])?;
    match results.into_iter().next() {
        Some(Err(problem)) => Err(problem),
        _ => Ok(answer),
    }
}

/// `DELETE /api/v1/clients/{clientId}/groups/{group}`
pub(super) fn leave(call: &Call<'_>) -> Result<Answer, Problem> {
    let topic = group_topic(&call.path[1])?;
    let session = session(call)?;
    let mut batch = call.batch();
    let _turn = session.turn.lock();
    let existed = end(call, &session, &[&topic], &mut batch);
    let response = if existed[..] == [true] {
        body::empty(StatusCode::NO_CONTENT)
    } else {
        let (client, group) = (shown(&call.path[0]), shown(&call.path[1]));
        Problem::not_found(format!("the client {client} is not in the group {group}"))
            .into_response(super::problem::Face::Rest)
    };
    Ok(Answer::of(call, batch, response))
}

/// `GET /api/v1/groups/{group}/members`: who of a group is connected.
pub(super) fn members(call: &Call<'_>) -> Result<Answer, Problem> {
    let topic = read_topic(call, &group_topic(&call.path[0])?)?;
    let after = number_cursor(call.query)?;
    let page = call.net.hub.receivers_page(&topic, after, call.limit()?);
    let rows: Vec<Value> = page.rows.iter().filter_map(member).collect();
    let next = page.next.map(|number| cursor(&number.to_string()));
    let value = json!({"members": rows, "cursor": next});
    Ok(body::json(StatusCode::OK, &value).into())
}

fn member(session: &Arc<Session>) -> Option<Value> {
    let state = session.lock();
    let link = state.link.as_ref().filter(|link| link.end.is_none())?;
    Some(json!({
        "clientId": &*session.client_id,
        "connectionId": link.connection_id(),
        "user": session.user_name(),
    }))
}

/// `GET /api/v1/topics/{topic}`: whom a message would go to.
pub(super) fn topic(call: &Call<'_>) -> Result<Answer, Problem> {
    let topic = read_topic(call, &call.path[0])?;
    let hub = &call.net.hub;
    let (subscribers, groups) = hub.describe_topic(&topic);
    let groups: Vec<Value> = groups
        .iter()
        .map(|(name, members, waiting)| {
            json!({"name": name, "members": members, "waiting": waiting})
        })
        .collect();
    let value = json!({
        "topic": topic.as_str(),
        "subscribers": subscribers,
        "shared": groups,
        "retained": hub.retained(&topic, call.net.clock.now()).is_some(),
    });
    Ok(body::json(StatusCode::OK, &value).into())
}
