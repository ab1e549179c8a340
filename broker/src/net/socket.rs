//! What carries a connection: TCP, or TLS over it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::tls::Raw;

/// A client's socket. The state of TLS is apart, so that plain connections do not pay for it.
pub(super) enum Socket {
    /// TCP.
    Plain(TcpStream),
    /// TLS, after its handshake.
    Tls(Box<TlsStream<Raw<TcpStream>>>),
}

/// What a connection is driven on.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Whether all that the other side has sent was read, and it will send no more: then a close
    /// cannot cost it what was written to it. `false` where that is not known.
    fn is_read_out(&self) -> bool {
        false
    }
}

impl Wire for Socket {
    fn is_read_out(&self) -> bool {
        let Self::Plain(socket) = self else {
            return false;
        };
        // Asks for what is known already, and not the kernel; waits for nothing.
        let mut now = Context::from_waker(Waker::noop());
        let ready = std::pin::pin!(socket.ready(Interest::READABLE)).poll(&mut now);
        let Poll::Ready(Ok(ready)) = ready else {
            return false;
        };
        ready.is_read_closed() && (ready & Ready::READABLE).is_empty()
    }
}

#[cfg(test)]
impl Wire for tokio::io::DuplexStream {}

macro_rules! each {
    ($this:expr, $socket:ident => $call:expr) => {
        match $this.get_mut() {
            Socket::Plain(socket) => {
                let $socket = Pin::new(socket);
                $call
            }
            Socket::Tls(socket) => {
                let $socket = Pin::new(socket.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Self::Tls(socket) => {
                socket.get_mut().0.begin_turn();
                let before = into.filled().len();
                let polled = Pin::new(socket.as_mut()).poll_read(cx, into);
                let bytes = into.filled().len() - before;
                socket.get_mut().0.end_turn(bytes)?;
                polled
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, socket => socket.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, socket => socket.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => socket.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => socket.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_socket_is_read_out_when_its_client_has_closed_and_nothing_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut socket = Socket::Plain(listener.accept().await.unwrap().0);
        let mut all = [0; 64];
        assert!(!socket.is_read_out(), "it is open");
        client.write_all(b"one").await.unwrap();
        assert_eq!(socket.read(&mut all).await.unwrap(), 3);
        assert!(!socket.is_read_out(), "it is open still");
        client.write_all(b"two, three").await.unwrap();
        drop(client);
        // Until the runtime has heard of the end.
        let Socket::Plain(plain) = &socket else {
            unreachable!("it is plain")
        };
        while !plain
            .ready(Interest::READABLE)
            .await
            .unwrap()
            .is_read_closed()
        {
            tokio::task::yield_now().await;
        }
        assert!(!socket.is_read_out(), "all is unread");
        assert_eq!(socket.read(&mut all[..5]).await.unwrap(), 5);
        assert!(!socket.is_read_out(), "some is unread");
        assert_eq!(socket.read(&mut all).await.unwrap(), 5);
        assert!(socket.is_read_out());
    }
}
