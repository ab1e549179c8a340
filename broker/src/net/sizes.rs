//! What an idle connection holds, so that nobody makes it dearer without noticing.

use tokio::net::TcpStream;

use super::driver::Driver;
use super::{Serving, WebSocket};
use crate::session::{Link, Session};

/// What the runtime keeps beside a task's future; the whole is rounded up to a cache line pair.
const TASK: usize = 104;

#[test]
fn an_idle_connection_is_small() {
    let parts = [
        ("task", size_of::<Serving<TcpStream>>() + TASK, 384),
        ("driver", size_of::<Driver<TcpStream>>(), 248),
        ("link", size_of::<Link>(), 264),
        // With the counters of its `Arc`.
        ("session", size_of::<Session>() + 16, 640),
        ("web socket", size_of::<WebSocket>(), 160),
    ];
    for (part, bytes, most) in parts {
        println!("{part}: {bytes}");
        assert!(bytes <= most, "{part}: {bytes} bytes, at most {most}");
    }
}
