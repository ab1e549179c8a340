//! `polycast subscribe`.

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use protocols::connection::RetainHandling;
use protocols::model::QoS;

use super::client::{Client, Incoming, Subscription};
use super::options::{self, Connection, EXIT_CODES, Ended};
use super::output::{Format, write_message};

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Subscribe {
    #[command(flatten)]
    connection: Connection,
    /// What to subscribe to, + and # allowed; may be repeated
    #[arg(short, long, value_name = "FILTER")]
    topic: Vec<String>,
    /// Highest quality of service: 0, 1 or 2
    #[arg(short, long, value_name = "QOS", default_value = "0", value_parser = options::qos)]
    qos: QoS,
    /// Print the topic before each message
    #[arg(short, long)]
    verbose: bool,
    /// Print each message as a JSON object with all that is known of it
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
    /// Print no line end after a message
    #[arg(short = 'N', long, conflicts_with = "json")]
    no_newline: bool,
    /// End after so many messages
    #[arg(short = 'C', long, value_name = "COUNT")]
    count: Option<u64>,
    /// Seconds after which to end
    #[arg(short = 'W', long, value_name = "SECS", value_parser = options::seconds)]
    timeout: Option<Duration>,
    /// Leave out messages that were kept from before
    #[arg(short = 'R', long)]
    no_retained: bool,
    /// Print only messages that were kept from before
    #[arg(long, conflicts_with = "no_retained")]
    retained_only: bool,
    /// Leave out what this same client publishes
    #[arg(long)]
    no_local: bool,
    /// End as soon as the subscription is made; with -c the session collects from then on
    #[arg(short = 'E', long)]
    exit_after_subscribing: bool,
}

pub(super) fn run(arguments: &Subscribe) -> ExitCode {
    options::run(arguments.subscribe())
}

impl Subscribe {
    async fn subscribe(&self) -> Result<Ended> {
        let target = self.connection.target()?;
        let mut filters = self.topic.clone();
        if filters.is_empty() {
            filters.extend(target.topic.clone());
        }
        ensure!(!filters.is_empty(), "to what? -t FILTER is missing");
        let timeout = options::timeout(self.timeout);
        let interrupted = options::interrupted();
        tokio::pin!(timeout, interrupted);
        let mut client = tokio::select! {
            client = self.begin(&target, &filters) => client?,
            () = &mut timeout => return Ok(Ended::TimedOut),
            () = &mut interrupted => return Ok(Ended::Interrupted),
        };
        let ended = if self.exit_after_subscribing {
            Ended::Well
        } else {
            tokio::select! {
                printed = self.print(client.as_mut()) => { printed?; Ended::Well }
                () = timeout => Ended::TimedOut,
                () = interrupted => Ended::Interrupted,
            }
        };
        client.close().await?;
        Ok(ended)
    }

    async fn begin(
        &self,
        target: &super::client::Target,
        filters: &[String],
    ) -> Result<Box<dyn Client>> {
        let mut client = self.connection.connect(target).await?;
        let subscriptions = filters
            .iter()
            .map(|filter| Subscription {
                filter: filter.clone(),
                qos: self.qos,
                no_local: self.no_local,
                retained: if self.no_retained {
                    RetainHandling::DoNotSend
                } else {
                    RetainHandling::Send
                },
            })
            .collect();
        client.subscribe(subscriptions).await?;
        Ok(client)
    }

    /// Prints until there were enough, or nobody reads any more.
    async fn print(&self, client: &mut dyn Client) -> Result<()> {
        let format = Format {
            topic: self.verbose,
            json: self.json,
            newline: !self.no_newline,
            terminal: io::stdout().is_terminal(),
        };
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let message = client.next().await?;
            if !self.wants(&message) {
                continue;
            }
            match write(&message, format) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.context("cannot write to the standard output")?,
            }
            left -= 1;
        }
        Ok(())
    }

    /// Brokers of old protocols send retained messages whatever was asked for.
    fn wants(&self, message: &Incoming) -> bool {
        match (self.retained_only, self.no_retained) {
            (true, _) => message.retained,
            (_, true) => !message.retained,
            _ => true,
        }
    }
}

fn write(message: &Incoming, format: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write_message(&mut out, message, format)?;
    out.flush()
}
