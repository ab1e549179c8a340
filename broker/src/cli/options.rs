//! What `publish` and `subscribe` have in common: whom to connect to, and as whom.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use protocols::model::{Properties, QoS};
use protocols::mqtt::Version;

use super::client::{self, Client, Login, Outgoing, Protocol, Target, Trust};
use super::fail;

/// What mosquitto's clients end with when the time of `-W` is over.
pub(super) const TIMED_OUT: u8 = 27;

/// How long a session is asked to stay with `--no-clean-start` alone.
const SESSION_EXPIRY_SECS: u32 = 24 * 3600;

pub(super) const EXIT_CODES: &str = "\
Exit codes: 0 if all went well, 1 if not, 2 for a mistake on the command line, 27 if the time of -W\n\
was over, 130 after an interrupt.";

#[derive(Debug, Args)]
pub(super) struct Connection {
    /// The broker: mqtt://, mqtts://, stomp://, stomps://, ws:// or wss://; user, password and
    /// topic may be part of it
    #[arg(default_value = "mqtt://127.0.0.1:1883", value_name = "URL")]
    url: String,
    /// What to speak in a WebSocket [default: by the path: /mqtt, /stomp, otherwise json]
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Client identifier
    #[arg(short, long = "id", value_name = "ID")]
    id: Option<String>,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password; others on this machine can see it, unlike that of --password-file
    #[arg(short = 'P', long)]
    password: Option<String>,
    /// File with the password in its first line
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    password_file: Option<PathBuf>,
    /// Version of MQTT: 5 or 3.1.1
    #[arg(short = 'V', long, value_name = "VERSION", default_value = "5", value_parser = version)]
    mqtt_version: Version,
    /// Seconds of silence after which to show a sign of life; 0 for never
    #[arg(short, long, value_name = "SECS", default_value_t = 60)]
    keep_alive: u16,
    /// Go on with the session of this client identifier, and leave it when done
    #[arg(short = 'c', long, requires = "id")]
    no_clean_start: bool,
    /// Seconds that the session outlives the connection [default: 0, with -c a day]
    #[arg(short = 'x', long, value_name = "SECS")]
    session_expiry: Option<u32>,
    /// Certificates to trust instead of the system's (PEM)
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// Certificate to show to the broker (PEM), with --key
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Accept any certificate: the connection is then encrypted, but to whom is not known
    #[arg(long, conflicts_with = "cafile")]
    insecure: bool,
    /// Topic of the last will, published if the connection is lost (MQTT)
    #[arg(long, value_name = "TOPIC")]
    will_topic: Option<String>,
    /// Its payload
    #[arg(long, value_name = "TEXT", requires = "will_topic")]
    will_payload: Option<String>,
    /// Its quality of service
    #[arg(long, value_name = "QOS", requires = "will_topic", value_parser = qos)]
    will_qos: Option<QoS>,
    /// Whether to keep it
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
}

impl Connection {
    pub(super) fn target(&self) -> Result<Target> {
        Target::parse(&self.url, self.protocol)
    }

    /// Connects and logs in.
    pub(super) async fn connect(&self, target: &Target) -> Result<Box<dyn Client>> {
        if self.insecure && target.is_tls() {
            super::say("warning: --insecure accepts any certificate");
        }
        client::connect(target, &self.login(target)?, &self.trust()).await
    }

    /// Connects as one of many, with a client identifier and a will of its own.
    pub(super) async fn connect_as(
        &self,
        target: &Target,
        client_id: String,
        will: Outgoing,
    ) -> Result<Box<dyn Client>> {
        let login = Login {
            client_id: Some(client_id),
            will: Some(will),
            ..self.login(target)?
        };
        client::connect(target, &login, &self.trust()).await
    }

    fn trust(&self) -> Trust {
        Trust {
            ca_file: self.cafile.clone(),
            identity: self.cert.clone().zip(self.key.clone()),
            insecure: self.insecure,
        }
    }

    fn login(&self, target: &Target) -> Result<Login> {
        let password = match &self.password_file {
            Some(file) => Some(first_line(file)?),
            None => self.password.clone().or_else(|| target.password.clone()),
        };
        let default_expiry = if self.no_clean_start {
            SESSION_EXPIRY_SECS
        } else {
            0
        };
        Ok(Login {
            client_id: self.id.clone(),
            username: self.username.clone().or_else(|| target.username.clone()),
            password,
            version: self.mqtt_version,
            keep_alive: Duration::from_secs(self.keep_alive.into()),
            clean_start: !self.no_clean_start,
            session_expiry_secs: self.session_expiry.unwrap_or(default_expiry),
            will: self.will(),
        })
    }

    fn will(&self) -> Option<Outgoing> {
        Some(Outgoing {
            topic: self.will_topic.clone()?,
            payload: Bytes::from(self.will_payload.clone().unwrap_or_default()),
            qos: self.will_qos.unwrap_or_default(),
            retain: self.will_retain,
            properties: Properties::default(),
            expiry_secs: None,
        })
    }
}

fn first_line(file: &PathBuf) -> Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the password from {}", file.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "5" | "5.0" | "mqttv5" => Ok(Version::V5),
        "3.1.1" | "311" | "4" | "mqttv311" => Ok(Version::V311),
        _ => Err("there are 5 and 3.1.1".to_owned()),
    }
}

/// Reads a quality of service.
pub(super) fn qos(text: &str) -> Result<QoS, String> {
    text.parse()
        .ok()
        .and_then(QoS::from_u8)
        .ok_or_else(|| "there are 0, 1 and 2".to_owned())
}

/// Reads whole or broken seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|secs| Duration::try_from_secs_f64(secs).ok())
        .ok_or_else(|| "a number of seconds is needed".to_owned())
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Well,
    TimedOut,
    Interrupted,
}

/// Runs a client's work on a runtime of its own and gives its outcome as an exit code.
pub(super) fn run(work: impl Future<Output = Result<Ended>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime
        .context("the runtime cannot be started")
        .and_then(|runtime| {
            let ended = runtime.block_on(work);
            // A thread that waits for a line of the standard input must not hold up the end.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::TimedOut) => ExitCode::from(TIMED_OUT),
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// Waits for the time of `-W`, if there is one.
pub(super) async fn timeout(after: Option<Duration>) {
    match after {
        Some(after) => tokio::time::sleep(after).await,
        None => std::future::pending().await,
    }
}

/// Waits for an interrupt.
pub(super) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without the signal's handler, an interrupt ends the process anyway.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_fingers_know_them() {
        assert_eq!(version("mqttv311"), Ok(Version::V311));
        assert_eq!(version("5"), Ok(Version::V5));
        assert!(version("3.1").is_err());
        assert_eq!(qos("2"), Ok(QoS::ExactlyOnce));
        assert!(qos("3").is_err());
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("-1").is_err());
        assert!(seconds("soon").is_err());
    }
}
