//! Publishing by HTTP: the requests, which are written once, and a reader that finds where an
//! answer ends. What a broker wants to be sent is in its table (`brokers/builtin.toml`).

use anyhow::{Context, Result, bail};
use memchr::memmem;
use serde::Deserialize;
use std::net::{SocketAddr, ToSocketAddrs};

/// How a broker is published to by HTTP. In texts `{payload}` stands for the payload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Door {
    /// Where one message is posted to.
    pub url: String,
    /// The body of such a request.
    pub body: String,
    /// How several are posted at once, if they can be.
    #[serde(default)]
    pub many: Option<Many>,
    /// The value of `Authorization`, if one is needed.
    #[serde(default)]
    pub authorization: String,
}

/// Several messages in one request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Many {
    /// Where they are posted to.
    pub url: String,
    /// What stands before the bodies of the messages, which are divided by commas.
    pub before: String,
    /// What stands behind them.
    pub behind: String,
}

/// A request, and where it goes.
#[derive(Clone, Debug)]
pub struct Request {
    /// The socket.
    pub address: SocketAddr,
    /// Head and body.
    pub bytes: Vec<u8>,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: &'a [u8],
    /// Bytes of all of it.
    pub len: usize,
    /// Whether the connection ends with it.
    pub is_last: bool,
}

impl Door {
    /// The same with ports and the like filled in.
    #[must_use]
    pub fn filled(&self, fill: impl Fn(&str) -> String) -> Self {
        let many = self.many.as_ref().map(|many| Many {
            url: fill(&many.url),
            ..many.clone()
        });
        Self {
            url: fill(&self.url),
            many,
            ..self.clone()
        }
    }

    /// The request for so many messages, each with so many bytes of payload; `None` if they cannot
    /// be in one.
    pub fn request(&self, messages: usize, payload_bytes: usize) -> Result<Option<Request>> {
        let one = self.body.replace("{payload}", &"x".repeat(payload_bytes));
        let (url, body) = match (&self.many, messages) {
            (_, 1) => (&self.url, one),
            (None, _) => return Ok(None),
            (Some(many), _) => {
                let all = vec![one; messages].join(",");
                (&many.url, format!("{}{all}{}", many.before, many.behind))
            }
        };
        let rest = url
            .strip_prefix("http://")
            .with_context(|| format!("{url}: no http:// URL"))?;
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let authorization = match &*self.authorization {
            "" => String::new(),
            value => format!("Authorization: {value}\r\n"),
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut addresses = authority.to_socket_addrs()?;
        Ok(Some(Request {
            address: addresses.next().context("no address")?,
            bytes: [head, body].concat().into_bytes(),
        }))
    }
}

/// The answer at the beginning of `bytes`; `None` if it is not complete. Answers of a length that is
/// not said are refused.
pub fn read(bytes: &[u8]) -> Result<Option<Answer<'_>>> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).context("a head that is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status: u16 = status.context("no status")?.parse()?;
    let fields = lines.filter_map(|line| line.split_once(':'));
    let value = |wanted: &str| {
        let mut named = fields.clone();
        let found = named.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim())
    };
    let length = value("content-length");
    let is_last = value("connection").is_some_and(|how| how.eq_ignore_ascii_case("close"));
    let length: usize = match length {
        Some(length) => length.parse()?,
        None if status == 204 => 0,
        None => bail!("an answer that does not say its length: {head}"),
    };
    let body = end + 4;
    Ok(bytes.get(body..body + length).map(|content| Answer {
        status,
        body: content,
        len: body + length,
        is_last,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> Door {
        Door {
            url: "http://127.0.0.1:{port1}/one".into(),
            body: "{\"data\":\"{payload}\"}".into(),
            many: Some(Many {
                url: "http://127.0.0.1:{port1}/many".into(),
                before: "[".into(),
                behind: "]".into(),
            }),
            authorization: "Basic eA==".into(),
        }
    }

    #[test]
    fn requests_hold_one_message_or_many() {
        let door = door().filled(|text| text.replace("{port1}", "81"));
        let one = door.request(1, 3).unwrap().unwrap();
        assert_eq!(one.address.port(), 81);
        let text = String::from_utf8(one.bytes).unwrap();
        assert!(text.starts_with("POST /one HTTP/1.1\r\nHost: 127.0.0.1:81\r\n"));
        assert!(text.contains("\r\nAuthorization: Basic eA==\r\n"));
        assert!(text.ends_with("\r\nContent-Length: 14\r\n\r\n{\"data\":\"xxx\"}"));
        let two = door.request(2, 1).unwrap().unwrap();
        let text = String::from_utf8(two.bytes).unwrap();
        assert!(text.contains("POST /many "));
        assert!(text.ends_with("\r\n\r\n[{\"data\":\"x\"},{\"data\":\"x\"}]"));
        let alone = Door { many: None, ..door };
        assert!(alone.request(2, 1).unwrap().is_none());
    }

    #[test]
    fn answers_end_where_they_say() {
        let text = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}HTTP";
        for most in 0..text.len() - 4 {
            assert_eq!(read(&text[..most]).unwrap(), None);
        }
        let answer = read(text).unwrap().unwrap();
        assert_eq!(
            (answer.status, answer.body, answer.len),
            (202, &b"{}"[..], text.len() - 4)
        );
        let empty = read(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!((empty.status, empty.len, empty.is_last), (204, 27, false));
        let last = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert!(read(last).unwrap().unwrap().is_last);
        assert!(read(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(read(b"nonsense\r\n\r\n").is_err());
    }
}
