//! Stories of how connections end in good order.

use protocols::connection::{Cause, CloseReason};
use protocols::websocket::frame::OpCode;

use super::dialect::{Event, plain};
use super::world::{PIPE_BYTES, World, undisturbed, until};
use super::{each, each_pair, framing};

#[tokio::test]
async fn a_good_bye_ends_the_session() {
    each_pair(async |speaker, other| {
        let world = World::new();
        let mut other = world.login(other, "other").await;
        let mut client = world.login(speaker, "client").await;
        client.subscribe("a").await;
        client.send(&speaker.dialect.good_bye()).await;
        let says = speaker.dialect.answer_to_good_bye();
        client
            .expect_rest(&speaker.ending(says, Cause::Normal))
            .await;
        assert_eq!(world.closed(speaker, "normal"), 1);
        assert!(world.net.hub.session("client").is_none());
        undisturbed(&mut other).await;
        other.drop().await;
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing() {
    each_pair(async |speaker, other| {
        let world = World::new();
        let mut other = world.login(other, "other").await;
        let mut client = world.login(speaker, "client").await;
        client.subscribe("a").await;
        client.drop().await;
        assert_eq!(world.closed(speaker, "lost"), 1);
        assert!(world.net.hub.session("client").is_none());
        undisturbed(&mut other).await;
        other.drop().await;
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn a_client_that_vanishes_before_its_login_leaves_nothing() {
    each(async |speaker| {
        let world = World::new();
        let client = world.open(speaker, PIPE_BYTES);
        until("it waits", || !world.net.timers.is_empty()).await;
        client.drop().await;
        assert_eq!(world.closed(speaker, "lost"), 1);
        world.is_empty();
    })
    .await;
}

/// RFC 6455 §5.5.1: the answer is the same code.
#[tokio::test]
async fn a_web_socket_may_be_closed() {
    each(async |speaker| {
        if !speaker.is_web_socket() {
            return;
        }
        let world = World::new();
        let mut client = world.login(speaker, "client").await;
        let code = 1001_u16.to_be_bytes();
        client.send_raw(&framing::write(OpCode::Close, &code)).await;
        client
            .expect_rest(&[Event::WebSocketClose(Some(1001)), Event::End])
            .await;
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn a_second_login_takes_the_name_over() {
    each_pair(async |old, new| {
        let world = World::new();
        let first = world.login(old, "me").await;
        let mut second = world.login(new, "me").await;
        let says = old.dialect.last_words(Cause::TakenOver, true);
        first.expect_rest(&old.ending(says, Cause::TakenOver)).await;
        assert_eq!(world.closed(old, "taken_over"), 1);
        undisturbed(&mut second).await;
        second.drop().await;
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn the_broker_says_why_it_stops() {
    each_pair(async |speaker, other| {
        let world = World::new();
        let mut subscriber = world.login(speaker, "subscriber").await;
        subscriber.subscribe("a").await;
        let mut publisher = world.login(other, "publisher").await;
        publisher.publish(plain("a", "last")).await;
        publisher.fence().await;
        world.net.stop(&reason());
        // What was accepted before is delivered before.
        let mut says = vec![Event::message("a", "last", false)];
        says.extend(speaker.dialect.last_words(Cause::Shutdown, true));
        subscriber
            .expect_rest(&speaker.ending(says, Cause::Shutdown))
            .await;
        let says = other.dialect.last_words(Cause::Shutdown, true);
        publisher
            .expect_rest(&other.ending(says, Cause::Shutdown))
            .await;
        assert_eq!(world.net.admission.connections(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_stops_does_not_wait_for_logins() {
    each(async |speaker| {
        let world = World::new();
        let client = world.open(speaker, PIPE_BYTES);
        until("it waits", || !world.net.timers.is_empty()).await;
        world.net.stop(&reason());
        let says = speaker.dialect.last_words(Cause::Shutdown, false);
        client
            .expect_rest(&speaker.ending(says, Cause::Shutdown))
            .await;
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_stops_lets_nobody_in() {
    each(async |speaker| {
        let world = World::new();
        world.net.stop(&reason());
        let mut late = world.open(speaker, PIPE_BYTES);
        late.send(&speaker.dialect.connect("late", 0)).await;
        let first = late.next().await;
        let is_no = matches!(first, Event::Refused(_) | Event::LastWords(_));
        assert!(is_no, "{speaker}: {first:?}");
        late.drop().await;
        world.is_empty();
    })
    .await;
}

fn reason() -> CloseReason {
    CloseReason::new(Cause::Shutdown, "the broker is stopping")
}
