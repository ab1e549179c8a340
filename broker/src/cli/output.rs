//! How messages are printed.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};

use super::client::Incoming;

/// What a message looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// Whether its topic stands before it.
    pub(super) topic: bool,
    /// Whether it is a JSON object.
    pub(super) json: bool,
    /// Whether a line end follows.
    pub(super) newline: bool,
    /// Whether a terminal shows it, which must not be driven by what it shows.
    pub(super) terminal: bool,
}

/// A message as an object, with the names of the JSON subprotocol.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    topic: &'a str,
    data_type: &'static str,
    data: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    retained: bool,
    redelivered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
}

/// Prints a message.
pub(super) fn write_message(
    out: &mut impl Write,
    message: &Incoming,
    format: Format,
) -> io::Result<()> {
    if format.json {
        return write_json(out, message);
    }
    if format.topic {
        write_bytes(out, message.topic.as_bytes(), format)?;
        out.write_all(b" ")?;
    }
    write_bytes(out, &message.payload, format)?;
    if format.newline {
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn write_json(out: &mut impl Write, message: &Incoming) -> io::Result<()> {
    let encoded;
    let (data_type, data) = match std::str::from_utf8(&message.payload) {
        Ok(text) => ("text", text),
        Err(_) => {
            encoded = STANDARD.encode(&message.payload);
            ("base64", encoded.as_str())
        }
    };
    let properties = &message.properties;
    let line = Line {
        topic: &message.topic,
        data_type,
        data,
        qos: message.qos.map(|qos| qos as u8),
        retained: message.retained,
        redelivered: message.redelivered,
        content_type: properties.content_type.as_deref(),
        correlation_id: properties
            .correlation
            .as_deref()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
        reply_to: properties.reply_to.as_deref(),
        expires_in: message.expiry_secs,
        headers: headers(message),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// Headers by name; a repeated one is an array.
fn headers(message: &Incoming) -> Map<String, Value> {
    let mut headers = Map::new();
    for (name, value) in &message.properties.user {
        let value = Value::from(&**value);
        match headers.get_mut(&**name) {
            None => {
                headers.insert(name.to_string(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    headers
}

/// Bytes as they are, or, for a terminal, with everything escaped that is not plain text.
fn write_bytes(out: &mut impl Write, bytes: &[u8], format: Format) -> io::Result<()> {
    if !format.terminal {
        return out.write_all(bytes);
    }
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\n' | '\t' => write!(out, "{char}")?,
                char if char.is_control() => write!(out, "{}", char.escape_unicode())?,
                char => write!(out, "{char}")?,
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use protocols::model::{Properties, QoS};

    fn message(payload: &'static [u8]) -> Incoming {
        Incoming {
            topic: "a/b".to_owned(),
            payload: Bytes::from_static(payload),
            qos: Some(QoS::AtLeastOnce),
            retained: true,
            redelivered: false,
            properties: Properties {
                content_type: Some("text/plain".into()),
                user: vec![
                    ("x".into(), "1".into()),
                    ("y".into(), "2".into()),
                    ("x".into(), "3".into()),
                ],
                ..Properties::default()
            },
            expiry_secs: Some(9),
        }
    }

    fn print(payload: &'static [u8], format: Format) -> String {
        let mut out = Vec::new();
        write_message(&mut out, &message(payload), format).unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    const PLAIN: Format = Format {
        topic: false,
        json: false,
        newline: true,
        terminal: false,
    };

    #[test]
    fn plain_is_the_payload() {
        assert_eq!(print(b"hi \x1b[1m", PLAIN), "hi \x1b[1m\n");
        let verbose = Format {
            topic: true,
            newline: false,
            ..PLAIN
        };
        assert_eq!(print(b"hi", verbose), "a/b hi");
    }

    #[test]
    fn a_terminal_is_not_driven() {
        let terminal = Format {
            terminal: true,
            ..PLAIN
        };
        assert_eq!(
            print(b"\x1b[2J\r\xffok\n", terminal),
            "\\u{1b}[2J\\u{d}\\xffok\n\n"
        );
    }

    #[test]
    fn json_tells_all() {
        let json = Format {
            json: true,
            ..PLAIN
        };
        assert_eq!(
            print(b"hi", json),
            "{\"topic\":\"a/b\",\"dataType\":\"text\",\"data\":\"hi\",\"qos\":1,\
             \"retained\":true,\"redelivered\":false,\"contentType\":\"text/plain\",\
             \"expiresIn\":9,\"headers\":{\"x\":[\"1\",\"3\"],\"y\":\"2\"}}\n"
        );
        assert!(print(b"\xff\x00", json).contains("\"dataType\":\"base64\",\"data\":\"/wA=\""));
    }
}
