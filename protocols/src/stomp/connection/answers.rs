//! The answers that the client and the connection wait for, in the order of the frames.
//!
//! A RECEIPT says that its frame, and all before it, were carried out (STOMP 1.2 §RECEIPT): so a
//! frame that needs no answer of the broker still waits behind those that do.

use std::collections::VecDeque;

use bytestring::ByteString;

use crate::connection::Token;

/// What stands between a frame and its RECEIPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing but the frames before it.
    Ready,
    /// The same, and the connection ends with it (DISCONNECT).
    Farewell,
    /// The broker's answer to the command with this token.
    Answer(Token),
    /// The same, and it does not matter whether the message was still open.
    Lenient(Token),
}

/// A frame that is not answered yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) wait: Wait,
    pub(super) receipt: Option<ByteString>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Answers {
    queue: VecDeque<Waiting>,
    bytes: usize,
    next: u64,
}

impl Answers {
    /// A token for the next command.
    pub(super) fn token(&mut self) -> Token {
        self.next += 1;
        Token(self.next)
    }

    /// Adds a frame behind the others; false when they hold more than `max` bytes together.
    #[must_use]
    pub(super) fn push(&mut self, wait: Wait, receipt: Option<ByteString>, max: usize) -> bool {
        let waiting = Waiting { wait, receipt };
        self.bytes += waiting.size();
        self.queue.push_back(waiting);
        self.bytes <= max
    }

    /// Takes the first one, which waits for the answer to the command with this token: the broker
    /// answers in order.
    pub(super) fn answered(&mut self, token: Token) -> Option<Waiting> {
        let first =
            self.take(|wait| matches!(wait, Wait::Answer(of) | Wait::Lenient(of) if of == token));
        debug_assert!(first.is_some(), "an answer to {token:?} out of order");
        first
    }

    /// Takes the first one if it waits for nothing.
    pub(super) fn ready(&mut self) -> Option<Waiting> {
        self.take(|wait| matches!(wait, Wait::Ready | Wait::Farewell))
    }

    fn take(&mut self, is_due: impl Fn(Wait) -> bool) -> Option<Waiting> {
        if !is_due(self.queue.front()?.wait) {
            return None;
        }
        let waiting = self.queue.pop_front()?;
        self.bytes -= waiting.size();
        // An idle connection keeps no large buffer.
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        Some(waiting)
    }
}

impl Waiting {
    fn size(&self) -> usize {
        size_of::<Self>() + self.receipt.as_ref().map_or(0, |receipt| receipt.len())
    }
}
