//! Polycast's load generator and its comparison with other brokers.
//!
//! - [`wire`]: the bytes of the protocols; [`generator`]: connections and messages on one thread
//! - [`scenario`]: what is measured; [`measure`]: processes, latencies and disks
//! - [`bridge`]: the bridge beside a plain copier and a plain consumer
//! - [`brokers`]: how the rivals are started; [`report`]: tables and charts; [`run`]: the order
//!
//! It talks to brokers over sockets only and shares no code with Polycast's own.

// Counts become figures, and lengths become fields of frames: the values are far below where a
// conversion could lose something that matters.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

pub mod bridge;
pub mod brokers;
pub mod cli;
pub mod generator;
pub mod measure;
pub mod report;
pub mod run;
pub mod scenario;
pub mod spec;
pub mod wire;
