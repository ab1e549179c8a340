//! The handshake of one connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Raw, certificate};
use crate::net::admission::Permit;
use crate::net::listener::Service;
use crate::net::socket::Socket;
use crate::net::{Ends, Net, listener};

/// Bytes that TLS holds for a client that does not read.
const UNSENT_BYTES: usize = 32 * 1024;

/// Shakes hands, and hands the connection on to what is spoken behind the listener.
pub(in crate::net) async fn accept(
    net: Arc<Net>,
    socket: TcpStream,
    mut ends: Ends,
    service: Service,
    permit: Permit,
) {
    let Some(stream) = shake_hands(&net, socket, ends.peer, service, &permit).await else {
        return;
    };
    let shown = stream.get_ref().1.peer_certificates();
    let by_alternative = net.tls.uses_alternative_name();
    ends.certificate_user = shown
        .and_then(<[_]>::first)
        .and_then(|der| certificate::user(der, by_alternative));
    // A task of its own: this one's size is that of the handshake.
    listener::begin(net, Socket::Tls(Box::new(stream)), ends, service, permit);
}

async fn shake_hands(
    net: &Arc<Net>,
    socket: TcpStream,
    peer: SocketAddr,
    service: Service,
    permit: &Permit,
) -> Option<TlsStream<Raw<TcpStream>>> {
    let metrics = &net.hub.metrics.tls;
    let config = net.tls.config(service.alpn())?;
    let dismissed = net.admission.begin_handshake(permit.number());
    let raw = Raw::new(socket, Arc::clone(net));
    let shaking = TlsAcceptor::from(config).accept_with(raw, |connection| {
        connection.set_buffer_limit(Some(UNSENT_BYTES));
    });
    let shaken = tokio::select! {
        () = dismissed.notified() => Err("dismissed"),
        shaken = tokio::time::timeout(net.tls.handshake(), shaking) => match shaken {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a TLS handshake failed");
                Err(kind(&error))
            }
            Err(_) => Err("timeout"),
        },
    };
    match shaken {
        Ok(stream) => {
            metrics.handshakes.inc();
            Some(stream)
        }
        Err(reason) => {
            metrics.handshake_failed(reason);
            None
        }
    }
}

/// A short name for what went wrong.
fn kind(error: &io::Error) -> &'static str {
    use rustls::Error;
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::NoCertificatesPresented) => "no_certificate",
        Some(Error::InvalidCertificate(_)) => "bad_certificate",
        Some(Error::NoApplicationProtocol) => "no_protocol",
        Some(Error::PeerIncompatible(_)) => "incompatible",
        Some(Error::AlertReceived(_)) => "refused_by_client",
        Some(Error::InvalidMessage(_)) => "not_tls",
        Some(_) => "other",
        None => "lost",
    }
}
