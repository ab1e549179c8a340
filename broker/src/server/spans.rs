//! Sends spans to a collector, if one is configured.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use url::Url;

use crate::auth::fetch::{Fetcher, Question};
use crate::auth::reach::Reach;
use crate::net::Net;
use crate::telemetry::spans_to_json;

/// How often they are sent.
const EVERY: Duration = Duration::from_secs(1);

/// How long the collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of its answer that are read.
const ANSWER_BYTES: usize = 64 * 1024;

/// Sends what was gathered until the broker stops. What the collector does not take is lost, and
/// counted.
pub(super) async fn export(net: Arc<Net>, to: Url, mut stop: watch::Receiver<bool>) {
    let fetcher = match Fetcher::new(None, Reach::default()) {
        Ok(fetcher) => fetcher,
        Err(error) => return tracing::error!(%error, "traces are not exported"),
    };
    let mut stopping = false;
    while !stopping {
        stopping = tokio::time::timeout(EVERY, stop.wait_for(|stop| *stop))
            .await
            .is_ok();
        send(&net, &fetcher, &to).await;
    }
}

async fn send(net: &Net, fetcher: &Fetcher, to: &Url) {
    let spans = net.hub.spans.take();
    if spans.is_empty() {
        return;
    }
    let question = Question {
        url: to,
        secret: None,
        json: Some(Bytes::from(spans_to_json(&spans).to_string())),
        timeout: TIMEOUT,
        max_bytes: ANSWER_BYTES,
    };
    let why = match fetcher.ask(question).await {
        Ok(answer) if answer.status.is_success() => return,
        Ok(answer) => answer.status.to_string(),
        Err(error) => error.to_string(),
    };
    net.hub.spans.lost.add(spans.len() as u64);
    tracing::warn!(
        spans = spans.len(),
        why,
        "spans were not taken by the collector"
    );
}
