//! Clients that keep TLS busy with nothing, against a running broker.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Longest that anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// CONNECT of MQTT 3.1.1, with a clean session and no keep alive; a letter for a name follows.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01";

const PINGREQ: &[u8] = b"\xc0\x00";
const PINGRESP: &[u8] = b"\xd0\x00";

/// A broker with TLS, killed at the end.
struct Broker {
    child: Child,
    mqtts: u16,
    http: u16,
    config: Arc<ClientConfig>,
    _folder: tempfile::TempDir,
}

impl Broker {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = folder.path().join("certificates");
        let made = polycast(folder.path())
            .args(["cert", "server", "localhost", "--dir"])
            .arg(&certificates)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut child = polycast(folder.path())
            .args(["serve", "--mqtt", "off", "--stomp", "off"])
            .args(["--http", "127.0.0.1:0", "--mqtts", "127.0.0.1:0"])
            .arg("--tls-certificate")
            .arg(certificates.join("server.pem"))
            .arg("--tls-key")
            .arg(certificates.join("server-key.pem"))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mqtts, http) = ports(&mut log);
        // Nobody reads on: a pipe that is full must not hold the broker up.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            child,
            mqtts,
            http,
            config: trusting(&certificates.join("ca.pem")),
            _folder: folder,
        }
    }

    fn connect(&self, letter: u8) -> Client {
        let socket = TcpStream::connect(("127.0.0.1", self.mqtts)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        let mut client = Client { socket, tls };
        client.send(&[CONNECT, &[letter]].concat());
        assert_eq!(client.receive(4), b"\x20\x02\x00\x00");
        client
    }

    fn metric(&self, name: &str) -> f64 {
        let mut socket = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let values = text.lines().filter_map(|line| line.strip_prefix(name));
        values
            .filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Processor time that it has used.
    fn processor(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name in brackets: the 12th and 13th field, in hundredths of seconds.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn polycast(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polycast"));
    command.current_dir(folder);
    command
}

/// Where it listens, as its log says.
fn ports(log: &mut impl BufRead) -> (u16, u16) {
    let (mut mqtts, mut http) = (None, None);
    let mut line = String::new();
    while mqtts.is_none() || http.is_none() {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it did not start");
        for (name, port) in [
            ("mqtts://127.0.0.1:", &mut mqtts),
            ("http://127.0.0.1:", &mut http),
        ] {
            if let Some((_, rest)) = line.split_once(name) {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                *port = digits.parse().ok();
            }
        }
    }
    (mqtts.unwrap(), http.unwrap())
}

fn trusting(authority: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

struct Client {
    socket: TcpStream,
    tls: ClientConnection,
}

impl Client {
    /// Each call makes a record of its own.
    fn send(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        rustls::Stream::new(&mut self.tls, &mut self.socket)
            .flush()
            .unwrap();
    }

    fn receive(&mut self, bytes: usize) -> Vec<u8> {
        let mut into = vec![0; bytes];
        rustls::Stream::new(&mut self.tls, &mut self.socket)
            .read_exact(&mut into)
            .unwrap();
        into
    }

    /// New keys, in a record of their own that asks the broker for the same.
    fn renew_keys(&mut self) {
        self.tls.refresh_traffic_keys().unwrap();
    }

    /// Writes what has come together; `None` when the broker has gone.
    fn flush(&mut self) -> Option<usize> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        self.socket.write_all(&bytes).ok()?;
        Some(bytes.len())
    }

    /// Sends rounds until the broker closes the connection, and says how many bytes that took.
    fn flood(&mut self, round: impl Fn(&mut Self)) -> usize {
        let (start, mut sent) = (Instant::now(), 0);
        while start.elapsed() < PATIENCE {
            round(self);
            match self.flush() {
                Some(bytes) => sent += bytes,
                None => return sent,
            }
        }
        panic!("it was not closed: {sent} bytes");
    }
}

/// What the kernel may hold of what the broker has not read.
const IN_THE_KERNEL: usize = 16 * 1024 * 1024;

#[test]
fn floods_of_key_updates_end_and_cost_little() {
    let broker = Broker::start();
    let mut healthy = broker.connect(b'h');
    let before = broker.processor();

    // Nothing else: rustls counts them itself.
    let mut client = broker.connect(b'a');
    let sent = client.flood(|client| (0..1000).for_each(|_| client.renew_keys()));
    assert!(sent < IN_THE_KERNEL, "{sent}");

    // With a byte of a large message now and then, so that it always begins to count anew.
    let mut client = broker.connect(b'b');
    client.send(b"\x30\xff\xff\x3f\x00\x01t");
    let sent = client.flood(|client| {
        (0..30).for_each(|_| client.renew_keys());
        client.tls.writer().write_all(b"x").unwrap();
    });
    assert!(sent < IN_THE_KERNEL, "{sent}");
    let end = Instant::now() + PATIENCE;
    while broker.metric("polycast_tls_floods_total") < 1.0 {
        assert!(Instant::now() < end, "it is not counted");
    }
    let used = broker.processor().saturating_sub(before);
    println!("{sent} bytes sent, {used:?} of the processor");
    assert!(used < Duration::from_secs(2), "{used:?}");

    healthy.send(PINGREQ);
    assert_eq!(healthy.receive(2), PINGRESP);
}

/// The smallest records that there are, thousands of them, and new keys now and then.
#[test]
fn small_records_are_no_flood() {
    let broker = Broker::start();
    let mut client = broker.connect(b'c');
    for number in 0..20_000 {
        // A PINGREQ in two records.
        client.send(&PINGREQ[..1]);
        client.send(&PINGREQ[1..]);
        if number % 100 == 0 {
            client.renew_keys();
        }
        if number % 500 == 0 {
            for _ in 0..if number == 0 { 1 } else { 500 } {
                assert_eq!(client.receive(2), PINGRESP);
            }
        }
    }
    // And the largest: more of them than the broker reads at once.
    client.send(b"\x30\xff\xff\x1f\x00\x01t");
    for _ in 0..32 {
        client.send(&[b'x'; 16 * 1024][..16 * 1024 - 1]);
    }
    client.send(&[b'x'; 28]);
    client.send(PINGREQ);
    let left = 20_000 - 1 - 39 * 500 + 1;
    for _ in 0..left {
        assert_eq!(client.receive(2), PINGRESP);
    }
    assert!(broker.metric("polycast_tls_floods_total") < 1.0);
}
