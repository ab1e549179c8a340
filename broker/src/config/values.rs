//! Values with a meaning of their own: addresses, origins, log filters and choices.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use protocols::model::QoS;

use super::setting::{Bounds, Raw, Setting, quote, texts};

/// Where to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    #[default]
    Off,
    /// At an address of this machine.
    At {
        /// An IP address (IPv6 without brackets) or a name.
        host: String,
        /// The port; 0 lets the system choose.
        port: u16,
    },
}

impl Listen {
    /// A port on the IPv4 loopback address.
    pub(super) fn loopback(port: u16) -> Self {
        Self::At {
            host: "127.0.0.1".to_owned(),
            port,
        }
    }

    /// Reads `host:port` or `off`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let (host, port) = text
            .rsplit_once(':')
            .filter(|(host, port)| !port.contains(']') && !host.is_empty())
            .ok_or_else(|| Self::missing_part(text))?;
        let port = port
            .parse()
            .map_err(|_| format!("`{port}` is not a port from 0 to 65535"))?;
        Ok(Self::At {
            host: check_host(host)?,
            port,
        })
    }

    fn missing_part(text: &str) -> String {
        if let Some(port) = text.strip_prefix(':') {
            format!("the host is missing; write 127.0.0.1:{port}, or 0.0.0.0:{port} for all")
        } else if text.parse::<u16>().is_ok() {
            format!("the host is missing; write 127.0.0.1:{text}")
        } else {
            "the port is missing".to_owned()
        }
    }

    /// Whether only this machine can reach it. A name other than `localhost` counts as reachable
    /// by others, whatever it resolves to today.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Off => true,
            Self::At { host, .. } => {
                host == "localhost"
                    || host
                        .parse::<IpAddr>()
                        .is_ok_and(|address| address.to_canonical().is_loopback())
            }
        }
    }
}

fn check_host(host: &str) -> Result<String, String> {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return match inner.parse() {
            Ok(IpAddr::V6(_)) => Ok(inner.to_owned()),
            _ => Err(format!("`{inner}` is not an IPv6 address")),
        };
    }
    if host.contains("://") || host.contains('/') {
        return Err("it is host and port alone, without a scheme or path".to_owned());
    }
    if host.contains(':') {
        return Err("an IPv6 address is written in brackets: [::1]:1883".to_owned());
    }
    if host == "*" {
        return Err("for all addresses write 0.0.0.0 or [::]".to_owned());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !host.bytes().all(plain) {
        return Err("the host is neither an address nor a name".to_owned());
    }
    let digits = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    if host.bytes().all(digits) && host.parse::<IpAddr>().is_err() {
        return Err(format!("`{host}` is not an IPv4 address"));
    }
    Ok(host.to_owned())
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::At { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Setting for Listen {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        *self = Self::parse(raw.text()?)?;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(&self.to_string())
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "\"host:port\" (port 0 lets the system choose) or \"off\"".to_owned()
    }
}

/// The web pages that may open a WebSocket, beside those of the broker's own site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// The list as it was written, for the check of a handshake.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

fn check_origin(text: &str) -> Result<(), String> {
    if matches!(text, "*" | "null") {
        return Ok(());
    }
    let url = url::Url::parse(text).map_err(|_| format!("`{text}` is not an origin"))?;
    if text.contains('*') || url.host().is_none() {
        return Err(format!("`{text}` is not an origin"));
    }
    if url.path() != "/" || text.ends_with('/') || url.query().is_some() {
        return Err(format!(
            "`{text}` has a path; an origin ends after host and port"
        ));
    }
    Ok(())
}

impl Setting for Origins {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let list = texts(raw)?;
        list.iter().try_for_each(|origin| check_origin(origin))?;
        self.0 = list;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        let items: Vec<_> = self.0.iter().map(|origin| quote(origin)).collect();
        format!("[{}]", items.join(", "))
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of origins: \"https://app.example.org\", \"null\" or \"*\" for all".to_owned()
    }
}

/// What is logged: a level, or levels by module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl LogFilter {
    /// The text, in the syntax of `tracing_subscriber::EnvFilter`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks a filter. A lone word must be a level: the general syntax would take a misspelt one
    /// for a module.
    pub fn parse(text: &str) -> Result<Self, String> {
        for directive in text.split(',') {
            let level = directive.rsplit('=').next().unwrap_or_default().trim();
            if !LEVELS.contains(&level) {
                return Err(format!("`{level}` is not a level"));
            }
        }
        tracing_subscriber::EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Setting for LogFilter {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        *self = Self::parse(raw.text()?)?;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(&self.0)
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        format!(
            "{}; or levels by module, as in \"info,broker::net=debug\"",
            LEVELS.map(|level| format!("\"{level}\"")).join(", ")
        )
    }
}

/// Declares a choice between words.
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl Setting for $name {
            fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
                *self = match raw.text()? {
                    $($word => Self::$variant,)*
                    _ => return Err("there is no such choice".to_owned()),
                };
                Ok(())
            }

            fn literal(&self, _bounds: Bounds) -> String {
                match self { $(Self::$variant => quote($word),)* }
            }

            fn allowed(&self, _bounds: Bounds) -> String {
                [$(concat!("\"", $word, "\"")),*].join(", ")
            }
        }
    };
}

pub(super) use choice;

choice! {
    /// How log lines look.
    pub enum LogFormat {
        /// Text on a terminal, JSON otherwise.
        #[default]
        Auto = "auto",
        /// For people.
        Text = "text",
        /// One object a line.
        Json = "json",
    }
}

choice! {
    /// Where clients need no login.
    pub enum Anonymous {
        /// As `Loopback` while there is no way to log in, then as `Never`.
        #[default]
        Auto = "auto",
        /// Nowhere.
        Never = "never",
        /// On listeners that only this machine reaches.
        Loopback = "loopback",
        /// On all listeners.
        Everywhere = "everywhere",
    }
}

choice! {
    /// What holds for what no rule speaks of.
    pub enum Unmatched {
        /// Denied as soon as there is any way to log in, allowed otherwise.
        #[default]
        Auto = "auto",
        /// Always allowed.
        Allow = "allow",
        /// Always denied.
        Deny = "deny",
    }
}

choice! {
    /// What is lost when a session's queue is full.
    pub enum FullQueue {
        /// The message that comes.
        #[default]
        Newest = "newest",
        /// The oldest that waits.
        Oldest = "oldest",
    }
}

choice! {
    /// Who may read `/metrics`.
    pub enum MetricsAccess {
        /// This machine, and everyone as long as there are neither logins nor keys of the API;
        /// others with a login or a key.
        #[default]
        Auto = "auto",
        /// Everyone.
        Open = "open",
        /// Whoever shows a login or a key that may `manage`.
        Protected = "protected",
        /// Nobody.
        Off = "off",
    }
}

choice! {
    /// Whether anything survives the process.
    pub enum Persistence {
        /// Kept in the store inside the data directory.
        #[default]
        Embedded = "embedded",
        /// Nothing is kept: sessions, queues and retained messages are in memory only.
        None = "none",
    }
}

/// When an answer that promises durability is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When what it promises is on the disk.
    #[default]
    Fsync,
    /// When the system has it; the disk gets it at this interval. A crash of the system or of the
    /// machine may lose that much.
    Interval(Duration),
    /// When the system has it; the disk gets it when the system likes.
    None,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fsync => f.write_str("fsync"),
            Self::Interval(every) => write!(f, "interval({}ms)", every.as_millis()),
            Self::None => f.write_str("none"),
        }
    }
}

impl Setting for Durability {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let interval = |text: &str| {
            let millis = text.strip_prefix("interval(")?.strip_suffix("ms)")?;
            let millis: u64 = millis.trim().parse().ok()?;
            (1..=60_000)
                .contains(&millis)
                .then(|| Duration::from_millis(millis))
        };
        *self = match raw.text()? {
            "fsync" => Self::Fsync,
            "none" => Self::None,
            other => match interval(other) {
                Some(every) => Self::Interval(every),
                None => return Err("there is no such choice".to_owned()),
            },
        };
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(&self.to_string())
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "\"fsync\", \"interval(MILLISECONDSms)\" (1 to 60000) or \"none\"".to_owned()
    }
}

impl Setting for QoS {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let mut level = 0u16;
        level.read(raw, Bounds::Count(0, 2))?;
        *self = u8::try_from(level)
            .ok()
            .and_then(Self::from_u8)
            .unwrap_or_default();
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        (*self as u8).to_string()
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "0, 1 or 2".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in [
            "127.0.0.1:0",
            "[::1]:1883",
            "localhost:80",
            "broker-1.lan:1",
            "off",
        ] {
            assert_eq!(Listen::parse(text).unwrap().to_string(), text);
        }
        for (text, wrong) in [
            ("127.0.0.1", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("1883", "the host is missing; write 127.0.0.1:1883"),
            (
                ":1883",
                "the host is missing; write 127.0.0.1:1883, or 0.0.0.0:1883 for all",
            ),
            (
                "::1:1883",
                "an IPv6 address is written in brackets: [::1]:1883",
            ),
            ("*:1883", "for all addresses write 0.0.0.0 or [::]"),
            ("a:70000", "`70000` is not a port from 0 to 65535"),
            ("127.0.1:1", "`127.0.1` is not an IPv4 address"),
            ("[x]:1", "`x` is not an IPv6 address"),
            (
                "http://a:1",
                "it is host and port alone, without a scheme or path",
            ),
            ("a b:1", "the host is neither an address nor a name"),
        ] {
            assert_eq!(Listen::parse(text).unwrap_err(), wrong, "{text}");
        }
    }

    #[test]
    fn loopback() {
        for text in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "localhost:1",
            "off",
        ] {
            assert!(Listen::parse(text).unwrap().is_loopback(), "{text}");
        }
        for text in [
            "0.0.0.0:1",
            "[::]:1",
            "10.0.0.1:1",
            "localhost.example.org:1",
        ] {
            assert!(!Listen::parse(text).unwrap().is_loopback(), "{text}");
        }
    }

    #[test]
    fn origins_are_checked() {
        for wrong in [
            "example.org",
            "https://a/",
            "https://a/b",
            "https://*.a",
            "https://",
        ] {
            assert!(check_origin(wrong).is_err(), "{wrong}");
        }
        for right in ["https://app.example.org", "http://[::1]:8080", "null", "*"] {
            assert!(check_origin(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn a_misspelt_level_is_no_module() {
        assert!(LogFilter::parse("info,broker::net=debug").is_ok());
        assert_eq!(
            LogFilter::parse("debgu").unwrap_err(),
            "`debgu` is not a level"
        );
        assert_eq!(
            LogFilter::parse("info,broker=loud").unwrap_err(),
            "`loud` is not a level"
        );
    }
}
