//! HTTP calls of ours: confirmations, certificates, webhooks, functions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::tls::{self, TlsError};

/// Bytes of an answer: Kinesis gives 10 MiB of records, which travel as base64.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection.
    #[error("{0}")]
    Connection(#[from] hyper_util::client::legacy::Error),
    /// The answer's body.
    #[error("{0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
}

/// Calls others, over TLS or not; connections are kept. Redirects are not followed.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

impl HttpClient {
    /// A client that trusts the system's authorities, or those of a file.
    pub fn new(timeout: Duration, ca_file: Option<&std::path::Path>) -> Result<Self, TlsError> {
        let tls = tls::client(ca_file, &(None, None))?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(Arc::unwrap_or_clone(tls))
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, timeout })
    }

    /// Sends a request and reads the answer whole.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        let calling = async {
            let response = self.client.request(request.map(Full::new)).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await;
            let body = body.map_err(ClientError::Body)?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        match tokio::time::timeout(self.timeout, calling).await {
            Ok(answered) => answered,
            Err(_) => Err(ClientError::Timeout),
        }
    }
}
