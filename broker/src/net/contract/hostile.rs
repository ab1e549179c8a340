//! Stories of clients that send what is not allowed, too much, or nothing.
//!
//! Each has a witness that does not notice.

use protocols::connection::{Cause, WebSocketUse};
use protocols::websocket::frame::OpCode;

use super::dialect::{Event, Speaker, plain};
use super::world::{
    BYTES_AFTER_LOGIN, BYTES_BEFORE_LOGIN, Client, LOGIN, PIPE_BYTES, World, data, undisturbed,
    until,
};
use super::{each, each_pair, framing};

#[tokio::test]
async fn garbage_ends_the_connection_and_is_counted() {
    each_pair(async |speaker, witness| {
        let world = World::new();
        let mut witness = world.login(witness, "witness").await;
        for logged_in in [false, true] {
            let answer = speaker.dialect.answer_to_garbage(logged_in);
            let cause = answer.ends.expect("garbage ends a connection");
            let before = world.errors(speaker, cause.as_str());
            let mut client = newcomer(&world, speaker, logged_in).await;
            for frame in speaker.dialect.garbage() {
                client.send(&frame).await;
            }
            client
                .expect_rest(&speaker.ending(answer.says, cause))
                .await;
            assert_eq!(world.errors(speaker, cause.as_str()), before + 1);
            assert!(world.net.hub.session("client").is_none());
        }
        undisturbed(&mut witness).await;
    })
    .await;
}

/// However the bytes arrive, the frames are the same.
#[tokio::test]
async fn frames_may_come_byte_by_byte() {
    each(async |speaker| {
        if speaker.is_web_socket() {
            return;
        }
        let world = World::new();
        let mut client = world.open(speaker, 1);
        client.login("client").await;
        undisturbed(&mut client).await;
    })
    .await;
}

#[tokio::test]
async fn a_login_has_a_largest_size() {
    each(async |speaker| {
        let world = World::new();
        let mut small = world.open(speaker, PIPE_BYTES);
        let frame = speaker.dialect.connect("small", BYTES_BEFORE_LOGIN - 256);
        small.send(&frame).await;
        small.expect(Event::Connected).await;

        let mut large = world.open(speaker, PIPE_BYTES);
        let frame = speaker.dialect.connect("large", BYTES_BEFORE_LOGIN);
        large.send(&frame).await;
        let says = speaker.dialect.answer_to_large(false);
        large
            .expect_rest(&speaker.ending(says, Cause::TooLarge))
            .await;
        assert_eq!(world.errors(speaker, "too_large"), 1);
        undisturbed(&mut small).await;
    })
    .await;
}

#[tokio::test]
async fn a_frame_has_a_largest_size() {
    each_pair(async |speaker, witness| {
        let world = World::new();
        let mut witness = world.login(witness, "witness").await;
        witness.subscribe("a").await;
        let mut client = world.login(speaker, "client").await;
        let payload = "x".repeat(BYTES_AFTER_LOGIN - 256);
        client.publish(plain("a", &payload)).await;
        witness.expect(Event::message("a", &payload, false)).await;

        let payload = "x".repeat(BYTES_AFTER_LOGIN);
        client.publish(plain("a", &payload)).await;
        let says = speaker.dialect.answer_to_large(true);
        client
            .expect_rest(&speaker.ending(says, Cause::TooLarge))
            .await;
        assert_eq!(world.errors(speaker, "too_large"), 1);
        undisturbed(&mut witness).await;
    })
    .await;
}

#[tokio::test]
async fn who_does_not_log_in_is_sent_away() {
    each(async |speaker| {
        let world = World::new();
        let client = world.open(speaker, PIPE_BYTES);
        let mut slow = world.open(speaker, PIPE_BYTES);
        let mut beginning = speaker.dialect.connect("slow", 0);
        beginning.truncate(beginning.len() / 2);
        if speaker.protocol().web_socket_use() != WebSocketUse::TextMessages {
            slow.send(&beginning).await;
        }
        until("both wait", || world.net.timers.len() == 2).await;
        let says = || speaker.dialect.last_words(Cause::LoginTimeout, false);
        let ending = speaker.ending(says(), Cause::LoginTimeout);
        world.pass(LOGIN * 2);
        client.expect_rest(&ending).await;
        slow.expect_rest(&ending).await;
        assert_eq!(world.closed(speaker, "login_timeout"), 2);
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn who_logs_in_may_be_silent_for_longer() {
    each(async |speaker| {
        let world = World::new();
        let mut client = world.login(speaker, "client").await;
        world.pass(LOGIN * 2);
        undisturbed(&mut client).await;
    })
    .await;
}

/// RFC 6455 §5.1
#[tokio::test]
async fn what_is_not_masked_ends_a_web_socket() {
    each(async |speaker| {
        if !speaker.is_web_socket() {
            return;
        }
        let world = World::new();
        for logged_in in [false, true] {
            let mut client = newcomer(&world, speaker, logged_in).await;
            let opcode = data(speaker.protocol().web_socket_use());
            let frame = speaker.dialect.connect("other", 0);
            client
                .send_raw(&framing::write_unmasked(opcode, &frame))
                .await;
            client
                .expect_rest(&speaker.ending(Vec::new(), Cause::ProtocolError))
                .await;
        }
        assert_eq!(world.errors(speaker, "protocol_error"), 2);
    })
    .await;
}

#[tokio::test]
async fn messages_of_the_wrong_type_end_a_web_socket() {
    each(async |speaker| {
        let wrong = match speaker.protocol().web_socket_use() {
            _ if !speaker.is_web_socket() => return,
            WebSocketUse::BinaryStream => OpCode::Text,
            WebSocketUse::TextMessages => OpCode::Binary,
            // It takes both.
            WebSocketUse::FramedStream => return,
        };
        let world = World::new();
        let mut client = world.open(speaker, PIPE_BYTES);
        let frame = speaker.dialect.connect("client", 0);
        client.send_raw(&framing::write(wrong, &frame)).await;
        client
            .expect_rest(&speaker.ending(Vec::new(), Cause::WrongType))
            .await;
        assert_eq!(world.errors(speaker, "wrong_type"), 1);
    })
    .await;
}

async fn newcomer(world: &World, speaker: Speaker, logged_in: bool) -> Client {
    if logged_in {
        world.login(speaker, "client").await
    } else {
        world.open(speaker, PIPE_BYTES)
    }
}
