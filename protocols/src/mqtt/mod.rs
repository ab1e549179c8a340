//! MQTT 3.1.1 and 5.0.
//!
//! The codec, for the server's side and for the client's: [`decode()`] turns bytes into a borrowed
//! [`Packet`], [`encode()`] turns one into bytes, [`publish`] writes the packet that goes to many
//! receivers in parts. It keeps every rule that a packet alone can show and holds no state: what
//! depends on earlier packets (a second CONNECT, an identifier in use, an alias that was never
//! set) belongs to the connection.
//!
//! Where to start reading: [`packet`], then [`decode()`].

mod codec;
mod connection;
pub mod decode;
pub mod encode;
pub mod error;
pub mod list;
pub mod packet;
pub mod properties;
pub mod publish;
pub mod reason;

pub use connection::Mqtt;
pub use decode::{Decoded, decode, decode_connect, offered_version};
pub use encode::{encode, encoded_len};
pub use error::{DecodeError, EncodeError};
pub use packet::{Packet, PacketId, PacketType};
pub use reason::ReasonCode;

/// The versions of the protocol that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

impl Version {
    /// The protocol level (version) byte of CONNECT `[MQTT-3.1.2.2]`.
    pub const fn level(self) -> u8 {
        match self {
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// Name for people, logs and [`crate::connection::Connect::protocol`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V311 => "mqtt 3.1.1",
            Self::V5 => "mqtt 5",
        }
    }
}

/// Which end of the connection receives a packet: some packets, reason codes and properties go
/// one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The packet comes from a client.
    Server,
    /// The packet comes from a server.
    Client,
}
