//! A queue that speaks SQS's JSON protocol, fast enough not to be what is measured: everything is
//! in memory, a thread serves each connection, and each call takes as long as it is told to.
//!
//! It knows receive, delete and change of visibility, which is what a consumer calls. What was
//! received and not deleted is not given out again within a measurement.

use super::copier::Http;
use anyhow::Result;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

/// How long an empty long poll waits; it ends with the measurement.
const EMPTY: Duration = Duration::from_millis(20);

pub(super) struct Queue {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    events: u64,
    body: String,
    round_trip: Duration,
    received: AtomicU64,
    deleted: AtomicU64,
    asked: AtomicBool,
}

impl Queue {
    /// A queue with so many messages.
    pub(super) fn start(events: u64, size: usize, round_trip: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            events,
            body: "x".repeat(size),
            round_trip,
            received: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
            asked: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || state.serve(socket));
            }
        });
        Ok(Self { address, state })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Messages that were not deleted.
    pub(super) fn left(&self) -> u64 {
        self.state.events - self.state.deleted.load(Ordering::Relaxed)
    }

    /// Whether somebody has called.
    pub(super) fn was_asked(&self) -> bool {
        self.state.asked.load(Ordering::Relaxed)
    }
}

impl State {
    fn serve(&self, socket: TcpStream) {
        let _ = socket.set_nodelay(true);
        let mut http = Http::new(socket);
        while let Ok((head, body)) = http.read() {
            self.asked.store(true, Ordering::Relaxed);
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let call = head.split("AmazonSQS.").nth(1).unwrap_or_default();
            let call = call.split_whitespace().next().unwrap_or_default();
            sleep(self.round_trip);
            let answer = match call {
                "ReceiveMessage" => self.receive(&body),
                "DeleteMessage" => {
                    self.deleted.fetch_add(1, Ordering::Relaxed);
                    json!({})
                }
                "DeleteMessageBatch" => {
                    let answer = confirm(&body);
                    let count = body["Entries"].as_array().map_or(0, Vec::len) as u64;
                    self.deleted.fetch_add(count, Ordering::Relaxed);
                    answer
                }
                _ => confirm(&body),
            };
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0";
            if http.write(head, answer.to_string().as_bytes()).is_err() {
                return;
            }
        }
    }

    fn receive(&self, body: &Value) -> Value {
        let max = body["MaxNumberOfMessages"].as_u64().unwrap_or(1);
        let first = self.received.fetch_add(max, Ordering::Relaxed);
        let last = self.events.min(first + max);
        if first >= last {
            sleep(EMPTY);
            return json!({});
        }
        let messages = (first..last).map(|number| {
            let id = number.to_string();
            json!({
                "MessageId": id,
                "ReceiptHandle": id,
                "Body": self.body,
                "Attributes": {"SentTimestamp": "1700000000000", "ApproximateReceiveCount": "1"},
            })
        });
        json!({"Messages": messages.collect::<Vec<_>>()})
    }
}

/// All entries of a batch went well.
fn confirm(body: &Value) -> Value {
    let entries = body["Entries"].as_array().into_iter().flatten();
    let done: Vec<_> = entries.map(|entry| json!({"Id": entry["Id"]})).collect();
    json!({"Successful": done, "Failed": []})
}
