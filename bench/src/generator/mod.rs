//! The load generator: many connections on one thread and one poll, with one read buffer for all
//! of them. In the steady state a message costs no allocation: frames are encoded in advance and
//! stamped, and of what comes in only the frame boundaries and the stamp are read.

pub mod callers;
pub mod client;
pub mod clock;
pub mod ledger;
pub mod load;
pub mod pace;
pub mod publisher;
pub mod swarm;
mod tls;

#[cfg(test)]
mod tests;
