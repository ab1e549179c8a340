//! The way to a broker: TCP or TLS, with or without WebSocket.
//!
//! Frames are queued with [`Wire::put`] and leave with [`Wire::flush`]; what comes is appended to
//! [`Wire::input`]. All of it may be cancelled: nothing is lost or sent twice.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::{Buf as _, BytesMut};
use futures_util::{Sink as _, StreamExt as _};
use protocols::connection::WebSocketUse;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes as WsBytes, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{MAX_BYTES, Protocol, Target, Trust, tls};
use crate::telemetry::Untrusted;

/// Anything that bytes go through.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// An open way to a broker.
pub(super) struct Wire {
    io: Io,
    /// What came and was not used yet. With [`WebSocketUse::TextMessages`], each
    /// [`Wire::fill`] appends exactly one message.
    pub(super) input: BytesMut,
}

enum Io {
    Stream {
        socket: Box<dyn Socket>,
        out: BytesMut,
    },
    WebSocket {
        socket: Box<WebSocketStream<Box<dyn Socket>>>,
        out: VecDeque<Message>,
        usage: WebSocketUse,
    },
}

impl Wire {
    /// Connects, shakes hands for TLS and WebSocket as far as the target asks for it.
    pub(super) async fn connect(target: &Target, trust: &Trust) -> Result<Self> {
        let socket = TcpStream::connect((target.host.as_str(), target.port))
            .await
            .map_err(explain)?;
        socket.set_nodelay(true)?;
        let socket: Box<dyn Socket> = if target.tls {
            Box::new(tls::connect(socket, &target.host, trust).await?)
        } else {
            Box::new(socket)
        };
        let io = match &target.web_socket {
            Some(path) => upgrade(socket, target, path).await?,
            None => Io::Stream {
                socket,
                out: BytesMut::new(),
            },
        };
        Ok(Self {
            io,
            input: BytesMut::new(),
        })
    }

    /// Queues one frame.
    pub(super) fn put(&mut self, frame: &[u8]) -> Result<()> {
        match &mut self.io {
            Io::Stream { out, .. } => out.extend_from_slice(frame),
            Io::WebSocket { out, usage, .. } => {
                let text = std::str::from_utf8(frame);
                out.push_back(match (*usage, text) {
                    (WebSocketUse::FramedStream | WebSocketUse::TextMessages, Ok(text)) => {
                        Message::Text(Utf8Bytes::from(text))
                    }
                    (WebSocketUse::TextMessages, Err(error)) => {
                        return Err(error).context("a JSON frame must be UTF-8");
                    }
                    _ => Message::Binary(WsBytes::copy_from_slice(frame)),
                });
            }
        }
        Ok(())
    }

    /// Writes what was queued.
    pub(super) async fn flush(&mut self) -> Result<()> {
        match &mut self.io {
            Io::Stream { socket, out } => {
                while out.has_remaining() {
                    socket.write_buf(out).await.map_err(lost)?;
                }
                socket.flush().await.map_err(lost)
            }
            Io::WebSocket { socket, out, .. } => {
                let sent = std::future::poll_fn(|cx| send(socket, out, cx)).await;
                let Err(error) = sent else { return Ok(()) };
                // The broker may have said why before it closed.
                match last_words(socket).await {
                    Some(why) => Err(why),
                    None => Err(web_socket_lost(&error)),
                }
            }
        }
    }

    /// Waits for bytes or a message and appends it to the input; fails at the end.
    pub(super) async fn fill(&mut self) -> Result<()> {
        match &mut self.io {
            Io::Stream { socket, .. } => {
                match socket.read_buf(&mut self.input).await.map_err(lost)? {
                    0 => bail!("the broker closed the connection"),
                    _ => Ok(()),
                }
            }
            Io::WebSocket { socket, .. } => {
                let message = next_message(socket).await?;
                self.input.extend_from_slice(&message);
                Ok(())
            }
        }
    }

    /// Writes what is queued and ends the way in good order.
    pub(super) async fn close(&mut self) -> Result<()> {
        self.flush().await?;
        match &mut self.io {
            Io::Stream { socket, .. } => {
                // The other side may have closed first; what mattered was written.
                let _ = socket.shutdown().await;
            }
            Io::WebSocket { socket, .. } => {
                let _ = socket.close(None).await;
                while let Some(Ok(_)) = socket.next().await {}
            }
        }
        Ok(())
    }
}

/// Sends queued messages; a message leaves the queue only when the socket has taken it.
fn send(
    socket: &mut WebSocketStream<Box<dyn Socket>>,
    out: &mut VecDeque<Message>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), WsError>> {
    while !out.is_empty() {
        ready!(Pin::new(&mut *socket).poll_ready(cx))?;
        if let Some(message) = out.pop_front() {
            Pin::new(&mut *socket).start_send(message)?;
        }
    }
    Pin::new(socket).poll_flush(cx)
}

async fn next_message(socket: &mut WebSocketStream<Box<dyn Socket>>) -> Result<WsBytes> {
    loop {
        let Some(message) = socket.next().await else {
            bail!("the broker closed the connection");
        };
        match message.map_err(|error| web_socket_lost(&error))? {
            Message::Text(text) => return Ok(text.into()),
            Message::Binary(bytes) => return Ok(bytes),
            Message::Close(Some(frame)) => return Err(closed(&frame)),
            Message::Close(None) => bail!("the broker closed the WebSocket"),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

/// The reason that the broker gave for closing, if it can still be read.
async fn last_words(socket: &mut WebSocketStream<Box<dyn Socket>>) -> Option<anyhow::Error> {
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(Some(frame)) = message {
            return Some(closed(&frame));
        }
    }
    None
}

fn closed(frame: &CloseFrame) -> anyhow::Error {
    let reason = Untrusted(&frame.reason);
    anyhow!("the broker closed the WebSocket: {} {reason}", frame.code)
}

/// Asks for a WebSocket.
async fn upgrade(socket: Box<dyn Socket>, target: &Target, path: &str) -> Result<Io> {
    let scheme = if target.tls { "wss" } else { "ws" };
    let url = format!("{scheme}://{}{path}", target.authority());
    let mut request = url.into_client_request().context("the URL is not valid")?;
    request.headers_mut().insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(target.protocol.subprotocols()),
    );
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_BYTES))
        .max_frame_size(Some(MAX_BYTES));
    let (socket, _) = client_async_with_config(request, socket, Some(config))
        .await
        .map_err(refused)?;
    let usage = match target.protocol {
        Protocol::Mqtt => WebSocketUse::BinaryStream,
        Protocol::Stomp => WebSocketUse::FramedStream,
        Protocol::Json => WebSocketUse::TextMessages,
    };
    Ok(Io::WebSocket {
        socket: Box::new(socket),
        out: VecDeque::new(),
        usage,
    })
}

/// Why there is no connection, and what to do.
fn explain(error: io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nothing listens there; is the broker running? `polycast serve` starts one"
        }
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable => {
            "the host does not answer; is the address right, and no firewall between?"
        }
        _ => return anyhow::Error::new(error),
    };
    anyhow::Error::new(error).context(hint)
}

fn lost(error: io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("the connection to the broker was lost")
}

fn web_socket_lost(error: &WsError) -> anyhow::Error {
    match error {
        WsError::ConnectionClosed | WsError::AlreadyClosed => {
            anyhow!("the broker closed the WebSocket")
        }
        other => anyhow!("the WebSocket to the broker was lost: {other}"),
    }
}

/// Why there is no WebSocket, in the server's own words.
fn refused(error: WsError) -> anyhow::Error {
    match error {
        WsError::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let text = String::from_utf8_lossy(body);
            anyhow!(
                "the server refused the WebSocket: {} {}",
                response.status(),
                Untrusted(text.trim())
            )
        }
        other => anyhow!("the server did not agree to a WebSocket: {other}"),
    }
}
