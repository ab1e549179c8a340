//! Ways in by HTTP: what they share.
//!
//! A handler turns a request into events and offers them to the [`Inbox`]; the request is answered
//! when the run loop has settled them all, or when its time is over. With the broker away or the
//! window full a request is refused at once, and told when to come again.

mod auth;
mod cloudevents;
mod eventbridge;
mod put_events;
mod sigv4;
mod sns;
mod time;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{mpsc, oneshot};

use super::{Context, Delivery, Outcome, Settle, Source, SourceError};
use crate::event::Event;
use crate::http::{Answer, Handler, Routes, later, say};
use crate::publisher::Publisher;

pub(super) use eventbridge::read as read_eventbridge;
pub(super) use sns::read as read_sns;
pub(super) use webhook::read as read_webhook;

/// Events that are offered and not taken by the run loop yet.
const WAITING: usize = 64;

/// When to come again, if nothing better is known.
const RETRY_SECS: u16 = 1;

/// Where handlers put events.
#[derive(Debug)]
struct Inbox {
    events: mpsc::Sender<Delivery>,
    publisher: Publisher,
    patience: Duration,
}

/// What became of an offered event.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    /// The broker has it, or it lies among the dead letters.
    Accepted,
    /// It can never be published.
    Refused(String),
    /// Not now; seconds until it may go.
    Later(u16),
}

impl Inbox {
    /// Opens the source of a path.
    fn open(
        context: &Context,
        path: &str,
        patience: Duration,
        handler: impl FnOnce(Self) -> Arc<dyn Handler>,
    ) -> Box<dyn Source> {
        let (events, waiting) = mpsc::channel(WAITING);
        let publisher = context.publisher.clone();
        let inbox = Self {
            events,
            publisher,
            patience,
        };
        context.routes.insert(path, handler(inbox));
        Box::new(Called {
            waiting,
            routes: Arc::clone(&context.routes),
            path: path.to_owned(),
        })
    }

    /// Offers the events of a request and waits for what becomes of each. A full window refuses it at
    /// once; of a request that was let in, each event waits for room: it may have more than there is
    /// room for.
    async fn offer(&self, events: Vec<Event>) -> Vec<Reply> {
        if !self.publisher.is_connected() || self.events.capacity() == 0 {
            return vec![Reply::Later(RETRY_SECS); events.len()];
        }
        let until = tokio::time::Instant::now() + self.patience;
        let replies = events.into_iter().map(|event| self.offer_one(event, until));
        join_all(replies).await
    }

    async fn offer_one(&self, event: Event, until: tokio::time::Instant) -> Reply {
        let Ok(Ok(room)) = tokio::time::timeout_at(until, self.events.reserve()).await else {
            return Reply::Later(RETRY_SECS);
        };
        let (handle, outcome) = oneshot::channel();
        let handle = Box::new(Handle(handle));
        room.send(Delivery { event, handle });
        match tokio::time::timeout_at(until, outcome).await {
            Ok(Ok(Outcome::Done | Outcome::DeadLettered)) => Reply::Accepted,
            Ok(Ok(Outcome::Poison { reason })) => Reply::Refused(reason),
            Ok(Ok(Outcome::Retry { after })) => {
                let secs = u16::try_from(after.as_secs()).unwrap_or(u16::MAX);
                Reply::Later(secs.max(RETRY_SECS))
            }
            // Its time is over, or the bridge stops: who sends it again sends the same key.
            Ok(Ok(Outcome::Released) | Err(_)) | Err(_) => Reply::Later(RETRY_SECS),
        }
    }
}

/// One answer for all: the worst of what became of the events.
fn answer_all(replies: &[Reply]) -> Answer {
    let later_secs = replies.iter().filter_map(|reply| match reply {
        Reply::Later(secs) => Some(*secs),
        _ => None,
    });
    if let Some(secs) = later_secs.max() {
        return later(StatusCode::SERVICE_UNAVAILABLE, secs, "not now");
    }
    let refused = replies.iter().find_map(|reply| match reply {
        Reply::Refused(reason) => Some(reason),
        _ => None,
    });
    match refused {
        Some(reason) => say(StatusCode::BAD_REQUEST, reason),
        None => say(StatusCode::OK, "published"),
    }
}

/// The run loop's end of an inbox.
struct Called {
    waiting: mpsc::Receiver<Delivery>,
    routes: Arc<Routes>,
    path: String,
}

impl Source for Called {
    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, SourceError>> {
        async move {
            let mut deliveries = Vec::new();
            let count = self.waiting.recv_many(&mut deliveries, max).await;
            match count {
                0 => Err(SourceError::new("nobody answers at the path any more")),
                _ => Ok(deliveries),
            }
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.routes.close(&self.path);
        async {}.boxed()
    }
}

/// Whoever waits for the outcome may have gone.
struct Handle(oneshot::Sender<Outcome>);

impl Settle for Handle {
    fn settle(self: Box<Self>, outcome: Outcome) {
        let _ = self.0.send(outcome);
    }
}

/// Reads the path of a source.
fn read_path(section: &mut crate::config::Section, default: &str) -> String {
    section.text("path").unwrap_or_else(|| default.to_owned())
}

/// Reads how long a request waits; callers of API destinations wait five seconds.
fn read_patience(section: &mut crate::config::Section) -> Duration {
    let allowed = Duration::from_millis(10)..=Duration::from_hours(1);
    section.duration("answer_timeout", Duration::from_millis(4500), allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_answered() {
        let status = |replies: &[Reply]| answer_all(replies).status();
        let refused = || Reply::Refused("why".into());
        assert_eq!(status(&[Reply::Accepted]), StatusCode::OK);
        assert_eq!(
            status(&[Reply::Accepted, refused()]),
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            status(&[refused(), Reply::Later(3)]),
            StatusCode::SERVICE_UNAVAILABLE
        );
        let answer = answer_all(&[Reply::Later(3), Reply::Later(7)]);
        assert_eq!(answer.headers()["retry-after"], "7");
    }
}
