//! The broker itself: its status, reloading it, sending its clients away.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::http::{Ask, Http, object};
use super::table::{Column, bytes, cell, pairs, span, table};
use super::{Access, pretty};
use crate::cli::say;
use crate::config::duration;

/// Time between two looks at a broker that drains.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    access: Access,
}

impl Status {
    pub(in crate::cli) fn run(self) -> ExitCode {
        self.access.run(async |mut http| {
            let status = http.ask(Ask::get(&["status"])).await?;
            if http.wants_json() {
                return Ok(pretty(&status));
            }
            Ok(overview(&status))
        })
    }
}

fn overview(status: &Value) -> String {
    let number = |name: &str| cell(&status[name]);
    let state = match status["reason"].as_str() {
        Some(reason) => format!("{}: {reason}", number("status")),
        None => number("status"),
    };
    let retained = &status["retained"];
    let mut rows = vec![
        ("status", state),
        ("version", number("version")),
        ("up", span(status["uptimeSeconds"].as_u64().unwrap_or(0))),
        ("clients", number("clients")),
        ("sessions", number("sessions")),
        ("subscriptions", number("subscriptions")),
        ("groups", number("groups")),
        (
            "retained",
            format!(
                "{} ({})",
                cell(&retained["messages"]),
                bytes(&retained["bytes"])
            ),
        ),
    ];
    if let store @ Value::Object(_) = &status["store"] {
        let text = format!(
            "{} messages, {}, durability {}",
            cell(&store["messages"]),
            bytes(&store["bytes"]),
            cell(&store["durability"])
        );
        rows.push(("store", text));
    }
    rows.push(("bans", number("bans")));
    rows.push(("revocations", number("revocations")));
    if let draining @ Value::Object(_) = &status["draining"] {
        let text = format!(
            "{} clients, {} s left",
            cell(&draining["clients"]),
            cell(&draining["secondsLeft"])
        );
        rows.push(("draining", text));
    }
    let columns = &[
        Column("PROTOCOL", |row| cell(&row["protocol"])),
        Column("CONNECTIONS", |row| cell(&row["connections"])),
        Column("RECEIVED", |row| cell(&row["messagesReceived"])),
        Column("DELIVERED", |row| cell(&row["messagesDelivered"])),
    ];
    let protocols = status["protocols"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    format!("{}\n{}", pairs(&rows), table(columns, protocols))
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Reload {
    #[command(flatten)]
    access: Access,
}

impl Reload {
    pub(in crate::cli) fn run(self) -> ExitCode {
        self.access.run(async |mut http| {
            let changes = http.ask(Ask::new(Method::POST, &["reload"])).await?;
            if http.wants_json() {
                return Ok(pretty(&changes));
            }
            let lines = |name: &str| -> Vec<String> {
                let list = changes[name].as_array();
                list.into_iter().flatten().map(cell).collect()
            };
            let mut text = String::new();
            for change in lines("applied").iter().chain(&lines("needRestart")) {
                text.push_str(change);
                text.push('\n');
            }
            if text.is_empty() {
                text.push_str("nothing has changed\n");
            }
            Ok(text)
        })
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Drain {
    /// Time over which the clients are sent away [default: drain.spread of the broker]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    over: Option<Duration>,
    /// Another server for them [default: drain.server of the broker]
    #[arg(long, value_name = "SERVER")]
    server: Option<String>,
    /// They are to use that server from now on
    #[arg(long, requires = "server")]
    moved: bool,
    /// Wait until the broker has ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    access: Access,
}

impl Drain {
    pub(in crate::cli) fn run(self) -> ExitCode {
        self.access.run(async |mut http| {
            let wish = object(&[
                ("over", self.over.map(|over| json!(over.as_secs_f64()))),
                ("server", self.server.map(Value::from)),
                ("moved", self.moved.then_some(json!(true))),
            ]);
            let begun = http
                .ask(Ask::new(Method::POST, &["drain"]).body(wish))
                .await?;
            let text = if http.wants_json() {
                pretty(&begun)
            } else {
                format!(
                    "{} clients are sent away over {} s; then the broker ends\n",
                    cell(&begun["clients"]),
                    cell(&begun["overSeconds"])
                )
            };
            if self.wait {
                wait(&mut http).await?;
            }
            Ok(text)
        })
    }
}

/// Looks until the broker has gone. The connection that is there stays until then.
async fn wait(http: &mut Http) -> Result<()> {
    let mut last = None;
    while let Ok(status) = http.ask(Ask::get(&["status"])).await {
        let clients = status["clients"].as_u64();
        if clients != last {
            say(&format!("{} clients are left", clients.unwrap_or(0)));
            last = clients;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
