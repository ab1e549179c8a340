//! The task of one connection: moves bytes between a socket and a state machine.
//!
//! It knows bytes and no meanings: what came is given to the [`Link`]'s connection, the commands
//! that come out are carried out by the [`Hub`], and what is in the outbox is written. It is one
//! hand-written state machine, so that an idle connection is a small struct: bytes are read into a
//! buffer that all connections of a thread share, and only an incomplete frame is kept.
//!
//! The link is in one of three places ([`Home`]): here before the login, in the session after it,
//! and here again when the session has let it go.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use protocols::connection::{Cause, CloseReason};
use protocols::model::Timestamp;
use protocols::websocket::frame::OpCode;
use protocols::websocket::{self, Decoder, Event};
use protocols::{Command, Outbox};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::execute::{Home, Step};
use super::login::{Answered, Gate};
use super::throttle::{Throttle, TooFast};
use super::timers::TimerId;
use super::{Live, Net};
use crate::auth::Door;
use crate::session::{Batch, Link};
use crate::telemetry::{ProtocolMetrics, Transport};

/// Bytes that are read at once, into a buffer that belongs to the thread.
const READ_BYTES: usize = 64 * 1024;

/// Reads before the task lets others run.
const READS_PER_TURN: u32 = 8;

/// How long a connection that is over waits for the other side to have read its last words.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read and thrown away meanwhile.
const LINGER_BYTES: usize = 1024 * 1024;

/// Answers that may wait for the disk before nothing more is read from their client.
const HELD_MAX: usize = 16 * 1024;

/// Pieces that one write may gather.
const PIECES_PER_WRITE: usize = 64;

thread_local! {
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static COMMANDS: Cell<Vec<Command>> = const { Cell::new(Vec::new()) };
}

/// See the module.
pub(super) struct Driver<S> {
    socket: S,
    net: Arc<Net>,
    home: Home,
    /// The settings of the time when the connection began.
    live: Arc<Live>,
    web_socket: Option<Box<WebSocket>>,
    /// The beginning of a frame whose rest has not come.
    pending: Vec<u8>,
    writing: VecDeque<Bytes>,
    /// The end, once it is decided; what is in the outbox is still written.
    closing: Option<Box<CloseReason>>,
    timer: Option<(Timestamp, TimerId)>,
    /// Since when the socket takes nothing; in a box, as it is rare.
    stalled_since: Option<Box<Timestamp>>,
    /// Since when all is written and the sending side is closed.
    lingers: Option<Box<Linger>>,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// How much the client has sent, if there is a limit.
    throttle: Option<Box<Throttle>>,
    metrics: Arc<ProtocolMetrics>,
    transport: Transport,
    has_begun: bool,
    /// Whether nothing is written until the login's session is on disk.
    is_corked: bool,
    /// Whether the socket is given up: what is in it is not waited for.
    is_given_up: bool,
    is_over: bool,
}

/// The time between the last words and the end: a socket that is closed while bytes wait to be
/// read would be reset, and the other side might never see what was written to it.
#[derive(Clone, Copy, Debug)]
struct Linger {
    since: Timestamp,
    discarded: usize,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Why.
    pub(super) reason: CloseReason,
    /// Whose it was, if the client was let in.
    pub(super) client_id: Option<ByteString>,
    /// Its address.
    pub(super) peer: Option<SocketAddr>,
}

/// The WebSocket layer of a connection.
#[derive(Debug)]
pub(super) struct WebSocket {
    decoder: Decoder,
    /// Whether each message is one frame of the protocol.
    whole: bool,
}

impl WebSocket {
    /// For a connection that was upgraded.
    pub(super) fn new(config: websocket::Config) -> Self {
        Self {
            decoder: Decoder::new(config),
            whole: config.whole,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Drives a connection whose first bytes are in `early`.
    pub(super) fn new(
        socket: S,
        net: Arc<Net>,
        live: Arc<Live>,
        link: Link,
        transport: Transport,
        web_socket: Option<WebSocket>,
        early: BytesMut,
    ) -> Self {
        Self {
            socket,
            transport,
            metrics: Arc::clone(&link.metrics),
            net,
            throttle: live.throttling.begin(),
            live,
            home: Home::new(link),
            web_socket: web_socket.map(Box::new),
            pending: early.into(),
            writing: VecDeque::new(),
            closing: None,
            timer: None,
            stalled_since: None,
            lingers: None,
            pause: None,
            has_begun: false,
            is_corked: false,
            is_given_up: false,
            is_over: false,
        }
    }

    /// What came with the connection, for its login.
    pub(super) fn through(mut self, door: Door) -> Self {
        self.home.gate = Gate::new(door);
        self
    }

    /// Runs the connection until its end, and says how it ended.
    pub(super) fn run(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if !self.has_begun {
            self.has_begun = true;
            self.begin();
        }
        self.turn(cx)
    }

    /// The connection's number, for logs.
    pub(super) fn number(&self) -> u64 {
        self.home.slot().0
    }

    /// What all connections share.
    pub(super) fn net(&self) -> &Net {
        &self.net
    }

    /// What carries the connection.
    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// Counters of the protocol.
    pub(super) fn metrics(&self) -> &ProtocolMetrics {
        &self.metrics
    }

    fn begin(&mut self) {
        let (link, slot) = self.home.slot();
        self.net.admission.begin_login(link, slot);
        if !self.pending.is_empty() {
            let mut early = std::mem::take(&mut self.pending);
            self.take_in(&mut early);
        }
    }

    /// One turn of the task: writes, reads, and goes to sleep when there is nothing to do.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut reads = 0;
        loop {
            self.meet_deadline();
            self.release_answers();
            match self.write(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
                Poll::Ready(Ok(())) if self.closing.is_some() => return self.finish(cx),
                Poll::Pending if self.closing.is_some() => {
                    self.set_timer(cx);
                    return Poll::Pending;
                }
                Poll::Pending if self.is_backed_up() => {
                    if self.sleep(cx) {
                        return Poll::Pending;
                    }
                    continue;
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            match self.home.gate.poll(cx) {
                Poll::Ready(None) => {}
                Poll::Ready(Some(answered)) => {
                    self.go_on(answered);
                    continue;
                }
                Poll::Pending => {
                    if self.sleep(cx) {
                        return Poll::Pending;
                    }
                    continue;
                }
            }
            if self.is_held_up() || self.is_throttled() || self.is_paused(cx) {
                if self.sleep(cx) {
                    return Poll::Pending;
                }
                continue;
            }
            if reads == READS_PER_TURN {
                // Who never sleeps has deadlines too.
                self.set_timer(cx);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            match self.read(cx) {
                Poll::Pending if self.sleep(cx) => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&error)),
                Poll::Ready(Ok(0)) => {
                    // It may have closed its sending side only, and still read its answers.
                    self.part();
                    let lost = CloseReason::new(Cause::Lost, "the client closed the connection");
                    self.closing.get_or_insert(Box::new(lost));
                }
                Poll::Pending | Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Goes on where something had to be asked about the client's credentials, with what it has
    /// sent meanwhile.
    fn go_on(&mut self, answered: Answered) {
        let mut batch = Batch::new(self.net.clock.now());
        Step {
            net: &self.net,
            batch: &mut batch,
        }
        .go_on(&mut self.home, answered);
        self.notice_end();
        match self.web_socket.take() {
            Some(mut web_socket) if web_socket.whole => {
                let mut rest = std::mem::take(&mut self.pending);
                self.unframe(&mut web_socket, &mut rest, &mut batch);
                self.web_socket = Some(web_socket);
            }
            web_socket => {
                self.web_socket = web_socket;
                if !self.pending.is_empty() {
                    self.feed(&[], &mut batch);
                }
            }
        }
        self.end_batch(batch);
    }

    /// Gives answers that waited for the disk.
    fn release_answers(&mut self) {
        if self.home.held() == 0 {
            return;
        }
        let mut batch = Batch::new(self.net.clock.now());
        Step {
            net: &self.net,
            batch: &mut batch,
        }
        .release(&mut self.home);
        self.notice_end();
        self.end_batch(batch);
    }

    /// Whether the client must wait with what it asks for next, because the disk does not keep up.
    fn is_held_up(&self) -> bool {
        let held = self.home.held();
        let pressed = || self.net.hub.store().is_some_and(|store| store.is_pressed());
        held > HELD_MAX || (held > 0 && pressed())
    }

    /// Reads once into the thread's buffer and works through what came.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = READ_BUFFER.take();
        if buffer.is_empty() {
            buffer.resize(READ_BYTES, 0);
        }
        let mut into = ReadBuf::new(&mut buffer);
        let result = Pin::new(&mut self.socket).poll_read(cx, &mut into);
        let length = into.filled().len();
        if matches!(result, Poll::Ready(Ok(()))) && length > 0 {
            self.take_in(&mut buffer[..length]);
        }
        READ_BUFFER.set(buffer);
        match ready!(result) {
            // TLS that ends without a word. The protocols tell for themselves what is whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            result => Poll::Ready(result.map(|()| length)),
        }
    }

    /// Works through what came from the socket: one batch.
    fn take_in(&mut self, input: &mut [u8]) {
        let bytes = input.len() as u64;
        self.metrics.bytes_received.add(bytes);
        if self.home.session().is_none() {
            self.net.admission.received(self.home.slot().0, input.len());
        }
        self.net.stir();
        let mut batch = Batch::new(self.net.clock.now());
        match self.web_socket.take() {
            None => self.feed(input, &mut batch),
            Some(mut web_socket) => {
                self.unframe(&mut web_socket, input, &mut batch);
                self.web_socket = Some(web_socket);
            }
        }
        self.slow_down(bytes, &batch);
        self.end_batch(batch);
    }

    /// Counts what came against the client's rates.
    fn slow_down(&mut self, bytes: u64, batch: &Batch) {
        if batch.received() > 0
            && let Some(pause) = self.net.hub.guard.memory.pause()
        {
            self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
        let Some(throttle) = &mut self.throttle else {
            return;
        };
        let protection = &self.net.hub.metrics.protection;
        match throttle.spend(&self.live.throttling, (batch.received(), bytes), batch.now) {
            Some(TooFast::Messages) => protection.messages_slowed.inc(),
            Some(TooFast::Bytes) => protection.bytes_slowed.inc(),
            None => {}
        }
    }

    /// Whether nothing is read because the client sends too fast. One that does so for too long is
    /// closed.
    fn is_throttled(&mut self) -> bool {
        let Some(throttle) = &self.throttle else {
            return false;
        };
        let held = throttle.holds(&self.live.throttling, self.net.clock.now());
        held.unwrap_or_else(|reason| {
            self.home.with(|link| link.close(reason));
            true
        })
    }

    fn end_batch(&mut self, mut batch: Batch) {
        let pressed = batch.take_pressed();
        batch.settle_received(&self.metrics);
        batch.finish(&self.net.hub.metrics);
        if let Some(slow) = pressed.into_iter().next()
            && self.live.pause > Duration::ZERO
        {
            let pause = self.live.pause;
            self.net.hub.metrics.publisher_pauses.inc();
            self.pause = Some(Box::pin(async move {
                // Either is fine: the receiver has read, or it has had its chance.
                let _ = tokio::time::timeout(pause, slow.drained().notified()).await;
            }));
        }
    }

    fn unframe(&mut self, web_socket: &mut WebSocket, input: &mut [u8], batch: &mut Batch) {
        let mut rest = input;
        while self.closing.is_none() {
            if web_socket.whole && self.home.gate.is_waiting() {
                // A message is used up whole, and nobody takes one now.
                self.pending.extend_from_slice(rest);
                return;
            }
            match web_socket.decoder.decode(&mut rest, batch.now) {
                Ok(None) => break,
                Ok(Some(Event::Data { bytes, .. })) if web_socket.whole => {
                    self.receive(bytes, batch);
                }
                Ok(Some(Event::Data { bytes, .. })) => self.feed(bytes, batch),
                Ok(Some(Event::Ping(payload))) => self.home.with(|link| {
                    link.outbox.control(OpCode::Pong, payload);
                }),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close { code, reason })) => {
                    let detail = format!("the client closed the WebSocket {code:?} {reason:?}");
                    let reason = CloseReason::new(Cause::Normal, detail);
                    self.end_web_socket(reason, |_, outbox| {
                        websocket::close::answer(outbox, code);
                    });
                }
                Err(fault) => self.end_web_socket(fault, |fault, outbox| {
                    websocket::close::write(outbox, fault);
                }),
            }
            if self.home.session().is_some() {
                web_socket
                    .decoder
                    .set_message_bytes(self.live.limits.packet_bytes);
            }
        }
    }

    /// Ends the connection with WebSocket's close frame. The link learns of it at once: a message
    /// that is delivered while the frame waits to be written must not come behind it.
    fn end_web_socket(
        &mut self,
        reason: CloseReason,
        write_close: impl FnOnce(&CloseReason, &mut Outbox),
    ) {
        self.home.with(|link| {
            write_close(&reason, &mut link.outbox);
            link.end.get_or_insert_with(|| Box::new(reason.clone()));
        });
        self.closing = Some(Box::new(reason));
    }

    /// Gives a stream's bytes to the connection; keeps what is incomplete.
    fn feed(&mut self, input: &[u8], batch: &mut Batch) {
        if self.pending.is_empty() {
            let used = self.receive(input, batch);
            self.pending.extend_from_slice(&input[used..]);
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(input);
        let used = self.receive(&pending, batch);
        pending.drain(..used);
        if !pending.is_empty() {
            self.pending = pending;
        }
    }

    /// Gives bytes to the connection and carries out what comes of them; returns what was used.
    fn receive(&mut self, input: &[u8], batch: &mut Batch) -> usize {
        let mut commands = COMMANDS.take();
        let mut used = 0;
        while self.closing.is_none() {
            let now = batch.now;
            let taken = self.home.with(|link| {
                link.origin.active_at = now;
                // The session may have let it go since: what comes now is not for it any more.
                link.end.is_none().then(|| {
                    link.drive(&mut commands, |connection, out| {
                        connection.receive(&input[used..], now, out)
                    })
                })
            });
            let Some(taken) = taken else {
                self.notice_end();
                break;
            };
            used += taken;
            let login = matches!(commands.last(), Some(Command::Connect(_)));
            self.carry_out(&mut commands, batch);
            // Behind a login there may be more that was not looked at yet.
            if !login || used == input.len() {
                break;
            }
        }
        commands.clear();
        COMMANDS.set(commands);
        used
    }

    fn carry_out(&mut self, commands: &mut Vec<Command>, batch: &mut Batch) {
        if !commands.is_empty() {
            Step {
                net: &self.net,
                batch,
            }
            .run(&mut self.home, commands);
        }
        self.notice_end();
    }

    /// Learns from the link whether the connection is over.
    fn notice_end(&mut self) {
        if self.closing.is_some() {
            return;
        }
        let web_socket = self.transport.is_web_socket();
        self.closing = self.home.with(|link| {
            let reason = link.end.clone()?;
            if web_socket {
                websocket::close::write(&mut link.outbox, &reason);
            }
            Some(reason)
        });
    }

    /// Writes what waits. Ready when all is written.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.writing.is_empty() {
                self.notice_end();
                let outgoing = self.home.take_outgoing(&self.net.hub);
                if let Some(seq) = outgoing.cork {
                    self.is_corked = true;
                    if let Some(store) = self.net.hub.store() {
                        store.wake_at(seq, cx.waker());
                    }
                    return Poll::Pending;
                }
                self.is_corked = false;
                self.writing = outgoing.pieces;
                if outgoing.nudged {
                    self.pump();
                }
                if self.writing.is_empty() {
                    if outgoing.nudged && self.home.with(|link| !link.outbox.is_empty()) {
                        continue;
                    }
                    return self.flush(cx);
                }
            }
            let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.writing) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            let socket = Pin::new(&mut self.socket);
            match socket.poll_write_vectored(cx, &slices[..count]) {
                Poll::Pending => {
                    let now = self.net.clock.now();
                    self.stalled_since.get_or_insert_with(|| Box::new(now));
                    return Poll::Pending;
                }
                Poll::Ready(result) => self.written(result?)?,
            }
        }
    }

    /// All was given to the socket; TLS may still hold some of it.
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_given_up && Pin::new(&mut self.socket).poll_flush(cx)?.is_pending() {
            let now = self.net.clock.now();
            self.stalled_since.get_or_insert_with(|| Box::new(now));
            return Poll::Pending;
        }
        self.stalled_since = None;
        Poll::Ready(Ok(()))
    }

    fn written(&mut self, length: usize) -> io::Result<()> {
        if length == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if self.closing.is_none() {
            // Last words have one time-out in all, so that no trickle keeps them for ever.
            self.stalled_since = None;
        }
        self.metrics.bytes_sent.add(length as u64);
        let mut left = length;
        while let Some(piece) = self.writing.front_mut() {
            if piece.len() > left {
                piece.advance(left);
                return Ok(());
            }
            left -= piece.len();
            self.writing.pop_front();
        }
        // Keeps no capacity while idle.
        self.writing = VecDeque::new();
        if let Some(session) = self.home.session() {
            session.emptied();
            if session.lock().has_more() {
                self.pump();
            }
        }
        Ok(())
    }

    /// Sends what the session has for its client.
    fn pump(&mut self) {
        let Some(session) = self.home.session() else {
            return;
        };
        let mut batch = Batch::new(self.net.clock.now());
        self.net.hub.pump(session, &mut batch);
        batch.finish(&self.net.hub.metrics);
    }

    /// Whether the client asks for more than it reads: then nothing more is read from it.
    fn is_backed_up(&mut self) -> bool {
        let limit = self.live.outbox_bytes;
        self.home.with(|link| link.outbox.len() > limit)
    }

    fn is_paused(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pause) = &mut self.pause else {
            return false;
        };
        let waits = pause.as_mut().poll(cx).is_pending();
        if !waits {
            self.pause = None;
        }
        waits
    }

    /// Leaves the waker where it is needed; `false` if there is something to do after all.
    fn sleep(&mut self, cx: &Context<'_>) -> bool {
        self.home.wake_for_answers(&self.net.hub, cx.waker());
        let stalled = self.stalled_since.is_some() || self.is_corked;
        let idle = self.home.with(|link| {
            if link.end.is_some() || link.nudged || !(stalled || link.outbox.is_empty()) {
                return false;
            }
            link.sleep(cx.waker(), stalled);
            true
        });
        if idle {
            self.set_timer(cx);
        } else {
            self.notice_end();
        }
        idle
    }

    fn set_timer(&mut self, cx: &Context<'_>) {
        let Some(at) = self.deadline() else { return };
        match self.timer {
            Some((armed, _)) if armed <= at => {}
            old => {
                if let Some((_, id)) = old {
                    self.net.timers.disarm(id);
                }
                self.timer = Some((at, self.net.timers.arm(at, cx.waker())));
            }
        }
    }

    fn deadline(&mut self) -> Option<Timestamp> {
        if let Some(linger) = &self.lingers {
            return Some(linger.since + LINGER);
        }
        let stall = self.stalled_since.as_deref();
        let stall = stall.map(|since| *since + self.live.stall);
        if self.closing.is_some() {
            return stall;
        }
        let (next, due) = self.home.with(|link| {
            let due = link.due.known();
            (link.connection.next_timeout(), due)
        });
        let now = self.net.clock.now();
        let throttle = self.throttle.as_ref();
        let slowed = throttle.and_then(|held| held.deadline(&self.live.throttling, now));
        [stall, next, due, slowed].into_iter().flatten().min()
    }

    fn meet_deadline(&mut self) {
        let Some((armed, _)) = self.timer else { return };
        let now = self.net.clock.now();
        if now < armed {
            return;
        }
        self.timer = None;
        if self
            .stalled_since
            .as_deref()
            .is_some_and(|since| *since + self.live.stall <= now)
        {
            self.give_up();
            return;
        }
        if self.closing.is_some() {
            return;
        }
        if let Some(session) = self.home.session() {
            session.lock().look_at_credentials(self.home.number(), now);
        }
        let mut commands = Vec::new();
        let mut batch = Batch::new(now);
        self.home.with(|link| {
            let due = link.connection.next_timeout().is_some_and(|at| at <= now);
            if due && link.end.is_none() {
                link.drive(&mut commands, |connection, out| {
                    connection.handle_timeout(now, out);
                });
            }
        });
        self.carry_out(&mut commands, &mut batch);
        self.end_batch(batch);
    }

    /// The client reads nothing: there is no point in writing more.
    fn give_up(&mut self) {
        let secs = self.live.stall.as_secs();
        self.closing.get_or_insert_with(|| {
            let detail = format!("the client has read nothing for {secs} seconds");
            Box::new(CloseReason::new(Cause::SlowConsumer, detail))
        });
        self.is_given_up = true;
        // Before the rest is thrown away, so that no publisher puts more behind it.
        self.part();
        self.stalled_since = None;
        self.writing.clear();
        self.home.with(|link| drop(link.outbox.take()));
    }

    fn broken(&mut self, error: &io::Error) -> Ended {
        let failed = || CloseReason::new(Cause::Io, format!("the socket failed: {error}"));
        let reason = self.closing.take().map_or_else(failed, |reason| *reason);
        self.leave(reason)
    }

    /// All is written: says so to the other side, and waits a little for its end.
    fn finish(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut linger = match self.lingers.as_deref() {
            Some(linger) => *linger,
            None => {
                self.part();
                match Pin::new(&mut self.socket).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => {}
                    // TLS has last words of its own, and they too may find no room.
                    Poll::Pending if !self.is_given_up => {
                        let now = self.net.clock.now();
                        self.stalled_since.get_or_insert_with(|| Box::new(now));
                        self.set_timer(cx);
                        return Poll::Pending;
                    }
                    // An error here means that the other side is gone already.
                    Poll::Ready(Err(_)) | Poll::Pending => return Poll::Ready(self.ended()),
                }
                self.stalled_since = None;
                Linger {
                    since: self.net.clock.now(),
                    discarded: 0,
                }
            }
        };
        let mut buffer = READ_BUFFER.take();
        buffer.resize(READ_BYTES, 0);
        let over = loop {
            let mut into = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.socket).poll_read(cx, &mut into) {
                Poll::Pending => break false,
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    linger.discarded += into.filled().len();
                    if linger.discarded > LINGER_BYTES {
                        break true;
                    }
                }
                Poll::Ready(_) => break true,
            }
        };
        READ_BUFFER.set(buffer);
        self.lingers = Some(Box::new(linger));
        if over || linger.since + LINGER <= self.net.clock.now() {
            return Poll::Ready(self.ended());
        }
        self.set_timer(cx);
        Poll::Pending
    }

    fn ended(&mut self) -> Ended {
        let reason = self.closing.take();
        let reason = reason.map(|reason| *reason);
        self.leave(reason.unwrap_or_else(|| CloseReason::new(Cause::Normal, "")))
    }
}

impl<S> Driver<S> {
    /// The connection is over: the session, if it still holds it, is told.
    fn leave(&mut self, reason: CloseReason) -> Ended {
        self.is_over = true;
        if let Some((_, id)) = self.timer.take() {
            self.net.timers.disarm(id);
        }
        self.part();
        let (number, slot) = self.home.slot();
        self.net.admission.end_login(number);
        // The link knows the way to its slot: left in there, both would hold each other for ever.
        let link = slot.lock().take();
        Ended {
            reason,
            client_id: self.home.session().map(|held| held.client_id.clone()),
            peer: link.and_then(|link| link.origin.peer()),
        }
    }

    fn part(&mut self) {
        let mut batch = Batch::new(self.net.clock.now());
        self.home.leave(&self.net.hub, true, None, &mut batch);
        batch.finish(&self.net.hub.metrics);
    }
}

/// A task that is torn down in the middle, by a fault of ours, leaves no session behind that
/// believes to be connected.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        if !self.is_over {
            self.leave(CloseReason::new(Cause::Io, ""));
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
