//! Following a client or a topic: a stream of JSON lines, bounded in time, in rate and in number.

use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use protocols::model::Filter;
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};

use super::body::Body;
use super::problem::Problem;
use super::text::shown;
use super::{Answer, Call, body};
use crate::net::Net;
use crate::telemetry::trace::{Follow, Reader, TRACES_MAX, follow};

/// Seconds that a trace goes on, unless it is said otherwise, and at most.
const SECS: (u64, u64) = (60, 3600);
/// How often it is looked whether events were lost, and whether the broker stops.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of one piece.
const PIECE: usize = 64 * 1024;

/// A trace as the body of an answer.
pub struct TraceBody {
    net: Arc<Net>,
    reader: Reader,
    end: Pin<Box<Sleep>>,
    look: Interval,
    /// Whether the last line was written.
    is_over: bool,
}

/// `GET /api/v1/trace`
pub(super) fn trace(call: &Call<'_>) -> Result<Answer, Problem> {
    let limits = &call.live.limits;
    let wanted = match (call.query.text("clientId"), call.query.text("topic")) {
        (Some(id), None) if !id.is_empty() => Follow::Client(id.into()),
        (None, Some(text)) => {
            let filter = Filter::parse(text.into(), limits.topic_bytes, limits.topic_levels);
            Follow::Topics(filter.map_err(|error| {
                let detail = format!("`topic` is {}: {error}", shown(text));
                Problem::new(StatusCode::BAD_REQUEST, "filterInvalid", detail)
            })?)
        }
        _ => return Err(Problem::invalid("either `clientId` or `topic` is needed")),
    };
    let secs = call.query.number("seconds", 1, SECS.1)?.unwrap_or(SECS.0);
    let reader = follow(wanted).ok_or_else(|| {
        let detail = format!("there are {TRACES_MAX} traces already");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).after(5)
    })?;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let body = TraceBody {
        net: Arc::clone(call.net),
        reader,
        end: Box::pin(tokio::time::sleep_until(
            Instant::now() + Duration::from_secs(secs),
        )),
        look,
        is_over: false,
    };
    let mut response = Response::new(Body::Trace(Box::new(body)));
    body::set_type(&mut response, "application/x-ndjson");
    Ok(response.into())
}

impl TraceBody {
    /// The next lines; `None` at the end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let mut piece = String::new();
        while piece.len() < PIECE
            && let Poll::Ready(Some(line)) = self.reader.events.poll_recv(cx)
        {
            piece.push_str(&line);
        }
        while self.look.poll_tick(cx).is_ready() {
            let lost = self.reader.take_lost();
            if lost > 0 {
                let _ = writeln!(piece, "{}", json!({"event": "lost", "count": lost}));
            }
            self.is_over |= self.net.hub.is_stopping();
        }
        self.is_over |= self.end.as_mut().poll(cx).is_ready();
        if self.is_over {
            piece.push_str("{\"event\":\"end\"}\n");
        }
        if piece.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(piece.into()))
    }
}
