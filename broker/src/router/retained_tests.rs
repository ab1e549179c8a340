use bytes::Bytes;
use proptest::prelude::*;
use protocols::model::QoS;

use super::super::samples::{filter, filters, topic, topics};
use super::*;

const NOW: Timestamp = Timestamp(1_000);

fn retained() -> Retained {
    Retained::new(RetainedLimits::default())
}

fn message(on: &Topic, payload: &str, expires_at: Option<u64>) -> Arc<Message> {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let mut message = Message::new(on.clone(), payload, QoS::AtMostOnce, true);
    message.expires_at = expires_at.map(Timestamp);
    Arc::new(message)
}

fn set(retained: &Retained, on: &str, payload: &str) -> Option<String> {
    let last = retained
        .set(message(&topic(on), payload, None), NOW)
        .unwrap();
    last.map(|last| String::from_utf8(last.payload.to_vec()).unwrap())
}

/// All messages for the filter, asked for in batches of `limit`, and how many were looked at.
fn all(retained: &Retained, wanted: &Filter, limit: usize) -> (Vec<String>, usize) {
    let (mut found, mut looked_at, mut after) = (Vec::new(), 0, None);
    loop {
        let batch = retained.matching(wanted, after.as_ref(), limit, NOW);
        assert!(batch.messages.len() <= limit.max(1));
        found.extend(
            batch
                .messages
                .iter()
                .map(|message| message.topic.to_string()),
        );
        looked_at += batch.looked_at;
        after = batch.next;
        if after.is_none() {
            return (found, looked_at);
        }
    }
}

#[test]
fn the_last_message_of_a_topic_stays_until_an_empty_one() {
    let retained = retained();
    assert_eq!(set(&retained, "a", "1"), None);
    assert_eq!(set(&retained, "a", "2").as_deref(), Some("1"));
    assert_eq!(retained.message(&topic("a"), NOW).unwrap().payload, "2");
    assert_eq!(set(&retained, "b", ""), None);
    assert_eq!(set(&retained, "a", "").as_deref(), Some("2"));
    assert_eq!(retained.stats(), RetainedStats::default());
    set(&retained, "a", "3");
    assert!(retained.remove(&topic("a")).is_some());
    assert!(retained.remove(&topic("a")).is_none());
    assert_eq!(retained.stats(), RetainedStats::default());
}

#[test]
fn messages_come_in_the_order_of_their_levels() {
    let retained = retained();
    for on in ["b", "a!", "a/b/c", "a", "a/b", "$SYS/a", "/", "a/", "ab"] {
        set(&retained, on, "x");
    }
    for (wanted, expected) in [
        ("#", vec!["/", "a", "a/", "a/b", "a/b/c", "a!", "ab", "b"]),
        ("a/#", vec!["a", "a/", "a/b", "a/b/c"]),
        ("a/+", vec!["a/", "a/b"]),
        ("+/+", vec!["/", "a/", "a/b"]),
        ("+", vec!["a", "a!", "ab", "b"]),
        ("+/b/#", vec!["a/b", "a/b/c"]),
        ("$SYS/#", vec!["$SYS/a"]),
        ("+/a", vec![]),
        ("a/b", vec!["a/b"]),
        ("c/#", vec![]),
    ] {
        assert_eq!(all(&retained, &filter(wanted), 2).0, expected, "{wanted}");
    }
    let listed = retained.list(None, 100, NOW);
    assert_eq!(listed.messages.len(), 9);
    assert_eq!(listed.messages[1].topic.as_str(), "$SYS/a");
}

#[test]
fn topics_that_cannot_match_are_leapt_over() {
    let retained = retained();
    for device in 0..100 {
        for sensor in 0..100 {
            set(&retained, &format!("d/{device:03}/s{sensor:02}/value"), "x");
        }
    }
    for (wanted, matches, most) in [
        ("d/050/s50/value", 1, 2),
        ("d/050/+/value", 100, 102),
        ("d/050/#", 100, 102),
        ("d/+/s50/value", 100, 310),
        ("d/+/none", 0, 210),
        ("+/+/s50/+", 100, 310),
        ("e/#", 0, 0),
        ("d/+", 0, 101),
    ] {
        let (found, looked_at) = all(&retained, &filter(wanted), 1000);
        assert_eq!(found.len(), matches, "{wanted}");
        assert!(looked_at <= most, "{wanted} looked at {looked_at}");
    }
}

#[test]
fn a_batch_looks_at_a_bounded_number_of_topics() {
    let retained = retained();
    for n in 0..3000 {
        set(&retained, &format!("d/{n}/x"), "x");
    }
    let batch = retained.matching(&filter("d/+/y"), None, 10, NOW);
    assert!(batch.messages.is_empty() && batch.next.is_some());
    assert_eq!(batch.looked_at, LOOKED_AT);
    assert_eq!(all(&retained, &filter("d/+/y"), 10), (vec![], 3000));
    // A limit of none would never end.
    assert_eq!(all(&retained, &filter("#"), 0).0.len(), 3000);
}

#[test]
fn a_batch_goes_on_where_the_last_one_ended_whatever_has_changed() {
    let retained = retained();
    for on in ["a", "c", "e", "g"] {
        set(&retained, on, "x");
    }
    let batch = retained.matching(&filter("#"), None, 2, NOW);
    retained.remove(&topic("c"));
    retained.remove(&topic("e"));
    set(&retained, "b", "x");
    set(&retained, "f", "x");
    let batch = retained.matching(&filter("#"), batch.next.as_ref(), 9, NOW);
    let topics: Vec<_> = batch
        .messages
        .iter()
        .map(|message| message.topic.as_str())
        .collect();
    assert_eq!(topics, ["f", "g"]);
    assert_eq!(batch.next, None);
}

#[test]
fn expired_messages_are_not_handed_out() {
    let retained = retained();
    for (on, at) in [("a", 1500), ("b", 2000), ("c", 3000)] {
        retained
            .set(message(&topic(on), "x", Some(at)), NOW)
            .unwrap();
    }
    let later = Timestamp(2000);
    assert!(retained.message(&topic("b"), later).is_none());
    let left = retained.matching(&filter("#"), None, 9, later).messages;
    assert_eq!(left.len(), 1);
    assert_eq!(retained.stats().messages, 3);
    assert_eq!(retained.expire(later, 1), 1);
    assert_eq!(retained.expire(later, 9), 1);
    let stats = retained.stats();
    assert_eq!((stats.messages, stats.expiring, stats.expired), (1, 1, 2));
    // A newer message has an expiry of its own, or none.
    retained
        .set(message(&topic("c"), "y", None), later)
        .unwrap();
    assert_eq!(retained.expire(Timestamp(9000), 9), 0);
    assert!(retained.message(&topic("c"), Timestamp(9000)).is_some());
    // One that comes too late takes the last one away.
    retained
        .set(message(&topic("c"), "z", Some(9000)), Timestamp(9000))
        .unwrap();
    assert_eq!((retained.stats().messages, retained.stats().bytes), (0, 0));
}

#[test]
fn at_the_limit_new_topics_are_refused_and_old_ones_live_on() {
    let retained = Retained::new(RetainedLimits {
        messages: 2,
        ..RetainedLimits::default()
    });
    set(&retained, "a", "1");
    retained
        .set(message(&topic("b"), "1", Some(2000)), NOW)
        .unwrap();
    let refused = retained.set(message(&topic("c"), "1", None), NOW);
    assert_eq!(refused.unwrap_err(), RetainedFull::Messages { max: 2 });
    assert_eq!(set(&retained, "a", "2").as_deref(), Some("1"));
    assert_eq!(retained.stats().refused, 1);
    // What has expired makes place.
    retained
        .set(message(&topic("c"), "1", None), Timestamp(2000))
        .unwrap();
    assert!(retained.message(&topic("b"), NOW).is_none());
}

#[test]
fn bytes_are_bounded() {
    let bytes = 2 * cost(&message(&topic("a"), "12345678", None));
    let retained = Retained::new(RetainedLimits {
        messages: 100,
        bytes,
    });
    set(&retained, "a", "12345678");
    set(&retained, "b", "12345678");
    assert_eq!(retained.stats().bytes, bytes);
    let refused = retained.set(message(&topic("a"), "123456789", None), NOW);
    assert_eq!(refused.unwrap_err(), RetainedFull::Bytes { max: bytes });
    assert_eq!(
        retained.message(&topic("a"), NOW).unwrap().payload,
        "12345678"
    );
    assert_eq!(set(&retained, "a", "87654321").as_deref(), Some("12345678"));
    assert_eq!(set(&retained, "b", "").as_deref(), Some("12345678"));
    set(&retained, "a", "123456789");
}

#[test]
fn deep_topics() {
    let retained = retained();
    let deep = ["a"; 128].join("/");
    set(&retained, &deep, "x");
    for wanted in [&deep, "#", "+/#", &["+"; 128].join("/")] {
        assert_eq!(
            all(&retained, &filter(wanted), 1).0,
            [deep.as_str()],
            "{wanted}"
        );
    }
    assert!(
        all(&retained, &filter(&["+"; 127].join("/")), 1)
            .0
            .is_empty()
    );
}

proptest! {
    #[test]
    fn agrees_with_looking_at_all(
        steps in prop::collection::vec((topics(), prop::option::of(900_u64..1100), 0..4_u8), 0..60),
        wanted in prop::collection::vec(filters(), 1..8),
        limit in 1..6_usize,
    ) {
        let (retained, mut model) = (retained(), BTreeMap::new());
        for (on, expires_at, kind) in steps {
            let payload = if kind == 0 { "" } else { "x" };
            retained.set(message(&on, payload, expires_at), Timestamp(800)).unwrap();
            if kind == 0 {
                model.remove(&on);
            } else {
                model.insert(on, expires_at);
            }
        }
        for wanted in wanted {
            let mut expected: Vec<_> = model
                .iter()
                .filter(|(on, at)| at.is_none_or(|at| at > NOW.0) && wanted.matches(on))
                .map(|(on, _)| on.to_string())
                .collect();
            expected.sort_by(|a, b| a.split('/').cmp(b.split('/')));
            prop_assert_eq!(all(&retained, &wanted, limit).0, expected, "{}", wanted);
        }
        prop_assert_eq!(retained.stats().messages, model.len());
        for on in model.keys() {
            retained.remove(on);
        }
        prop_assert_eq!(retained.stats(), RetainedStats::default());
    }
}

fn of(user: &str, on: &str, payload: &str, expires_at: Option<u64>) -> Arc<Message> {
    let mut message = message(&topic(on), payload, expires_at);
    if !user.is_empty() {
        Arc::get_mut(&mut message).unwrap().source = Some(user.into());
    }
    message
}

/// Users are what is said of publishers, as it stands.
fn for_users(messages: usize, bytes: usize) -> Retained {
    retained().for_users(Users {
        messages,
        bytes,
        of: |source| Some(source.into()),
    })
}

fn users(retained: &Retained) -> usize {
    retained
        .inner
        .read()
        .holders
        .as_ref()
        .map_or(0, Holders::len)
}

#[test]
fn each_user_has_a_number_of_messages() {
    let retained = for_users(2, 0);
    assert!(retained.counts_users() && !for_users(0, 0).counts_users());
    let set = |message| retained.set(message, NOW).map(drop);
    let full = Err(RetainedFull::UserMessages { max: 2 });
    assert_eq!(set(of("ann", "a", "1", None)), Ok(()));
    assert_eq!(set(of("ann", "b", "1", Some(2000))), Ok(()));
    assert_eq!(set(of("ann", "c", "1", None)), full);
    assert_eq!(retained.stats().refused, 1);
    // One that is there may be replaced; others have their own number, and keys have none.
    assert_eq!(set(of("ann", "a", "2", None)), Ok(()));
    assert_eq!(set(of("bob", "c", "1", None)), Ok(()));
    for number in 0..5 {
        assert_eq!(set(of("", &format!("keys/{number}"), "1", None)), Ok(()));
    }
    // Whoever replaces a message has it from then on.
    assert_eq!(set(of("ann", "c", "2", None)), full);
    assert_eq!(set(of("bob", "a", "2", None)), Ok(()));
    assert_eq!(set(of("ann", "d", "1", None)), Ok(()));
    assert_eq!(set(of("bob", "e", "1", None)), full);
    // What has expired makes place, and so does what anybody removes.
    let later = |message| retained.set(message, Timestamp(2000)).map(drop);
    assert_eq!(later(of("ann", "f", "1", None)), Ok(()));
    assert_eq!(later(of("ann", "g", "1", None)), full);
    assert_eq!(later(of("bob", "f", "", None)), Ok(()));
    assert_eq!(later(of("ann", "g", "1", None)), Ok(()));
    for on in ["a", "c", "d", "g"] {
        assert!(retained.remove(&topic(on)).is_some(), "{on}");
    }
    assert_eq!(users(&retained), 0, "nobody is remembered");
}

#[test]
fn each_user_has_a_number_of_bytes() {
    let one = cost(&of("ann", "a", "12345678", None));
    let retained = for_users(0, 2 * one);
    let set = |message| retained.set(message, NOW).map(drop);
    let full = Err(RetainedFull::UserBytes { max: 2 * one });
    assert_eq!(set(of("ann", "a", "12345678", None)), Ok(()));
    assert_eq!(set(of("ann", "b", "12345678", None)), Ok(()));
    assert_eq!(set(of("ann", "b", "123456789", None)), full);
    assert_eq!(set(of("ann", "c", "", None)), Ok(()), "takes no room");
    assert_eq!(set(of("ann", "b", "1", None)), Ok(()));
    assert_eq!(set(of("ann", "a", "123456789", None)), Ok(()));
    assert_eq!(set(of("bob", "c", "12345678", None)), Ok(()));
}

/// All together or none, as in a transaction.
#[test]
fn several_messages_of_one_user_are_checked_together() {
    let retained = for_users(3, 0);
    let all = |names: &[&str]| {
        let messages: Vec<_> = names.iter().map(|on| of("ann", on, "1", None)).collect();
        retained.check(&messages.iter().map(|message| &**message), NOW)
    };
    let full = Err(RetainedFull::UserMessages { max: 3 });
    assert_eq!(all(&["a", "b", "c", "a"]), Ok(()));
    assert_eq!(all(&["a", "b", "c", "d"]), full);
    retained.set(of("ann", "a", "1", None), NOW).unwrap();
    retained.set(of("bob", "b", "1", None), NOW).unwrap();
    assert_eq!(all(&["a", "b", "c"]), Ok(()));
    assert_eq!(all(&["b", "c", "d"]), full);
}

/// What was there before a start stays, whatever the bound is by now, and counts.
#[test]
fn restored_messages_count_and_are_kept() {
    let retained = for_users(1, 0);
    for on in ["a", "b"] {
        retained.restore(of("ann", on, "1", None), NOW).unwrap();
    }
    assert_eq!(retained.stats().messages, 2);
    let set = |on| retained.set(of("ann", on, "2", None), NOW).map(drop);
    assert_eq!(set("c"), Err(RetainedFull::UserMessages { max: 1 }));
    assert_eq!(set("a"), Ok(()), "is not more than before");
    retained.remove(&topic("a"));
    retained.remove(&topic("b"));
    assert_eq!(set("c"), Ok(()));
}
