//! A broker that was started for a measurement: in a folder of its own, on ports of its own, and
//! gone with both when it is dropped.

use super::Recipe;
use crate::wire::http::Door;
use crate::wire::url::Url;
use crate::wire::{Login, Protocol};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Ports that a recipe may name.
const PORTS: usize = 8;

/// Files of the certificate that a broker gets if its configuration names it.
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// How long a broker may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_mins(1);

/// A broker that was started.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    command: Vec<String>,
    env: Vec<(String, String)>,
    folder: TempDir,
    ready_within: Duration,
    /// Where it listens.
    pub urls: Vec<Url>,
    /// How it is published to by HTTP, if it can be.
    pub http: Option<Door>,
}

/// How a broker is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// SIGTERM, and time to finish.
    Stop,
    /// SIGKILL.
    Kill,
}

impl Running {
    /// Starts a broker in a new folder and waits until it takes logins.
    pub fn start(
        recipe: &Recipe,
        program: &Path,
        durable: bool,
        below: Option<&Path>,
    ) -> Result<Self> {
        let folder = match below {
            Some(below) => tempfile::Builder::new().prefix("bench-").tempdir_in(below),
            None => tempfile::Builder::new().prefix("bench-").tempdir(),
        }
        .context("a folder for the broker")?;
        let data = folder.path().join("data");
        fs::create_dir(&data)?;
        let ports = free_ports()?;
        let fill = |text: &str| fill(text, program, folder.path(), &ports);
        let files = if durable && !recipe.durable.is_empty() {
            &recipe.durable
        } else {
            &recipe.files
        };
        if files
            .values()
            .any(|content| content.contains("{certificate}"))
        {
            write_certificate(folder.path())?;
        }
        for (name, content) in files {
            fs::write(folder.path().join(name), fill(content))?;
        }
        let command = recipe.start.split_whitespace().map(fill).collect();
        let env = recipe
            .env
            .iter()
            .map(|(name, value)| (name.clone(), fill(value)))
            .collect();
        let urls = recipe
            .urls
            .iter()
            .map(|url| Url::parse(&fill(url)))
            .collect::<Result<_>>()?;
        let http = recipe.http.as_ref().map(|door| door.filled(fill));
        let mut running = Self {
            child: None,
            command,
            env,
            folder,
            ready_within: Duration::from_secs(recipe.ready_secs),
            urls,
            http,
        };
        running.launch()?;
        Ok(running)
    }

    /// Starts the command and waits until the broker takes logins; returns how long it took.
    pub fn launch(&mut self) -> Result<Duration> {
        let log = self.folder.path().join("log");
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("NO_COLOR", "1")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C in the terminal is for this program alone.
            .process_group(0);
        let begun = Instant::now();
        let child = command.spawn().with_context(|| self.command[0].clone())?;
        self.child = Some(child);
        while !self.takes_logins() {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("the broker ended ({status}): {}", self.log_end());
            }
            if begun.elapsed() > self.ready_within {
                bail!("the broker does not take logins: {}", self.log_end());
            }
            sleep(Duration::from_millis(2));
        }
        Ok(begun.elapsed())
    }

    /// Another start may take so long.
    pub fn set_patience(&mut self, patience: Duration) {
        self.ready_within = patience;
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The folder with its data.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// How the process ended, if it ended by itself.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(format!("the broker ended ({status}): {}", self.log_end()))
    }

    /// Ends the process; folder and ports stay.
    pub fn end(&mut self, ending: Ending) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let signal = |signal| group.map(|group| kill_process_group(group, signal));
        if ending == Ending::Stop {
            signal(Signal::TERM);
            let begun = Instant::now();
            while begun.elapsed() < STOP_PATIENCE {
                if child.try_wait()?.is_some() {
                    // Descendants that stayed behind.
                    signal(Signal::KILL);
                    return Ok(());
                }
                sleep(Duration::from_millis(10));
            }
        }
        signal(Signal::KILL);
        child.wait()?;
        Ok(())
    }

    fn takes_logins(&self) -> bool {
        self.urls.iter().all(|url| {
            let Ok(address) = url.address() else {
                return false;
            };
            let Ok(stream) = TcpStream::connect(address) else {
                return false;
            };
            url.wire != crate::wire::Wire::MQTT || logs_in(stream).unwrap_or(false)
        })
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(4)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.end(Ending::Kill);
    }
}

fn logs_in(mut stream: TcpStream) -> Result<bool> {
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    let mut frame = Vec::new();
    let login = Login {
        client_id: "bench-ready",
        clean: true,
    };
    Protocol::Mqtt.connect(&mut frame, &login);
    stream.write_all(&frame)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    stream.write_all(&[0xE0, 0])?;
    Ok(answer[0] == 0x20 && answer[3] == 0)
}

/// Ports that nobody listens on. All are held until all are known, so that they differ.
fn free_ports() -> Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..PORTS)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    let ports = held.iter().map(|socket| Ok(socket.local_addr()?.port()));
    ports.collect()
}

/// A certificate for this machine and its key, as `{certificate}` and `{key}`.
fn write_certificate(folder: &Path) -> Result<()> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).context("a certificate")?;
    fs::write(folder.join(CERTIFICATE), made.cert.pem())?;
    fs::write(folder.join(KEY), made.signing_key.serialize_pem())?;
    Ok(())
}

fn fill(text: &str, program: &Path, folder: &Path, ports: &[u16]) -> String {
    let mut text = text
        .replace("{program}", &program.display().to_string())
        .replace("{data}", &folder.join("data").display().to_string())
        .replace(
            "{certificate}",
            &folder.join(CERTIFICATE).display().to_string(),
        )
        .replace("{key}", &folder.join(KEY).display().to_string())
        .replace("{dir}", &folder.display().to_string());
    for (index, port) in ports.iter().enumerate() {
        text = text.replace(&format!("{{port{}}}", index + 1), &port.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn places_are_filled_in() {
        let text = fill(
            "{program} {dir}/x {data} {port2}",
            Path::new("p"),
            Path::new("/f"),
            &[1, 2],
        );
        assert_eq!(text, "p /f/x /f/data 2");
    }

    #[test]
    fn a_broker_that_does_not_start_says_why() {
        let recipe = Recipe {
            name: "x".into(),
            find: Vec::new(),
            start: "/bin/sh {dir}/run".into(),
            files: [("run".to_owned(), "echo out of order; exit 3".to_owned())].into(),
            durable: BTreeMap::new(),
            env: BTreeMap::new(),
            version: String::new(),
            urls: vec!["mqtt://127.0.0.1:{port1}".into()],
            http: None,
            promise: String::new(),
            deflate: false,
            ready_secs: 30,
        };
        let error = Running::start(&recipe, Path::new(""), false, None).unwrap_err();
        assert!(error.to_string().contains("out of order"), "{error}");
    }
}
