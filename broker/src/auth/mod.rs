//! Who clients are and what they may do.
//!
//! - [`Identity`]: who a client is, as found out at its login, whatever proved it.
//! - [`access`]: what it may do.
//!
//! It knows no sockets of clients and no sessions: `net` asks it before a client is let in, and
//! the `hub` asks it for each thing that a client wants to do.

pub mod access;
mod identity;

pub use identity::{Identity, Method};
