//! What the API asks of the running program: to reload its configuration, and to drain.
//!
//! The program takes the orders one after the other ([`Control::orders`]); a reload is answered when
//! it is done.

use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use protocols::connection::Elsewhere;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::problem::Problem;
use super::{Answer, Call, body};
use crate::config::Server;

/// Orders that may wait.
const WAITING: usize = 16;
/// Longest time over which clients are sent away, in seconds.
const DRAIN_SECS: f64 = 24.0 * 3600.0;

/// Something that the program is to do.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration again, and say what came of it.
    Reload(oneshot::Sender<Result<Reloaded, String>>),
    /// Send all clients away, then end.
    Drain(DrainWish),
}

/// What a reload has changed.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// What is different now.
    pub applied: Vec<String>,
    /// What will be at the next start.
    pub need_restart: Vec<String>,
}

/// How clients are to be sent away.
#[derive(Clone, Debug, Default)]
pub struct DrainWish {
    /// Time over which the good-byes are spread.
    pub over: Duration,
    /// Where the clients find another server.
    pub elsewhere: Option<Elsewhere>,
}

/// The way from the API to the program.
#[derive(Debug)]
pub struct Control {
    sender: mpsc::Sender<Order>,
    receiver: Mutex<Option<mpsc::Receiver<Order>>>,
    draining: Mutex<Option<Draining>>,
}

/// Clients are being sent away.
#[derive(Clone, Copy, Debug)]
struct Draining {
    began: Instant,
    clients: usize,
    over: Duration,
}

impl Default for Control {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
            draining: Mutex::default(),
        }
    }
}

impl Control {
    /// The orders, for the one who carries them out. Whoever comes second gets none.
    pub fn orders(&self) -> mpsc::Receiver<Order> {
        let taken = self.receiver.lock().take();
        taken.unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Clients are sent away from now on.
    pub fn begin(&self, clients: usize, over: Duration) {
        *self.draining.lock() = Some(Draining {
            began: Instant::now(),
            clients,
            over,
        });
    }

    /// What the status says of it; null while the broker serves.
    pub(super) fn draining(&self) -> Value {
        let draining = *self.draining.lock();
        draining.map_or(Value::Null, |draining| {
            let left = draining.over.saturating_sub(draining.began.elapsed());
            json!({"clients": draining.clients, "secondsLeft": left.as_secs()})
        })
    }

    fn order(&self, order: Order) -> Result<(), Problem> {
        self.sender.try_send(order).map_err(|_| {
            let detail = "the broker is stopping, or has too many such orders";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).after(1)
        })
    }
}

/// `POST /api/v1/reload`
pub(super) fn reload(call: &Call<'_>) -> Result<Answer, Problem> {
    let (answer, answered) = oneshot::channel();
    call.net.api.control.order(Order::Reload(answer))?;
    let work = async move {
        let reloaded = answered.await.map_err(|_| {
            let detail = "the broker is stopping";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
        })?;
        let reloaded = reloaded.map_err(|problem| {
            let detail = format!("the configuration was not reloaded: {problem}");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "configuration", detail)
        })?;
        let value = json!({
            "applied": reloaded.applied,
            "needRestart": reloaded.need_restart,
        });
        Ok(Some(body::json(StatusCode::OK, &value)))
    };
    Ok(Answer {
        behind: Some(Box::pin(work)),
        ..Answer::from(body::empty(StatusCode::OK))
    })
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wish {
    over: Option<f64>,
    server: Option<String>,
    #[serde(default)]
    moved: bool,
}

/// `POST /api/v1/drain`
pub(super) fn drain(call: &Call<'_>) -> Result<Answer, Problem> {
    let wish: Wish = if call.body.is_empty() {
        Wish::default()
    } else {
        serde_json::from_slice(&call.body).map_err(|error| {
            Problem::invalid(format!("the body is not {{\"over\":30}}: {error}"))
        })?
    };
    let settings = &call.live.drain;
    let over = match wish.over {
        None => settings.over,
        Some(secs) if (0.0..=DRAIN_SECS).contains(&secs) => Duration::from_secs_f64(secs),
        Some(_) => {
            let detail = format!("`over` must be 0 to {DRAIN_SECS} seconds");
            return Err(Problem::invalid(detail));
        }
    };
    let elsewhere = match wish.server {
        None => settings.elsewhere.clone(),
        Some(server) if server.is_empty() => None,
        Some(server) => {
            Server::check(&server).map_err(|why| Problem::invalid(format!("`server`: {why}")))?;
            Some(Elsewhere {
                server: server.into(),
                for_good: wish.moved,
            })
        }
    };
    if call.net.hub.is_stopping() {
        let detail = "the broker is stopping already";
        return Err(Problem::new(StatusCode::CONFLICT, "stopping", detail));
    }
    let clients = call.net.hub.connected_count();
    let value = json!({
        "clients": clients,
        "overSeconds": over.as_secs_f64(),
        "server": elsewhere.as_ref().map(|elsewhere| &*elsewhere.server),
    });
    call.net
        .api
        .control
        .order(Order::Drain(DrainWish { over, elsewhere }))?;
    Ok(body::json(StatusCode::ACCEPTED, &value).into())
}
