//! EventBridge: events of an API destination, and the PutEvents call of a function's own client.

use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, StatusCode};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::auth::{Auth, now_secs};
use super::put_events;
use super::sigv4::AccessKeys;
use super::{Inbox, answer_all, read_path, read_patience};
use crate::config::Section;
use crate::envelope::Envelope;
use crate::event::Event;
use crate::http::{Answer, Handler, Request, say};
use crate::source::{Context, Kind, Source, SourceError};

/// Settings.
#[derive(Clone, Debug)]
struct EventBridge {
    path: String,
    patience: Duration,
    auth: Auth,
    access_keys: AccessKeys,
    origin: put_events::Origin,
}

/// Reads the settings.
pub(in crate::source) fn read(section: &mut Section) -> Arc<dyn Kind> {
    let source = EventBridge {
        path: read_path(section, "/"),
        patience: read_patience(section),
        auth: Auth::read(section),
        access_keys: AccessKeys::read(section),
        origin: put_events::Origin {
            account: section
                .text("account")
                .unwrap_or_else(|| "000000000000".to_owned()),
            region: section
                .text("region")
                .unwrap_or_else(|| "us-east-1".to_owned()),
        },
    };
    if !source.auth.is_set() && source.access_keys.is_empty() {
        section.problem(
            "auth",
            "is missing (also good: access_keys, or auth.anonymous = true)",
        );
    }
    Arc::new(source)
}

impl Kind for EventBridge {
    fn open(&self, context: Context) -> BoxFuture<'_, Result<Vec<Box<dyn Source>>, SourceError>> {
        let settings = self.clone();
        let source = Inbox::open(&context, &self.path, self.patience, |inbox| {
            Arc::new(Calls { settings, inbox })
        });
        async { Ok(vec![source]) }.boxed()
    }

    fn sample(&self, file: &[u8]) -> Result<Vec<Event>, SourceError> {
        let value: Value = serde_json::from_slice(file).map_err(SourceError::new)?;
        match value["Entries"].as_array() {
            None => Ok(vec![delivered(file.to_vec().into())]),
            Some(entries) => {
                let (entries, origin) = (entries.iter().enumerate(), &self.origin);
                let parsed = entries.map(|(index, entry)| {
                    let id = format!("sample-{index}");
                    put_events::event(entry, id, origin, now_secs())
                });
                let parsed: Result<Vec<_>, _> = parsed.collect();
                parsed.map_err(|error| SourceError::new(error.message))
            }
        }
    }

    fn envelope(&self) -> Envelope {
        Envelope::EventBridge
    }

    fn path(&self) -> Option<&str> {
        Some(&self.path)
    }
}

/// The event as it was delivered; unwrapping it is the run loop's.
fn delivered(body: bytes::Bytes) -> Event {
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let id = value["id"].as_str().unwrap_or_default().to_owned();
    Event {
        key: (!id.is_empty()).then(|| id.clone()),
        id,
        body,
        ..Event::default()
    }
}

struct Calls {
    settings: EventBridge,
    inbox: Inbox,
}

impl Handler for Calls {
    fn handle(&self, request: Request) -> BoxFuture<'_, Answer> {
        self.respond(request).boxed()
    }
}

impl Calls {
    async fn respond(&self, request: Request) -> Answer {
        let path = request.uri().path();
        if path.ends_with("/token")
            && let Some(answer) = self.settings.auth.token(&request)
        {
            return answer;
        }
        let target = request
            .headers()
            .get("x-amz-target")
            .and_then(|target| target.to_str().ok());
        let target = target.map(str::to_owned);
        let signed = || self.settings.access_keys.verify(&request, now_secs());
        if let Err(refusal) = self.settings.auth.check(request.headers())
            && !signed()
        {
            return match target {
                Some(_) => put_events::denied(),
                None => *refusal,
            };
        }
        match target.as_deref() {
            Some(target) => {
                put_events::call(target, &request, &self.inbox, &self.settings.origin).await
            }
            None if matches!(*request.method(), Method::POST | Method::PUT) => {
                answer_all(&self.inbox.offer(vec![delivered(request.into_body())]).await)
            }
            None => say(StatusCode::METHOD_NOT_ALLOWED, "only POST"),
        }
    }
}
