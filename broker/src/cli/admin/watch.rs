//! Why a message goes where it goes, and what happens to a client or on a topic.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::http::{Ask, Http};
use super::table::{Column, cell, table};
use super::{Access, pretty};
use crate::config::duration;
use crate::telemetry::Untrusted;

/// Bytes of one line of a trace.
const LINE_BYTES: usize = 1024 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "\
polycast explain --from mqtt --topic a/b --as stomp\n\
\n\
Nothing is published. Without --client and --user the publisher is somebody unknown.")]
pub(in crate::cli) struct Explain {
    /// The topic of the message
    #[arg(long, short, value_name = "TOPIC")]
    topic: String,
    /// What the publisher speaks: mqtt, stomp, json, http
    #[arg(long, value_name = "PROTOCOL", default_value = "mqtt")]
    from: String,
    /// Only receivers that speak it: mqtt, stomp, json
    #[arg(long = "as", value_name = "PROTOCOL")]
    to: Option<String>,
    /// Quality of service
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// The publisher, a client that is known
    #[arg(long, value_name = "ID", conflicts_with = "user")]
    client: Option<String>,
    /// The publisher, by its user name
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    access: Access,
}

impl Explain {
    pub(in crate::cli) fn run(self) -> ExitCode {
        self.access.run(async |mut http| {
            let ask = Ask::get(&["explain"])
                .with("topic", Some(&self.topic))
                .with("from", Some(&self.from))
                .with("as", self.to.as_ref())
                .with("qos", Some(self.qos))
                .with("clientId", self.client.as_ref())
                .with("user", self.user.as_ref());
            let said = http.ask(ask).await?;
            if http.wants_json() {
                return Ok(pretty(&said));
            }
            Ok(explanation(&said))
        })
    }
}

fn explanation(said: &Value) -> String {
    // Writing into a string does not fail.
    let publish = &said["publish"];
    let verdict = |of: &Value| match of["allowed"].as_bool() {
        Some(true) => "allowed",
        _ => "denied",
    };
    let mut text = format!(
        "{} on {}: {}\n  {}\n\n",
        cell(&publish["action"]),
        cell(&said["topic"]),
        verdict(publish),
        cell(&publish["rule"])
    );
    let list = |name: &str| said[name].as_array().map_or(&[][..], Vec::as_slice);
    let receivers = list("receivers");
    if receivers.is_empty() && list("shared").is_empty() {
        text.push_str("nobody would receive it\n");
    }
    for row in receivers {
        text.push_str(&receiver(row));
    }
    if !said["cursor"].is_null() {
        text.push_str("… and more\n");
    }
    let columns = &[
        Column("ONE MEMBER OF", |row| cell(&row["name"])),
        Column("MEMBERS", |row| cell(&row["members"])),
        Column("WAITING", |row| cell(&row["waiting"])),
    ];
    if !list("shared").is_empty() {
        text.push('\n');
        text.push_str(&table(columns, list("shared")));
    }
    for (protocol, frame) in said["frames"].as_object().into_iter().flatten() {
        let Some(frame) = frame.as_str() else {
            continue;
        };
        let _ = write!(text, "\nin {}:\n", Untrusted(protocol));
        for line in frame.trim_end().lines() {
            let _ = writeln!(text, "  {}", Untrusted(line));
        }
    }
    text
}

fn receiver(row: &Value) -> String {
    let user = match row["user"].as_str() {
        Some(user) => format!(", user {}", Untrusted(user)),
        None => String::new(),
    };
    let subscriptions: Vec<String> = row["subscriptions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(cell)
        .collect();
    format!(
        "{} ({}{user}) by {} at QoS {}: {}\n  {}\n",
        cell(&row["clientId"]),
        cell(&row["protocol"]),
        subscriptions.join(", "),
        cell(&row["qos"]),
        cell(&row["outcome"]),
        cell(&row["rule"]),
    )
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Trace {
    #[command(subcommand)]
    what: What,
    /// When it ends: 30s, 10min, at most an hour
    #[arg(long = "for", global = true, value_name = "TIME", default_value = "60s", value_parser = duration)]
    time: Duration,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What one client does and gets
    Client {
        /// Client identifier
        id: String,
    },
    /// What is published and delivered on topics, and who subscribes to them
    Topic {
        /// A topic filter
        filter: String,
    },
}

impl Trace {
    pub(in crate::cli) fn run(self) -> ExitCode {
        self.access.run(async |mut http| {
            let seconds = self.time.as_secs().max(1);
            let ask = Ask::get(&["trace"]).with("seconds", Some(seconds));
            let ask = match &self.what {
                What::Client { id } => ask.with("clientId", Some(id)),
                What::Topic { filter } => ask.with("topic", Some(filter)),
            };
            follow(&mut http, ask).await?;
            Ok(String::new())
        })
    }
}

async fn follow(http: &mut Http, ask: Ask<'_>) -> Result<()> {
    let mut body = http.stream(ask).await?;
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the broker has closed the connection")?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if !show(&line, http.wants_json())? {
                return Ok(());
            }
        }
        anyhow::ensure!(rest.len() <= LINE_BYTES, "the answer is no trace");
    }
    Ok(())
}

/// Prints one event; `false` when nobody reads any more.
fn show(line: &[u8], as_json: bool) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    let written = if as_json {
        out.write_all(line)
    } else {
        let event: Value = serde_json::from_slice(line).context("the answer is no trace")?;
        out.write_all(event_line(&event).as_bytes())
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true).map_err(Into::into),
    }
}

/// `12:34:56.789 delivered   sensor-1  a/b  protocol=stomp qos=1 …`
fn event_line(event: &Value) -> String {
    let at = event["at"].as_u64().map_or_else(String::new, |at| {
        let (secs, ms) = (at / 1000 % 86_400, at % 1000);
        format!(
            "{:02}:{:02}:{:02}.{ms:03} ",
            secs / 3600,
            secs / 60 % 60,
            secs % 60
        )
    });
    let mut text = format!("{at}{:12}", cell(&event["event"]));
    for name in ["clientId", "topic", "filter"] {
        if event.get(name).is_some() {
            let _ = write!(text, " {}", cell(&event[name]));
        }
    }
    for (name, value) in event.as_object().into_iter().flatten() {
        if !["at", "event", "clientId", "topic", "filter"].contains(&name.as_str()) {
            let _ = write!(text, " {}={}", Untrusted(name), cell(value));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_one_line() {
        let event = json!({"at": 3_723_004, "event": "delivered", "clientId": "a\nb", "topic": "t", "qos": 1});
        assert_eq!(
            event_line(&event),
            "01:02:03.004 delivered    a\\nb t qos=1\n"
        );
        assert_eq!(event_line(&json!({"event": "end"})), "end         \n");
    }
}
