//! The broker: everything behind the `polycast` binary.

pub mod cli;
pub mod config;
pub mod net;
pub mod router;
pub mod session;
pub mod telemetry;
