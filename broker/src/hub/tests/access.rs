//! Stories of clients that may not do everything.

use serde_json::{Value, json};

use super::*;
use crate::auth::access::{Policy, Rule};

impl Story {
    /// Puts rules in force; what they do not speak of is denied.
    fn rules(&mut self, rules: &Value) {
        let rules = rules.as_array().unwrap().iter();
        let policy = Policy {
            rules: rules.map(|rule| Rule::from_json(rule).unwrap()).collect(),
            unmatched: false,
        };
        self.hub.set_policy(policy, self.batch.now);
    }

    fn under(rules: &Value) -> Self {
        let mut story = Self::new();
        story.rules(rules);
        story
    }

    fn user(&mut self, name: &str) -> Client {
        self.connect(Connect {
            username: Some(name.to_owned().into()),
            ..lasting(name)
        })
    }

    fn try_subscribe(&mut self, client: &Client, filter: &str) -> Result<Granted, RefusalCode> {
        self.try_subscribe_at(client, filter, QoS::AtLeastOnce)
    }

    fn try_subscribe_at(
        &mut self,
        client: &Client,
        filter: &str,
        qos: QoS,
    ) -> Result<Granted, RefusalCode> {
        let subscribe = Subscribe {
            token: Token(0),
            requests: [Ok(request(filter, qos))].into_iter().collect(),
        };
        let hub = Arc::clone(&self.hub);
        let results = hub.subscribe(&client.session, subscribe, &mut self.batch);
        hub.pump(&client.session, &mut self.batch);
        results[0].clone().map_err(|refusal| refusal.code)
    }

    fn say(&mut self, client: &Client, message: Message) -> Result<u32, RefusalCode> {
        let hub = Arc::clone(&self.hub);
        let result = hub.publish_for(&client.session, plain(message), &mut self.batch);
        result.map_err(|refusal| refusal.code)
    }

    fn metric(&mut self, line: &str) -> bool {
        let now = self.batch.now;
        std::mem::replace(&mut self.batch, Batch::new(now)).finish(&self.hub.metrics);
        self.hub.metrics.render().lines().any(|have| have == line)
    }
}

fn plain(message: Message) -> Publish {
    Publish {
        token: None,
        exactly_once: None,
        idempotency_key: None,
        message: message.into(),
    }
}

fn at_least_once(topic: &str, payload: &str) -> Message {
    message(topic, payload, QoS::AtLeastOnce)
}

fn retained(mut message: Message) -> Message {
    message.retain = true;
    message
}

fn will_to(topic: &str, delay_secs: u32) -> Box<Will> {
    Box::new(Will {
        message: message(topic, "gone", QoS::AtLeastOnce),
        delay_secs,
        expiry_secs: None,
    })
}

const DENIED: RefusalCode = RefusalCode::NotAuthorized;

#[test]
fn each_action_is_allowed_or_refused() {
    let mut story = Story::under(&json!([
        {"allow": "publish", "topics": ["%u/#", "$queue/%u"]},
        {"allow": "subscribe", "topics": ["%u/#", "$queue/%u"]},
        {"allow": "join", "topics": ["$group/%u"]},
        {"allow": "broadcast", "users": ["ann"]},
    ]));
    let (ann, bob) = (story.user("ann"), story.user("bob"));
    for filter in [
        "ann/x",
        "ann/#",
        "$share/g/ann/x",
        "$queue/ann",
        "$group/ann",
        "$user/ann/#",
    ] {
        assert!(story.try_subscribe(&ann, filter).is_ok(), "{filter}");
        let key: &str = filter;
        story
            .hub
            .unsubscribe(&ann.session, &[key], &mut story.batch);
        assert_eq!(story.try_subscribe(&bob, filter), Err(DENIED), "{filter}");
    }
    for filter in ["#", "+/x", "$share/g/#", "$SYS/#", "$group/+", "$user/#"] {
        assert_eq!(story.try_subscribe(&ann, filter), Err(DENIED), "{filter}");
    }
    for topic in ["ann/x", "$queue/ann", "$broadcast"] {
        assert!(
            story.say(&ann, at_least_once(topic, "1")).is_ok(),
            "{topic}"
        );
        assert_eq!(
            story.say(&bob, at_least_once(topic, "1")),
            Err(DENIED),
            "{topic}"
        );
    }
    for topic in ["$group/ann", "$user/ann/x", "$SYS/x", "other"] {
        assert_eq!(
            story.say(&ann, at_least_once(topic, "1")),
            Err(DENIED),
            "{topic}"
        );
    }
    for line in [
        "polycast_access_denied_total{action=\"broadcast\",protocol=\"test\"} 1",
        "polycast_access_denied_total{action=\"join\",protocol=\"test\"} 2",
    ] {
        assert!(story.metric(line), "{line}");
    }
}

#[test]
fn a_refused_group_leaves_nothing_behind() {
    let mut story = Story::under(&json!([]));
    let client = story.user("u");
    assert_eq!(story.try_subscribe(&client, "$share/g/a"), Err(DENIED));
    assert_eq!(story.hub.groups.lock().by_name.len(), 0);
    assert!(client.session.lock().subscriptions.is_empty());
}

#[test]
fn a_refused_message_may_be_sent_again_when_it_is_allowed() {
    let mut story = Story::under(&json!([]));
    let client = story.user("u");
    let hub = Arc::clone(&story.hub);
    let publish = || Publish {
        exactly_once: Some(7),
        idempotency_key: Some("key".into()),
        ..plain(message("a", "1", QoS::ExactlyOnce))
    };
    let refused = hub.publish_for(&client.session, publish(), &mut story.batch);
    assert_eq!(refused.unwrap_err().code, DENIED);
    assert!(!hub.release(&client.session, 7, &mut story.batch));
    story.rules(&json!([{"allow": "all"}]));
    let reader = story.user("r");
    story.try_subscribe(&reader, "a").unwrap();
    hub.publish_for(&client.session, publish(), &mut story.batch)
        .unwrap();
    assert_eq!(reader.payloads(), ["1"]);
}

#[test]
fn a_transaction_happens_as_a_whole_or_not_at_all() {
    let mut story = Story::under(&json!([{"allow": "all", "topics": ["good"]}]));
    let client = story.user("u");
    story.try_subscribe(&client, "good").unwrap();
    let commands = ["good", "bad"].map(|topic| Command::Publish(plain(at_least_once(topic, "1"))));
    let hub = Arc::clone(&story.hub);
    let result = hub.commit(&client.session, commands.into(), &mut story.batch);
    assert_eq!(result.unwrap_err().code, DENIED);
    assert!(client.payloads().is_empty());
}

#[test]
fn what_is_denied_below_a_filter_is_left_out() {
    let mut story = Story::under(&json!([
        {"allow": "all"},
        {"deny": "subscribe", "topics": ["secret/#"], "users": ["r"]},
    ]));
    let (reader, other) = (story.user("r"), story.user("o"));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let kept = retained(message("secret/kept", "kept", qos));
        story.say(&other, kept).unwrap();
        story.try_subscribe_at(&reader, "#", qos).unwrap();
        for topic in ["open", "secret", "secret/x"] {
            story.say(&other, message(topic, topic, qos)).unwrap();
        }
        assert_eq!(reader.payloads(), ["open"]);
    }
    assert_eq!(story.try_subscribe(&reader, "secret/x"), Err(DENIED));
    // In a group others would wait for what this member must not get.
    assert_eq!(story.try_subscribe(&reader, "$share/g/#"), Err(DENIED));
    assert!(story.metric("polycast_messages_dropped_total{reason=\"not_authorized\"} 7"));
}

#[test]
fn retained_messages_can_be_denied_alone() {
    let mut story = Story::under(&json!([
        {"allow": "all"},
        {"deny": "retained", "topics": ["a/secret"], "users": ["r"]},
    ]));
    let (reader, other) = (story.user("r"), story.user("o"));
    for topic in ["a/open", "a/secret", "a/z"] {
        let kept = retained(at_least_once(topic, topic));
        story.say(&other, kept).unwrap();
    }
    story.try_subscribe(&reader, "a/#").unwrap();
    assert_eq!(reader.payloads(), ["a/open", "a/z"]);
    story
        .say(&other, at_least_once("a/secret", "live"))
        .unwrap();
    assert_eq!(reader.payloads(), ["live"]);
}

#[test]
fn a_change_of_the_rules_stops_what_is_on_its_way() {
    let all = json!([{"allow": "all"}]);
    let mut story = Story::under(&all);
    let (reader, other) = (story.user("r"), story.user("o"));
    story.try_subscribe(&reader, "a/#").unwrap();
    // The window holds four; the others wait.
    for number in 0..6 {
        let payload = number.to_string();
        story
            .say(&other, at_least_once("a/secret", &payload))
            .unwrap();
    }
    story.say(&other, at_least_once("a/open", "open")).unwrap();
    assert_eq!(reader.payloads(), ["0", "1", "2", "3"]);
    story.rules(&json!([
        {"allow": "all"},
        {"deny": "all", "topics": ["a/secret"], "users": ["r"]},
    ]));
    for position in 0..4 {
        assert!(story.settle(&reader, Settle::Done(position)));
    }
    assert_eq!(reader.payloads(), ["open"]);
    story
        .say(&other, at_least_once("a/secret", "late"))
        .unwrap();
    assert!(reader.payloads().is_empty());
    assert_eq!(reader.session.lock().queued().0, 1, "only what is open");
    // Nothing is left of it, so it counts as revoked.
    story.rules(&json!([{"allow": "all", "users": ["o"]}]));
    story.say(&other, at_least_once("a/open", "late")).unwrap();
    assert!(reader.payloads().is_empty());
    assert!(story.metric("polycast_subscriptions_revoked_total 1"));
    // It was kept, so it goes on when it is allowed again.
    story.rules(&all);
    story
        .say(&other, at_least_once("a/secret", "again"))
        .unwrap();
    assert_eq!(reader.payloads(), ["again"]);
    assert!(story.metric("polycast_subscriptions_revoked_total 1"));
}

#[test]
fn a_member_that_lost_its_right_holds_nothing_up() {
    let all = json!([{"allow": "all"}]);
    let mut story = Story::under(&all);
    let (one, two, other) = (story.user("one"), story.user("two"), story.user("o"));
    for client in [&one, &two] {
        story.try_subscribe(client, "$share/g/a").unwrap();
    }
    story.rules(&json!([{"allow": "all"}, {"deny": "all", "topics": ["a"], "users": ["one"]}]));
    for number in 0..4 {
        story
            .say(&other, at_least_once("a", &number.to_string()))
            .unwrap();
    }
    assert!(one.payloads().is_empty());
    assert_eq!(two.payloads(), ["0", "1", "2", "3"]);
    story.rules(&all);
    story.say(&other, at_least_once("a", "both")).unwrap();
    assert_eq!(one.payloads(), ["both"]);
}

#[test]
fn a_queue_keeps_its_messages_when_its_consumer_may_not_read_them() {
    let all = json!([{"allow": "all"}]);
    let mut story = Story::under(&all);
    let (consumer, other) = (story.user("c"), story.user("o"));
    story.try_subscribe(&consumer, "$queue/jobs").unwrap();
    story.rules(&json!([{"allow": "all", "users": ["o"]}]));
    story
        .say(&other, at_least_once("$queue/jobs", "1"))
        .unwrap();
    assert!(consumer.payloads().is_empty());
    story.rules(&all);
    consumer.reads(&mut story);
    assert_eq!(consumer.payloads(), ["1"]);
}

#[test]
fn a_message_of_a_group_goes_to_another_member_instead() {
    let all = json!([{"allow": "all"}]);
    let mut story = Story::under(&all);
    let (one, other) = (story.user("one"), story.user("o"));
    story.try_subscribe(&one, "$queue/jobs").unwrap();
    story
        .say(&other, at_least_once("$queue/jobs", "1"))
        .unwrap();
    assert_eq!(one.payloads(), ["1"]);
    // It goes away without having settled it, and comes back with fewer rights.
    story.leave(&one);
    story.rules(
        &json!([{"allow": "all"}, {"deny": "all", "topics": ["$queue/#"], "users": ["one"]}]),
    );
    let back = story.user("one");
    assert!(back.payloads().is_empty());
    let two = story.user("two");
    story.try_subscribe(&two, "$queue/jobs").unwrap();
    two.reads(&mut story);
    assert_eq!(two.payloads(), ["1"]);
}

#[test]
fn who_comes_back_with_fewer_rights_gets_less() {
    let mut story = Story::under(&json!([
        {"allow": "all", "methods": ["anonymous"]},
        {"deny": "all", "topics": ["a/secret"], "users": ["guest"]},
    ]));
    let (reader, other) = (story.connect(lasting("r")), story.user("o"));
    story.try_subscribe(&reader, "a/#").unwrap();
    story.leave(&reader);
    for topic in ["a/secret", "a/open"] {
        story.say(&other, at_least_once(topic, topic)).unwrap();
    }
    let back = story.connect(Connect {
        username: Some("guest".into()),
        ..lasting("r")
    });
    assert!(back.seen().contains(&Seen::Connected { present: true }));
    back.reads(&mut story);
    story
        .say(&other, at_least_once("a/secret", "late"))
        .unwrap();
    story.say(&other, at_least_once("a/open", "late")).unwrap();
    assert_eq!(back.session.lock().queued().0, 2);
}

#[test]
fn a_will_is_checked_at_the_login_and_when_it_is_said() {
    let mut story = Story::under(&json!([
        {"allow": "publish", "topics": ["status/%c"]},
        {"allow": "all", "users": ["watcher"]},
    ]));
    let watcher = story.user("watcher");
    story.try_subscribe(&watcher, "#").unwrap();
    let (refused, log, way_back) = story.try_connect(Connect {
        will: Some(will_to("status/other", 0)),
        ..lasting("c")
    });
    assert_eq!(refused.unwrap_err().code, DENIED);
    assert_eq!(*log.lock(), [Seen::Refused(DENIED)]);
    assert!(way_back.lock().is_some() && story.hub.session("c").is_none());
    for delay in [0, 10] {
        let client = story.connect(Connect {
            will: Some(will_to("status/c", delay)),
            ..lasting("c")
        });
        story.leave(&client);
        story.wait(delay);
        assert_eq!(watcher.payloads(), ["gone"]);
        let client = story.connect(Connect {
            will: Some(will_to("status/c", delay)),
            ..lasting("c")
        });
        story.rules(&json!([{"allow": "all", "users": ["watcher"]}]));
        story.leave(&client);
        story.wait(delay);
        assert!(watcher.payloads().is_empty());
        story.rules(&json!([
            {"allow": "publish", "topics": ["status/%c"]},
            {"allow": "all", "users": ["watcher"]},
        ]));
    }
}

#[test]
fn other_credentials_mean_other_rights_at_once() {
    let mut story = Story::under(&json!([{"allow": "all", "users": ["o"]}]));
    let other = story.user("o");
    let with = |topic: &str| Identity {
        user: Some("u".into()),
        claims: json!({"permissions": [{"allow": "all", "topics": [topic]}]})
            .as_object()
            .cloned()
            .unwrap(),
        ..Identity::default()
    };
    let (session, log, way_back) = story.try_connect_as(with("a"), lasting("u"));
    let client = Client {
        session: session.unwrap(),
        link: story.links,
        log,
        way_back,
    };
    story.try_subscribe(&client, "a").unwrap();
    let hub = Arc::clone(&story.hub);
    hub.set_identity(&client.session, &Arc::new(with("b")), &mut story.batch)
        .unwrap();
    story.say(&other, at_least_once("a", "1")).unwrap();
    assert!(client.payloads().is_empty());
    story.try_subscribe(&client, "b").unwrap();
    // What cannot be understood changes nothing.
    let mut bad = with("a");
    bad.claims.insert("permissions".to_owned(), json!("all"));
    assert!(
        hub.set_identity(&client.session, &Arc::new(bad.clone()), &mut story.batch)
            .is_err()
    );
    story.say(&other, at_least_once("b", "2")).unwrap();
    assert_eq!(client.payloads(), ["2"]);
    let (refused, ..) = story.try_connect_as(bad, lasting("v"));
    assert_eq!(refused.unwrap_err().code, DENIED);
}

#[test]
fn everyones_own_topics_need_no_rule() {
    let mut story = Story::under(&json!([{"allow": "all", "users": ["o"]}]));
    let other = story.user("o");
    let reader = story.connect(Connect {
        username: Some("r".into()),
        auto_subscribe: true,
        ..lasting("r")
    });
    for topic in ["$broadcast", "$user/r/x", "$user/o/x"] {
        story.say(&other, at_least_once(topic, topic)).unwrap();
    }
    assert_eq!(reader.payloads(), ["$broadcast", "$user/r/x"]);
}

#[test]
fn without_rules_nothing_is_looked_at() {
    let mut story = Story::new();
    let client = story.user("u");
    story.try_subscribe(&client, "#").unwrap();
    assert!(!client.session.rights.is_restricted());
    assert!(!client.session.lock().guarded);
    story.say(&client, at_least_once("a", "1")).unwrap();
    assert_eq!(client.payloads(), ["1"]);
}
