//! Logs and metrics: how they are written, not what is worth writing.
//!
//! [`init`] is called once at the start; after that, all code logs through `tracing` and counts
//! in a [`Metrics`]. Text that comes from a client or a file is put into log lines only as
//! [`Untrusted`].

mod counter;
mod log;
mod metrics;
mod protection;
mod store;
mod untrusted;

pub use counter::{Counter, Gauge};
pub use log::{LogHandle, init};
pub use metrics::{Drop, Metrics, ProtocolMetrics, Transport};
pub use protection::{ProtectionMetrics, TlsMetrics};
pub use untrusted::Untrusted;
