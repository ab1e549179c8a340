//! The broker: everything behind the `polycast` binary.

pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod functions;
pub mod guard;
pub mod http;
pub mod hub;
pub mod net;
pub mod router;
pub mod server;
pub mod session;
pub mod store;
pub mod telemetry;
