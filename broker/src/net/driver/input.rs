//! What comes in: read, taken out of its WebSocket frames, given to the connection, carried out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use protocols::connection::{Cause, CloseReason};
use protocols::websocket::frame::OpCode;
use protocols::websocket::{self, Event};
use protocols::{Command, Outbox};
use tokio::io::ReadBuf;

use super::super::Wire;
use super::super::execute::Step;
use super::super::login::Answered;
use super::super::throttle::TooFast;
use super::{COMMANDS, Driver, READ_BUFFER, READ_BYTES, ROW, STREAM, WebSocket};
use crate::session::Batch;

/// Answers that may wait for the disk before nothing more is read from their client.
const HELD_MAX: usize = 16 * 1024;

/// What came in WebSocket frames and is worked through together; its buffers are the thread's.
struct Row {
    /// Whether anything is put together: not before the login, which decides what may follow it.
    is_open: bool,
    /// What whole messages ask for.
    commands: Vec<Command>,
    /// Bytes of these messages.
    bytes: usize,
    /// Pieces of a stream.
    stream: Vec<u8>,
}

impl Row {
    fn begin(is_open: bool) -> Self {
        Self {
            is_open,
            commands: ROW.take(),
            bytes: 0,
            stream: STREAM.take(),
        }
    }

    fn end(self) {
        ROW.set(self.commands);
        STREAM.set(self.stream);
    }
}

impl<S: Wire> Driver<S> {
    /// Goes on where something had to be asked about the client's credentials, with what it has
    /// sent meanwhile.
    pub(super) fn go_on(&mut self, answered: Answered) {
        let mut batch = Batch::new(self.net.clock.now());
        Step {
            net: &self.net,
            batch: &mut batch,
        }
        .go_on(&mut self.home, answered);
        self.notice_end();
        match self.web_socket.take() {
            Some(mut web_socket) if web_socket.whole => {
                let mut rest = self.take_pending();
                self.unframe(&mut web_socket, &mut rest, &mut batch);
                self.web_socket = Some(web_socket);
            }
            web_socket => {
                self.web_socket = web_socket;
                if !self.is_whole() {
                    self.feed(&[], &mut batch);
                }
            }
        }
        self.end_batch(batch);
    }

    /// Whether the client must wait with what it asks for next, because the disk does not keep up.
    pub(super) fn is_held_up(&self) -> bool {
        let held = self.home.held();
        let pressed = || self.net.hub.store().is_some_and(|store| store.is_pressed());
        held > HELD_MAX || (held > 0 && pressed())
    }

    /// Reads once into the thread's buffer and works through what came.
    pub(super) fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
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
    pub(super) fn take_in(&mut self, input: &mut [u8]) {
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
    pub(super) fn slow_down(&mut self, bytes: u64, batch: &Batch) {
        if batch.received() > 0
            && let Some(pause) = self.net.hub.guard.memory.pause()
        {
            self.rare().pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
        let Some(throttle) = self.rare.as_mut().and_then(|rare| rare.throttle.as_mut()) else {
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
    pub(super) fn is_throttled(&mut self) -> bool {
        let Some(throttle) = self.rare.as_ref().and_then(|rare| rare.throttle.as_ref()) else {
            return false;
        };
        let held = throttle.holds(&self.live.throttling, self.net.clock.now());
        held.unwrap_or_else(|reason| {
            self.home.with(|link| link.close(reason));
            true
        })
    }

    pub(super) fn end_batch(&mut self, mut batch: Batch) {
        let pressed = batch.take_pressed();
        batch.settle_received(&self.metrics);
        batch.finish(&self.net.hub.metrics);
        if let Some(slow) = pressed.into_iter().next()
            && self.live.pause > Duration::ZERO
        {
            let pause = self.live.pause;
            self.net.hub.metrics.publisher_pauses.inc();
            self.rare().pause = Some(Box::pin(async move {
                // Either is fine: the receiver has read, or it has had its chance.
                let _ = tokio::time::timeout(pause, slow.drained().notified()).await;
            }));
        }
    }

    /// Takes the messages out of their WebSocket frames. Once the client is logged in, what came in
    /// one read is worked through together: a frame each would cost a turn each.
    pub(super) fn unframe(
        &mut self,
        web_socket: &mut WebSocket,
        input: &mut [u8],
        batch: &mut Batch,
    ) {
        let mut rest = input;
        let mut row = Row::begin(self.home.session().is_some());
        if row.is_open {
            let most = self.live.limits.packet_bytes;
            web_socket.decoder.set_message_bytes(most);
        }
        while !self.is_closing() {
            if web_socket.whole && self.home.gate.is_waiting() {
                // A message is used up whole, and nobody takes one now.
                self.rare().pending.extend_from_slice(rest);
                break;
            }
            match web_socket.decoder.decode(&mut rest, batch.now) {
                Ok(None) => break,
                Ok(Some(Event::Data { bytes, .. })) if web_socket.whole => {
                    self.receive_in(&mut row, bytes, batch);
                }
                Ok(Some(Event::Data { bytes, .. })) => {
                    self.feed_in(&mut row, bytes, !rest.is_empty(), batch);
                }
                Ok(Some(Event::Ping(payload))) => self.home.with(|link| {
                    link.outbox.control(OpCode::Pong, payload);
                }),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close { code, reason })) => {
                    self.work_through(&mut row, batch);
                    let detail = format!("the client closed the WebSocket {code:?} {reason:?}");
                    let reason = CloseReason::new(Cause::Normal, detail);
                    self.end_web_socket(reason, |_, outbox| {
                        websocket::close::answer(outbox, code);
                    });
                }
                Err(fault) => {
                    self.work_through(&mut row, batch);
                    self.end_web_socket(fault, |fault, outbox| {
                        websocket::close::write(outbox, fault);
                    });
                }
            }
            if !row.is_open && self.home.session().is_some() {
                web_socket
                    .decoder
                    .set_message_bytes(self.live.limits.packet_bytes);
            }
        }
        self.work_through(&mut row, batch);
        row.end();
    }

    /// Gives a whole message to the connection; what it asks for may wait for the messages behind.
    fn receive_in(&mut self, row: &mut Row, message: &[u8], batch: &mut Batch) {
        if !row.is_open {
            self.receive(message, batch);
            return;
        }
        let taken = self.drive(message, &mut row.commands, batch);
        row.bytes += message.len();
        if taken.is_none() || row.bytes > READ_BYTES {
            self.work_through(row, batch);
        }
    }

    /// Gives a piece of a stream to the connection, or puts it with those that follow.
    fn feed_in(&mut self, row: &mut Row, piece: &[u8], more: bool, batch: &mut Batch) {
        if row.stream.len() + piece.len() > READ_BYTES {
            self.work_through(row, batch);
        }
        if row.stream.is_empty() && !(row.is_open && more && piece.len() <= READ_BYTES) {
            self.feed(piece, batch);
        } else {
            row.stream.extend_from_slice(piece);
        }
    }

    /// Works through what was put together.
    fn work_through(&mut self, row: &mut Row, batch: &mut Batch) {
        row.bytes = 0;
        if !row.commands.is_empty() {
            self.carry_out(&mut row.commands, batch);
            row.commands.clear();
        }
        if !row.stream.is_empty() {
            self.feed(&row.stream, batch);
            row.stream.clear();
        }
        self.notice_end();
    }

    /// Ends the connection with WebSocket's close frame. The link learns of it at once: a message
    /// that is delivered while the frame waits to be written must not come behind it.
    pub(super) fn end_web_socket(
        &mut self,
        reason: CloseReason,
        write_close: impl FnOnce(&CloseReason, &mut Outbox),
    ) {
        self.home.with(|link| {
            write_close(&reason, &mut link.outbox);
            link.end.get_or_insert_with(|| Box::new(reason.clone()));
        });
        self.rare().closing = Some(Box::new(reason));
    }

    /// Whether all that came was used up.
    fn is_whole(&self) -> bool {
        let rare = self.rare.as_ref();
        rare.is_none_or(|rare| rare.pending.is_empty())
    }

    /// Gives a stream's bytes to the connection; keeps what is incomplete.
    pub(super) fn feed(&mut self, input: &[u8], batch: &mut Batch) {
        if self.is_whole() {
            let used = self.receive(input, batch);
            if used < input.len() {
                self.rare().pending.extend_from_slice(&input[used..]);
            }
            return;
        }
        let mut pending = self.take_pending();
        pending.extend_from_slice(input);
        let used = self.receive(&pending, batch);
        pending.drain(..used);
        if !pending.is_empty() {
            self.rare().pending = pending;
        }
    }

    /// Gives bytes to the connection and carries out what comes of them; returns what was used.
    pub(super) fn receive(&mut self, input: &[u8], batch: &mut Batch) -> usize {
        let mut commands = COMMANDS.take();
        let mut used = 0;
        while !self.is_closing() {
            let taken = self.drive(&input[used..], &mut commands, batch);
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

    /// Gives bytes to the connection; returns what was used. `None` if the session has let it go
    /// since: what comes now is not for it any more.
    fn drive(&self, input: &[u8], commands: &mut Vec<Command>, batch: &Batch) -> Option<usize> {
        let now = batch.now;
        self.home.with(|link| {
            link.origin.active_at = now;
            link.end.is_none().then(|| {
                link.drive(commands, |connection, out| {
                    connection.receive(input, now, out)
                })
            })
        })
    }

    pub(super) fn carry_out(&mut self, commands: &mut Vec<Command>, batch: &mut Batch) {
        if !commands.is_empty() {
            Step {
                net: &self.net,
                batch,
            }
            .run(&mut self.home, commands);
        }
        self.notice_end();
    }

    pub(super) fn is_paused(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(rare) = &mut self.rare else {
            return false;
        };
        let Some(pause) = &mut rare.pause else {
            return false;
        };
        let waits = pause.as_mut().poll(cx).is_pending();
        if !waits {
            rare.pause = None;
        }
        waits
    }
}
