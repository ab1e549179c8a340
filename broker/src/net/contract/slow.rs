//! Stories of a subscriber that does not read.

use protocols::websocket::frame::OpCode;

use super::dialect::{Event, Speaker, plain};
use super::world::{Client, STALL, World, undisturbed, until};
use super::{each, each_pair, framing};

/// Bytes that the pipe to the slow one holds.
const NARROW: usize = 512;

/// Messages that are far more than pipe and outbox hold.
const MESSAGES: u64 = 200;

/// Messages that are more than the pipe holds, but not more than the outbox does.
const FEW: u64 = 10;

const DROPPED: &str = "messages_dropped_total{reason=\"slow_consumer\"}";

#[tokio::test]
async fn a_slow_reader_loses_messages_and_holds_up_nobody() {
    each_pair(async |from, to| {
        let world = World::new();
        let mut slow = asleep(&world, to).await;
        let mut publisher = world.login(from, "publisher").await;
        flood(&mut publisher).await;
        let dropped = world.count(DROPPED);
        assert!((1..MESSAGES).contains(&dropped), "{dropped} dropped");

        let mut next = 0;
        for _ in 0..MESSAGES - dropped {
            next = 1 + flake(&mut slow, next).await;
        }
        // Then it is like before.
        publisher.publish(plain("snow", &payload(MESSAGES))).await;
        assert_eq!(flake(&mut slow, next).await, MESSAGES, "{to}");
        assert_eq!(world.count(DROPPED), dropped);
        undisturbed(&mut slow).await;
        undisturbed(&mut publisher).await;
    })
    .await;
}

#[tokio::test]
async fn who_never_reads_is_given_up() {
    each(async |speaker| {
        let world = World::new();
        let slow = asleep(&world, speaker).await;
        let mut publisher = world.login(speaker, "publisher").await;
        flood(&mut publisher).await;
        world.pass(STALL / 2);
        publisher.fence().await;
        assert!(world.net.hub.session("slow").is_some());
        world.pass(STALL);
        until("it is gone", || world.net.hub.session("slow").is_none()).await;
        slow.drop().await;
        assert_eq!(world.closed(speaker, "slow_consumer"), 1);
        undisturbed(&mut publisher).await;
    })
    .await;
}

/// RFC 6455 §5.5.1: not even messages that come while the close frame waits to be written. The
/// client checks it.
#[tokio::test]
async fn nothing_follows_a_close_frame() {
    each(async |speaker| {
        if !speaker.is_web_socket() {
            return;
        }
        for fault in [false, true] {
            let world = World::new();
            let mut slow = asleep(&world, speaker).await;
            let mut publisher = world.login(speaker, "publisher").await;
            for number in 0..FEW {
                publisher.publish(plain("snow", &payload(number))).await;
            }
            publisher.fence().await;
            let code = 1000_u16.to_be_bytes();
            slow.send_raw(&if fault {
                framing::write_unmasked(OpCode::Close, &code)
            } else {
                framing::write(OpCode::Close, &code)
            })
            .await;
            publisher.fence().await;
            for number in FEW..2 * FEW {
                publisher.publish(plain("snow", &payload(number))).await;
            }
            publisher.fence().await;
            for number in 0..FEW {
                assert_eq!(flake(&mut slow, number).await, number);
            }
            let code = if fault { 1002 } else { 1000 };
            slow.expect_rest(&[Event::WebSocketClose(Some(code)), Event::End])
                .await;
            undisturbed(&mut publisher).await;
        }
    })
    .await;
}

/// A subscriber that reads no more from now on.
async fn asleep(world: &World, speaker: Speaker) -> Client {
    let mut slow = world.open(speaker, NARROW);
    slow.login("slow").await;
    slow.subscribe("snow").await;
    slow
}

async fn flood(publisher: &mut Client) {
    for number in 0..MESSAGES {
        publisher.publish(plain("snow", &payload(number))).await;
    }
    publisher.fence().await;
}

/// Reads one message, where `next` would come if none had been dropped, and returns its number.
/// Messages keep their order, and a protocol that tells of gaps tells the right size.
async fn flake(slow: &mut Client, next: u64) -> u64 {
    let mut event = slow.next().await;
    let mut missing = None;
    if let Event::Gap(dropped) = event {
        missing = Some(dropped);
        event = slow.next().await;
    }
    let Event::Message { payload, .. } = event else {
        panic!("{}: {event:?}", slow.speaker);
    };
    let number: u64 = payload.parse().expect("a number");
    assert!(number >= next, "{}: {number} after {next}", slow.speaker);
    if slow.speaker.dialect.tells_gaps() {
        assert_eq!(missing.unwrap_or(0), number - next, "{}", slow.speaker);
    } else {
        assert_eq!(missing, None, "{}", slow.speaker);
    }
    number
}

fn payload(number: u64) -> String {
    format!("{number:0100}")
}
