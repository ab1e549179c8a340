//! The data calls of AWS IoT, as the SDKs' `iot-data` client makes them: `Publish`,
//! `GetRetainedMessage` and `ListRetainedMessages`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use protocols::json::{Content, Data, Header, PublishRequest, Target};
use protocols::model::Message;
use serde_json::{Map, Value, json};

use super::guard::Action;
use super::problem::Problem;
use super::publish::{expiry, payload, publish as publish_request, qos};
use super::retained::{after, base64, none, topic};
use super::text::cursor;
use super::{Answer, Call, body};

/// Rows of a page, as AWS IoT has it.
const ROWS: u64 = 200;

/// `POST /topics/{topic}`
pub(super) fn publish(call: &Call<'_>) -> Result<Answer, Problem> {
    let query = call.query;
    let correlation = decoded(call, "x-amz-mqtt5-correlation-data")?;
    let format = header(call, "x-amz-mqtt5-payload-format-indicator");
    let data = match payload(&call.body, None) {
        Data::Text(_) if format == Some("UNSPECIFIED_BYTES") => {
            Data::Binary(Cow::Borrowed(&call.body))
        }
        data => data,
    };
    let is_binary = matches!(data, Data::Binary(_));
    let mut content = Content::from(data);
    let kind = query.text("contentType").filter(|kind| !kind.is_empty());
    // Bytes without a type stay so: the SDKs send text as bytes too.
    content.content_type = kind.map(Cow::Borrowed);
    content.reply_to = query
        .text("responseTopic")
        .filter(|topic| !topic.is_empty())
        .map(Cow::Borrowed);
    content.correlation = correlation.map(Cow::Owned);
    content.expiry = expiry(query, "messageExpiry")?;
    content.headers = user_properties(call)?;
    if is_binary && content.content_type.is_none() {
        content.content_type = Some("application/octet-stream".into());
    }
    let request = PublishRequest {
        target: Target::Topic(call.path[0].as_str().into()),
        content,
        qos: Some(qos(query)?.unwrap_or(0)),
        retain: query.truth("retain")?.unwrap_or(false),
        idempotency_key: None,
    };
    // The SDKs repeat a call that failed under the same name.
    let key = header(call, "amz-sdk-invocation-id").map(|id| format!("sdk/{id}"));
    let key = key.filter(|_| request.qos == Some(1));
    let mut batch = call.batch();
    let published = publish_request(call, request, None, key, &mut batch);
    let trace = uuid_like(batch.now.0);
    let value = json!({"message": "OK", "traceId": trace});
    let answer = Answer::of(call, batch, body::json(StatusCode::OK, &value));
    published.map(|_| answer)
}

fn uuid_like(seed: u64) -> String {
    use std::hash::BuildHasher;
    let random = foldhash::quality::RandomState::default().hash_one(seed);
    format!("{seed:016x}{random:016x}")
}

fn header<'a>(call: &'a Call<'_>, name: &'static str) -> Option<&'a str> {
    call.head.headers.get(super::name(name))?.to_str().ok()
}

fn decoded(call: &Call<'_>, name: &'static str) -> Result<Option<Vec<u8>>, Problem> {
    let Some(text) = header(call, name) else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(text);
    bytes
        .map(Some)
        .map_err(|_| Problem::invalid(format!("the header {name} is not base64")))
}

/// A list of objects in base64: `[{"name":"value"}]`. boto3 makes JSON of whatever it is given, so
/// a text comes as JSON in a JSON string.
fn user_properties<'a>(call: &Call<'_>) -> Result<Vec<Header<'a>>, Problem> {
    const NAME: &str = "x-amz-mqtt5-user-properties";
    let Some(bytes) = decoded(call, NAME)? else {
        return Ok(Vec::new());
    };
    let wrong = || {
        Problem::invalid(format!(
            "the header {NAME} is not the base64 of [{{\"name\":\"value\"}}]"
        ))
    };
    let mut value: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    if let Value::String(text) = &value {
        value = serde_json::from_str(text).map_err(|_| wrong())?;
    }
    let list: Vec<Map<String, Value>> = serde_json::from_value(value).map_err(|_| wrong())?;
    let mut headers = Vec::new();
    for (name, value) in list.into_iter().flatten() {
        let Value::String(value) = value else {
            return Err(wrong());
        };
        headers.push((Cow::Owned(name), Cow::Owned(value)));
    }
    if headers.len() > call.live.limits.user_properties {
        let count = headers.len();
        return Err(Problem::too_large(format!(
            "{count} user properties are too many"
        )));
    }
    Ok(headers)
}

/// `GET /retainedMessage`
pub(super) fn list(call: &Call<'_>) -> Result<Answer, Problem> {
    let limit = call.query.number("maxResults", 1, ROWS)?.unwrap_or(ROWS);
    let limit = usize::try_from(limit).unwrap_or(1);
    let after = after(call, "nextToken")?;
    let now = call.net.clock.now();
    let page = call.net.hub.retained_page(None, after.as_ref(), limit, now);
    let readable = page
        .messages
        .iter()
        .filter(|message| call.caller.may_read(call.net, message));
    let rows: Vec<Value> = readable.map(|message| row(message)).collect();
    let mut value = json!({"retainedTopics": rows});
    if let Some(topic) = page.next {
        value["nextToken"] = json!(cursor(topic.as_str()));
    }
    Ok(body::json(StatusCode::OK, &value).into())
}

fn row(message: &Message) -> Value {
    json!({
        "topic": message.topic.as_str(),
        "payloadSize": message.payload.len(),
        "qos": message.qos as u8,
        "lastModifiedTime": message.retained_at.0,
    })
}

/// `GET /retainedMessage/{topic}`
pub(super) fn show(call: &Call<'_>) -> Result<Answer, Problem> {
    let topic = topic(call, &call.path[0])?;
    call.caller
        .require(Action::Subscribe, Some(topic.as_str()))?;
    let message = call.net.hub.retained(&topic, call.net.clock.now());
    let message = message.filter(|message| call.caller.may_read(call.net, message));
    let message = message.ok_or_else(|| none(&topic))?;
    let mut value = json!({
        "topic": topic.as_str(),
        "payload": base64(&message.payload),
        "qos": message.qos as u8,
        "lastModifiedTime": message.retained_at.0,
    });
    let properties = message.properties.as_deref();
    if let Some(properties) = properties.filter(|held| !held.user.is_empty()) {
        let list: Vec<Value> = properties
            .user
            .iter()
            .map(|(name, value)| json!({&**name: &**value}))
            .collect();
        value["userProperties"] = json!(base64(Value::Array(list).to_string().as_bytes()));
    }
    Ok(body::json(StatusCode::OK, &value).into())
}
