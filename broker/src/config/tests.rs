//! The configuration as its users meet it: whole files in, messages out.

use std::io::Write as _;

use super::*;

/// Loads a file with the given text; its path is replaced by `polycast.toml` in the messages.
fn load(text: &str, variables: &[(&str, &str)], flags: &[Flag]) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_owned();
    let sources = Sources {
        file: Some(path.clone()),
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: flags.to_vec(),
    };
    Config::load(&sources).map_err(|problems| {
        problems
            .to_string()
            .replace(path.to_str().unwrap(), "polycast.toml")
    })
}

fn flag(name: &'static str, key: &'static str, value: &str) -> Flag {
    Flag {
        name,
        key,
        value: value.to_owned(),
    }
}

/// The message for a file, exactly.
fn check(text: &str, message: &str) {
    let problems = load(text, &[], &[]).unwrap_err();
    assert_eq!(problems, message, "\n--- got\n{problems}\n---");
}

#[test]
fn nothing_is_the_default() {
    assert_eq!(Config::load(&Sources::default()), Ok(Config::default()));
    let config = Config::default();
    assert_eq!(config.mqtt.listen.to_string(), "127.0.0.1:1883");
    assert_eq!(config.stomp.listen.to_string(), "127.0.0.1:61613");
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert!(config.listeners().iter().all(|(_, at)| at.is_loopback()));
}

#[test]
fn the_default_file_is_the_default() {
    let file = default_file();
    assert_eq!(load(&file, &[], &[]), Ok(Config::default()));
    for (key, literal) in reference::settings(&Config::default()) {
        assert!(
            file.contains(&format!("\n{} = {literal}\n", key.name())),
            "{}",
            key.path
        );
        assert!(!key.doc.trim().is_empty(), "{} is explained", key.path);
    }
}

#[test]
fn every_key_takes_its_own_literal_from_everywhere() {
    for (key, literal) in reference::settings(&Config::default()) {
        let bare = literal.trim_matches(['[', ']']).replace('"', "");
        let sources = Sources {
            variables: vec![(key.variable(), bare)],
            ..Sources::default()
        };
        assert_eq!(
            Config::load(&sources),
            Ok(Config::default()),
            "{}",
            key.variable()
        );
    }
}

#[test]
fn the_page_is_up_to_date() {
    let page = include_str!("../../../docs/configuration.md");
    assert!(
        page == reference(),
        "write it again: polycast default-config --format markdown > docs/configuration.md"
    );
}

#[test]
fn flags_win_over_environment_over_file() {
    let file = "[mqtt]\nlisten = \"127.0.0.1:1\"\n[stomp]\nlisten = \"127.0.0.1:1\"\n\
                [http]\nlisten = \"127.0.0.1:1\"\n";
    let variables = [
        ("POLYCAST_STOMP__LISTEN", "127.0.0.1:2"),
        ("POLYCAST_HTTP__LISTEN", "127.0.0.1:2"),
        ("PATH", "/bin"),
    ];
    let config = load(
        file,
        &variables,
        &[flag("--http", "http.listen", "[::1]:0")],
    )
    .unwrap();
    assert_eq!(config.mqtt.listen.to_string(), "127.0.0.1:1");
    assert_eq!(config.stomp.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.http.listen.to_string(), "[::1]:0");
}

#[test]
fn values_of_all_kinds() {
    let config = load(
        "data_dir = \"/var/lib/polycast\"\n\
         [mqtt]\nmaximum_qos = 1\nretain_available = false\nlisten = \"off\"\n\
         [websocket]\nallowed_origins = [\"https://a.example\", \"null\"]\n\
         [log]\nlevel = \"info,broker=debug\"\nformat = \"json\"\n\
         [limits]\npacket_size = \"2 MiB\"\ntopic_length = 0x100\nslow_consumer_timeout = \"500ms\"\n",
        &[("POLYCAST_WEBSOCKET__PERMESSAGE_DEFLATE", "true")],
        &[],
    )
    .unwrap();
    assert_eq!(config.data_dir.to_str(), Some("/var/lib/polycast"));
    assert_eq!(config.mqtt.maximum_qos, protocols::model::QoS::AtLeastOnce);
    assert!(!config.mqtt.retain_available);
    assert_eq!(config.mqtt.listen, Listen::Off);
    assert_eq!(config.websocket.allowed_origins.as_slice().len(), 2);
    assert!(config.websocket.permessage_deflate);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.limits.packet_size, 2 * 1024 * 1024);
    assert_eq!(config.limits.topic_length, 256);
    assert_eq!(config.limits.slow_consumer_timeout.as_millis(), 500);
    let list = [(
        "POLYCAST_WEBSOCKET__ALLOWED_ORIGINS",
        "https://a.example, null",
    )];
    let same = load("", &list, &[]).unwrap();
    assert_eq!(
        same.websocket.allowed_origins,
        config.websocket.allowed_origins
    );
}

#[test]
fn all_mistakes_are_named_at_once_from_top_to_bottom() {
    let problems = load(
        "[mqtt]\n\
         listen = \"127.0.0.1\"\n\
         recieve_maximum = 10\n\
         \n\
         [limits]\n\
         packet_size = \"1 mb!\"\n\
         \u{20}  login_timeout = 10 # seconds\n\
         topic_levels = 1000\n\
         [htpp]\n\
         listen = \"127.0.0.1:80\"\n\
         [log]\n\
         level = true\n",
        &[
            ("POLYCAST_LIMITS__IN_FLIGHT", "many"),
            ("POLYCAST_LIMIT__IN_FLIGHT", "5"),
            ("POLYCAST_SERVICE_HOST", "10.0.0.1"),
            ("POLYCAST_PORT_1883_TCP", "tcp://10.0.0.1:1883"),
        ],
        &[flag("--stomp", "stomp.listen", "61613")],
    )
    .unwrap_err();
    let expected = "\
polycast.toml:2:10: mqtt.listen = \"127.0.0.1\": the port is missing
    allowed: \"host:port\" (port 0 lets the system choose) or \"off\"
polycast.toml:3:1: there is no key recieve_maximum in [mqtt]
    did you mean receive_maximum?
polycast.toml:6:15: limits.packet_size = \"1 mb!\": `mb!` is not a unit; there are B, KiB, MiB, GiB, kB, MB and GB
    allowed: a size from 1 KiB to 256 MiB, as bytes or with a unit (\"64 KiB\", \"1 MiB\")
polycast.toml:7:20: limits.login_timeout = 10: the unit is missing; write 10s
    allowed: a duration from 100ms to 5min, with its unit (\"500ms\", \"10s\", \"20min\", \"2h\", \"7d\")
polycast.toml:8:16: limits.topic_levels = 1000: it is too large
    allowed: a whole number from 1 to 128
polycast.toml:9:2: there is no section [htpp]
    did you mean http?
polycast.toml:12:9: log.level = true: a text is needed, this is a switch
    allowed: \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\"; or levels by module, as in \"info,broker::net=debug\"
variable POLYCAST_LIMITS__IN_FLIGHT: limits.in_flight = \"many\": a whole number is needed, this is a text
    allowed: a whole number from 1 to 65535
variable POLYCAST_LIMIT__IN_FLIGHT: no key has this variable
    did you mean POLYCAST_LIMITS__IN_FLIGHT?
flag --stomp: stomp.listen = \"61613\": the host is missing; write 127.0.0.1:61613
    allowed: \"host:port\" (port 0 lets the system choose) or \"off\"";
    let mut expected: Vec<_> = expected.lines().collect();
    let mut got: Vec<_> = problems.lines().collect();
    // Variables come in the order of their names.
    expected.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, expected, "\n--- got\n{problems}\n---");
    let lines: Vec<_> = problems
        .lines()
        .filter_map(|line| line.strip_prefix("polycast.toml:"))
        .filter_map(|line| line.split(':').next()?.parse::<u32>().ok())
        .collect();
    assert!(lines.is_sorted(), "{lines:?}");
}

#[test]
fn a_key_in_the_wrong_place_is_shown_its_own() {
    check(
        "[mqtt]\npacket_size = 5\n",
        "polycast.toml:2:1: there is no key packet_size in [mqtt]\n    \
         did you mean packet_size in [limits]?",
    );
    check(
        "listen = \"127.0.0.1:1\"\n",
        "polycast.toml:1:1: there is no key listen at the top of the file\n    there are: data_dir",
    );
    check(
        "mqtt = 1\n",
        "polycast.toml:1:1: mqtt is a section, not a key\n    \
         write its keys below a line [mqtt]",
    );
    check(
        "[log.level]\nx = 1\n",
        "polycast.toml:1:1: log.level = [log.level]: a text is needed, this is a table\n    \
         allowed: \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\"; or levels by module, \
         as in \"info,broker::net=debug\"",
    );
}

#[test]
fn broken_syntax_is_placed() {
    let problems = load("[mqtt]\nlisten = \n[stomp\n", &[], &[]).unwrap_err();
    assert!(
        problems.starts_with("polycast.toml:2:"),
        "--- got\n{problems}"
    );
    assert!(
        problems.contains("\npolycast.toml:3:"),
        "--- got\n{problems}"
    );
    let twice = load("[log]\nlevel = \"info\"\nlevel = \"warn\"\n", &[], &[]).unwrap_err();
    assert_eq!(twice, "polycast.toml:3:1: this is not TOML: duplicate key");
}

#[test]
fn a_missing_file_is_named() {
    let sources = Sources {
        file: Some("/nonexistent/polycast.toml".into()),
        ..Sources::default()
    };
    assert_eq!(
        Config::load(&sources).unwrap_err().to_string(),
        "/nonexistent/polycast.toml: the file cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn columns_are_characters_and_values_are_harmless() {
    let problems = load(
        "log.level = 'ä' # ä\nhttp = { listen = '\u{202e}:1' }\n",
        &[],
        &[],
    );
    let problems = problems.unwrap_err();
    assert!(problems.contains("polycast.toml:1:13: "), "{problems}");
    assert!(problems.contains("polycast.toml:2:19: "), "{problems}");
    assert!(!problems.contains('\u{202e}'), "{problems}");
}

#[test]
fn limits_are_checked_against_each_other() {
    check(
        "[limits]\noutbox_hard_size = \"2 MiB\"\noutbox_soft_size = \"4 MiB\"\n",
        "polycast.toml:3:20: limits.outbox_soft_size is greater than limits.outbox_hard_size \
         (\"4 MiB\" > \"2 MiB\"): a connection would be closed before anything is dropped\n    \
         allowed: limits.outbox_soft_size <= limits.outbox_hard_size",
    );
    let large = load("", &[("POLYCAST_LIMITS__PACKET_SIZE", "32 MiB")], &[]).unwrap_err();
    assert_eq!(
        large
            .matches("variable POLYCAST_LIMITS__PACKET_SIZE: ")
            .count(),
        2,
        "{large}"
    );
}

#[test]
fn others_are_let_in_only_in_so_many_words() {
    check(
        "[mqtt]\nlisten = \"0.0.0.0:1883\"\n",
        "polycast.toml:2:10: mqtt.listen = \"0.0.0.0:1883\": others than this machine could \
         connect, and no client needs a login\n    \
         to ask for a login, write\n        auth.methods = [\"password\"]\n        \
         auth.password_file = \"passwords\"\n    \
         at the top of the file, and run `polycast passwd passwords NAME`;\n    \
         to let everyone in all the same, write\n        [security]\n        \
         anonymous = \"everywhere\"\n    or listen on 127.0.0.1, [::1] or localhost",
    );
    let flags = [flag("--http", "http.listen", "[::]:0")];
    let refused = load("", &[], &flags).unwrap_err();
    assert!(refused.starts_with("flag --http: "), "{refused}");
    let allowed = "[security]\nanonymous = \"everywhere\"\n";
    assert!(load(allowed, &[], &flags).is_ok());
}

#[test]
fn a_reload_applies_what_is_safe() {
    let running = Config::default();
    let mut loaded = Config::default();
    loaded.limits.packet_size = 2 * 1024 * 1024;
    loaded.mqtt.listen = Listen::Off;
    loaded.mqtt.receive_maximum = 7;
    let (next, changes) = running.reload(&loaded);
    assert_eq!(next.limits.packet_size, 2 * 1024 * 1024);
    assert_eq!(next.mqtt.receive_maximum, 7);
    assert_eq!(next.mqtt.listen, running.mqtt.listen);
    assert_eq!(
        changes.applied,
        [
            "mqtt.receive_maximum is now 7 (it was 256)",
            "limits.packet_size is now \"2 MiB\" (it was \"1 MiB\")"
        ]
    );
    assert_eq!(
        changes.need_restart,
        ["mqtt.listen stays \"127.0.0.1:1883\" until the next start (\"off\" is configured)"]
    );
    assert_eq!(
        running.reload(&running),
        (running.clone(), Changes::default())
    );
}
