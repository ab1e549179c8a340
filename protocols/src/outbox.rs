//! Bytes on their way to one client.
//!
//! Filled by the client's own connection and by the tasks of publishers, emptied by the task that
//! owns the socket: many frames leave in one write. Small frames are copied behind each other,
//! large bodies are shared. It holds no memory while it is empty.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::connection::WebSocketUse;
use crate::websocket::frame::{Header, OpCode};

/// Bodies of at least this many bytes are shared instead of copied.
pub const SHARE_BYTES: usize = 4096;

/// Outgoing bytes of a connection, framed for its transport.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Full pieces in order; `tail` comes after them.
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
    framing: Framing,
    /// With [`Framing::Packed`]: where the bytes begin that have no frame header yet.
    packed: Packed,
    /// Frames put since the start, for metrics.
    frames: u64,
}

/// How frames are put on the transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    /// One after the other: TCP, TLS.
    #[default]
    Stream,
    /// Many in one binary WebSocket message, closed when the outbox is taken.
    Packed,
    /// Each one a WebSocket message.
    Messages,
}

#[derive(Clone, Copy, Debug, Default)]
struct Packed {
    /// Number of `pieces` that are framed already.
    pieces: usize,
    /// Bytes without a header.
    len: usize,
}

/// What a frame is to WebSocket; without meaning on a plain stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

impl Outbox {
    /// For a plain stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a WebSocket of a protocol that uses it so.
    pub fn web_socket(usage: WebSocketUse) -> Self {
        let framing = match usage {
            WebSocketUse::BinaryStream => Framing::Packed,
            WebSocketUse::FramedStream | WebSocketUse::TextMessages => Framing::Messages,
        };
        Self {
            framing,
            ..Self::default()
        }
    }

    /// Bytes waiting.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Frames put since the start.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Puts one frame that consists of several parts.
    pub fn frame(&mut self, kind: FrameType, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.begin(kind, length);
        for part in parts {
            self.tail.put_slice(part);
        }
        self.added(length);
    }

    /// Puts one frame that ends in a shared body; the body is copied only if it is small.
    pub fn frame_shared(&mut self, kind: FrameType, head: &[&[u8]], body: &Bytes, end: &[u8]) {
        if body.len() < SHARE_BYTES {
            let mut parts: smallvec::SmallVec<[&[u8]; 8]> = head.iter().copied().collect();
            parts.push(body);
            parts.push(end);
            return self.frame(kind, &parts);
        }
        let length = head.iter().map(|part| part.len()).sum::<usize>() + body.len() + end.len();
        self.begin(kind, length);
        for part in head {
            self.tail.put_slice(part);
        }
        self.seal_tail();
        self.pieces.push_back(body.clone());
        self.tail.put_slice(end);
        self.added(length);
    }

    /// Puts a WebSocket control frame (ping, pong, close), never inside another frame. Ignored on
    /// a plain stream. `payload` has at most 125 bytes (RFC 6455 §5.5).
    pub fn control(&mut self, opcode: OpCode, payload: &[u8]) {
        debug_assert!(
            payload.len() <= 125,
            "a control frame carries at most 125 bytes"
        );
        if self.framing == Framing::Stream {
            return;
        }
        self.close_packed();
        let before = self.tail.len();
        Header::server(opcode, payload.len()).write(&mut self.tail);
        self.tail.put_slice(payload);
        self.len += self.tail.len() - before;
        self.mark_packed();
    }

    /// Takes all that waits, ready for the wire, and leaves the outbox empty.
    pub fn take(&mut self) -> VecDeque<Bytes> {
        self.close_packed();
        self.seal_tail();
        self.len = 0;
        self.packed = Packed::default();
        // Keeps no capacity: an idle connection owns no buffer.
        self.tail = BytesMut::new();
        std::mem::take(&mut self.pieces)
    }

    fn begin(&mut self, kind: FrameType, length: usize) {
        if self.framing == Framing::Messages {
            let opcode = match kind {
                FrameType::Text => OpCode::Text,
                FrameType::Binary => OpCode::Binary,
            };
            let before = self.tail.len();
            Header::server(opcode, length).write(&mut self.tail);
            self.len += self.tail.len() - before;
        }
    }

    fn added(&mut self, length: usize) {
        self.len += length;
        self.frames += 1;
        if self.framing == Framing::Packed {
            self.packed.len += length;
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Gives the bytes that were packed since the last call their one frame header.
    fn close_packed(&mut self) {
        if self.framing != Framing::Packed || self.packed.len == 0 {
            return;
        }
        let mut header = BytesMut::with_capacity(10);
        Header::server(OpCode::Binary, self.packed.len).write(&mut header);
        self.len += header.len();
        self.pieces.insert(self.packed.pieces, header.freeze());
        self.mark_packed();
    }

    fn mark_packed(&mut self) {
        if self.framing == Framing::Packed {
            self.seal_tail();
            self.packed = Packed {
                pieces: self.pieces.len(),
                len: 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(outbox: &mut Outbox) -> Vec<u8> {
        outbox
            .take()
            .iter()
            .flat_map(|piece| piece.to_vec())
            .collect()
    }

    #[test]
    fn a_stream_is_frames_behind_each_other() {
        let mut outbox = Outbox::new();
        outbox.frame(FrameType::Binary, &[b"ab", b"c"]);
        outbox.control(OpCode::Ping, b"");
        let large = Bytes::from(vec![b'x'; SHARE_BYTES]);
        outbox.frame_shared(FrameType::Binary, &[b"<"], &large, b">");
        assert_eq!(outbox.len(), 3 + 2 + SHARE_BYTES);
        let pieces = outbox.take();
        assert_eq!(pieces[1].as_ptr(), large.as_ptr(), "a large body is shared");
        assert_eq!(
            pieces.iter().map(Bytes::len).sum::<usize>(),
            5 + SHARE_BYTES
        );
        assert!(outbox.is_empty());
    }

    #[test]
    fn packed_frames_share_a_websocket_message() {
        let mut outbox = Outbox::web_socket(WebSocketUse::BinaryStream);
        outbox.frame(FrameType::Binary, &[b"ab"]);
        outbox.frame(FrameType::Binary, &[b"c"]);
        outbox.control(OpCode::Pong, b"p");
        outbox.frame(FrameType::Binary, &[b"d"]);
        let expected = outbox.len() + 2;
        let wire = bytes(&mut outbox);
        assert_eq!(
            wire,
            [&[0x82, 3][..], b"abc", &[0x8a, 1], b"p", &[0x82, 1], b"d"].concat()
        );
        assert_eq!(wire.len(), expected);
    }

    #[test]
    fn messages_are_framed_one_by_one() {
        let mut outbox = Outbox::web_socket(WebSocketUse::TextMessages);
        outbox.frame(FrameType::Text, &[b"ab"]);
        outbox.frame(FrameType::Binary, &[b"c"]);
        assert_eq!(outbox.len(), 7);
        assert_eq!(
            bytes(&mut outbox),
            [&[0x81, 2][..], b"ab", &[0x82, 1], b"c"].concat()
        );
    }
}
