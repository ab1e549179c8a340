//! Commands for a running broker: they ask its HTTP API, and print tables or JSON.
//!
//! [`http`] asks, [`table`] prints; [`lists`] are the commands that show and change what clients have,
//! [`control`] those for the broker itself, [`watch`] explains and traces.

mod control;
mod http;
mod lists;
mod table;
mod watch;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use super::{fail, print};
pub(super) use control::{Drain, Reload, Status};
use http::Http;
pub(super) use lists::{Bans, Clients, Groups, Retained, Revocations, Subscriptions, Topics};
pub(super) use watch::{Explain, Trace};

/// Which broker, and who asks.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// The broker's HTTP port
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "POLYCAST_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// File with an API key or a token in its first line; without it, `POLYCAST_TOKEN`
    #[arg(long, global = true, value_name = "FILE", env = "POLYCAST_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Certificates to trust instead of the system's (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// Accept any certificate: the connection is then encrypted, but to whom is not known
    #[arg(long, global = true, conflicts_with = "cafile")]
    insecure: bool,
}

impl Access {
    /// The key or token. Never an argument: others on the machine could read it.
    fn token(&self) -> Result<Option<String>> {
        if let Some(path) = &self.token_file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("{} (--token-file) cannot be read", path.display()))?;
            return Ok(Some(
                text.lines().next().unwrap_or_default().trim().to_owned(),
            ));
        }
        let token = std::env::var("POLYCAST_TOKEN").ok();
        Ok(token.filter(|token| !token.is_empty()))
    }

    /// Runs a command that asks the broker.
    fn run<F>(&self, command: impl FnOnce(Http) -> F) -> ExitCode
    where
        F: Future<Output = Result<String>>,
    {
        let done = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime")
            .and_then(|runtime| {
                runtime.block_on(async {
                    let http = Http::open(self).await?;
                    command(http).await
                })
            });
        match done {
            Ok(text) => print(&text),
            Err(error) => fail(&format!("{error:#}")),
        }
    }
}

/// A value as `--json` prints it.
fn pretty(value: &Value) -> String {
    // Values can always be written.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
