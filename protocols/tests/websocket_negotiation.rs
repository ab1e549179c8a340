//! The WebSocket upgrade: every header a client may send, and its exact answer.

use protocols::connection::{Connection, Open, Protocol, WebSocketUse};
use protocols::negotiation::{HttpRefusal, check_origin, check_upgrade, choose};

/// A protocol in name only.
struct Named(&'static str, &'static [&'static str]);

impl Protocol for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn subprotocols(&self) -> &'static [&'static str] {
        self.1
    }

    fn web_socket_use(&self) -> WebSocketUse {
        WebSocketUse::BinaryStream
    }

    fn open(&self, _: Open) -> Box<dyn Connection> {
        unreachable!("negotiation opens nothing")
    }
}

static PROTOCOLS: &[&dyn Protocol] = &[
    &Named("mqtt", &["mqtt"]),
    &Named("stomp", &["v12.stomp", "v11.stomp", "v10.stomp", "stomp"]),
    &Named("json", &["polycast.json.v1", "json"]),
];

const SUPPORTED: &str =
    "supported are: mqtt, v12.stomp, v11.stomp, v10.stomp, stomp, polycast.json.v1, json";

fn chosen(values: &[&str]) -> Result<(&'static str, Option<&'static str>), HttpRefusal> {
    choose(PROTOCOLS, values.iter().map(|value| value.as_bytes()))
        .map(|choice| (choice.protocol.name(), choice.subprotocol))
}

fn refused(status: u16, message: &str) -> HttpRefusal {
    HttpRefusal {
        status,
        message: message.to_owned().into(),
        header: None,
    }
}

#[test]
fn the_first_supported_subprotocol_wins() {
    for (values, name, token) in [
        (&["mqtt"][..], "mqtt", "mqtt"),
        (&["json, mqtt"], "json", "json"),
        (&["mqtt, json"], "mqtt", "mqtt"),
        (&["v10.stomp, v12.stomp"], "stomp", "v10.stomp"),
        (&["stomp"], "stomp", "stomp"),
        (&["soap, wamp, v11.stomp, mqtt"], "stomp", "v11.stomp"),
        (&["mqttv3.1, mqtt"], "mqtt", "mqtt"),
        (
            &["soap", "polycast.json.v1", "mqtt"],
            "json",
            "polycast.json.v1",
        ),
        (&[" \t mqtt \t "], "mqtt", "mqtt"),
        (&[",, ,\t,mqtt,,"], "mqtt", "mqtt"),
        (&["", "mqtt"], "mqtt", "mqtt"),
        (&["soap,mqtt,mqtt"], "mqtt", "mqtt"),
    ] {
        assert_eq!(chosen(values), Ok((name, Some(token))), "{values:?}");
    }
}

#[test]
fn none_offered_is_json_without_the_header() {
    for values in [&[][..], &[""], &[" , \t"]] {
        assert_eq!(chosen(values), Ok(("json", None)), "{values:?}");
    }
}

#[test]
fn nothing_supported_is_refused_with_the_list() {
    let unknown = format!("none of the offered subprotocols is supported; {SUPPORTED}");
    for values in [&["soap"][..], &["MQTT"], &["Json", "V12.stomp"], &["mqtt5"]] {
        assert_eq!(chosen(values), Err(refused(400, &unknown)), "{values:?}");
    }
    let old = format!(
        "MQTT 3.1 (mqttv3.1) is not supported: use MQTT 3.1.1 or 5 with the subprotocol mqtt; \
         {SUPPORTED}"
    );
    assert_eq!(chosen(&["soap, mqttv3.1"]), Err(refused(400, &old)));
}

#[test]
fn without_json_a_subprotocol_is_needed() {
    let refusal = choose(&PROTOCOLS[..1], []).unwrap_err();
    let message = "a subprotocol is needed in Sec-WebSocket-Protocol; supported are: mqtt";
    assert_eq!(refusal, refused(400, message));
}

/// S14: what a hostile client offers.
#[test]
fn offers_are_bounded_tokens() {
    let not_tokens = refused(400, "Sec-WebSocket-Protocol is not a list of tokens");
    for value in [
        &b"m\xc3\xbcll, mqtt"[..],
        b"mqtt\xff",
        b"mqtt json",
        b"\"mqtt\"",
        b"mq\0tt",
    ] {
        assert_eq!(
            choose(PROTOCOLS, [value]).unwrap_err(),
            not_tokens,
            "{value:?}"
        );
    }
    let long = refused(400, "Sec-WebSocket-Protocol is too long");
    let spaces = format!("b{}", " ".repeat(8000));
    assert_eq!(chosen(&[&spaces]), Err(long.clone()));
    assert_eq!(
        chosen(&[&spaces[..3000], &spaces[..3000]]),
        Err(long.clone())
    );
    let many = refused(400, "Sec-WebSocket-Protocol offers too many subprotocols");
    assert_eq!(chosen(&[&"x,".repeat(33)]), Err(many));
    let short_spaces = format!("mqtt{}", " ".repeat(4000));
    assert_eq!(chosen(&[&short_spaces]), Ok(("mqtt", Some("mqtt"))));
}

const GOOD: [(&str, &str); 5] = [
    ("Host", "broker"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// Answer to the good handshake with some of its headers replaced; an empty value leaves it out.
fn upgraded(
    changes: &[(&'static str, &'static str)],
) -> Result<String, (u16, Option<&'static str>)> {
    let mut headers: Vec<(&str, &str)> = GOOD
        .into_iter()
        .filter(|(name, _)| changes.iter().all(|(other, _)| other != name))
        .collect();
    headers.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
    let headers = headers
        .into_iter()
        .map(|(name, value)| (name, value.as_bytes()));
    check_upgrade("GET", true, headers)
        .map_err(|refusal| (refusal.status, refusal.header.map(|(name, _)| name)))
}

/// The example of RFC 6455 §1.3.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[test]
fn handshakes_that_are_accepted() {
    for changes in [
        &[][..],
        &[("Connection", "keep-alive, Upgrade")],
        &[("Connection", "keep-alive"), ("connection", "uPGRADE")],
        &[("Upgrade", "h2c, WebSocket")],
        &[("Sec-WebSocket-Version", " 13 ")],
    ] {
        assert_eq!(upgraded(changes), Ok(ACCEPT.to_owned()), "{changes:?}");
    }
}

#[test]
fn handshakes_that_are_refused() {
    let version = (426, Some("Sec-WebSocket-Version"));
    for (changes, expected) in [
        (&[("Upgrade", "")][..], (426, Some("Upgrade"))),
        (&[("Upgrade", "h2c")], (426, Some("Upgrade"))),
        (&[("Connection", "")], (400, None)),
        (&[("Connection", "close")], (400, None)),
        (&[("Sec-WebSocket-Version", "")], version),
        (&[("Sec-WebSocket-Version", "12")], version),
        (&[("Sec-WebSocket-Version", "13, 8")], version),
        (
            &[
                ("Sec-WebSocket-Version", "13"),
                ("sec-websocket-version", "13"),
            ],
            version,
        ),
        (&[("Sec-WebSocket-Key", "")], (400, None)),
        (
            &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j")],
            (400, None),
        ),
        (
            &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ")],
            (400, None),
        ),
        (&[("Sec-WebSocket-Key", "****************")], (400, None)),
        (
            &[
                ("Sec-WebSocket-Key", GOOD[4].1),
                ("sec-websocket-key", GOOD[4].1),
            ],
            (400, None),
        ),
    ] {
        assert_eq!(upgraded(changes), Err(expected), "{changes:?}");
    }
    let headers = || {
        GOOD.into_iter()
            .map(|(name, value)| (name, value.as_bytes()))
    };
    let refusal = check_upgrade("POST", true, headers()).unwrap_err();
    assert_eq!(
        (refusal.status, refusal.header),
        (405, Some(("Allow", "GET")))
    );
    assert_eq!(
        check_upgrade("GET", false, headers()).unwrap_err().status,
        400
    );
}

#[test]
fn another_site_is_refused_unless_listed() {
    let listed = ["https://app.example.com", "http://localhost:3000"];
    for (origin, host, is_allowed) in [
        (&[][..], Some("broker.example.com"), true),
        (
            &["http://broker.example.com:8080"],
            Some("broker.example.com:8080"),
            true,
        ),
        (
            &["http://Broker.example.com"],
            Some("broker.EXAMPLE.com:80"),
            true,
        ),
        (
            &["https://broker.example.com"],
            Some("broker.example.com"),
            true,
        ),
        (
            &["https://broker.example.com:443"],
            Some("broker.example.com"),
            true,
        ),
        (&["http://[::1]:8080"], Some("[::1]:8080"), true),
        (
            &["HTTPS://app.example.com"],
            Some("broker.example.com"),
            true,
        ),
        (&["http://localhost:3000"], Some("localhost:8080"), true),
        (&["http://localhost:3001"], Some("localhost:8080"), false),
        (
            &["http://app.example.com"],
            Some("broker.example.com"),
            false,
        ),
        (
            &["https://app.example.com.evil.net"],
            Some("broker.example.com"),
            false,
        ),
        (&["http://evil.net"], Some("broker.example.com"), false),
        (
            &["https://broker.example.com:80"],
            Some("broker.example.com"),
            false,
        ),
        (
            &["ftp://broker.example.com"],
            Some("broker.example.com"),
            false,
        ),
        (&["null"], Some("null"), false),
        (&[""], Some(""), false),
        (&["http://"], Some(""), false),
        (&["http://broker.example.com"], None, false),
        (
            &["https://app.example.com", "https://app.example.com"],
            Some("x"),
            false,
        ),
    ] {
        let check = |allowed: &[&str]| {
            let origin = origin.iter().map(|origin: &&str| origin.as_bytes());
            check_origin(origin, host.map(str::as_bytes), allowed)
        };
        let got = check(&listed);
        assert_eq!(got.is_ok(), is_allowed, "{origin:?} {host:?}");
        if let Err(refusal) = got {
            assert_eq!(refusal.status, 403);
        }
        assert_eq!(check(&["*"]).is_ok(), origin.len() < 2, "{origin:?} with *");
    }
}
