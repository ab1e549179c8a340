//! API Gateway's `@connections`, as the AWS SDKs call and read it: `POST`, `GET` and `DELETE
//! /{stage}/@connections/{id}`, for a connection of any protocol.
//!
//! What is posted reaches the client as a message on `$connection/{id}`, at most once: 200 means that
//! it was handed to the connection, no more. A client does not need to have subscribed to it.

use std::borrow::Cow;

use http::StatusCode;
use protocols::json::{Content, PublishRequest, Target};
use serde_json::json;

use super::clients::reason;
use super::problem::Problem;
use super::publish::{content_type, gone, is_json, payload, publish};
use super::text::{moment, shown};
use super::{Answer, Call, body};

/// The most that API Gateway takes for one message.
pub(super) const BODY_BYTES: usize = 131_072;

/// Longest identifier of a connection that is looked for.
const ID_BYTES: usize = 128;

/// The identifier in the path. One that no gateway gives is refused; any other that is not known is
/// gone.
fn id<'a>(call: &'a Call<'_>) -> Result<&'a str, Problem> {
    let id = call.path[0].as_str();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=+/".contains(&byte);
    if id.len() > ID_BYTES || !id.bytes().all(is_plain) {
        let detail = format!("Invalid connectionId: {}", shown(id));
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "invalidRequest",
            detail,
        ));
    }
    Ok(id)
}

/// `POST`
pub(super) fn post(call: &Call<'_>) -> Result<Answer, Problem> {
    let id = id(call)?;
    // The SDK for JavaScript says of everything that it is bytes.
    let said = content_type(call).filter(|kind| !kind.starts_with("application/octet-stream"));
    let kind = said.or_else(|| is_json(&call.body).then_some("application/json"));
    let mut content = Content::from(payload(&call.body, kind));
    content.content_type = kind.map(Cow::Borrowed);
    let request = PublishRequest {
        target: Target::Everyone,
        content,
        qos: None,
        retain: false,
        idempotency_key: None,
    };
    let mut batch = call.batch();
    let sent = publish(call, request, Some(id.to_owned()), None, &mut batch);
    let answer = Answer::of(call, batch, body::empty(StatusCode::OK));
    if sent? == 0 {
        let detail = "the client reads too slowly: its buffer is full";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "slowConsumer", detail).after(1));
    }
    Ok(answer)
}

/// `GET`
pub(super) fn get(call: &Call<'_>) -> Result<Answer, Problem> {
    let id = id(call)?;
    let found = call.net.hub.connection(id);
    let origin =
        found.and_then(|(session, link)| session.with_link(link, |link| link.origin.clone()));
    let origin = origin.ok_or_else(|| gone(id))?;
    let value = json!({
        "connectedAt": moment(origin.opened_at),
        "identity": {
            "sourceIp": origin.ip().map(|ip| ip.to_string()),
            "userAgent": null,
        },
        "lastActiveAt": moment(origin.active_at),
    });
    Ok(body::json(StatusCode::OK, &value).into())
}

/// `DELETE`
pub(super) fn delete(call: &Call<'_>) -> Result<Answer, Problem> {
    let id = id(call)?;
    let (session, link) = call.net.hub.connection(id).ok_or_else(|| gone(id))?;
    let mut batch = call.batch();
    call.net
        .hub
        .kick(&session, Some(link), &reason(), &mut batch);
    let response = body::empty(StatusCode::NO_CONTENT);
    Ok(Answer::of(call, batch, response))
}
