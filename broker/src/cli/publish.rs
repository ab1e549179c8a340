//! `polycast publish`.

use std::io::{BufRead as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use protocols::model::{Properties, QoS};
use tokio::sync::mpsc;

use super::client::{Client, Outgoing};
use super::options::{self, Connection, EXIT_CODES, Ended};

/// Lines that are read ahead of what was published.
const LINES_AHEAD: usize = 64;

#[derive(Debug, Args)]
#[command(
    after_help = EXIT_CODES,
    group = clap::ArgGroup::new("payload").required(true).multiple(false)
)]
pub(super) struct Publish {
    #[command(flatten)]
    connection: Connection,
    /// Where to publish; over STOMP, what begins with / is a destination as it stands
    #[arg(short, long)]
    topic: Option<String>,
    /// Publish this text
    #[arg(
        short,
        long,
        value_name = "TEXT",
        group = "payload",
        allow_hyphen_values = true
    )]
    message: Option<String>,
    /// Publish the content of this file
    #[arg(short, long, group = "payload")]
    file: Option<PathBuf>,
    /// Publish each line of the standard input
    #[arg(short, long, group = "payload")]
    lines: bool,
    /// Publish the standard input as one message
    #[arg(short, long, group = "payload")]
    stdin: bool,
    /// Publish an empty message
    #[arg(short, long, group = "payload")]
    null: bool,
    /// Quality of service: 0, 1 or 2
    #[arg(short, long, value_name = "QOS", default_value = "0", value_parser = options::qos)]
    qos: QoS,
    /// Keep the message for later subscribers; an empty one deletes it
    #[arg(short, long)]
    retain: bool,
    /// User property (header); may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// MIME type of the payload
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Topic for the answer
    #[arg(long, value_name = "TOPIC")]
    reply_to: Option<String>,
    /// What ties the answer to this message
    #[arg(long, value_name = "TEXT")]
    correlation: Option<String>,
    /// Seconds after which the message is of no more interest
    #[arg(long, value_name = "SECS")]
    expiry: Option<u32>,
    /// Publish it so many times
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        conflicts_with = "lines"
    )]
    repeat: u64,
    /// Seconds between two of them
    #[arg(long, value_name = "SECS", default_value = "0", value_parser = options::seconds)]
    repeat_delay: Duration,
    /// Seconds after which to give up
    #[arg(short = 'W', long, value_name = "SECS", value_parser = options::seconds)]
    timeout: Option<Duration>,
}

fn header(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "NAME=VALUE is needed".to_owned())
}

pub(super) fn run(arguments: &Publish) -> ExitCode {
    options::run(async {
        tokio::select! {
            ended = arguments.publish() => ended.map(|()| Ended::Well),
            () = options::timeout(arguments.timeout) => Ok(Ended::TimedOut),
            () = options::interrupted() => Ok(Ended::Interrupted),
        }
    })
}

impl Publish {
    async fn publish(&self) -> Result<()> {
        let target = self.connection.target()?;
        let topic = self.topic.clone().or_else(|| target.topic.clone());
        let topic = topic.context("where to? -t TOPIC is missing")?;
        // Read before connecting: a file that is not there needs no broker.
        let payload = self.payload().await?;
        let mut client = self.connection.connect(&target).await?;
        match payload {
            Some(payload) => {
                let message = self.message(topic, payload);
                self.repeatedly(client.as_mut(), &message).await?;
            }
            None => self.each_line(client.as_mut(), &topic).await?,
        }
        client.settle().await?;
        client.close().await
    }

    /// The payload; `None` if each line is one.
    async fn payload(&self) -> Result<Option<Bytes>> {
        if let Some(text) = &self.message {
            return Ok(Some(Bytes::from(text.clone())));
        }
        if let Some(file) = &self.file {
            let bytes =
                std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            return Ok(Some(bytes.into()));
        }
        if self.stdin {
            let read = tokio::task::spawn_blocking(|| {
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
            });
            let bytes = read.await?.context("cannot read the standard input")?;
            return Ok(Some(bytes.into()));
        }
        Ok(self.null.then(Bytes::new))
    }

    fn message(&self, topic: String, payload: Bytes) -> Outgoing {
        Outgoing {
            topic,
            payload,
            qos: self.qos,
            retain: self.retain,
            properties: Properties {
                content_type: self.content_type.clone().map(Into::into),
                reply_to: self.reply_to.clone().map(Into::into),
                correlation: self.correlation.clone().map(Bytes::from),
                user: self
                    .headers
                    .iter()
                    .map(|(name, value)| (name.clone().into(), value.clone().into()))
                    .collect(),
            },
            expiry_secs: self.expiry,
        }
    }

    async fn repeatedly(&self, client: &mut dyn Client, message: &Outgoing) -> Result<()> {
        for round in 0..self.repeat {
            if round > 0 && !self.repeat_delay.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(self.repeat_delay) => {}
                    ended = client.idle() => match ended? {},
                }
            }
            client.publish(message.clone()).await?;
        }
        Ok(())
    }

    async fn each_line(&self, client: &mut dyn Client, topic: &str) -> Result<()> {
        let mut lines = read_lines();
        loop {
            let line = tokio::select! {
                line = lines.recv() => line,
                ended = client.idle() => match ended? {},
            };
            let Some(line) = line else { return Ok(()) };
            let line = line.context("cannot read the standard input")?;
            let message = self.message(topic.to_owned(), line);
            client.publish(message).await?;
        }
    }
}

/// Reads lines in a thread of its own: the standard input cannot be awaited.
fn read_lines() -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => Ok(Bytes::from(without_end(line))),
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

fn without_end(mut line: Vec<u8>) -> Vec<u8> {
    if line.pop_if(|last| *last == b'\n').is_some() {
        line.pop_if(|last| *last == b'\r');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_end_only() {
        assert_eq!(without_end(b"a\r\n".to_vec()), b"a");
        assert_eq!(without_end(b"a\n\n".to_vec()), b"a\n");
        assert_eq!(without_end(b"a\r".to_vec()), b"a\r");
    }

    #[test]
    fn headers_may_hold_the_sign() {
        assert_eq!(header("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(header("a").is_err());
    }
}
