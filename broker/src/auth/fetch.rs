//! One HTTP request to a service that the operator has named: bounded in time and size, without
//! redirects and cookies.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::reach::Reach;

/// Longest time for which an answer is believed, whatever it says.
const MAX_AGE: Duration = Duration::from_hours(1);

/// Asks services.
#[derive(Clone)]
pub(crate) struct Fetcher {
    tls: TlsConnector,
    reach: Reach,
}

/// What a service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// For how long it may be used again (`Cache-Control: max-age`).
    pub(crate) max_age: Duration,
    pub(crate) body: Bytes,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) url: &'a Url,
    /// Sent as `Authorization: Bearer`.
    pub(crate) secret: Option<&'a str>,
    /// Posted as JSON; without it, it is a GET.
    pub(crate) json: Option<Bytes>,
    pub(crate) timeout: Duration,
    /// Bytes of the answer.
    pub(crate) max_bytes: usize,
}

/// Why there is no answer. For the log: it may name hosts.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    #[error("no answer in time")]
    Timeout,
    #[error("the address means nothing: {0}")]
    Address(&'static str),
    #[error("{0} is no address for a service: see auth.service_networks")]
    OutOfReach(IpAddr),
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error("not HTTP as it should be: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is too long or broken")]
    Body,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

impl Fetcher {
    /// Trusts the system's authorities and those of a file, and connects to what is in reach.
    pub(crate) fn new(ca_file: Option<&Path>, reach: Reach) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        // A system without certificates can still use the file, or plain HTTP.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca_file {
            let read = || format!("auth.ca_file {} cannot be read", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(read)? {
                roots
                    .add(certificate.with_context(read)?)
                    .with_context(read)?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            reach,
        })
    }

    /// Asks, and waits for the whole answer.
    pub(crate) async fn ask(&self, question: Question<'_>) -> Result<Answer, FetchError> {
        let timeout = question.timeout;
        let asked = tokio::time::timeout(timeout, self.ask_patiently(question));
        asked.await.map_err(|_| FetchError::Timeout)?
    }

    async fn ask_patiently(&self, question: Question<'_>) -> Result<Answer, FetchError> {
        let max_bytes = question.max_bytes;
        let socket = self.connect(question.url).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let request = request(question)?;
        let talk = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, max_bytes).collect().await;
            Ok(Answer {
                status: head.status,
                max_age: max_age(&head.headers),
                body: body.map_err(|_| FetchError::Body)?.to_bytes(),
            })
        };
        let mut connection = std::pin::pin!(connection);
        let mut talk = std::pin::pin!(talk);
        tokio::select! {
            answer = &mut talk => answer,
            ended = &mut connection => {
                ended?;
                // All was read; what is left of the answer is in memory.
                talk.await
            }
        }
    }

    /// Connects to the first of these addresses that may be and can be.
    async fn dial(
        &self,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<TcpStream, FetchError> {
        let (mut refused, mut failed) = (None, None);
        for address in addresses {
            if !self.reach.includes(address.ip()) {
                refused = Some(FetchError::OutOfReach(address.ip()));
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(socket) => return Ok(socket),
                Err(error) => failed = Some(error.into()),
            }
        }
        Err(failed.or(refused).unwrap_or_else(none))
    }

    async fn connect(&self, url: &Url) -> Result<Box<dyn Socket>, FetchError> {
        let port = url
            .port_or_known_default()
            .ok_or(FetchError::Address("no port"))?;
        let socket = match url.host().ok_or(FetchError::Address("no host"))? {
            Host::Domain(name) => self.dial(lookup_host((name, port)).await?).await?,
            Host::Ipv4(ip) => self.dial([(ip, port).into()]).await?,
            Host::Ipv6(ip) => self.dial([(ip, port).into()]).await?,
        };
        if url.scheme() != "https" {
            return Ok(Box::new(socket));
        }
        let name = url.host_str().unwrap_or_default();
        let name = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(name).map_err(|_| FetchError::Address("no server name"))?;
        Ok(Box::new(self.tls.connect(name, socket).await?))
    }
}

/// What became of one address is told if there is no other.
fn none() -> FetchError {
    FetchError::Connect(io::Error::other("the name has no address"))
}

fn request(question: Question<'_>) -> Result<Request<Full<Bytes>>, FetchError> {
    let url = question.url;
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    let mut request = Request::builder()
        .method(if question.json.is_some() {
            Method::POST
        } else {
            Method::GET
        })
        .uri(path)
        .header(header::HOST, host)
        .header(
            header::USER_AGENT,
            concat!("polycast/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, "application/json");
    if question.json.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    if let Some(secret) = question.secret {
        let mut value = HeaderValue::try_from(format!("Bearer {secret}"))
            .map_err(|_| FetchError::Address("a secret that no header can hold"))?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let body = Full::new(question.json.unwrap_or_default());
    request
        .body(body)
        .map_err(|_| FetchError::Address("no request can be made of it"))
}

/// `max-age` of `Cache-Control`; none beside `no-store` and `no-cache`.
fn max_age(headers: &HeaderMap) -> Duration {
    let mut age = Duration::ZERO;
    for value in headers.get_all(header::CACHE_CONTROL) {
        for part in value.to_str().unwrap_or_default().split(',') {
            let part = part.trim().to_ascii_lowercase();
            if matches!(&*part, "no-store" | "no-cache") {
                return Duration::ZERO;
            }
            if let Some(secs) = part.strip_prefix("max-age=") {
                age = Duration::from_secs(secs.parse().unwrap_or(0));
            }
        }
    }
    age.min(MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_believed_for_a_time() {
        let age = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(value));
            max_age(&headers).as_secs()
        };
        assert_eq!(age("private, Max-Age=60"), 60);
        assert_eq!(age("max-age=60, no-store"), 0);
        assert_eq!(age("max-age=99999999"), 3600);
        assert_eq!(age("max-age=-1"), 0);
        assert_eq!(max_age(&HeaderMap::new()), Duration::ZERO);
    }
}
