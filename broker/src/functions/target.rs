//! What is called: a Lambda function through the Invoke API, or a webhook; with its envelope, its
//! signature, its circuit breaker and its counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use protocols::model::Timestamp;
use serde_json::{Map, Value, json};
use url::Url;

use super::breaker::Breaker;
use super::client::{Client, Means, Reply};
use super::event::Event;
use super::sign::{AwsKey, put, sign_webhook};
use crate::clock::Clock;
use crate::config::{self, Envelope, Invocation, TargetEntry};
use crate::http::{moment, percent_encode};
use crate::telemetry::Histogram;

/// Bytes of a reason that is kept.
const REASON_BYTES: usize = 1024;

/// One target.
pub(super) struct Target {
    pub(super) name: String,
    pub(super) attempts: u32,
    kind: Kind,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    envelope: Envelope,
    hmac: Option<Vec<u8>>,
    client: Client,
    pub(super) breaker: Breaker,
    pub(super) counts: Counts,
    clock: Clock,
}

enum Kind {
    Lambda { key: AwsKey, invocation: Invocation },
    Webhook,
}

/// What a target was asked and how it went.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) unavailable: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) dead: AtomicU64,
    pub(super) in_progress: AtomicUsize,
    pub(super) took: Histogram,
}

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
    #[error("{0}")]
    Unavailable(String),
    /// The function failed with this event.
    #[error("{0}")]
    Function(String),
    /// It is left alone until then.
    #[error("the circuit breaker is open")]
    Open(Timestamp),
}

impl Target {
    pub(super) fn new(
        entry: &TargetEntry,
        config: &config::Functions,
        means: Means,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let (kind, url) = match (&entry.lambda, &entry.url) {
            (Some(function), _) => lambda(entry, function)?,
            (None, Some(url)) => (Kind::Webhook, Url::parse(url)?),
            (None, None) => bail!("it has either `lambda` or `url`"),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &entry.headers {
            let value = secret_or_text(value)?;
            headers.insert(
                HeaderName::try_from(name).context("a header's name")?,
                HeaderValue::try_from(value).context("a header's value")?,
            );
        }
        let hmac = entry.hmac.as_deref().map(secret).transpose()?;
        Ok(Self {
            name: entry.name.clone(),
            attempts: entry.attempts,
            kind,
            url,
            headers,
            timeout: entry.timeout,
            envelope: entry.envelope,
            hmac: hmac.map(String::into_bytes),
            client: Client::new(means),
            breaker: Breaker::new(config.breaker_failures, config.breaker_time),
            counts: Counts::default(),
            clock,
        })
    }

    /// Gives it an event once.
    pub(super) async fn call(&self, event: &Event) -> Result<Answer, Failure> {
        if let Err(until) = self.breaker.enter(self.clock.now()) {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Failure::Open(until));
        }
        let _running = Running::begin(&self.counts.in_progress);
        let began = Instant::now();
        let result = self.ask(event).await;
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counts.took.observe_us(micros);
        let count = match &result {
            Ok(_) => &self.counts.answered,
            Err(Failure::Function(_)) => &self.counts.failed,
            Err(_) => &self.counts.unavailable,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match &result {
            Err(Failure::Unavailable(reason)) => {
                tracing::debug!(target = %self.name, %reason, "a function cannot be called");
                if self.breaker.failed(self.clock.now()) {
                    tracing::warn!(target = %self.name, %reason, "a function is left alone for a while");
                }
            }
            // It does answer.
            _ => self.breaker.succeeded(),
        }
        result
    }

    async fn ask(&self, event: &Event) -> Result<Answer, Failure> {
        let request = self.request(event);
        let sent = self.client.send(&self.url, request, self.timeout).await;
        let reply = sent.map_err(|error| Failure::Unavailable(error.to_string()))?;
        match self.kind {
            Kind::Lambda { .. } => read_lambda(&reply),
            Kind::Webhook => read_webhook(&reply),
        }
    }

    fn request(&self, event: &Event) -> Request<Full<Bytes>> {
        let now = self.clock.now();
        let mut headers = HeaderMap::new();
        let body = envelope(self.envelope, event, &mut headers);
        put(&mut headers, "host", &host(&self.url));
        match &self.kind {
            Kind::Lambda { key, invocation } => {
                let kind = match invocation {
                    Invocation::RequestResponse => "RequestResponse",
                    Invocation::Event => "Event",
                };
                put(&mut headers, "x-amz-invocation-type", kind);
                headers.extend(self.headers.clone());
                let what = (&Method::POST, &self.url);
                key.sign("lambda", what, &mut headers, &body, now);
            }
            Kind::Webhook => {
                let agent = concat!("polycast/", env!("CARGO_PKG_VERSION"));
                put(&mut headers, "user-agent", agent);
                put(&mut headers, "x-polycast-event", &event.kind);
                put(&mut headers, "x-polycast-event-id", &event.id);
                headers.extend(self.headers.clone());
                if let Some(key) = &self.hmac {
                    sign_webhook(key, &mut headers, &body, now);
                }
            }
        }
        let path = match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        if let Ok(uri) = path.parse() {
            *request.uri_mut() = uri;
        }
        *request.headers_mut() = headers;
        request
    }
}

/// One more call, until it is dropped.
struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lambda(entry: &TargetEntry, function: &str) -> anyhow::Result<(Kind, Url)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let region = entry
        .region
        .clone()
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .unwrap_or_else(|| "us-east-1".to_owned());
    let secret_key = match &entry.secret_key {
        Some(source) => Some(secret(source)?),
        None => variable("AWS_SECRET_ACCESS_KEY"),
    };
    let id = entry
        .access_key
        .clone()
        .or_else(|| variable("AWS_ACCESS_KEY_ID"));
    let (Some(id), Some(secret_key)) = (id, secret_key) else {
        bail!("an access key is needed: `access_key` and `secret_key`, or AWS's usual variables");
    };
    let session_token = match &entry.session_token {
        Some(source) => Some(secret(source)?),
        None if entry.secret_key.is_none() => variable("AWS_SESSION_TOKEN"),
        None => None,
    };
    let base = entry.endpoint.clone();
    let base = base.unwrap_or_else(|| format!("https://lambda.{region}.amazonaws.com"));
    let function = percent_encode(function, b"");
    let mut url = format!(
        "{}/2015-03-31/functions/{function}/invocations",
        base.trim_end_matches('/')
    );
    if let Some(qualifier) = &entry.qualifier {
        url = format!("{url}?Qualifier={}", percent_encode(qualifier, b""));
    }
    let key = AwsKey {
        id,
        secret: secret_key,
        session_token,
        region,
    };
    let invocation = entry.invocation;
    Ok((Kind::Lambda { key, invocation }, Url::parse(&url)?))
}

/// A secret that is somewhere else; it is never part of an error.
fn secret(source: &str) -> anyhow::Result<String> {
    let found = match source.split_once(':') {
        Some(("env", name)) => {
            std::env::var(name).with_context(|| format!("the variable {name}"))?
        }
        Some(("file", path)) => {
            std::fs::read_to_string(path).with_context(|| format!("the file {path}"))?
        }
        _ => bail!("a secret is written as env:VARIABLE or file:PATH"),
    };
    match found.trim() {
        "" => bail!("a secret is empty: {source}"),
        found => Ok(found.to_owned()),
    }
}

fn secret_or_text(text: &str) -> anyhow::Result<String> {
    if text.starts_with("env:") || text.starts_with("file:") {
        return secret(text);
    }
    Ok(text.to_owned())
}

fn host(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    }
}

/// Puts an event into its envelope: the headers that say what it is, and the body.
fn envelope(envelope: Envelope, event: &Event, headers: &mut HeaderMap) -> Bytes {
    match envelope {
        Envelope::Event => {
            put(headers, "content-type", "application/json");
            event.body.to_string().into()
        }
        Envelope::CloudeventsBinary => {
            for (name, value) in attributes(event) {
                put(headers, &format!("ce-{name}"), &percent(&value));
            }
            match &event.content {
                Some(content) => {
                    let kind = content.kind.as_deref();
                    put(
                        headers,
                        "content-type",
                        kind.unwrap_or("application/octet-stream"),
                    );
                    content.bytes.clone()
                }
                None => {
                    put(headers, "content-type", "application/json");
                    event.body.to_string().into()
                }
            }
        }
        Envelope::CloudeventsStructured => {
            put(headers, "content-type", "application/cloudevents+json");
            structured(event).to_string().into()
        }
    }
}

/// The attributes of CloudEvents 1.0.
fn attributes(event: &Event) -> Vec<(&'static str, String)> {
    let context = event.body.get("requestContext");
    let text = |name: &str| context?.get(name)?.as_str().map(str::to_owned);
    let mut found = vec![
        ("specversion", "1.0".to_owned()),
        ("id", event.id.clone()),
        (
            "source",
            format!("/polycast/{}", text("stage").unwrap_or_default()),
        ),
        ("type", format!("io.polycast.{}", event.kind)),
        ("subject", event.subject.clone()),
        ("time", moment(event.time)),
    ];
    found.extend(text("routeKey").map(|route| ("routekey", route)));
    found
}

fn structured(event: &Event) -> Value {
    let mut object: Map<String, Value> = attributes(event)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let (kind, data) = match (&event.content, event.body.get("dataType")) {
        (Some(content), Some(kind)) => {
            let data = event.body.get("data").cloned().unwrap_or_default();
            let given = content.kind.as_deref();
            let (usual, name) = match kind.as_str() {
                Some("base64") => ("application/octet-stream", "data_base64"),
                Some("text") => ("text/plain", "data"),
                _ => ("application/json", "data"),
            };
            (given.unwrap_or(usual).to_owned(), (name, data))
        }
        _ => ("application/json".to_owned(), ("data", event.body.clone())),
    };
    object.insert("datacontenttype".into(), kind.into());
    object.insert(data.0.into(), data.1);
    object.into()
}

/// What a header of CloudEvents cannot say as it is (HTTP binding §3.1.3.2).
fn percent(value: &str) -> String {
    let keep: Vec<u8> = (b'!'..=b'~')
        .filter(|byte| !b"\"%".contains(byte))
        .collect();
    percent_encode(value, &keep)
}

fn clipped(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(REASON_BYTES)]);
    text.chars().filter(|c| !c.is_control()).collect()
}

fn read_lambda(reply: &Reply) -> Result<Answer, Failure> {
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
        _ => Err(Failure::Unavailable(reason)),
    }
}

fn read_webhook(reply: &Reply) -> Result<Answer, Failure> {
    let status = reply.status.as_u16();
    let reason = || format!("{status} {}", clipped(&reply.body));
    match status {
        408 | 425 | 429 | 500.. => return Err(Failure::Unavailable(reason())),
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

/// What a client is told whose function failed.
pub(super) fn error_frame(message: &str, connection_id: &str, request_id: &str) -> String {
    json!({"message": message, "connectionId": connection_id, "requestId": request_id}).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::functions::event::Content;

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
            read_lambda(&reply(status, headers, body))
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
            assert!(matches!(gone, Err(Failure::Unavailable(_))), "{status}");
        }
    }

    #[test]
    fn a_webhooks_answer_is_read() {
        let read = |status, body| read_webhook(&reply(status, &[], body));
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
                matches!(read(status, ""), Err(Failure::Unavailable(_))),
                "{status}"
            );
        }
    }

    fn event() -> Event {
        Event {
            kind: "topic".into(),
            id: "i".into(),
            subject: "a b/ü".into(),
            time: Timestamp(0),
            body: json!({"dataType": "text", "data": "hi",
                         "requestContext": {"stage": "prod", "routeKey": "r"}}),
            content: Some(Content {
                bytes: Bytes::from_static(b"hi"),
                kind: None,
            }),
        }
    }

    #[test]
    fn cloud_events_are_said_in_headers_or_whole() {
        let mut headers = HeaderMap::new();
        let body = envelope(Envelope::CloudeventsBinary, &event(), &mut headers);
        assert_eq!(&body[..], b"hi");
        let shown = |name: &str| headers[name].to_str().unwrap();
        assert_eq!(shown("ce-subject"), "a%20b/%C3%BC");
        assert_eq!(shown("ce-time"), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            (shown("ce-type"), shown("ce-routekey")),
            ("io.polycast.topic", "r")
        );
        assert_eq!(
            (shown("ce-specversion"), shown("ce-source")),
            ("1.0", "/polycast/prod")
        );
        let body = envelope(Envelope::CloudeventsStructured, &event(), &mut headers);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&body["data"], &body["subject"]),
            (&json!("hi"), &json!("a b/ü"))
        );
        assert_eq!(body["datacontenttype"], "text/plain");
        let plain = Event {
            content: None,
            ..event()
        };
        assert_eq!(structured(&plain)["data"], plain.body);
        assert_eq!(
            envelope(Envelope::Event, &plain, &mut headers),
            plain.body.to_string()
        );
    }
}
