//! `polycast health`: asks a running broker whether it is well, for containers and scripts.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::configuration::explain;
use super::{fail, print};
use crate::config::{Config, Flag, Listen, Sources};

#[derive(Debug, Args)]
#[command(after_help = "\
Asks /healthz of the broker that the same configuration runs on this machine.\n\
Exit code 0 if it is well, 1 if it is not or does not answer.")]
pub(super) struct Health {
    /// Configuration file (TOML); without it, the one that `POLYCAST_CONFIG` names, or none
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the broker listens for HTTP
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

/// The most of an answer that is read.
const ANSWER_MAX: u64 = 64 * 1024;

pub(super) fn run(arguments: &Health) -> ExitCode {
    let flags = arguments.http.clone().map(|value| Flag {
        name: "--http",
        key: "http.listen",
        value,
    });
    let sources = Sources::from_process(arguments.config.clone(), flags.into_iter().collect());
    let config = match Config::load(&sources) {
        Ok(config) => config,
        Err(problems) => return fail(&explain(&problems)),
    };
    let Listen::At { host, port } = &config.http.listen else {
        return fail("http.listen is off: the broker cannot be asked");
    };
    match ask(
        reachable(host),
        *port,
        Duration::from_secs(arguments.timeout),
    ) {
        Ok(answer) => match verdict(&answer) {
            Ok(()) => print("healthy\n"),
            Err(why) => fail(&why),
        },
        Err(error) => fail(&format!("{host}:{port} does not answer: {error}")),
    }
}

/// Where to ask one that listens everywhere.
fn reachable(host: &str) -> &str {
    match host {
        "0.0.0.0" => "127.0.0.1",
        "::" | "[::]" => "::1",
        other => other,
    }
}

fn ask(host: &str, port: u16, timeout: Duration) -> std::io::Result<String> {
    let mut addresses = (host.trim_matches(['[', ']']), port).to_socket_addrs()?;
    let address = addresses
        .next()
        .ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    let mut socket = TcpStream::connect_timeout(&address, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    write!(
        socket,
        "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

fn verdict(answer: &str) -> Result<(), String> {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if answer.starts_with("HTTP/1.1 ") && status == "200" {
        return Ok(());
    }
    let body = answer
        .split_once("\r\n\r\n")
        .map_or(answer, |(_, body)| body);
    Err(format!("not healthy: {status} {}", body.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_200_is_healthy() {
        assert!(verdict("HTTP/1.1 200 OK\r\n\r\nok").is_ok());
        let answer = "HTTP/1.1 503 Service Unavailable\r\n\r\nthe disk failed\n";
        assert_eq!(
            verdict(answer).unwrap_err(),
            "not healthy: 503 the disk failed"
        );
        assert!(verdict("SSH-2.0-OpenSSH 200").is_err());
        assert!(verdict("").is_err());
    }

    #[test]
    fn everywhere_is_asked_here() {
        assert_eq!(reachable("0.0.0.0"), "127.0.0.1");
        assert_eq!(reachable("[::]"), "::1");
        assert_eq!(reachable("10.0.0.1"), "10.0.0.1");
    }
}
