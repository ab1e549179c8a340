//! Accepting connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use protocols::connection::Protocol;
use socket2::{Domain, Protocol as Ip, SockRef, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::admission::Permit;
use super::socket::Socket;
use super::tls::{self, Alpn};
use super::{Arrival, Ends, Net, greeting};
use crate::telemetry::Transport;

/// Pause after an accept that failed for want of file descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Whether accepted sockets have `TCP_NODELAY` from their listener: a system call less for each.
const INHERITS_NODELAY: bool = cfg!(target_os = "linux");

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
    /// Its address, if that is the one of all its connections and not any of the machine's.
    local: Option<IpAddr>,
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
        Self::of(socket.into(), (service, is_tls))
    }

    /// A socket that listens already, opened by who has started the broker.
    pub fn inherited(
        socket: std::net::TcpListener,
        (service, is_tls): (Service, bool),
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Self::of(socket, (service, is_tls))
    }

    fn of(socket: std::net::TcpListener, (service, is_tls): (Service, bool)) -> io::Result<Self> {
        let ip = socket.local_addr()?.ip();
        if INHERITS_NODELAY {
            SockRef::from(&socket).set_tcp_nodelay(true)?;
        }
        Ok(Self {
            socket: TcpListener::from_std(socket)?,
            service,
            on_loopback: ip.to_canonical().is_loopback(),
            local: Some(ip).filter(|ip| !ip.to_canonical().is_unspecified()),
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
        if !INHERITS_NODELAY && let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%peer, %error, "the connection was gone before it began");
            return;
        }
        let (net, service) = (Arc::clone(net), self.service);
        let ends = Ends {
            peer,
            is_local: self.is_local(&socket),
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

    /// Whether only this machine can have sent a connection; only HTTP asks.
    fn is_local(&self, socket: &TcpStream) -> bool {
        match (self.service, self.local) {
            (Service::Raw(_), _) => self.on_loopback,
            (Service::Http, Some(ip)) => ip.is_loopback(),
            (Service::Http, None) => socket
                .local_addr()
                .is_ok_and(|local| local.ip().is_loopback()),
        }
    }
}

/// Begins what is spoken behind a listener, in a task of its own.
pub(super) fn begin(net: Arc<Net>, socket: Socket, ends: Ends, service: Service, permit: Permit) {
    let Service::Raw(protocol) = service else {
        tokio::spawn(greeting::meet(net, socket, ends, permit));
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn accept(listener: &Listener) -> TcpStream {
        let address = SocketAddr::from(([127, 0, 0, 1], listener.address().unwrap().port()));
        let (client, accepted) =
            tokio::join!(TcpStream::connect(address), listener.socket.accept());
        client.unwrap();
        accepted.unwrap().0
    }

    #[tokio::test]
    async fn a_connection_waits_for_no_more_bytes() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = Listener::bind(any, 8, false, (Service::Http, false)).unwrap();
        let inherited = std::net::TcpListener::bind(any).unwrap();
        let inherited = Listener::inherited(inherited, (Service::Http, false)).unwrap();
        for listener in [bound, inherited] {
            let socket = accept(&listener).await;
            assert_eq!(INHERITS_NODELAY, socket.nodelay().unwrap());
            assert!(listener.is_local(&socket));
        }
    }

    #[tokio::test]
    async fn a_listener_for_all_addresses_asks_each_connection_for_its_own() {
        let all = SocketAddr::from(([0, 0, 0, 0], 0));
        let listener = Listener::bind(all, 8, false, (Service::Http, false)).unwrap();
        assert_eq!(listener.local, None);
        assert!(!listener.on_loopback);
        assert!(listener.is_local(&accept(&listener).await));
    }
}
