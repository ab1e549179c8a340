//! `polycast serve`: configuration, log and runtime, then the server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::configuration::explain;
use super::fail;
use crate::config::{Config, Flag, Sources};
use crate::telemetry;

#[derive(Debug, Default, Args)]
#[command(after_help = "\
ADDR is host:port; with port 0 the system chooses one, `off` disables the listener.\n\
Each flag is also a key of the file and a variable (POLYCAST_MQTT__LISTEN), and wins over them;\n\
`polycast default-config` shows all keys.")]
pub(super) struct Serve {
    /// Configuration file (TOML); without it, the one that `POLYCAST_CONFIG` names, or none
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen for MQTT [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR")]
    mqtt: Option<String>,
    /// Where to listen for STOMP [default: 127.0.0.1:61613]
    #[arg(long, value_name = "ADDR")]
    stomp: Option<String>,
    /// Where to listen for HTTP and WebSocket [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Where to listen for MQTT over TLS [default: off]
    #[arg(long, value_name = "ADDR")]
    mqtts: Option<String>,
    /// Where to listen for STOMP over TLS [default: off]
    #[arg(long, value_name = "ADDR")]
    stomps: Option<String>,
    /// Where to listen for HTTP and WebSocket over TLS [default: off]
    #[arg(long, value_name = "ADDR")]
    https: Option<String>,
    /// The certificate for TLS, with those between it and the root (PEM)
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<String>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Where to keep files [default: ./polycast-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

impl Serve {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let flags = [
            ("--mqtt", "mqtt.listen", &self.mqtt),
            ("--stomp", "stomp.listen", &self.stomp),
            ("--http", "http.listen", &self.http),
            ("--mqtts", "mqtt.tls_listen", &self.mqtts),
            ("--stomps", "stomp.tls_listen", &self.stomps),
            ("--https", "http.tls_listen", &self.https),
            (
                "--tls-certificate",
                "tls.certificate",
                &self.tls_certificate,
            ),
            ("--tls-key", "tls.key", &self.tls_key),
            ("--data-dir", "data_dir", &self.data_dir),
        ];
        flags
            .into_iter()
            .filter_map(|(name, key, value)| {
                let value = value.clone()?;
                Some(Flag { name, key, value })
            })
            .collect()
    }
}

pub(super) fn run(arguments: &Serve) -> ExitCode {
    let sources = Sources::from_process(arguments.config.clone(), arguments.flags());
    let config = match Config::load(&sources) {
        Ok(config) => config,
        Err(problems) => return fail(&explain(&problems)),
    };
    match start(config, sources) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn start(config: Config, sources: Sources) -> anyhow::Result<()> {
    let log = telemetry::init(&config.log)?;
    let reload = move || Config::load(&sources).map_err(|problems| explain(&problems));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("polycast")
        .build()?;
    runtime.block_on(crate::server::run(config, Box::new(reload), log))
}
