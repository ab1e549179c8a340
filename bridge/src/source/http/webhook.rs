//! A webhook for CloudEvents, and for any other body.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::auth::Auth;
use super::{Inbox, answer_all, cloudevents, read_path, read_patience};
use crate::config::Section;
use crate::envelope::Envelope;
use crate::event::Event;
use crate::http::{Answer, Handler, Request, say};
use crate::source::{Context, Kind, Source, SourceError};

/// Settings.
#[derive(Clone, Debug)]
struct Webhook {
    path: String,
    patience: Duration,
    auth: Auth,
    /// Who may announce calls by the handshake of the webhook specification.
    allowed_origins: Vec<String>,
}

/// Reads the settings.
pub(in crate::source) fn read(section: &mut Section) -> Arc<dyn Kind> {
    let source = Webhook {
        path: read_path(section, "/webhook"),
        patience: read_patience(section),
        auth: Auth::read(section),
        allowed_origins: section.texts("allowed_origins").unwrap_or_default(),
    };
    if !source.auth.is_set() {
        section.problem("auth", "is missing (auth.anonymous = true lets anybody in)");
    }
    Arc::new(source)
}

impl Kind for Webhook {
    fn open(&self, context: Context) -> BoxFuture<'_, Result<Vec<Box<dyn Source>>, SourceError>> {
        let settings = self.clone();
        let source = Inbox::open(&context, &self.path, self.patience, |inbox| {
            Arc::new(Calls { settings, inbox })
        });
        async { Ok(vec![source]) }.boxed()
    }

    fn sample(&self, file: &[u8]) -> Result<Vec<Event>, SourceError> {
        let value: Value = serde_json::from_slice(file).unwrap_or_default();
        let kind = match &value {
            Value::Array(_) => "application/cloudevents-batch+json",
            value if value["specversion"].is_string() => "application/cloudevents+json",
            _ => "application/octet-stream",
        };
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(kind));
        cloudevents::events(&headers, Bytes::copy_from_slice(file)).map_err(SourceError::new)
    }

    fn envelope(&self) -> Envelope {
        Envelope::Raw
    }

    fn path(&self) -> Option<&str> {
        Some(&self.path)
    }
}

struct Calls {
    settings: Webhook,
    inbox: Inbox,
}

impl Handler for Calls {
    fn handle(&self, request: Request) -> BoxFuture<'_, Answer> {
        self.respond(request).boxed()
    }
}

impl Calls {
    async fn respond(&self, request: Request) -> Answer {
        if request.uri().path().ends_with("/token")
            && let Some(answer) = self.settings.auth.token(&request)
        {
            return answer;
        }
        if request.method() == Method::OPTIONS {
            return self.handshake(request.headers());
        }
        if let Err(refusal) = self.settings.auth.check(request.headers()) {
            return *refusal;
        }
        if !matches!(*request.method(), Method::POST | Method::PUT) {
            return say(StatusCode::METHOD_NOT_ALLOWED, "only POST");
        }
        let (head, body) = request.into_parts();
        match cloudevents::events(&head.headers, body) {
            Ok(events) => answer_all(&self.inbox.offer(events).await),
            Err(error) => say(StatusCode::BAD_REQUEST, error),
        }
    }

    /// Says whether an origin may call (Web Hooks for Event Delivery, section 4).
    fn handshake(&self, headers: &HeaderMap) -> Answer {
        let origin = headers.get("webhook-request-origin");
        let known = |origin: &&HeaderValue| {
            let mut allowed = self.settings.allowed_origins.iter();
            allowed.any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
        };
        match origin.filter(known) {
            Some(origin) => {
                let mut answer = say(StatusCode::OK, "welcome");
                answer
                    .headers_mut()
                    .insert("webhook-allowed-origin", origin.clone());
                let rate = HeaderValue::from_static("*");
                answer.headers_mut().insert("webhook-allowed-rate", rate);
                answer
            }
            None => say(StatusCode::FORBIDDEN, "this origin is not allowed"),
        }
    }
}
