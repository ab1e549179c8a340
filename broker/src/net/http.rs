//! The HTTP port: health, metrics, and the upgrade to WebSocket.
//!
//! Any path may be upgraded; the subprotocol, not the path, says what is spoken. After the upgrade
//! the raw socket goes to a [`super::driver`] of its own: hyper is gone from it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::admission::Permit;
use super::gateway;
use super::patience::Patient;
use super::socket::Socket;
use super::stream::Pulse;
use super::visitor::Visitor;
use super::{Arrival, Ends, Live, Net};
use crate::auth::{Identity, token_of_request};
use crate::functions::Visit;
use crate::http::{Figures, Recognised, figures, protected};
use crate::telemetry::Transport;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use protocols::connection::{Protocol, Secret};
use protocols::model::Timestamp;
use protocols::negotiation::{self, Choice, HttpRefusal};
use protocols::registry::PROTOCOLS;
use protocols::websocket::deflate::Deflate;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Where Prometheus looks.
const METRICS: &str = "/metrics";
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");

/// One connection: requests until it is closed or upgraded. Of the first some may be read already.
pub(super) async fn serve(
    net: Arc<Net>,
    (socket, head): (Socket, BytesMut),
    ends: Ends,
    visitor: Visitor,
    permit: Permit,
) {
    let peer = ends.peer;
    let visitor = Arc::new(visitor);
    // Moves to the WebSocket if there is an upgrade, so that the place stays taken.
    let place = Arc::new(Mutex::new(Some(permit)));
    let pulse = Arc::new(Pulse::default());
    let unread = Arc::new(Pulse::default());
    let socket = Patient::new((socket, head), Arc::clone(&net), Arc::clone(&unread));
    let service = service_fn(|request: Request<Incoming>| {
        visitor.asks();
        net.stir();
        let (net, place, pulse) = (Arc::clone(&net), Arc::clone(&place), Arc::clone(&pulse));
        let (ends, visitor) = (ends.clone(), Arc::clone(&visitor));
        async move {
            let answered = find_answer(&net, request, ends, &place, &pulse).await;
            let is_known = answered.extensions().get::<Recognised>().is_some();
            if !is_known && place.lock().is_some() {
                visitor.waits();
            }
            Ok::<_, Infallible>(answered)
        }
    });
    let live = net.live.load_full();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(live.limits.login_ms.into()))
        .max_buf_size(live.http_head_bytes)
        .max_headers(live.http_headers)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let wind_up =
        |connection: Pin<&mut UpgradeableConnection<_, _>>| connection.graceful_shutdown();
    let served = tokio::select! {
        () = visitor.dismissed() => return net.hub.metrics.connection_refused("http"),
        served = watch(&net, connection, wind_up, (visitor.winds_up(), [&pulse, &unread])) => served,
    };
    if let Err(error) = served {
        net.hub.metrics.connection_refused("http");
        tracing::debug!(%peer, %error, "an HTTP connection failed");
    }
}

/// Drives the connection until it is over, its answers or its stream are not read any more, or the broker
/// stops, or it has to make room, and it has nothing to do.
async fn watch<C: Future<Output = hyper::Result<()>>>(
    net: &Net,
    connection: C,
    wind_up: impl Fn(Pin<&mut C>),
    (ending, pulses): (impl Future<Output = ()>, [&Pulse; 2]),
) -> hyper::Result<()> {
    let mut connection = std::pin::pin!(connection);
    let mut stopping = std::pin::pin!(ending);
    let mut told = false;
    // At most one look ahead is armed; one that comes too early is followed by another.
    let mut looks_at: Option<Timestamp> = None;
    std::future::poll_fn(|cx| {
        if !told && stopping.as_mut().poll(cx).is_ready() {
            told = true;
            wind_up(connection.as_mut());
        }
        if let Poll::Ready(served) = connection.as_mut().poll(cx) {
            return Poll::Ready(served);
        }
        let waits = pulses.into_iter().filter_map(Pulse::waits_since);
        let Some(since) = waits.min() else {
            return Poll::Pending;
        };
        let (now, stall) = (net.clock.now(), net.live.load().stall);
        if since + stall <= now {
            net.hub.metrics.connection_refused("http");
            tracing::debug!("an answer was not read any more");
            return Poll::Ready(Ok(()));
        }
        if looks_at.is_none_or(|at| at <= now) {
            looks_at = Some(since + stall);
            net.timers.arm(since + stall, cx.waker());
        }
        Poll::Pending
    })
    .await
}

async fn find_answer(
    net: &Arc<Net>,
    mut request: Request<Incoming>,
    ends: Ends,
    place: &Mutex<Option<Permit>>,
    pulse: &Arc<Pulse>,
) -> Response<crate::http::Body> {
    if request.uri().path() == METRICS
        && !is_upgrade(request.headers())
        && figures(net, request.headers(), &ends) == Figures::Protected
    {
        *request.uri_mut() = protected(request.uri());
    }
    if crate::http::serves(&request) {
        return crate::http::answer(net, request, ends, pulse).await;
    }
    let answered = match gateway::claims(net, &request) {
        Some(functions) => gateway::upgrade(net, functions, request, &ends, place).await,
        None => answer(net, request, &ends, place),
    };
    answered.map(|body| crate::http::Body::Full(body.into_inner()))
}

fn answer(
    net: &Arc<Net>,
    request: Request<Incoming>,
    ends: &Ends,
    place: &Mutex<Option<Permit>>,
) -> Response<Full<Bytes>> {
    if is_upgrade(request.headers()) {
        return upgrade(net, request, ends, place);
    }
    if request.headers().contains_key(header::TRANSFER_ENCODING) {
        // Nothing here takes a body, and one of disputed length is how requests are smuggled.
        let mut refused = problem(
            StatusCode::BAD_REQUEST,
            "no body of unknown length is taken",
        );
        close(&mut refused);
        return refused;
    }
    let live = net.live.load();
    let path = request.uri().path();
    let tells = figures(net, request.headers(), ends);
    let known = matches!(path, "/healthz" | METRICS) || crate::http::is_page(path, &live.pages);
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && let Some(page) = crate::http::page(path, request.headers(), &live.pages)
    {
        return page;
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => health(net, tells == Figures::Open),
        (_, METRICS) if tells == Figures::Off => problem(
            StatusCode::NOT_FOUND,
            "the metrics are switched off (`http.metrics`)",
        ),
        (&Method::GET | &Method::HEAD, METRICS) => body(StatusCode::OK, PROMETHEUS, metrics(net)),
        (_, path) if known => {
            let mut refused = problem(
                StatusCode::METHOD_NOT_ALLOWED,
                &format!("{path} is read with GET"),
            );
            refused
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
        (_, path) => problem(
            StatusCode::NOT_FOUND,
            &format!(
                "there is nothing at {path}; there are /healthz, /metrics and WebSocket on any path"
            ),
        ),
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE) || headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

fn upgrade(
    net: &Arc<Net>,
    mut request: Request<Incoming>,
    ends: &Ends,
    place: &Mutex<Option<Permit>>,
) -> Response<Full<Bytes>> {
    let live = net.live.load();
    let peer = ends.peer;
    let agreed = agree(&live, &request, ends, None);
    let agreed = agreed.and_then(|agreed| Ok((agreed, gateway::signer(net, &request, ends)?)));
    let (agreed, signer) = match agreed {
        Ok(agreed) => agreed,
        Err(refusal) => {
            net.hub.metrics.web_socket_negotiation("unknown", "refused");
            tracing::info!(%peer, reason = %refusal.message, "a WebSocket was refused");
            return refused(&refusal);
        }
    };
    let Some(permit) = place.lock().take() else {
        return problem(
            StatusCode::BAD_REQUEST,
            "the connection was upgraded already",
        );
    };
    let offered = agreed.choice.subprotocol.unwrap_or("none");
    net.hub.metrics.web_socket_negotiation(offered, "accepted");
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    agreed.put(response.headers_mut());
    hand_over(
        net,
        &mut request,
        ends,
        &agreed,
        Who::Signer(signer),
        permit,
    );
    response
}

/// Who comes with an upgrade.
pub(super) enum Who {
    /// Whoever its protocol says; or who signed the upgrade.
    Signer(Option<Identity>),
    /// A client of the functions.
    Guest(Visit),
}

/// Gives the socket to the connection, once the answer is written.
pub(super) fn hand_over(
    net: &Arc<Net>,
    request: &mut Request<Incoming>,
    ends: &Ends,
    agreed: &Agreed,
    who: Who,
    permit: Permit,
) {
    let peer = ends.peer;
    let choice = agreed.choice;
    let token = token_of_request(request.headers(), request.uri().query());
    let arrival = arrival(ends, agreed, who, token);
    let net = Arc::clone(net);
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let upgraded = match upgrading.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                tracing::debug!(%peer, %error, "a WebSocket was given up before it began");
                return;
            }
        };
        match upgraded.downcast::<TokioIo<Patient>>() {
            Ok(parts) => {
                let (socket, unread) = parts.io.into_inner().into_inner();
                let mut early = BytesMut::new();
                if arrival.visit.is_some() {
                    early.extend_from_slice(&gateway::LOGIN);
                }
                early.extend_from_slice(&parts.read_buf);
                early.extend_from_slice(&unread);
                // A task of its own: this one ends here, with hyper's buffers.
                tokio::spawn(net.serve(socket, choice.protocol, arrival, early, permit));
            }
            Err(_) => tracing::error!(%peer, "an upgraded connection is not the socket it was"),
        }
    });
}

/// How a client comes in by an upgrade.
pub(super) fn arrival(ends: &Ends, agreed: &Agreed, who: Who, token: Option<Secret>) -> Arrival {
    let (identity, visit) = match who {
        Who::Signer(signer) => (signer.map(Box::new), None),
        Who::Guest(visit) => (None, Some(Arc::new(visit))),
    };
    Arrival {
        peer: ends.peer,
        transport: if ends.is_tls {
            Transport::WebSocketTls
        } else {
            Transport::WebSocket
        },
        subprotocol: agreed.choice.subprotocol,
        deflate: agreed.deflate,
        on_loopback: ends.on_loopback,
        certificate_user: ends.certificate_user.clone(),
        token,
        identity,
        visit,
    }
}

/// What was agreed on in an upgrade.
pub(super) struct Agreed {
    accept: String,
    choice: Choice,
    deflate: Option<Deflate>,
}

impl Agreed {
    /// Who speaks behind it.
    pub(super) fn protocol(&self) -> &'static dyn Protocol {
        self.choice.protocol
    }

    /// What it is called in the handshake.
    pub(super) fn subprotocol(&self) -> Option<&'static str> {
        self.choice.subprotocol
    }

    /// The whole answer, for one that is written without hyper.
    pub(super) fn answer(&self) -> Vec<u8> {
        let mut answer = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
        answer.reserve(192);
        for (name, value) in self.headers() {
            for piece in [name.as_str(), ": ", &value, "\r\n"] {
                answer.extend_from_slice(piece.as_bytes());
            }
        }
        answer.extend_from_slice(b"\r\n");
        answer
    }

    pub(super) fn put(&self, headers: &mut HeaderMap) {
        for (name, value) in self.headers() {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }

    fn headers(&self) -> impl Iterator<Item = (HeaderName, Cow<'_, str>)> {
        let token = self.choice.subprotocol.map(Cow::Borrowed);
        let extension = self.deflate.map(|deflate| Cow::Owned(deflate.answer()));
        [
            (header::UPGRADE, Some(Cow::Borrowed("websocket"))),
            (header::CONNECTION, Some(Cow::Borrowed("Upgrade"))),
            (
                header::SEC_WEBSOCKET_ACCEPT,
                Some(self.accept.as_str().into()),
            ),
            (header::SEC_WEBSOCKET_PROTOCOL, token),
            (header::SEC_WEBSOCKET_EXTENSIONS, extension),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Looks at a handshake. `chosen` says what is spoken, if that is not for the subprotocols to say.
pub(super) fn agree<B>(
    live: &Live,
    request: &Request<B>,
    ends: &Ends,
    chosen: Option<Choice>,
) -> Result<Agreed, HttpRefusal> {
    let headers = request.headers();
    let pairs = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    let is_1_1 = request.version() >= Version::HTTP_11;
    let accept = negotiation::check_upgrade(request.method().as_str(), is_1_1, pairs)?;
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    // On a loopback address a name proves nothing: whoever owns one can point it here, and a page
    // of that name would be of the same site (DNS rebinding).
    let host = host.filter(|host| !ends.is_local || is_address(host));
    // A page that came without TLS may be anybody's, and must not use a certificate that the
    // browser shows by itself.
    let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
    let host = host.filter(|_| !ends.is_tls || !origin.is_some_and(is_plain));
    negotiation::check_origin(
        values(headers, &header::ORIGIN),
        host,
        &live.allowed_origins,
    )?;
    let mut choice = match chosen {
        Some(choice) => choice,
        None => negotiation::choose(PROTOCOLS, values(headers, &header::SEC_WEBSOCKET_PROTOCOL))?,
    };
    if chosen.is_none()
        && choice.subprotocol.is_none()
        && let Some(protocol) = named_by_path(request.uri().path())
    {
        choice.protocol = protocol;
    }
    let offers = values(headers, &header::SEC_WEBSOCKET_EXTENSIONS);
    let deflate = if live.permessage_deflate {
        Deflate::negotiate(offers)
    } else {
        None
    };
    Ok(Agreed {
        accept,
        choice,
        deflate,
    })
}

/// Whether a page came without TLS.
fn is_plain(origin: &[u8]) -> bool {
    let scheme = origin.trim_ascii_start().get(..5);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http:"))
}

/// Whether a `Host` is an IP address or `localhost`.
pub(crate) fn is_address(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else {
        return false;
    };
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Clients that offer no subprotocol (stomp.py, for one) say by the path what they speak: `/stomp`
/// or `/mqtt`.
pub(super) fn named_by_path(path: &str) -> Option<&'static dyn Protocol> {
    let name = path.strip_prefix('/')?;
    PROTOCOLS
        .iter()
        .copied()
        .find(|protocol| protocol.name() == name)
}

pub(super) fn values<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
}

pub(super) fn refused(refusal: &HttpRefusal) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = problem(status, &refusal.message);
    let headers = response.headers_mut();
    if let Some((name, value)) = refusal.header
        && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    close(&mut response);
    response
}

pub(super) fn close(response: &mut Response<Full<Bytes>>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

fn health(net: &Net, tells_figures: bool) -> Response<Full<Bytes>> {
    let stopping = net.hub.is_stopping();
    let status = if stopping {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    // Not a fault that a restart would mend: who needs no disk is served all the same.
    let full = net.hub.store().and_then(|store| store.room().err());
    let (state, reason) = match (stopping, &full) {
        (true, _) => ("stopping", None),
        (false, Some(full)) => ("degraded", Some(full.to_string())),
        (false, None) => ("ok", None),
    };
    let mut text = serde_json::json!({"status": state, "reason": reason});
    if tells_figures {
        text["version"] = env!("CARGO_PKG_VERSION").into();
        text["connections"] = net.admission.connections().into();
        text["sessions"] = net.hub.session_count().into();
    }
    body(status, JSON, format!("{text}\n"))
}

pub(crate) fn metrics(net: &Net) -> String {
    net.gauge();
    net.hub.gauge();
    let store = net.hub.store().and_then(|store| store.stats());
    let metrics = &net.hub.metrics;
    let functions = net.functions.get().map(|functions| functions.metrics());
    metrics.render_with(store.as_ref())
        + &net.api.metrics()
        + &functions.unwrap_or_default()
        + &net.hub.spans.render()
        + &metrics.render_process()
}

/// An error as `application/problem+json` (RFC 9457).
fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let text = serde_json::json!({
        "title": status.canonical_reason().unwrap_or("error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    body(status, PROBLEM, format!("{text}\n"))
}

fn body(status: StatusCode, kind: HeaderValue, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_names() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "localhost:1",
            "LOCALHOST",
        ] {
            assert!(is_address(host.as_bytes()), "{host}");
        }
        for host in [
            "evil.test",
            "evil.test:8080",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "",
        ] {
            assert!(!is_address(host.as_bytes()), "{host}");
        }
    }
}
