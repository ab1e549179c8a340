//! Any bytes as frames of the JSON subprotocol, one a line: nothing panics, what is read and
//! written again is the same, and all that the server writes is JSON that its client reads.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use protocols::connection::{Command, Connected, Delivery, Open, Output, Protocol, Reply};
use protocols::json::client::ServerFrame;
use protocols::json::{ClientFrame, Json};
use protocols::limits::Limits;
use protocols::model::{QoS, Timestamp};
use protocols::outbox::Outbox;

fuzz_target!(|input: &[u8]| {
    let limits = Arc::new(Limits::default());
    let now = Timestamp(1_000_000);
    let mut connection = Json.open(Open {
        subprotocol: None,
        connection_id: "c".into(),
        limits: Arc::clone(&limits),
        now,
    });
    let (mut outbox, mut close) = (Outbox::new(), None);
    for line in input.split(|byte| *byte == b'\n') {
        if let Ok(text) = std::str::from_utf8(line) {
            round_trip(text, &limits);
            let _ = ServerFrame::parse(text);
        }
        let mut commands = Vec::new();
        let mut out = Output {
            outbox: &mut outbox,
            commands: &mut commands,
            close: &mut close,
        };
        assert_eq!(connection.receive(line, now, &mut out), line.len());
        for command in commands {
            match command {
                Command::Connect(_) => {
                    let mut further = Vec::new();
                    let mut out = Output {
                        outbox: &mut outbox,
                        commands: &mut further,
                        close: &mut close,
                    };
                    let connected = Connected::default();
                    connection.reply(Reply::Connected(connected), now, &mut out);
                }
                Command::Publish(publish) => {
                    let delivery = Delivery {
                        message: &publish.message,
                        qos: QoS::AtLeastOnce,
                        retain: false,
                        position: Some(1),
                        attempts: 0,
                        matched: &[],
                    };
                    let _ = connection.deliver(&delivery, now, &mut outbox);
                    // Written in another way, if nobody else is to get it.
                    publish.message.set_for_one();
                    let _ = connection.deliver(&delivery, now, &mut outbox);
                }
                _ => {}
            }
        }
    }
    let written: Vec<u8> = outbox.take().into_iter().flatten().collect();
    for frame in serde_json::Deserializer::from_slice(&written).into_iter() {
        let frame: Box<serde_json::value::RawValue> = frame.expect("the server writes JSON");
        ServerFrame::parse(frame.get()).expect("a client reads what the server writes");
    }
});

fn round_trip(text: &str, limits: &Limits) {
    if let Ok(frame) = ClientFrame::parse(text, limits) {
        let written = frame.to_json();
        assert_eq!(ClientFrame::parse(&written, limits), Ok(frame), "{written}");
    }
}
