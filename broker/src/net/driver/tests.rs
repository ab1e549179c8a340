//! The driver on a socket of the test's own, turned by hand.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use protocols::connection::{Connect, Connection, Delivered};
use protocols::outbox::FrameType;
use protocols::{Delivery, Limits, Outbox, Output, Reply};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::output::IMPATIENT_TURNS;
use super::*;
use crate::clock::Clock;
use crate::hub::{Hub, HubBounds};
use crate::net::{Admission, AdmissionLimits};
use crate::router::{CacheLimits, Retained, RetainedLimits, Router};
use crate::session::{Bounds, GroupBounds, WayBack};
use crate::telemetry::Metrics;

const HARD: usize = 4000;

/// A socket of which the test decides what it gives and takes.
#[derive(Clone, Default)]
struct Socket(Arc<parking_lot::Mutex<Ends>>);

#[derive(Default)]
struct Ends {
    input: VecDeque<Vec<u8>>,
    taken: Vec<u8>,
    is_full: bool,
    /// Whether the client has closed, and nothing of it is left to be read.
    is_read_out: bool,
    was_shut: bool,
}

impl Wire for Socket {
    fn is_read_out(&self) -> bool {
        self.0.lock().is_read_out
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0.lock().input.pop_front() {
            Some(bytes) => buf.put_slice(&bytes),
            None => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.0.lock();
        if ends.is_full {
            return Poll::Pending;
        }
        ends.taken.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().was_shut = true;
        Poll::Ready(Ok(()))
    }
}

/// Speaks in single bytes: `c` logs in, `e` wants 1000 bytes, `b` is a barrier that asks for
/// another when it is answered, `p` panics.
struct Letters;

impl Connection for Letters {
    fn receive(&mut self, input: &[u8], _: Timestamp, out: &mut Output<'_>) -> usize {
        for (at, letter) in input.iter().enumerate() {
            match letter {
                b'c' => {
                    let connect = Connect {
                        client_id: Some("c".into()),
                        session_expiry_secs: 60,
                        in_flight: 4,
                        ..Connect::default()
                    };
                    out.commands.push(Command::Connect(Box::new(connect)));
                    return at + 1;
                }
                b'e' => out.outbox.frame(FrameType::Binary, &[&[b'e'; 1000]]),
                b'p' => panic!("as asked"),
                b'b' => out.commands.push(barrier(1)),
                _ => {}
            }
        }
        input.len()
    }

    fn reply(&mut self, reply: Reply, _: Timestamp, out: &mut Output<'_>) {
        match reply {
            Reply::Connected(_) => out.outbox.frame(FrameType::Binary, &[b"C"]),
            Reply::Passed { token } if token.0 < 4 => {
                out.outbox.frame(FrameType::Binary, &[b"B"]);
                out.commands.push(barrier(token.0 + 1));
            }
            _ => {}
        }
    }

    fn deliver(&mut self, _: &Delivery<'_>, _: Timestamp, _: &mut Outbox) -> Delivered {
        Delivered::Written
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }

    fn handle_timeout(&mut self, _: Timestamp, _: &mut Output<'_>) {}

    fn close(&mut self, _: &CloseReason, outbox: &mut Outbox) {
        outbox.frame(FrameType::Binary, &[b"X"]);
    }
}

fn barrier(number: u64) -> Command {
    Command::Barrier {
        token: protocols::connection::Token(number),
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A driver, its socket, and how often it was woken.
struct Stage {
    driver: Driver<Socket>,
    socket: Socket,
    wakes: Arc<Wakes>,
}

fn net() -> Arc<Net> {
    let bounds = HubBounds {
        session: Bounds {
            queue_messages: 10,
            queue_bytes: 1 << 20,
            outbox_bytes: 2000,
            outbox_hard_bytes: HARD,
            drop_oldest: false,
            memory_bytes: 1 << 16,
            spare_bytes: 0,
        },
        stored_session: Bounds {
            queue_messages: 10,
            queue_bytes: 1 << 20,
            outbox_bytes: 2000,
            outbox_hard_bytes: HARD,
            drop_oldest: false,
            memory_bytes: 1 << 16,
            spare_bytes: 0,
        },
        group: GroupBounds {
            memory_bytes: 1 << 16,
            stored_messages: 10,
            stored_bytes: 1 << 20,
            messages: 10,
            bytes: 1 << 20,
            total_bytes: 1 << 20,
        },
        groups: 10,
        subscriptions: 10,
        sessions: 10,
        sessions_per_user: 0,
        retain_available: true,
        idempotency_keys: 10,
        idempotency_ms: 1000,
    };
    let retained = Retained::new(RetainedLimits::default());
    let metrics = Arc::new(Metrics::new(&["test"]));
    let router = Router::new(CacheLimits::default());
    let hub = Hub::new(bounds, router, retained, metrics, None);
    let admission = Admission::new(AdmissionLimits {
        connections: 10,
        per_ip: 10,
        per_sec: 10,
        burst: 10,
        half_open: 10,
        half_open_bytes: 1 << 20,
    });
    let live = Live {
        limits: Arc::new(Limits::default()),
        allowed_origins: Vec::new(),
        metrics: crate::config::MetricsAccess::default(),
        pages: crate::config::Pages::default(),
        permessage_deflate: false,
        pause: Duration::ZERO,
        stall: Duration::from_secs(15),
        outbox_bytes: 2000,
        http_head_bytes: 1000,
        http_headers: 10,
        throttling: crate::net::Throttling::default(),
        drain: crate::http::DrainWish::default(),
        sys_interval: std::time::Duration::ZERO,
        memory: crate::guard::MemoryBounds::default(),
    };
    Arc::new(Net::new(hub, Clock::start(), admission, live))
}

impl Stage {
    fn new(net: &Arc<Net>, number: u64) -> Self {
        let socket = Socket::default();
        let link = Link::new(
            number,
            net.hub.metrics.protocol("test"),
            Box::new(Letters),
            Outbox::new(),
            WayBack::default(),
        );
        let driver = Driver::new(
            socket.clone(),
            Arc::clone(net),
            net.live.load_full(),
            link,
            Transport::Tcp,
            None,
            BytesMut::new(),
        );
        Self {
            driver,
            socket,
            wakes: Arc::default(),
        }
    }

    /// One turn with that much to read.
    fn turn(&mut self, input: &[u8]) -> Poll<CloseReason> {
        if !input.is_empty() {
            self.socket.0.lock().input.push_back(input.to_vec());
        }
        self.wakes.0.store(0, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&self.wakes));
        self.driver
            .turn(&mut Context::from_waker(&waker))
            .map(|ended| ended.reason)
    }

    /// As the runtime calls it, which may let others go first.
    fn run(&mut self) -> Poll<CloseReason> {
        self.wakes.0.store(0, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&self.wakes));
        let ended = self.driver.run(&mut Context::from_waker(&waker));
        ended.map(|ended| ended.reason)
    }

    fn was_woken(&self) -> bool {
        self.wakes.0.load(Ordering::SeqCst) > 0
    }

    fn takes(&self, is_full: bool) -> String {
        let mut ends = self.socket.0.lock();
        ends.is_full = is_full;
        String::from_utf8(std::mem::take(&mut ends.taken)).unwrap()
    }
}

#[test]
fn what_comes_while_a_publisher_pauses_is_written_and_does_not_end_it() {
    let mut stage = Stage::new(&net(), 1);
    assert!(stage.turn(b"c").is_pending());
    let session = Arc::clone(stage.driver.home.session().unwrap());
    let mut first = true;
    // The moment between the write and the sleep, in which another task may deliver.
    stage.driver.rare().pause = Some(Box::pin(std::future::poll_fn(move |_| {
        if std::mem::take(&mut first) {
            session.with_link(1, |link| link.outbox.frame(FrameType::Binary, &[b"m"]));
        }
        Poll::Pending
    })));
    assert!(stage.turn(b"").is_pending());
    assert_eq!(stage.takes(false), "Cm");
}

#[test]
fn a_taken_over_connection_ends_though_its_socket_takes_nothing() {
    let net = net();
    let (mut old, mut new) = (Stage::new(&net, 1), Stage::new(&net, 2));
    assert!(old.turn(b"c").is_pending());
    old.takes(true);
    assert!(old.turn(b"e").is_pending());
    assert!(new.turn(b"c").is_pending());
    assert!(old.was_woken());
    assert!(old.turn(b"eee").is_pending());
    assert!(old.driver.is_closing());
    assert_eq!(
        old.driver.home.with(|link| link.outbox.len()),
        1,
        "the last word"
    );
}

#[test]
fn what_is_asked_for_by_an_answer_is_answered_too() {
    let mut stage = Stage::new(&net(), 1);
    assert!(stage.turn(b"cb").is_pending());
    assert_eq!(stage.takes(false), "CBBB");
}

#[test]
fn a_client_that_leaves_too_much_unread_gets_last_words_instead() {
    let mut stage = Stage::new(&net(), 1);
    assert!(stage.turn(b"c").is_pending());
    stage.takes(true);
    // One read may ask for more than the bound; the barrier's answer finds it exceeded.
    assert!(stage.turn(b"e").is_pending());
    assert!(stage.turn(b"eeeeeb").is_pending());
    let reason = stage.driver.closing().cloned().unwrap();
    assert_eq!(reason.cause, Cause::SlowConsumer);
    assert_eq!(stage.driver.home.with(|link| link.outbox.len()), 1);
    stage.takes(false);
    assert!(stage.turn(b"").is_pending(), "it lingers");
    assert_eq!(stage.takes(false), format!("{}X", "e".repeat(1000)));
    assert!(stage.driver.home.session().unwrap().lock().link.is_none());
}

#[test]
fn nothing_is_shut_down_nor_waited_for_when_the_client_has_closed() {
    for has_closed in [true, false] {
        let mut stage = Stage::new(&net(), 1);
        assert!(stage.turn(b"c").is_pending());
        let session = Arc::clone(stage.driver.home.session().unwrap());
        stage.driver.part();
        assert!(session.lock().link.is_none());
        let reason = CloseReason::new(Cause::Normal, "good-bye");
        stage.driver.home.with(|link| link.close(reason));
        stage.socket.0.lock().is_read_out = has_closed;
        let ended = stage.turn(b"");
        assert_eq!(stage.takes(false), "CX", "the last words are written first");
        let ended = matches!(ended, Poll::Ready(reason) if reason.cause == Cause::Normal);
        assert_eq!(ended, has_closed);
        assert_eq!(stage.socket.0.lock().was_shut, !has_closed, "it lingers");
        assert!(
            stage.driver.net.hub.session("c").is_some(),
            "for 60 seconds"
        );
        assert_eq!(stage.driver.net.hub.connected_count(), 0);
    }
}

#[test]
fn what_is_rare_is_kept_only_as_long_as_there_is_some() {
    let mut stage = Stage::new(&net(), 1);
    assert!(stage.turn(b"c").is_pending());
    assert!(stage.driver.rare.is_none(), "idle");
    stage.takes(true);
    assert!(stage.turn(b"e").is_pending());
    assert!(stage.driver.stalled_since().is_some());
    stage.takes(false);
    assert!(stage.turn(b"").is_pending());
    assert!(stage.driver.rare.is_none(), "idle again");
    assert_eq!(stage.takes(false), "e".repeat(1000));
}

#[test]
fn a_task_that_fails_leaves_its_session() {
    let mut stage = Stage::new(&net(), 1);
    assert!(stage.turn(b"c").is_pending());
    let session = Arc::clone(stage.driver.home.session().unwrap());
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || stage.turn(b"p")));
    assert!(failed.is_err());
    assert!(session.lock().link.is_none());
}

/// Several publishers to one client make one write; where nobody else comes, it is written at once.
#[test]
fn others_that_are_ready_come_before_a_write() {
    let mut stage = Stage::new(&net(), 1);
    stage.socket.0.lock().input.push_back(b"c".to_vec());
    assert!(stage.run().is_pending());
    assert_eq!(stage.takes(false), "C");
    let session = Arc::clone(stage.driver.home.session().unwrap());
    let publish = || {
        let frame = |link: &mut Link| link.outbox.frame(FrameType::Binary, &[b"m"]);
        session.with_link(1, frame).unwrap();
    };
    for _ in 0..2 {
        publish();
        assert!(stage.run().is_pending() && stage.was_woken());
        assert_eq!(stage.takes(false), "", "the others come first");
        publish();
        assert!(stage.run().is_pending());
        assert_eq!(stage.takes(false), "mm");
    }
    publish();
    assert!(stage.run().is_pending() && stage.was_woken());
    assert!(stage.run().is_pending());
    assert_eq!(stage.takes(false), "m", "in vain");
    for _ in 0..IMPATIENT_TURNS {
        publish();
        assert!(stage.run().is_pending());
        assert_eq!(stage.takes(false), "m", "at once");
    }
    publish();
    assert!(stage.run().is_pending() && stage.was_woken());
    assert_eq!(stage.takes(false), "", "it is tried again");
}
