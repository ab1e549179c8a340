//! Publishing: one message or many, to a topic, a group, a user, a connection or everyone.
//!
//! A message is what a JSON client publishes, without the `type`; or, if the query names its target,
//! the body is the payload as it stands.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use http::StatusCode;
use http::header;
use protocols::connection::Publish;
use protocols::json::{Content, Data, Expiry, PublishRequest, Target};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::guard::Action;
use super::problem::Problem;
use super::text::{Query, shown};
use super::{Answer, Call, body, traceparent};
use crate::session::Batch;

/// Longest idempotency key in bytes.
const KEY_BYTES: usize = 256;

/// The topic that a message for one connection says it is on.
const CONNECTION: &str = "$connection/";

/// `POST /api/v1/publish`
pub(super) fn one(call: &Call<'_>) -> Result<Answer, Problem> {
    let header_key = header_key(call)?;
    let mut batch = call.batch();
    let receivers = match raw_request(call)? {
        Some((request, connection)) => publish(call, request, connection, header_key, &mut batch),
        None => from_json(call, json_body(call)?, header_key, &mut batch),
    };
    let receivers = match receivers {
        Ok(receivers) => receivers,
        Err(problem) => {
            batch.finish(&call.net.hub.metrics);
            return Err(problem);
        }
    };
    let response = body::json(status(receivers), &json!({"receivers": receivers}));
    Ok(Answer::of(call, batch, response))
}

/// 202 if nobody was there.
fn status(receivers: u32) -> StatusCode {
    if receivers == 0 {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    }
}

#[derive(Deserialize)]
struct Many<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

/// `POST /api/v1/publish/batch`
pub(super) fn many(call: &Call<'_>) -> Result<Answer, Problem> {
    let header_key = header_key(call)?;
    let many: Many<'_> = serde_json::from_str(json_body(call)?).map_err(|error| {
        Problem::invalid(format!("the body is not {{\"messages\":[…]}}: {error}"))
    })?;
    let max = call.settings.config.batch_items;
    if many.messages.len() > max {
        return Err(Problem::too_large(format!(
            "{} messages in one request, at most {max} are taken (`api.batch_items`)",
            many.messages.len()
        )));
    }
    let mut batch = call.batch();
    let mut results = Vec::with_capacity(many.messages.len());
    let mut failed = 0;
    for (index, message) in many.messages.iter().enumerate() {
        let key = header_key.as_ref().map(|key| format!("{key}/{index}"));
        results.push(match from_json(call, message.get(), key, &mut batch) {
            Ok(receivers) => {
                json!({"status": status(receivers).as_u16(), "receivers": receivers})
            }
            Err(problem) => {
                failed += 1;
                json!({"status": problem.status.as_u16(), "error": problem.to_json()})
            }
        });
    }
    let accepted = results.len() - failed;
    let value = json!({"accepted": accepted, "failed": failed, "results": results});
    Ok(Answer::of(call, batch, body::json(StatusCode::OK, &value)))
}

fn json_body<'a>(call: &'a Call<'_>) -> Result<&'a str, Problem> {
    let text = std::str::from_utf8(&call.body);
    let is_object = |text: &&str| text.trim_start().starts_with('{');
    text.ok().filter(is_object).ok_or_else(|| {
        let kind = content_type(call).unwrap_or_default();
        if kind.is_empty() || kind.starts_with("application/json") {
            return Problem::invalid("the body is not a JSON object");
        }
        let detail = format!(
            "a body of the type {} is a payload, and needs its target in the query: \
             ?topic=NAME (or group, user, connectionId, broadcast=true)",
            shown(kind)
        );
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupportedType",
            detail,
        )
    })
}

fn from_json(
    call: &Call<'_>,
    text: &str,
    header_key: Option<String>,
    batch: &mut Batch,
) -> Result<u32, Problem> {
    let (request, connection) = PublishRequest::read_body(text, &call.live.limits)?;
    let connection = connection.map(Cow::into_owned);
    publish(call, request, connection, header_key, batch)
}

/// Publishes, and says how many took the message.
pub(super) fn publish(
    call: &Call<'_>,
    mut request: PublishRequest<'_>,
    connection: Option<String>,
    header_key: Option<String>,
    batch: &mut Batch,
) -> Result<u32, Problem> {
    let limits = &call.live.limits;
    if let Some(id) = &connection {
        if request.qos == Some(1) || request.retain {
            return Err(Problem::invalid(
                "a message for a connection ends with it: `qos` is 0, and `retain` is false",
            ));
        }
        request.qos = Some(0);
        request.target = Target::Topic(format!("{CONNECTION}{id}").into());
    }
    let mut publish = request.into_publish(limits, batch.now)?;
    if publish.message.retain {
        Arc::make_mut(&mut publish.message).source = call.caller.source();
    }
    traceparent::carry(
        &call.head.headers,
        Arc::make_mut(&mut publish.message),
        limits.user_properties,
    );
    let message = &publish.message;
    let topic = message.topic.as_str();
    call.caller.require(Action::Publish, Some(topic))?;
    let size = message.payload.len();
    if size > limits.packet_bytes {
        return Err(Problem::too_large(format!(
            "the payload has {size} bytes, at most {} are taken (`limits.packet_size`)",
            limits.packet_bytes
        )));
    }
    let own_key = publish.idempotency_key.take().map(|key| key.to_string());
    publish.idempotency_key = own_key.or(header_key).map(|key| scoped(call, &key));
    let metrics = call.net.hub.metrics.protocol("http");
    metrics.received(message.qos).inc();
    match connection {
        Some(id) => send(call, &id, publish, batch),
        None => Ok(call.net.hub.publish_from_outside(publish, batch)?),
    }
}

/// Keys of one caller say nothing about those of another.
fn scoped(call: &Call<'_>, key: &str) -> ByteString {
    format!("http\0{}\0{key}", call.caller.name()).into()
}

/// To one connection.
fn send(call: &Call<'_>, id: &str, publish: Publish, batch: &mut Batch) -> Result<u32, Problem> {
    let Publish {
        idempotency_key,
        message,
        ..
    } = publish;
    let sent = call
        .net
        .hub
        .send_to_connection(id, &message, idempotency_key, batch);
    let sent = sent.ok_or_else(|| gone(id))?;
    Ok(u32::from(sent?))
}

/// 410: a connection that is not there, or no more.
pub(super) fn gone(id: &str) -> Problem {
    let detail = format!("there is no connection {} (any more)", shown(id));
    Problem::new(StatusCode::GONE, "gone", detail)
}

fn header_key(call: &Call<'_>) -> Result<Option<String>, Problem> {
    let Some(value) = call.head.headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().ok();
    let key = key.filter(|key| (1..=KEY_BYTES).contains(&key.len()));
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        Problem::invalid(format!(
            "the header Idempotency-Key must have 1 to {KEY_BYTES} characters of ASCII"
        ))
    })
}

/// The type of the body; the one that curl names for `-d` says nothing.
pub(super) fn content_type<'a>(call: &'a Call<'_>) -> Option<&'a str> {
    let kind = call.head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    (kind != "application/x-www-form-urlencoded").then_some(kind)
}

/// A message whose target is in the query, with the body as its payload.
fn raw_request<'a>(
    call: &'a Call<'_>,
) -> Result<Option<(PublishRequest<'a>, Option<String>)>, Problem> {
    let query = call.query;
    let connection = query.text("connectionId").map(str::to_owned);
    let everyone = query.truth("broadcast")?.unwrap_or(false);
    let target = match (query.text("topic"), query.text("group"), query.text("user")) {
        (None, None, None) if everyone || connection.is_some() => Target::Everyone,
        (None, None, None) => return Ok(None),
        (Some(topic), None, None) => Target::Topic(topic.into()),
        (None, Some(group), None) => Target::Group(group.into()),
        (topic, None, Some(user)) => Target::User {
            user: user.into(),
            topic: topic.map(Into::into),
        },
        _ => return Err(Problem::invalid("the query names both a topic and a group")),
    };
    let mut content = Content::from(payload(&call.body, content_type(call)));
    content.content_type = content_type(call).map(Cow::Borrowed);
    content.reply_to = query.text("replyTo").map(Cow::Borrowed);
    content.correlation = query
        .text("correlationId")
        .map(|text| Cow::Borrowed(text.as_bytes()));
    content.expiry = expiry(query, "expiresIn")?;
    content.headers = query
        .all("header")
        .map(|header| {
            let (name, value) = header.split_once(':').ok_or_else(|| {
                let shown = shown(header);
                Problem::invalid(format!("`header` is {shown}; NAME:VALUE is needed"))
            })?;
            Ok((Cow::Borrowed(name.trim()), Cow::Borrowed(value.trim())))
        })
        .collect::<Result<_, Problem>>()?;
    let count = content.headers.len();
    if count > call.live.limits.user_properties {
        return Err(Problem::too_large(format!("{count} headers are too many")));
    }
    let request = PublishRequest {
        target,
        content,
        qos: qos(query)?,
        retain: query.truth("retain")?.unwrap_or(false),
        idempotency_key: query.text("idempotencyKey").map(Cow::Borrowed),
    };
    Ok(Some((request, connection)))
}

/// `qos` of a query: 0 or 1.
pub(super) fn qos(query: &Query) -> Result<Option<u8>, Problem> {
    let qos = query.number("qos", 0, 1)?;
    Ok(qos.map(|qos| u8::from(qos == 1)))
}

/// A time from now in seconds.
pub(super) fn expiry(query: &Query, name: &str) -> Result<Option<Expiry>, Problem> {
    let secs = query.number(name, 0, u32::MAX.into())?;
    Ok(secs.map(|secs| Expiry::In(std::time::Duration::from_secs(secs))))
}

/// A payload as it came: text if it is UTF-8 and its type does not say otherwise.
pub(super) fn payload<'a>(bytes: &'a Bytes, kind: Option<&str>) -> Data<'a> {
    let is_binary = kind.is_some_and(|kind| kind.starts_with("application/octet-stream"));
    match std::str::from_utf8(bytes) {
        Ok(text) if !is_binary => Data::Text(text.into()),
        _ => Data::Binary(Cow::Borrowed(bytes)),
    }
}

/// Whether a text is one JSON object or array, which `application/json` then says of it.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .find(|byte| !byte.is_ascii_whitespace())
        .is_some_and(|first| matches!(first, b'{' | b'['))
        && serde_json::from_slice::<&RawValue>(bytes).is_ok()
}
