use super::*;
use crate::config::{Notes, Problem};

fn read(text: &str) -> Result<Mapping, Vec<String>> {
    let notes = Notes::default();
    let mut section = Section::root(text.parse().unwrap(), notes.clone());
    let mapping = Mapping::read(&mut section);
    drop(section);
    let problems: Vec<_> = notes.take().iter().map(Problem::to_string).collect();
    if problems.is_empty() {
        Ok(mapping)
    } else {
        Err(problems)
    }
}

fn event() -> Event {
    Event {
        id: "m1".into(),
        key: Some("k1".into()),
        body: r#"{"customerId":7}"#.into(),
        ..Event::default()
    }
}

fn with(pairs: &[(&str, &str)]) -> Event {
    let attributes = pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    Event {
        attributes: attributes.collect(),
        ..event()
    }
}

fn map(settings: &str, event: &Event) -> Result<Publication, MappingError> {
    read(settings).unwrap().publication(event, "shop", "b1")
}

fn topic(settings: &str, event: &Event) -> Result<String, MappingError> {
    map(settings, event).map(|publication| publication.topic)
}

#[test]
fn the_topic_is_the_attribute_then_the_template_then_the_sources() {
    let template = r#"topic = "orders/${body.customerId}/new""#;
    let suggested = Event {
        topic: Some("from/source".into()),
        ..event()
    };
    assert_eq!(
        topic(template, &with(&[("topic", "a/b")])).as_deref(),
        Ok("a/b")
    );
    assert_eq!(
        topic(template, &with(&[("mqtt.topic", "c")])).as_deref(),
        Ok("c")
    );
    assert_eq!(topic(template, &event()).as_deref(), Ok("orders/7/new"));
    assert_eq!(topic(template, &suggested).as_deref(), Ok("orders/7/new"));
    assert_eq!(topic("", &suggested).as_deref(), Ok("from/source"));
    assert_eq!(
        topic(r#"topic = "fixed""#, &event()).as_deref(),
        Ok("fixed")
    );
    assert_eq!(topic("", &event()), Err(MappingError::NoTopic));
}

#[test]
fn the_first_route_that_matches_names_the_topic() {
    let settings = r#"
        topic = "other"
        routes = [
            { pattern = '{"detail":{"customerId":[{"numeric":[">",5]}]}}', topic = "big/${body.customerId}" },
            { pattern = '{"tenant":["acme"]}', topic = "acme" },
        ]
    "#;
    let small = |pairs| Event {
        body: r#"{"customerId":1}"#.into(),
        ..with(pairs)
    };
    assert_eq!(
        topic(settings, &with(&[("tenant", "acme")])).as_deref(),
        Ok("big/7")
    );
    assert_eq!(
        topic(settings, &small(&[("tenant", "acme")])).as_deref(),
        Ok("acme")
    );
    assert_eq!(topic(settings, &small(&[])).as_deref(), Ok("other"));
    assert_eq!(
        topic(settings, &small(&[("topic", "own")])).as_deref(),
        Ok("own")
    );
    let problems =
        read("routes = [{ pattern = '{}' }, { topic = 'a/#', pattern = '{\"a\":[1]}', x = 1 }]");
    assert_eq!(problems.unwrap_err().len(), 4);
}

#[test]
fn the_sender_chooses_only_allowed_topics() {
    let settings = "topic = \"x\"\nallowed_topics = [\"orders/#\", \"a/+\"]";
    assert_eq!(
        topic(settings, &with(&[("topic", "orders/1")])).as_deref(),
        Ok("orders/1")
    );
    let refused = topic(settings, &with(&[("topic", "a/b/c")]));
    assert_eq!(refused, Err(MappingError::NotAllowed("a/b/c".into())));
    let settings = "topic = \"x\"\ntopic_from_attribute = false";
    assert_eq!(
        topic(settings, &with(&[("topic", "a/b/c")])).as_deref(),
        Ok("x")
    );
}

#[test]
fn what_is_no_topic_is_poison() {
    for bad in ["", "a/+", "#", "$SYS/x", "$share/g/x", &"x".repeat(65_536)] {
        let error = topic("", &with(&[("topic", bad)]));
        assert!(matches!(error, Err(MappingError::Topic { .. })), "{bad}");
    }
    let missing = Event {
        body: "{}".into(),
        ..event()
    };
    let error = topic(r#"topic = "o/${body.customerId}""#, &missing);
    assert!(matches!(
        error,
        Err(MappingError::Template {
            setting: "topic",
            ..
        })
    ));
}

#[test]
fn attributes_with_a_meaning_set_fields_and_others_are_carried() {
    let event = with(&[
        ("topic", "t"),
        ("qos", "2"),
        ("retain", "true"),
        ("expiry", "60"),
        ("content-type", "text/plain"),
        ("response-topic", "answers"),
        ("correlation-data", "7"),
        ("tag", "new"),
        ("tag", "eu"),
    ]);
    let publication = map("", &event).unwrap();
    let expected = Publication {
        topic: "t".into(),
        payload: event.body.clone(),
        qos: QoS::ExactlyOnce,
        retain: true,
        expiry_secs: Some(60),
        content_type: Some("text/plain".into()),
        response_topic: Some("answers".into()),
        correlation: Some("7".into()),
        user_properties: [
            ("tag", "new"),
            ("tag", "eu"),
            ("polycast-via", "b1"),
            ("idempotency-key", "shop/k1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
    };
    assert_eq!(publication, expected);
}

#[test]
fn settings_say_what_the_attributes_do_not() {
    let settings = r#"
        topic = "t"
        qos = 0
        retain = true
        expiry = "1h"
        content_type = "text/plain"
        response_topic = "answers/${id}"
        correlation = "${key}"
        attributes = ["kept"]
        idempotency = "${body.customerId}"
        user_properties = { from = "${source}" }
    "#;
    let publication = map(settings, &with(&[("kept", "1"), ("not", "2")])).unwrap();
    assert_eq!(publication.qos, QoS::AtMostOnce);
    assert!(publication.retain);
    assert_eq!(publication.expiry_secs, Some(3600));
    assert_eq!(publication.response_topic.as_deref(), Some("answers/m1"));
    assert_eq!(publication.correlation.as_deref(), Some(b"k1".as_slice()));
    let expected = [
        ("kept", "1"),
        ("from", "shop"),
        ("polycast-via", "b1"),
        ("idempotency-key", "shop/7"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(publication.user_properties, expected);
}

#[test]
fn an_attribute_without_sense_is_poison() {
    for (name, value) in [("qos", "3"), ("retain", "maybe"), ("expiry", "soon")] {
        let error = map("topic = \"t\"", &with(&[(name, value)]));
        let value = value.to_owned();
        assert_eq!(error, Err(MappingError::Attribute { name, value }));
    }
}

#[test]
fn nothing_is_longer_than_a_packet_can_say() {
    let long = "x".repeat(65_536);
    for name in ["content-type", "correlation-data", "tag", long.as_str()] {
        let error = map("topic = \"t\"", &with(&[(name, &long)]));
        assert!(matches!(error, Err(MappingError::TooLong(_))), "{error:?}");
    }
}

#[test]
fn the_key_is_the_senders_then_the_sources_and_never_too_long() {
    let key = |settings: &str, event: &Event| {
        let publication = map(settings, event).unwrap();
        let mut properties = publication.user_properties.into_iter();
        properties
            .find(|(name, _)| name == IDEMPOTENCY_PROPERTY)
            .map(|(_, value)| value)
    };
    let settings = "topic = \"t\"";
    assert_eq!(key(settings, &event()).as_deref(), Some("shop/k1"));
    let own = with(&[("idempotency-key", "mine")]);
    assert_eq!(key(settings, &own).as_deref(), Some("shop/mine"));
    assert_eq!(key("topic = \"t\"\nidempotency = \"off\"", &own), None);
    let none = Event {
        key: None,
        ..event()
    };
    assert_eq!(key(settings, &none), None);
    let long = Event {
        key: Some("x".repeat(300)),
        ..event()
    };
    let digest = key(settings, &long).unwrap();
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{digest}"
    );
}

#[test]
fn the_group_is_the_sources_or_the_settings() {
    let event = Event {
        group: Some("g".into()),
        ..event()
    };
    let group = |settings: &str| read(settings).unwrap().group(&event, "shop");
    assert_eq!(group("").unwrap().as_deref(), Some("g"));
    assert_eq!(
        group("order_by = \"${body.customerId}\"")
            .unwrap()
            .as_deref(),
        Some("7")
    );
    assert!(group("order_by = \"${body.nobody}\"").is_err());
}

#[test]
fn settings_that_cannot_be_are_said() {
    let problems = read("topic = \"a/#\"\nqos = 3\nallowed_topics = [\"a#\"]\nidempotency = \"x\"")
        .unwrap_err();
    assert_eq!(problems.len(), 4, "{problems:?}");
}
