//! Stories of a slow disk: no answer promises what the disk does not have, and nobody else waits.

use std::sync::Arc;

use super::dialect::{Event, asking, plain, retained};
use super::world::{Client, PIPE_BYTES, World, until};
use super::{Speaker, each, each_pair};
use crate::store::memory::MemoryStore;

fn world() -> (World, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::default());
    (World::on(Some(Arc::clone(&store) as _)), store)
}

/// Waits until the broker has carried out what was sent and waits for the disk.
async fn until_pending(store: &MemoryStore, units: usize) {
    until("it waits for the disk", || store.pending_units() == units).await;
}

#[tokio::test]
async fn an_answer_waits_for_the_disk_and_nobody_else_does() {
    each_pair(async |speaker, other| {
        let (world, store) = world();
        let mut other = world.login(other, "other").await;
        let mut client = world.login(speaker, "client").await;
        client.subscribe("b").await;
        let dialect = speaker.dialect;
        client.send(&dialect.publish(retained("a", "kept"))).await;
        until_pending(&store, 1).await;
        // What needs no disk is done for others at once, and told to this client as well.
        other.fence().await;
        other.publish(plain("b", "live")).await;
        client.expect(Event::message("b", "live", false)).await;
        store.commit();
        client.expect(Event::Published).await;
        client.drop().await;
        other.drop().await;
    })
    .await;
}

#[tokio::test]
async fn answers_keep_their_order() {
    each(async |speaker| {
        let (world, store) = world();
        let mut client = world.login(speaker, "client").await;
        let dialect = speaker.dialect;
        client.send(&dialect.publish(retained("a", "kept"))).await;
        client.send(&dialect.publish(asking("nobody", ""))).await;
        client.send(&dialect.subscribe("c")).await;
        until_pending(&store, 1).await;
        until("the subscription is made", || world.subscriptions() > 0).await;
        assert!(client.has_nothing(), "{speaker}: an answer came too early");
        store.commit();
        client.expect(Event::Published).await;
        client.expect(Event::Published).await;
        client.expect(Event::Subscribed).await;
        client.drop().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_before_its_answers_leaves_nothing() {
    each(async |speaker| {
        let (world, store) = world();
        let mut client = world.login(speaker, "client").await;
        let publish = speaker.dialect.publish(retained("a", "kept"));
        client.send(&publish).await;
        until_pending(&store, 1).await;
        client.drop().await;
        store.commit();
        world.is_empty();
    })
    .await;
}

/// The session that CONNACK speaks of is there after a crash, and what is delivered meanwhile
/// comes behind it.
#[tokio::test]
async fn a_login_that_promises_a_session_waits_for_the_disk() {
    let (world, store) = world();
    let speaker = mqtt_3();
    let mut other = world.login(speaker, "other").await;
    let mut client = world.open(speaker, PIPE_BYTES);
    client.send(&lasting_connect("c")).await;
    until_pending(&store, 1).await;
    other.publish(plain("nobody", "")).await;
    other.fence().await;
    assert!(client.has_nothing(), "CONNACK came too early");
    store.commit();
    client.expect(Event::Connected).await;
    client.send(&speaker.dialect.subscribe("a")).await;
    until_pending(&store, 1).await;
    assert!(client.has_nothing(), "SUBACK came too early");
    store.commit();
    client.expect(Event::Subscribed).await;
    drop_all([client, other]).await;
}

/// Two that take a session over from each other while the disk is slow.
#[tokio::test]
async fn a_takeover_before_the_login_is_on_disk_ends_the_first() {
    let (world, store) = world();
    let mut first = world.open(mqtt_3(), PIPE_BYTES);
    first.send(&lasting_connect("c")).await;
    until_pending(&store, 1).await;
    let mut second = world.open(mqtt_3(), PIPE_BYTES);
    second.send(&lasting_connect("c")).await;
    until_pending(&store, 2).await;
    store.commit();
    second.expect(Event::Connected).await;
    let (mut ended, mut events) = (false, Vec::new());
    while !ended {
        let event = first.next().await;
        ended = event == Event::End;
        events.push(event);
    }
    assert_eq!(events, [Event::Connected, Event::End]);
    drop_all([first, second]).await;
}

async fn drop_all<const N: usize>(clients: [Client; N]) {
    for client in clients {
        client.drop().await;
    }
}

fn mqtt_3() -> Speaker {
    let mut all = Speaker::all().into_iter();
    all.find(|speaker| speaker.dialect.name() == "mqtt 3.1.1" && !speaker.is_web_socket())
        .expect("MQTT 3.1.1 is spoken over TCP")
}

/// CONNECT of version 4 with clean session 0.
fn lasting_connect(client_id: &str) -> Vec<u8> {
    let length = u8::try_from(client_id.len()).expect("a short name");
    let mut packet = vec![0x10, 12 + length, 0, 4];
    packet.extend_from_slice(b"MQTT\x04\x00\x00\x3c\x00");
    packet.push(length);
    packet.extend_from_slice(client_id.as_bytes());
    packet
}
