//! A connection to the broker up to CONNACK, and packets on it: for the publisher and the sinks.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use rumqttc::v5::mqttbytes::Error as PacketError;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet, PingReq, PubAck};
use rustls::pki_types::ServerName;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::config::Broker;

/// Bytes that are gathered for one write before nothing more is added.
const WRITE_BYTES: usize = 64 * 1024;

/// Room for a read: acknowledgements are small and come many at a time.
const READ_BYTES: usize = 8 * 1024;

/// Bytes of the largest packet that is accepted: what a sink may be sent.
const PACKET_BYTES: u32 = 16 * 1024 * 1024;

/// A socket, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why there is no connection, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took longer than `broker.connect_timeout`.
    #[error("no answer in time")]
    Timeout,
    /// What came is not MQTT 5.
    #[error("not understood: {0}")]
    Packet(#[from] PacketError),
    /// The broker says no.
    #[error("the broker refuses: {0:?}")]
    Refused(ConnectReturnCode),
    /// The broker cannot do what the bridge promises.
    #[error("the broker does not take QoS 1")]
    NoQos1,
    /// The broker ended the connection.
    #[error("the broker disconnects: {0}")]
    Disconnected(String),
    /// Something that may not come now.
    #[error("the broker sent something unexpected")]
    Unexpected,
    /// PINGRESP did not come.
    #[error("the broker does not answer pings")]
    Silent,
}

/// A connection after CONNACK.
pub struct Client {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: BytesMut,
    output: BytesMut,
    keep_alive: Duration,
    next_ping: Pin<Box<Sleep>>,
    ping_open: bool,
    max_packet: u32,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and logs in.
    pub async fn open(broker: &Broker, connect: &Packet) -> Result<(Self, ConnAck), ConnectError> {
        let opening = async {
            let stream = open_stream(broker).await?;
            log_in(stream, broker, connect).await
        };
        match timeout(broker.connect_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    /// Whether more may be written before something is sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.output.len() < WRITE_BYTES
    }

    /// Adds a packet to what is to be sent. What is larger than the broker takes is an error and
    /// leaves nothing behind.
    pub fn write(&mut self, packet: &Packet) -> Result<(), PacketError> {
        let before = self.output.len();
        let written = packet.write(&mut self.output, Some(self.max_packet));
        if written.is_err() {
            self.output.truncate(before);
        }
        written.map(|_| ())
    }

    /// Sends, receives and pings until a packet is there or everything is sent. May be dropped at
    /// any time without a loss.
    pub async fn drive(&mut self) -> Result<Option<Packet>, ConnectError> {
        loop {
            if let Some(packet) = self.next_packet()? {
                return Ok(Some(packet));
            }
            self.input.reserve(READ_BYTES);
            tokio::select! {
                read = self.reader.read_buf(&mut self.input) => if read? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                },
                written = self.writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                    written?;
                    if self.output.is_empty() {
                        self.writer.flush().await?;
                        return Ok(None);
                    }
                },
                () = self.next_ping.as_mut() => {
                    self.ping()?;
                }
            }
        }
    }

    /// The next packet that has arrived completely.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, ConnectError> {
        if let Some(ack) = short_puback(&mut self.input) {
            return Ok(Some(Packet::PubAck(ack)));
        }
        match Packet::read(&mut self.input, Some(PACKET_BYTES)) {
            Ok(Packet::PingResp(_)) => {
                self.ping_open = false;
                self.next_packet()
            }
            Ok(Packet::Disconnect(disconnect)) => {
                let reason = format!("{:?}", disconnect.reason_code);
                Err(ConnectError::Disconnected(reason))
            }
            Ok(packet) => Ok(Some(packet)),
            Err(PacketError::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn ping(&mut self) -> Result<(), ConnectError> {
        if self.ping_open {
            return Err(ConnectError::Silent);
        }
        self.ping_open = true;
        self.next_ping
            .as_mut()
            .reset(Instant::now() + self.keep_alive);
        self.write(&Packet::PingReq(PingReq))?;
        Ok(())
    }

    /// Sends what is left and ends the connection.
    pub async fn close(mut self) -> io::Result<()> {
        self.writer.write_all_buf(&mut self.output).await?;
        self.writer.shutdown().await
    }
}

/// A PUBACK that says no more than which publication was taken, as nearly all do `[MQTT-3.4.2-1]`.
fn short_puback(input: &mut BytesMut) -> Option<PubAck> {
    let &[0x40, 2, high, low, ..] = input.as_ref() else {
        return None;
    };
    input.advance(4);
    Some(PubAck::new(u16::from_be_bytes([high, low]), None))
}

async fn open_stream(broker: &Broker) -> Result<Box<dyn Stream>, ConnectError> {
    let socket = TcpStream::connect((broker.host.as_str(), broker.port)).await?;
    socket.set_nodelay(true)?;
    let Some(tls) = &broker.tls else {
        return Ok(Box::new(socket));
    };
    let name = ServerName::try_from(broker.host.clone()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::clone(tls));
    Ok(Box::new(connector.connect(name, socket).await?))
}

async fn log_in(
    mut stream: Box<dyn Stream>,
    broker: &Broker,
    connect: &Packet,
) -> Result<(Client, ConnAck), ConnectError> {
    let mut output = BytesMut::new();
    connect.write(&mut output, None)?;
    stream.write_all_buf(&mut output).await?;
    stream.flush().await?;
    let mut input = BytesMut::with_capacity(8 * 1024);
    let connack = loop {
        match Packet::read(&mut input, Some(PACKET_BYTES)) {
            Ok(Packet::ConnAck(connack)) => break connack,
            Ok(_) => return Err(ConnectError::Unexpected),
            Err(PacketError::InsufficientBytes(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    if connack.code != ConnectReturnCode::Success {
        return Err(ConnectError::Refused(connack.code));
    }
    let properties = connack.properties.as_ref();
    let server_keep_alive = properties.and_then(|properties| properties.server_keep_alive);
    let keep_alive = server_keep_alive.map_or(broker.keep_alive, |secs| {
        Duration::from_secs(u64::from(secs))
    });
    // Half of it, so that a ping that is lost is seen before the broker gives up.
    let keep_alive = keep_alive.max(Duration::from_secs(1)) / 2;
    let max_packet = properties.and_then(|properties| properties.max_packet_size);
    let (reader, writer) = tokio::io::split(stream);
    let client = Client {
        reader,
        writer,
        input,
        output,
        keep_alive,
        next_ping: Box::pin(sleep(keep_alive)),
        ping_open: false,
        max_packet: max_packet.unwrap_or(268_435_455),
    };
    Ok((client, connack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_puback_is_what_the_library_reads() {
        let mut short = BytesMut::from(&[0x40, 2, 1, 2, 0x40][..]);
        let mut same = short.clone();
        let ack = short_puback(&mut short).map(Packet::PubAck);
        assert_eq!(ack, Packet::read(&mut same, None).ok());
        assert_eq!(short, same);
        for other in [
            &[0x40, 2, 1][..],
            &[0x40, 3, 1, 2, 0x10],
            &[0x50, 2, 1, 2],
            &[],
        ] {
            let mut input = BytesMut::from(other);
            assert_eq!(short_puback(&mut input), None, "{other:?}");
            assert_eq!(input, other);
        }
    }
}
