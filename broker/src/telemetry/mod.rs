//! Logs and metrics: how they are written, not what is worth writing.
//!
//! [`init`] is called once at the start; after that, all code logs through `tracing` and counts
//! in a [`Metrics`]. Text that comes from a client or a file is put into log lines only as
//! [`Untrusted`].

mod counter;
mod histogram;
mod log;
mod metrics;
mod process;
mod protection;
mod spans;
mod store;
mod system;
pub mod trace;
mod untrusted;

pub use counter::{Counter, Gauge};
pub use histogram::{Histogram, moment_us};
pub use log::{LogHandle, init};
pub use metrics::{Drop, Metrics, ProtocolMetrics, Transport};
pub use process::ProcessFigures;
pub use protection::{ProtectionMetrics, TlsMetrics};
pub use spans::{Spans, to_json as spans_to_json};
pub use system::{System, SystemState};
pub use untrusted::Untrusted;
