//! Listeners and the tasks that drive connections: bytes, not meanings.
//!
//! - [`listener`]: accepts sockets within the limits and begins a connection on each.
//! - [`greeting`]: the first request on the HTTP port: plain upgrades take a short way.
//! - [`http`]: the HTTP port; upgrades to WebSocket hand the raw socket to a driver.
//! - [`driver`]: the task of one connection; [`execute`] carries out what its client asks.
//! - [`tls`]: certificates and handshakes; [`socket`]: TCP or TLS, for those behind it.
//! - [`throttle`]: how fast one client may send.
//! - [`timers`]: one timer wheel for all of them.

mod admission;
#[cfg(test)]
mod contract;
mod driver;
mod execute;
mod gateway;
mod greeting;
mod http;
mod listener;
mod login;
mod patience;
mod revoke;
mod service;
#[cfg(test)]
mod sizes;
mod socket;
mod stream;
mod throttle;
mod timers;
mod tls;
mod visitor;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::connection::{CloseReason, Open, Protocol, Secret};
use protocols::websocket::deflate::Deflate;
use protocols::{Limits, Outbox};

use admission::Seat;
pub use admission::{Admission, AdmissionLimits, Permit};
pub(crate) use http::{is_address, metrics};
pub use listener::{Listener, Service};
pub use service::ServiceLink;
pub use socket::Wire;
pub use stream::EventBody;
pub(crate) use stream::Pulse;
pub use throttle::Throttling;
pub use timers::Timers;
pub use tls::{ClientAuth, Tls, TlsSettings};
pub(crate) use tls::{reload as reload_tls, watch as watch_tls};

use crate::auth::{Authenticator, Door, Identity};
use crate::clock::Clock;
use crate::functions::{Functions, Visit};
use crate::guard::MemoryBounds;
use crate::http::{Api, DrainWish};
use crate::hub::Hub;
use crate::session::{Batch, Carrier, Link, Origin, connection_id};
use crate::telemetry::{Counter, Transport, Untrusted, trace};
use driver::{Driver, Ended, WebSocket};

/// What all connections share.
pub struct Net {
    /// Carries out what clients ask.
    pub hub: Arc<Hub>,
    /// The time.
    pub clock: Clock,
    /// Deadlines of connections.
    pub timers: Timers,
    /// Who may connect.
    pub admission: Admission,
    /// Finds out who clients are.
    pub auth: ArcSwap<Authenticator>,
    /// What may change while the broker runs.
    pub live: ArcSwap<Live>,
    /// Certificates.
    pub tls: Tls,
    /// The HTTP API.
    pub api: Api,
    /// Functions, if any are configured.
    pub functions: OnceLock<Arc<Functions>>,
}

/// Settings that a reload of the configuration may change, for new connections.
#[derive(Clone, Debug)]
pub struct Live {
    /// Bounds of the protocols.
    pub limits: Arc<Limits>,
    /// Origins of web pages that may connect, beside the broker's own; `*` for all.
    pub allowed_origins: Vec<String>,
    /// Who may read the metrics.
    pub metrics: crate::config::MetricsAccess,
    /// What there is for browsers.
    pub pages: crate::config::Pages,
    /// Whether permessage-deflate is agreed on.
    pub permessage_deflate: bool,
    /// The longest that a publisher waits for a slow receiver.
    pub pause: Duration,
    /// How long a socket may take nothing.
    pub stall: Duration,
    /// Bytes in the outbox above which nothing more is read from the client.
    pub outbox_bytes: usize,
    /// Bytes of an HTTP request's head.
    pub http_head_bytes: usize,
    /// Headers of an HTTP request.
    pub http_headers: usize,
    /// How fast one client may send.
    pub throttling: Throttling,
    /// How clients are sent away, unless it is said otherwise.
    pub drain: DrainWish,
    /// How often the broker says something about itself; 0 for never.
    pub sys_interval: Duration,
    /// From where on memory is scarce.
    pub memory: MemoryBounds,
}

/// The two ends of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// Whether only this machine can have sent it.
    pub(crate) is_local: bool,
    /// Whether it came to a listener that only this machine reaches.
    pub(crate) on_loopback: bool,
    /// Whether TLS lies between.
    pub(crate) is_tls: bool,
    /// The name in the client's certificate, which was verified.
    pub(crate) certificate_user: Option<ByteString>,
}

/// How a client came in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its address.
    pub peer: SocketAddr,
    /// What carries the connection.
    pub transport: Transport,
    /// The subprotocol that was agreed on.
    pub subprotocol: Option<&'static str>,
    /// What was agreed on about compression, if anything.
    pub deflate: Option<Deflate>,
    /// Whether its listener is one that only this machine reaches.
    pub on_loopback: bool,
    /// The user that the client's certificate names. The certificate was verified in the TLS
    /// handshake.
    pub certificate_user: Option<ByteString>,
    /// A token that came with the upgrade to WebSocket.
    pub token: Option<Secret>,
    /// Who signed the upgrade to WebSocket, if somebody did.
    pub identity: Option<Box<Identity>>,
    /// The functions whose client it is.
    pub visit: Option<Arc<Visit>>,
}

impl Net {
    /// The shared parts, without connections.
    pub fn new(hub: Arc<Hub>, clock: Clock, admission: Admission, live: Live) -> Self {
        let auth = Authenticator::none(clock, Arc::clone(&hub.metrics));
        Self {
            hub,
            clock,
            timers: Timers::new(clock.now()),
            admission,
            auth: ArcSwap::new(auth),
            live: ArcSwap::from_pointee(live),
            tls: Tls::default(),
            api: Api::default(),
            functions: OnceLock::new(),
        }
    }

    /// Ends all connections, for a stop of the broker: those of the sessions and those that have
    /// not logged in.
    pub fn stop(&self, reason: &CloseReason) {
        let mut batch = Batch::new(self.clock.now());
        self.hub.stop(reason, &mut batch);
        batch.finish(&self.hub.metrics);
        self.admission.dismiss_half_open(reason);
        self.api.stopping.notify_waiters();
    }

    /// Something comes in: whoever looks after memory goes on doing so.
    #[inline]
    pub(crate) fn stir(&self) {
        if self.hub.guard.memory.stir() {
            self.hub.earlier.notify_one();
        }
    }

    /// Sets the gauges of what is counted here; called before they are shown.
    pub fn gauge(&self) {
        let metrics = &self.hub.metrics.protection;
        let (connections, bytes) = self.admission.half_open();
        metrics.half_open.set(connections);
        metrics.unauthenticated_bytes.set(bytes);
        metrics.dismissed.set(as_gauge(&self.admission.dismissed));
        let guard = &self.hub.guard;
        metrics.bans.set(guard.bans.len(self.clock.now()));
        metrics.flapping.set(as_gauge(&guard.counts.flapping));
        metrics
            .failed_logins
            .set(as_gauge(&guard.counts.failed_logins));
    }

    /// Speaks a protocol on a socket until the connection is over.
    pub fn serve<S: Wire>(
        self: Arc<Self>,
        socket: S,
        protocol: &'static dyn Protocol,
        arrival: Arrival,
        early: BytesMut,
        permit: Permit,
    ) -> Serving<S> {
        let number = permit.number();
        let metrics = self.hub.metrics.protocol(protocol.name());
        metrics.opened.inc();
        metrics.connections(arrival.transport).inc();
        let live = self.live.load_full();
        let (link, web_socket) = self.open(number, protocol, &arrival, &live);
        let visit = arrival.visit.clone();
        let door = Door {
            peer: arrival.peer,
            on_loopback: arrival.on_loopback,
            certificate_user: arrival.certificate_user,
            token: arrival.token,
            identity: visit
                .as_ref()
                .map(|visit| Box::new(visit.guest().identity().clone()))
                .or(arrival.identity),
        };
        let driver = Driver::new(
            socket,
            self,
            live,
            link,
            arrival.transport,
            web_socket,
            early,
        );
        Serving {
            driver: driver.through(door).visiting(visit),
            seat: permit.into_seat(),
        }
    }

    fn open(
        &self,
        number: u64,
        protocol: &'static dyn Protocol,
        arrival: &Arrival,
        live: &Live,
    ) -> (Link, Option<WebSocket>) {
        let open_at = self.clock.now();
        let open = Open {
            subprotocol: arrival.subprotocol,
            connection_id: connection_id(number).into(),
            limits: Arc::clone(&live.limits),
            now: open_at,
        };
        let is_web_socket = arrival.transport.is_web_socket();
        let usage = protocol.web_socket_use();
        let outbox = match (is_web_socket, arrival.deflate) {
            (false, _) => Outbox::new(),
            (true, None) => Outbox::web_socket(usage),
            (true, Some(deflate)) => Outbox::web_socket_deflate(usage, deflate),
        };
        let web_socket = is_web_socket.then(|| {
            let config =
                protocols::websocket::Config::new(usage, &live.limits, arrival.deflate.is_some());
            WebSocket::new(config)
        });
        let way_back = Arc::new(Mutex::new(None));
        let mut link = Link::new(
            number,
            self.hub.metrics.protocol(protocol.name()),
            match &arrival.visit {
                Some(visit) => visit.guest().connection(),
                None => protocol.open(open),
            },
            outbox,
            way_back,
        );
        link.origin = Origin::new(arrival.peer, Carrier::Socket(arrival.transport), open_at);
        (link, web_socket)
    }
}

fn as_gauge(counter: &Counter) -> usize {
    usize::try_from(counter.value()).unwrap_or(usize::MAX)
}

/// A connection that is being served, see [`Net::serve`]. Written by hand: an `async` function
/// would hold its arguments twice, and an idle connection is little else.
pub struct Serving<S> {
    driver: Driver<S>,
    /// Its place, until it is over.
    seat: Option<Seat>,
}

impl<S: Wire> Future for Serving<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ended = ready!(self.driver.run(cx));
        self.seat = None;
        self.tell(&ended);
        self.report(&ended);
        Poll::Ready(())
    }
}

impl<S: Wire> Serving<S> {
    /// Tells functions that the client has gone.
    fn tell(&self, ended: &Ended) {
        if let Some(visit) = self.driver.visit() {
            visit.guest().ended(&ended.reason);
        }
        let net = self.driver.net();
        if let (Some(client_id), Some(functions)) = (&ended.client_id, net.functions.get()) {
            functions.left(client_id, self.driver.number(), &ended.reason);
            net.hub.earlier.notify_one();
        }
    }

    fn report(&self, ended: &Ended) {
        let metrics = self.driver.metrics();
        let transport = self.driver.transport();
        metrics.connections(transport).dec();
        let all = &self.driver.net().hub.metrics;
        all.connection_closed(metrics.name, ended.reason.cause);
        if let (true, Some(client)) = (trace::is_on(), ended.client_id.as_deref()) {
            let reason = &ended.reason;
            let more =
                serde_json::json!({"reason": reason.cause.as_str(), "detail": reason.detail});
            trace::client("disconnected", client, more);
        }
        tracing::info!(
            connection = self.driver.number(),
            peer = %ended.peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string()),
            protocol = metrics.name,
            transport = transport.as_str(),
            client = %Untrusted(ended.client_id.as_deref().unwrap_or("-")),
            reason = ended.reason.cause.as_str(),
            detail = %Untrusted(&ended.reason.detail),
            "connection closed"
        );
    }
}
