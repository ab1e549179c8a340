//! The calls of EventBridge's own clients: PutEvents and TestEventPattern, in AWS's JSON 1.1.

use ::http::{HeaderValue, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::auth::now_secs;
use super::sigv4::hex_digest;
use super::time::rfc3339;
use super::{Inbox, Reply};
use crate::event::Event;
use crate::http::{Answer, Request, answer};
use crate::pattern::Pattern;

const JSON: &str = "application/x-amz-json-1.1";

/// Entries of one call.
const ENTRIES: std::ops::RangeInclusive<usize> = 1..=10;

/// Whose events they are.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) account: String,
    pub(super) region: String,
}

/// Why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryError {
    code: &'static str,
    pub(super) message: String,
}

/// Answers a call by its target.
pub(super) async fn call(
    target: &str,
    request: &Request,
    inbox: &Inbox,
    origin: &Origin,
) -> Answer {
    let Ok(body) = serde_json::from_slice::<Value>(request.body()) else {
        return error(
            StatusCode::BAD_REQUEST,
            "SerializationException",
            "the body is not JSON",
        );
    };
    match target {
        "AWSEvents.PutEvents" => put_events(&body, request, inbox, origin).await,
        "AWSEvents.TestEventPattern" => test_event_pattern(&body),
        other => {
            let message = format!("{other} is not done here");
            error(
                StatusCode::BAD_REQUEST,
                "UnknownOperationException",
                &message,
            )
        }
    }
}

/// The caller is not let in.
pub(super) fn denied() -> Answer {
    let message = "The request is not signed with a known access key.";
    error(StatusCode::FORBIDDEN, "AccessDeniedException", message)
}

async fn put_events(body: &Value, request: &Request, inbox: &Inbox, origin: &Origin) -> Answer {
    let Some(entries) = body["Entries"]
        .as_array()
        .filter(|entries| ENTRIES.contains(&entries.len()))
    else {
        let message = "Member must have length between 1 and 10 at 'entries'.";
        return error(StatusCode::BAD_REQUEST, "ValidationException", message);
    };
    let call = call_id(request);
    let now = now_secs();
    let parsed: Vec<_> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| event(entry, event_id(&call, index), origin, now))
        .collect();
    let good = parsed
        .iter()
        .filter_map(|entry| entry.as_ref().ok())
        .cloned()
        .collect();
    let replies = inbox.offer(good).await;
    if !replies.is_empty() && replies.iter().all(|reply| matches!(reply, Reply::Later(_))) {
        let message = "The broker does not take events just now.";
        return error(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailableException",
            message,
        );
    }
    let mut replies = replies.into_iter();
    let results: Vec<_> = parsed
        .iter()
        .map(|entry| match entry {
            Ok(event) => result(event, replies.next().unwrap_or(Reply::Later(1))),
            Err(error) => failure(error.code, &error.message),
        })
        .collect();
    let failed = results
        .iter()
        .filter(|result| result.get("ErrorCode").is_some())
        .count();
    let body = json!({"FailedEntryCount": failed, "Entries": results});
    answer(StatusCode::OK, JSON, body.to_string())
}

fn result(event: &Event, reply: Reply) -> Value {
    match reply {
        Reply::Accepted => json!({ "EventId": event.id }),
        Reply::Refused(reason) => failure("InvalidArgument", &reason),
        Reply::Later(_) => failure(
            "ThrottlingException",
            "The broker does not take it just now.",
        ),
    }
}

fn failure(code: &str, message: &str) -> Value {
    json!({"ErrorCode": code, "ErrorMessage": message})
}

/// The event of an entry, in the envelope in which a bus would deliver it.
pub(super) fn event(
    entry: &Value,
    id: String,
    origin: &Origin,
    now_secs: u64,
) -> Result<Event, EntryError> {
    let required = |name: &str| match entry[name].as_str() {
        Some(text) if !text.is_empty() => Ok(text),
        _ => {
            let message =
                format!("Parameter {name} is not valid. Reason: {name} is a required argument.");
            Err(EntryError {
                code: "InvalidArgument",
                message,
            })
        }
    };
    let (source, detail_type, detail) = (
        required("Source")?,
        required("DetailType")?,
        required("Detail")?,
    );
    let malformed = || EntryError {
        code: "MalformedDetail",
        message: "Detail is malformed.".to_owned(),
    };
    let detail: &RawValue = serde_json::from_str(detail).map_err(|_| malformed())?;
    if !detail.get().starts_with('{') {
        return Err(malformed());
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time after 1970"
    )]
    let time = entry["Time"]
        .as_f64()
        .map_or(now_secs, |secs| secs.max(0.0) as u64);
    // Written by hand so that the detail stays as it is, byte for byte.
    let head = json!({
        "version": "0", "id": id, "detail-type": detail_type, "source": source, "account": origin.account,
        "time": rfc3339(time), "region": origin.region,
        "resources": entry["Resources"].as_array().cloned().unwrap_or_default(),
    });
    let head = head.to_string();
    let body = format!(
        "{},\"detail\":{}}}",
        head.trim_end_matches('}'),
        detail.get()
    );
    let mut event = Event {
        key: Some(id.clone()),
        id,
        body: body.into(),
        accepted_ms: Some(now_secs * 1000),
        ..Event::default()
    };
    if let Some(bus) = entry["EventBusName"].as_str() {
        event = event.with_meta("event-bus", bus);
    }
    Ok(event)
}

/// The client's name for the call, the same when it tries again; else ours.
fn call_id(request: &Request) -> String {
    let given = request.headers().get("amz-sdk-invocation-id");
    let given = given.and_then(|id| id.to_str().ok()).map(str::to_owned);
    given.unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)))
}

/// An entry's identifier follows from the call's, so that a call that is tried again gives the same
/// events.
fn event_id(call: &str, index: usize) -> String {
    let digest = hex_digest(format!("{call} {index}").as_bytes());
    let part = |range: std::ops::Range<usize>| digest.get(range).unwrap_or_default();
    let parts = [
        part(0..8),
        part(8..12),
        part(13..16),
        part(17..20),
        part(20..32),
    ];
    let [first, second, third, fourth, last] = parts;
    format!("{first}-{second}-4{third}-8{fourth}-{last}")
}

fn test_event_pattern(body: &Value) -> Answer {
    let invalid = |message: &str| {
        error(
            StatusCode::BAD_REQUEST,
            "InvalidEventPatternException",
            message,
        )
    };
    let pattern = match Pattern::parse(body["EventPattern"].as_str().unwrap_or_default()) {
        Ok(pattern) => pattern,
        Err(error) => return invalid(&error.to_string()),
    };
    let event = serde_json::from_str::<Value>(body["Event"].as_str().unwrap_or_default());
    match event {
        Ok(event) => {
            let body = json!({ "Result": pattern.matches(&event) });
            answer(StatusCode::OK, JSON, body.to_string())
        }
        Err(error) => invalid(&format!("the event is not JSON: {error}")),
    }
}

/// Clients take the exception's name from the header.
fn error(status: StatusCode, name: &'static str, message: &str) -> Answer {
    let body = json!({"__type": name, "message": message});
    let mut answer = answer(status, JSON, body.to_string());
    answer
        .headers_mut()
        .insert("x-amzn-errortype", HeaderValue::from_static(name));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Envelope, Unwrapped};

    fn origin() -> Origin {
        Origin {
            account: "1".into(),
            region: "eu".into(),
        }
    }

    #[test]
    fn an_entry_becomes_the_envelope_of_a_bus() {
        let entry = json!({"Source": "shop", "DetailType": "Paid \"x\"", "Detail": "{\"n\": 1.50}",
            "Time": 1_704_067_200.7, "Resources": ["arn"], "EventBusName": "bus"});
        let event = event(&entry, "e-1".into(), &origin(), 5).unwrap();
        assert_eq!(event.meta("event-bus"), Some("bus"));
        let Ok(Unwrapped::Event(event)) = Envelope::EventBridge.unwrap(&event) else {
            panic!("an envelope")
        };
        assert_eq!(event.body, "{\"n\": 1.50}");
        for (name, value) in [
            ("source", "shop"),
            ("detail-type", "Paid \"x\""),
            ("id", "e-1"),
            ("time", "2024-01-01T00:00:00Z"),
            ("account", "1"),
            ("region", "eu"),
            ("resource", "arn"),
        ] {
            assert_eq!(event.attribute(name), Some(value));
        }
    }

    #[test]
    fn entries_are_refused_with_the_services_words() {
        let refused = |entry: Value| event(&entry, String::new(), &origin(), 0).unwrap_err();
        let missing = refused(json!({"Source": "s", "Detail": "{}"}));
        assert_eq!(missing.code, "InvalidArgument");
        let message =
            "Parameter DetailType is not valid. Reason: DetailType is a required argument.";
        assert_eq!(missing.message, message);
        for detail in ["[1]", "text", "\"{}\"", "{"] {
            let error = refused(json!({"Source": "s", "DetailType": "t", "Detail": detail}));
            assert_eq!(error.code, "MalformedDetail", "{detail}");
        }
    }

    #[test]
    fn a_call_that_is_tried_again_gives_the_same_identifiers() {
        assert_eq!(event_id("call", 1), event_id("call", 1));
        assert_ne!(event_id("call", 1), event_id("call", 2));
        assert_eq!(event_id("call", 1).len(), 36);
    }
}
