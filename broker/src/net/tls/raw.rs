//! What lies below TLS: a socket that is given up when its client keeps TLS busy with nothing.
//!
//! Records without data cost a client 27 bytes each, and the broker new keys for each of them. rustls
//! takes 32 key updates in a row, and as many empty records, but begins to count anew at the first
//! record of the other kind. So here the bytes that come in are held against the data that comes out:
//! beyond what the smallest records of honest clients need, there is a token bucket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::guard::{Bucket, Rate};
use crate::net::Net;

/// Bytes of TLS for one byte of data: the smallest record has 30 with one.
const PER_BYTE: u32 = 32;

/// Bytes that may have come before their data does. Records have up to 16 KiB.
const ON_ITS_WAY: u32 = 32 * 1024;

/// Bytes after which TLS gives out what it has, and others have their turn.
const TURN: usize = 64 * 1024;

/// Bytes beyond that: a handshake with long certificates, and padding now and then.
const SPARE: Rate = Rate {
    per_sec: 8 * 1024,
    burst: 64 * 1024,
};

/// See the module.
pub(in crate::net) struct Raw<S> {
    socket: S,
    net: Arc<Net>,
    /// Bytes that came and have brought no data yet.
    owed: u32,
    spare: Bucket,
    /// Bytes that may still come in this turn; no turns are taken in the handshake, whose bytes
    /// rustls counts.
    left: usize,
}

impl<S> Raw<S> {
    pub(in crate::net) fn new(socket: S, net: Arc<Net>) -> Self {
        Self {
            socket,
            net,
            owed: 0,
            spare: Bucket::default(),
            left: usize::MAX,
        }
    }

    /// TLS is asked for data.
    pub(in crate::net) fn begin_turn(&mut self) {
        self.left = TURN;
    }

    /// TLS has given out that much, or nothing.
    pub(in crate::net) fn end_turn(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.owed = self.owed.saturating_sub(bytes.saturating_mul(PER_BYTE));
        if self.owed <= ON_ITS_WAY {
            return Ok(());
        }
        let owed = std::mem::take(&mut self.owed);
        let now = self.net.clock.now();
        if self.spare.spend(SPARE, owed.into(), now).is_zero() {
            return Ok(());
        }
        self.net.hub.metrics.tls.floods.inc();
        let why = "its TLS records carry next to nothing";
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Raw<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, into))?;
        let bytes = into.filled().len() - before;
        this.left = this.left.saturating_sub(bytes);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        this.owed = this.owed.saturating_add(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Raw<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
