//! Polycast's bridge: events from queues and buses in, topics out, and back; nothing lost.
//!
//! A [`source`] yields events; [`envelope`] unwraps them; [`mapping`] says what they become;
//! [`publisher`] publishes that over MQTT 5; and only when the broker has acknowledged it is the
//! source told. [`run`] ties these together, once for all sources. The broker may be Polycast or any
//! other that speaks MQTT 5.

mod aws;
pub mod cli;
pub mod config;
pub mod dead_letters;
pub mod envelope;
pub mod event;
pub mod http;
pub mod mapping;
pub mod metrics;
mod nats;
mod numbered;
pub mod pattern;
pub mod publisher;
pub mod retry;
mod retry_after;
pub mod run;
pub mod sink;
pub mod source;
mod sqs;
pub mod template;
mod tls;
