//! Sessions and those whom they belong to: takeover by others, the end of credentials.

use super::*;
use crate::auth::{Method, Revoked, Subject};

fn of(user: &str, client_id: &str) -> Connect {
    Connect {
        username: Some(user.into()),
        ..lasting(client_id)
    }
}

/// S30: another user comes with a client identifier that is in use, or whose session waits.
#[test]
fn a_session_is_its_users_alone() {
    let mut story = Story::new();
    story.hub.set_owned(true);
    let ann = story.connect(of("ann", "c"));
    for thief in [of("bob", "c"), lasting("c")] {
        let thief = Connect {
            clean_start: true,
            ..thief
        };
        let (refused, log, _) = story.try_connect(thief);
        assert_eq!(
            refused.err().map(|no| no.code),
            Some(RefusalCode::NotAuthorized)
        );
        assert_eq!(*log.lock(), [Seen::Refused(RefusalCode::NotAuthorized)]);
    }
    assert!(ann.session.lock().link.is_some(), "the victim stays");
    let (hub, link) = (Arc::clone(&story.hub), ann.link);
    hub.disconnect(&ann.session, link, false, None, &mut story.batch);
    assert!(
        story.try_connect(of("bob", "c")).0.is_err(),
        "its session too"
    );
    let back = story.connect(of("ann", "c"));
    assert!(Arc::ptr_eq(&back.session, &ann.session));
}

/// While users are only what clients call themselves, names protect nothing.
#[test]
fn without_proof_a_session_goes_to_whoever_asks() {
    let mut story = Story::new();
    let ann = story.connect(of("ann", "c"));
    let other = story.connect(of("bob", "c"));
    assert!(Arc::ptr_eq(&ann.session, &other.session));
}

fn token(client: &Client, id: &str, expires_at: Option<u64>) {
    let who = Identity {
        user: Some("ann".into()),
        method: Method::Token,
        token_id: Some(id.into()),
        expires_at: expires_at.map(Timestamp),
        ..Identity::default()
    };
    client.session.lock().identify(&Arc::new(who));
}

#[test]
fn revoked_credentials_end_connections_sessions_and_wills() {
    let mut story = Story::new();
    let watcher = story.connect(lasting("watcher"));
    let filter = story.subscribe(&watcher, request("will", QoS::AtLeastOnce));
    assert_eq!(filter.qos, QoS::AtLeastOnce);
    let with_will = |client: &str| Connect {
        username: Some("ann".into()),
        ..with_will(client, 0, 0)
    };
    let live = story.connect(with_will("live"));
    let away = story.connect(of("ann", "away"));
    token(&live, "t1", Some(2_000_000));
    let hub = Arc::clone(&story.hub);
    hub.disconnect(&away.session, away.link, false, None, &mut story.batch);
    let other = story.connect(of("bob", "other"));
    let (revoked, tokens) = hub.revoke(&Subject::User("ann".into()), &mut story.batch);
    let expected = Revoked {
        connections: 1,
        sessions: 2,
    };
    assert_eq!(revoked, expected);
    assert_eq!(tokens, [("t1".into(), Some(Timestamp(2_000_000)))]);
    assert!(live.log.lock().contains(&Seen::Closed(Cause::Unauthorized)));
    assert!(hub.session("live").is_none() && hub.session("away").is_none());
    assert!(other.session.lock().link.is_some());
    let wills = |seen: &Seen| matches!(seen, Seen::Message { .. });
    assert!(!watcher.log.lock().iter().any(wills), "a will was said");
}

#[test]
fn tokens_and_clients_are_revoked_by_name() {
    let mut story = Story::new();
    let (one, two) = (story.connect(of("ann", "1")), story.connect(of("ann", "2")));
    token(&one, "t1", None);
    token(&two, "t2", None);
    let hub = Arc::clone(&story.hub);
    let count =
        |subject: Subject, story: &mut Story| hub.revoke(&subject, &mut story.batch).0.connections;
    assert_eq!(count(Subject::Token("t".into()), &mut story), 0);
    assert_eq!(count(Subject::Token("t1".into()), &mut story), 1);
    assert_eq!(count(Subject::Client("2".into()), &mut story), 1);
    assert_eq!(count(Subject::User("ann".into()), &mut story), 0);
}

/// A connection is warned once, closed at the end, and goes on with new credentials.
#[test]
fn credentials_end_and_are_renewed() {
    let mut story = Story::new();
    let client = story.connect(of("ann", "c"));
    let sub = story.subscribe(&client, request("$auth/expiring", QoS::AtMostOnce));
    assert_eq!(sub.qos, QoS::AtMostOnce);
    let warnings = || {
        let log = client.log.lock();
        let is_warning =
            |seen: &&Seen| matches!(seen, Seen::Message { topic, .. } if topic == "$auth/expiring");
        log.iter().filter(is_warning).count()
    };
    let look = |at: u64| {
        client
            .session
            .lock()
            .look_at_credentials(client.link, Timestamp(at));
    };
    let identity = |end: u64| Identity {
        user: Some("ann".into()),
        method: Method::Token,
        expires_at: Some(Timestamp(end)),
        ..Identity::default()
    };
    let renew = |end: u64, due: u64| {
        client
            .session
            .lock()
            .renew(client.link, &Arc::new(identity(end)), Timestamp(due));
    };
    renew(2_000_000, 1_900_000);
    look(1_899_999);
    assert_eq!(warnings(), 0);
    look(1_900_000);
    look(1_950_000);
    assert_eq!(warnings(), 1, "once");
    renew(3_000_000, 2_900_000);
    look(2_100_000);
    assert!(!client.log.lock().contains(&Seen::Closed(Cause::Expired)));
    look(2_900_000);
    assert_eq!(warnings(), 2);
    look(3_000_000);
    assert!(client.log.lock().contains(&Seen::Closed(Cause::Expired)));
}

#[test]
fn the_brokers_own_topics_take_no_messages() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    for topic in ["$auth/expiring", "$auth", "$auth/x"] {
        let topic = Topic::parse(topic.into(), 100, 10).unwrap();
        let publish = Publish {
            token: None,
            exactly_once: None,
            idempotency_key: None,
            message: Message::new(topic, Bytes::new(), QoS::AtMostOnce, true).into(),
        };
        let result = story
            .hub
            .publish_for(&client.session, publish, &mut story.batch);
        assert_eq!(
            result.err().map(|no| no.code),
            Some(RefusalCode::NotAuthorized)
        );
    }
}
