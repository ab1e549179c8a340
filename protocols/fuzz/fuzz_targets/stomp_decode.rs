//! No bytes make the STOMP decoder or a connection panic, and what was decoded is decoded again
//! after it was encoded.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use protocols::connection::{Connected, Open, Output, Protocol, Reply};
use protocols::model::Timestamp;
use protocols::stomp::{Bounds, Decoded, Decoder, FrameWriter, Stomp, Version};
use protocols::{Limits, Outbox};

fuzz_target!(|input: &[u8]| {
    let limits = Limits::default();
    for version in Version::ALL {
        decode(version, input, &Bounds::after_login(&limits));
    }
    connection(input, limits);
});

fn decode(version: Version, input: &[u8], bounds: &Bounds) {
    let mut decoder = Decoder::with_version(version);
    let mut start = 0;
    loop {
        match decoder.decode(&input[start..], bounds) {
            Ok(Decoded::HeartBeats(length)) => start += length,
            Ok(Decoded::Frame(frame)) => {
                start += frame.raw().len();
                if frame.header("content-length").is_some() {
                    continue;
                }
                let mut writer = FrameWriter::new(frame.command(), Some(version));
                for (name, value) in frame.headers() {
                    writer = writer.header(&name, &value);
                }
                let again = writer.body(frame.body());
                let bounds = Bounds {
                    frame_bytes: usize::MAX,
                    headers: usize::MAX,
                    line_bytes: usize::MAX,
                    head_bytes: usize::MAX,
                };
                let read = Decoder::with_version(version).decode(&again, &bounds).map(
                    |read| matches!(read, Decoded::Frame(read) if read.body() == frame.body()),
                );
                assert_eq!(read, Ok(true));
            }
            Ok(Decoded::Incomplete) | Err(_) => return,
        }
    }
}

fn connection(input: &[u8], limits: Limits) {
    let mut connection = Stomp.open(Open {
        subprotocol: None,
        connection_id: "c".into(),
        limits: Arc::new(limits),
        now: Timestamp(0),
    });
    let (mut outbox, mut commands, mut close) = (Outbox::new(), Vec::new(), None);
    let mut out = Output {
        outbox: &mut outbox,
        commands: &mut commands,
        close: &mut close,
    };
    let login = b"CONNECT\naccept-version:1.2\n\n\0";
    connection.receive(login, Timestamp(0), &mut out);
    let connected = Reply::Connected(Connected::default());
    connection.reply(connected, Timestamp(0), &mut out);
    connection.receive(input, Timestamp(0), &mut out);
}
