//! What is called: a Lambda function through the Invoke API, or a webhook; with its envelope, its
//! signature, its circuit breaker and its counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use serde_json::{Map, Value};
use url::Url;

use super::answer::{self, Answer, Failure};
use super::breaker::Breaker;
use super::client::{Client, Means};
use super::event::Event;
use super::retry_after::{self, Hold};
use super::sign::{AwsKey, put, sign_webhook};
use crate::clock::Clock;
use crate::config::{self, Envelope, Invocation, TargetEntry};
use crate::http::{moment, percent_encode};
use crate::telemetry::Histogram;

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
    pub(super) hold: Hold,
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
            hold: Hold::new(config.retry_after_max),
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
            Err(Failure::Unavailable { reason, .. }) => {
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
        let reply = sent.map_err(|error| Failure::unavailable(error.to_string()))?;
        let result = match self.kind {
            Kind::Lambda { .. } => answer::of_lambda(&reply),
            Kind::Webhook => answer::of_webhook(&reply),
        };
        result.map_err(|failure| match failure {
            Failure::Unavailable { reason, .. } => Failure::Unavailable {
                reason,
                after: retry_after::asked(reply.status, &reply.headers, self.clock.now()),
            },
            other => other,
        })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use protocols::model::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::functions::event::Content;

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
