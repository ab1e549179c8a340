//! Enhanced authentication with the method `jwt`.

use super::*;
use crate::connection::Secret;

fn binary(id: u8, data: &[u8]) -> Vec<u8> {
    [&[id][..], &field(data)].concat()
}

fn jwt(token: &[u8]) -> Vec<u8> {
    [binary(0x15, b"jwt"), binary(0x16, token)].concat()
}

/// AUTH with a reason and properties, all short.
fn auth(reason: u8, properties: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).expect("short");
    [&[0xf0, length + 2, reason, length][..], properties].concat()
}

/// Logged in with the method, with nothing left to read.
fn enhanced() -> Story {
    let mut story = Story::new();
    story.send(&connect_v5(2, 60, &jwt(b"first"), &field("c")));
    match story.commands().pop() {
        Some(Command::Connect(login)) => {
            assert_eq!(login.token, Some(Secret(Bytes::from_static(b"first"))));
            assert!(!format!("{login:?}").contains("first"));
        }
        other => panic!("no login: {other:?}"),
    }
    story.reply(Reply::Connected(Connected::default()));
    let connack = story.written();
    let named = connack.windows(6).any(|part| part == binary(0x15, b"jwt"));
    assert!(named, "CONNACK names the method: {connack:?}");
    story
}

fn refresh(story: &mut Story) -> (Token, Secret) {
    match story.commands().pop() {
        Some(Command::Refresh { token, credentials }) => (token, credentials),
        other => panic!("no refresh: {other:?} {:?}", story.close),
    }
}

/// `[MQTT-4.12.1-1]`
#[test]
fn a_new_token_is_taken_on_the_live_connection() {
    let mut story = enhanced();
    story.send(&auth(0x19, &jwt(b"second")));
    let (token, credentials) = refresh(&mut story);
    assert_eq!(credentials, Secret(Bytes::from_static(b"second")));
    let result = Ok(None);
    story.reply(Reply::Refreshed { token, result });
    assert_eq!(story.written(), auth(0, &binary(0x15, b"jwt")));
    assert_eq!(story.cause(), None);
}

/// `[MQTT-4.12.1-2]`
#[test]
fn a_token_that_is_refused_ends_the_connection() {
    let mut story = enhanced();
    story.send(&auth(0x19, &jwt(b"bad")));
    let (token, _) = refresh(&mut story);
    let result = Err(Refusal::new(RefusalCode::BadCredentials, ""));
    story.reply(Reply::Refreshed { token, result });
    let written = story.written();
    assert_eq!((written[0], written[2]), (0xe0, 0x87), "{written:?}");
    assert_eq!(story.cause(), Some(Cause::Unauthorized));
}

/// `[MQTT-4.12.1-1]`: the method stays, and there is no dialogue to continue.
#[test]
fn auth_that_fits_nothing_is_a_protocol_error() {
    for packet in [
        auth(0x18, &jwt(b"x")),
        auth(0x19, &binary(0x15, b"other")),
        auth(0x19, &[]),
    ] {
        let mut story = enhanced();
        story.send(&packet);
        assert!(story.commands().is_empty());
        assert!(
            matches!(story.cause(), Some(Cause::ProtocolError | Cause::Malformed)),
            "{packet:?}"
        );
    }
}

/// `[MQTT-4.12.0-2]` `[MQTT-4.12.0-3]`: CONNECT names the method alone, AUTH brings the token.
#[test]
fn a_token_that_connect_did_not_bring_is_asked_for() {
    let mut connect = connect_v5(2, 60, &binary(0x15, b"jwt"), &field("c"));
    let answer = auth(0x18, &jwt(b"late"));
    for together in [false, true] {
        let mut story = Story::new();
        if together {
            connect.extend_from_slice(&answer);
            story.send(&connect);
        } else {
            story.send(&connect);
            assert!(story.commands().is_empty(), "nobody is asked yet");
            story.send(&answer);
        }
        assert_eq!(story.written(), auth(0x18, &binary(0x15, b"jwt")));
        match story.commands().pop() {
            Some(Command::Connect(login)) => {
                assert_eq!(login.token, Some(Secret(Bytes::from_static(b"late"))));
                assert_eq!(login.client_id.as_deref(), Some("c"));
            }
            other => panic!("no login: {other:?}"),
        }
        story.reply(Reply::Connected(Connected::default()));
        assert_eq!(story.written()[0], 0x20);
        assert_eq!(story.cause(), None);
    }
}

#[test]
fn who_was_asked_for_a_token_brings_it_or_is_refused() {
    let connect = connect_v5(2, 60, &binary(0x15, b"jwt"), &field("c"));
    for (packet, reason) in [
        (auth(0x19, &jwt(b"x")), 0x82),
        (auth(0x18, &binary(0x15, b"other")), 0x82),
        (auth(0x18, &binary(0x15, b"jwt")), 0x87),
        (vec![0xc0, 0], 0x82),
        (connect.clone(), 0x82),
    ] {
        let mut story = Story::new();
        story.send(&connect);
        story.written();
        story.send(&packet);
        assert!(story.commands().is_empty(), "{packet:?}");
        let written = story.written();
        assert_eq!((written[0], written[3]), (0x20, reason), "{packet:?}");
        assert!(story.cause().is_some());
    }
    let mut story = Story::new();
    story.send(&connect);
    story.send(&[0xe0, 0]);
    assert_eq!(story.cause(), Some(Cause::Normal));
}
