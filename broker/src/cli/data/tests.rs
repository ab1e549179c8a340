use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use protocols::model::{Filter, Message, QoS, Timestamp};

use super::import::import;
use super::kept::Kept;
use super::{export_to, import_from, open, report, stats, verify};
use crate::clock::Clock;
use crate::store::{GroupRecord, Op, Store, Unit, Urgency, arbitrary, inspect};

prop_compose! {
    /// A session with what is its, but without its number.
    fn owned()(
        record in arbitrary::a_session(),
        subscriptions in vec(arbitrary::a_subscription(), 0..3),
        accepted in btree_set(any::<u16>(), 0..3),
        entries in vec((arbitrary::a_message(), arbitrary::a_receiver(), any::<bool>()), 0..6),
    ) -> Vec<Op> {
        let mut ops = vec![Op::Session(Box::new(record))];
        ops.extend(subscriptions.into_iter().map(|record| Op::Subscription {
            number: 0,
            record: Box::new(record),
        }));
        ops.extend(accepted.into_iter().map(|packet_id| Op::Accepted { number: 0, packet_id }));
        for (message, receiver, received) in entries {
            let (queue, position) = (receiver.queue, receiver.position);
            ops.push(Op::Message { message, receivers: vec![receiver] });
            if received {
                ops.push(Op::Received { queue, position });
            }
        }
        ops
    }
}

/// Gives everything of a session its number.
fn number(ops: &mut [Op], owner: u64) {
    for op in ops {
        match op {
            Op::Session(record) => record.number = owner,
            Op::Subscription { number, .. } | Op::Accepted { number, .. } => *number = owner,
            Op::Message { receivers, .. } => receivers[0].queue.owner = owner,
            Op::Received { queue, .. } => queue.owner = owner,
            _ => {}
        }
    }
}

prop_compose! {
    /// Everything that a store can hold.
    fn contents()(
        sessions in vec(owned(), 0..4),
        filter in arbitrary::filter(),
        share in prop::option::of(arbitrary::text()),
        retained in vec(arbitrary::a_message(), 0..3),
        keys in btree_map(arbitrary::text().prop_map(|text| text.to_string()), any::<(u32, u64)>(), 0..3),
        gone in 0..3_u64,
    ) -> Vec<Op> {
        let mut ops = Vec::new();
        for (owner, mut theirs) in (1..).zip(sessions) {
            number(&mut theirs, owner);
            ops.extend(theirs);
        }
        let record = GroupRecord { share, filter: Filter::parse(filter.into(), 64, 8).unwrap() };
        ops.push(Op::Group { number: 100, record });
        let topics: BTreeMap<_, _> = retained.into_iter().map(|m| (m.topic.clone(), m)).collect();
        ops.extend(topics.into_values().map(|message| Op::Retain { message }));
        ops.extend(keys.into_iter().map(|(key, (answer, until))| Op::Key {
            key: key.into(),
            answer,
            until: Timestamp(until),
        }));
        ops.push(Op::SessionEnd { number: 100 + gone });
        ops
    }
}

proptest! {
    #[test]
    fn what_is_exported_can_be_imported(ops in contents()) {
        let first = Kept::with(ops);
        let lines = first.exported();
        let second = Kept::default();
        let count = import(&second, lines.as_bytes()).unwrap();
        prop_assert_eq!(count, lines.lines().count() as u64);
        prop_assert_eq!(second.exported(), lines);
        let mut expected = first.recovered();
        expected.retained.sort_by(|a, b| a.topic.cmp(&b.topic));
        expected.keys.sort();
        prop_assert_eq!(format!("{:?}", second.recovered()), format!("{expected:?}"));
    }

    #[test]
    fn any_lines_are_read_without_harm(text in "(\\{\"kind\":\"[a-z]{0,8}\"[ -~]{0,30}\n){0,3}") {
        let _ = import(&Kept::default(), text.as_bytes());
    }
}

const HEAD: &str = "{\"kind\":\"export\",\"version\":1,\"nextNumber\":9}\n";

fn refused(lines: &str) -> String {
    let text = if lines.contains("\"export\"") {
        lines.to_owned()
    } else {
        format!("{HEAD}{lines}\n")
    };
    let error = import(&Kept::default(), text.as_bytes()).unwrap_err();
    format!("{error:#}")
}

#[test]
fn mistakes_are_named_with_their_line() {
    let message = "\"message\":{\"topic\":\"a\",\"body\":{\"text\":\"x\"},\"qos\":1,\"retain\":true,\"publisher\":0}";
    let entry = "\"lane\":0,\"position\":1,\"qos\":1,\"retain\":false";
    for (lines, expected) in [
        (
            "{\"kind\":\"export\",\"version\":2,\"nextNumber\":1}",
            "line 1: the lines are of version 2",
        ),
        (
            "{\"kind\":\"accepted\",\"session\":1,\"packetId\":1}",
            "line 2: there is no line of session 1",
        ),
        (
            "{\"kind\":\"nothing\"}",
            "line 2: unknown variant `nothing`",
        ),
        ("nothing", "line 2: expected"),
        (
            &format!("{{\"kind\":\"entry\",\"owner\":3,{entry},{message}}}"),
            "line 2: there is no line of session or group 3",
        ),
        (
            &format!(
                "{{\"kind\":\"retained\",{}}}",
                message.replace("\"a\"", "\"a/#\"")
            ),
            "line 2: topic \"a/#\": a topic to publish to",
        ),
        (
            &format!(
                "{{\"kind\":\"retained\",{}}}",
                message.replace("text", "base64")
            ),
            "line 2: base64: ",
        ),
        (
            &format!("{{\"kind\":\"retained\",{}}}", message.replace(":1", ":7")),
            "line 2: qos: there is no level 7",
        ),
        (
            &format!("{{\"kind\":\"retained\",\"more\":1,{message}}}"),
            "line 2: unknown field `more`",
        ),
        (
            "{\"kind\":\"group\",\"number\":2,\"filter\":\"a\"}\n\n{\"kind\":\"group\",\"number\":2,\"filter\":\"b\"}",
            "line 4: the number 2 is there twice",
        ),
        (HEAD.repeat(2).as_str(), "line 2: a second export begins"),
    ] {
        let error = refused(lines);
        assert!(error.starts_with(expected), "{lines}\n{error}");
    }
    let without = import(
        &Kept::default(),
        &b"{\"kind\":\"accepted\",\"session\":1,\"packetId\":1}"[..],
    );
    assert!(format!("{:#}", without.unwrap_err()).starts_with("line 1: an export begins"));
    let nothing = import(&Kept::default(), &b"\n"[..]).unwrap_err();
    assert_eq!(nothing.to_string(), "there are no lines");
}

#[test]
fn a_full_store_is_said() {
    let full = Kept::default();
    full.0.lock().full = true;
    let error = import(&full, HEAD.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "the disk is full");
}

#[test]
fn bodies_are_text_where_they_can_be() {
    let topic = protocols::model::Topic::parse("a".into(), 64, 8).unwrap();
    let line = |body: &'static [u8]| {
        let message = Message::new(topic.clone(), body.into(), QoS::AtMostOnce, false);
        let line = super::convert::message_line(&message);
        serde_json::to_value(line).unwrap()["body"].to_string()
    };
    assert_eq!(line("ä\n".as_bytes()), "{\"text\":\"ä\\n\"}");
    assert_eq!(line(&[0xff, 0]), "{\"base64\":\"/wA=\"}");
}

/// A data directory with the lines that went in.
fn filled(root: &Path) -> (PathBuf, String) {
    let message = |body: &str, expires: &str| {
        format!(
            "{{\"topic\":\"a/b\",\"body\":{body},\"qos\":1,\"retain\":false{expires},\"publisher\":1}}"
        )
    };
    let mut lines = vec![
        HEAD.trim().to_owned(),
        "{\"kind\":\"session\",\"number\":1,\"clientId\":\"c\",\"expirySecs\":60,\"connected\":true,\
         \"overlap\":\"each\",\"window\":20,\"nextPosition\":700,\"nextSubscription\":2,\"sent\":[[0,5]]}"
            .to_owned(),
        "{\"kind\":\"subscription\",\"session\":1,\"id\":1,\"key\":\"k\",\"filter\":\"$share/g/a/+\",\"qos\":2,\
         \"noLocal\":false,\"retainAsPublished\":true,\"retainHandling\":\"sendIfNew\",\"ownLane\":3,\
         \"autoSettle\":false,\"durable\":true,\"retained\":{\"behind\":\"a\"}}"
            .to_owned(),
        "{\"kind\":\"accepted\",\"session\":1,\"packetId\":77}".to_owned(),
        "{\"kind\":\"group\",\"number\":2,\"share\":\"g\",\"filter\":\"a/+\"}".to_owned(),
        "{\"kind\":\"group\",\"number\":3,\"filter\":\"$queue/jobs\"}".to_owned(),
        format!(
            "{{\"kind\":\"retained\",\"message\":{}}}",
            message("{\"base64\":\"/wA=\"}", ",\"expiresAt\":99999999999999")
        ),
        "{\"kind\":\"key\",\"key\":\"order-1\",\"answer\":2,\"until\":99999999999999}".to_owned(),
    ];
    for position in 1..=600 {
        let flags = match position {
            1 => {
                ",\"attempts\":2,\"received\":true,\"matched\":[1],\"from\":{\"group\":2,\"position\":9}"
            }
            _ => "",
        };
        lines.push(format!(
            "{{\"kind\":\"entry\",\"owner\":1,\"lane\":0,\"position\":{position},\"qos\":2,\"retain\":false{flags},\
             \"message\":{}}}",
            message(&format!("{{\"text\":\"message {position}\"}}"), "")
        ));
    }
    for (owner, lane) in [(1, 1), (2, 0), (3, 0)] {
        lines.push(format!(
            "{{\"kind\":\"entry\",\"owner\":{owner},\"lane\":{lane},\"position\":4,\"qos\":1,\"retain\":true,\
             \"message\":{}}}",
            message("{\"text\":\"\"}", "")
        ));
    }
    let text = lines.join("\n") + "\n";
    let file = root.join("lines.json");
    std::fs::write(&file, &text).unwrap();
    let directory = root.join("data");
    import_from(&directory, Some(&file)).unwrap();
    (directory, text)
}

#[test]
fn a_store_survives_its_export_and_import() {
    let root = tempfile::tempdir().unwrap();
    let (first, lines) = filled(root.path());
    let out = root.path().join("out.json");
    export_to(&first, Some(&out)).unwrap();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), lines);

    let second = root.path().join("second");
    import_from(&second, Some(&out)).unwrap();
    let again = root.path().join("again.json");
    export_to(&second, Some(&again)).unwrap();
    assert_eq!(std::fs::read_to_string(&again).unwrap(), lines);

    // Nothing is overwritten, neither a file nor a store.
    let exists = export_to(&first, Some(&out)).unwrap_err();
    assert!(exists.to_string().starts_with("cannot create"), "{exists}");
    let filled = import_from(&first, Some(&out)).unwrap_err().to_string();
    assert!(filled.contains("is not empty"), "{filled}");
}

#[test]
fn statistics_count_everything() {
    let root = tempfile::tempdir().unwrap();
    let (directory, _) = filled(root.path());
    let inspection = inspect(&directory, false, Clock::start().now()).unwrap();
    let text = report::Stats::of(&inspection).to_string();
    for line in [
        "format             1",
        "sessions           1 (1 connected when written last, 0 with a will)",
        "subscriptions      1",
        "groups             1",
        "queues             1",
        "queued messages    603 in 4 backlogs, ",
        "open QoS 2 ids     1",
        "retained messages  1, ",
        "idempotency keys   1",
        "journal            ",
    ] {
        assert!(
            text.lines().any(|it| it.starts_with(line)),
            "{line}\n{text}"
        );
    }
    stats(&directory, true).unwrap();
    let json = serde_json::to_value(report::Stats::of(&inspection)).unwrap();
    assert_eq!(
        (&json["messages"], &json["mostMessages"]),
        (&603.into(), &600.into())
    );
}

#[test]
fn a_flipped_bit_is_found_with_its_place() {
    let root = tempfile::tempdir().unwrap();
    let (directory, lines) = filled(root.path());
    let sound = inspect(&directory, true, Clock::start().now()).unwrap();
    let verdict = report::verdict(&directory, &sound);
    assert!(verdict.ends_with("all right\n"), "{verdict}");
    assert_eq!(verify(&directory).unwrap(), ExitCode::SUCCESS);

    // A flush behind it tells damage from a write that was torn.
    let (store, _) = open(&directory).unwrap();
    import_nothing(&*store);
    store.close();
    let segments = std::fs::read_dir(directory.join("journal")).unwrap();
    let mut segments: Vec<_> = segments.map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    let body = b"message 3";
    let at = bytes.windows(body.len()).position(|it| it == body).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segments[0], bytes).unwrap();

    let damaged = inspect(&directory, true, Clock::start().now()).unwrap();
    let verdict = report::verdict(&directory, &damaged);
    let name = segments[0].display().to_string();
    assert!(verdict.starts_with(&format!("{name}, bytes ")), "{verdict}");
    assert!(verdict.contains("damaged\n"), "{verdict}");
    assert_eq!(verify(&directory).unwrap(), ExitCode::FAILURE);
    // Looking changes nothing; the rest is exported, and it is said that something is missing.
    let out = root.path().join("rest.json");
    assert_eq!(
        export_to(&directory, Some(&out)).unwrap(),
        ExitCode::FAILURE
    );
    let rest = std::fs::read_to_string(&out).unwrap();
    assert!(rest.lines().count() > 0 && rest.len() < lines.len());
}

/// A unit with nothing of interest.
fn import_nothing(store: &dyn Store) {
    let mut unit = Unit::default();
    unit.ops.push(Op::SessionEnd { number: 8 });
    store.append(unit, Urgency::Now);
}

#[test]
fn a_directory_in_use_or_missing_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("missing");
    for error in [
        stats(&missing, false).unwrap_err(),
        verify(&missing).unwrap_err(),
        export_to(&missing, None).unwrap_err(),
    ] {
        assert!(error.to_string().contains("missing"), "{error}");
    }
    assert!(!missing.exists());

    let directory = root.path().join("data");
    let (store, _) = open(&directory).unwrap();
    for error in [
        stats(&directory, false).unwrap_err(),
        verify(&directory).unwrap_err(),
        export_to(&directory, None).unwrap_err(),
    ] {
        let process = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&process), "{error}");
    }
    store.close();
    verify(&directory).unwrap();
}

#[test]
fn a_failed_import_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("lines.json");
    std::fs::write(&file, format!("{HEAD}?\n")).unwrap();
    let error = import_from(&root.path().join("data"), Some(&file)).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("empty this directory") && error.contains("line 2"),
        "{error}"
    );
}
