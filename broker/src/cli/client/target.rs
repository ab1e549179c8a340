//! A broker's URL taken apart.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use url::Url;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Protocol {
    /// MQTT
    Mqtt,
    /// STOMP
    Stomp,
    /// Polycast's JSON subprotocol
    Json,
}

impl Protocol {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Stomp => "stomp",
            Self::Json => "json",
        }
    }

    /// What to offer in `Sec-WebSocket-Protocol`.
    pub(super) const fn subprotocols(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Stomp => "v12.stomp, v11.stomp, v10.stomp",
            Self::Json => protocols::json::client::SUBPROTOCOL,
        }
    }
}

/// Where to connect and what to speak there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Target {
    /// A name or an address (IPv6 without brackets).
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    /// Path and query, if it is a WebSocket.
    pub(super) web_socket: Option<String>,
    pub(super) protocol: Protocol,
    pub(in crate::cli) username: Option<String>,
    pub(in crate::cli) password: Option<String>,
    /// The topic that the URL names: `mqtt://host/a/b`.
    pub(in crate::cli) topic: Option<String>,
}

impl Target {
    /// Reads a URL; `protocol` says what to speak in a WebSocket if its path does not.
    pub(in crate::cli) fn parse(text: &str, protocol: Option<Protocol>) -> Result<Self> {
        let url = Url::parse(text).with_context(|| {
            format!("`{text}` is not a URL such as mqtt://127.0.0.1:1883 or ws://127.0.0.1:8080/ws")
        })?;
        let (spoken, default_port, tls) = match url.scheme() {
            "mqtt" | "tcp" => (Some(Protocol::Mqtt), 1883, false),
            "mqtts" | "ssl" | "tls" => (Some(Protocol::Mqtt), 8883, true),
            "stomp" => (Some(Protocol::Stomp), 61_613, false),
            "stomps" | "stomp+ssl" => (Some(Protocol::Stomp), 61_614, true),
            "ws" | "http" => (None, 80, false),
            "wss" | "https" => (None, 443, true),
            other => bail!(
                "`{other}://` is not known; there are mqtt://, mqtts://, stomp://, stomps://, \
                 ws:// and wss://"
            ),
        };
        if let (Some(spoken), Some(asked)) = (spoken, protocol) {
            ensure!(
                spoken == asked,
                "{text} speaks {}: --protocol is for WebSocket (ws://, wss://)",
                spoken.as_str()
            );
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.with_context(|| format!("`{text}` names no host"))?;
        let path = url.path();
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(default_port),
            tls,
            web_socket: spoken
                .is_none()
                .then(|| url[url::Position::BeforePath..url::Position::AfterQuery].to_owned()),
            protocol: spoken.or(protocol).unwrap_or_else(|| by_path(path)),
            username: Some(decoded(url.username())?).filter(|name| !name.is_empty()),
            password: url.password().map(decoded).transpose()?,
            topic: match path.strip_prefix('/') {
                Some(topic) if spoken.is_some() && !topic.is_empty() => Some(decoded(topic)?),
                _ => None,
            },
        })
    }

    /// Whether the way is encrypted.
    pub(in crate::cli) const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host and port as they are written in a URL.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())?;
        f.write_str(self.web_socket.as_deref().unwrap_or_default())
    }
}

/// `/mqtt` and `/stomp` are habits of other brokers; everywhere else the browser's protocol.
fn by_path(path: &str) -> Protocol {
    let last = Path::new(path).file_name().and_then(|name| name.to_str());
    match last {
        Some("mqtt") => Protocol::Mqtt,
        Some("stomp") => Protocol::Stomp,
        _ => Protocol::Json,
    }
}

fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| char::from(digit?).to_digit(16);
        match byte {
            b'%' => {
                let (high, low) = (hex(rest.next()), hex(rest.next()));
                let (Some(high), Some(low)) = (high, low) else {
                    bail!("`{text}` in the URL contains a % that is not followed by two digits");
                };
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).with_context(|| format!("`{text}` in the URL is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Target {
        Target::parse(text, None).unwrap()
    }

    #[test]
    fn every_scheme_has_its_port() {
        for (text, port, tls, protocol) in [
            ("mqtt://h", 1883, false, Protocol::Mqtt),
            ("mqtts://h", 8883, true, Protocol::Mqtt),
            ("stomp://h", 61_613, false, Protocol::Stomp),
            ("stomps://h", 61_614, true, Protocol::Stomp),
            ("ws://h/mqtt", 80, false, Protocol::Mqtt),
            ("wss://h/stomp", 443, true, Protocol::Stomp),
            ("ws://h:8080/ws", 8080, false, Protocol::Json),
            ("ws://h", 80, false, Protocol::Json),
        ] {
            let target = parse(text);
            assert_eq!(
                (target.port, target.tls, target.protocol),
                (port, tls, protocol),
                "{text}"
            );
        }
    }

    #[test]
    fn a_url_can_say_it_all() {
        let target = parse("mqtt://us%40er:p%3Aw@[::1]:1884/a/b%20c");
        assert_eq!(target.host, "::1");
        assert_eq!(target.to_string(), "[::1]:1884");
        assert_eq!(target.username.as_deref(), Some("us@er"));
        assert_eq!(target.password.as_deref(), Some("p:w"));
        assert_eq!(target.topic.as_deref(), Some("a/b c"));
        let target = Target::parse("ws://h/x?token=1", Some(Protocol::Stomp)).unwrap();
        assert_eq!(target.web_socket.as_deref(), Some("/x?token=1"));
        assert_eq!((target.protocol, target.topic), (Protocol::Stomp, None));
    }

    #[test]
    fn mistakes_are_explained() {
        let wrong = |text, protocol| Target::parse(text, protocol).unwrap_err().to_string();
        assert!(wrong("127.0.0.1", None).starts_with("`127.0.0.1` is not a URL such as"));
        assert!(wrong("amqp://h", None).starts_with("`amqp://` is not known; there are mqtt://"));
        assert!(wrong("mqtt://", None).contains("names no host"));
        assert!(wrong("mqtt://h/%zz", None).contains("a % that is not followed"));
        assert_eq!(
            wrong("mqtt://h", Some(Protocol::Json)),
            "mqtt://h speaks mqtt: --protocol is for WebSocket (ws://, wss://)"
        );
    }
}
