//! Bytes in, commands out: every protocol that Polycast speaks, without I/O.
//!
//! Each protocol is a codec and, on top of it, the state machine of one connection
//! ([`Connection`]). Bytes, the time and deliveries go in as arguments; [`Command`]s for the
//! broker and bytes for the wire ([`Outbox`]) come out. Nothing here opens a socket, reads a
//! clock, spawns a task or takes a lock that another thread can hold, so every rule is tested
//! with byte arrays and a pretended clock.
//!
//! Where to start reading: [`model`] (the shared words), then [`connection`] (the two traits),
//! then [`registry`] (the list of protocols).

pub mod connection;
mod find;
pub mod json;
mod last_topic;
pub mod limits;
pub mod model;
pub mod mqtt;
pub mod negotiation;
pub mod outbox;
pub mod recent;
pub mod registry;
pub mod sse;
pub mod stomp;
pub mod websocket;

pub use connection::{Command, Connection, Delivery, Output, Protocol, Reply};
pub use limits::Limits;
pub use outbox::Outbox;
