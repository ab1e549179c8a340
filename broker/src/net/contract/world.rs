//! A broker without sockets, and clients on pipes to it.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use protocols::Limits;
use protocols::connection::{Secret, WebSocketUse};
use protocols::websocket::frame::OpCode;
use tokio::io::{AsyncRead as _, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::dialect::{Event, Publish, Speaker, asking, plain};
use super::framing::{self, Received};
use crate::clock::Clock;
use crate::hub::{Hub, HubBounds};
use crate::net::{Admission, AdmissionLimits, Arrival, Live, Net, Throttling};
use crate::router::{CacheLimits, Retained, RetainedLimits, Router};
use crate::session::{Bounds, GroupBounds};
use crate::store::Store;
use crate::telemetry::Metrics;

/// Bytes of a frame before the login and after it.
pub(super) const BYTES_BEFORE_LOGIN: usize = 2048;
pub(super) const BYTES_AFTER_LOGIN: usize = 8192;

/// How long a client has to log in, and to read.
pub(super) const LOGIN: Duration = Duration::from_secs(10);
pub(super) const STALL: Duration = Duration::from_secs(15);

/// Bytes that wait for a client before messages for it are dropped.
const OUTBOX_BYTES: usize = 4096;

/// Bytes that a pipe holds.
pub(super) const PIPE_BYTES: usize = 64 * 1024;

/// A protocol that is a stream gets WebSocket messages of so many bytes, whatever its frames are.
const PIECE_BYTES: usize = 1000;

/// Nothing takes so long; a story that waits longer has failed.
const FOREVER: Duration = Duration::from_secs(30);

/// See the module. Its clock stands still.
pub(super) struct World {
    pub(super) net: Arc<Net>,
    /// The token that clients bring with their upgrade or connection.
    pub(super) token: Mutex<Option<Secret>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::on(None)
    }

    /// With a store.
    pub(super) fn on(store: Option<Arc<dyn Store>>) -> Self {
        let hub = Hub::new(
            bounds(),
            Router::new(CacheLimits::default()),
            Retained::new(RetainedLimits {
                messages: 100,
                bytes: 1 << 20,
            }),
            Arc::new(Metrics::default()),
            store,
        );
        let admission = Admission::new(AdmissionLimits {
            connections: 100,
            per_ip: 100,
            per_sec: 100,
            burst: 100,
            half_open: 100,
            half_open_bytes: 1 << 20,
        });
        let net = Net::new(hub, Clock::pretended(), admission, live());
        Self {
            net: Arc::new(net),
            token: Mutex::default(),
        }
    }

    /// A client that has not said anything, on a pipe of that size.
    pub(super) fn open(&self, speaker: Speaker, pipe_bytes: usize) -> Client {
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let permit = self.net.admission.admit(peer.ip()).expect("a place");
        let (here, there) = tokio::io::duplex(pipe_bytes);
        let protocol = speaker.protocol();
        let subprotocol = protocol.subprotocols().first().copied();
        let arrival = Arrival {
            peer,
            transport: speaker.transport,
            subprotocol: subprotocol.filter(|_| speaker.is_web_socket()),
            deflate: None,
            on_loopback: true,
            certificate_user: None,
            token: self.token.lock().clone(),
            identity: None,
            visit: None,
        };
        let net = Arc::clone(&self.net);
        let serving = net.serve(there, protocol, arrival, BytesMut::new(), permit);
        Client {
            speaker,
            socket: here,
            bytes: Vec::new(),
            stream: Vec::new(),
            events: VecDeque::new(),
            closed: false,
            serving: tokio::spawn(serving),
        }
    }

    /// A client that has logged in.
    pub(super) async fn login(&self, speaker: Speaker, client_id: &str) -> Client {
        let mut client = self.open(speaker, PIPE_BYTES);
        client.login(client_id).await;
        client
    }

    /// Lets time pass.
    pub(super) fn pass(&self, span: Duration) {
        self.net.clock.advance(span);
        self.net.timers.turn(self.net.clock.now());
    }

    /// The value of a metric, 0 if it was never counted.
    pub(super) fn count(&self, sample: &str) -> u64 {
        let text = self.net.hub.metrics.render();
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.strip_prefix("polycast_")?.strip_prefix(sample));
        found.map_or(0, |value| value.trim().parse().expect("a number"))
    }

    /// Subscriptions of all sessions.
    pub(super) fn subscriptions(&self) -> i64 {
        self.net.hub.metrics.subscriptions_in_all()
    }

    /// How many connections of a protocol ended for a reason.
    pub(super) fn closed(&self, speaker: Speaker, reason: &str) -> u64 {
        let protocol = speaker.dialect.protocol();
        self.count(&format!(
            "connections_closed_total{{protocol=\"{protocol}\",reason=\"{reason}\"}}"
        ))
    }

    /// How many errors of a kind clients of a protocol made.
    pub(super) fn errors(&self, speaker: Speaker, cause: &str) -> u64 {
        let protocol = speaker.dialect.protocol();
        self.count(&format!(
            "protocol_errors_total{{protocol=\"{protocol}\",cause=\"{cause}\"}}"
        ))
    }

    /// Open connections of a protocol on its transport.
    pub(super) fn connections(&self, speaker: Speaker) -> u64 {
        let (protocol, transport) = (speaker.dialect.protocol(), speaker.transport.as_str());
        self.count(&format!(
            "connections{{protocol=\"{protocol}\",transport=\"{transport}\"}}"
        ))
    }

    /// Asserts that of everyone who was here nothing is left.
    pub(super) fn is_empty(&self) {
        assert_eq!(self.net.admission.connections(), 0, "connections");
        assert_eq!(self.net.hub.session_count(), 0, "sessions");
        assert!(self.net.timers.is_empty(), "timers");
        assert_eq!(self.subscriptions(), 0, "subscriptions");
        for protocol in protocols::registry::PROTOCOLS {
            let metrics = self.net.hub.metrics.protocol(protocol.name());
            // Each connection holds them; one is here and one in the list.
            assert_eq!(
                Arc::strong_count(&metrics),
                2,
                "connections that are not let go"
            );
        }
    }
}

/// Waits until something is so that the other tasks bring about.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waits = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(FOREVER, waits).await;
    assert!(waited.is_ok(), "never: {what}");
}

/// A client, and the task that serves it.
pub(super) struct Client {
    pub(super) speaker: Speaker,
    socket: DuplexStream,
    /// What came and is not a whole WebSocket frame.
    bytes: Vec<u8>,
    /// What came without the WebSocket framing and is not a whole frame.
    stream: Vec<u8>,
    events: VecDeque<Event>,
    /// Whether WebSocket's close frame came.
    closed: bool,
    serving: JoinHandle<()>,
}

impl Client {
    pub(super) async fn login(&mut self, client_id: &str) {
        self.send(&self.speaker.dialect.connect(client_id, 0)).await;
        self.expect(Event::Connected).await;
    }

    pub(super) async fn subscribe(&mut self, filter: &str) {
        self.send(&self.speaker.dialect.subscribe(filter)).await;
        self.expect(Event::Subscribed).await;
    }

    /// Publishes and waits for the answer, if one is asked for.
    pub(super) async fn publish(&mut self, publish: Publish<'_>) {
        self.send(&self.speaker.dialect.publish(publish)).await;
        if publish.asks {
            self.expect(Event::Published).await;
        }
    }

    /// Asks something and waits for the answer: then all before it was carried out.
    pub(super) async fn fence(&mut self) {
        self.publish(asking("nobody/listens/here", "")).await;
    }

    /// Sends frames of the protocol in the framing of the transport.
    pub(super) async fn send(&mut self, frames: &[u8]) {
        if !self.speaker.is_web_socket() {
            return self.send_raw(frames).await;
        }
        match self.speaker.protocol().web_socket_use() {
            WebSocketUse::TextMessages => {
                self.send_raw(&framing::write(OpCode::Text, frames)).await;
            }
            usage => {
                let opcode = data(usage);
                for piece in frames.chunks(PIECE_BYTES) {
                    self.send_raw(&framing::write(opcode, piece)).await;
                }
            }
        }
    }

    /// Sends bytes. That the broker does not want them any more is no failure.
    pub(super) async fn send_raw(&mut self, bytes: &[u8]) {
        let sent = tokio::time::timeout(FOREVER, self.socket.write_all(bytes)).await;
        assert!(sent.is_ok(), "{}: the broker reads nothing", self.speaker);
    }

    /// The next thing that the broker says.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let read = self.socket.read_buf(&mut self.bytes);
            let read = tokio::time::timeout(FOREVER, read).await;
            let Ok(length) = read else {
                panic!("{}: the broker says nothing", self.speaker);
            };
            if length.expect("a pipe does not fail") == 0 {
                return Event::End;
            }
            self.take_in();
        }
    }

    pub(super) async fn expect(&mut self, event: Event) {
        assert_eq!(self.next().await, event, "{}", self.speaker);
    }

    /// Whether the broker has said nothing that was not looked at.
    pub(super) fn has_nothing(&mut self) -> bool {
        let mut buffer = [0; 1];
        let mut into = tokio::io::ReadBuf::new(&mut buffer);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let read = std::pin::Pin::new(&mut self.socket).poll_read(&mut cx, &mut into);
        self.bytes.extend_from_slice(into.filled());
        read.is_pending() && self.events.is_empty() && self.stream.is_empty()
    }

    /// Asserts that the broker says this and closes, and that it is done with the connection once
    /// this side is closed too.
    pub(super) async fn expect_rest(mut self, expected: &[Event]) {
        let mut events = Vec::new();
        while events.last() != Some(&Event::End) {
            events.push(self.next().await);
        }
        assert_eq!(events, expected, "{}", self.speaker);
        self.drop().await;
    }

    /// Closes without a word.
    pub(super) async fn drop(self) {
        let Self {
            socket, serving, ..
        } = self;
        drop(socket);
        let served = tokio::time::timeout(FOREVER, serving).await;
        served.expect("the connection ends").expect("no panic");
    }

    fn take_in(&mut self) {
        if !self.speaker.is_web_socket() {
            self.stream.append(&mut self.bytes);
            return self.parse();
        }
        while let Some(received) = framing::read(&mut self.bytes) {
            assert!(!self.closed, "a close frame is the last one");
            match received {
                Received::Data(mut data) => {
                    self.stream.append(&mut data);
                    self.parse();
                }
                Received::Close(code) => {
                    assert_eq!(self.stream, b"", "an unfinished frame");
                    self.closed = true;
                    self.events.push_back(Event::WebSocketClose(code));
                }
                Received::Other => {}
            }
        }
    }

    fn parse(&mut self) {
        while !self.stream.is_empty() {
            let Some((event, length)) = self.speaker.dialect.parse(&self.stream) else {
                return;
            };
            self.stream.drain(..length);
            self.events.push_back(event);
        }
    }
}

/// Asserts that a client does not notice what happened to others, or before.
pub(super) async fn undisturbed(client: &mut Client) {
    client.subscribe("still/here").await;
    client.publish(plain("still/here", "yes")).await;
    let expected = Event::message("still/here", "yes", false);
    client.expect(expected).await;
}

/// The type of the WebSocket messages that carry a protocol.
pub(super) fn data(usage: WebSocketUse) -> OpCode {
    match usage {
        WebSocketUse::BinaryStream => OpCode::Binary,
        WebSocketUse::FramedStream | WebSocketUse::TextMessages => OpCode::Text,
    }
}

fn live() -> Live {
    let limits = Limits {
        packet_bytes_before_login: BYTES_BEFORE_LOGIN,
        packet_bytes: BYTES_AFTER_LOGIN,
        login_ms: u32::try_from(LOGIN.as_millis()).expect("some seconds"),
        ..Limits::default()
    };
    Live {
        limits: Arc::new(limits),
        allowed_origins: Vec::new(),
        metrics: crate::config::MetricsAccess::default(),
        pages: crate::config::Pages::default(),
        permessage_deflate: false,
        // A publisher that waits does so by the real clock.
        pause: Duration::ZERO,
        stall: STALL,
        outbox_bytes: OUTBOX_BYTES,
        http_head_bytes: 8192,
        http_headers: 100,
        sys_interval: Duration::ZERO,
        memory: crate::guard::MemoryBounds::default(),
        throttling: Throttling::default(),
        drain: crate::http::DrainWish::default(),
    }
}

fn bounds() -> HubBounds {
    HubBounds {
        session: Bounds {
            queue_messages: 100,
            queue_bytes: 1 << 20,
            outbox_bytes: OUTBOX_BYTES,
            outbox_hard_bytes: 1 << 20,
            drop_oldest: false,
            memory_bytes: 1 << 16,
            spare_bytes: 0,
        },
        stored_session: Bounds {
            queue_messages: 100,
            queue_bytes: 1 << 20,
            outbox_bytes: OUTBOX_BYTES,
            outbox_hard_bytes: 1 << 20,
            drop_oldest: false,
            memory_bytes: 1 << 16,
            spare_bytes: 0,
        },
        group: GroupBounds {
            memory_bytes: 1 << 16,
            stored_messages: 10,
            stored_bytes: 1 << 20,
            messages: 100,
            bytes: 1 << 20,
            total_bytes: 16 << 20,
        },
        groups: 10,
        subscriptions: 100,
        sessions: 100,
        sessions_per_user: 0,
        retain_available: true,
        idempotency_keys: 10,
        idempotency_ms: 1000,
    }
}
