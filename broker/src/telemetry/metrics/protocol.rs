//! What each protocol counts. A connection keeps these of its own protocol, so that counting on the
//! hot path is one addition and no search.

use protocols::model::QoS;

use super::Transport;
use crate::telemetry::{Counter, Gauge, Histogram};

/// What is counted for each protocol.
#[derive(Debug)]
pub struct ProtocolMetrics {
    /// The value of the label `protocol`.
    pub name: &'static str,
    /// Open connections by [`Transport`].
    connections: [Gauge; Transport::ALL.len()],
    /// Connections that were opened.
    pub opened: Counter,
    /// Messages that clients published, by QoS.
    pub(super) received: [Counter; 3],
    /// Messages written for clients, by QoS.
    pub(super) delivered: [Counter; 3],
    /// Messages that clients acknowledged.
    pub acknowledged: Counter,
    /// Messages written for clients that had been sent them before.
    pub redelivered: Counter,
    /// How long the oldest message of each write was in the broker.
    pub delay: Histogram,
    /// Bytes from clients, as the transport carried them.
    pub bytes_received: Counter,
    /// Bytes to clients, as the transport carried them.
    pub bytes_sent: Counter,
}

impl ProtocolMetrics {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            connections: Default::default(),
            opened: Counter::default(),
            received: Default::default(),
            delivered: Default::default(),
            acknowledged: Counter::default(),
            redelivered: Counter::default(),
            delay: Histogram::default(),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
        }
    }

    /// Open connections on a transport.
    #[inline]
    pub fn connections(&self, transport: Transport) -> &Gauge {
        &self.connections[transport as usize]
    }

    /// Open connections on all transports.
    pub(in crate::telemetry) fn open_connections(&self) -> i64 {
        self.connections.iter().map(Gauge::value).sum()
    }

    /// Messages that clients published.
    #[inline]
    pub fn received(&self, qos: QoS) -> &Counter {
        &self.received[qos as usize]
    }

    /// Messages written for clients.
    #[inline]
    pub fn delivered(&self, qos: QoS) -> &Counter {
        &self.delivered[qos as usize]
    }
}
