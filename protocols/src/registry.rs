//! The list of protocols: adding one is one line here.

use crate::connection::Protocol;

/// Every protocol that Polycast speaks.
pub static PROTOCOLS: &[&dyn Protocol] =
    &[&crate::mqtt::Mqtt, &crate::stomp::Stomp, &crate::json::Json];
