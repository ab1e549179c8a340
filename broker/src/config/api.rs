//! The section `api`: who may use the HTTP API, and how much of it.

use std::fmt;
use std::time::Duration;

use super::section::section;
use super::setting::Bounds::{Count, Size, Time, Type};
use super::setting::{Bounds, KIB, MIB, Raw, Setting, quote, texts};

const SECOND: u64 = 1000;

section! {
    /// The HTTP API, Server-Sent Events, and the calls of AWS clients for `@connections` and IoT
    /// data, on the port of `http.listen`. Pages of the origins in `websocket.allowed_origins` may use it.
    pub struct Api in "api" {
        /// Keys that programs show as `Authorization: Bearer KEY`, `X-API-Key: KEY` or as the
        /// password of the user NAME. Each is `NAME PERMISSIONS SOURCE`: permissions are
        /// `publish`, `subscribe` and `manage` with `+` between; the source is `file:PATH`,
        /// `env:VARIABLE` or `sha256:HEX` of the key. Without keys and logins, the API is open on
        /// loopback addresses and closed on others.
        keys: ApiKeys = ApiKeys::default(), Type, Live;
        /// Access keys that AWS clients sign with (signature version 4), for `@connections` and IoT
        /// data. Each is `ACCESS-KEY-ID PERMISSIONS SOURCE` as above; the source of the secret is
        /// `file:PATH` or `env:VARIABLE`.
        aws_keys: AwsKeys = AwsKeys::default(), Type, Live;
        /// Size of the body of a request.
        body_size: usize = 8 * 1024 * 1024, Size(KIB, 256 * MIB), Live;
        /// Messages in one request.
        batch_items: usize = 1000, Count(1, 100_000), Live;
        /// Rows of one page of a list.
        page_rows: usize = 1000, Count(1, 10_000), Live;
        /// Requests that are worked on at once; others are told to come again.
        requests: usize = 1024, Count(1, 1_000_000), Live;
        /// Time that a request may take, its body and the disk included.
        request_timeout: Duration = Duration::from_secs(30), Time(100, 3600 * SECOND), Live;
        /// Open streams of Server-Sent Events.
        streams: usize = 10_000, Count(0, 10_000_000), Live;
        /// Silence after which a comment is written into a stream of events.
        stream_heartbeat: Duration = Duration::from_secs(15), Time(SECOND, 3600 * SECOND), Live;
        /// Messages of a named session that stay open for a stream that comes back with
        /// `Last-Event-ID`.
        stream_replay: u16 = 512, Count(1, 32_767), Live;
    }
}

/// What a key allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// To publish.
    pub publish: bool,
    /// To read messages.
    pub subscribe: bool,
    /// To see and to change what clients have.
    pub manage: bool,
}

impl Permissions {
    /// Everything.
    pub const ALL: Self = Self {
        publish: true,
        subscribe: true,
        manage: true,
    };

    fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for word in text.split('+') {
            match word {
                "publish" => found.publish = true,
                "subscribe" => found.subscribe = true,
                "manage" => found.manage = true,
                _ => {
                    return Err(format!(
                        "`{word}` is not a permission; there are publish, subscribe and manage"
                    ));
                }
            }
        }
        Ok(found)
    }
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file; white space around it is not part of it.
    File(String),
    /// In a variable of the environment.
    Environment(String),
    /// Its SHA-256 is here.
    Sha256([u8; 32]),
}

/// A key: whose, what for, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub permissions: Permissions,
    /// Where it is.
    pub source: Source,
    text: String,
}

impl KeyEntry {
    fn parse(text: &str, may_be_hashed: bool) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        // What was written may be a secret in a wrong place: it is not repeated.
        let [name, permissions, source] = words[..] else {
            return Err(format!(
                "a key is `NAME PERMISSIONS SOURCE`, this has {} words",
                words.len()
            ));
        };
        Ok(Self {
            name: name.to_owned(),
            permissions: Permissions::parse(permissions)?,
            source: parse_source(name, source, may_be_hashed)?,
            text: words.join(" "),
        })
    }
}

fn parse_source(name: &str, text: &str, may_be_hashed: bool) -> Result<Source, String> {
    match text.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(Source::File(path.to_owned())),
        Some(("env", variable)) if !variable.is_empty() => {
            Ok(Source::Environment(variable.to_owned()))
        }
        Some(("sha256", hex)) if may_be_hashed => match parse_hex(hex) {
            Some(digest) => Ok(Source::Sha256(digest)),
            None => Err(format!(
                "the sha256 of `{name}` has not 64 hexadecimal digits"
            )),
        },
        _ if may_be_hashed => Err(format!(
            "the source of `{name}` is none of file:PATH, env:VARIABLE and sha256:HEX"
        )),
        _ => Err(format!(
            "the source of `{name}` is none of file:PATH and env:VARIABLE"
        )),
    }
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(digest)
}

/// Keys of programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiKeys(Vec<KeyEntry>);

/// Access keys of AWS SDKs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsKeys(Vec<KeyEntry>);

impl ApiKeys {
    /// The keys.
    pub fn entries(&self) -> &[KeyEntry] {
        &self.0
    }
}

impl AwsKeys {
    /// The keys.
    pub fn entries(&self) -> &[KeyEntry] {
        &self.0
    }
}

fn read(raw: &Raw, may_be_hashed: bool) -> Result<Vec<KeyEntry>, String> {
    let entries = texts(raw)?
        .iter()
        .map(|text| KeyEntry::parse(text, may_be_hashed))
        .collect::<Result<Vec<_>, _>>()?;
    for (at, entry) in entries.iter().enumerate() {
        if entries[..at].iter().any(|other| other.name == entry.name) {
            return Err(format!("there are two keys `{}`", entry.name));
        }
    }
    Ok(entries)
}

fn literal(entries: &[KeyEntry]) -> String {
    let items: Vec<_> = entries.iter().map(|entry| quote(&entry.text)).collect();
    format!("[{}]", items.join(", "))
}

impl Setting for ApiKeys {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        self.0 = read(raw, true)?;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        literal(&self.0)
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of keys: \"ops publish+manage file:/run/secrets/ops\"".to_owned()
    }
}

impl Setting for AwsKeys {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        self.0 = read(raw, false)?;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        literal(&self.0)
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of access keys: \"AKIAFUNCTIONS publish+manage env:FUNCTIONS_SECRET\"".to_owned()
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.publish, "publish"),
            (self.subscribe, "subscribe"),
            (self.manage, "manage"),
        ];
        let words: Vec<_> = words
            .iter()
            .filter(|word| word.0)
            .map(|word| word.1)
            .collect();
        f.write_str(&words.join("+"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(text: &str) -> Result<KeyEntry, String> {
        KeyEntry::parse(text, true)
    }

    #[test]
    fn keys_have_a_name_permissions_and_a_source() {
        let entry = key("ops publish+manage  file:/run/ops").unwrap();
        assert_eq!(entry.name, "ops");
        assert_eq!(entry.permissions.to_string(), "publish+manage");
        assert_eq!(entry.source, Source::File("/run/ops".to_owned()));
        let hash = format!("x subscribe sha256:{}", "aF".repeat(32));
        assert_eq!(key(&hash).unwrap().source, Source::Sha256([0xaf; 32]));
    }

    #[test]
    fn mistakes_are_named_without_the_secret() {
        for text in [
            "topsecret",
            "a topsecret env:X",
            "a publish topsecret",
            "a publish sha256:topsecret",
        ] {
            let problem = key(text).unwrap_err();
            let is_told = problem.contains("topsecret");
            assert!(!is_told || text.starts_with("a topsecret"), "{problem}");
        }
        assert!(KeyEntry::parse(&format!("a publish sha256:{}", "00".repeat(32)), false).is_err());
        let twice = Raw::Bare("a publish env:X, a manage env:Y".into());
        assert_eq!(
            ApiKeys::default().read(&twice, Type).unwrap_err(),
            "there are two keys `a`"
        );
    }
}
