//! All connections on one poll. [`Swarm::turn`] waits once and carries out what has become
//! possible; a [`Handler`] hears of it.

use super::client::{Client, Phase, Plan, Shared};
use super::clock;
use crate::wire::Message;
use crate::wire::url::Url;
use crate::wire::websocket::Inflater;
use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Bytes of the read buffer that all connections share; it grows for larger frames.
const READ_BUFFER: usize = 256 << 10;

/// Connections from one loopback address before the next one is used: a pair of addresses has
/// fewer than 30,000 ports.
const CONNECTIONS_PER_SOURCE: usize = 20_000;

/// Token of what is not a connection: the timer of a paced load.
pub(super) const TIMER: Token = Token(usize::MAX - 1);

/// Hears what happens on the connections, which are numbered in the order of their beginning.
pub trait Handler {
    /// A message was delivered to this connection and acknowledged by it.
    fn message(&mut self, client: usize, message: &Message<'_>, now: u64);
    /// The broker took responsibility for what this connection published with this identifier.
    fn acked(&mut self, client: usize, id: u16, now: u64);
}

/// A handler for phases in which nothing is expected.
#[derive(Debug)]
pub struct Deaf;

impl Handler for Deaf {
    fn message(&mut self, _: usize, _: &Message<'_>, _: u64) {}
    fn acked(&mut self, _: usize, _: u16, _: u64) {}
}

/// The connections.
#[derive(Debug)]
pub struct Swarm {
    pub(super) poll: Poll,
    events: Events,
    clients: Vec<Option<Box<Client>>>,
    buffer: Vec<u8>,
    inflater: Inflater,
    ready: usize,
    failures: Vec<(usize, String)>,
}

impl Swarm {
    /// No connections yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            poll: Poll::new().context("epoll")?,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            buffer: vec![0; READ_BUFFER],
            inflater: Inflater::default(),
            ready: 0,
            failures: Vec::new(),
        })
    }

    /// Connections begun so far: the number of the next one.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether none was begun.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Connections that have come to [`Phase::Ready`].
    pub fn ready(&self) -> usize {
        self.ready
    }

    /// Connections that ended against the plan, and why.
    pub fn failures(&self) -> &[(usize, String)] {
        &self.failures
    }

    /// A connection that stands.
    pub fn client(&mut self, index: usize) -> Option<&mut Client> {
        self.clients.get_mut(index)?.as_deref_mut()
    }

    /// Begins a connection; returns its number.
    pub fn begin(&mut self, url: &Url, address: SocketAddr, plan: Plan) -> Result<usize> {
        let index = self.clients.len();
        let mut stream = connect(address, index).context("connecting")?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        registry.register(&mut stream, Token(index), interest)?;
        let client = Client::new(stream, url.wire, plan, &url.authority, &url.path);
        self.clients.push(Some(Box::new(client)));
        Ok(index)
    }

    /// Waits for at most `timeout` and carries out what has become possible; returns whether the
    /// timer went off.
    pub fn turn(&mut self, timeout: Duration, handler: &mut impl Handler) -> Result<bool> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let polled = self.poll.poll(&mut events, Some(timeout));
        let mut timer = false;
        for event in &events {
            if event.token() == TIMER {
                timer = true;
                continue;
            }
            let index = event.token().0;
            let (readable, writable) = (event.is_readable(), event.is_writable());
            self.happen(index, readable, writable, handler);
        }
        self.events = events;
        match polled {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                Err(error).context("epoll")
            }
            _ => Ok(timer),
        }
    }

    #[inline]
    fn happen(&mut self, index: usize, readable: bool, writable: bool, handler: &mut impl Handler) {
        let Some(Some(client)) = self.clients.get_mut(index) else {
            return;
        };
        let before = client.phase;
        let mut result = Ok(());
        if writable {
            result = client.writable();
        }
        if result.is_ok() && readable && !client.paused && client.phase != Phase::Connecting {
            let mut shared = Shared {
                buffer: &mut self.buffer,
                inflater: &mut self.inflater,
                handler,
                index,
            };
            result = client.readable(&mut shared);
        }
        match result {
            Ok(()) if client.phase == Phase::Ready && before != Phase::Ready => self.ready += 1,
            Ok(()) => {}
            Err(why) => self.fail(index, before, why),
        }
    }

    fn fail(&mut self, index: usize, before: Phase, why: String) {
        if before == Phase::Ready {
            self.ready -= 1;
        }
        self.failures.push((index, why));
        self.clients[index] = None;
    }

    /// Sends what was appended to this connection.
    pub fn flush(&mut self, index: usize) {
        if let Some(Some(client)) = self.clients.get_mut(index)
            && let Err(why) = client.flush()
        {
            let before = client.phase;
            self.fail(index, before, why);
        }
    }

    /// Leaves what comes in on this connection in its socket, or reads it again.
    pub fn pause(&mut self, index: usize, paused: bool, handler: &mut impl Handler) {
        if let Some(Some(client)) = self.clients.get_mut(index) {
            client.paused = paused;
        }
        if !paused {
            self.happen(index, true, false, handler);
        }
    }

    /// Ends a connection, with a good-bye of its protocol or by closing the socket only.
    pub fn end(&mut self, index: usize, good_bye: bool) {
        let Some(Some(client)) = self.clients.get_mut(index) else {
            return;
        };
        if good_bye {
            let mut frame = Vec::new();
            client.wire.protocol.disconnect(&mut frame);
            if !frame.is_empty() {
                client.push(&frame);
                self.flush(index);
            }
        }
        if let Some(Some(client)) = self.clients.get(index) {
            self.ready -= usize::from(client.phase == Phase::Ready);
            self.clients[index] = None;
        }
    }

    /// Begins as many connections as `plans` has, with at most `at_once` of them under way, and
    /// waits until all stand. Returns the numbers of the first and of the one behind the last, and
    /// an error if one of them fails or nothing has moved for `patience`.
    pub fn open(
        &mut self,
        url: &Url,
        plans: impl ExactSizeIterator<Item = Plan>,
        at_once: usize,
        patience: Duration,
        handler: &mut impl Handler,
    ) -> Result<std::ops::Range<usize>> {
        let address = url.address()?;
        let first = self.len();
        let (total, failed) = (plans.len(), self.failures.len());
        let ready_before = self.ready;
        let mut plans = plans;
        let mut moved = (0, clock::now());
        loop {
            let ready = self.ready - ready_before;
            while self.len() - first < total && self.len() - first - ready < at_once {
                let Some(plan) = plans.next() else { break };
                self.begin(url, address, plan)?;
            }
            if ready == total {
                return Ok(first..first + total);
            }
            if let Some((_, why)) = self.failures.get(failed) {
                anyhow::bail!("{ready} of {total} connections stood, then: {why}");
            }
            if moved.0 != ready {
                moved = (ready, clock::now());
            } else if clock::now() - moved.1 > clock::nanos(patience) {
                anyhow::bail!("{ready} of {total} connections stood, then nothing moved");
            }
            self.turn(Duration::from_millis(100), handler)?;
        }
    }
}

/// A socket that has begun to connect. On the loopback interface the source address changes with
/// the number of the connection, so that ports do not run out.
fn connect(address: SocketAddr, index: usize) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let source = index / CONNECTIONS_PER_SOURCE;
    if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) && source > 0 {
        let ip = Ipv4Addr::new(127, 0, 0, (source % 250 + 1) as u8);
        socket.bind(&SocketAddr::from((ip, 0)).into())?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}
