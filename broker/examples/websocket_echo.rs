//! A WebSocket server that sends every message back, on nothing but the sans-IO codec.
//!
//! `cargo run -p broker --example websocket_echo -- 127.0.0.1:9001`, then in a browser's console
//! `w = new WebSocket("ws://127.0.0.1:9001"); w.onmessage = e => console.log(e.data)` and
//! `w.send("hello")`. The Autobahn cases of `tests/autobahn` run against it.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use protocols::Outbox;
use protocols::connection::WebSocketUse;
use protocols::model::Timestamp;
use protocols::negotiation::{HttpRefusal, check_upgrade};
use protocols::websocket::deflate::Deflate;
use protocols::websocket::frame::OpCode;
use protocols::websocket::{Accepts, Config, Decoder, Event, close};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Bytes of a request, and of one read afterwards.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// How long a client may take for its request, and for closing after us.
const PATIENCE: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("bind {address}"))?;
    println!("listening on ws://{}", listener.local_addr()?);
    loop {
        let (socket, peer) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(socket).await {
                eprintln!("{peer}: {error:#}");
            }
        });
    }
}

async fn serve(mut socket: TcpStream) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let (head, early) = timeout(PATIENCE, read_head(&mut socket)).await??;
    let deflate = match upgrade(&head) {
        Ok((response, deflate)) => {
            socket.write_all(response.as_bytes()).await?;
            deflate
        }
        Err(refusal) => {
            socket.write_all(refused(&refusal).as_bytes()).await?;
            bail!("{} {}", refusal.status, refusal.message);
        }
    };
    let mut echo = Echo::new(deflate);
    let mut buffer = early;
    loop {
        let is_over = echo.receive(&mut buffer);
        for piece in echo.outbox.take() {
            socket.write_all(&piece).await?;
        }
        if is_over {
            return linger(socket).await;
        }
        buffer.resize(READ_BYTES, 0);
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        buffer.truncate(read);
    }
}

/// One client: its decoder and what is to be sent.
struct Echo {
    decoder: Decoder,
    outbox: Outbox,
}

impl Echo {
    fn new(deflate: Option<Deflate>) -> Self {
        let usage = WebSocketUse::FramedStream;
        Self {
            decoder: Decoder::new(Config {
                whole: true,
                accepts: Accepts::Both,
                deflate: deflate.is_some(),
                message_bytes: 64 << 20,
                fragments: usize::MAX,
                controls_per_sec: u32::MAX,
            }),
            outbox: match deflate {
                Some(deflate) => Outbox::web_socket_deflate(usage, deflate.always()),
                None => Outbox::web_socket(usage),
            },
        }
    }

    /// Answers what has come; true once the connection is over.
    fn receive(&mut self, mut input: &mut [u8]) -> bool {
        loop {
            match self.decoder.decode(&mut input, now()) {
                Ok(None) => return self.decoder.is_closed(),
                Ok(Some(Event::Data { kind, bytes, .. })) => {
                    let body = Bytes::copy_from_slice(bytes);
                    self.outbox.frame_shared(kind, &[], &body, &[]);
                }
                Ok(Some(Event::Ping(payload))) => self.outbox.control(OpCode::Pong, payload),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close { code, .. })) => close::answer(&mut self.outbox, code),
                Err(fault) => close::write(&mut self.outbox, &fault),
            }
        }
    }
}

/// Closes our side first and waits a little for the client's, so that the close frame arrives.
async fn linger(mut socket: TcpStream) -> anyhow::Result<()> {
    socket.shutdown().await?;
    let mut rest = [0; 4096];
    let gone = async { while socket.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
    timeout(LINGER, gone).await.ok();
    Ok(())
}

/// Reads up to the empty line; what has come after it is the second value.
async fn read_head(socket: &mut TcpStream) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let early = head.split_off(end + 4);
            return Ok((head, early));
        }
        if head.len() >= REQUEST_BYTES_MAX || socket.read_buf(&mut head).await? == 0 {
            bail!("not a request");
        }
    }
}

/// The answer to a request and what was agreed on.
fn upgrade(head: &[u8]) -> Result<(String, Option<Deflate>), HttpRefusal> {
    let mut lines = head
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii_end);
    let request = lines.next().unwrap_or_default();
    let method = request
        .split(|byte| *byte == b' ')
        .next()
        .unwrap_or_default();
    let headers: Vec<(&str, &[u8])> = lines.filter_map(header).collect();
    let accept = check_upgrade(
        std::str::from_utf8(method).unwrap_or_default(),
        request.ends_with(b" HTTP/1.1"),
        headers.iter().copied(),
    )?;
    let deflate = Deflate::negotiate(
        headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"))
            .map(|(_, value)| *value),
    );
    let extension = deflate.map_or_else(String::new, |deflate| {
        format!("Sec-WebSocket-Extensions: {}\r\n", deflate.answer())
    });
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Server: polycast-echo\r\nSec-WebSocket-Accept: {accept}\r\n{extension}\r\n"
    );
    Ok((response, deflate))
}

fn header(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    Some((name, line[colon + 1..].trim_ascii()))
}

fn refused(refusal: &HttpRefusal) -> String {
    let header = refusal
        .header
        .map_or_else(String::new, |(name, value)| format!("{name}: {value}\r\n"));
    format!(
        "HTTP/1.1 {} Refused\r\nConnection: close\r\nContent-Type: text/plain\r\n{header}\
         Content-Length: {}\r\n\r\n{}\n",
        refusal.status,
        refusal.message.len() + 1,
        refusal.message
    )
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
