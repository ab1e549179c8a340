//! What is written, and what is settled for a client that never answers.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::connection::{Cause, Connected};
use crate::model::{Properties, QoS, Topic};

const CONFIG: Config = Config {
    heartbeat: Duration::from_secs(15),
    replay: 2,
    last_event: None,
};

struct World {
    stream: EventStream,
    outbox: Outbox,
    commands: Vec<Command>,
}

impl World {
    fn new() -> Self {
        Self {
            stream: EventStream::new(CONFIG, Timestamp(0)),
            outbox: Outbox::new(),
            commands: Vec::new(),
        }
    }

    fn drive(&mut self, step: impl FnOnce(&mut EventStream, &mut Output<'_>)) {
        let mut out = Output {
            outbox: &mut self.outbox,
            commands: &mut self.commands,
            close: &mut None,
        };
        step(&mut self.stream, &mut out);
    }

    fn deliver(&mut self, payload: &'static str, position: Option<Position>, now: u64) {
        let topic = Topic::parse("a/b".into(), 64, 8).unwrap();
        let mut message = Message::new(topic, payload.into(), QoS::AtLeastOnce, false);
        if payload.starts_with('{') {
            message.properties = Some(Box::new(Properties {
                content_type: Some("application/json".into()),
                ..Properties::default()
            }));
        }
        let delivery = Delivery {
            message: &Arc::new(message),
            qos: QoS::AtLeastOnce,
            retain: false,
            position,
            attempts: 0,
            matched: &[],
        };
        let delivered = self
            .stream
            .deliver(&delivery, Timestamp(now), &mut self.outbox);
        assert_eq!(delivered, Delivered::Written);
    }

    fn written(&mut self) -> String {
        let bytes: Vec<u8> = self.outbox.take().into_iter().flatten().collect();
        String::from_utf8(bytes).unwrap()
    }
}

#[test]
fn messages_are_events_with_their_position_as_id() {
    let mut world = World::new();
    world.deliver("hi", Some(7), 0);
    world.deliver("ho", None, 0);
    assert_eq!(
        world.written(),
        "id: 0-7\ndata: {\"type\":\"message\",\"qos\":1,\"ackId\":7,\"topic\":\"a/b\",\
         \"dataType\":\"text\",\"data\":\"hi\"}\n\n\
         data: {\"type\":\"message\",\"topic\":\"a/b\",\"dataType\":\"text\",\"data\":\"ho\"}\n\n"
    );
}

#[test]
fn what_the_client_has_is_not_written_again() {
    let mut world = World::new();
    world.stream.config.last_event = EventId::parse("5-1");
    let connected = |session| {
        Reply::Connected(Connected {
            session,
            ..Connected::default()
        })
    };
    world.drive(|stream, out| stream.reply(connected(5), Timestamp(0), out));
    world.written();
    world.deliver("x", Some(1), 0);
    assert_eq!(world.written(), "");
    world.deliver("x", Some(2), 0);
    assert!(world.written().starts_with("id: 5-2\n"));
    // Positions of another session say nothing.
    world.drive(|stream, out| stream.reply(connected(6), Timestamp(0), out));
    world.written();
    world.deliver("x", Some(1), 0);
    assert!(world.written().starts_with("id: 6-1\n"));
    for text in [
        "",
        "5",
        "5-",
        "-1",
        "a-1",
        "5-1-2",
        "5-99999999999999999999",
    ] {
        assert_eq!(EventId::parse(text), None, "{text}");
    }
}

#[test]
fn a_line_end_in_json_cannot_end_the_event() {
    let mut world = World::new();
    world.deliver("{\"a\":\r\n1,\n\n\"b\":\r2}", None, 0);
    let written = world.written();
    assert_eq!(written.matches("\n\n").count(), 1, "{written:?}");
    let data: Vec<&str> = written
        .trim_end()
        .lines()
        .map(|line| line.strip_prefix("data: ").unwrap())
        .collect();
    assert!(
        data.join("\n")
            .contains("\"data\":{\"a\":\n1,\n\n\"b\":\n2}")
    );
    assert!(!written.contains('\r'));
}

#[test]
fn what_is_older_than_the_replay_is_settled() {
    let mut world = World::new();
    for position in 0..2 {
        world.deliver("x", Some(position), 0);
    }
    assert!(world.stream.next_timeout() > Some(Timestamp(0)));
    for position in 2..5 {
        world.deliver("x", Some(position), 0);
    }
    assert_eq!(world.stream.next_timeout(), Some(Timestamp(0)));
    world.drive(|stream, out| stream.handle_timeout(Timestamp(1), out));
    let settled: Vec<_> = world
        .commands
        .iter()
        .map(|command| match command {
            Command::Settle {
                settle: Settle::Done(position),
                ..
            } => *position,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(settled, [0, 1, 2]);
}

#[test]
fn silence_is_filled_with_comments() {
    let mut world = World::new();
    world.deliver("x", None, 10_000);
    assert_eq!(world.stream.next_timeout(), Some(Timestamp(25_000)));
    world.written();
    world.drive(|stream, out| stream.handle_timeout(Timestamp(24_999), out));
    assert_eq!(world.written(), "");
    world.drive(|stream, out| stream.handle_timeout(Timestamp(25_000), out));
    assert_eq!(world.written(), ":\n\n");
    assert_eq!(world.stream.next_timeout(), Some(Timestamp(40_000)));
}

#[test]
fn beginning_gap_and_end_are_told() {
    let mut world = World::new();
    let connected = Connected {
        client_id: "a\"b".into(),
        session_present: true,
        ..Connected::default()
    };
    world.drive(|stream, out| stream.reply(Reply::Connected(connected), Timestamp(0), out));
    let notice = Notice::Gap { dropped: 3 };
    world
        .stream
        .notify(&notice, Timestamp(0), &mut world.outbox);
    let reason = CloseReason::new(Cause::TakenOver, "another\none");
    world.stream.close(&reason, &mut world.outbox);
    assert_eq!(
        world.written(),
        "event: connected\ndata: {\"clientId\":\"a\\\"b\",\"sessionPresent\":true}\n\n\
         event: gap\ndata: {\"dropped\":3}\n\n\
         event: close\ndata: {\"reason\":\"taken_over\",\"detail\":\"another\\none\"}\n\n"
    );
}
