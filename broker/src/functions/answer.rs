//! What targets answer: what a function says, and whose fault it is if there is no answer.
//!
//! `target` reads answers here; what becomes of failures is decided by who called.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use protocols::model::Timestamp;
use serde_json::{Value, json};

use super::client::Reply;

/// Bytes of a reason that is kept.
const REASON_BYTES: usize = 1024;

/// What a function answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// `statusCode`; `None` if it gave none.
    pub(super) status: Option<u16>,
    pub(super) headers: BTreeMap<String, String>,
    /// The text for the client, if there is one.
    pub(super) body: Option<String>,
    /// All that it said.
    pub(super) value: Value,
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The target cannot be reached or has too much to do: later it may.
    #[error("{reason}")]
    Unavailable {
        reason: String,
        /// How long it wants to be left alone, if it said so.
        after: Option<Duration>,
    },
    /// The function failed with this event.
    #[error("{0}")]
    Function(String),
    /// It is left alone until then.
    #[error("the circuit breaker is open")]
    Open(Timestamp),
}

impl Answer {
    /// Whether the function itself says that it failed.
    pub(super) fn is_failure(&self) -> bool {
        self.status.is_some_and(|status| status >= 500)
    }

    /// A header's value, whatever its spelling.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl Failure {
    /// Without a word about when it may be.
    pub(super) fn unavailable(reason: String) -> Self {
        let after = None;
        Self::Unavailable { reason, after }
    }
}

/// What the Invoke API answered.
pub(super) fn of_lambda(reply: &Reply) -> Result<Answer, Failure> {
    let status = reply.status.as_u16();
    if reply.headers.contains_key("x-amz-function-error") {
        return Err(Failure::Function(clipped(&reply.body)));
    }
    if reply.status == StatusCode::ACCEPTED {
        // Lambda has it in its own queue; there will be no other answer.
        return Ok(Answer {
            status: Some(status),
            ..Answer::default()
        });
    }
    if reply.status.is_success() {
        let value = if reply.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&reply.body)
                .map_err(|_| Failure::Function("the answer is not JSON".to_owned()))?
        };
        return Ok(answer(value));
    }
    let kind = reply.headers.get("x-amzn-errortype");
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let reason = format!("{status} {kind} {}", clipped(&reply.body));
    match status {
        // The event itself is at fault: the next one may go.
        400 | 413 | 415 => Err(Failure::Function(reason)),
        _ => Err(Failure::unavailable(reason)),
    }
}

/// What a webhook answered.
pub(super) fn of_webhook(reply: &Reply) -> Result<Answer, Failure> {
    let status = reply.status.as_u16();
    let reason = || format!("{status} {}", clipped(&reply.body));
    match status {
        408 | 425 | 429 | 500.. => return Err(Failure::unavailable(reason())),
        300..400 => {
            return Err(Failure::Function(format!(
                "{status}: redirects are not followed"
            )));
        }
        _ => {}
    }
    if reply.status.is_success()
        && let Ok(value) = serde_json::from_slice::<Value>(&reply.body)
        && value.get("statusCode").is_some()
    {
        return Ok(answer(value));
    }
    let body = std::str::from_utf8(&reply.body).ok().map(str::to_owned);
    Ok(Answer {
        status: Some(status),
        body: body.filter(|body| !body.is_empty()),
        value: serde_json::from_slice(&reply.body).unwrap_or_default(),
        ..Answer::default()
    })
}

/// What a client is told whose function failed.
pub(super) fn error_frame(message: &str, connection_id: &str, request_id: &str) -> String {
    json!({"message": message, "connectionId": connection_id, "requestId": request_id}).to_string()
}

/// Reads `{statusCode, headers, body}`.
fn answer(value: Value) -> Answer {
    let status = value.get("statusCode");
    let number = status.and_then(|status| match status {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    });
    let status = number.and_then(|number| u16::try_from(number).ok());
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let headers = value.get("headers").and_then(Value::as_object);
    let headers = headers.map(|headers| {
        let pairs = headers.iter();
        pairs
            .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
            .collect()
    });
    Answer {
        status: status.filter(|status| (100..600).contains(status)),
        headers: headers.unwrap_or_default(),
        body: value.get("body").and_then(text),
        value,
    }
}

fn clipped(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(REASON_BYTES)]);
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::HeaderMap;

    use super::*;
    use crate::functions::sign::put;

    fn reply(status: u16, headers: &[(&'static str, &str)], body: &str) -> Reply {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            put(&mut map, name, value);
        }
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: map,
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn a_lambdas_answer_is_read() {
        let read = |status, headers: &[(&'static str, &str)], body| {
            of_lambda(&reply(status, headers, body))
        };
        let good = read(
            200,
            &[],
            r#"{"statusCode":"403","headers":{"A":1},"body":{"x":1}}"#,
        )
        .unwrap();
        assert_eq!((good.status, good.header("a")), (Some(403), Some("1")));
        assert_eq!(good.body.as_deref(), Some("{\"x\":1}"));
        assert_eq!(read(202, &[], "").unwrap().status, Some(202));
        assert_eq!(read(200, &[], "").unwrap().status, None);
        assert_eq!(read(200, &[], "null").unwrap().status, None);
        assert_eq!(read(200, &[], r#"{"statusCode":7}"#).unwrap().status, None);
        let failed = read(200, &[("x-amz-function-error", "Unhandled")], "{}");
        assert!(matches!(failed, Err(Failure::Function(_))));
        assert!(matches!(
            read(200, &[], "<html>"),
            Err(Failure::Function(_))
        ));
        assert!(matches!(read(413, &[], ""), Err(Failure::Function(_))));
        for status in [301, 403, 404, 429, 500, 503] {
            let gone = read(status, &[], "");
            assert!(matches!(gone, Err(Failure::Unavailable { .. })), "{status}");
        }
    }

    #[test]
    fn a_webhooks_answer_is_read() {
        let read = |status, body| of_webhook(&reply(status, &[], body));
        assert_eq!(
            read(200, r#"{"statusCode":401}"#).unwrap().status,
            Some(401)
        );
        assert_eq!(read(204, "").unwrap().status, Some(204));
        assert_eq!(read(200, "hello").unwrap().body.as_deref(), Some("hello"));
        assert_eq!(read(403, "no").unwrap().status, Some(403));
        assert!(matches!(read(302, ""), Err(Failure::Function(_))));
        for status in [408, 429, 500, 503] {
            assert!(
                matches!(read(status, ""), Err(Failure::Unavailable { .. })),
                "{status}"
            );
        }
    }
}
