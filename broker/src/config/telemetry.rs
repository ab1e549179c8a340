//! The section `telemetry`: what the broker says about itself, beside metrics and the log.

use std::time::Duration;

use super::auth::WebAddress;
use super::section::section;
use super::setting::Bounds::{Time, Type};

const SECOND: u64 = 1000;

section! {
    /// What the broker says about itself, beside `/metrics` and the log.
    pub struct Telemetry in "telemetry" {
        /// How often the topics below `$SYS/broker` are published, to those who have subscribed to
        /// them; `0s` is never.
        sys_interval: Duration = Duration::from_secs(10), Time(0, 3600 * SECOND), Live;
        /// URL of a collector that takes OTLP over HTTP in JSON, such as
        /// `http://localhost:4318/v1/traces`. It is sent a span for each publish whose `traceparent`
        /// says that its trace is sampled.
        otlp_traces: WebAddress = WebAddress::default(), Type, Restart;
    }
}
