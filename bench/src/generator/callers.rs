//! Connections that publish by HTTP, all on one poll: each sends its request, waits for the answer
//! and sends it again. Nothing is pipelined.

use super::clock;
use crate::measure::latency::Latency;
use crate::wire::http::{self, Request};
use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

/// Silence after which it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that are read at a time.
const READ: usize = 64 << 10;

/// The connections.
#[derive(Debug)]
pub struct Callers {
    poll: Poll,
    connections: Vec<Caller>,
    request: Request,
    /// From the beginning of a request to the end of its answer.
    pub latency: Latency,
    /// Requests that were answered.
    pub answered: u64,
}

#[derive(Debug)]
struct Caller {
    stream: TcpStream,
    /// Bytes of the request that are written.
    written: usize,
    since: u64,
    input: Vec<u8>,
}

impl Callers {
    /// Connects so many of them. They send the same.
    pub fn open(request: Request, count: usize) -> Result<Self> {
        let poll = Poll::new().context("epoll")?;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            connections.push(Caller {
                stream: connect(&poll, request.address, index)?,
                written: 0,
                since: clock::now(),
                input: Vec::new(),
            });
        }
        Ok(Self {
            poll,
            connections,
            request,
            latency: Latency::default(),
            answered: 0,
        })
    }

    /// Lets them call until `until` says so. It is asked after each turn.
    pub fn run(&mut self, mut until: impl FnMut(&Self) -> bool) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; READ];
        let mut last = (self.answered, clock::now());
        while !until(self) {
            let polled = self
                .poll
                .poll(&mut events, Some(Duration::from_millis(100)));
            if let Err(error) = polled
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error).context("epoll");
            }
            for event in &events {
                self.happen(event, &mut buffer)?;
            }
            if last.0 != self.answered {
                last = (self.answered, clock::now());
            }
            let silent = clock::now() - last.1;
            ensure!(silent < clock::nanos(PATIENCE), "nothing is answered");
        }
        Ok(())
    }

    fn happen(&mut self, event: &Event, buffer: &mut [u8]) -> Result<()> {
        let index = event.token().0;
        let caller = &mut self.connections[index];
        if event.is_writable() {
            caller.write(&self.request.bytes)?;
        }
        // One answer at most can be there.
        if event.is_readable()
            && let Some(is_last) = caller.read(buffer)?
        {
            self.latency.record(clock::now() - caller.since);
            self.answered += 1;
            caller.written = 0;
            caller.since = clock::now();
            if is_last {
                caller.stream = connect(&self.poll, self.request.address, index)?;
            } else {
                caller.write(&self.request.bytes)?;
            }
        }
        Ok(())
    }
}

/// A connection whose writability, when it is said, begins the first request.
fn connect(poll: &Poll, address: SocketAddr, index: usize) -> Result<TcpStream> {
    let stream = std::net::TcpStream::connect(address).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(stream);
    let interest = Interest::READABLE | Interest::WRITABLE;
    let registry = poll.registry();
    registry.register(&mut stream, Token(index), interest)?;
    Ok(stream)
}

impl Caller {
    fn write(&mut self, request: &[u8]) -> Result<()> {
        while self.written < request.len() {
            match self.stream.write(&request[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending a request"),
            }
        }
        Ok(())
    }

    /// Reads what is there; if it ends an answer, says whether that was the connection's last.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<bool>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) if !self.input.is_empty() => break,
                Ok(0) => bail!("the broker closed a connection"),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading an answer"),
            }
        }
        let Some(answer) = http::read(&self.input)? else {
            return Ok(None);
        };
        let is_good = (200..300).contains(&answer.status)
            && memmem::find(answer.body, b"\"error\"").is_none();
        let text = || String::from_utf8_lossy(&self.input).into_owned();
        ensure!(is_good, "a publish was refused: {}", text());
        ensure!(
            answer.len == self.input.len(),
            "more than an answer: {}",
            text()
        );
        let is_last = answer.is_last;
        self.input.clear();
        Ok(Some(is_last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers the first requests of a connection with this.
    fn server(answer: &'static [u8]) -> Request {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut request = [0; 4];
                    while stream.read_exact(&mut request).is_ok() {
                        let (first, rest) = answer.split_at(answer.len() / 2);
                        let written = stream.write_all(first);
                        written.and_then(|()| stream.write_all(rest)).unwrap();
                    }
                });
            }
        });
        Request {
            address,
            bytes: b"ping".to_vec(),
        }
    }

    #[test]
    fn each_calls_again_when_it_was_answered() {
        let request = server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        let mut callers = Callers::open(request, 3).unwrap();
        callers.run(|callers| callers.answered >= 30).unwrap();
        assert_eq!(callers.latency.count(), callers.answered);
    }

    #[test]
    fn who_is_sent_away_comes_again() {
        let request = server(b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 0\r\n\r\n");
        let mut callers = Callers::open(request, 2).unwrap();
        callers.run(|callers| callers.answered >= 10).unwrap();
    }

    #[test]
    fn refusals_are_reported() {
        for answer in [
            &b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"error\":1",
        ] {
            let mut callers = Callers::open(server(answer), 1).unwrap();
            let error = callers.run(|callers| callers.answered > 0).unwrap_err();
            assert!(error.to_string().contains("refused"), "{error}");
        }
    }
}
