//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use protocols::connection::Protocol;
use socket2::{Domain, Protocol as Ip, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Arrival, Net, http};
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

/// A bound socket that accepts connections once it runs.
pub struct Listener {
    socket: TcpListener,
    service: Service,
    /// Whether only this machine reaches it.
    on_loopback: bool,
}

impl Listener {
    /// Binds an address. Port 0 lets the system choose.
    pub fn bind(address: SocketAddr, backlog: i32, service: Service) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Ip::TCP))?;
        socket.set_reuse_address(true)?;
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
        // Frames are gathered by us; waiting for more in the kernel would only delay them.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%peer, %error, "the connection was gone before it began");
            return;
        }
        let net = Arc::clone(net);
        match self.service {
            Service::Raw(protocol) => {
                let arrival = Arrival {
                    peer,
                    transport: Transport::Tcp,
                    subprotocol: None,
                    deflate: None,
                    on_loopback: self.on_loopback,
                    peer_certificate_user: None,
                    token: None,
                };
                tokio::spawn(net.serve(socket, protocol, arrival, BytesMut::new(), permit));
            }
            Service::Http => {
                tokio::spawn(http::serve(net, socket, peer, self.on_loopback, permit));
            }
        }
    }
}
