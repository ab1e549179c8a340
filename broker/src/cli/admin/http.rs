//! Asks the HTTP API of a broker, over one connection.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use url::Url;

use super::Access;
use crate::cli::client::{Trust, tls};

/// The longest that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// Bytes of an answer.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// Rows that are asked for at a time.
const PAGE: usize = 1000;

/// A connection to a broker.
pub(super) struct Http {
    sender: SendRequest<Full<Bytes>>,
    base: Url,
    authority: HeaderValue,
    authorization: Option<HeaderValue>,
    json: bool,
}

/// Something to ask.
pub(super) struct Ask<'a> {
    method: Method,
    path: &'a [&'a str],
    query: Vec<(&'a str, String)>,
    body: Option<Value>,
}

impl<'a> Ask<'a> {
    /// The parts of the path stand behind `/api/v1`.
    pub(super) fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self {
            method,
            path,
            query: Vec::new(),
            body: None,
        }
    }

    pub(super) fn get(path: &'a [&'a str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn with(mut self, name: &'a str, value: Option<impl ToString>) -> Self {
        self.query
            .extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(super) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

impl Http {
    /// Connects.
    pub(super) async fn open(access: &Access) -> Result<Self> {
        let base = Url::parse(&access.url).with_context(|| format!("--url {}", access.url))?;
        if !matches!(base.scheme(), "http" | "https") {
            bail!("--url {base}: it begins with http:// or https://");
        }
        let host = base.host_str().context("--url names no host")?.to_owned();
        let port = base.port_or_known_default().unwrap_or(80);
        let authorization = access.token()?.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .context("the token has characters that no token has")?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        });
        let open = async {
            let plain = host.trim_start_matches('[').trim_end_matches(']');
            let socket = TcpStream::connect((plain, port)).await.with_context(|| {
                format!("no broker answers at {base} (--url, POLYCAST_URL): is it running?")
            })?;
            if base.scheme() == "http" {
                return start(socket).await;
            }
            let trust = Trust {
                ca_file: access.cafile.clone(),
                identity: None,
                insecure: access.insecure,
            };
            start(tls::connect(socket, plain, &trust).await?).await
        };
        let sender = tokio::time::timeout(CONNECT_TIMEOUT, open)
            .await
            .map_err(|_| anyhow!("{base} does not answer (--url, POLYCAST_URL)"))??;
        let authority = match base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        Ok(Self {
            sender,
            authority: HeaderValue::from_str(&authority).context("--url names no host")?,
            base,
            authorization: authorization.transpose()?,
            json: access.json,
        })
    }

    /// Whether JSON is wanted rather than a table.
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }

    /// Asks, and reads the answer as JSON; null if it is empty.
    pub(super) async fn ask(&mut self, ask: Ask<'_>) -> Result<Value> {
        let bytes = self.ask_bytes(ask).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .context("the answer is not JSON: is this Polycast's HTTP port?")
    }

    /// Asks, and reads the answer as it stands.
    pub(super) async fn ask_bytes(&mut self, ask: Ask<'_>) -> Result<Bytes> {
        let answer = async {
            let body = self.stream(ask).await?;
            let read = Limited::new(body, MAX_BYTES).collect().await;
            let read = read.map_err(|error| anyhow!("the answer ended early: {error}"))?;
            Ok(read.to_bytes())
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer)
            .await
            .map_err(|_| anyhow!("the broker has not answered within a minute"))?
    }

    /// Asks for something that comes piece by piece.
    pub(super) async fn stream(&mut self, ask: Ask<'_>) -> Result<Incoming> {
        let request = self.request(ask)?;
        self.sender
            .ready()
            .await
            .context("the broker has closed the connection")?;
        let response = self.sender.send_request(request).await;
        let response = response.context("the broker has closed the connection")?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await;
        let body = body.map(http_body_util::Collected::to_bytes);
        Err(problem(status, &body.unwrap_or_default()))
    }

    /// All rows of a list, at most `limit`, and whether there are more.
    pub(super) async fn rows(
        &mut self,
        path: &[&str],
        name: &str,
        query: &[(&str, Option<String>)],
        limit: usize,
    ) -> Result<(Vec<Value>, bool)> {
        let mut rows = Vec::new();
        let mut cursor = None;
        loop {
            let mut ask = Ask::get(path).with("limit", Some((limit - rows.len()).clamp(1, PAGE)));
            for (name, value) in query {
                ask = ask.with(name, value.as_ref());
            }
            let mut page = self.ask(ask.with("cursor", cursor.take())).await?;
            if let Some(Value::Array(found)) = page.get_mut(name).map(Value::take) {
                rows.extend(found);
            }
            cursor = page["cursor"].as_str().map(str::to_owned);
            if cursor.is_none() || rows.len() >= limit {
                rows.truncate(limit);
                return Ok((rows, cursor.is_some()));
            }
        }
    }

    fn request(&self, ask: Ask<'_>) -> Result<Request<Full<Bytes>>> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| anyhow!("--url {}: it has no path", self.base))?
            .pop_if_empty()
            .extend(["api", "v1"].iter().chain(ask.path));
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut request = Request::builder()
            .method(ask.method)
            .uri(target)
            .header(header::HOST, &self.authority)
            .header(header::ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = ask
            .body
            .map_or_else(Bytes::new, |body| body.to_string().into());
        Ok(request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?)
    }
}

async fn start<S>(socket: S) -> Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(socket)).await?;
    tokio::spawn(async move {
        // How it ended is seen by who asks.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Why the broker has said no.
fn problem(status: StatusCode, body: &[u8]) -> anyhow::Error {
    let problem: Value = serde_json::from_slice(body).unwrap_or(json!({}));
    let detail = problem["detail"].as_str().unwrap_or_default();
    match (status, detail) {
        (StatusCode::UNAUTHORIZED, detail) => anyhow!(
            "{detail}\n(for this command: --token-file FILE, or the variable POLYCAST_TOKEN)"
        ),
        (status, "") => anyhow!("the broker answers {status}"),
        (_, detail) => anyhow!("{detail}"),
    }
}

/// A JSON object of what is given.
pub(super) fn object(fields: &[(&str, Option<Value>)]) -> Value {
    let given = fields
        .iter()
        .filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
    Value::Object(given.collect::<Map<_, _>>())
}
