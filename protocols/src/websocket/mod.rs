//! WebSocket (RFC 6455) and permessage-deflate (RFC 7692) for the server's side, without I/O.
//!
//! [`Decoder`] turns a client's bytes into [`Event`]s, [`crate::Outbox`] frames what goes out,
//! [`close`] has the close codes, [`deflate`] the compression and its negotiation. The upgrade
//! request itself is judged in [`crate::negotiation`]; sockets and time-outs belong to the broker.

pub mod close;
mod decoder;
pub mod deflate;
pub mod frame;
mod inflate;
mod utf8;

pub use decoder::{Accepts, Config, Decoder, Event};
