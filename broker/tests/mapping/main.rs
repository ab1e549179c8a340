//! One message, many tongues: what is published in one protocol's bytes is read in another's,
//! for all nine pairs of protocols (and MQTT in both its versions). `table` says what means what;
//! `docs/mapping.md` shows that table.
//!
//! A row stands in both directions: what a publisher of a protocol writes is what its subscribers
//! read. So a message that is read in one protocol and published again from there is the same
//! message.

#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

mod page;
mod story;
mod table;
mod tongue;

use protocols::model::PayloadFormat;

use story::{Client, START, Story};
use table::{
    AB, ANSWERS, LEVELS, Level, PAYLOADS, PLACES, PLAIN, PROPERTIES, Place, Row, SUBSCRIPTIONS,
};
use table::{Prop, Subscription};
use tongue::{Marks, Said, TONGUES, Tongue};

const EXPIRY_SECS: u32 = 60;

fn pairs() -> impl Iterator<Item = (Tongue, Tongue)> {
    TONGUES
        .into_iter()
        .flat_map(|from| TONGUES.into_iter().map(move |to| (from, to)))
}

const fn said<'a>(place: &'a Place, row: &'a Row, level: &'a Level) -> Said<'a> {
    Said {
        place,
        row,
        level,
        retain: false,
        expiry_secs: None,
        expires_at: 0,
        format: None,
    }
}

/// A subscription to exactly this place.
fn at(place: &Place) -> Subscription {
    let destination: &'static str = String::leak(format!("destination:{}", place.stomp));
    // The topic is the first field that a JSON client reads.
    let topic = place.json_seen;
    let end = [",\"group\"", ",\"user\"", ",\"broadcast\""]
        .iter()
        .find_map(|mark| topic.find(mark))
        .unwrap_or(topic.len());
    let json = format!(r#""type":"subscribe",{}"#, &topic[..end]);
    Subscription {
        what: "",
        mqtt: place.topic,
        stomp: Vec::leak(vec![destination]),
        json: String::leak(json),
        gets: &[],
        misses: &[],
    }
}

/// A new story with a publisher and a subscriber to a place.
fn two(from: Tongue, to: Tongue, place: &Place, qos: u8) -> (Story, Client, Client) {
    let mut story = Story::new();
    let (publisher, subscriber) = (story.connect(from), story.connect(to));
    story.subscribe(&subscriber, &at(place), qos);
    assert!(subscriber.heard().is_empty());
    (story, publisher, subscriber)
}

/// Publishes in one tongue and wants the row's words in the other.
fn crosses(from: Tongue, to: Tongue, said: &Said<'_>) {
    let (mut story, publisher, subscriber) = two(from, to, said.place, 0);
    story.publish(&publisher, said);
    assert_eq!(
        subscriber.heard(),
        [to.expected(said, from, Marks::default())],
        "{} and {} from {from:?} to {to:?}",
        said.place.what,
        said.row.what
    );
}

#[test]
fn payloads_are_the_same_bytes() {
    for (from, to) in pairs() {
        for row in PAYLOADS {
            crosses(from, to, &said(&AB, row, &LEVELS[0]));
        }
    }
}

#[test]
fn properties_cross() {
    for (from, to) in pairs() {
        for row in PROPERTIES {
            crosses(from, to, &said(&AB, row, &LEVELS[0]));
        }
    }
}

#[test]
fn places_are_the_same_topic() {
    for (from, to) in pairs() {
        for place in PLACES {
            let queue = place.topic.starts_with("$queue");
            // A JSON client is in its user's topics and among everyone without being asked.
            let asked = to != Tongue::Json
                || !(place.topic.starts_with("$user") || place.topic == "$broadcast");
            let said = said(place, &PLAIN, &LEVELS[usize::from(queue)]);
            let mut story = Story::new();
            let (publisher, subscriber) = (story.connect(from), story.connect(to));
            if asked {
                story.subscribe(&subscriber, &at(place), 0);
            }
            story.publish(&publisher, &said);
            assert_eq!(
                subscriber.heard(),
                [to.expected(&said, from, Marks::default())],
                "{} from {from:?} to {to:?}",
                place.what
            );
        }
    }
}

#[test]
fn subscriptions_match_alike() {
    for (from, to) in pairs() {
        for to_what in SUBSCRIPTIONS {
            let mut story = Story::new();
            let (publisher, subscriber) = (story.connect(from), story.connect(to));
            story.subscribe(&subscriber, to_what, 0);
            let count = |story: &mut Story, topic: &'static str| {
                let place = bare_place(topic);
                story.publish(&publisher, &said(&place, &PLAIN, &LEVELS[0]));
                subscriber.heard().len()
            };
            for topic in to_what.gets {
                assert_eq!(
                    count(&mut story, topic),
                    1,
                    "{topic} for {:?} from {from:?} to {to:?}",
                    to_what.what
                );
            }
            for topic in to_what.misses {
                assert_eq!(
                    count(&mut story, topic),
                    0,
                    "{topic} for {:?} from {from:?} to {to:?}",
                    to_what.what
                );
            }
        }
    }
}

/// A topic as it is, in all protocols.
fn bare_place(topic: &'static str) -> Place {
    Place {
        what: topic,
        topic,
        stomp: String::leak(format!("/topic/{topic}")),
        json: String::leak(format!(r#""topic":"{topic}""#)),
        json_seen: "",
    }
}

#[test]
fn the_level_is_the_lower_of_both_sides() {
    for (from, to) in pairs() {
        for level in &LEVELS[..=usize::from(from.publishes_up_to())] {
            for qos_max in 0..=to.subscribes_up_to() {
                let said = said(&AB, &PLAIN, level);
                let (mut story, publisher, subscriber) = two(from, to, &AB, qos_max);
                story.publish(&publisher, &said);
                let marks = Marks {
                    qos_max,
                    ..Marks::default()
                };
                assert_eq!(
                    subscriber.heard(),
                    [to.expected(&said, from, marks)],
                    "{} from {from:?} to {to:?} with at most {qos_max}",
                    level.what
                );
            }
        }
    }
}

#[test]
fn retained_messages_are_marked_only_for_who_came_later() {
    for (from, to) in pairs() {
        for row in [&PLAIN, PROPERTIES.last().unwrap()] {
            let said = Said {
                retain: true,
                ..said(&AB, row, &LEVELS[1])
            };
            let (mut story, publisher, early) = two(from, to, &AB, 1);
            story.publish(&publisher, &said);
            let live = Marks {
                qos_max: 1,
                ..Marks::default()
            };
            assert_eq!(early.heard(), [to.expected(&said, from, live)]);
            let late = story.connect(to);
            story.subscribe(&late, &at(&AB), 1);
            let kept = Marks {
                retained: true,
                ..live
            };
            assert_eq!(
                late.heard(),
                [to.expected(&said, from, kept)],
                "from {from:?} to {to:?}"
            );
            let empty = Row {
                payload: b"",
                data: r#""dataType":"text","data":"""#,
                ..PLAIN
            };
            story.publish(
                &publisher,
                &Said {
                    row: &empty,
                    ..said
                },
            );
            let after = story.connect(to);
            story.subscribe(&after, &at(&AB), 1);
            assert!(after.heard().is_empty(), "an empty one deletes it");
        }
    }
}

#[test]
fn the_time_to_live_is_counted_down() {
    for (from, to) in pairs() {
        let said = Said {
            retain: true,
            expiry_secs: Some(EXPIRY_SECS).filter(|_| from != Tongue::Mqtt311),
            expires_at: START.plus_secs(EXPIRY_SECS).0,
            ..said(&AB, &PLAIN, &LEVELS[0])
        };
        let mut story = Story::new();
        let publisher = story.connect(from);
        story.publish(&publisher, &said);
        story.wait(10);
        let marks = Marks {
            retained: true,
            expires_in: said.expiry_secs.map(|secs| secs - 10),
            ..Marks::default()
        };
        let reader = story.connect(to);
        story.subscribe(&reader, &at(&AB), 0);
        let expected = to.expected(&said, from, marks);
        assert_eq!(reader.heard(), [expected], "from {from:?} to {to:?}");
        story.wait(EXPIRY_SECS - 10);
        let late = story.connect(to);
        story.subscribe(&late, &at(&AB), 0);
        let lasts = from == Tongue::Mqtt311;
        assert_eq!(late.heard().len(), usize::from(lasts), "{from:?}");
    }
}

#[test]
fn a_moment_to_live_until_is_the_same_as_a_time() {
    let mut story = Story::new();
    let (json, mqtt) = (story.connect(Tongue::Json), story.connect(Tongue::Mqtt5));
    story.subscribe(&mqtt, &at(&AB), 0);
    let moment = START.plus_secs(5).0;
    let frame = format!(r#"{{"type":"publish","topic":"a/b","data":"hi","expiresAt":{moment}}}"#);
    story.send(&json, frame.as_bytes());
    let marks = Marks {
        expires_in: Some(5),
        ..Marks::default()
    };
    let said = said(&AB, &PLAIN, &LEVELS[0]);
    let expected = Tongue::Mqtt5.expected(&said, Tongue::Json, marks);
    assert_eq!(mqtt.heard(), [expected]);
}

#[test]
fn the_payload_format_is_mqtts_own() {
    for format in [PayloadFormat::Utf8, PayloadFormat::Bytes] {
        for to in TONGUES {
            let said = Said {
                format: Some(format),
                ..said(&AB, &PLAIN, &LEVELS[0])
            };
            // STOMP and JSON read what they read without it.
            crosses(Tongue::Mqtt5, to, &said);
        }
    }
}

#[test]
fn redelivered_is_said_to_the_next_consumer_in_its_own_words() {
    let place = PLACES.last().unwrap();
    for (first, second) in pairs() {
        let mut story = Story::new();
        let publisher = story.connect(Tongue::Mqtt5);
        let (one, row) = (story.connect(first), PROPERTIES.last().unwrap());
        story.subscribe(&one, &at(place), 1);
        let said = said(place, row, &LEVELS[1]);
        story.publish(&publisher, &said);
        let new = Marks {
            qos_max: 1,
            ..Marks::default()
        };
        let expected = first.expected(&said, Tongue::Mqtt5, new);
        assert_eq!(one.heard(), [expected]);
        story.leave(&one);
        let two = story.connect(second);
        story.subscribe(&two, &at(place), 1);
        let again = Marks {
            redelivered: true,
            ..new
        };
        let expected = second.expected(&said, Tongue::Mqtt5, again);
        assert_eq!(two.heard(), [expected], "from {first:?} to {second:?}");
    }
}

#[test]
fn answers_mean_the_same_to_the_other_consumers() {
    let place = PLACES.last().unwrap();
    for (first, second) in pairs() {
        for answer in ANSWERS {
            let mut story = Story::new();
            let publisher = story.connect(Tongue::Mqtt5);
            let (one, two) = (story.connect(first), story.connect(second));
            story.subscribe(&one, &at(place), 1);
            story.subscribe(&two, &at(place), 1);
            assert!(one.heard().is_empty() && two.heard().is_empty());
            let said = said(place, &PLAIN, &LEVELS[1]);
            // The first consumer is the first to get one.
            story.publish(&publisher, &said);
            if !story.answer(&one, answer) {
                continue;
            }
            let again = Marks {
                qos_max: 1,
                redelivered: true,
                ..Marks::default()
            };
            let expected = second.expected(&said, Tongue::Mqtt5, again);
            let expected = Some(expected).filter(|_| answer.comes_again);
            let heard = two.heard();
            assert_eq!(heard, Vec::from_iter(expected), "{first:?} to {second:?}");
            story.leave(&one);
            assert!(two.heard().is_empty(), "settled for good");
        }
    }
}

#[test]
fn one_share_and_one_queue_mix_all_protocols() {
    let shared = |subscription: &&Subscription| {
        subscription.mqtt.starts_with("$share") || subscription.mqtt.starts_with("$queue")
    };
    for subscription in SUBSCRIPTIONS.iter().filter(shared) {
        for from in TONGUES {
            let mut story = Story::new();
            let publisher = story.connect(from);
            let members = TONGUES.map(|tongue| story.connect(tongue));
            for member in &members {
                story.subscribe(member, subscription, 1);
            }
            let place = bare_place(subscription.gets[0]);
            for _ in 0..8 {
                story.publish(&publisher, &said(&place, &PLAIN, &LEVELS[1]));
            }
            let got = members.each_ref().map(|member| member.heard().len());
            assert_eq!(got, [2; 4], "{} from {from:?}", subscription.what);
        }
    }
}

#[test]
fn a_queue_keeps_messages_for_whoever_comes() {
    let place = PLACES.last().unwrap();
    for (from, to) in pairs() {
        let mut story = Story::new();
        let publisher = story.connect(from);
        let said = said(place, &PLAIN, &LEVELS[1]);
        story.publish(&publisher, &said);
        let consumer = story.connect(to);
        story.subscribe(&consumer, &at(place), 1);
        let marks = Marks {
            qos_max: 1,
            ..Marks::default()
        };
        assert_eq!(consumer.heard(), [to.expected(&said, from, marks)]);
    }
}

/// What is known to change, so that nobody is surprised; `docs/mapping.md` says the same.
#[test]
fn json_groups_repeats_by_their_name() {
    let row = Row {
        mqtt: &[
            Prop::User("a", "1"),
            Prop::User("b", "2"),
            Prop::User("a", "3"),
        ],
        stomp: &["a:1", "b:2", "a:3"],
        json: r#","headers":{"a":["1","3"],"b":"2"}"#,
        ..PLAIN
    };
    for (from, to) in pairs().filter(|(from, _)| *from != Tongue::Json) {
        crosses(from, to, &said(&AB, &row, &LEVELS[0]));
    }
}

#[test]
fn json_says_of_bytes_that_they_are_bytes() {
    let untyped = Row {
        payload: b"\xff",
        data: r#""dataType":"base64","data":"/w==""#,
        bare: r#""dataType":"base64","data":"/w==""#,
        ..PLAIN
    };
    for (from, to) in pairs().filter(|(from, _)| *from != Tongue::Json) {
        crosses(from, to, &said(&AB, &untyped, &LEVELS[0]));
    }
    let typed = Row {
        mqtt: &[Prop::ContentType("application/octet-stream")],
        ..untyped
    };
    let (mut story, json, mqtt) = two(Tongue::Json, Tongue::Mqtt5, &AB, 0);
    story.publish(&json, &said(&AB, &untyped, &LEVELS[0]));
    let said = said(&AB, &typed, &LEVELS[0]);
    let expected = Tongue::Mqtt5.expected(&said, Tongue::Json, Marks::default());
    assert_eq!(mqtt.heard(), [expected]);
}

#[test]
fn json_leaves_out_the_white_space_around_a_value() {
    let row = Row {
        payload: b" {\"a\": 1}\n",
        data: r#""dataType":"json","data":{"a": 1}"#,
        mqtt: &[Prop::ContentType("application/json")],
        json: r#","contentType":"application/json""#,
        ..PLAIN
    };
    crosses(Tongue::Mqtt5, Tongue::Json, &said(&AB, &row, &LEVELS[0]));
}
