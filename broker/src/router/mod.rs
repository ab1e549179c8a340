//!
//! [`Router`] answers "who wants this topic" for every publish: a bounded cache of route lists in
//! front of the [`SubscriptionIndex`]. [`Retained`] answers the reverse question, "which kept
//! messages does this filter want", for every subscribe. Both are generic data structures: what a
//! subscriber is, and what it is told, belongs to the hub that owns them.

mod cache;
mod holders;
mod index;
mod retained;
mod reverse;
mod routes;
mod shapes;
mod subscribers;
mod trie;

pub use cache::CacheLimits;
pub use holders::Users;
pub use index::{IndexStats, SubscriptionIndex};
pub use retained::{Batch, Cursor, Retained, RetainedFull, RetainedLimits, RetainedStats};
pub use routes::{Router, RouterStats, Routes};

#[cfg(test)]
mod samples;
