//! `GET /api/v1/subscribe`: a subscription as Server-Sent Events.
//!
//! Without a `session` the stream gets what is published while it is open. A named session keeps
//! messages while its client is away, and the events that a client might not have read: it comes back
//! with `Last-Event-ID`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use protocols::connection::{Connect, Overlap, RetainHandling, Subscribe, Token, topics};
use protocols::model::QoS;
use protocols::sse::{Config, EventId, EventStream};

use super::body::Body;
use super::groups::request;
use super::guard::Action;
use super::problem::Problem;
use super::text::shown;
use super::{Answer, Call};
use crate::net::EventBody;
use crate::session::{Batch, Session};

/// Topics of one stream.
const TOPICS: usize = 100;

/// Longest name of a session in bytes.
const NAME_BYTES: usize = 128;

/// One of the streams that may be open, until it is dropped.
#[derive(Debug)]
pub struct StreamPlace(Arc<AtomicUsize>);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn place(call: &Call<'_>) -> Result<StreamPlace, Problem> {
    let streams = &call.net.api.streams;
    let place = StreamPlace(Arc::clone(streams));
    if streams.fetch_add(1, Ordering::AcqRel) < call.settings.config.streams {
        return Ok(place);
    }
    let detail = "as many streams are open as may be (`api.streams`)";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).after(5))
}

/// See the module.
pub(super) fn subscribe(call: &Call<'_>) -> Result<Answer, Problem> {
    let place = place(call)?;
    let wanted = wanted(call)?;
    let last_event = last_event(call)?;
    let name = session_name(call)?;
    let qos = match call.query.number("qos", 0, 1)? {
        Some(0) => QoS::AtMostOnce,
        Some(_) => QoS::AtLeastOnce,
        None if name.is_some() => QoS::AtLeastOnce,
        None => QoS::AtMostOnce,
    };
    let handling = match call.query.truth("retained")? {
        Some(false) => RetainHandling::DoNotSend,
        _ => RetainHandling::SendIfNew,
    };
    let requests = wanted
        .iter()
        .map(|topic| Ok(Ok(request(call, topic, qos, handling)?)));
    let requests = requests.collect::<Result<_, Problem>>()?;
    let mut batch = call.batch();
    let config = &call.settings.config;
    let stream = EventStream::new(
        Config {
            heartbeat: config.stream_heartbeat,
            replay: config.stream_replay.into(),
            last_event,
        },
        batch.now,
    );
    let opened = call.net.open_stream(
        Box::new(stream),
        (connect(call, name)?, call.caller.identity.clone()),
        call.ends,
        call.pulse,
        &mut batch,
    );
    let (mut events, session) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            batch.finish(&call.net.hub.metrics);
            return Err(refusal.into());
        }
    };
    events.holds(place);
    let subscribe = Subscribe {
        token: Token::default(),
        requests,
    };
    let refused = take_up(call, &session, subscribe, &mut batch);
    if let Some(refused) = refused {
        batch.finish(&call.net.hub.metrics);
        return Err(refused);
    }
    Ok(Answer::of(call, batch, response(events)))
}

fn response(events: EventBody) -> Response<Body> {
    let mut response = Response::new(Body::Events(Box::new(events)));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Tells nginx, and who learnt it from there, to pass on what comes.
        (super::name("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Subscribes to what was asked for, and to nothing that the session had before.
fn take_up(
    call: &Call<'_>,
    session: &Arc<Session>,
    subscribe: Subscribe,
    batch: &mut Batch,
) -> Option<Problem> {
    let hub = &call.net.hub;
    let asked = |key: &str| {
        let mut requests = subscribe.requests.iter().flatten();
        requests.any(|request| request.key == *key)
    };
    let mut old: Vec<_> = {
        let state = session.lock();
        let keys = state.subscriptions.keys();
        keys.filter(|key| !asked(key)).cloned().collect()
    };
    old.sort();
    if !old.is_empty() {
        hub.unsubscribe(session, &old, batch);
    }
    let results = hub.subscribe(session, subscribe, batch);
    hub.pump(session, batch);
    results.into_iter().find_map(Result::err).map(Problem::from)
}

/// The topic filters of the query.
fn wanted(call: &Call<'_>) -> Result<Vec<String>, Problem> {
    let plain = call.query.all("topic").map(str::to_owned);
    let groups = call
        .query
        .all("group")
        .map(|group| format!("{}{group}", topics::GROUP));
    let wanted: Vec<String> = plain.chain(groups).collect();
    if wanted.is_empty() || wanted.len() > TOPICS {
        return Err(Problem::invalid(format!(
            "the query must name 1 to {TOPICS} topics: ?topic=a/b&topic=c/%23"
        )));
    }
    for topic in &wanted {
        call.caller.require(Action::Subscribe, Some(topic))?;
    }
    Ok(wanted)
}

/// What the client has already, if it says so and it can be known.
fn last_event(call: &Call<'_>) -> Result<Option<EventId>, Problem> {
    let said = call.head.headers.get("last-event-id");
    let said = said.and_then(|value| value.to_str().ok());
    let Some(text) = said.or(call.query.text("lastEventId")) else {
        return Ok(None);
    };
    if text.is_empty() {
        return Ok(None);
    }
    EventId::parse(text).map(Some).ok_or_else(|| {
        let shown = shown(text);
        Problem::invalid(format!(
            "Last-Event-ID is {shown}, which no event of ours had as its id"
        ))
    })
}

/// The name of a session: its caller's own, so that nobody gets another's messages by guessing.
fn session_name(call: &Call<'_>) -> Result<Option<String>, Problem> {
    let Some(name) = call.query.text("session") else {
        return Ok(None);
    };
    if name.is_empty() || name.len() > NAME_BYTES || name.contains(char::is_control) {
        return Err(Problem::invalid(format!(
            "`session` must have 1 to {NAME_BYTES} bytes without controls"
        )));
    }
    Ok(Some(format!("sse/{}/{name}", call.caller.name())))
}

fn connect(call: &Call<'_>, name: Option<String>) -> Result<Connect, Problem> {
    let limits = &call.live.limits;
    let day = 24 * 3600;
    let max = limits.session_expiry_max_secs;
    let expiry = call.query.number("expiry", 1, max.max(1).into())?;
    let expiry = expiry.map_or(day.min(max), |secs| u32::try_from(secs).unwrap_or(max));
    let is_named = name.is_some();
    let window = call.settings.config.stream_replay.saturating_mul(2);
    Ok(Connect {
        protocol: "sse",
        client_id: name.map(Into::into),
        clean_start: !is_named,
        session_expiry_secs: if is_named { expiry } else { 0 },
        username: call.caller.identity.user.clone(),
        // Without a session nothing is kept open for a client that comes back.
        in_flight: window,
        overlap: Overlap::Merge,
        ..Connect::default()
    })
}
