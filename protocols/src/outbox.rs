//! Bytes on their way to one client.
//!
//! Filled by the client's own connection and by the tasks of publishers, emptied by the task that
//! owns the socket: many frames leave in one write. Small frames are copied behind each other,
//! large bodies are shared. It holds no memory while it is empty.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::connection::WebSocketUse;
use crate::model::Message;
use crate::websocket::deflate::{self, DEFLATE_BYTES_MIN, Deflate};
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
    /// If permessage-deflate was agreed on.
    deflate: Option<Deflate>,
    /// With [`Framing::Packed`]: bytes that have no frame header yet, behind so many pieces.
    packed_len: usize,
    packed_behind: u32,
    /// Bytes that were copied into the outbox before it was taken last: about as many will come
    /// before the next time, and room for them is made at once instead of in doublings.
    last: u32,
    /// Frames put since the start, for metrics.
    frames: u32,
}

/// The most room that is made before it is needed. From so many bytes on a new piece is begun where
/// the last one would have to be copied to grow.
const ROOM_MAX: usize = 16 * 1024;

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

    /// For a WebSocket with permessage-deflate: frames of [`DEFLATE_BYTES_MIN`] bytes and more that
    /// compression makes smaller are compressed, each as a message of its own.
    pub fn web_socket_deflate(usage: WebSocketUse, deflate: Deflate) -> Self {
        Self {
            deflate: Some(deflate),
            ..Self::web_socket(usage)
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

    /// Frames put since the start; counts round after the largest number.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Puts one frame that consists of several parts.
    pub fn frame(&mut self, kind: FrameType, parts: &[&[u8]]) {
        let length = length_of(parts);
        if let Some(deflate) = self.deflate
            && deflate.is_for(length)
            && self.frame_compressed(deflate, kind, parts, length)
        {
            return;
        }
        self.frame_plain(kind, parts, length);
    }

    /// Puts one frame that ends in a shared body; the body is copied only if it is small.
    pub fn frame_shared(&mut self, kind: FrameType, head: &[&[u8]], body: &Bytes, end: &[u8]) {
        let length = length_of(head) + body.len() + end.len();
        if let Some(deflate) = self.deflate {
            if body.len() < SHARE_BYTES {
                let mut parts: smallvec::SmallVec<[&[u8]; 8]> = head.iter().copied().collect();
                parts.push(body);
                parts.push(end);
                return self.frame(kind, &parts);
            }
            let compressed = deflate::compress_body(deflate, body);
            if self.frame_around(deflate, kind, head, &compressed, end, length) {
                return;
            }
        }
        self.frame_shared_plain(kind, head, body, end, length);
    }

    /// Puts one frame of a message: like [`Outbox::frame_shared`], but `body`, which must be a
    /// shared form of the message ([`Message::encoded`] or its payload), is compressed only once
    /// for all its receivers, whatever each of them has in `head` and `end`.
    pub fn frame_of(
        &mut self,
        message: &Message,
        kind: FrameType,
        head: &[&[u8]],
        body: &Bytes,
        end: &[u8],
    ) {
        let Some(deflate) = self.deflate else {
            let length = length_of(head) + body.len() + end.len();
            return self.frame_shared_plain(kind, head, body, end, length);
        };
        if body.len() < DEFLATE_BYTES_MIN {
            return self.frame_shared(kind, head, body, end);
        }
        let length = length_of(head) + body.len() + end.len();
        let bits = deflate.window_bits();
        let compressed = message.deflated(body, bits, |body| deflate::compress_body(deflate, body));
        if self.frame_around(deflate, kind, head, &compressed, end, length) {
            return;
        }
        self.frame_shared_plain(kind, head, body, end, length);
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
        self.header(Header::server(opcode, payload.len()));
        self.tail.put_slice(payload);
        self.len += payload.len();
        self.mark_packed();
    }

    /// Takes all that waits, ready for the wire, and leaves the outbox empty.
    pub fn take(&mut self) -> VecDeque<Bytes> {
        self.close_packed();
        self.last = u32::try_from(self.tail.len().min(ROOM_MAX)).unwrap_or(0);
        self.seal_tail();
        self.len = 0;
        self.packed_len = 0;
        self.packed_behind = 0;
        // Keeps no capacity: an idle connection owns no buffer.
        self.tail = BytesMut::new();
        std::mem::take(&mut self.pieces)
    }

    fn frame_plain(&mut self, kind: FrameType, parts: &[&[u8]], length: usize) {
        self.begin(kind, length);
        for part in parts {
            self.tail.put_slice(part);
        }
        self.added(length);
    }

    fn frame_shared_plain(
        &mut self,
        kind: FrameType,
        head: &[&[u8]],
        body: &Bytes,
        end: &[u8],
        length: usize,
    ) {
        self.begin(kind, length);
        for part in head {
            self.tail.extend_from_slice(part);
        }
        self.put_body(body);
        if !end.is_empty() {
            self.tail.extend_from_slice(end);
        }
        self.added(length);
    }

    /// Compresses a frame as one; false if that is no gain.
    fn frame_compressed(
        &mut self,
        deflate: Deflate,
        kind: FrameType,
        parts: &[&[u8]],
        length: usize,
    ) -> bool {
        let Some(compressed) = deflate::compress(deflate.window_bits(), parts) else {
            return false;
        };
        let compressed = &compressed[..compressed.len() - deflate::TAIL.len()];
        if !deflate.is_gain(compressed.len(), length) {
            return false;
        }
        self.begin_compressed(kind, compressed.len());
        self.tail.put_slice(compressed);
        self.end_compressed(compressed.len());
        true
    }

    /// Puts a frame of a compressed body with its tail, between stored blocks; false if that is
    /// no gain over `length` bytes.
    fn frame_around(
        &mut self,
        deflate: Deflate,
        kind: FrameType,
        head: &[&[u8]],
        compressed: &Bytes,
        end: &[u8],
        length: usize,
    ) -> bool {
        if compressed.is_empty() {
            return false;
        }
        // Blocks end at bytes, so they can be put together. The last one is an empty block of
        // which the wire has only the first byte (RFC 7692 §7.2.1).
        let (body, last) = if end.is_empty() {
            let body = compressed.slice(..compressed.len() - deflate::TAIL.len());
            (body, &[][..])
        } else {
            (compressed.clone(), &[0][..])
        };
        let total = deflate::stored_bytes(length_of(head))
            + body.len()
            + deflate::stored_bytes(end.len())
            + last.len();
        if !deflate.is_gain(total, length) {
            return false;
        }
        self.begin_compressed(kind, total);
        deflate::put_stored(&mut self.tail, head);
        self.put_body(&body);
        deflate::put_stored(&mut self.tail, &[end]);
        self.tail.put_slice(last);
        self.end_compressed(total);
        true
    }

    /// Shares a body or, if it is small, copies it.
    fn put_body(&mut self, body: &Bytes) {
        if body.len() < SHARE_BYTES {
            self.tail.put_slice(body);
        } else {
            self.seal_tail();
            self.pieces.push_back(body.clone());
        }
    }

    fn begin(&mut self, kind: FrameType, length: usize) {
        let (room, used) = (self.tail.capacity(), self.tail.len());
        if room == 0 {
            let last = usize::try_from(self.last).unwrap_or(0);
            // An eighth more: batches differ a little from one time to the next.
            let copied = if length < SHARE_BYTES { length } else { 0 };
            self.tail.reserve(copied.max(last + last / 8));
        } else if used >= ROOM_MAX && length < SHARE_BYTES && room - used < length {
            self.seal_tail();
            self.tail = BytesMut::with_capacity(2 * ROOM_MAX);
        }
        if self.framing == Framing::Messages {
            self.header(Header::server(kind.opcode(), length));
        }
    }

    fn begin_compressed(&mut self, kind: FrameType, length: usize) {
        self.close_packed();
        let opcode = match self.framing {
            Framing::Messages => kind.opcode(),
            Framing::Stream | Framing::Packed => OpCode::Binary,
        };
        self.header(Header::server(opcode, length).compressed());
    }

    fn header(&mut self, header: Header) {
        let before = self.tail.len();
        header.write(&mut self.tail);
        self.len += self.tail.len() - before;
    }

    fn end_compressed(&mut self, length: usize) {
        self.len += length;
        self.frames = self.frames.wrapping_add(1);
        self.mark_packed();
    }

    fn added(&mut self, length: usize) {
        self.len += length;
        self.frames = self.frames.wrapping_add(1);
        if self.framing == Framing::Packed {
            self.packed_len += length;
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Gives the bytes that were packed since the last call their one frame header.
    fn close_packed(&mut self) {
        if self.framing != Framing::Packed || self.packed_len == 0 {
            return;
        }
        let mut header = BytesMut::with_capacity(10);
        Header::server(OpCode::Binary, self.packed_len).write(&mut header);
        self.len += header.len();
        let at = usize::try_from(self.packed_behind).unwrap_or(usize::MAX);
        self.pieces
            .insert(at.min(self.pieces.len()), header.freeze());
        self.mark_packed();
    }

    fn mark_packed(&mut self) {
        if self.framing == Framing::Packed {
            self.seal_tail();
            self.packed_behind = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
            self.packed_len = 0;
        }
    }
}

impl FrameType {
    const fn opcode(self) -> OpCode {
        match self {
            Self::Text => OpCode::Text,
            Self::Binary => OpCode::Binary,
        }
    }
}

fn length_of(parts: &[&[u8]]) -> usize {
    parts.iter().map(|part| part.len()).sum()
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
    fn many_small_frames_become_pieces_that_never_move() {
        for usage in [
            None,
            Some(WebSocketUse::BinaryStream),
            Some(WebSocketUse::TextMessages),
        ] {
            let mut outbox = usage.map_or_else(Outbox::new, Outbox::web_socket);
            let mut expected = Vec::new();
            for n in 0..2_000_u16 {
                let frame = n.to_be_bytes().repeat(30);
                if usage == Some(WebSocketUse::TextMessages) {
                    expected.extend([0x82, 60]);
                }
                expected.extend(&frame);
                outbox.frame(FrameType::Binary, &[&frame]);
            }
            let pieces = outbox.take();
            assert!(pieces.len() > 2, "{usage:?}: {} pieces", pieces.len());
            assert!(pieces.iter().all(|piece| piece.len() <= 2 * ROOM_MAX));
            let mut wire: Vec<u8> = pieces.iter().flatten().copied().collect();
            if usage == Some(WebSocketUse::BinaryStream) {
                wire.drain(..10);
            }
            assert!(wire == expected, "{usage:?}");
        }
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

    fn deflating(usage: WebSocketUse) -> Outbox {
        let deflate = Deflate::negotiate([&b"permessage-deflate"[..]]).unwrap();
        Outbox::web_socket_deflate(usage, deflate)
    }

    /// First bytes and payloads of unmasked frames, inflated where RSV1 says so.
    fn frames(mut wire: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        while let [first, short, rest @ ..] = wire {
            let (length, rest) = match short {
                126 => (
                    usize::from(u16::from_be_bytes([rest[0], rest[1]])),
                    &rest[2..],
                ),
                short => (usize::from(*short), rest),
            };
            let (payload, rest) = rest.split_at(length);
            let payload = if first & 0x40 == 0 {
                payload.to_vec()
            } else {
                deflate::inflate(payload, 1 << 20).unwrap()
            };
            frames.push((*first, payload));
            wire = rest;
        }
        frames
    }

    fn message(payload: &Bytes) -> Message {
        let topic = crate::model::Topic::parse("a".into(), 64, 8).unwrap();
        Message::new(topic, payload.clone(), crate::model::QoS::AtMostOnce, false)
    }

    #[test]
    fn frames_that_gain_are_compressed() {
        let mut outbox = deflating(WebSocketUse::TextMessages);
        let long = "hello ".repeat(100);
        let noise: Vec<u8> = (0..200_u64)
            .map(|n| ((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        outbox.frame(FrameType::Text, &[b"[", long.as_bytes(), b"]"]);
        outbox.frame(
            FrameType::Text,
            &[&long.as_bytes()[..DEFLATE_BYTES_MIN - 1]],
        );
        outbox.frame(FrameType::Binary, &[&noise]);
        assert_eq!(outbox.frames(), 3);
        let expected = outbox.len();
        let wire = bytes(&mut outbox);
        assert_eq!(wire.len(), expected);
        let frames = frames(&wire);
        assert_eq!(frames[0], (0xc1, format!("[{long}]").into_bytes()));
        assert_eq!(frames[1].0, 0x81, "too short to gain");
        assert_eq!(frames[2], (0x82, noise), "no gain");
    }

    #[test]
    fn small_frames_share_a_message_beside_compressed_ones() {
        let mut outbox = deflating(WebSocketUse::BinaryStream);
        let long = vec![7; 1000];
        outbox.frame(FrameType::Binary, &[b"a"]);
        outbox.frame(FrameType::Binary, &[b"b"]);
        outbox.frame(FrameType::Binary, &[&long]);
        outbox.frame(FrameType::Binary, &[b"c"]);
        let expected = outbox.len() + 2;
        let wire = bytes(&mut outbox);
        assert_eq!(wire.len(), expected);
        assert_eq!(
            frames(&wire),
            [(0x82, b"ab".to_vec()), (0xc2, long), (0x82, b"c".to_vec())]
        );
    }

    #[test]
    fn receivers_share_one_compression() {
        for length in [0, 10, DEFLATE_BYTES_MIN, 3000, 50_000] {
            let payload: Bytes = b"0123456789".iter().copied().cycle().take(length).collect();
            let message = message(&payload);
            for (head, end) in [
                (&b"{\"s\":1,"[..], &b"}"[..]),
                (b"{\"s\":2,", b""),
                (b"", b"}"),
            ] {
                for mut outbox in [
                    deflating(WebSocketUse::TextMessages),
                    deflating(WebSocketUse::BinaryStream),
                    Outbox::web_socket(WebSocketUse::TextMessages),
                ] {
                    outbox.frame_of(&message, FrameType::Text, &[head, b" "], &payload, end);
                    assert_eq!(outbox.frames(), 1);
                    let open = outbox.packed_len;
                    let expected = outbox.len();
                    let wire = bytes(&mut outbox);
                    assert!(wire.len() == expected || open > 0);
                    if outbox.deflate.is_some() && length >= 3000 {
                        assert!(wire.len() < length / 4, "{length} became {}", wire.len());
                    }
                    let plain = [head, b" ", &payload, end].concat();
                    assert_eq!(frames(&wire)[0].1, plain);
                }
            }
            if length >= DEFLATE_BYTES_MIN {
                let shared = message.deflated(&payload, 15, |_| panic!("compressed twice"));
                assert!(!shared.is_empty());
            }
        }
    }
}
