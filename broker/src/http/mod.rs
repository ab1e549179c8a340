//! The HTTP API: publishing and looking after clients without holding a connection.
//!
//! [`answer`] is called by the HTTP port (`net/http.rs`) for each request that [`serves`] claims. The
//! list of all operations is [`route::ROUTES`]; the OpenAPI document ([`openapi`]) is made from it.
//! Operations are plain functions: they call the `hub`, and say which unit of the store their answer
//! promises; the waiting is done here, once for all. [`guard`] says who asks and what it may do.
//!
//! Three faces share the operations: Polycast's own under `/api/v1`, API Gateway's `@connections`
//! ([`connections`]), and the data calls of AWS IoT ([`iot`]); both as the AWS SDKs speak them.

mod body;
mod clients;
mod connections;
mod control;
mod events;
mod explain;
mod frames;
mod groups;
mod guard;
mod iot;
mod openapi;
mod overview;
mod pages;
mod problem;
mod protection;
mod publish;
mod retained;
mod route;
mod scrape;
mod signature;
mod status;
mod text;
mod trace;
mod traceparent;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use body::Body;
pub use control::{Control, DrainWish, Order, Reloaded};
pub use events::StreamPlace;
pub(crate) use text::{moment, percent_encode};
pub use trace::TraceBody;

use crate::auth::Identity;
use crate::config;
use crate::net::{Ends, Live, Net, Pulse};
use crate::session::{Batch, Session};
use crate::store::Seq;
use guard::{Caller, Keys};
pub(crate) use pages::{is_page, page};
use problem::{Face, Problem};
use route::{Found, Route};
pub(crate) use scrape::{Figures, figures, protected};
use text::Query;

/// Marks an answer to someone who has shown who it is, and may do what was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recognised;

/// What the API keeps between requests.
pub struct Api {
    settings: ArcSwap<Settings>,
    /// What it asks of the program.
    pub control: Control,
    /// When it was made, with the broker.
    started: Instant,
    /// Told when the broker stops.
    pub(crate) stopping: Notify,
    in_work: AtomicUsize,
    streams: Arc<AtomicUsize>,
    /// Answers, by operation and status: bounded, as both are.
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

/// The configuration, with the secrets that it names.
#[derive(Default)]
struct Settings {
    config: config::Api,
    keys: Keys,
}

/// A request, once it is known who asks for what.
struct Call<'a> {
    net: &'a Arc<Net>,
    settings: &'a Settings,
    live: &'a Live,
    ends: &'a Ends,
    pulse: &'a Arc<Pulse>,
    head: &'a Parts,
    query: &'a Query,
    /// The parts of the path that the route names, in order.
    path: &'a [String],
    caller: &'a Caller,
    body: Bytes,
}

/// What an operation answers.
struct Answer {
    response: Response<Body>,
    /// The unit that must be on disk first.
    promised: Seq,
    /// A receiver that is slow: the answer waits for it a little, so that its publisher does.
    pressed: Option<Arc<Session>>,
    /// What must be done first and takes its time.
    behind: Option<Work>,
}

/// What an answer waits for; it may bring another answer.
type Work = Pin<Box<dyn Future<Output = Result<Option<Response<Body>>, Problem>> + Send>>;

impl Answer {
    /// An answer to something that was done in a batch, which ends here.
    fn of(call: &Call<'_>, mut batch: Batch, response: Response<Body>) -> Self {
        let promised = batch.take_promised();
        let pressed = batch.take_pressed().into_iter().next();
        batch.finish(&call.net.hub.metrics);
        Self {
            response,
            promised,
            pressed,
            behind: None,
        }
    }
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self {
            response,
            promised: 0,
            pressed: None,
            behind: None,
        }
    }
}

impl Call<'_> {
    /// A batch at this moment.
    fn batch(&self) -> Batch {
        Batch::new(self.net.clock.now())
    }

    /// How many rows a page has: what the query says, within the configured limit.
    fn limit(&self) -> Result<usize, Problem> {
        let max = self.settings.config.page_rows as u64;
        let limit = self.query.number("limit", 1, 1_000_000)?;
        Ok(usize::try_from(limit.unwrap_or(100).min(max)).unwrap_or(1))
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            settings: ArcSwap::default(),
            control: Control::default(),
            started: Instant::now(),
            stopping: Notify::new(),
            in_work: AtomicUsize::new(0),
            streams: Arc::default(),
            answers: Mutex::default(),
        }
    }
}

/// Who signed an upgrade to WebSocket with a key of `api.aws_keys`, in its query or a header, or why
/// the signature is wrong; `None` if there is none, or there are no keys.
pub(crate) fn signer(
    net: &Net,
    request: &Request<Incoming>,
) -> Option<Result<Identity, Cow<'static, str>>> {
    let settings = net.api.settings.load();
    let signer = settings.keys.signer(request.into(), net.clock.now())?;
    Some(signer.map_err(|problem| problem.detail))
}

impl Api {
    /// Uses a configuration from now on, if its secrets can be read.
    pub fn configure(&self, config: &config::Api) -> Result<(), String> {
        let keys = Keys::load(config)?;
        self.settings.store(Arc::new(Settings {
            config: config.clone(),
            keys,
        }));
        Ok(())
    }

    /// Its metrics, in Prometheus' form.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = writeln!(
            text,
            "# HELP polycast_http_requests_in_progress Requests to the HTTP API that are worked on.\n\
             # TYPE polycast_http_requests_in_progress gauge\n\
             polycast_http_requests_in_progress {}\n\
             # HELP polycast_http_streams Open streams of Server-Sent Events.\n\
             # TYPE polycast_http_streams gauge\n\
             polycast_http_streams {}\n\
             # HELP polycast_http_requests_total Requests to the HTTP API that were answered.\n\
             # TYPE polycast_http_requests_total counter",
            self.in_work.load(Ordering::Relaxed),
            self.streams.load(Ordering::Relaxed),
        );
        for ((operation, status), count) in &*self.answers.lock() {
            let _ = writeln!(
                text,
                "polycast_http_requests_total{{operation=\"{operation}\",status=\"{status}\"}} {count}"
            );
        }
        text
    }

    fn count(&self, operation: &'static str, status: StatusCode) {
        let mut answers = self.answers.lock();
        *answers.entry((operation, status.as_u16())).or_default() += 1;
    }
}

/// One more of something that is bounded, until it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::AcqRel) < max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether a request is for the API. Upgrades to WebSocket are not, whatever their path.
pub(crate) fn serves(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    !headers.contains_key(header::UPGRADE)
        && !headers.contains_key(header::SEC_WEBSOCKET_KEY)
        && route::is_ours(request.uri().path())
}

/// Answers a request.
pub(crate) async fn answer(
    net: &Arc<Net>,
    request: Request<Incoming>,
    ends: Ends,
    pulse: &Arc<Pulse>,
) -> Response<Body> {
    let (head, mut body) = request.into_parts();
    let live = net.live.load_full();
    let (operation, mut response) = if head.method == Method::OPTIONS {
        ("options", options(&head, &live))
    } else {
        match route::find(&head.method, head.uri.path()) {
            Ok(found) => {
                let (operation, face) = (found.route.id, found.route.face);
                let settings = net.api.settings.load_full();
                let request = (&head, &mut body);
                let needs = found.route.needs;
                let carried = carry_out(net, &settings, &live, found, request, &ends, pulse).await;
                let is_known = needs.is_some() && carried.is_ok();
                let mut response = carried.unwrap_or_else(|problem| problem.into_response(face));
                if is_known {
                    response.extensions_mut().insert(Recognised);
                }
                (operation, response)
            }
            Err(problem) => ("none", problem.into_response(Face::Rest)),
        }
    };
    if !body.is_end_stream() {
        // The answer came first. What is left of the body is not read, so the connection ends: the
        // client is told, that it does not send its next request into it.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    allow_origin(&head.headers, &live, response.headers_mut());
    net.api.count(operation, response.status());
    response
}

async fn carry_out(
    net: &Arc<Net>,
    settings: &Settings,
    live: &Live,
    found: Found,
    (head, body): (&Parts, &mut Incoming),
    ends: &Ends,
    pulse: &Arc<Pulse>,
) -> Result<Response<Body>, Problem> {
    let config = &settings.config;
    let route = found.route;
    let _place = Place::take(&net.api.in_work, config.requests).ok_or_else(|| {
        let detail = "too many requests are worked on at this moment (`api.requests`)";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).after(1)
    })?;
    guard::check_origin(&head.headers, ends, live)?;
    let query = Query::parse(head.uri.query());
    // Without one, a body is not even read of somebody unknown.
    let is_signed = route.face != Face::Rest && signature::of(head.into()).is_some();
    let first = if is_signed {
        let means = (net.auth.load().is_on(), net.clock.now());
        let known = settings.keys.check_signer(means, head, ends);
        known.inspect_err(|refusal| count_guess(net, refusal, (head, &query), ends))?;
        None
    } else {
        Some(identify(net, settings, (head, &query), ends, route, None).await?)
    };
    let work = async {
        let body = if route.body {
            body::read(body, route.body_max(config, live)).await?
        } else {
            Bytes::new()
        };
        let caller = match first {
            Some(caller) => caller,
            None => identify(net, settings, (head, &query), ends, route, Some(&body)).await?,
        };
        let call = Call {
            net,
            settings,
            live,
            ends,
            pulse,
            head,
            query: &query,
            path: &found.path,
            caller: &caller,
            body,
        };
        let answer = (route.run)(&call)?;
        keep_promise(net, live, answer).await
    };
    match tokio::time::timeout(config.request_timeout, work).await {
        Ok(answered) => answered,
        Err(_) => Err(too_late()),
    }
}

fn too_late() -> Problem {
    let detail = "the request took longer than `api.request_timeout`; it may have been carried out \
                  or not: with an Idempotency-Key it can be sent again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail)
}

/// Who asks, if it may do what the route needs. A signature covers the body.
async fn identify(
    net: &Net,
    settings: &Settings,
    (head, query): (&Parts, &Query),
    ends: &Ends,
    route: &Route,
    body: Option<&Bytes>,
) -> Result<Caller, Problem> {
    let Some(action) = route.needs else {
        return Ok(Caller::nobody());
    };
    let means = (net.auth.load().is_on(), net.clock.now());
    let caller = match settings.keys.identify(means, (head, query), ends, body) {
        Ok(Some(caller)) => Ok(caller),
        Ok(None) => {
            let refused = |refusal: &Problem| {
                // What clients log in with was counted; keys are not among that.
                if head.headers.contains_key("x-api-key") {
                    count_guess(net, refusal, (head, query), ends);
                }
            };
            guard::log_in(net, head, ends).await.inspect_err(refused)
        }
        Err(problem) => {
            count_guess(net, &problem, (head, query), ends);
            Err(problem)
        }
    };
    let caller = caller.map_err(|mut problem| {
        if route.face == Face::Connections {
            // API Gateway knows no 401.
            problem.status = StatusCode::FORBIDDEN;
        }
        problem
    })?;
    caller.require(action, None)?;
    Ok(caller)
}

/// An address that shows keys which are none is banned as one that shows wrong passwords is.
fn count_guess(net: &Net, refusal: &Problem, (head, query): (&Parts, &Query), ends: &Ends) {
    if guard::is_guess(refusal, head, query) {
        let guard = &net.hub.guard;
        guard.failed_login(ends.peer.ip(), net.clock.now());
    }
}

/// Waits until what an answer promises is on disk, and a little for a receiver that lags behind.
async fn keep_promise(net: &Net, live: &Live, answer: Answer) -> Result<Response<Body>, Problem> {
    let Answer {
        mut response,
        promised,
        pressed,
        behind,
    } = answer;
    if let Some(work) = behind {
        response = work.await?.unwrap_or(response);
    }
    if let Some(store) = net.hub.store() {
        std::future::poll_fn(|cx| {
            if store.durable() >= promised {
                return Poll::Ready(());
            }
            store.wake_at(promised, cx.waker());
            Poll::Pending
        })
        .await;
    }
    if let Some(slow) = pressed
        && !live.pause.is_zero()
    {
        net.hub.metrics.publisher_pauses.inc();
        // Either is fine: the receiver has read, or it has had its chance.
        let _ = tokio::time::timeout(live.pause, slow.drained().notified()).await;
    }
    Ok(response)
}

/// What may be asked of a path, and for pages of listed origins the preflight (CORS).
fn options(head: &Parts, live: &Live) -> Response<Body> {
    let methods = route::methods(head.uri.path());
    if methods.is_empty() {
        return route::nothing_at(head.uri.path()).into_response(Face::Rest);
    }
    let mut response = body::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    if let Ok(methods) = HeaderValue::from_str(&methods) {
        headers.insert(header::ALLOW, methods.clone());
        if listed_origin(&head.headers, live).is_some() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            let allowed = "authorization, content-type, idempotency-key, last-event-id, x-api-key";
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static(allowed),
            );
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, 600.into());
        }
    }
    response
}

fn listed_origin<'a>(headers: &'a HeaderMap, live: &Live) -> Option<&'a HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let mut listed = live.allowed_origins.iter();
    let is_listed = listed
        .any(|listed| listed == "*" || listed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()));
    is_listed.then_some(origin)
}

/// Lets a page of a listed origin read the answer.
fn allow_origin(request: &HeaderMap, live: &Live, headers: &mut HeaderMap) {
    if live.allowed_origins.is_empty() {
        return;
    }
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = listed_origin(request, live) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        let exposed = HeaderValue::from_static("retry-after, x-amzn-errortype");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// The name of a header that is written in small letters.
const fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}
