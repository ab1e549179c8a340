//! The tables of `docs/mapping.md` are those of [`crate::table`]. `UPDATE_EXPECT=1` rewrites them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::table::{
    ANSWERS, EXPIRY, LEVELS, Mark, PAYLOADS, PLACES, PROPERTIES, Prop, REDELIVERED, RETAINED, Row,
    SUBSCRIPTIONS,
};

const END: &str = "<!-- end -->";

#[test]
fn the_page_shows_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mapping.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut wanted = page.clone();
    for (name, table) in [
        ("places", places()),
        ("subscriptions", subscriptions()),
        ("payloads", payloads()),
        ("properties", properties()),
        ("levels", levels()),
        ("answers", answers()),
        ("marks", marks()),
    ] {
        wanted = with_table(&wanted, name, &table);
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            page == wanted,
            "docs/mapping.md is not the table: UPDATE_EXPECT=1 rewrites it"
        );
    }
}

/// The page with this table between its marks.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let begin = format!("<!-- table: {name} -->\n");
    let (before, rest) = page.split_once(&begin).expect(name);
    let (_, after) = rest.split_once(END).expect(name);
    format!("{before}{begin}{table}{END}{after}")
}

fn places() -> String {
    let mut table = head([
        "",
        "MQTT topic",
        "STOMP destination",
        "JSON publishes",
        "JSON reads",
    ]);
    for place in PLACES {
        let json = match place.json {
            "" => r#""type":"broadcast""#,
            fields => fields,
        };
        line(
            &mut table,
            &[
                place.what.to_owned(),
                code(place.topic),
                code(place.stomp),
                code(json),
                code(place.json_seen),
            ],
        );
    }
    table
}

fn subscriptions() -> String {
    let mut table = head(["", "MQTT", "STOMP", "JSON", "gets", "does not get"]);
    for all in SUBSCRIPTIONS {
        line(
            &mut table,
            &[
                all.what.to_owned(),
                code(all.mqtt),
                codes(all.stomp),
                code(all.json),
                codes(all.gets),
                codes(all.misses),
            ],
        );
    }
    table
}

fn payloads() -> String {
    let mut table = head(["", "bytes", "MQTT 5", "STOMP", "JSON"]);
    for row in PAYLOADS {
        let json = [row.data, row.json].concat();
        let cells = [
            row.what.to_owned(),
            bytes(row.payload),
            props(row),
            codes(row.stomp),
            code(&json),
        ];
        line(&mut table, &cells);
    }
    table
}

fn properties() -> String {
    let mut table = head(["", "MQTT 5", "STOMP", "JSON"]);
    for row in PROPERTIES {
        let cells = [
            row.what.to_owned(),
            props(row),
            codes(row.stomp),
            fields(row.json),
        ];
        line(&mut table, &cells);
    }
    table
}

fn levels() -> String {
    let mut table = head([
        "",
        "MQTT",
        "STOMP sends",
        "STOMP reads",
        "JSON publishes",
        "JSON reads",
    ]);
    for level in LEVELS {
        line(
            &mut table,
            &[
                level.what.to_owned(),
                format!("QoS {}", level.qos),
                code(level.stomp),
                codes(level.stomp_seen),
                level.json.map_or("cannot ask for it".to_owned(), fields),
                fields(level.json_seen),
            ],
        );
    }
    table
}

fn answers() -> String {
    let mut table = head(["", "MQTT", "STOMP", "JSON"]);
    for answer in ANSWERS {
        let mqtt = if answer.mqtt {
            "PUBACK"
        } else {
            "no word for it"
        };
        let stomp: Vec<&str> = answer.stomp.split('\n').collect();
        line(
            &mut table,
            &[
                answer.what.to_owned(),
                mqtt.to_owned(),
                codes(&stomp),
                code(answer.json),
            ],
        );
    }
    table
}

fn marks() -> String {
    let mut table = head([
        "",
        "MQTT 5",
        "MQTT 3.1.1",
        "STOMP sends",
        "STOMP reads",
        "JSON publishes",
        "JSON reads",
    ]);
    for mark in [RETAINED, REDELIVERED, EXPIRY] {
        let Mark {
            what,
            mqtt,
            mqtt311,
            stomp,
            stomp_seen,
            json,
            json_seen,
        } = mark;
        line(
            &mut table,
            &[
                what.to_owned(),
                mqtt.to_owned(),
                mqtt311.to_owned(),
                code(stomp),
                codes(stomp_seen),
                fields(json),
                fields(json_seen),
            ],
        );
    }
    table
}

fn prop(prop: &Prop) -> String {
    match prop {
        Prop::ContentType(text) => format!("content type {}", quoted(text)),
        Prop::ResponseTopic(text) => format!("response topic {}", quoted(text)),
        Prop::User(name, value) => format!("user property {} = {}", quoted(name), quoted(value)),
        Prop::Correlation(data) => format!("correlation data {}", bytes(data)),
    }
}

fn props(row: &Row) -> String {
    let all: Vec<String> = row.mqtt.iter().map(prop).collect();
    all.join("<br>")
}

/// Text in quotes, other bytes in hexadecimal.
fn bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => quoted(text),
        Err(_) => code(&format!("{bytes:02x?}")),
    }
}

fn head<const N: usize>(titles: [&str; N]) -> String {
    format!("| {} |\n|{}\n", titles.join(" | "), "---|".repeat(N))
}

fn line(table: &mut String, cells: &[String]) {
    // Writing into a string does not fail.
    let _ = writeln!(table, "| {} |", cells.join(" | "));
}

/// JSON fields without the commas around them.
fn fields(text: &str) -> String {
    code(text.trim_matches(','))
}

fn codes(texts: &[&str]) -> String {
    let all: Vec<String> = texts.iter().map(|text| code(text)).collect();
    all.join("<br>")
}

fn quoted(text: &str) -> String {
    code(&format!("\"{text}\""))
}

/// Code, with names for characters that cannot be seen.
fn code(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let hidden = |character: char| character.is_control() || character == '\u{2028}';
    let mut shown = String::new();
    for character in text.chars() {
        if hidden(character) {
            let _ = write!(shown, "<U+{:04X}>", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    format!("`{shown}`")
}
