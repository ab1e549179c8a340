//! A socket that remembers since when it has taken nothing.
//!
//! hyper has a time-out for a head that does not come, and none for an answer that is not read. The
//! HTTP port puts this around its sockets and looks at the [`Pulse`]; an upgrade takes it off.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Net;
use super::socket::Socket;
use super::stream::Pulse;

/// The socket of an HTTP connection.
pub(super) struct Patient {
    socket: Socket,
    /// What was read from it before.
    early: BytesMut,
    net: Arc<Net>,
    pulse: Arc<Pulse>,
}

impl Patient {
    /// Bytes that were read from the socket before come first. `pulse` says since when bytes wait
    /// to be written.
    pub(super) fn new(
        (socket, early): (Socket, BytesMut),
        net: Arc<Net>,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            socket,
            early,
            net,
            pulse,
        }
    }

    /// The socket alone, and what is to be read before it.
    pub(super) fn into_inner(self) -> (Socket, BytesMut) {
        (self.socket, self.early)
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        match (&written, self.pulse.waits_since()) {
            (Poll::Pending, None) => self.pulse.begin(self.net.clock.now()),
            (Poll::Ready(_), Some(_)) => self.pulse.end(),
            _ => {}
        }
        written
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(into.remaining());
            into.put_slice(&self.early.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, pieces);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.note(shut)
    }
}
