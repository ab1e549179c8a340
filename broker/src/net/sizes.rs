//! What an idle connection holds, so that nobody makes it dearer without noticing.

use super::driver::Driver;
use super::socket::Socket;
use super::{Serving, WebSocket};
use crate::session::{Link, Session};

/// What the runtime keeps beside a task's future; the whole is rounded up to a cache line pair.
const TASK: usize = 104;

#[test]
fn an_idle_connection_is_small() {
    let parts = [
        ("task", size_of::<Serving<Socket>>() + TASK, 256),
        ("driver", size_of::<Driver<Socket>>(), 136),
        ("link", size_of::<Link>(), 256),
        // With the counters of its `Arc`.
        ("session", size_of::<Session>() + 16, 512),
        ("web socket", size_of::<WebSocket>(), 160),
    ];
    for (part, bytes, most) in parts {
        println!("{part}: {bytes}");
        assert!(bytes <= most, "{part}: {bytes} bytes, at most {most}");
    }
}
