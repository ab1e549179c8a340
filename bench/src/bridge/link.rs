//! A blocking MQTT connection, as a simple program has one.

use crate::wire::mqtt::acknowledge;
use crate::wire::{Answer, Incoming, Login, Protocol, Unreadable};
use anyhow::{Result, bail};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

/// PUBACK's first byte.
const PUBACK: u8 = 0x40;

pub(super) struct Link {
    socket: TcpStream,
    /// What was received and not read.
    rest: Vec<u8>,
    next_id: u16,
}

impl Link {
    pub(super) fn connect(address: &str, client_id: &str, clean: bool) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let mut link = Self {
            socket,
            rest: Vec::new(),
            next_id: 0,
        };
        let mut packet = Vec::new();
        Protocol::Mqtt.connect(&mut packet, &Login { client_id, clean });
        link.socket.write_all(&packet)?;
        link.wait(|incoming| matches!(incoming, Incoming::Connected { .. }))?;
        Ok(link)
    }

    pub(super) fn subscribe(&mut self, filter: &str) -> Result<()> {
        let login = Login {
            client_id: "",
            clean: true,
        };
        let mut packets = Vec::new();
        Protocol::Mqtt.subscribe(&mut packets, &login, &[filter.to_owned()], 1);
        self.socket.write_all(&packets.concat())?;
        self.wait(|incoming| matches!(incoming, Incoming::Subscribed))
    }

    /// Publishes at QoS 1 and waits for the PUBACK.
    pub(super) fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        let id = self.next_id;
        let mut packet = vec![0x32];
        let mut length = 2 + topic.len() + 2 + payload.len();
        while length > 127 {
            packet.push((length & 0x7F) as u8 | 0x80);
            length >>= 7;
        }
        packet.push(length as u8);
        packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        packet.extend_from_slice(topic.as_bytes());
        packet.extend_from_slice(&id.to_be_bytes());
        packet.extend_from_slice(payload);
        self.socket.write_all(&packet)?;
        self.wait(|incoming| matches!(incoming, Incoming::Acked(acked) if *acked == id))
    }

    /// Takes what has come, acknowledges it and counts it.
    pub(super) fn take(&mut self, count: &AtomicU64) -> Result<()> {
        self.fill()?;
        let mut acks = Vec::new();
        let mut at = 0;
        while let Some((incoming, end)) = Protocol::Mqtt.read(&self.rest[at..]).map_err(wrong)? {
            if let Incoming::Message(message) = incoming {
                count.fetch_add(1, Ordering::Relaxed);
                if let Answer::Packet(id) = message.answer {
                    acks.extend_from_slice(&acknowledge(PUBACK, id));
                }
            }
            at += end;
        }
        self.rest.drain(..at);
        self.socket.write_all(&acks)?;
        Ok(())
    }

    fn wait(&mut self, is_it: impl Fn(&Incoming<'_>) -> bool) -> Result<()> {
        loop {
            while let Some((incoming, end)) = Protocol::Mqtt.read(&self.rest).map_err(wrong)? {
                let found = is_it(&incoming);
                if let Incoming::Refused(why) = incoming {
                    bail!("{why}");
                }
                self.rest.drain(..end);
                if found {
                    return Ok(());
                }
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<()> {
        let mut buffer = [0; 16_384];
        let count = self.socket.read(&mut buffer)?;
        if count == 0 {
            bail!("the broker has closed the connection");
        }
        self.rest.extend_from_slice(&buffer[..count]);
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn wrong(unreadable: Unreadable) -> anyhow::Error {
    anyhow::anyhow!("{unreadable}")
}
