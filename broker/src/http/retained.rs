//! Retained messages: list, show, delete.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{self, HeaderValue};
use protocols::json;
use protocols::model::{Filter, Message, Topic};
use serde_json::{Value, json};

use super::guard::Action;
use super::problem::Problem;
use super::text::{cursor, moment, read_cursor, shown, wrong_cursor};
use super::{Answer, Call, body};

/// Reads a topic within the limits.
pub(super) fn topic(call: &Call<'_>, text: &str) -> Result<Topic, Problem> {
    let limits = &call.live.limits;
    Topic::parse(text.into(), limits.topic_bytes, limits.topic_levels).map_err(|error| {
        let detail = format!("{} is not a topic: {error}", shown(text));
        Problem::new(StatusCode::BAD_REQUEST, "topicInvalid", detail)
    })
}

/// The topic behind which a page begins.
pub(super) fn after(call: &Call<'_>, name: &str) -> Result<Option<Topic>, Problem> {
    let Some(text) = read_cursor(call.query, name)? else {
        return Ok(None);
    };
    let any = usize::from(u16::MAX);
    let topic = Topic::parse(text.as_str().into(), any, any);
    topic
        .map(Some)
        .map_err(|_| wrong_cursor(name, call.query.text(name).unwrap_or_default()))
}

/// The topic filter that the query has, if it has one.
pub(super) fn filter(call: &Call<'_>) -> Result<Option<Filter>, Problem> {
    let limits = &call.live.limits;
    let filter = call.query.text("filter").map(|text| {
        Filter::parse(text.into(), limits.topic_bytes, limits.topic_levels).map_err(|error| {
            let detail = format!("`filter` is {}: {error}", shown(text));
            Problem::new(StatusCode::BAD_REQUEST, "filterInvalid", detail)
        })
    });
    filter.transpose()
}

/// `GET /api/v1/retained`
pub(super) fn list(call: &Call<'_>) -> Result<Answer, Problem> {
    let filter = filter(call)?;
    let after = after(call, "cursor")?;
    let now = call.net.clock.now();
    let hub = &call.net.hub;
    let page = hub.retained_page(filter.as_ref(), after.as_ref(), call.limit()?, now);
    let readable = page
        .messages
        .iter()
        .filter(|message| call.caller.may_read(call.net, message));
    let rows: Vec<Value> = readable.map(|message| row(message)).collect();
    let next = page.next.map(|topic| cursor(topic.as_str()));
    let value = json!({"retained": rows, "cursor": next});
    Ok(body::json(StatusCode::OK, &value).into())
}

fn row(message: &Message) -> Value {
    let properties = message.properties.as_deref();
    json!({
        "topic": message.topic.as_str(),
        "size": message.payload.len(),
        "qos": message.qos as u8,
        "contentType": properties.and_then(|held| held.content_type.as_deref()),
        "retainedAt": (message.retained_at.0 != 0).then(|| moment(message.retained_at)),
        "expiresAt": message.expires_at.map(moment),
    })
}

/// `GET /api/v1/retained/{topic}`: as JSON clients see it, or with `raw=true` the payload alone.
pub(super) fn show(call: &Call<'_>) -> Result<Answer, Problem> {
    let topic = topic(call, &call.path[0])?;
    call.caller
        .require(Action::Subscribe, Some(topic.as_str()))?;
    let message = call.net.hub.retained(&topic, call.net.clock.now());
    let message = message.filter(|message| call.caller.may_read(call.net, message));
    let message = message.ok_or_else(|| none(&topic))?;
    if call.query.truth("raw")?.unwrap_or(false) {
        return Ok(raw(&message).into());
    }
    // As text, so that numbers of the payload keep their digits.
    let mut text = json::object_of(&message);
    text.pop();
    let _ = write!(text, ",\"retained\":true,\"qos\":{}", message.qos as u8);
    if message.retained_at.0 != 0 {
        let _ = write!(text, ",\"retainedAt\":\"{}\"", moment(message.retained_at));
    }
    if let Some(at) = message.expires_at {
        let _ = write!(text, ",\"expiresAt\":\"{}\"", moment(at));
    }
    text.push_str("}\n");
    Ok(body::typed(StatusCode::OK, "application/json", text).into())
}

fn raw(message: &Message) -> http::Response<body::Body> {
    let mut response = body::typed(
        StatusCode::OK,
        "application/octet-stream",
        message.payload.clone(),
    );
    let properties = message.properties.as_deref();
    let kind = properties.and_then(|held| held.content_type.as_deref());
    if let Some(kind) = kind.and_then(|kind| HeaderValue::from_str(kind).ok()) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, kind);
        // Whoever published it chose the type: no browser is to run it as a page of ours.
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("sandbox; default-src 'none'"),
        );
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
    }
    response
}

/// 404.
pub(super) fn none(topic: &Topic) -> Problem {
    let shown = shown(topic.as_str());
    Problem::not_found(format!("there is no retained message on {shown}"))
}

/// `DELETE /api/v1/retained/{topic}`
pub(super) fn delete(call: &Call<'_>) -> Result<Answer, Problem> {
    let topic = topic(call, &call.path[0])?;
    call.caller.require(Action::Publish, Some(topic.as_str()))?;
    let mut batch = call.batch();
    let found = call.net.hub.forget_retained(&topic, &mut batch);
    let response = if found {
        body::empty(StatusCode::NO_CONTENT)
    } else {
        none(&topic).into_response(super::problem::Face::Rest)
    };
    Ok(Answer::of(call, batch, response))
}

/// A payload in base64, as AWS IoT writes it.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
