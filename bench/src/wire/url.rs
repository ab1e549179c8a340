//! Addresses of brokers: `mqtt://host:port`, `mqtt+ws://host:port/path` and so on. The scheme
//! names the protocol and the transport; `mqtts`, `mqtt+wss` and the like are the same within TLS.

use super::Wire;
use anyhow::{Context, Result, bail};
use std::net::{SocketAddr, ToSocketAddrs};

/// Where a broker listens, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// What is spoken there.
    pub wire: Wire,
    /// `host:port`.
    pub authority: String,
    /// The path of a WebSocket; `/` without one.
    pub path: String,
}

impl Url {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text
            .split_once("://")
            .with_context(|| format!("{text}: no scheme, as in mqtt://127.0.0.1:1883"))?;
        let wire = Wire::from_name(scheme).with_context(|| {
            format!("{text}: the scheme is none of mqtt, mqtt+ws, stomp, stomp+ws, json+ws, or one of them with s")
        })?;
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, "/"),
        };
        if !authority.contains(':') {
            bail!("{text}: no port");
        }
        Ok(Self {
            wire,
            authority: authority.to_owned(),
            path: path.to_owned(),
        })
    }

    /// The socket address, asked of the resolver once.
    pub fn address(&self) -> Result<SocketAddr> {
        self.authority
            .to_socket_addrs()
            .with_context(|| format!("{}: no address", self.authority))?
            .next()
            .with_context(|| format!("{}: no address", self.authority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_name_protocol_and_transport() {
        let url = Url::parse("mqtt+ws://127.0.0.1:8080/mqtt").unwrap();
        assert_eq!(url.wire.to_string(), "mqtt+ws");
        assert_eq!(url.authority, "127.0.0.1:8080");
        assert_eq!(url.path, "/mqtt");
        assert_eq!(Url::parse("mqtt://[::1]:1883").unwrap().path, "/");
    }

    #[test]
    fn mistakes_are_explained() {
        for text in [
            "127.0.0.1:1883",
            "http://a:1",
            "mqtt://host",
            "wss://a:8883",
        ] {
            let error = Url::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }
}
