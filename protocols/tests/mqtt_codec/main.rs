//! The MQTT codec: the rules of the standards that a packet alone can show, as byte arrays, and
//! what holds for all packets.
//!
//! Each refusal names the rule and the reason code that the connection answers with.

#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

mod connect;
mod corpus;
mod encode;
mod header;
mod oracles;
mod properties;
mod publish;
mod round_trip;
mod session;
mod strategies;
mod subscribe;
mod support;
