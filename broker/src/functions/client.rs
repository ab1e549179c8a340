//! HTTP calls of one target: connections are kept, addresses are checked, answers are bounded.
//!
//! A name is looked up for each connection, and only those of its addresses are used that are public
//! or listed: a name that is made to point into our own network reaches nothing. Redirects are not
//! followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::guard::Network;

/// Connections of one target that are kept while nobody uses them, and for how long: shorter than
/// servers keep them by habit (5 seconds in Node), so that a request rarely meets a closing one.
const IDLE_MAX: usize = 64;
const IDLE_TIME: Duration = Duration::from_secs(4);

/// What a server answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer. For the log: it may name hosts.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("no connection: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0} is a private address, and not in `functions.private_networks`")]
    Private(IpAddr),
    #[error("not HTTP as it should be: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is longer than `functions.answer_size`, or broken")]
    Body,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

type Sender = SendRequest<Full<Bytes>>;

/// What all clients share.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) tls: TlsConnector,
    pub(super) private: Arc<[Network]>,
    pub(super) answer_bytes: usize,
}

impl Means {
    /// Trusts the system's authorities and those of a file.
    pub(super) fn new(
        ca_file: Option<&Path>,
        private: &[Network],
        answer_bytes: usize,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca_file {
            for certificate in CertificateDer::pem_file_iter(path)? {
                roots.add(certificate?)?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            private: private.into(),
            answer_bytes,
        })
    }

    fn may_call(&self, ip: IpAddr) -> bool {
        is_public(ip) || self.private.iter().any(|network| network.contains(ip))
    }
}

/// Calls one server.
pub(super) struct Client {
    means: Means,
    idle: Mutex<Vec<(Instant, Sender)>>,
}

impl Client {
    pub(super) fn new(means: Means) -> Self {
        Self {
            means,
            idle: Mutex::default(),
        }
    }

    /// Sends a request to the server of `url` and reads the answer whole. The request has a path
    /// and a `Host`.
    pub(super) async fn send(
        &self,
        url: &Url,
        request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<Reply, ClientError> {
        let sent = tokio::time::timeout(timeout, self.send_patiently(url, request));
        sent.await.map_err(|_| ClientError::Timeout(timeout))?
    }

    async fn send_patiently(
        &self,
        url: &Url,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Reply, ClientError> {
        loop {
            let (mut sender, is_new) = match self.take_idle() {
                Some(sender) => (sender, false),
                None => (self.connect(url).await?, true),
            };
            let response = match sender.try_send_request(request).await {
                Ok(response) => response,
                Err(mut error) => match error.take_message() {
                    // It was never sent: the server had closed the connection meanwhile.
                    Some(unsent) if !is_new => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(error.into_error().into()),
                },
            };
            let (head, body) = response.into_parts();
            let body = Limited::new(body, self.means.answer_bytes).collect().await;
            let body = body.map_err(|_| ClientError::Body)?.to_bytes();
            self.keep(sender);
            return Ok(Reply {
                status: head.status,
                headers: head.headers,
                body,
            });
        }
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        while let Some((since, sender)) = idle.pop() {
            if since.elapsed() < IDLE_TIME && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock();
        if !sender.is_closed() && idle.len() < IDLE_MAX {
            idle.push((Instant::now(), sender));
        }
    }

    async fn connect(&self, url: &Url) -> Result<Sender, ClientError> {
        let socket = self.dial(url).await?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        // It ends when the sender is dropped or the server closes.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn dial(&self, url: &Url) -> Result<Box<dyn Socket>, ClientError> {
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or(80);
        let mut refused = None;
        let mut failed = None;
        for address in tokio::net::lookup_host((host, port)).await? {
            if !self.means.may_call(address.ip()) {
                refused = Some(ClientError::Private(address.ip()));
                continue;
            }
            match self.dial_one(url, host, address).await {
                Ok(socket) => return Ok(socket),
                Err(error) => failed = Some(error),
            }
        }
        let none = || ClientError::Connect(std::io::Error::other("the name has no address"));
        Err(failed.or(refused).unwrap_or_else(none))
    }

    async fn dial_one(
        &self,
        url: &Url,
        host: &str,
        address: SocketAddr,
    ) -> Result<Box<dyn Socket>, ClientError> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        if url.scheme() != "https" {
            return Ok(Box::new(socket));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(Box::new(self.means.tls.connect(name, socket).await?))
    }
}

/// Whether an address is one of the internet, as against this machine and the networks around it.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (18..20).contains(&b))
        || (a, b, c) == (192, 0, 0);
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let first = ip.segments();
    // Global unicast only, without documentation, and without what carries an IPv4 address.
    (first[0] & 0xe000) == 0x2000
        && !(first[0] == 0x2001 && first[1] == 0x0db8)
        && !(first[0] == 0x2001 && first[1] == 0)
        && first[0] != 0x2002
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for ip in ["8.8.8.8", "52.94.5.1", "2600:1f14::1", "::ffff:8.8.8.8"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:10.0.0.1",
            "2002:a00:1::",
            "ff02::1",
            "64:ff9b::a00:1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn listed_networks_may_be_called() {
        let networks = [Network::parse("10.0.0.0/8").unwrap()];
        let means = Means::new(None, &networks, 1).unwrap();
        assert!(means.may_call("10.1.2.3".parse().unwrap()));
        assert!(!means.may_call("127.0.0.1".parse().unwrap()));
    }
}
