//! The first request of an HTTP connection, looked at before [`super::http`] has it.
//!
//! Most connections to the HTTP port ask for one thing, an upgrade to WebSocket. One that asks for it
//! plainly (a whole head, nothing that says who it is, nothing to refuse, no functions to ask) is
//! answered here, and its socket goes to a driver; the answer is the one that it would get there,
//! and what may be agreed on is decided by the same [`agree`]. Everything else is left to
//! [`super::http`], with the bytes that were read.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::admission::Permit;
use super::http::{self as port, Agreed, Who, agree};
use super::socket::Socket;
use super::visitor::Visitor;
use super::{Ends, Live, Net};

/// Bytes that are read at once.
const READ_BYTES: usize = 1024;

/// Headers of a request that is answered here.
const HEADERS_MAX: usize = 32;

/// Headers that make a request more than a plain one: who asks, or a body.
const NOT_PLAIN: [http::HeaderName; 4] = [
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
];

/// What came of waiting for the first request.
#[derive(Debug)]
enum First {
    /// A plain upgrade; its head has so many bytes.
    Plain(Box<Request<()>>, usize),
    /// Something else, also an end.
    Other,
    /// It did not come in time.
    Late,
    /// It has to make room for others.
    Dismissed,
}

/// What the bytes so far are.
enum Look {
    Plain(Box<Request<()>>, usize),
    Other,
    Unfinished,
}

/// One connection to the HTTP port, from its first byte.
pub(super) async fn meet(net: Arc<Net>, mut socket: Socket, ends: Ends, permit: Permit) {
    let visitor = Visitor::new(Arc::clone(&net), permit.number());
    let mut head = BytesMut::new();
    let first = listen(&net, &mut socket, &visitor, &mut head).await;
    match first {
        First::Plain(request, length) => {
            if let Some(agreed) = agreed(&net, &request, &ends) {
                let early = head.split_off(length);
                let upgrade = enter(&net, socket, &ends, agreed, &visitor, early, permit);
                return upgrade.await;
            }
        }
        First::Other => {}
        First::Late | First::Dismissed => return net.hub.metrics.connection_refused("http"),
    }
    // Apart, so that the other way needs no room for it.
    Box::pin(port::serve(net, (socket, head), ends, visitor, permit)).await;
}

/// Reads until it is clear what the first request is.
async fn listen(net: &Net, socket: &mut Socket, visitor: &Visitor, head: &mut BytesMut) -> First {
    let live = net.live.load_full();
    let until = net.clock.now() + Duration::from_millis(live.limits.login_ms.into());
    let mut timer = None;
    let mut dismissed = std::pin::pin!(visitor.dismissed());
    let first = std::future::poll_fn(|cx| {
        if dismissed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(First::Dismissed);
        }
        while let Poll::Ready(read) = read(socket, cx, head) {
            if read.is_ok_and(|bytes| bytes > 0) {
                match look(head, &live) {
                    Look::Unfinished => continue,
                    Look::Plain(request, length) => {
                        return Poll::Ready(First::Plain(request, length));
                    }
                    Look::Other => {}
                }
            }
            return Poll::Ready(First::Other);
        }
        if until <= net.clock.now() {
            return Poll::Ready(First::Late);
        }
        timer.get_or_insert_with(|| net.timers.arm(until, cx.waker()));
        Poll::Pending
    });
    let first = first.await;
    if let Some(id) = timer {
        net.timers.disarm(id);
    }
    first
}

fn read(socket: &mut Socket, cx: &mut Context<'_>, head: &mut BytesMut) -> Poll<io::Result<usize>> {
    let mut space = [MaybeUninit::uninit(); READ_BYTES];
    let mut into = ReadBuf::uninit(&mut space);
    let polled = Pin::new(socket).poll_read(cx, &mut into);
    head.extend_from_slice(into.filled());
    polled.map_ok(|()| into.filled().len())
}

fn look(head: &[u8], live: &Live) -> Look {
    let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut space);
    match parsed.parse(head) {
        Ok(httparse::Status::Partial) if head.len() < live.http_head_bytes => Look::Unfinished,
        Ok(httparse::Status::Complete(length))
            if length <= live.http_head_bytes && parsed.headers.len() <= live.http_headers =>
        {
            plain(&parsed).map_or(Look::Other, |request| Look::Plain(request, length))
        }
        _ => Look::Other,
    }
}

/// The request, if it is a plain upgrade.
fn plain(parsed: &httparse::Request<'_, '_>) -> Option<Box<Request<()>>> {
    let path = parsed
        .path
        .filter(|path| path.starts_with('/') && !path.contains('?'))?;
    if parsed.method != Some("GET") || parsed.version != Some(1) {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in &*parsed.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    if !headers.contains_key(header::UPGRADE)
        || NOT_PLAIN.iter().any(|name| headers.contains_key(name))
    {
        return None;
    }
    let mut request = Request::new(());
    *request.uri_mut() = Uri::try_from(path).ok()?;
    *request.headers_mut() = headers;
    Some(Box::new(request))
}

/// What is agreed on with a plain upgrade; `None` if it is to be refused, or functions are asked.
fn agreed(net: &Net, request: &Request<()>, ends: &Ends) -> Option<Agreed> {
    if net.functions.get().is_some_and(|held| held.has_routes()) {
        return None;
    }
    agree(&net.live.load(), request, ends, None).ok()
}

/// Says yes, and gives the socket to the connection.
async fn enter(
    net: &Arc<Net>,
    mut socket: Socket,
    ends: &Ends,
    agreed: Agreed,
    visitor: &Visitor,
    early: BytesMut,
    permit: Permit,
) {
    visitor.asks();
    net.stir();
    net.hub
        .metrics
        .web_socket_negotiation(agreed.subprotocol().unwrap_or("none"), "accepted");
    let said = async {
        socket.write_all(&agreed.answer()).await?;
        socket.flush().await
    };
    let patience = net.live.load().stall;
    match tokio::time::timeout(patience, said).await {
        Ok(Ok(())) => {}
        failed => {
            let peer = ends.peer;
            tracing::debug!(%peer, ?failed, "a WebSocket was given up before it began");
            return;
        }
    }
    let protocol = agreed.protocol();
    let arrival = port::arrival(ends, &agreed, Who::Signer(None), None);
    // A task of its own: this one ends here, with what it needed to get here.
    tokio::spawn(Arc::clone(net).serve(socket, protocol, arrival, early, permit));
}
