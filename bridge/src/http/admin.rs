//! `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Method, StatusCode};

use super::{Answer, Handler, Request, Routes, answer, say};
use crate::metrics::Metrics;

/// Answers what operators ask.
#[derive(Debug)]
pub struct Health {
    metrics: Arc<Metrics>,
}

impl Health {
    /// The paths that are answered.
    #[must_use]
    pub fn routes(metrics: Arc<Metrics>) -> Arc<Routes> {
        let routes = Routes::default();
        let health = Arc::new(Self { metrics });
        for path in ["/metrics", "/healthz", "/readyz"] {
            routes.insert(path, Arc::clone(&health) as Arc<dyn Handler>);
        }
        Arc::new(routes)
    }

    fn respond(&self, request: &Request) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return say(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        }
        let connected = self.metrics.broker.connected.value() == 1;
        match request.uri().path() {
            "/metrics" => answer(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.metrics.text(),
            ),
            "/healthz" => say(StatusCode::OK, "alive"),
            "/readyz" if connected => say(StatusCode::OK, "the broker is connected"),
            "/readyz" => say(
                StatusCode::SERVICE_UNAVAILABLE,
                "the broker is not connected",
            ),
            _ => say(StatusCode::NOT_FOUND, "nothing is here"),
        }
    }
}

impl Handler for Health {
    fn handle(&self, request: Request) -> BoxFuture<'_, Answer> {
        Box::pin(async move { self.respond(&request) })
    }
}
