//! The cases of EventBridge's documentation and of its public rule engine's tests, as events and
//! rules of ours: one event, and for each operator what must and what must not match it.

use serde_json::{Value, json};

use super::Pattern;

fn event() -> Value {
    json!({
        "version": "0",
        "source": "shop.orders",
        "detail-type": "Order State Change",
        "account": "123456789012",
        "time": "2024-05-01T12:00:00Z",
        "region": "eu-west-1",
        "resources": ["arn:aws:x:order/1", "arn:aws:x:customer/7"],
        "detail": {
            "state": "INITIALIZING",
            "total": 301.8,
            "count": 5,
            "zero": 0,
            "negative": -12.5,
            "large": 4_999_999_999.0_f64,
            "paid": true,
            "note": null,
            "empty": "",
            "list": [],
            "ip": "10.0.0.33",
            "ip6": "2001:db8:85a3::8a2e:370:7334",
            "file": "dir/lib/picture.PNG",
            "star": "a*b\\c",
            "nested": {"inner": {"leaf": "x"}},
            "items": [
                {"sku": "a", "count": 1, "tags": ["red", "new"]},
                {"sku": "b", "count": 20, "tags": ["blue"]}
            ]
        }
    })
}

fn check(rows: &[(Value, bool)]) {
    for (detail, expected) in rows {
        let pattern = json!({"detail": detail}).to_string();
        let parsed = Pattern::parse(&pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        assert_eq!(parsed.matches(&event()), *expected, "{pattern}");
    }
}

#[test]
fn envelope_fields() {
    for (pattern, expected) in [
        (
            json!({"source": ["shop.orders"], "detail-type": ["Order State Change"]}),
            true,
        ),
        (
            json!({"source": [{"prefix": "shop."}], "region": [{"anything-but": {"prefix": "us-"}}]}),
            true,
        ),
        (json!({"time": [{"prefix": "2024-05-01"}]}), true),
        (json!({"resources": [{"suffix": "customer/7"}]}), true),
        (json!({"resources": ["arn:aws:x:order/2"]}), false),
        (json!({"account": [123_456_789_012_u64]}), false),
        (json!({"Source": ["shop.orders"]}), false),
    ] {
        let parsed = Pattern::parse(&pattern.to_string()).unwrap();
        assert_eq!(parsed.matches(&event()), expected, "{pattern}");
    }
}

#[test]
fn exact_values_keep_their_types() {
    check(&[
        (json!({"state": ["INITIALIZING", "running"]}), true),
        (json!({"state": ["initializing"]}), false),
        (json!({"count": [5]}), true),
        (json!({"count": [5.0]}), true),
        (json!({"count": ["5"]}), false),
        (json!({"paid": [true]}), true),
        (json!({"paid": ["true"]}), false),
        (json!({"note": [null]}), true),
        (json!({"note": [""]}), false),
        (json!({"empty": [""]}), true),
        (json!({"empty": [null]}), false),
        (json!({"missing": [null]}), false),
    ]);
}

#[test]
fn prefix_suffix_and_case() {
    check(&[
        (json!({"file": [{"prefix": "dir/"}]}), true),
        (json!({"file": [{"prefix": "DIR/"}]}), false),
        (
            json!({"file": [{"prefix": {"equals-ignore-case": "DIR/"}}]}),
            true,
        ),
        (json!({"file": [{"suffix": ".png"}]}), false),
        (
            json!({"file": [{"suffix": {"equals-ignore-case": ".png"}}]}),
            true,
        ),
        (
            json!({"state": [{"equals-ignore-case": "Initializing"}]}),
            true,
        ),
        (
            json!({"state": [{"equals-ignore-case": "Initialising"}]}),
            false,
        ),
        (json!({"count": [{"prefix": "5"}]}), false),
    ]);
}

#[test]
fn numeric_ranges() {
    check(&[
        (
            json!({"total": [{"numeric": [">", 300, "<=", 301.8]}]}),
            true,
        ),
        (
            json!({"total": [{"numeric": [">", 300, "<", 301.8]}]}),
            false,
        ),
        (json!({"total": [{"numeric": ["=", 301.8]}]}), true),
        (json!({"total": [{"numeric": ["=", 3.018e2]}]}), true),
        (json!({"zero": [{"numeric": [">=", 0]}]}), true),
        (json!({"zero": [{"numeric": [">", 0]}]}), false),
        (json!({"zero": [{"numeric": ["<=", 0]}]}), true),
        (
            json!({"negative": [{"numeric": [">=", -20, "<", -12.4]}]}),
            true,
        ),
        (json!({"negative": [{"numeric": ["<", -12.5]}]}), false),
        (
            json!({"large": [{"numeric": ["<", 5_000_000_000_u64]}]}),
            true,
        ),
        (json!({"state": [{"numeric": [">", 0]}]}), false),
        (json!({"note": [{"numeric": ["=", 0]}]}), false),
        (
            json!({"count": [{"numeric": ["<", 0]}, {"numeric": [">", 4]}]}),
            true,
        ),
    ]);
}

#[test]
fn exists_looks_at_leaves_alone() {
    check(&[
        (json!({"state": [{"exists": true}]}), true),
        (json!({"state": [{"exists": false}]}), false),
        (json!({"missing": [{"exists": false}]}), true),
        (json!({"missing": [{"exists": true}]}), false),
        (json!({"note": [{"exists": true}]}), true),
        (json!({"empty": [{"exists": true}]}), true),
        (json!({"list": [{"exists": true}]}), false),
        (json!({"list": [{"exists": false}]}), true),
        (json!({"nested": [{"exists": true}]}), false),
        (json!({"nested": {"inner": [{"exists": true}]}}), false),
        (
            json!({"nested": {"inner": {"leaf": [{"exists": true}]}}}),
            true,
        ),
        (
            json!({"nested": {"other": {"leaf": [{"exists": false}]}}}),
            true,
        ),
        (
            json!({"nested": {"inner": {"leaf": {"deeper": [{"exists": false}]}}}}),
            true,
        ),
        (
            json!({"missing": [{"exists": false}, "x"], "state": [{"exists": true}]}),
            true,
        ),
    ]);
}

#[test]
fn anything_but() {
    let ignoring = |text: Value| json!({"state": [{"anything-but": {"equals-ignore-case": text}}]});
    check(&[
        (json!({"state": [{"anything-but": "running"}]}), true),
        (json!({"state": [{"anything-but": "INITIALIZING"}]}), false),
        (
            json!({"state": [{"anything-but": ["stopped", "INITIALIZING"]}]}),
            false,
        ),
        (json!({"count": [{"anything-but": 5}]}), false),
        (json!({"count": [{"anything-but": [1, 2]}]}), true),
        (json!({"count": [{"anything-but": "5"}]}), true),
        (json!({"missing": [{"anything-but": "x"}]}), false),
        (
            json!({"missing": [{"exists": false}, {"anything-but": "x"}]}),
            true,
        ),
        (json!({"note": [{"anything-but": "x"}]}), true),
        (
            json!({"state": [{"anything-but": {"prefix": "init"}}]}),
            true,
        ),
        (
            json!({"state": [{"anything-but": {"prefix": ["RUN", "INIT"]}}]}),
            false,
        ),
        (
            json!({"file": [{"anything-but": {"suffix": [".gif", ".PNG"]}}]}),
            false,
        ),
        (
            json!({"file": [{"anything-but": {"suffix": ".gif"}}]}),
            true,
        ),
        (
            json!({"file": [{"anything-but": {"wildcard": "*/lib/*"}}]}),
            false,
        ),
        (
            json!({"file": [{"anything-but": {"wildcard": ["*.gif", "*/bin/*"]}}]}),
            true,
        ),
        (
            json!({"file": [{"anything-but": {"wildcard": ["*.gif", "dir/*"]}}]}),
            false,
        ),
        (ignoring(json!("initializing")), false),
        (ignoring(json!(["running", "Initializing"])), false),
        (ignoring(json!(["running", "stopped"])), true),
        (json!({"resources": [{"anything-but": "x"}]}), false),
    ]);
}

#[test]
fn addresses() {
    check(&[
        (json!({"ip": [{"cidr": "10.0.0.0/24"}]}), true),
        (json!({"ip": [{"cidr": "10.0.0.32/31"}]}), true),
        (json!({"ip": [{"cidr": "10.0.0.34/31"}]}), false),
        (json!({"ip": [{"cidr": "10.0.0.77/24"}]}), true),
        (json!({"ip": [{"cidr": "0.0.0.0/0"}]}), true),
        (json!({"ip": [{"cidr": "::/0"}]}), false),
        (json!({"ip6": [{"cidr": "2001:db8::/32"}]}), true),
        (
            json!({"ip6": ["2001:0db8:85a3:0000:0000:8a2e:0370:7334"]}),
            true,
        ),
        (json!({"ip6": [{"cidr": "2001:db8:85a4::/48"}]}), false),
        (json!({"state": [{"cidr": "10.0.0.0/8"}]}), false),
    ]);
}

#[test]
fn wildcards_and_what_escapes_them() {
    check(&[
        (json!({"file": [{"wildcard": "dir/*/picture.*"}]}), true),
        (json!({"file": [{"wildcard": "*PNG"}]}), true),
        (json!({"file": [{"wildcard": "dir/*.png"}]}), false),
        (json!({"file": [{"wildcard": "*"}]}), true),
        (json!({"empty": [{"wildcard": "*"}]}), true),
        (json!({"star": [{"wildcard": "a\\*b\\\\c"}]}), true),
        (json!({"star": [{"wildcard": "a\\**"}]}), true),
        (json!({"file": [{"wildcard": "dir\\*"}]}), false),
        (json!({"count": [{"wildcard": "*"}]}), false),
    ]);
}

#[test]
fn or_within_or() {
    check(&[
        (
            json!({"$or": [{"state": ["running"]}, {"count": [{"numeric": [">", 4]}]}]}),
            true,
        ),
        (
            json!({"$or": [{"state": ["running"]}, {"count": [4]}]}),
            false,
        ),
        (
            json!({"paid": [true], "$or": [{"count": [4]}, {"$or": [{"zero": [0]}, {"zero": [1]}]}]}),
            true,
        ),
        (
            json!({"paid": [false], "$or": [{"zero": [0]}, {"count": [5]}]}),
            false,
        ),
        (
            json!({"nested": {"$or": [{"inner": {"leaf": ["y"]}}, {"inner": {"leaf": ["x"]}}]}}),
            true,
        ),
        (
            json!({"$or": [{"nested": {"inner": {"leaf": ["y"]}}}, {"missing": [{"exists": false}]}]}),
            true,
        ),
        (
            json!({"items": {"sku": ["a"], "$or": [{"count": [20]}, {"tags": ["red"]}]}}),
            true,
        ),
        (
            json!({"items": {"sku": ["a"], "$or": [{"count": [20]}, {"tags": ["blue"]}]}}),
            false,
        ),
    ]);
}

#[test]
fn elements_of_arrays_stay_together() {
    check(&[
        (json!({"items": {"sku": ["b"], "count": [20]}}), true),
        (json!({"items": {"sku": ["a"], "count": [20]}}), false),
        (json!({"items": {"tags": ["new"], "count": [1]}}), true),
        (
            json!({"items": {"tags": ["blue"], "count": [{"anything-but": 20}]}}),
            false,
        ),
        (json!({"items.sku": ["a"], "items.count": [20]}), false),
        (json!({"items": {"sku": [{"exists": true}]}}), true),
    ]);
}
