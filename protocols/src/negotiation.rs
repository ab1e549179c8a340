//! The WebSocket upgrade: request headers in, a choice or a refusal out.
//!
//! Three questions, each a pure function: is this an upgrade ([`check_upgrade`]), may this page
//! ask for it ([`check_origin`]), which protocol will be spoken ([`choose`]). The broker reads the
//! request, asks, and writes the answer; permessage-deflate is negotiated in
//! [`crate::websocket::deflate`].

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tungstenite::handshake::derive_accept_key;

use crate::connection::Protocol;

/// Bytes of all `Sec-WebSocket-Protocol` values together.
const OFFER_BYTES_MAX: usize = 4096;

/// Subprotocols that a client may offer.
const OFFERS_MAX: usize = 32;

/// An answer that is not the upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRefusal {
    /// HTTP status.
    pub status: u16,
    /// For people: what is wrong and what to do. One line without its end.
    pub message: Cow<'static, str>,
    /// A header that belongs to the status.
    pub header: Option<(&'static str, &'static str)>,
}

impl HttpRefusal {
    fn new(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            header: None,
        }
    }

    fn with(self, name: &'static str, value: &'static str) -> Self {
        Self {
            header: Some((name, value)),
            ..self
        }
    }
}

/// The protocol of a new connection.
#[derive(Clone, Copy)]
pub struct Choice {
    /// Who speaks it.
    pub protocol: &'static dyn Protocol,
    /// The token for `Sec-WebSocket-Protocol` in the answer and for
    /// [`crate::connection::Open::subprotocol`]; `None` if none was offered: then the header is
    /// left out.
    pub subprotocol: Option<&'static str>,
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Choice")
            .field(&self.protocol.name())
            .field(&self.subprotocol)
            .finish()
    }
}

/// Chooses the first of the client's subprotocols that one of `protocols` supports, or JSON if it
/// offers none (RFC 6455 §4.2.2).
///
/// `offered` are the values of `Sec-WebSocket-Protocol`, which may repeat and hold lists. Tokens
/// are compared exactly. Refused with 400: nothing supported, not a list of tokens, too many.
pub fn choose<'a>(
    protocols: &[&'static dyn Protocol],
    offered: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Choice, HttpRefusal> {
    let offers = parse_offers(offered)?;
    if offers.is_empty() {
        return protocols
            .iter()
            .find(|protocol| protocol.name() == "json")
            .map(|&protocol| Choice {
                protocol,
                subprotocol: None,
            })
            .ok_or_else(|| unsupported(protocols, &offers));
    }
    offers
        .iter()
        .find_map(|offer| find(protocols, offer))
        .ok_or_else(|| unsupported(protocols, &offers))
}

fn find(protocols: &[&'static dyn Protocol], offer: &str) -> Option<Choice> {
    protocols.iter().find_map(|&protocol| {
        let token = protocol
            .subprotocols()
            .iter()
            .find(|token| **token == offer)?;
        Some(Choice {
            protocol,
            subprotocol: Some(token),
        })
    })
}

/// The tokens in their order; empty elements are allowed (RFC 9110 §5.6.1.2).
fn parse_offers<'a>(
    values: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<&'a str>, HttpRefusal> {
    let mut offers = Vec::new();
    let mut bytes = 0;
    for value in values {
        bytes += value.len();
        if bytes > OFFER_BYTES_MAX {
            return Err(HttpRefusal::new(400, "Sec-WebSocket-Protocol is too long"));
        }
        for element in elements(value) {
            let Some(token) = parse_token(element) else {
                let message = "Sec-WebSocket-Protocol is not a list of tokens";
                return Err(HttpRefusal::new(400, message));
            };
            if offers.len() == OFFERS_MAX {
                let message = "Sec-WebSocket-Protocol offers too many subprotocols";
                return Err(HttpRefusal::new(400, message));
            }
            offers.push(token);
        }
    }
    Ok(offers)
}

fn unsupported(protocols: &[&'static dyn Protocol], offers: &[&str]) -> HttpRefusal {
    let supported: Vec<&str> = protocols
        .iter()
        .flat_map(|protocol| protocol.subprotocols())
        .copied()
        .collect();
    let problem = if offers.contains(&"mqttv3.1") {
        "MQTT 3.1 (mqttv3.1) is not supported: use MQTT 3.1.1 or 5 with the subprotocol mqtt"
    } else if offers.is_empty() {
        "a subprotocol is needed in Sec-WebSocket-Protocol"
    } else {
        "none of the offered subprotocols is supported"
    };
    let message = format!("{problem}; supported are: {}", supported.join(", "));
    HttpRefusal::new(400, message)
}

/// Checks that a request is a WebSocket handshake (RFC 6455 §4.2.1) and returns the value of
/// `Sec-WebSocket-Accept`.
///
/// Header names are compared without regard to case. `http_1_1` says that the request's version is
/// at least 1.1. Refusals: 405 for another method, 426 for no upgrade or another version of
/// WebSocket, 400 for the rest.
pub fn check_upgrade<'a>(
    method: &str,
    http_1_1: bool,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<String, HttpRefusal> {
    let mut seen = Handshake::default();
    for (name, value) in headers {
        seen.see(name, value);
    }
    if method != "GET" {
        return Err(HttpRefusal::new(405, "a WebSocket begins with GET").with("Allow", "GET"));
    }
    if !http_1_1 {
        return Err(HttpRefusal::new(400, "a WebSocket needs HTTP/1.1"));
    }
    if !seen.upgrades {
        let message = "only WebSocket is spoken here: Upgrade: websocket is needed";
        return Err(HttpRefusal::new(426, message).with("Upgrade", "websocket"));
    }
    if !seen.connection_upgrades {
        return Err(HttpRefusal::new(400, "Connection: Upgrade is needed"));
    }
    if seen.version != Value::Once(b"13") {
        let message = "only version 13 of WebSocket is supported";
        return Err(HttpRefusal::new(426, message).with("Sec-WebSocket-Version", "13"));
    }
    match seen.key {
        Value::Once(key) if BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16) => {
            Ok(derive_accept_key(key))
        }
        _ => Err(HttpRefusal::new(
            400,
            "Sec-WebSocket-Key is not the base64 of 16 bytes",
        )),
    }
}

/// The headers that make a handshake.
#[derive(Default)]
struct Handshake<'a> {
    upgrades: bool,
    connection_upgrades: bool,
    version: Value<'a>,
    key: Value<'a>,
}

/// A header that must be there exactly once.
#[derive(Default, PartialEq, Eq)]
enum Value<'a> {
    #[default]
    Missing,
    Once(&'a [u8]),
    Repeated,
}

impl<'a> Handshake<'a> {
    fn see(&mut self, name: &str, value: &'a [u8]) {
        if name.eq_ignore_ascii_case("upgrade") {
            self.upgrades |= has_element(value, b"websocket");
        } else if name.eq_ignore_ascii_case("connection") {
            self.connection_upgrades |= has_element(value, b"upgrade");
        } else if name.eq_ignore_ascii_case("sec-websocket-version") {
            self.version.see(value);
        } else if name.eq_ignore_ascii_case("sec-websocket-key") {
            self.key.see(value);
        }
    }
}

impl<'a> Value<'a> {
    fn see(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Missing => Self::Once(value.trim_ascii()),
            Self::Once(_) | Self::Repeated => Self::Repeated,
        };
    }
}

/// Checks whether the page that asks may do so (RFC 6455 §10.2): 403 for a browser on another
/// site unless its origin, or `*`, is among `allowed`.
///
/// `origins` are the values of `Origin`; without one it is not a browser. `host` is the value of
/// `Host`, which is the page's own site if they name the same host and port. A port that is the
/// default of the origin's scheme may be left out on either side. Origins of `allowed` are
/// `scheme://host[:port]`, compared without regard to case.
pub fn check_origin<'a, S: AsRef<str>>(
    origins: impl IntoIterator<Item = &'a [u8]>,
    host: Option<&[u8]>,
    allowed: &[S],
) -> Result<(), HttpRefusal> {
    let mut origins = origins.into_iter();
    let Some(origin) = origins.next().map(<[u8]>::trim_ascii) else {
        return Ok(());
    };
    let is_listed = allowed
        .iter()
        .map(AsRef::as_ref)
        .any(|listed| listed == "*" || listed.as_bytes().eq_ignore_ascii_case(origin));
    if origins.next().is_none() && (is_listed || is_same_site(origin, host)) {
        return Ok(());
    }
    Err(HttpRefusal::new(
        403,
        "pages of this origin may not connect here: add it to the allowed origins",
    ))
}

fn is_same_site(origin: &[u8], host: Option<&[u8]>) -> bool {
    let (Ok(origin), Some(Ok(host))) = (
        std::str::from_utf8(origin),
        host.map(|host| std::str::from_utf8(host.trim_ascii())),
    ) else {
        return false;
    };
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => return false,
    };
    let bare = |authority: &str| {
        authority
            .strip_suffix(default_port)
            .unwrap_or(authority)
            .to_ascii_lowercase()
    };
    !authority.is_empty() && bare(authority) == bare(host)
}

/// The elements of a list (RFC 9110 §5.6.1), without the empty ones.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

fn has_element(value: &[u8], wanted: &[u8]) -> bool {
    elements(value).any(|element| element.eq_ignore_ascii_case(wanted))
}

/// A token (RFC 9110 §5.6.2).
fn parse_token(bytes: &[u8]) -> Option<&str> {
    let is_token = bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
    std::str::from_utf8(bytes).ok().filter(|_| is_token)
}
