//! Input that is meant to hurt, and the exact answers to it.

mod json_support;

use json_support::Client;
use proptest::prelude::*;
use protocols::connection::Cause;
use protocols::limits::Limits;

const ROOM: usize = 64 * 1024 * 1024;

fn answer(frame: &str) -> String {
    let mut client = Client::logged_in_with(Limits {
        packet_bytes: ROOM,
        ..Limits::default()
    });
    client.send(frame);
    assert!(client.commands.is_empty());
    assert_eq!(client.closed, None, "an error frame is enough");
    client.frame()
}

fn error(code: &str, message: &str) -> String {
    format!(r#"{{"type":"error","code":"{code}","message":"{message}"}}"#)
}

fn closed(client: &mut Client) -> (Cause, String) {
    let reason = client.closed.clone().expect("still open");
    (reason.cause, client.frame())
}

#[test]
fn depth_is_refused_without_recursion() {
    let deep = "[".repeat(100_000);
    let frame = format!(r#"{{"type":"publish","topic":"a","data":{deep}"#);
    let at = frame.find('[').unwrap() + 31;
    let message = format!("not a JSON object: nested too deeply at byte {at}");
    assert_eq!(answer(&frame), error("tooDeep", &message));
    let unknown = format!(r#"{{"type":"ping","x":{}"#, r#"{"a":"#.repeat(100_000));
    assert!(
        answer(&unknown).contains(r#""code":"tooDeep""#),
        "unknown fields count too"
    );
    let allowed = "[".repeat(31) + &"]".repeat(31);
    let mut client = Client::logged_in();
    client.send(&format!(
        r#"{{"type":"publish","topic":"a","data":{allowed}}}"#
    ));
    assert_eq!(client.commands.len(), 1);
}

#[test]
fn a_frame_over_the_limit_closes() {
    let long = format!(
        r#"{{"type":"publish","topic":"a","data":"{}"}}"#,
        "x".repeat(10_000_000)
    );
    let mut client = Client::logged_in();
    client.send(&long);
    let frame = r#"{"type":"disconnect","reason":"tooLarge","message":"a frame of 10000040 bytes, at most 1048576 are allowed","reconnect":false}"#;
    assert_eq!(closed(&mut client), (Cause::TooLarge, frame.to_owned()));
    assert!(client.commands.is_empty());

    let mut stranger = Client::new();
    stranger.send(&" ".repeat(64 * 1024 + 1));
    let frame = r#"{"type":"disconnect","reason":"tooLarge","message":"a frame of 65537 bytes, at most 65536 are allowed","reconnect":false}"#;
    assert_eq!(closed(&mut stranger), (Cause::TooLarge, frame.to_owned()));
}

#[test]
fn text_that_is_not_utf8_closes() {
    for mut client in [Client::new(), Client::logged_in()] {
        client.send_bytes(b"{\"type\":\"ping\",\"id\":\"\xff\"}");
        let frame = r#"{"type":"disconnect","reason":"notUtf8","message":"a frame is not UTF-8","reconnect":false}"#;
        assert_eq!(closed(&mut client), (Cause::NotUtf8, frame.to_owned()));
    }
}

#[test]
fn json_that_readers_differ_on_is_refused() {
    for (frame, problem) in [
        (
            r#"{"type":"publish","topic":"a","data":1e400}"#,
            "number out of range at byte 37",
        ),
        (
            r#"{"type":"publish","topic":"a","data":[-1e400]}"#,
            "number out of range at byte 38",
        ),
        (
            r#"{"type":"ping","id":1e400}"#,
            "number out of range at byte 20",
        ),
        (
            r#"{"type":"publish","topic":"\ud800"}"#,
            "half of a surrogate pair in a string at byte 27",
        ),
        (
            r#"{"type":"publish","topic":"a","data":{"\udc00":1}}"#,
            "half of a surrogate pair in a string at byte 39",
        ),
        (
            "{\"type\":\"pi\nng\"}",
            "control character in a string at byte 11",
        ),
        (r#"{"type":"ping"} x"#, "text behind the value at byte 16"),
        (r#"{"type":"ping",}"#, "unexpected character at byte 15"),
        (r#"{"type":"ping""#, "the text ends too early at byte 14"),
        ("", "the text ends too early at byte 0"),
        ("[]", "unexpected character at byte 0"),
        ("\u{feff}{}", "unexpected character at byte 0"),
        ("null", "unexpected character at byte 0"),
    ] {
        let expected = error("malformed", &format!("not a JSON object: {problem}"));
        assert_eq!(answer(frame), expected, "{frame}");
    }
}

#[test]
fn duplicates_are_refused_where_they_have_a_meaning() {
    for name in ["type", "id", "topic", "data"] {
        let value = if name == "data" { "1" } else { "\"publish\"" };
        let frame =
            format!(r#"{{"type":"publish","id":"1","topic":"a","data":1,"{name}":{value}}}"#);
        assert_eq!(
            answer(&frame),
            error("invalidFrame", &format!(r#"\"{name}\" comes twice"#))
        );
    }
    let escaped = r#"{"type":"ping","t\u0079pe":"pong"}"#;
    assert_eq!(
        answer(escaped),
        error("invalidFrame", r#"\"type\" comes twice"#)
    );
    let mut client = Client::logged_in();
    client.send(r#"{"type":"publish","topic":"a","x":1,"x":2,"data":{"k":1,"k":2}}"#);
    assert_eq!(
        client.commands.len(),
        1,
        "unknown fields and data are not judged"
    );
}

#[test]
fn ids_are_strings_or_numbers() {
    for (id, code) in [
        ("true", "invalidFrame"),
        ("{}", "invalidFrame"),
        ("[1]", "invalidFrame"),
    ] {
        let expected = error(code, r#"\"id\" must be a string or a number"#);
        assert_eq!(answer(&format!(r#"{{"type":"ping","id":{id}}}"#)), expected);
    }
    let long = "9".repeat(129);
    let expected = error("tooLarge", r#"\"id\" has more than 128 bytes"#);
    assert_eq!(
        answer(&format!(r#"{{"type":"ping","id":{long}}}"#)),
        expected
    );
    for id in ["-1.50e+3", "\"\\u00e4\\/\"", "18446744073709551616"] {
        assert_eq!(
            answer(&format!(r#"{{"type":"ping","id":{id}}}"#)),
            format!(r#"{{"type":"pong","id":{id}}}"#)
        );
    }
    assert_eq!(answer(r#"{"type":"ping","id":null}"#), r#"{"type":"pong"}"#);
}

#[test]
fn unknown_types_are_named_and_cut_short() {
    let known = "known are connect, subscribe, unsubscribe, publish, ack, nack, join, leave, \
                 broadcast, ping, pong, refresh, disconnect";
    for kind in ["message", "connected", "Ping", ""] {
        let expected = error(
            "unknownType",
            &format!(r#"unknown type \"{kind}\"; {known}"#),
        );
        assert_eq!(answer(&format!(r#"{{"type":"{kind}"}}"#)), expected);
    }
    let long = "x".repeat(100_000);
    assert!(answer(&format!(r#"{{"type":"{long}"}}"#)).len() < 300);
    assert_eq!(
        answer("{}"),
        error("invalidFrame", r#"\"type\" is missing"#)
    );
    assert_eq!(
        answer(r#"{"type":1}"#),
        error("invalidFrame", r#"\"type\" must be a string"#)
    );
}

#[test]
fn many_headers_stop_at_the_limit() {
    let many: Vec<String> = (0..100_000).map(|n| format!(r#""h{n}":"v""#)).collect();
    let frame = format!(
        r#"{{"type":"publish","topic":"a","headers":{{{}}}}}"#,
        many.join(",")
    );
    assert_eq!(answer(&frame), error("tooLarge", "more than 64 headers"));
    let repeats = vec!["\"v\""; 65].join(",");
    let frame = format!(r#"{{"type":"publish","topic":"a","headers":{{"h":[{repeats}]}}}}"#);
    assert_eq!(answer(&frame), error("tooLarge", "more than 64 headers"));
    let empty: Vec<String> = (0..100_000).map(|n| format!(r#""h{n}":[]"#)).collect();
    let frame = format!(
        r#"{{"type":"publish","topic":"a","headers":{{{}}}}}"#,
        empty.join(",")
    );
    assert_eq!(answer(&frame), error("tooLarge", "more than 64 headers"));
    let value = "v".repeat(17_000);
    let frame = format!(r#"{{"type":"publish","topic":"a","headers":{{"h":"{value}"}}}}"#);
    let expected = error(
        "tooLarge",
        "headers of 17001 bytes, at most 16384 are allowed",
    );
    assert_eq!(answer(&frame), expected);
}

#[test]
fn sixty_five_thousand_levels_are_refused() {
    let topic = "/".repeat(65_535);
    assert!(answer(&format!(r#"{{"type":"publish","topic":"{topic}"}}"#)).contains("topicInvalid"));
    let mut client = Client::logged_in();
    client.send(&format!(
        r#"{{"type":"subscribe","id":1,"topic":"{topic}"}}"#
    ));
    client.obey();
    assert!(
        client
            .frame()
            .starts_with(r#"{"type":"error","id":1,"code":"filterInvalid""#)
    );
}

#[test]
fn the_eighth_frame_that_is_not_json_closes() {
    for mut client in [Client::new(), Client::logged_in()] {
        for _ in 0..7 {
            client.send("hello");
            client.frame();
            client.send(r#"{"type":"hello"}"#);
            assert!(
                client.frame().contains("unknownType"),
                "which is not counted"
            );
        }
        assert_eq!(client.closed, None);
        client.send("hello");
        assert_eq!(
            client.frames()[1],
            r#"{"type":"disconnect","reason":"malformed","message":"too many frames that are not JSON","reconnect":false}"#
        );
        assert_eq!(
            client.closed.map(|reason| reason.cause),
            Some(Cause::Malformed)
        );
    }
}

/// Pieces of frames, so that random input gets further than the first brace.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{\"type\":\"publish\",\"topic\":\"a\"".to_owned()),
        Just("{\"type\":\"subscribe\",\"topics\":[\"a\",\"b\"]".to_owned()),
        Just("{\"type\":\"ack\",\"ackIds\":[1]".to_owned()),
        Just(",\"headers\":{\"a\":[\"1\"]}".to_owned()),
        Just(",\"session\":{\"expiry\":1e3}".to_owned()),
        Just(",\"data\":\"AA==\",\"dataType\":\"base64\"".to_owned()),
        Just("}".to_owned()),
        "[\\[\\]{}\",:\\\\a-z0-9.eE+-]{0,12}",
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn no_input_panics(frames in prop::collection::vec(prop::collection::vec(piece(), 0..6), 0..6)) {
        let mut client = Client::new();
        for pieces in frames {
            client.send(&pieces.concat());
            client.obey();
        }
        for frame in client.frames() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&frame).is_ok(), "{}", frame);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut client = Client::logged_in();
        client.send_bytes(&bytes);
    }
}
