//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use protocols::connection::Protocol;
use socket2::{Domain, Protocol as Ip, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::admission::Permit;
use super::socket::Socket;
use super::tls::{self, Alpn};
use super::{Arrival, Ends, Net, http};
use crate::telemetry::Transport;

/// Pause after an accept that failed for want of file descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What is spoken behind a listener.
#[derive(Clone, Copy)]
pub enum Service {
    /// One protocol, from the first byte.
    Raw(&'static dyn Protocol),
    /// HTTP, and by its upgrade WebSocket.
    Http,
}

impl Service {
    /// What is agreed on in a TLS handshake.
    pub(super) fn alpn(self) -> Alpn {
        match self {
            Self::Raw(protocol) => Alpn::of(protocol.name()),
            Self::Http => Alpn::Http,
        }
    }
}

/// A bound socket that accepts connections once it runs.
pub struct Listener {
    socket: TcpListener,
    service: Service,
    /// Whether only this machine reaches it.
    on_loopback: bool,
    is_tls: bool,
}

impl Listener {
    /// Binds an address. Port 0 lets the system choose.
    pub fn bind(
        address: SocketAddr,
        backlog: i32,
        reuse_port: bool,
        (service, is_tls): (Service, bool),
    ) -> io::Result<Self> {
        let socket =
            socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Ip::TCP))?;
        socket.set_reuse_address(true)?;
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        Ok(Self {
            socket: TcpListener::from_std(socket.into())?,
            service,
            on_loopback: address.ip().to_canonical().is_loopback(),
            is_tls,
        })
    }

    /// A socket that listens already, opened by who has started the broker.
    pub fn inherited(
        socket: std::net::TcpListener,
        (service, is_tls): (Service, bool),
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let on_loopback = socket.local_addr()?.ip().to_canonical().is_loopback();
        Ok(Self {
            socket: TcpListener::from_std(socket)?,
            service,
            on_loopback,
            is_tls,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until told to stop.
    pub async fn run(self, net: Arc<Net>, mut stop: watch::Receiver<bool>) {
        loop {
            if let Err(wait) = net.admission.pace() {
                net.hub.metrics.connections_delayed.inc();
                tokio::time::sleep(wait).await;
                continue;
            }
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.begin(&net, socket, peer),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    net.hub.metrics.connection_refused("system");
                    // Without it, a broker out of file descriptors would spin here.
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    fn begin(&self, net: &Arc<Net>, socket: TcpStream, peer: SocketAddr) {
        let permit = match net.admission.admit(peer.ip()) {
            Ok(permit) => permit,
            Err(full) => {
                tracing::debug!(%peer, limit = full.as_str(), "refused: too many connections");
                net.hub.metrics.connection_refused(full.as_str());
                return;
            }
        };
        let (ip, now) = (peer.ip(), net.clock.now());
        if let Err(kept_out) = net.hub.guard.connect_from(ip, now) {
            tracing::debug!(%peer, reason = kept_out.as_str(), "refused");
            net.hub.metrics.connection_refused(kept_out.as_str());
            return;
        }
        // Frames are gathered by us; waiting for more in the kernel would only delay them.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%peer, %error, "the connection was gone before it began");
            return;
        }
        let (net, service) = (Arc::clone(net), self.service);
        let local = socket.local_addr();
        let ends = Ends {
            peer,
            is_local: local.is_ok_and(|local| local.ip().is_loopback()),
            on_loopback: self.on_loopback,
            is_tls: self.is_tls,
            certificate_user: None,
        };
        if self.is_tls {
            tokio::spawn(tls::accept(net, socket, ends, service, permit));
            return;
        }
        begin(net, Socket::Plain(socket), ends, service, permit);
    }
}

/// Begins what is spoken behind a listener, in a task of its own.
pub(super) fn begin(net: Arc<Net>, socket: Socket, ends: Ends, service: Service, permit: Permit) {
    let Service::Raw(protocol) = service else {
        tokio::spawn(http::serve(net, socket, ends, permit));
        return;
    };
    let arrival = Arrival {
        peer: ends.peer,
        transport: if ends.is_tls {
            Transport::Tls
        } else {
            Transport::Tcp
        },
        subprotocol: None,
        deflate: None,
        on_loopback: ends.on_loopback,
        certificate_user: ends.certificate_user,
        token: None,
        identity: None,
        visit: None,
    };
    tokio::spawn(net.serve(socket, protocol, arrival, BytesMut::new(), permit));
}
