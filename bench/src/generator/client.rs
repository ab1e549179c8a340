//! One connection of the generator: from connecting over login and subscribing to the exchange of
//! messages. It owns no buffer while nothing is half read or unsent, so that many idle ones cost
//! the generator little.
//!
//! ```text
//! Connecting -> Upgrading (WebSocket) -> LoggingIn -> Subscribing -> Ready
//! ```

use super::swarm::Handler;
use super::tls::Tls;
use crate::wire::websocket::{self, Inflater};
use crate::wire::{Answer, Incoming, Login, Message, Protocol, Transport, Wire, json, mqtt, stomp};
use mio::net::TcpStream;
use std::io::{self, ErrorKind, Read, Write};

/// What a connection is for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The client's name, which names its session.
    pub client_id: String,
    /// Whether the session ends with the connection.
    pub clean: bool,
    /// What it subscribes to, in MQTT spelling.
    pub filters: Vec<String>,
    /// The quality of service that it subscribes with.
    pub qos: u8,
    /// Whether it offers permessage-deflate.
    pub deflate: bool,
    /// Whether the plan ends when the connection is accepted: no login.
    pub silent: bool,
}

impl Plan {
    /// A client that only publishes, or that subscribes at QoS 0 later on.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            clean: true,
            filters: Vec::new(),
            qos: 0,
            deflate: false,
            silent: false,
        }
    }

    /// The same client with a subscription.
    #[must_use]
    pub fn subscribed(mut self, filter: impl Into<String>, qos: u8) -> Self {
        self.filters.push(filter.into());
        self.qos = qos;
        self
    }

    /// The same client with a session that outlives its connection.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.clean = false;
        self
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The TCP connection is not there yet.
    Connecting,
    /// The WebSocket handshake is not answered yet.
    Upgrading,
    /// CONNECT is not answered yet.
    LoggingIn,
    /// So many SUBSCRIBEs are not answered yet.
    Subscribing(usize),
    /// Everything is set up.
    Ready,
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    pub(super) stream: TcpStream,
    tls: Option<Box<Tls>>,
    pub(super) phase: Phase,
    /// What is spoken.
    pub wire: Wire,
    plan: Option<Box<Setup>>,
    /// Bytes of an incomplete frame of the transport.
    carry: Vec<u8>,
    /// Bytes of an incomplete packet within WebSocket frames.
    inner: Vec<u8>,
    /// Whether `inner` holds the beginning of a compressed message.
    compressed: bool,
    /// Bytes that wait for the socket, from `sent` on.
    pub(super) out: Vec<u8>,
    sent: usize,
    /// Whether what comes in is left in the socket.
    pub(super) paused: bool,
    resumed: bool,
}

#[derive(Debug)]
struct Setup {
    plan: Plan,
    host: String,
    path: String,
}

/// Why a connection ended.
pub(super) type Ended = String;

/// What a connection shares with all others while it reads.
pub(super) struct Shared<'a, H> {
    pub(super) buffer: &'a mut Vec<u8>,
    pub(super) inflater: &'a mut Inflater,
    pub(super) handler: &'a mut H,
    pub(super) index: usize,
}

impl Client {
    pub(super) fn new(stream: TcpStream, wire: Wire, plan: Plan, host: &str, path: &str) -> Self {
        Self {
            stream,
            tls: wire.tls.then(Box::default),
            phase: Phase::Connecting,
            wire,
            plan: Some(Box::new(Setup {
                plan,
                host: host.to_owned(),
                path: path.to_owned(),
            })),
            carry: Vec::new(),
            inner: Vec::new(),
            compressed: false,
            out: Vec::new(),
            sent: 0,
            paused: false,
            resumed: false,
        }
    }

    /// Bytes that the socket has not taken yet.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the broker had kept its session.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Where frames that are already wrapped for the transport are appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Appends a frame of the protocol, wrapped for the transport.
    pub fn push(&mut self, frame: &[u8]) {
        match self.wire.transport {
            Transport::Tcp => self.out.extend_from_slice(frame),
            Transport::WebSocket => websocket::data(&mut self.out, self.wire.protocol, frame),
        }
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) -> Result<(), Ended> {
        while self.sent < self.out.len() {
            let rest = &self.out[self.sent..];
            let written = match &mut self.tls {
                None => self.stream.write(rest),
                Some(tls) => tls.write(rest, &mut self.stream),
            };
            match written {
                Ok(0) => return Err("the broker closed the connection".into()),
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        if let Some(tls) = &mut self.tls {
            tls.flush(&mut self.stream).map_err(|e| e.to_string())?;
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent > self.out.len() / 2 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// The socket can be written to: the connection may have just come about.
    pub(super) fn writable(&mut self) -> Result<(), Ended> {
        if self.phase == Phase::Connecting {
            match self.stream.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Err(error.to_string()),
            }
            match self.stream.peer_addr() {
                Ok(_) => self.connected(),
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
        self.flush()
    }

    fn connected(&mut self) {
        let Some(setup) = &self.plan else { return };
        if setup.plan.silent {
            self.phase = Phase::Ready;
            return;
        }
        match self.wire.transport {
            Transport::Tcp => self.log_in(),
            Transport::WebSocket => {
                let (host, path) = (&setup.host, &setup.path);
                let deflate = setup.plan.deflate;
                websocket::handshake(&mut self.out, self.wire.protocol, host, path, deflate);
                self.phase = Phase::Upgrading;
            }
        }
    }

    fn log_in(&mut self) {
        let Some(setup) = &self.plan else { return };
        let mut frame = Vec::new();
        let login = Login {
            client_id: &setup.plan.client_id,
            clean: setup.plan.clean,
        };
        self.wire.protocol.connect(&mut frame, &login);
        self.phase = Phase::LoggingIn;
        self.push(&frame);
    }

    fn subscribe(&mut self) {
        let Some(setup) = self.plan.take() else {
            return;
        };
        let login = Login {
            client_id: &setup.plan.client_id,
            clean: setup.plan.clean,
        };
        let mut frames = Vec::new();
        let protocol = self.wire.protocol;
        let plan = &setup.plan;
        let answers = protocol.subscribe(&mut frames, &login, &plan.filters, plan.qos);
        self.phase = match answers {
            0 => Phase::Ready,
            _ => Phase::Subscribing(answers),
        };
        for frame in frames {
            self.push(&frame);
        }
    }

    /// Reads all that the socket has.
    pub(super) fn readable<H: Handler>(&mut self, shared: &mut Shared<'_, H>) -> Result<(), Ended> {
        let mut filled = self.carry.len();
        if filled > 0 {
            if shared.buffer.len() < filled * 2 {
                shared.buffer.resize(filled * 2, 0);
            }
            shared.buffer[..filled].copy_from_slice(&self.carry);
            self.carry.clear();
        }
        loop {
            if filled == shared.buffer.len() {
                shared.buffer.resize(filled * 2, 0);
            }
            let room = shared.buffer.len() - filled;
            let room_for = &mut shared.buffer[filled..];
            let read = match &mut self.tls {
                None => self.stream.read(room_for),
                Some(tls) => tls.read(room_for, &mut self.stream),
            };
            let bytes = match read {
                Ok(0) => return Err("the broker closed the connection".into()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            };
            filled += bytes;
            let used = self.take(filled, shared)?;
            shared.buffer.copy_within(used..filled, 0);
            filled -= used;
            // A stream socket that gives less than was asked for is empty (epoll(7)).
            if bytes < room && self.tls.is_none() {
                break;
            }
        }
        self.carry.extend_from_slice(&shared.buffer[..filled]);
        self.flush()
    }

    /// Takes the complete frames out of the first `filled` bytes of the buffer; returns how many
    /// bytes they were.
    fn take<H: Handler>(
        &mut self,
        filled: usize,
        shared: &mut Shared<'_, H>,
    ) -> Result<usize, Ended> {
        // Taken out for the time of reading, so that the handler can be called.
        let buffer = std::mem::take(shared.buffer);
        let now = super::clock::now();
        let used = match self.wire.transport {
            Transport::Tcp => self.take_packets(&buffer[..filled], now, shared),
            Transport::WebSocket => self.take_frames(&buffer[..filled], now, shared),
        };
        *shared.buffer = buffer;
        used
    }

    #[inline]
    fn take_packets<H: Handler>(
        &mut self,
        bytes: &[u8],
        now: u64,
        shared: &mut Shared<'_, H>,
    ) -> Result<usize, Ended> {
        let mut used = 0;
        let protocol = self.wire.protocol;
        while let Some((incoming, length)) =
            protocol.read(&bytes[used..]).map_err(|e| e.to_string())?
        {
            self.act(incoming, now, shared)?;
            used += length;
        }
        Ok(used)
    }

    fn take_frames<H: Handler>(
        &mut self,
        bytes: &[u8],
        now: u64,
        shared: &mut Shared<'_, H>,
    ) -> Result<usize, Ended> {
        let mut used = 0;
        if self.phase == Phase::Upgrading {
            match websocket::answer(bytes) {
                websocket::Answer::Incomplete => return Ok(0),
                websocket::Answer::Refused(line) => return Err(line),
                websocket::Answer::Upgraded { bytes, deflate } => {
                    used = bytes;
                    let wanted = self.plan.as_ref().is_some_and(|setup| setup.plan.deflate);
                    if wanted && !deflate {
                        return Err("the broker does not compress (permessage-deflate)".into());
                    }
                    self.log_in();
                }
            }
        }
        while let Some(frame) = websocket::read(&bytes[used..]).map_err(|e| e.to_string())? {
            let payload = &bytes[used..][frame.payload.clone()];
            match frame.opcode {
                0..=2 => self.data_frame(&frame, payload, now, shared)?,
                8 => return Err("the broker closed the WebSocket".into()),
                9 => websocket::pong(&mut self.out, payload),
                _ => {}
            }
            used += frame.payload.end;
        }
        Ok(used)
    }

    fn data_frame<H: Handler>(
        &mut self,
        frame: &websocket::Frame,
        payload: &[u8],
        now: u64,
        shared: &mut Shared<'_, H>,
    ) -> Result<(), Ended> {
        let by_message =
            self.wire.protocol == Protocol::Json || frame.compressed || self.compressed;
        if by_message && (!frame.last || self.compressed || frame.opcode == 0) {
            self.inner.extend_from_slice(payload);
            self.compressed |= frame.compressed;
            if !frame.last {
                return Ok(());
            }
            let whole = std::mem::take(&mut self.inner);
            let compressed = std::mem::take(&mut self.compressed);
            return self.message_bytes(&whole, compressed, now, shared);
        }
        self.message_bytes(payload, frame.compressed, now, shared)
    }

    fn message_bytes<H: Handler>(
        &mut self,
        bytes: &[u8],
        compressed: bool,
        now: u64,
        shared: &mut Shared<'_, H>,
    ) -> Result<(), Ended> {
        if !compressed {
            return self.stream_bytes(bytes, now, shared);
        }
        let mut inflater = std::mem::take(shared.inflater);
        let result = match inflater.inflate(bytes) {
            Ok(plain) => self.stream_bytes(plain, now, shared),
            Err(error) => Err(error.to_string()),
        };
        *shared.inflater = inflater;
        result
    }

    /// Packets may begin in one WebSocket frame and end in another (MQTT-6.0.0-2).
    fn stream_bytes<H: Handler>(
        &mut self,
        bytes: &[u8],
        now: u64,
        shared: &mut Shared<'_, H>,
    ) -> Result<(), Ended> {
        if self.inner.is_empty() {
            let used = self.take_packets(bytes, now, shared)?;
            self.inner.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut whole = std::mem::take(&mut self.inner);
        whole.extend_from_slice(bytes);
        let used = self.take_packets(&whole, now, shared)?;
        whole.drain(..used);
        self.inner = whole;
        Ok(())
    }

    #[inline]
    fn act<H: Handler>(
        &mut self,
        incoming: Incoming<'_>,
        now: u64,
        shared: &mut Shared<'_, H>,
    ) -> Result<(), Ended> {
        match incoming {
            Incoming::Message(message) => {
                if message.qos > 0 {
                    self.answer(&message);
                }
                shared.handler.message(shared.index, &message, now);
            }
            Incoming::Acked(id) => shared.handler.acked(shared.index, id, now),
            Incoming::Received(id) => self.push_ack(0x62, id),
            Incoming::Released(id) => self.push_ack(0x70, id),
            Incoming::Connected { resumed } => {
                self.resumed = resumed;
                self.subscribe();
            }
            Incoming::Subscribed => {
                if let Phase::Subscribing(left) = self.phase {
                    self.phase = match left {
                        0 | 1 => Phase::Ready,
                        _ => Phase::Subscribing(left - 1),
                    };
                }
            }
            Incoming::Refused(why) => return Err(why),
            Incoming::Ping => self.push(json::PONG),
            Incoming::Other => {}
        }
        Ok(())
    }

    #[inline]
    fn answer(&mut self, message: &Message<'_>) {
        match message.answer {
            Answer::None => {}
            Answer::Packet(id) => self.push_ack(if message.qos == 1 { 0x40 } else { 0x50 }, id),
            Answer::Token(token) => {
                let mut frame = [0u8; 256];
                let mut cursor = io::Cursor::new(&mut frame[..]);
                let written = match self.wire.protocol {
                    Protocol::Json => json::acknowledge(&mut cursor, token),
                    _ => stomp::acknowledge(&mut cursor, token),
                };
                if written.is_ok() {
                    let length = cursor.position() as usize;
                    self.push(&frame[..length]);
                }
            }
        }
    }

    #[inline]
    fn push_ack(&mut self, first: u8, id: u16) {
        self.push(&mqtt::acknowledge(first, id));
    }
}
