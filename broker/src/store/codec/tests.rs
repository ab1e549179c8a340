use std::num::NonZeroU32;

use bytes::Bytes;
use bytestring::ByteString;
use proptest::collection::vec;
use proptest::prelude::*;
use protocols::connection::{Lane, Overlap, RetainHandling, SubscribeRequest};
use protocols::model::{Filter, PayloadFormat, Properties, QoS, SubscriptionFilter, Topic};

use super::super::{
    GroupRecord, QueueId, RetainedProgress, SessionRecord, SubscriptionRecord, WillRecord,
};
use super::arbitrary::{a_message, op};
use super::*;

/// The encodings of [`samples`], which must stay readable. Lines are never changed, only added.
const GOLDEN: &str = include_str!("golden.txt");

fn encoded(ops: &[Op]) -> Vec<u8> {
    let mut out = Vec::new();
    for op in ops {
        encode(op, &mut out);
    }
    out
}

/// Operations are compared by what they print: messages have no equality of their own.
fn printed(ops: &[Op]) -> String {
    format!("{ops:#?}")
}

/// Where a scanned message's body is, and what size it is said to have.
fn body_of(scanned: &Scanned<'_>) -> Option<(Range<usize>, Option<usize>)> {
    match scanned {
        Scanned::Message { body, size, .. } => Some((body.clone(), Some(*size))),
        Scanned::Retain { body, .. } => Some((body.clone(), None)),
        Scanned::Key { .. } | Scanned::Other(_) => None,
    }
}

/// Reads bytes in every way there is; none may panic.
fn read_in_every_way(payload: &[u8]) -> Result<Vec<Op>, Malformed> {
    for record in scan(payload).flatten() {
        assert!(record.range.start < record.range.end && record.range.end <= payload.len());
        if let Some((body, _)) = body_of(&record.what) {
            let _ = message(&payload[body]);
        }
        if let Scanned::Message { receivers, .. } = &record.what {
            assert!(receivers.capacity() * 4 <= payload.len());
        }
    }
    let _ = message(payload);
    decode(payload)
}

proptest! {
    #[test]
    fn operations_come_back(ops in vec(op(), 0..6)) {
        let payload = encoded(&ops);
        let decoded = decode(&payload).unwrap();
        prop_assert_eq!(printed(&decoded), printed(&ops));
        prop_assert_eq!(encoded(&decoded), payload);
    }

    #[test]
    fn records_can_be_copied_one_by_one(ops in vec(op(), 1..6)) {
        let payload = encoded(&ops);
        let mut copies = Vec::new();
        for (record, op) in scan(&payload).zip(&ops) {
            let record = record.unwrap();
            let copy = &payload[record.range];
            copies.extend_from_slice(copy);
            let decoded = decode(copy).unwrap();
            prop_assert_eq!(printed(&decoded), printed(std::slice::from_ref(op)));
        }
        prop_assert_eq!(copies, payload);
    }

    #[test]
    fn a_scan_knows_messages_without_building_them(ops in vec(op(), 1..6)) {
        let payload = encoded(&ops);
        for (record, op) in scan(&payload).zip(&ops) {
            let what = record.unwrap().what;
            let Some((body, said)) = body_of(&what) else { continue };
            let built = message(&payload[body.clone()]).unwrap();
            prop_assert_eq!(said.unwrap_or(built.size()), built.size());
            let expected = match (what, op) {
                (Scanned::Message { receivers, .. }, Op::Message { message, receivers: given }) => {
                    prop_assert_eq!(&receivers, given);
                    let mut again = Vec::new();
                    encode_body(&receivers, &payload[body], &mut again);
                    prop_assert_eq!(again, encoded(std::slice::from_ref(op)));
                    message
                }
                (Scanned::Retain { topic, expires_at, .. }, Op::Retain { message }) => {
                    prop_assert_eq!(topic, message.topic.as_str());
                    prop_assert_eq!(expires_at, message.expires_at);
                    message
                }
                (what, op) => panic!("{what:?} is not {op:?}"),
            };
            prop_assert_eq!(format!("{built:?}"), format!("{expected:?}"));
        }
    }

    #[test]
    fn what_is_read_shares_no_memory_with_the_journal(sent in a_message()) {
        let payload = encoded(&[Op::Retain { message: sent }]);
        let Ok(Op::Retain { message }) = decode(&payload).map(|mut ops| ops.remove(0)) else {
            panic!("not what was written");
        };
        prop_assert!(message.payload.is_empty() || message.payload.is_unique());
    }

    #[test]
    fn any_bytes_are_read_without_harm(payload in vec(any::<u8>(), 0..300)) {
        let _ = read_in_every_way(&payload);
    }

    #[test]
    fn changed_encodings_are_read_without_harm(
        ops in vec(op(), 1..4),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut payload = encoded(&ops);
        let at = at.index(payload.len());
        payload[at] = byte;
        let _ = read_in_every_way(&payload);
        payload.truncate(cut.index(payload.len()));
        let _ = read_in_every_way(&payload);
    }
}

#[test]
fn a_cut_record_is_malformed_wherever_it_is_cut() {
    for (name, payload) in golden() {
        for end in 1..payload.len() {
            assert!(decode(&payload[..end]).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn unknown_operations_and_flags_are_malformed() {
    let what = |payload: &[u8]| decode(payload).map(|_| ()).unwrap_err().what;
    assert_eq!(what(&[0]), "an unknown operation");
    assert_eq!(what(&[16]), "an unknown operation");
    assert_eq!(what(&[11, 1, 2]), "an unknown flag");
    assert_eq!(what(&[13, 3, 3, 1, b'a']), "an unknown QoS");
    assert_eq!(what(&[13, 4, 0x20, 1, b'a', 0x40]), "an unknown flag");
    assert_eq!(what(&[13, 3, 0, 1, b'#']), "a text that is no topic");
    assert_eq!(what(&[14, 1, 0xff]), "text that is not UTF-8");
    assert_eq!(
        what(&[7, 1, 0xc0, 0, 1, 0, 1, b'a']),
        "an unknown retain handling"
    );
}

#[test]
fn an_error_ends_a_scan() {
    let mut scan = scan(&[6, 1, 0, 6, 1]);
    assert!(scan.next().unwrap().is_ok());
    assert!(scan.next().unwrap().is_err());
    assert!(scan.next().is_none());
}

/// The fixture's encodings, each with the name of its operation.
fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, hex) = line.split_once(' ').unwrap();
            let digits = (0..hex.len()).step_by(2);
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (name, digits.map(byte).collect())
        })
        .collect()
}

#[test]
fn the_format_does_not_change_unnoticed() {
    let known = golden();
    let samples = samples();
    for (at, op) in samples.iter().enumerate() {
        let payload = encoded(std::slice::from_ref(op));
        let hex: Vec<String> = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = hex.concat();
        let Some((name, expected)) = known.get(at) else {
            panic!("not in golden.txt: {hex} {op:?}");
        };
        assert_eq!(&payload, expected, "{name} is written otherwise: {hex}");
        let decoded = decode(expected).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            printed(&decoded),
            printed(std::slice::from_ref(op)),
            "{name}"
        );
    }
    assert_eq!(known.len(), samples.len(), "operations were taken away");
}

/// One of each operation, with every field set, and some with none.
fn samples() -> Vec<Op> {
    let topic = |text: &str| Topic::parse(text.into(), 64, 8).unwrap();
    let queue = QueueId {
        owner: 300,
        lane: 2,
    };
    let plain = Receiver {
        queue,
        position: 70_000,
        qos: QoS::AtLeastOnce,
        retain: false,
        attempts: 0,
        matched: [SubscriptionId(2)].into_iter().collect(),
        group: None,
    };
    let rich = Receiver {
        qos: QoS::ExactlyOnce,
        retain: true,
        attempts: 3,
        matched: [SubscriptionId(2), SubscriptionId(900)]
            .into_iter()
            .collect(),
        group: Some((7, 41)),
        ..plain.clone()
    };
    let payload = Bytes::from_static(b"21.5");
    let bare = Arc::new(Message::new(topic("a/b"), payload, QoS::AtLeastOnce, false));
    let mut full = bare.copy();
    full.qos = QoS::ExactlyOnce;
    full.retain = true;
    full.publisher = 1 << 40;
    full.expires_at = Some(Timestamp(1_800_000_000_000));
    full.payload_format = Some(PayloadFormat::Utf8);
    full.properties = Some(Box::new(Properties {
        content_type: Some("text/plain".into()),
        reply_to: Some("r".into()),
        correlation: Some(Bytes::from_static(&[0, 255])),
        user: vec![("k".into(), "v".into()), ("k".into(), "".into())],
    }));
    let full = Arc::new(full);
    let mut sourced = bare.copy();
    sourced.source = Some("{}".into());
    let mut timed = sourced.copy();
    timed.retained_at = Timestamp(1_700_000_000_000);
    let session = SessionRecord {
        number: 300,
        client_id: "sensor".into(),
        user: Some("ada".into()),
        expiry_secs: u32::MAX,
        connected: true,
        ends_at: Some(Timestamp(1)),
        will_at: Some(Timestamp(2)),
        will: Some(WillRecord {
            message: Arc::clone(&bare),
            delay_secs: 30,
            expiry_secs: Some(60),
        }),
        overlap: Overlap::Each,
        window: 20,
        next_position: 70_001,
        next_subscription: 3,
        sent: vec![(0, 69_999), (2, 5)],
        who: None,
    };
    let known = SessionRecord {
        who: Some("{}".into()),
        ..session.clone()
    };
    let empty = SessionRecord {
        user: None,
        connected: false,
        ends_at: None,
        will_at: None,
        will: None,
        overlap: Overlap::Merge,
        sent: Vec::new(),
        ..session.clone()
    };
    let subscription = SubscriptionRecord {
        id: SubscriptionId(2),
        request: SubscribeRequest {
            key: "sub-0".into(),
            filter: SubscriptionFilter::parse("$share/g/a/+".into(), 64, 8).unwrap(),
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
            identifier: NonZeroU32::new(268_435_455),
            lane: Lane::Own { in_flight: 10 },
            auto_settle: true,
            durable: true,
        },
        retained: RetainedProgress::Behind(topic("a/m")),
    };
    let mut simple = subscription.clone();
    simple.request.identifier = None;
    simple.request.lane = Lane::Session;
    simple.retained = RetainedProgress::Wanted;
    let group = |share: Option<&'static str>, filter: &'static str| GroupRecord {
        share: share.map(ByteString::from),
        filter: Filter::parse(filter.into(), 64, 8).unwrap(),
    };
    vec![
        Op::Message {
            message: Arc::clone(&bare),
            receivers: vec![plain.clone()],
        },
        Op::Message {
            message: Arc::clone(&full),
            receivers: vec![plain, rich.clone()],
        },
        Op::Done {
            queue,
            position: 70_000,
        },
        Op::Received {
            queue,
            position: 70_000,
        },
        Op::Move {
            from: QueueId { owner: 7, lane: 0 },
            position: 41,
            to: rich,
        },
        Op::Session(Box::new(session)),
        Op::Session(Box::new(empty)),
        Op::Session(Box::new(known)),
        Op::SessionEnd { number: 300 },
        Op::Subscription {
            number: 300,
            record: Box::new(subscription),
        },
        Op::Subscription {
            number: 300,
            record: Box::new(simple),
        },
        Op::SubscriptionEnd {
            number: 300,
            id: SubscriptionId(2),
        },
        Op::Accepted {
            number: 300,
            packet_id: 65_535,
        },
        Op::Released {
            number: 300,
            packet_id: 65_535,
        },
        Op::Group {
            number: 7,
            record: group(Some("g"), "a/+"),
        },
        Op::Group {
            number: 8,
            record: group(None, "$queue/jobs"),
        },
        Op::GroupEnd { number: 7 },
        Op::Retain { message: full },
        Op::Retain { message: bare },
        Op::Retain {
            message: Arc::new(sourced),
        },
        Op::Retain {
            message: Arc::new(timed),
        },
        Op::Unretain {
            topic: "a/b".into(),
        },
        Op::Key {
            key: "order-1".into(),
            answer: 2,
            until: Timestamp(1_800_000_000_000),
        },
    ]
}

/// Prints what the codec costs: `cargo test --release -p broker -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement"]
fn measure() {
    let Op::Message { message, receivers } = samples().remove(0) else {
        panic!("the first sample")
    };
    let mut sent = message.copy();
    sent.payload = Bytes::from_static(&[b'x'; 128]);
    let op = Op::Message {
        message: Arc::new(sent),
        receivers,
    };
    let mut payload = Vec::with_capacity(200_000_000);
    let timed = |what: &str, since: std::time::Instant| {
        println!("{what}: {} ns each", since.elapsed().as_millis());
    };
    let since = std::time::Instant::now();
    for _ in 0..1_000_000 {
        encode(&op, &mut payload);
    }
    timed("encode", since);
    println!("{} bytes each", payload.len() / 1_000_000);
    let since = std::time::Instant::now();
    assert_eq!(scan(&payload).flatten().count(), 1_000_000);
    timed("scan", since);
    let since = std::time::Instant::now();
    assert_eq!(decode(&payload).unwrap().len(), 1_000_000);
    timed("decode", since);
}
