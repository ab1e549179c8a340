//! A client's bytes into messages and control frames (RFC 6455 §5 to §8).
//!
//! ```text
//!            ┌────────── frame ends ──────────┐
//!            ▼                                │
//!   ──▶  Header ──── header complete ────▶ Payload
//!            │                                │
//!            └── close frame, or any fault ───┴──▶ closed (everything is ignored)
//! ```
//!
//! A fragmented message stays open over many frames, with control frames between them. Between
//! messages the decoder owns no memory beside itself; inside one it holds what has arrived of it,
//! and only if the message is wanted whole or is compressed.

#![allow(clippy::mut_mut)] // the input is moved forward under the eyes of the caller

use super::close;
use super::deflate::inflate;
use super::frame::{ClientHeader, HEADER_BYTES_MAX, OpCode, Rules, unmask};
use super::utf8::Utf8;
use crate::connection::{Cause, CloseReason, WebSocketUse};
use crate::limits::Limits;
use crate::model::Timestamp;
use crate::outbox::FrameType;

/// How a decoder behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether a message is given whole; otherwise its payload is given as it arrives.
    pub whole: bool,
    /// Which messages are taken; others are [`Cause::WrongType`].
    pub accepts: Accepts,
    /// Whether permessage-deflate was agreed on.
    pub deflate: bool,
    /// Bytes of one message, after inflating.
    pub message_bytes: usize,
    /// Frames of one message.
    pub fragments: usize,
    /// Control frames in a second.
    pub controls_per_sec: u32,
}

/// Types of messages that are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// Text only.
    Text,
    /// Binary only.
    Binary,
    /// Both.
    Both,
}

impl Config {
    /// For a protocol that uses WebSocket so. The bound on messages is the one before the login,
    /// until [`Decoder::set_message_bytes`].
    pub fn new(usage: WebSocketUse, limits: &Limits, deflate: bool) -> Self {
        let (whole, accepts) = match usage {
            WebSocketUse::BinaryStream => (false, Accepts::Binary),
            WebSocketUse::FramedStream => (false, Accepts::Both),
            WebSocketUse::TextMessages => (true, Accepts::Text),
        };
        Self {
            whole,
            accepts,
            deflate,
            message_bytes: limits.packet_bytes_before_login,
            fragments: limits.websocket_fragments,
            controls_per_sec: limits.websocket_controls_per_sec,
        }
    }
}

/// What came from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message, or the next piece of one. Text is UTF-8, though a piece may end inside a
    /// character.
    Data {
        /// The type of the message.
        kind: FrameType,
        /// Its payload, or what has arrived of it.
        bytes: &'a [u8],
        /// Whether the message ends here; always so for whole messages.
        last: bool,
    },
    /// Wants a pong with the same payload, by [`crate::Outbox::control`].
    Ping(&'a [u8]),
    /// Answers a ping, or came unasked.
    Pong(&'a [u8]),
    /// The client closes: to be answered by [`close::answer`] if no close frame was sent before.
    /// Nothing follows.
    Close {
        /// Its code, if it gave one.
        code: Option<u16>,
        /// Its reason; may be empty.
        reason: &'a str,
    },
}

/// Decodes the frames of one client.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    /// The beginning of a header that is not complete.
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The data message that is open, if its first frame has begun.
    message: Option<Open>,
    /// What is kept of it.
    gathered: Vec<u8>,
    /// What has arrived of a control frame, if not all at once.
    control: Vec<u8>,
    /// The buffer that the last event was lent from.
    lent: Option<Buffer>,
    controls: Controls,
    is_closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: OpCode,
    fin: bool,
    left: u64,
    mask: [u8; 4],
}

#[derive(Clone, Copy, Debug)]
struct Open {
    kind: FrameType,
    compressed: bool,
    /// Payload bytes of its frames so far, counted when a frame begins.
    wire_bytes: u64,
    fragments: usize,
    utf8: Utf8,
}

/// Control frames of the current second.
#[derive(Clone, Copy, Debug, Default)]
struct Controls {
    since: Timestamp,
    count: u32,
}

#[derive(Clone, Copy, Debug)]
enum Buffer {
    Gathered,
    Control,
}

/// Something is complete; its bytes are in the input or in a buffer.
enum Ready<'b> {
    Data {
        kind: FrameType,
        bytes: Option<&'b [u8]>,
        last: bool,
    },
    Control {
        opcode: OpCode,
        bytes: Option<&'b [u8]>,
    },
}

impl Decoder {
    /// For a connection that begins.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            message: None,
            gathered: Vec::new(),
            control: Vec::new(),
            lent: None,
            controls: Controls::default(),
            is_closed: false,
        }
    }

    /// Changes the bound on messages, after the login. Holds from the next frame on.
    pub fn set_message_bytes(&mut self, message_bytes: usize) {
        self.config.message_bytes = message_bytes;
    }

    /// Whether a close frame has come or a fault was found: all further input is ignored.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes input up to the next event and returns that, or `None` once all of it is used up. To
    /// be called until then: only that call gives back the memory of the last event.
    ///
    /// The input is unmasked in place and moved forward. After an error the connection is to be
    /// closed with it ([`close::write`]).
    pub fn decode<'e, 'b: 'e>(
        &'e mut self,
        input: &mut &'b mut [u8],
        now: Timestamp,
    ) -> Result<Option<Event<'e>>, CloseReason> {
        match self.lent.take() {
            Some(Buffer::Gathered) => self.gathered = Vec::new(),
            Some(Buffer::Control) => self.control = Vec::new(),
            None => {}
        }
        let ready = match self.advance(input, now) {
            Ok(None) => return Ok(None),
            Ok(Some(ready)) => ready,
            Err(fault) => {
                self.end();
                return Err(fault);
            }
        };
        let event = match ready {
            Ready::Data { kind, bytes, last } => {
                let bytes = bytes.unwrap_or_else(|| {
                    self.lent = Some(Buffer::Gathered);
                    &self.gathered
                });
                Event::Data { kind, bytes, last }
            }
            Ready::Control { opcode, bytes } => {
                if opcode == OpCode::Close {
                    self.is_closed = true;
                }
                let bytes = bytes.unwrap_or_else(|| {
                    self.lent = Some(Buffer::Control);
                    &self.control
                });
                match opcode {
                    OpCode::Ping => Event::Ping(bytes),
                    OpCode::Pong => Event::Pong(bytes),
                    _ => {
                        let (code, reason) = close::parse(bytes)?;
                        Event::Close { code, reason }
                    }
                }
            }
        };
        Ok(Some(event))
    }

    /// Takes input until something is complete.
    fn advance<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        now: Timestamp,
    ) -> Result<Option<Ready<'b>>, CloseReason> {
        loop {
            if self.is_closed {
                self.end();
                *input = &mut [];
                return Ok(None);
            }
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.take_header(input)? {
                    Some(header) => {
                        if let Some(kind) = self.is_alone(&header, input) {
                            return self.take_alone(kind, &header, input).map(Some);
                        }
                        self.begin_frame(&header, now)?
                    }
                    None => return Ok(None),
                },
            };
            let (frame, piece) = take_payload(frame, input);
            self.frame = (frame.left > 0).then_some(frame);
            if frame.left > 0 && piece.is_empty() {
                return Ok(None);
            }
            let ready = if frame.opcode.is_control() {
                self.take_control(frame, piece)
            } else {
                self.take_data(frame, piece)?
            };
            if ready.is_some() {
                return Ok(ready);
            }
        }
    }

    /// Reads the next header, or keeps the beginning of it.
    fn take_header(&mut self, input: &mut &mut [u8]) -> Result<Option<ClientHeader>, CloseReason> {
        let rules = self.rules();
        if self.header_len == 0
            && let Some(header) = ClientHeader::parse(input, rules)?
        {
            advance(input, header.size);
            return Ok(Some(header));
        }
        while let Some(&byte) = input.first() {
            advance(input, 1);
            self.header[self.header_len] = byte;
            self.header_len += 1;
            if let Some(header) = ClientHeader::parse(&self.header[..self.header_len], rules)? {
                self.header_len = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// What the next header may say.
    fn rules(&self) -> Rules {
        let room = self.config.message_bytes as u64;
        // Compression can make a message longer by a little.
        let room_compressed = room.saturating_add(room / 16 + 64);
        let (room, room_compressed) = match self.message {
            None => (room, room_compressed),
            Some(open) => {
                let room = if open.compressed {
                    room_compressed
                } else {
                    room
                };
                let left = room.saturating_sub(open.wire_bytes);
                (left, left)
            }
        };
        Rules {
            deflate: self.config.deflate,
            in_message: self.message.is_some(),
            room,
            room_compressed,
        }
    }

    /// The type of a message that is all here in one frame, as most are. Nothing has to be
    /// remembered of it.
    fn is_alone(&self, header: &ClientHeader, input: &[u8]) -> Option<FrameType> {
        let is_here = usize::try_from(header.length).is_ok_and(|length| length <= input.len());
        let is_whole = self.message.is_none() && header.fin && !header.compressed && is_here;
        match header.opcode {
            OpCode::Text if is_whole => Some(FrameType::Text),
            OpCode::Binary if is_whole => Some(FrameType::Binary),
            _ => None,
        }
    }

    fn take_alone<'b>(
        &self,
        kind: FrameType,
        header: &ClientHeader,
        input: &mut &'b mut [u8],
    ) -> Result<Ready<'b>, CloseReason> {
        self.config.accepts.check(kind)?;
        let frame = Frame {
            opcode: header.opcode,
            fin: true,
            left: header.length,
            mask: header.mask,
        };
        let (_, bytes) = take_payload(frame, input);
        if kind == FrameType::Text && simdutf8::basic::from_utf8(bytes).is_err() {
            return Err(not_utf8());
        }
        Ok(Ready::Data {
            kind,
            bytes: Some(bytes),
            last: true,
        })
    }

    /// Checks what a header means here and opens its message.
    fn begin_frame(&mut self, header: &ClientHeader, now: Timestamp) -> Result<Frame, CloseReason> {
        let frame = Frame {
            opcode: header.opcode,
            fin: header.fin,
            left: header.length,
            mask: header.mask,
        };
        let kind = match header.opcode {
            OpCode::Close => return Ok(frame),
            OpCode::Ping | OpCode::Pong => {
                self.controls.count(now, self.config.controls_per_sec)?;
                return Ok(frame);
            }
            OpCode::Text => Some(FrameType::Text),
            OpCode::Binary => Some(FrameType::Binary),
            OpCode::Continuation => None,
        };
        if let Some(kind) = kind {
            self.config.accepts.check(kind)?;
            self.message = Some(Open {
                kind,
                compressed: header.compressed,
                wire_bytes: 0,
                fragments: 0,
                utf8: Utf8::default(),
            });
        }
        if let Some(open) = &mut self.message {
            open.wire_bytes = open.wire_bytes.saturating_add(header.length);
            open.fragments += 1;
            if open.fragments > self.config.fragments {
                return Err(CloseReason::new(
                    Cause::TooLarge,
                    "the message has too many fragments",
                ));
            }
        }
        Ok(frame)
    }

    fn take_control<'b>(&mut self, frame: Frame, piece: &'b [u8]) -> Option<Ready<'b>> {
        let opcode = frame.opcode;
        if frame.left == 0 && self.control.is_empty() {
            let bytes = Some(piece);
            return Some(Ready::Control { opcode, bytes });
        }
        self.control.extend_from_slice(piece);
        (frame.left == 0).then_some(Ready::Control {
            opcode,
            bytes: None,
        })
    }

    fn take_data<'b>(
        &mut self,
        frame: Frame,
        piece: &'b [u8],
    ) -> Result<Option<Ready<'b>>, CloseReason> {
        let last = frame.fin && frame.left == 0;
        let Some(mut open) = self.message.take() else {
            return Ok(None);
        };
        let ready = if open.compressed {
            self.take_compressed(&open, piece, last)?
        } else {
            self.take_plain(&mut open, piece, last)?
        };
        if !last {
            self.message = Some(open);
        }
        Ok(ready)
    }

    fn take_plain<'b>(
        &mut self,
        open: &mut Open,
        piece: &'b [u8],
        last: bool,
    ) -> Result<Option<Ready<'b>>, CloseReason> {
        if open.kind == FrameType::Text
            && !(open.utf8.accept(piece) && (!last || open.utf8.is_complete()))
        {
            return Err(not_utf8());
        }
        let kind = open.kind;
        if !self.config.whole || (last && self.gathered.is_empty()) {
            let bytes = Some(piece);
            let ready = last || !piece.is_empty();
            return Ok(ready.then_some(Ready::Data { kind, bytes, last }));
        }
        self.gathered.extend_from_slice(piece);
        let bytes = None;
        Ok(last.then_some(Ready::Data { kind, bytes, last }))
    }

    /// A compressed message is inflated when it is whole: what waits is what the client sent, not
    /// what it becomes, and the state of zlib belongs to no connection.
    fn take_compressed<'b>(
        &mut self,
        open: &Open,
        piece: &'b [u8],
        last: bool,
    ) -> Result<Option<Ready<'b>>, CloseReason> {
        if !last {
            self.gathered.extend_from_slice(piece);
            return Ok(None);
        }
        let max = self.config.message_bytes;
        self.gathered = if self.gathered.is_empty() {
            inflate(piece, max)?
        } else {
            self.gathered.extend_from_slice(piece);
            inflate(&self.gathered, max)?
        };
        if open.kind == FrameType::Text && simdutf8::basic::from_utf8(&self.gathered).is_err() {
            return Err(not_utf8());
        }
        Ok(Some(Ready::Data {
            kind: open.kind,
            bytes: None,
            last,
        }))
    }

    /// Forgets everything: nothing more is taken.
    fn end(&mut self) {
        self.is_closed = true;
        self.frame = None;
        self.message = None;
        self.gathered = Vec::new();
        self.control = Vec::new();
    }
}

impl Accepts {
    fn check(self, kind: FrameType) -> Result<(), CloseReason> {
        let detail = match (self, kind) {
            (Self::Text, FrameType::Binary) => "binary messages are not taken here, only text",
            (Self::Binary, FrameType::Text) => "text messages are not taken here, only binary",
            _ => return Ok(()),
        };
        Err(CloseReason::new(Cause::WrongType, detail))
    }
}

impl Controls {
    fn count(&mut self, now: Timestamp, max: u32) -> Result<(), CloseReason> {
        if now.since(self.since).as_secs() > 0 {
            *self = Self {
                since: now,
                count: 0,
            };
        }
        self.count += 1;
        if self.count > max {
            return Err(CloseReason::new(Cause::Rate, "too many pings and pongs"));
        }
        Ok(())
    }
}

/// Takes what is there of a frame's payload, unmasked.
fn take_payload<'b>(mut frame: Frame, input: &mut &'b mut [u8]) -> (Frame, &'b [u8]) {
    let left = usize::try_from(frame.left).unwrap_or(usize::MAX);
    let here = left.min(input.len());
    let (piece, rest) = std::mem::take(input).split_at_mut(here);
    *input = rest;
    unmask(piece, &mut frame.mask);
    frame.left -= piece.len() as u64;
    (frame, piece)
}

fn advance(input: &mut &mut [u8], bytes: usize) {
    *input = &mut std::mem::take(input)[bytes..];
}

fn not_utf8() -> CloseReason {
    CloseReason::new(Cause::NotUtf8, "a text message that is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection pays.
    #[test]
    fn holds_nothing_between_messages() {
        let limits = Limits::default();
        let config = Config::new(WebSocketUse::TextMessages, &limits, true);
        let mut decoder = Decoder::new(config);
        let frames = [
            &[0x01, 0x82, 0, 0, 0, 0, b'a', b'b'][..],
            &[0x89, 0x81, 0, 0, 0, 0],
            b"p",
            &[0x80, 0x81, 0, 0, 0, 0, b'c'],
            &[0xc1, 0x81, 0, 0, 0, 0, 0],
        ];
        let mut events = 0;
        for bytes in frames {
            let mut bytes = bytes.to_vec();
            let mut input = &mut bytes[..];
            while decoder.decode(&mut input, Timestamp(0)).unwrap().is_some() {
                events += 1;
            }
        }
        assert_eq!(events, 3);
        assert_eq!(decoder.gathered.capacity() + decoder.control.capacity(), 0);
        assert!(size_of::<Decoder>() <= 256, "{}", size_of::<Decoder>());
    }
}
