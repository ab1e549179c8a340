//! The WebSocket decoder from the outside: a client's frames in, events out.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use proptest::prelude::*;
use protocols::connection::{Cause, CloseReason, WebSocketUse};
use protocols::limits::Limits;
use protocols::model::Timestamp;
use protocols::outbox::FrameType;
use protocols::websocket::{Accepts, Config, Decoder, Event};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

const WHOLE: Config = Config {
    whole: true,
    accepts: Accepts::Both,
    deflate: false,
    message_bytes: 1000,
    fragments: 8,
    controls_per_sec: 5,
};

const STREAM: Config = Config {
    whole: false,
    ..WHOLE
};

/// An event with bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Data(FrameType, Vec<u8>, bool),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Fault(Cause),
}

fn see(event: Result<Event<'_>, CloseReason>) -> Seen {
    match event {
        Ok(Event::Data { kind, bytes, last }) => Seen::Data(kind, bytes.to_vec(), last),
        Ok(Event::Ping(bytes)) => Seen::Ping(bytes.to_vec()),
        Ok(Event::Pong(bytes)) => Seen::Pong(bytes.to_vec()),
        Ok(Event::Close { code, reason }) => Seen::Close(code, reason.to_owned()),
        Err(fault) => Seen::Fault(fault.cause),
    }
}

fn feed(decoder: &mut Decoder, bytes: &[u8], now: Timestamp) -> Vec<Seen> {
    let mut bytes = bytes.to_vec();
    let mut input = &mut bytes[..];
    let mut seen = Vec::new();
    while let Some(event) = decoder.decode(&mut input, now).transpose() {
        seen.push(see(event));
    }
    assert!(input.is_empty(), "all input is taken");
    seen
}

fn decode(config: Config, pieces: &[&[u8]]) -> Vec<Seen> {
    let mut decoder = Decoder::new(config);
    pieces
        .iter()
        .flat_map(|piece| feed(&mut decoder, piece, Timestamp(0)))
        .collect()
}

/// Events of a stream, with the pieces of each message put together.
fn joined(events: Vec<Seen>) -> Vec<Seen> {
    let mut joined = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for event in events {
        match event {
            Seen::Data(kind, bytes, last) => {
                let mut message = open.take().unwrap_or_default();
                message.extend(bytes);
                if last {
                    joined.push(Seen::Data(kind, message, true));
                } else {
                    open = Some(message);
                }
            }
            other => joined.push(other),
        }
    }
    joined
}

/// A masked frame, as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let length = (payload.len() as u64).to_be_bytes();
    let mut bytes = vec![first];
    match payload.len() {
        0..=125 => bytes.push(0x80 | length[7]),
        126..=0xffff => {
            bytes.push(0xfe);
            bytes.extend(&length[6..]);
        }
        _ => {
            bytes.push(0xff);
            bytes.extend(length);
        }
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

fn text(payload: &str) -> Seen {
    Seen::Data(FrameType::Text, payload.as_bytes().to_vec(), true)
}

fn binary(payload: &[u8]) -> Seen {
    Seen::Data(FrameType::Binary, payload.to_vec(), true)
}

fn fault(cause: Cause) -> Vec<Seen> {
    vec![Seen::Fault(cause)]
}

/// RFC 6455 §5.7: "Hello" masked, whole and in two fragments with a ping between them.
#[test]
fn example_frames() {
    let hello = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(decode(WHOLE, &[&hello]), [text("Hello")]);
    let fragments = [
        frame(TEXT, b"Hel"),
        frame(FIN | PING, b"you?"),
        frame(FIN, b"lo"),
    ]
    .concat();
    assert_eq!(
        decode(WHOLE, &[&fragments]),
        [Seen::Ping(b"you?".to_vec()), text("Hello")]
    );
    assert_eq!(
        decode(STREAM, &[&fragments]),
        [
            Seen::Data(FrameType::Text, b"Hel".to_vec(), false),
            Seen::Ping(b"you?".to_vec()),
            Seen::Data(FrameType::Text, b"lo".to_vec(), true),
        ]
    );
}

#[test]
fn a_stream_hands_on_what_arrives() {
    let bytes = frame(FIN | BINARY, b"abcdef");
    assert_eq!(
        decode(STREAM, &[&bytes[..8], &bytes[8..]]),
        [
            Seen::Data(FrameType::Binary, b"ab".to_vec(), false),
            Seen::Data(FrameType::Binary, b"cdef".to_vec(), true),
        ]
    );
}

#[test]
fn protocols_choose_the_types_they_take() {
    let limits = Limits::default();
    let config = |usage| Config::new(usage, &limits, false);
    let (text_frame, binary_frame) = (frame(FIN | TEXT, b"{}"), frame(FIN | BINARY, b"\x10"));
    for (usage, on_text, on_binary) in [
        (WebSocketUse::BinaryStream, Err(()), Ok(())),
        (WebSocketUse::FramedStream, Ok(()), Ok(())),
        (WebSocketUse::TextMessages, Ok(()), Err(())),
    ] {
        let wrong = fault(Cause::WrongType);
        let got = decode(config(usage), &[&text_frame]);
        assert_eq!(got == wrong, on_text.is_err(), "{usage:?} {got:?}");
        let got = decode(config(usage), &[&binary_frame]);
        assert_eq!(got == wrong, on_binary.is_err(), "{usage:?} {got:?}");
    }
}

/// S13: each hostile frame, its close code's cause, and nothing after it.
#[test]
fn hostile_frames_have_their_answers() {
    let long = |length: u64| [&[FIN | BINARY, 0xff][..], &length.to_be_bytes()].concat();
    let masked = |mut bytes: Vec<u8>| {
        bytes.extend([0; 4]);
        bytes
    };
    for (name, bytes, cause) in [
        ("top bit", masked(long(1 << 63)), Cause::ProtocolError),
        ("all bits", masked(long(u64::MAX)), Cause::ProtocolError),
        ("2^62", masked(long(1 << 62)), Cause::TooLarge),
        (
            "one too many",
            frame(FIN | BINARY, &[0; 1001]),
            Cause::TooLarge,
        ),
        (
            "unmasked",
            vec![0x81, 0x02, b'h', b'i'],
            Cause::ProtocolError,
        ),
        ("RSV1", frame(FIN | RSV1 | TEXT, b""), Cause::ProtocolError),
        ("RSV2", frame(FIN | 0x20 | TEXT, b""), Cause::ProtocolError),
        ("RSV3", frame(FIN | 0x10 | TEXT, b""), Cause::ProtocolError),
        ("opcode 3", frame(FIN | 3, b""), Cause::ProtocolError),
        ("opcode 11", frame(FIN | 0xb, b""), Cause::ProtocolError),
        ("fragmented ping", frame(PING, b""), Cause::ProtocolError),
        (
            "long ping",
            frame(FIN | PING, &[0; 126]),
            Cause::ProtocolError,
        ),
        ("lone continuation", frame(FIN, b""), Cause::ProtocolError),
        (
            "message inside a message",
            [frame(TEXT, b""), frame(FIN | TEXT, b"")].concat(),
            Cause::ProtocolError,
        ),
        (
            "fragments that grow too large",
            [frame(BINARY, &[0; 600]), frame(FIN, &[0; 401])].concat(),
            Cause::TooLarge,
        ),
        (
            "too many fragments",
            [frame(BINARY, b""), frame(0, b"").repeat(8)].concat(),
            Cause::TooLarge,
        ),
        (
            "close with one byte",
            frame(FIN | CLOSE, b"\x03"),
            Cause::ProtocolError,
        ),
        (
            "close 1005",
            frame(FIN | CLOSE, b"\x03\xed"),
            Cause::ProtocolError,
        ),
        (
            "close reason",
            frame(FIN | CLOSE, b"\x03\xe8\xce"),
            Cause::NotUtf8,
        ),
        ("text", frame(FIN | TEXT, b"\xff"), Cause::NotUtf8),
        ("open character", frame(FIN | TEXT, b"\xce"), Cause::NotUtf8),
        (
            "bad text, unfinished",
            frame(TEXT, b"\xce\xba\xed\xa0"),
            Cause::NotUtf8,
        ),
    ] {
        let bytes = [bytes, frame(FIN | TEXT, b"later")].concat();
        assert_eq!(decode(WHOLE, &[&bytes]), fault(cause), "{name}");
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(WHOLE, &single), fault(cause), "{name}, byte by byte");
    }
}

#[test]
fn the_largest_message_is_taken() {
    let at_once = frame(FIN | BINARY, &[7; 1000]);
    assert_eq!(decode(WHOLE, &[&at_once]), [binary(&[7; 1000])]);
    let fragments = [frame(BINARY, &[7; 600]), frame(FIN, &[7; 400])].concat();
    assert_eq!(decode(WHOLE, &[&fragments]), [binary(&[7; 1000])]);
}

#[test]
fn the_bound_changes_with_the_login() {
    let mut decoder = Decoder::new(WHOLE);
    decoder.set_message_bytes(2000);
    let seen = feed(&mut decoder, &frame(FIN | BINARY, &[7; 1001]), Timestamp(0));
    assert_eq!(seen, [binary(&[7; 1001])]);
}

#[test]
fn text_fails_before_its_frame_is_complete() {
    let bytes = frame(FIN | TEXT, b"\xf4\x90 and more");
    assert_eq!(decode(STREAM, &[&bytes[..8]]), fault(Cause::NotUtf8));
    assert_eq!(decode(WHOLE, &[&bytes[..8]]), fault(Cause::NotUtf8));
}

#[test]
fn a_character_may_be_split_between_fragments() {
    let bytes = [frame(TEXT, b"\xce"), frame(0, b""), frame(FIN, b"\xba")].concat();
    assert_eq!(decode(WHOLE, &[&bytes]), [text("κ")]);
}

#[test]
fn nothing_is_heard_after_a_close() {
    let bytes = [frame(FIN | CLOSE, b"\x03\xe8bye"), frame(FIN | PING, b"")].concat();
    assert_eq!(
        decode(WHOLE, &[&bytes]),
        [Seen::Close(Some(1000), "bye".into())]
    );
    let mut decoder = Decoder::new(WHOLE);
    assert!(!decoder.is_closed());
    feed(&mut decoder, &frame(FIN | CLOSE, b""), Timestamp(0));
    assert!(decoder.is_closed());
    assert_eq!(feed(&mut decoder, b"anything", Timestamp(0)), []);
}

#[test]
fn control_frames_are_counted_by_the_second() {
    let mut decoder = Decoder::new(WHOLE);
    let five = [
        frame(FIN | PING, b"").repeat(2),
        frame(FIN | PONG, b"").repeat(3),
    ]
    .concat();
    assert_eq!(feed(&mut decoder, &five, Timestamp(10_000)).len(), 5);
    assert_eq!(feed(&mut decoder, &five, Timestamp(11_000)).len(), 5);
    let seen = feed(&mut decoder, &five, Timestamp(11_999));
    assert_eq!(seen, fault(Cause::Rate));
}

/// S15, the part without the extension: RSV1 is refused before anything is inflated.
#[test]
fn a_bomb_without_the_extension_is_a_reserved_bit() {
    let bomb = frame(FIN | RSV1 | BINARY, &[0; 500]);
    assert_eq!(decode(WHOLE, &[&bomb]), fault(Cause::ProtocolError));
}

const DEFLATE: Config = Config {
    deflate: true,
    ..WHOLE
};

/// "Hello" of RFC 7692 §7.2.3.1.
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

#[test]
fn compressed_messages_are_inflated() {
    let whole = frame(FIN | RSV1 | TEXT, &HELLO);
    let fragments = [
        frame(RSV1 | TEXT, &HELLO[..3]),
        frame(FIN | PING, b""),
        frame(FIN, &HELLO[3..]),
        frame(FIN | TEXT, b"plain"),
    ]
    .concat();
    for config in [
        DEFLATE,
        Config {
            whole: false,
            ..DEFLATE
        },
    ] {
        assert_eq!(
            decode(config, &[&whole, &whole]),
            [text("Hello"), text("Hello")]
        );
        let expected = [Seen::Ping(Vec::new()), text("Hello"), text("plain")];
        assert_eq!(decode(config, &[&fragments]), expected);
    }
}

/// S15: inflated into a bounded buffer, 1009 beyond it.
#[test]
fn a_bomb_is_too_large() {
    for (length, expected) in [
        (1000, binary(&[0; 1000])),
        (1001, Seen::Fault(Cause::TooLarge)),
        (300_000, Seen::Fault(Cause::TooLarge)),
    ] {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; length]).unwrap();
        let wire = encoder.finish().unwrap();
        assert!(wire.len() < 1000);
        let bomb = frame(FIN | RSV1 | BINARY, &wire);
        assert_eq!(decode(DEFLATE, &[&bomb]), [expected]);
    }
}

#[test]
fn what_is_wrong_inside_a_compressed_message() {
    let not_utf8 = [0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00];
    let seen = decode(DEFLATE, &[&frame(FIN | RSV1 | TEXT, &not_utf8)]);
    assert_eq!(seen, fault(Cause::NotUtf8));
    let seen = decode(DEFLATE, &[&frame(FIN | RSV1 | TEXT, b"\x07\xff")]);
    assert_eq!(seen, fault(Cause::Malformed));
    let seen = decode(
        DEFLATE,
        &[&[frame(RSV1 | TEXT, b""), frame(FIN | RSV1, b"")].concat()],
    );
    assert_eq!(seen, fault(Cause::ProtocolError));
    let seen = decode(DEFLATE, &[&frame(FIN | RSV1 | PING, b"")]);
    assert_eq!(seen, fault(Cause::ProtocolError));
}

/// One thing that a client sends, with how it is cut into frames.
#[derive(Clone, Debug)]
enum Sent {
    Text(String, Vec<prop::sample::Index>),
    Binary(Vec<u8>, Vec<prop::sample::Index>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

impl Sent {
    fn any() -> impl Strategy<Value = Self> {
        let cuts = || prop::collection::vec(any::<prop::sample::Index>(), 0..4);
        let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
        prop_oneof![
            (".{0,40}", cuts()).prop_map(|(text, cuts)| Self::Text(text, cuts)),
            (bytes(300), cuts()).prop_map(|(bytes, cuts)| Self::Binary(bytes, cuts)),
            bytes(126).prop_map(Self::Ping),
            bytes(126).prop_map(Self::Pong),
        ]
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Text(text, cuts) => fragments(TEXT, text.as_bytes(), cuts),
            Self::Binary(bytes, cuts) => fragments(BINARY, bytes, cuts),
            Self::Ping(bytes) => frame(FIN | PING, bytes),
            Self::Pong(bytes) => frame(FIN | PONG, bytes),
        }
    }

    fn expected(&self) -> Seen {
        match self {
            Self::Text(sent, _) => text(sent),
            Self::Binary(sent, _) => binary(sent),
            Self::Ping(sent) => Seen::Ping(sent.clone()),
            Self::Pong(sent) => Seen::Pong(sent.clone()),
        }
    }
}

fn fragments(opcode: u8, payload: &[u8], cuts: &[prop::sample::Index]) -> Vec<u8> {
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| cut.index(payload.len() + 1))
        .collect();
    cuts.sort_unstable();
    let mut bytes = Vec::new();
    let (mut opcode, mut from) = (opcode, 0);
    for cut in cuts {
        bytes.extend(frame(opcode, &payload[from..cut]));
        (opcode, from) = (0, cut);
    }
    bytes.extend(frame(FIN | opcode, &payload[from..]));
    bytes
}

fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        pieces.push(piece.to_vec());
        rest = behind;
    }
    pieces
}

fn decode_cut(config: Config, bytes: &[u8], sizes: &[usize]) -> Vec<Seen> {
    let pieces = cut(bytes, sizes);
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    joined(decode(config, &pieces))
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..40, 1..6)
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_however_it_is_split(
        sent in prop::collection::vec(Sent::any(), 0..6), sizes in sizes(),
        whole: bool, deflate: bool,
    ) {
        let config = Config { whole, deflate, controls_per_sec: 100, ..WHOLE };
        let bytes: Vec<u8> = sent.iter().flat_map(Sent::encode).collect();
        let expected: Vec<Seen> = sent.iter().map(Sent::expected).collect();
        prop_assert_eq!(&joined(decode(config, &[&bytes])), &expected);
        prop_assert_eq!(&decode_cut(config, &bytes, &sizes), &expected);
    }

    #[test]
    fn damaged_frames_end_alike_however_they_are_split(
        sent in prop::collection::vec(Sent::any(), 1..5), sizes in sizes(),
        at: prop::sample::Index, byte: u8, whole: bool, deflate: bool,
    ) {
        let config = Config { whole, deflate, ..WHOLE };
        let mut bytes: Vec<u8> = sent.iter().flat_map(Sent::encode).collect();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        prop_assert_eq!(joined(decode(config, &[&bytes])), decode_cut(config, &bytes, &sizes));
    }

    #[test]
    fn noise_does_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..400), sizes in sizes(),
        whole: bool, deflate: bool,
    ) {
        let config = Config { whole, deflate, ..WHOLE };
        prop_assert_eq!(joined(decode(config, &[&bytes])), decode_cut(config, &bytes, &sizes));
    }
}
