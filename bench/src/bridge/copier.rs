//! The plain copier: what a straightforward script does. Receive ten; publish each at QoS 1 and
//! wait for its PUBACK; delete each.
//!
//! It signs nothing and checks nothing, which is to its advantage.

use super::link::Link;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Copies so many events.
pub(super) fn copy(queue: SocketAddr, broker: &str, topic: &str, events: u64) -> Result<()> {
    let socket = TcpStream::connect(queue)?;
    socket.set_nodelay(true)?;
    let mut http = Http::new(socket);
    let mut link = Link::connect(broker, "copier", true)?;
    let mut copied = 0;
    while copied < events {
        let received = http.call("ReceiveMessage", &json!({"MaxNumberOfMessages": 10}))?;
        for message in received["Messages"].as_array().into_iter().flatten() {
            let body = message["Body"]
                .as_str()
                .context("a message without a body")?;
            link.publish(topic, body.as_bytes())?;
            let receipt = json!({"ReceiptHandle": message["ReceiptHandle"]});
            http.call("DeleteMessage", &receipt)?;
            copied += 1;
        }
    }
    Ok(())
}

/// One side of a kept HTTP/1.1 connection.
pub(super) struct Http {
    socket: TcpStream,
    rest: Vec<u8>,
}

impl Http {
    pub(super) fn new(socket: TcpStream) -> Self {
        let rest = Vec::new();
        Self { socket, rest }
    }

    fn call(&mut self, name: &str, body: &Value) -> Result<Value> {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: queue\r\ncontent-type: application/x-amz-json-1.0\r\nx-amz-target: AmazonSQS.{name}"
        );
        self.write(&head, body.to_string().as_bytes())?;
        let (_, answer) = self.read()?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Head and body of the next request or answer.
    pub(super) fn read(&mut self) -> Result<(String, Vec<u8>)> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.rest, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
                let whole = end + 4 + length(&head);
                while self.rest.len() < whole {
                    self.fill()?;
                }
                let body = self.rest[end + 4..whole].to_vec();
                self.rest.drain(..whole);
                return Ok((head, body));
            }
            self.fill()?;
        }
    }

    pub(super) fn write(&mut self, head: &str, body: &[u8]) -> Result<()> {
        let mut out = format!("{head}\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        out.extend_from_slice(body);
        self.socket.write_all(&out)?;
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let mut buffer = [0; 16_384];
        let count = self.socket.read(&mut buffer)?;
        if count == 0 {
            bail!("closed");
        }
        self.rest.extend_from_slice(&buffer[..count]);
        Ok(())
    }
}

fn length(head: &str) -> usize {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let value = found.next().map(|(_, value)| value.trim().parse());
    value.and_then(Result::ok).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::queue::Queue;
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_queue_gives_each_message_once() {
        let queue = Queue::start(25, 3, Duration::ZERO).unwrap();
        let mut http = Http::new(TcpStream::connect(queue.address()).unwrap());
        let mut counts = Vec::new();
        for _ in 0..4 {
            let answer = http
                .call("ReceiveMessage", &json!({"MaxNumberOfMessages": 10}))
                .unwrap();
            counts.push(answer["Messages"].as_array().map_or(0, Vec::len));
        }
        assert_eq!(counts, [10, 10, 5, 0]);
        let entries = json!({"Entries": [{"Id": "a"}, {"Id": "b"}]});
        let answer = http.call("DeleteMessageBatch", &entries).unwrap();
        assert_eq!(answer["Successful"][1]["Id"], "b");
        assert_eq!(queue.left(), 23);
    }
}
