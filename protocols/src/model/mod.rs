//! The words that all protocols share: topics, filters, messages and their properties.
//!
//! Everything here is parsed once, at the edge, and trusted afterwards: a [`Topic`] or a
//! [`Filter`] that exists is valid.

mod filter;
mod message;
mod qos;
mod time;
mod topic;

pub use filter::{Filter, FilterError, Kind, SubscriptionFilter};
pub use message::{Encoding, Message, PayloadFormat, Properties};
pub use qos::QoS;
pub use time::Timestamp;
pub use topic::{Topic, TopicError};
