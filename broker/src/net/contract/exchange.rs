//! Stories of clients that keep to the rules, and of what they may not do.

use super::dialect::{Answer, Event, asking, plain, retained};
use super::world::{Client, World, undisturbed};
use super::{each, each_pair};

#[tokio::test]
async fn a_login_is_answered_and_counted() {
    each(async |speaker| {
        let world = World::new();
        let client = world.login(speaker, "me").await;
        assert_eq!(world.connections(speaker), 1);
        assert!(world.net.hub.session("me").is_some());
        client.drop().await;
        assert_eq!(world.connections(speaker), 0);
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn a_message_reaches_its_subscriber() {
    each_pair(async |from, to| {
        let world = World::new();
        let mut subscriber = world.login(to, "subscriber").await;
        subscriber.subscribe("a/b").await;
        let mut publisher = world.login(from, "publisher").await;
        for (topic, payload) in [("a/b", "one"), ("a/b/c", "not for it"), ("a/b", "zwei é")] {
            publisher.publish(plain(topic, payload)).await;
        }
        // One that asks for an answer is delivered before it is answered.
        publisher.publish(asking("a/b", "three")).await;
        for payload in ["one", "zwei é", "three"] {
            subscriber
                .expect(Event::message("a/b", payload, false))
                .await;
        }
        subscriber.drop().await;
        publisher.drop().await;
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn a_client_reaches_itself() {
    each(async |speaker| {
        let world = World::new();
        let mut client = world.login(speaker, "me").await;
        client.subscribe("a").await;
        client.publish(plain("a", "mine")).await;
        client.expect(Event::message("a", "mine", false)).await;
    })
    .await;
}

#[tokio::test]
async fn wildcards_match_the_same_for_all() {
    let levels = ["one/x/two", "one//two"];
    let deep = ["tree", "tree/a", "tree/a/b"];
    let neither = ["one/two", "one/x/y/two", "two/x/two", "forest", "$own/a"];
    each_pair(async |from, to| {
        let world = World::new();
        let mut subscriber = world.login(to, "subscriber").await;
        subscriber.subscribe("one/+/two").await;
        subscriber.subscribe("tree/#").await;
        let mut publisher = world.login(from, "publisher").await;
        for topic in neither.iter().chain(&levels).chain(&deep) {
            publisher.publish(plain(topic, "x")).await;
        }
        for topic in levels.iter().chain(&deep) {
            subscriber.expect(Event::message(topic, "x", false)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_retained_message_waits_for_its_subscribers() {
    each_pair(async |from, to| {
        let world = World::new();
        let mut publisher = world.login(from, "publisher").await;
        for (topic, payload) in [("r/1", "old"), ("r/1", "kept"), ("r/2", "also")] {
            publisher.publish(retained(topic, payload)).await;
        }
        let mut subscriber = world.login(to, "subscriber").await;
        subscriber.subscribe("r/1").await;
        subscriber.expect(Event::message("r/1", "kept", true)).await;
        // To one who was there already it is a message like any other.
        publisher.publish(retained("r/1", "new")).await;
        subscriber.expect(Event::message("r/1", "new", false)).await;
        subscriber.drop().await;

        let mut wide = world.login(to, "wide").await;
        wide.subscribe("r/+").await;
        let mut seen = vec![wide.next().await, wide.next().await];
        seen.sort_by_key(|event| format!("{event:?}"));
        let expected = [("r/1", "new"), ("r/2", "also")];
        assert_eq!(
            seen,
            expected.map(|(topic, payload)| Event::message(topic, payload, true))
        );
    })
    .await;
}

#[tokio::test]
async fn an_empty_message_forgets_the_retained_one() {
    each_pair(async |from, to| {
        let world = World::new();
        let mut publisher = world.login(from, "publisher").await;
        publisher.publish(retained("r", "kept")).await;
        publisher.publish(retained("r", "")).await;
        let mut subscriber = world.login(to, "subscriber").await;
        subscriber.subscribe("r").await;
        publisher.publish(asking("r", "live")).await;
        subscriber.expect(Event::message("r", "live", false)).await;
    })
    .await;
}

#[tokio::test]
async fn nobody_publishes_for_the_broker() {
    each_pair(async |speaker, witness| {
        let world = World::new();
        let mut witness = world.login(witness, "witness").await;
        witness.subscribe("$SYS/#").await;
        let mut client = world.login(speaker, "client").await;
        let publish = speaker.dialect.publish(asking("$SYS/x", "lies"));
        client.send(&publish).await;
        refused(client, speaker.dialect.refused_publish()).await;
        undisturbed(&mut witness).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_no_filter_is_refused() {
    each_pair(async |speaker, witness| {
        let world = World::new();
        let mut witness = world.login(witness, "witness").await;
        let mut client = world.login(speaker, "client").await;
        client.send(&speaker.dialect.subscribe("a/#/b")).await;
        refused(client, speaker.dialect.refused_subscribe()).await;
        undisturbed(&mut witness).await;
    })
    .await;
}

/// The client gets the protocol's refusal, and goes on if that is the protocol's way.
async fn refused(mut client: Client, answer: Answer) {
    if let Some(cause) = answer.ends {
        let expected = client.speaker.ending(answer.says, cause);
        return client.expect_rest(&expected).await;
    }
    for event in answer.says {
        client.expect(event).await;
    }
    undisturbed(&mut client).await;
}
