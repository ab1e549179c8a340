//! The invariants of ARCHITECTURE.md that can be read off the sources.

#![allow(clippy::unwrap_used)] // a test that cannot read its sources fails

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if is_test(&path) {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// Tests, in a file or a folder of that name, may use threads and clocks.
fn is_test(path: &Path) -> bool {
    path.file_stem()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.ends_with("tests"))
}

/// Lines of code (not comments) of a folder that hold one of the words.
fn offenders(folder: &str, words: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join(folder);
    let mut found = Vec::new();
    for path in sources(&root) {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!(
                    "{}:{}: {}",
                    path.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    found
}

const IO: &[&str] = &[
    "tokio::net",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::thread",
    "Instant::now",
    "SystemTime",
    ".await",
    "async fn",
];

#[test]
fn protocols_do_no_io_and_read_no_clock() {
    assert_eq!(offenders("protocols/src", IO), Vec::<String>::new());
    assert_eq!(
        offenders("protocols/src", &["tokio::", "broker::"]),
        Vec::<String>::new()
    );
}

#[test]
fn hub_and_session_do_no_io() {
    for folder in ["broker/src/hub", "broker/src/session"] {
        assert_eq!(offenders(folder, IO), Vec::<String>::new());
        assert_eq!(
            offenders(folder, &["crate::net", "crate::cli"]),
            Vec::<String>::new()
        );
    }
    assert_eq!(
        offenders("broker/src/session", &["crate::hub"]),
        Vec::<String>::new()
    );
}

#[test]
fn only_the_store_knows_sled_and_its_files() {
    for folder in [
        "hub",
        "session",
        "net",
        "router",
        "telemetry",
        "cli",
        "config",
    ] {
        let folder = format!("broker/src/{folder}");
        assert_eq!(offenders(&folder, &["sled::"]), Vec::<String>::new());
    }
    let above = &["crate::net", "crate::hub", "crate::session", "crate::cli"];
    assert_eq!(offenders("broker/src/store", above), Vec::<String>::new());
    // Everyone asks the guard; it asks nobody.
    assert_eq!(offenders("broker/src/guard", above), Vec::<String>::new());
    assert_eq!(offenders("broker/src/guard", IO), Vec::<String>::new());
}

#[test]
fn the_router_knows_messages_only() {
    let others = &[
        "crate::net",
        "crate::hub",
        "crate::session",
        "crate::cli",
        "crate::config",
    ];
    assert_eq!(offenders("broker/src/router", others), Vec::<String>::new());
}

#[test]
fn queues_are_bounded() {
    let unbounded = &[
        "unbounded_channel",
        "mpsc::unbounded",
        "std::sync::mpsc::channel",
    ];
    for folder in ["protocols/src", "broker/src"] {
        assert_eq!(offenders(folder, unbounded), Vec::<String>::new());
    }
}
