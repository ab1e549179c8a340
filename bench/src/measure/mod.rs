//! What is measured outside of the messages: the broker's processor time and memory, its files,
//! and distributions of latencies.

pub mod disk;
pub mod latency;
pub mod limit;
pub mod process;
pub mod schedule;
