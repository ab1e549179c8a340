//! What clients have: clients, topics, subscriptions, retained messages, groups, bans, revocations.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::http::{Ask, Http, object};
use super::table::{Column, bytes, cell, moment, pairs, table};
use super::{Access, pretty};
use crate::cli::{fail, say};
use crate::config::duration;

/// Rows that are shown unless it is said otherwise.
const ROWS: usize = 1000;

/// Fetches a list and prints it.
async fn list(
    http: &mut Http,
    path: &[&str],
    name: &str,
    query: &[(&str, Option<String>)],
    (limit, columns): (usize, &[Column]),
) -> Result<String> {
    let (rows, more) = http.rows(path, name, query, limit).await?;
    if http.wants_json() {
        return Ok(pretty(&Value::Array(rows)));
    }
    if more {
        say(&format!(
            "there are more than these {limit}: --limit shows more"
        ));
    }
    Ok(table(columns, &rows))
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Clients {
    #[command(subcommand)]
    command: ClientsCommand,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum ClientsCommand {
    /// Who is connected
    List {
        /// Only those of a user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Only those that speak it: mqtt, stomp, json
        #[arg(long, value_name = "NAME")]
        protocol: Option<String>,
        /// Only those that came by it: tcp, tls, ws, wss, http
        #[arg(long, value_name = "NAME")]
        transport: Option<String>,
        /// Only those whose identifier begins so
        #[arg(long, value_name = "TEXT")]
        prefix: Option<String>,
        /// Only those whose identifier or user has this in it, in whichever case
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Sessions whose clients are away too
        #[arg(long)]
        all: bool,
        /// Rows to show
        #[arg(long, value_name = "ROWS", default_value_t = ROWS)]
        limit: usize,
    },
    /// All about one client, connected or not
    Show {
        /// Client identifier
        id: String,
    },
    /// End a client's connection; its session stays
    Kick {
        /// Client identifier
        id: String,
        /// End its session too, with all that waits in it
        #[arg(long)]
        end_session: bool,
    },
}

const CLIENTS: &[Column] = &[
    Column("CLIENT", |row| cell(&row["clientId"])),
    Column("USER", |row| cell(&row["user"])),
    Column("PROTOCOL", |row| cell(&row["protocol"])),
    Column("BY", |row| cell(&row["transport"])),
    Column("ADDRESS", |row| cell(&row["address"])),
    Column("CONNECTED AT", |row| moment(&row["connectedAt"])),
    Column("SUBSCRIPTIONS", |row| cell(&row["subscriptions"])),
    Column("QUEUED", |row| cell(&row["queued"])),
];

const SUBSCRIPTIONS: &[Column] = &[
    Column("TOPIC", |row| cell(&row["topic"])),
    Column("QOS", |row| cell(&row["qos"])),
    Column("DURABLE", |row| cell(&row["durable"])),
];

impl Clients {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let command = self.command;
        self.access.run(async |mut http| match command {
            ClientsCommand::List {
                user,
                protocol,
                transport,
                prefix,
                search,
                all,
                limit,
            } => {
                let name = if all { "sessions" } else { "clients" };
                let query = [
                    ("user", user),
                    ("protocol", protocol),
                    ("transport", transport),
                    ("clientIdPrefix", prefix),
                    ("search", search),
                ];
                list(&mut http, &[name], name, &query, (limit, CLIENTS)).await
            }
            ClientsCommand::Show { id } => show_client(&mut http, &id).await,
            ClientsCommand::Kick { id, end_session } => {
                let path = ["clients", &id];
                let ask = Ask::new(Method::DELETE, &path);
                let ends = end_session.then_some(true);
                http.ask(ask.with("endSession", ends)).await?;
                Ok(String::new())
            }
        })
    }
}

async fn show_client(http: &mut Http, id: &str) -> Result<String> {
    let mut client = http.ask(Ask::get(&["clients", id])).await?;
    let path = ["clients", id, "subscriptions"];
    let (held, _) = http.rows(&path, "subscriptions", &[], ROWS).await?;
    if http.wants_json() {
        client["subscriptions"] = Value::Array(held);
        return Ok(pretty(&client));
    }
    let field = |name: &'static str| (name, cell(&client[name]));
    let mut rows = vec![
        ("client", cell(&client["clientId"])),
        field("user"),
        field("connected"),
        ("connection", cell(&client["connectionId"])),
        field("protocol"),
        field("transport"),
        field("address"),
        ("connected at", moment(&client["connectedAt"])),
        ("last active", moment(&client["lastActiveAt"])),
        field("durable"),
        (
            "queued",
            format!(
                "{} ({})",
                cell(&client["queued"]),
                bytes(&client["queuedBytes"])
            ),
        ),
        ("ends at", moment(&client["endsAt"])),
    ];
    rows.retain(|(_, value)| value != "-");
    let mut text = pairs(&rows);
    if !held.is_empty() {
        text.push('\n');
        text.push_str(&table(SUBSCRIPTIONS, &held));
    }
    Ok(text)
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Topics {
    /// Only topics that this filter matches
    filter: Option<String>,
    /// Rows to show
    #[arg(long, value_name = "ROWS", default_value_t = ROWS)]
    limit: usize,
    #[command(flatten)]
    access: Access,
}

impl Topics {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let columns = &[
            Column("TOPIC", |row| cell(&row["topic"])),
            Column("SUBSCRIBERS", |row| cell(&row["subscribers"])),
            Column("SHARED", |row| cell(&row["shared"])),
            Column("RETAINED", |row| cell(&row["retained"])),
        ];
        let query = [("filter", self.filter)];
        self.access.run(async |mut http| {
            list(
                &mut http,
                &["topics"],
                "topics",
                &query,
                (self.limit, columns),
            )
            .await
        })
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Subscriptions {
    /// Only those of one client
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Rows to show
    #[arg(long, value_name = "ROWS", default_value_t = ROWS)]
    limit: usize,
    #[command(flatten)]
    access: Access,
}

impl Subscriptions {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let all = &[
            Column("CLIENT", |row| cell(&row["clientId"])),
            Column("TOPIC", |row| cell(&row["topic"])),
            Column("QOS", |row| cell(&row["qos"])),
            Column("DURABLE", |row| cell(&row["durable"])),
        ];
        self.access.run(async |mut http| match &self.client {
            Some(id) => {
                let path = ["clients", id, "subscriptions"];
                let how = (self.limit, SUBSCRIPTIONS);
                list(&mut http, &path, "subscriptions", &[], how).await
            }
            None => {
                let path = ["subscriptions"];
                list(
                    &mut http,
                    &path,
                    "subscriptions",
                    &[],
                    (self.limit, &all[..]),
                )
                .await
            }
        })
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Retained {
    #[command(subcommand)]
    command: RetainedCommand,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum RetainedCommand {
    /// Retained messages by topic
    List {
        /// Only topics that this filter matches
        filter: Option<String>,
        /// Rows to show
        #[arg(long, value_name = "ROWS", default_value_t = ROWS)]
        limit: usize,
    },
    /// The retained message of a topic; its payload alone with --raw
    Show {
        /// The topic
        topic: String,
        /// The payload as it stands
        #[arg(long)]
        raw: bool,
    },
    /// Remove retained messages, without telling subscribers
    Clear {
        /// The topic, or a filter with wildcards together with --yes
        topic: String,
        /// Remove all that the filter matches
        #[arg(long)]
        yes: bool,
    },
}

impl Retained {
    pub(in crate::cli) fn run(self) -> ExitCode {
        if let RetainedCommand::Show { topic, raw: true } = &self.command {
            return show_raw(&self.access, topic);
        }
        let columns = &[
            Column("TOPIC", |row| cell(&row["topic"])),
            Column("SIZE", |row| bytes(&row["size"])),
            Column("QOS", |row| cell(&row["qos"])),
            Column("TYPE", |row| cell(&row["contentType"])),
            Column("EXPIRES AT", |row| moment(&row["expiresAt"])),
        ];
        let command = self.command;
        self.access.run(async |mut http| match command {
            RetainedCommand::List { filter, limit } => {
                let query = [("filter", filter)];
                list(
                    &mut http,
                    &["retained"],
                    "retained",
                    &query,
                    (limit, columns),
                )
                .await
            }
            RetainedCommand::Show { topic, .. } => show_retained(&mut http, &topic).await,
            RetainedCommand::Clear { topic, yes } => clear(&mut http, &topic, yes).await,
        })
    }
}

async fn show_retained(http: &mut Http, topic: &str) -> Result<String> {
    let message = http.ask(Ask::get(&["retained", topic])).await?;
    if http.wants_json() {
        return Ok(pretty(&message));
    }
    let mut rows = vec![("topic", cell(&message["topic"]))];
    for name in ["qos", "contentType", "expiresAt", "headers"] {
        rows.push((name, cell(&message[name])));
    }
    rows.retain(|(_, value)| value != "-");
    rows.push(("type", cell(&message["dataType"])));
    rows.push(("data", cell(&message["data"])));
    Ok(pairs(&rows))
}

/// Bytes are not for [`Access::run`], which prints text.
fn show_raw(access: &Access, topic: &str) -> ExitCode {
    use std::io::{IsTerminal as _, Write as _};
    access.run(async |mut http| {
        let path = ["retained", topic];
        let ask = Ask::get(&path);
        let payload = http.ask_bytes(ask.with("raw", Some(true))).await?;
        let mut out = std::io::stdout().lock();
        if out.is_terminal() && std::str::from_utf8(&payload).is_err() {
            bail!("the payload is not text: send it to a file or a pipe");
        }
        match out.write_all(&payload).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(String::new()),
        }
    })
}

async fn clear(http: &mut Http, topic: &str, yes: bool) -> Result<String> {
    let is_filter = topic.contains(['+', '#']);
    ensure!(
        yes || !is_filter,
        "{topic} may stand for many topics: `polycast retained list {topic}` shows them, --yes \
         removes them"
    );
    if !is_filter {
        http.ask(Ask::new(Method::DELETE, &["retained", topic]))
            .await?;
        return Ok(String::new());
    }
    let query = [("filter", Some(topic.to_owned()))];
    let (rows, _) = http
        .rows(&["retained"], "retained", &query, usize::MAX)
        .await?;
    let mut removed = 0;
    for row in &rows {
        let Some(topic) = row["topic"].as_str() else {
            continue;
        };
        http.ask(Ask::new(Method::DELETE, &["retained", topic]))
            .await?;
        removed += 1;
    }
    if http.wants_json() {
        return Ok(pretty(&json!({"removed": removed})));
    }
    Ok(format!("{removed} retained messages were removed\n"))
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Groups {
    /// Who is connected of the group `$group/NAME`; without it, all shared groups and queues
    name: Option<String>,
    /// Rows to show
    #[arg(long, value_name = "ROWS", default_value_t = ROWS)]
    limit: usize,
    #[command(flatten)]
    access: Access,
}

impl Groups {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let groups = &[
            Column("GROUP", |row| cell(&row["name"])),
            Column("KIND", |row| cell(&row["kind"])),
            Column("MEMBERS", |row| cell(&row["members"])),
            Column("WAITING", |row| cell(&row["waiting"])),
            Column("DURABLE", |row| cell(&row["durable"])),
        ];
        let members = &[
            Column("CLIENT", |row| cell(&row["clientId"])),
            Column("USER", |row| cell(&row["user"])),
            Column("CONNECTION", |row| cell(&row["connectionId"])),
        ];
        self.access.run(async |mut http| match &self.name {
            Some(name) => {
                let path = ["groups", name, "members"];
                list(&mut http, &path, "members", &[], (self.limit, &members[..])).await
            }
            None => {
                list(
                    &mut http,
                    &["groups"],
                    "groups",
                    &[],
                    (self.limit, &groups[..]),
                )
                .await
            }
        })
    }
}

/// Whom a ban or a revocation names.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// A user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A client identifier
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Bans: an address or a network (192.0.2.0/24)
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Revocations: one token, by its name (`jti`)
    #[arg(long, value_name = "JTI")]
    token_id: Option<String>,
}

impl Whom {
    fn fields(&self) -> [(&'static str, Option<String>); 4] {
        [
            ("user", self.user.clone()),
            ("clientId", self.client.clone()),
            ("address", self.address.clone()),
            ("tokenId", self.token_id.clone()),
        ]
    }
}

#[derive(Debug, Subcommand)]
enum KeepOut {
    /// All that hold now
    List {
        /// Rows to show
        #[arg(long, value_name = "ROWS", default_value_t = ROWS)]
        limit: usize,
    },
    /// Add one; connections that it concerns are closed at once
    Add {
        #[command(flatten)]
        whom: Whom,
        /// Time until it ends: 15min, 2h, 30d
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        time: Option<std::time::Duration>,
        /// Bans: why, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Take one back
    Lift {
        #[command(flatten)]
        whom: Whom,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Bans {
    #[command(subcommand)]
    command: KeepOut,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Revocations {
    #[command(subcommand)]
    command: KeepOut,
    #[command(flatten)]
    access: Access,
}

fn who(row: &Value) -> String {
    let names = ["user", "clientId", "address", "tokenId"];
    let found = names.iter().find(|name| row.get(**name).is_some());
    found.map_or_else(String::new, |name| format!("{name} {}", cell(&row[*name])))
}

impl Bans {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let columns = &[
            Column("WHO", who),
            Column("UNTIL", |row| moment(&row["until"])),
            Column("REASON", |row| cell(&row["reason"])),
        ];
        self.command.run(&self.access, "bans", columns)
    }
}

impl Revocations {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let columns = &[
            Column("WHO", who),
            Column("REVOKED AT", |row| moment(&row["revokedAt"])),
            Column("UNTIL", |row| moment(&row["until"])),
        ];
        self.command.run(&self.access, "revocations", columns)
    }
}

impl KeepOut {
    fn run(self, access: &Access, name: &'static str, columns: &[Column]) -> ExitCode {
        if let Self::Add {
            reason: Some(_), ..
        } = self
            && name == "revocations"
        {
            return fail("--reason is for bans");
        }
        access.run(async |mut http| match self {
            Self::List { limit } => list(&mut http, &[name], name, &[], (limit, columns)).await,
            Self::Add { whom, time, reason } => {
                let mut fields: Vec<_> = whom
                    .fields()
                    .into_iter()
                    .map(|(name, value)| (name, value.map(Value::from)))
                    .collect();
                fields.push(("expiresIn", time.map(|time| json!(time.as_secs()))));
                fields.push(("reason", reason.map(Value::from)));
                let path = [name];
                let ask = Ask::new(Method::POST, &path).body(object(&fields));
                let done = http.ask(ask).await?;
                if http.wants_json() {
                    return Ok(pretty(&done));
                }
                let mut text = format!("{} connections were closed", done["connections"]);
                if let Some(sessions) = done["sessions"].as_u64() {
                    text = format!("{text}, {sessions} sessions have ended");
                }
                Ok(text + "\n")
            }
            Self::Lift { whom } => {
                let path = [name];
                let mut ask = Ask::new(Method::DELETE, &path);
                for (name, value) in whom.fields() {
                    ask = ask.with(name, value);
                }
                http.ask(ask).await?;
                Ok(String::new())
            }
        })
    }
}
