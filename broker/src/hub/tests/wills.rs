//! Wills: when they are said, and when not.

use super::*;

#[test]
fn a_will_is_said_at_once_or_after_its_delay_or_with_the_session() {
    let mut story = Story::new();
    let reader = story.connect(lasting("r"));
    story.subscribe(&reader, request("will", QoS::AtMostOnce));
    for (name, delay, expiry, after) in [
        ("now", 0, 60, 0),
        ("ended", 30, 0, 0),
        ("late", 10, 60, 10),
        ("capped", 90, 20, 20),
    ] {
        let client = story.connect(with_will(name, delay, expiry));
        story.leave(&client);
        if after > 0 {
            story.wait(after - 1);
            assert!(reader.payloads().is_empty(), "{name} was too early");
            story.wait(1);
        }
        assert_eq!(reader.payloads(), [name]);
        reader.reads(&mut story);
    }
}

#[test]
fn a_will_is_not_said_after_a_good_bye_or_a_quick_return() {
    let mut story = Story::new();
    let reader = story.connect(lasting("r"));
    story.subscribe(&reader, request("will", QoS::AtMostOnce));
    let polite = story.connect(with_will("polite", 0, 60));
    story
        .hub
        .disconnect(&polite.session, polite.link, false, None, &mut story.batch);
    let quick = story.connect(with_will("quick", 10, 60));
    story.leave(&quick);
    story.connect(lasting("quick"));
    story.wait(30);
    assert!(reader.payloads().is_empty());
}

#[test]
fn a_will_is_said_when_another_connection_begins_anew() {
    let mut story = Story::new();
    let reader = story.connect(lasting("r"));
    story.subscribe(&reader, request("will", QoS::AtMostOnce));
    story.connect(with_will("c", 10, 60));
    story.connect(Connect {
        clean_start: true,
        ..lasting("c")
    });
    assert_eq!(reader.payloads(), ["c"]);
}

#[test]
fn a_will_is_not_for_the_client_itself_if_it_wants_nothing_of_its_own() {
    let mut story = Story::new();
    let client = story.connect(with_will("c", 0, 60));
    let not_mine = SubscribeRequest {
        no_local: true,
        ..request("will", QoS::AtLeastOnce)
    };
    story.subscribe(&client, not_mine);
    story.leave(&client);
    assert!(story.connect(lasting("c")).payloads().is_empty());
}
