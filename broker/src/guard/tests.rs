use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn guard(settings: GuardSettings) -> Guard {
    let guard = Guard::default();
    guard.set(settings);
    guard
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn after(secs: u32) -> Timestamp {
    NOW.plus_secs(secs)
}

fn three_in_ten() -> Threshold {
    Threshold {
        count: 3,
        window: Duration::from_secs(10),
        ban: Duration::from_mins(1),
    }
}

#[test]
fn configured_bans_hold_and_cannot_be_lifted() {
    let network = Subject::Address(Network::parse("192.0.2.0/24").unwrap());
    let guard = guard(GuardSettings {
        banned: vec![
            network.clone(),
            Subject::Client("c".into()),
            Subject::User("u".into()),
        ],
        ..GuardSettings::default()
    });
    let from = |ip_: &str| guard.connect_from(ip(ip_), NOW);
    assert_eq!(from("192.0.2.200"), Err(KeptOut::Banned));
    assert_eq!(from("::ffff:192.0.2.200"), Err(KeptOut::Banned));
    assert_eq!(from("192.0.3.1"), Ok(()));
    let login = |id: &str, user: &str| {
        let result = guard.log_in(Some(&id.into()), Some(&user.into()), false, NOW);
        result.map(|_| ()).map_err(|refusal| refusal.code)
    };
    assert_eq!(login("c", "x"), Err(RefusalCode::Banned));
    assert_eq!(login("x", "u"), Err(RefusalCode::Banned));
    assert_eq!(login("x", "x"), Ok(()));
    assert!(!guard.bans.lift(&network));
    assert_eq!(guard.bans.list(NOW).len(), 3);
    // A reload takes them away.
    guard.set(GuardSettings::default());
    assert_eq!(guard.connect_from(ip("192.0.2.200"), NOW), Ok(()));
}

#[test]
fn bans_that_are_added_end_or_are_lifted() {
    let guard = guard(GuardSettings::default());
    let client = Subject::Client("c".into());
    let add = |subject: &Subject, until| guard.bans.add(subject.clone(), until, "why", NOW);
    add(&client, Some(after(60)));
    assert!(guard.bans.is_banned(&client, after(59)));
    assert!(!guard.bans.is_banned(&client, after(60)));
    assert_eq!(guard.bans.len(after(60)), 0, "what has ended is forgotten");
    add(&client, None);
    assert!(guard.bans.is_banned(&client, after(1_000_000)));
    let [ban] = &guard.bans.list(NOW)[..] else {
        panic!("one ban")
    };
    assert_eq!((ban.reason.as_ref(), ban.until), ("why", None));
    assert!(guard.bans.lift(&client));
    assert!(!guard.bans.lift(&client));
    let wide = Subject::Address(Network::parse("2001:db8::/32").unwrap());
    add(&wide, None);
    assert_eq!(
        guard.connect_from(ip("2001:db8:1::1"), NOW),
        Err(KeptOut::Banned)
    );
    guard.bans.lift(&wide);
    assert_eq!(guard.connect_from(ip("2001:db8:1::1"), NOW), Ok(()));
}

#[test]
fn the_number_of_bans_is_bounded() {
    let guard = guard(GuardSettings {
        bans: 2,
        ..GuardSettings::default()
    });
    let client = |id: &str| Subject::Client(ByteString::from(id));
    for (id, secs) in [("long", 100), ("short", 10), ("new", 50)] {
        guard.bans.add(client(id), Some(after(secs)), "", NOW);
    }
    let held = guard.bans.list(NOW);
    let held: Vec<_> = held.iter().map(|ban| ban.subject.clone()).collect();
    assert_eq!(held, [client("long"), client("new")]);
}

#[test]
fn an_address_that_connects_too_often_waits() {
    let guard = guard(GuardSettings {
        connects: Rate {
            per_sec: 1,
            burst: 2,
        },
        ..GuardSettings::default()
    });
    let from = |ip_: &str, at| guard.connect_from(ip(ip_), at);
    assert_eq!(from("2001:db8::1", NOW), Ok(()));
    assert_eq!(from("2001:db8::2", NOW), Ok(()));
    assert_eq!(from("2001:db8::3", NOW), Err(KeptOut::Rate), "one site");
    assert_eq!(from("2001:db8:0:1::1", NOW), Ok(()), "another site");
    assert_eq!(from("2001:db8::3", after(1)), Ok(()));
    for _ in 0..10 {
        assert_eq!(from("127.0.0.1", NOW), Ok(()), "proxies live there");
    }
}

#[test]
fn who_flaps_is_banned_for_a_time() {
    let guard = guard(GuardSettings {
        flapping: three_in_ten(),
        ..GuardSettings::default()
    });
    let login = |at| {
        let result = guard.log_in(Some(&"c".into()), None, false, at);
        result.map(|_| ()).map_err(|refusal| refusal.code)
    };
    assert_eq!(login(NOW), Ok(()));
    assert_eq!(login(after(1)), Ok(()));
    assert_eq!(login(after(2)), Err(RefusalCode::Banned));
    assert_eq!(
        login(after(61)),
        Err(RefusalCode::Banned),
        "60 s from 2 s on"
    );
    assert_eq!(login(after(62)), Ok(()));
    assert_eq!(guard.counts.flapping.value(), 1);
    let from = |at| guard.connect_from(ip("192.0.2.1"), at);
    assert_eq!(
        [NOW, NOW, NOW, after(59), after(60)].map(from),
        [
            Ok(()),
            Ok(()),
            Err(KeptOut::Banned),
            Err(KeptOut::Banned),
            Ok(())
        ]
    );
}

#[test]
fn who_guesses_is_banned_for_a_time() {
    let guard = guard(GuardSettings {
        failed_logins: three_in_ten(),
        ..GuardSettings::default()
    });
    for address in ["192.0.2.1", "127.0.0.1"] {
        for _ in 0..3 {
            guard.failed_login(ip(address), NOW);
        }
    }
    let from = |ip_: &str, at| guard.connect_from(ip(ip_), at);
    assert_eq!(from("192.0.2.1", after(59)), Err(KeptOut::Banned));
    assert_eq!(from("192.0.2.2", NOW), Ok(()));
    assert_eq!(from("127.0.0.1", NOW), Ok(()));
    assert_eq!(from("192.0.2.1", after(60)), Ok(()));
    assert_eq!(guard.counts.failed_logins.value(), 1);
}

#[test]
fn a_user_has_so_many_connections() {
    let guard = guard(GuardSettings {
        per_user: 1,
        ..GuardSettings::default()
    });
    let login = |replaces| guard.log_in(None, Some(&"u".into()), replaces, NOW);
    let first = login(false).unwrap().unwrap();
    assert_eq!(login(false).unwrap_err().code, RefusalCode::Quota);
    let second = login(true).unwrap();
    drop(first);
    assert_eq!(login(false).unwrap_err().code, RefusalCode::Quota);
    drop(second);
    assert!(login(false).is_ok());
    assert!(guard.log_in(None, None, false, NOW).unwrap().is_none());
}

#[test]
fn a_will_has_a_size() {
    let guard = guard(GuardSettings {
        will_bytes: 10,
        ..GuardSettings::default()
    });
    assert!(guard.check_will(10).is_ok());
    assert_eq!(
        guard.check_will(11).unwrap_err().code,
        RefusalCode::TooLarge
    );
}
