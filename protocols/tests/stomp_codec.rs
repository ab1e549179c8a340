//! Properties of the STOMP codec: what is written is read again, however the stream is cut, and
//! no bytes make it panic.

mod stomp_support;

use std::path::Path;

use proptest::prelude::*;
use protocols::stomp::{Bounds, DecodeError, Decoded, Decoder, FrameWriter, Version};
use protocols::{Limits, Outbox};
use stomp_support::Peer;

type Frame = (String, Vec<(String, String)>, Vec<u8>);

fn bounds() -> Bounds {
    Bounds::after_login(&Limits::default())
}

/// All frames of a stream that comes in pieces of these sizes, and how it ended.
fn decode(
    version: Version,
    stream: &[u8],
    pieces: &[usize],
) -> (Vec<Frame>, Result<usize, DecodeError>) {
    let mut decoder = Decoder::with_version(version);
    let (mut frames, mut start, mut end) = (Vec::new(), 0, 0);
    let mut pieces = pieces.iter().copied().chain([stream.len()]);
    loop {
        match decoder.decode(&stream[start..end], &bounds()) {
            Err(error) => return (frames, Err(error)),
            Ok(Decoded::HeartBeats(length)) => start += length,
            Ok(Decoded::Frame(frame)) => {
                start += frame.raw().len();
                let headers = frame
                    .headers()
                    .map(|(name, value)| (name.into_owned(), value.into_owned()))
                    .collect();
                frames.push((frame.command().to_owned(), headers, frame.body().to_vec()));
            }
            Ok(Decoded::Incomplete) => match pieces.next() {
                Some(more) => end = (end + more).min(stream.len()),
                None => return (frames, Ok(stream.len() - start)),
            },
        }
    }
}

fn encode(version: Version, (command, headers, body): &Frame) -> Vec<u8> {
    headers
        .iter()
        .fold(
            FrameWriter::new(command, Some(version)),
            |frame, (name, value)| frame.header(name, value),
        )
        .body(body)
}

/// Texts that the version can say.
fn text(version: Version) -> &'static str {
    match version {
        Version::V1_0 => "[a-zäß\\\\/.-]{1,12}",
        Version::V1_1 => "[a-zä \n:\\\\]{1,12}",
        Version::V1_2 => "[a-zä \r\n:\\\\]{1,12}",
    }
}

fn frame(version: Version) -> impl Strategy<Value = Frame> {
    (
        prop_oneof![Just("SEND".to_owned()), Just("MESSAGE".to_owned())],
        prop::collection::vec((text(version), text(version)), 0..6),
        prop::collection::vec(any::<u8>(), 0..64),
    )
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(&Version::ALL[..])
}

fn frames() -> impl Strategy<Value = (Version, Vec<Frame>)> {
    version().prop_flat_map(|version| (Just(version), prop::collection::vec(frame(version), 1..4)))
}

/// Bytes that look like STOMP often enough to get far.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"SEND\n".to_vec()),
        Just(b"CONNECT\naccept-version:1.2\n\n\0".to_vec()),
        Just(b"SUBSCRIBE\nid:1\ndestination:/topic/a\nack:client\n\n\0".to_vec()),
        Just(b"ACK\nid:1-0\n\n\0".to_vec()),
        Just(b"BEGIN\ntransaction:t\n\n\0".to_vec()),
        Just(b"COMMIT\ntransaction:t\n\n\0".to_vec()),
        Just(b"destination:/temp-queue/a\n".to_vec()),
        Just(b"reply-to:/temp-queue/a\n".to_vec()),
        Just(b"content-length:3\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\0".to_vec()),
        Just(b"a\\n:\\c\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn what_is_written_is_read_again((version, frames) in frames()) {
        let stream: Vec<u8> = frames.iter().flat_map(|frame| encode(version, frame)).collect();
        let (read, end) = decode(version, &stream, &[]);
        let with_length = frames.into_iter().map(|(command, mut headers, body)| {
            headers.push(("content-length".to_owned(), body.len().to_string()));
            (command, headers, body)
        });
        prop_assert_eq!(read, with_length.collect::<Vec<_>>());
        prop_assert_eq!(end, Ok(0));
    }

    #[test]
    fn any_cut_gives_the_same_frames(
        (version, frames) in frames(),
        pieces in prop::collection::vec(1_usize..20, 0..40),
        noise in hostile(),
    ) {
        let mut stream: Vec<u8> = frames.iter().flat_map(|frame| encode(version, frame)).collect();
        stream.extend_from_slice(b"\r\n\n");
        stream.extend(noise);
        let whole = decode(version, &stream, &[]);
        prop_assert_eq!(&decode(version, &stream, &pieces), &whole);
        prop_assert_eq!(&decode(version, &stream, &vec![1; stream.len()]), &whole);
    }

    #[test]
    fn no_bytes_make_it_panic(version in version(), stream in hostile()) {
        let _ = decode(version, &stream, &[]);
    }

    #[test]
    fn no_text_writes_more_than_its_header(version in version(), name in ".{1,20}", value in ".*") {
        let frame = FrameWriter::new("MESSAGE", Some(version)).header(&name, &value).body(b"x");
        let (read, end) = decode(version, &frame, &[]);
        prop_assert_eq!(end, Ok(0));
        prop_assert_eq!(read.len(), 1);
        prop_assert_eq!(read[0].1.len(), 2, "the header and content-length");
    }

    #[test]
    fn no_input_makes_a_connection_panic(stream in hostile(), logged_in: bool) {
        let mut peer = if logged_in { Peer::connected("1.2") } else { Peer::new() };
        peer.send_bytes(&stream);
        peer.pass(60_000);
        let mut outbox = Outbox::new();
        let reason = protocols::connection::CloseReason::new(
            protocols::connection::Cause::Shutdown,
            "",
        );
        peer.connection.close(&reason, &mut outbox);
    }
}

/// The kept corpus of the fuzz target runs as a test as well.
#[test]
fn the_corpus_is_decoded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/stomp_decode");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let stream = std::fs::read(entry.unwrap().path()).unwrap();
        for version in Version::ALL {
            let whole = decode(version, &stream, &[]);
            assert_eq!(decode(version, &stream, &vec![1; stream.len()]), whole);
        }
        files += 1;
    }
    assert!(files > 0);
}
