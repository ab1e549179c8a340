//! What goes out: taken from the outbox and written, and then what waited for room.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};

use super::super::Wire;
use super::super::execute::Step;
use super::Driver;
use crate::session::Batch;

/// Pieces that one write may gather.
const PIECES_PER_WRITE: usize = 64;

/// Bytes in the outbox from which on a write is worth its cost.
const WORTH_A_WRITE: usize = 16 * 1024;

/// Turns without waiting after one that was in vain.
pub(super) const IMPATIENT_TURNS: u8 = 15;

/// Whether to wait for the tasks that are ready to run before the outbox is written: when many
/// publish to one client, each of them would otherwise cost a write. Waiting costs little, and
/// where it brings nothing it is left alone for some turns.
#[derive(Debug, Default)]
pub(super) struct Courtesy {
    waits: bool,
    /// The outbox's number of frames before, as far as it fits.
    frames: u8,
    impatient: u8,
}

impl<S: Wire> Driver<S> {
    /// Whether the other tasks that are ready come first, see [`Courtesy`].
    pub(super) fn lets_others_first(&mut self) -> bool {
        let (bytes, frames) = self.home.with(|link| {
            let [.., frames] = link.outbox.frames().to_be_bytes();
            (link.outbox.len(), frames)
        });
        let is_closing = self.is_closing();
        let courtesy = &mut self.courtesy;
        if bytes == 0 {
            courtesy.waits = false;
        } else if courtesy.waits {
            courtesy.waits = false;
            if frames == courtesy.frames {
                courtesy.impatient = IMPATIENT_TURNS;
            }
        } else if courtesy.impatient > 0 {
            courtesy.impatient -= 1;
        } else if bytes < WORTH_A_WRITE && !is_closing {
            courtesy.waits = true;
            courtesy.frames = frames;
        }
        courtesy.waits
    }

    /// Gives answers that waited for the disk.
    pub(super) fn release_answers(&mut self) {
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

    /// Writes what waits. Ready when all is written.
    pub(super) fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let rare = self.rare.as_mut();
        let mut pieces = rare.map_or_else(VecDeque::new, |rare| std::mem::take(&mut rare.writing));
        let written = self.write_all(&mut pieces, cx);
        if !pieces.is_empty() {
            self.rare().writing = pieces;
        }
        written
    }

    /// Writes `pieces` and what waits behind them.
    fn write_all(
        &mut self,
        pieces: &mut VecDeque<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if pieces.is_empty() {
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
                *pieces = outgoing.pieces;
                if outgoing.nudged {
                    self.pump();
                }
                if pieces.is_empty() {
                    if outgoing.nudged && self.home.with(|link| !link.outbox.is_empty()) {
                        continue;
                    }
                    return self.flush(cx);
                }
            }
            match self.write_once(pieces, cx) {
                Poll::Pending => {
                    self.stall();
                    return Poll::Pending;
                }
                Poll::Ready(result) => self.written(pieces, result?)?,
            }
        }
    }

    fn write_once(
        &mut self,
        pieces: &VecDeque<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let socket = Pin::new(&mut self.socket);
        if pieces.len() == 1 {
            // The usual case, which is cheaper without a list.
            return socket.poll_write(cx, &pieces[0]);
        }
        let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        socket.poll_write_vectored(cx, &slices[..count])
    }

    /// All was given to the socket; TLS may still hold some of it.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_given_up && Pin::new(&mut self.socket).poll_flush(cx)?.is_pending() {
            self.stall();
            return Poll::Pending;
        }
        self.flow();
        Poll::Ready(Ok(()))
    }

    fn written(&mut self, pieces: &mut VecDeque<Bytes>, length: usize) -> io::Result<()> {
        if length == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if !self.is_closing() {
            // Last words have one time-out in all, so that no trickle keeps them for ever.
            self.flow();
        }
        self.metrics.bytes_sent.add(length as u64);
        let mut left = length;
        while let Some(piece) = pieces.front_mut() {
            if piece.len() > left {
                piece.advance(left);
                return Ok(());
            }
            left -= piece.len();
            pieces.pop_front();
        }
        if let Some(session) = self.home.session() {
            session.emptied();
            if session.lock().has_more() {
                self.pump();
            }
        }
        Ok(())
    }

    /// Sends what the session has for its client.
    pub(super) fn pump(&mut self) {
        let Some(session) = self.home.session() else {
            return;
        };
        let mut batch = Batch::new(self.net.clock.now());
        self.net.hub.pump(session, &mut batch);
        batch.finish(&self.net.hub.metrics);
    }

    /// Whether the client asks for more than it reads: then nothing more is read from it.
    pub(super) fn is_backed_up(&mut self) -> bool {
        let limit = self.live.outbox_bytes;
        self.home.with(|link| link.outbox.len() > limit)
    }
}
