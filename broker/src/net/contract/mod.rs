//! The contract that every protocol keeps: stories of clients, written once and run for all.
//!
//! A story speaks to the broker's own [`Net::serve`](super::Net::serve) through a pipe, in the
//! words of a [`Dialect`](dialect::Dialect): for each protocol of the registry, on each transport
//! that carries it, and where two clients meet, for each pair of them. A new protocol needs one
//! `Dialect` and no story.
//!
//! There are no sockets, and the clock is a pretended one: nothing depends on timing.

mod credentials;
mod dialect;
mod durable;
mod ending;
mod exchange;
mod framing;
mod hostile;
mod json;
mod mqtt;
mod slow;
mod stomp;
mod upgrade;
mod world;

use dialect::Speaker;

/// Runs a story for everyone. What it prints is shown when it fails.
async fn each(story: impl AsyncFn(Speaker)) {
    for speaker in Speaker::all() {
        println!("{speaker}");
        story(speaker).await;
    }
}

/// Runs a story for every pair.
async fn each_pair(story: impl AsyncFn(Speaker, Speaker)) {
    for one in Speaker::all() {
        for other in Speaker::all() {
            println!("{one}, {other}");
            story(one, other).await;
        }
    }
}
