//! The section `drain`: how clients are sent away, and how another process takes over.

use std::time::Duration;

use super::section::section;
use super::setting::Bounds::{Time, Type};
use super::setting::{Bounds, Raw, Setting, quote};

const SECOND: u64 = 1000;

/// Longest name of another server in bytes.
const SERVER_BYTES: usize = 1024;

section! {
    /// How clients are sent away before the broker ends: at SIGTERM, and by `polycast drain`.
    pub struct Drain in "drain" {
        /// Time over which the good-byes are spread, so that clients do not all come back at one
        /// moment. A few clients take less: a thousand per second may always go. At SIGTERM at most
        /// three quarters of `limits.drain_grace`.
        spread: Duration = Duration::from_secs(5), Time(0, 24 * 3600 * SECOND), Live;
        /// Another server for the clients, as they understand it: MQTT 5 clients get it as server
        /// reference (0x9C), STOMP clients in the header `server` of ERROR, JSON clients in the
        /// field `server`.
        server: Server = Server::default(), Type, Live;
        /// Whether clients are to use that server from now on (0x9D), and not only this time.
        server_moved: bool = false, Type, Live;
        /// Whether another process may listen at the same addresses (`SO_REUSEPORT`): a new broker
        /// can then take clients before the old one stops. Two brokers never share a `data_dir`.
        reuse_port: bool = false, Type, Restart;
    }
}

/// The name of a server, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server(Option<String>);

impl Server {
    /// The name, if there is one.
    pub fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether a text can be a server's name.
    pub fn check(text: &str) -> Result<(), String> {
        if text.len() > SERVER_BYTES || text.contains(char::is_control) {
            return Err(format!(
                "a server's name has at most {SERVER_BYTES} bytes and no control characters"
            ));
        }
        Ok(())
    }
}

impl Setting for Server {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let text = raw.text()?;
        Self::check(text)?;
        self.0 = (!text.is_empty()).then(|| text.to_owned());
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(self.get().unwrap_or_default())
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "the name of a server, \"host:port\" or a URL, or \"\" for none".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_one_line() {
        let mut server = Server::default();
        assert_eq!(server.literal(Type), "\"\"");
        server.read(&Raw::Text("b:1883".into()), Type).unwrap();
        assert_eq!(server.get(), Some("b:1883"));
        for wrong in ["a\nb", &"x".repeat(1025)] {
            assert!(server.read(&Raw::Text(wrong.into()), Type).is_err());
        }
        server.read(&Raw::Text(String::new()), Type).unwrap();
        assert_eq!(server.get(), None);
    }
}
