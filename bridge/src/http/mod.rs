//! The HTTP ports: events in, and metrics and health.
//!
//! It reads a request whole, within bounds, and hands it to whoever is registered for its path. It
//! knows nothing of events.

mod admin;
mod client;
mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use parking_lot::Mutex;

pub use admin::Health;
pub use client::{ClientError, HttpClient};
pub use server::{Limits, Server};

/// A request, read whole.
pub type Request = http::Request<Bytes>;

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// Answers requests of a path.
pub trait Handler: Send + Sync {
    /// Answers one.
    fn handle(&self, request: Request) -> BoxFuture<'_, Answer>;
}

/// Who answers at which path.
#[derive(Default)]
pub struct Routes(Mutex<BTreeMap<String, Arc<dyn Handler>>>);

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.lock().keys()).finish()
    }
}

impl Routes {
    /// Registers for a path and all below it, in the place of who was there.
    pub fn insert(&self, path: &str, handler: Arc<dyn Handler>) {
        let path = path.trim_end_matches('/').to_owned();
        self.0.lock().insert(path, handler);
    }

    /// Nobody answers at a path yet, or any more: callers are told to come again. "Not found" would
    /// make some of them give up.
    pub fn close(&self, path: &str) {
        self.insert(path, Arc::new(Closed));
    }

    /// Who answers at a path: the longest registered one that it lies below.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Arc<dyn Handler>> {
        let routes = self.0.lock();
        let mut path = path.trim_end_matches('/');
        loop {
            if let Some(handler) = routes.get(path) {
                return Some(Arc::clone(handler));
            }
            path = &path[..path.rfind('/')?];
        }
    }
}

/// Answers for those who are not there just now.
struct Closed;

impl Handler for Closed {
    fn handle(&self, _: Request) -> BoxFuture<'_, Answer> {
        let answer = later(StatusCode::SERVICE_UNAVAILABLE, 1, "not open just now");
        Box::pin(std::future::ready(answer))
    }
}

/// An answer of a type.
#[must_use]
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// An answer in words.
#[must_use]
pub fn say(status: StatusCode, what: impl fmt::Display) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{what}\n"))
}

/// An answer that says when to come again.
#[must_use]
pub fn later(status: StatusCode, secs: u16, what: impl fmt::Display) -> Answer {
    let mut answer = say(status, what);
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(secs));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(StatusCode);

    impl Handler for Named {
        fn handle(&self, _: Request) -> BoxFuture<'_, Answer> {
            Box::pin(async { say(self.0, "") })
        }
    }

    #[tokio::test]
    async fn the_longest_path_answers() {
        let routes = Routes::default();
        routes.insert("/a", Arc::new(Named(StatusCode::OK)));
        routes.insert("/a/b/", Arc::new(Named(StatusCode::ACCEPTED)));
        for (path, expected) in [
            ("/a", Some(StatusCode::OK)),
            ("/a/", Some(StatusCode::OK)),
            ("/a/x/y", Some(StatusCode::OK)),
            ("/a/b", Some(StatusCode::ACCEPTED)),
            ("/a/b/c", Some(StatusCode::ACCEPTED)),
            ("/ab", None),
            ("/", None),
        ] {
            let found = match routes.find(path) {
                Some(handler) => Some(handler.handle(Request::default()).await.status()),
                None => None,
            };
            assert_eq!(found, expected, "{path}");
        }
        routes.insert("/", Arc::new(Named(StatusCode::NO_CONTENT)));
        routes.close("/");
        let closed = routes.find("/x").unwrap().handle(Request::default()).await;
        assert_eq!(closed.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
