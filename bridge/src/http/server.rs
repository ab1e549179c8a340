//! The listener: connections, TLS, bounds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::{Answer, Routes, later, say};
use crate::publisher::Stream;

/// From the first byte of a request to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// For the rest of a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections at a time, for each request that is allowed at a time.
const CONNECTIONS_PER_REQUEST: usize = 4;

/// Bounds of a port.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub max_body_bytes: usize,
    /// Requests at a time.
    pub max_requests: usize,
}

/// A port that is listened at.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    routes: Arc<Routes>,
    requests: Semaphore,
    max_body_bytes: usize,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.listener).finish()
    }
}

impl Server {
    /// Listens.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        limits: Limits,
        routes: Arc<Routes>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            tls: tls.map(TlsAcceptor::from),
            shared: Arc::new(Shared {
                routes,
                requests: Semaphore::new(limits.max_requests),
                max_body_bytes: limits.max_body_bytes,
            }),
            connections: Arc::new(Semaphore::new(
                limits.max_requests * CONNECTIONS_PER_REQUEST,
            )),
        })
    }

    /// Where.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is true, and then until the requests that are there are answered.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = told(&mut stop) => break,
                Some(_) = connections.join_next() => {}
                accepted = self.accept() => match accepted {
                    Ok((socket, permit)) => {
                        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
                        let stop = stop.clone();
                        connections.spawn(async move {
                            serve(socket, tls, shared, stop).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }

    async fn accept(&self) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.connections).acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let (socket, _) = self.listener.accept().await?;
        socket.set_nodelay(true)?;
        Ok((socket, permit))
    }
}

async fn serve(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(socket),
        Some(tls) => match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(socket)).await {
            Ok(Ok(stream)) => Box::new(stream),
            _ => return,
        },
    };
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(respond(&shared, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = told(&mut stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an HTTP connection ended");
    }
}

/// Waits until it is to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    // The sender is gone only when the process ends.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn respond(shared: &Shared, request: hyper::Request<Incoming>) -> Answer {
    let Some(handler) = shared.routes.find(request.uri().path()) else {
        return say(StatusCode::NOT_FOUND, "nobody answers here");
    };
    let Ok(_permit) = shared.requests.try_acquire() else {
        return later(
            StatusCode::TOO_MANY_REQUESTS,
            1,
            "too many requests at a time",
        );
    };
    match read(request, shared.max_body_bytes).await {
        Ok(request) => handler.handle(request).await,
        Err(refusal) => refusal,
    }
}

async fn read(
    request: hyper::Request<Incoming>,
    max_bytes: usize,
) -> Result<super::Request, Answer> {
    let (head, body) = request.into_parts();
    let reading = Limited::new(body, max_bytes).collect();
    let body: Bytes = match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let what = format!("a body may have {max_bytes} bytes");
            return Err(say(StatusCode::PAYLOAD_TOO_LARGE, what));
        }
        Ok(Err(error)) => return Err(say(StatusCode::BAD_REQUEST, error)),
        Err(_) => return Err(say(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
    };
    Ok(super::Request::from_parts(head, body))
}
