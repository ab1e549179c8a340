use serde_json::json;

use super::*;

fn matches(pattern: &Value, event: &Value) -> bool {
    Pattern::parse(&pattern.to_string())
        .unwrap_or_else(|error| panic!("{pattern}: {error}"))
        .matches(event)
}

/// Each row: a pattern for the field `f`, values of `f` that match, values that do not.
/// `ABSENT` stands for an event without the field.
#[test]
fn leaves() {
    let absent = json!({"ABSENT": true});
    let rows = [
        (
            json!(["a"]),
            vec![json!("a"), json!(["b", "a"]), json!([["a"]])],
            vec![
                json!("A"),
                json!(1),
                json!(null),
                json!([]),
                json!({"a": "a"}),
                absent.clone(),
            ],
        ),
        (
            json!(["a", 1]),
            vec![json!("a"), json!(1)],
            vec![json!("1"), json!("b")],
        ),
        (
            json!([300]),
            vec![json!(300), json!(300.0), json!(3.0e2)],
            vec![json!("300"), json!(301)],
        ),
        (
            json!([null]),
            vec![json!(null)],
            vec![json!(""), json!(0), json!("null"), absent.clone()],
        ),
        (
            json!([true]),
            vec![json!(true)],
            vec![json!("true"), json!(false), json!(1)],
        ),
        (
            json!([""]),
            vec![json!("")],
            vec![json!(null), absent.clone()],
        ),
        (
            json!([{"prefix": "ab"}]),
            vec![json!("ab"), json!("abc")],
            vec![json!("Abc"), json!("xab"), json!(1)],
        ),
        (
            json!([{"prefix": {"equals-ignore-case": "aB"}}]),
            vec![json!("ABc")],
            vec![json!("xab")],
        ),
        (
            json!([{"suffix": ".png"}]),
            vec![json!("a.png")],
            vec![json!("a.PNG"), json!("png")],
        ),
        (
            json!([{"suffix": {"equals-ignore-case": ".PNG"}}]),
            vec![json!("a.pNg")],
            vec![json!("a.jpg")],
        ),
        (
            json!([{"equals-ignore-case": "Straße"}]),
            vec![json!("STRAßE"), json!("straße")],
            vec![json!("strasse")],
        ),
        (
            json!([{"exactly": "a"}]),
            vec![json!("a")],
            vec![json!("b")],
        ),
        (
            json!([{"wildcard": "a*b*"}]),
            vec![json!("ab"), json!("axbx"), json!("aab")],
            vec![json!("b"), json!("xab"), json!("a")],
        ),
        (
            json!([{"wildcard": "*a"}]),
            vec![json!("a"), json!("aba")],
            vec![json!("ab")],
        ),
        (
            json!([{"wildcard": "a\\*b\\\\*"}]),
            vec![json!("a*b\\x")],
            vec![json!("axb\\x"), json!("a*b")],
        ),
        (
            json!([{"wildcard": "ab"}]),
            vec![json!("ab")],
            vec![json!("abc")],
        ),
        (
            json!([{"wildcard": "aba*aba"}]),
            vec![json!("abaaba"), json!("abaxaba")],
            vec![json!("aba"), json!("ababa")],
        ),
        (
            json!([{"numeric": [">", 0, "<=", 5]}]),
            vec![json!(1), json!(5.0), json!(0.001)],
            vec![json!(0), json!(5.1), json!("3"), json!(-1)],
        ),
        (
            json!([{"numeric": ["=", 3]}]),
            vec![json!(3)],
            vec![json!(3.1)],
        ),
        (
            json!([{"numeric": [">=", -2.5]}]),
            vec![json!(-2.5)],
            vec![json!(-2.6)],
        ),
        (
            json!([{"numeric": ["<", 1]}]),
            vec![json!(0)],
            vec![json!(1)],
        ),
        (
            json!([{"cidr": "10.1.2.0/24"}]),
            vec![json!("10.1.2.255")],
            vec![json!("10.1.3.0"), json!("x"), json!("::1")],
        ),
        (
            json!([{"cidr": "0.0.0.0/0"}]),
            vec![json!("255.1.1.1")],
            vec![json!("::1")],
        ),
        (
            json!([{"cidr": "2001:db8::/32"}]),
            vec![json!("2001:0db8:1::1")],
            vec![json!("2001:db9::1")],
        ),
        (
            json!([{"cidr": "10.0.0.0/31"}]),
            vec![json!("10.0.0.1")],
            vec![json!("10.0.0.2")],
        ),
        (
            json!([{"exists": true}]),
            vec![json!("x"), json!(null), json!(["x"])],
            vec![json!([]), json!({"a": 1}), json!({}), absent.clone()],
        ),
        (
            json!([{"exists": false}]),
            vec![absent.clone(), json!([]), json!({"a": 1})],
            vec![json!("x"), json!(null)],
        ),
        (
            json!([{"anything-but": "a"}]),
            vec![json!("b"), json!(1), json!(null), json!(["a", "b"])],
            vec![json!("a"), json!(["a"]), json!([]), absent.clone()],
        ),
        (
            json!([{"anything-but": ["a", "b"]}]),
            vec![json!("c")],
            vec![json!("a"), json!("b")],
        ),
        (
            json!([{"anything-but": 5}]),
            vec![json!(6), json!("5")],
            vec![json!(5), json!(5.0)],
        ),
        (
            json!([{"anything-but": [5, 6]}]),
            vec![json!(7)],
            vec![json!(6)],
        ),
        (
            json!([{"anything-but": {"prefix": "a"}}]),
            vec![json!("b"), json!(1), json!(null)],
            vec![json!("ab")],
        ),
        (
            json!([{"anything-but": {"prefix": ["a", "b"]}}]),
            vec![json!("c")],
            vec![json!("ab"), json!("ba")],
        ),
        (
            json!([{"anything-but": {"suffix": ["a", "b"]}}]),
            vec![json!("c")],
            vec![json!("ba"), json!("ab")],
        ),
        (
            json!([{"anything-but": {"wildcard": "*/lib/*"}}]),
            vec![json!("a/b"), json!(1)],
            vec![json!("a/lib/b")],
        ),
        (
            json!([{"anything-but": {"equals-ignore-case": ["A", "b"]}}]),
            vec![json!("c")],
            vec![json!("a"), json!("B")],
        ),
        (
            json!([{"anything-but": {"suffix": "a"}}]),
            vec![json!("ab"), json!(["ba", "b"])],
            vec![json!("ba"), json!(["ba"]), absent.clone()],
        ),
        (
            json!([{"anything-but": {"equals-ignore-case": "a"}}]),
            vec![json!("b"), json!(5)],
            vec![json!("A"), json!("a"), json!([]), absent.clone()],
        ),
        (
            json!([{"anything-but": ""}]),
            vec![json!("a"), json!(null)],
            vec![json!("")],
        ),
        (
            json!([{"prefix": ""}]),
            vec![json!(""), json!("a")],
            vec![json!(null), json!(1), absent.clone()],
        ),
        (
            json!([{"equals-ignore-case": ""}]),
            vec![json!("")],
            vec![json!(null), json!("a")],
        ),
        (
            json!([{"wildcard": ""}]),
            vec![json!("")],
            vec![json!("a"), json!(null)],
        ),
        (
            json!([{"cidr": "2001:db8::/33"}]),
            vec![json!("2001:db8:7fff:ffff::1"), json!(["x", "2001:db8::"])],
            vec![json!("2001:db8:8000::"), json!("10.0.0.1"), json!(5)],
        ),
        (
            json!(["::1"]),
            vec![json!("::1"), json!("0:0:0:0:0:0:0:1")],
            vec![json!("::2"), json!("127.0.0.1")],
        ),
        (
            json!([{"cidr": "10.0.0.0/9"}]),
            vec![json!("10.127.255.255")],
            vec![json!("10.128.0.0")],
        ),
        (
            json!([{"exists": false}, null]),
            vec![absent.clone(), json!(null), json!([])],
            vec![json!(""), json!(0)],
        ),
        (
            json!([{"numeric": [">", -5, "<", -1]}]),
            vec![json!(-2), json!([0, -4.9])],
            vec![json!(-5), json!(-1), json!(null), json!([])],
        ),
        (
            json!([{"exists": false}, {"anything-but": "a"}]),
            vec![absent.clone(), json!("b")],
            vec![json!("a")],
        ),
        (
            json!([{"prefix": "a"}, "b", {"numeric": [">", 7]}]),
            vec![json!("ax"), json!("b"), json!(8)],
            vec![json!("bx"), json!(7)],
        ),
    ];
    for (leaf, good, bad) in rows {
        let pattern = json!({"f": leaf});
        for (values, expected) in [(good, true), (bad, false)] {
            for value in values {
                let event = if value == absent {
                    json!({"g": 1})
                } else {
                    json!({"f": value})
                };
                assert_eq!(matches(&pattern, &event), expected, "{pattern} {event}");
            }
        }
    }
}

#[test]
fn all_fields_must_match_and_names_are_exact() {
    let pattern = json!({"source": ["shop"], "detail": {"state": {"now": ["paid"]}}});
    assert!(matches(
        &pattern,
        &json!({"source": "shop", "detail": {"state": {"now": "paid", "x": 1}}})
    ));
    for event in [
        json!({"source": "shop", "detail": {"state": {"now": "open"}}}),
        json!({"source": "x", "detail": {"state": {"now": "paid"}}}),
        json!({"Source": "shop", "detail": {"state": {"now": "paid"}}}),
        json!({"source": "shop", "detail": "{\"state\":{\"now\":\"paid\"}}"}),
        json!({"source": "shop"}),
    ] {
        assert!(!matches(&pattern, &event), "{event}");
    }
}

#[test]
fn one_element_of_an_array_satisfies_all_fields() {
    let pattern = json!({"items": {"sku": ["a"], "count": [{"numeric": [">", 1]}]}});
    assert!(matches(
        &pattern,
        &json!({"items": [{"sku": "b", "count": 1}, {"sku": "a", "count": 2}]})
    ));
    assert!(!matches(
        &pattern,
        &json!({"items": [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}]})
    ));
    assert!(matches(
        &pattern,
        &json!({"items": [[{"sku": ["x", "a"], "count": [0, 2]}]]})
    ));
    assert!(!matches(&pattern, &json!({"items": []})));
}

#[test]
fn nothing_matches_below_what_is_not_there_but_its_absence() {
    let pattern = json!({"a": {"b": [{"exists": false}]}});
    assert!(matches(&pattern, &json!({})));
    assert!(matches(&pattern, &json!({"a": "text"})));
    assert!(!matches(&pattern, &json!({"a": {"b": 1}})));
    assert!(!matches(
        &json!({"a": {"b": [{"exists": true}]}}),
        &json!({"a": 1})
    ));
}

#[test]
fn or_at_any_level() {
    let pattern = json!({"source": ["s"], "$or": [{"a": [1]}, {"b": [2], "c": [3]}]});
    assert!(matches(&pattern, &json!({"source": "s", "a": 1})));
    assert!(matches(&pattern, &json!({"source": "s", "b": 2, "c": 3})));
    assert!(!matches(&pattern, &json!({"source": "s", "b": 2})));
    assert!(!matches(&pattern, &json!({"source": "x", "a": 1})));
    let inner = json!({"detail": {"$or": [{"a": [1]}, {"$or": [{"b": [2]}, {"b": [3]}]}]}});
    assert!(matches(&inner, &json!({"detail": {"b": 3}})));
    assert!(!matches(&inner, &json!({"detail": {"b": 4}})));
    let consistent = json!({"items": {"sku": ["a"], "$or": [{"n": [1]}, {"m": [1]}]}});
    assert!(!matches(
        &consistent,
        &json!({"items": [{"sku": "a"}, {"n": 1}]})
    ));
}

#[test]
fn or_may_be_a_fields_name() {
    assert!(matches(&json!({"$or": ["x"]}), &json!({"$or": "x"})));
    let operators = json!({"$or": [{"prefix": "a"}, {"suffix": "b"}]});
    assert!(matches(&operators, &json!({"$or": "ax"})));
    assert!(!matches(&operators, &json!({"a": 1})));
}

#[test]
fn a_dotted_name_is_the_nested_one() {
    let nested = json!({"state": {"status": ["x"]}});
    let dotted = json!({"state.status": ["x"]});
    for pattern in [&nested, &dotted] {
        for event in [
            json!({"state": {"status": "x"}}),
            json!({"state.status": "x"}),
            json!({"state.status": "x", "state": {"status": "y", "z": 1}}),
        ] {
            assert!(matches(pattern, &event), "{pattern} {event}");
        }
        assert!(!matches(pattern, &json!({"state": {"status": "y"}})));
    }
}

#[test]
fn what_eventbridge_refuses_is_refused() {
    let deep: Vec<Value> = (0..40).map(|n| json!({"a": [n]})).collect();
    for bad in [
        json!({}),
        json!([]),
        json!("x"),
        json!({"f": "x"}),
        json!({"f": 1}),
        json!({"f": []}),
        json!({"f": {}}),
        json!({"f": [["x"]]}),
        json!({"f": [{}]}),
        json!({"f": [{"nothing": "x"}]}),
        json!({"f": [{"prefix": 1}]}),
        json!({"f": [{"prefix": "a", "suffix": "b"}]}),
        json!({"f": [{"prefix": {"suffix": "x"}}]}),
        json!({"f": [{"exists": "true"}]}),
        json!({"f": [{"numeric": []}]}),
        json!({"f": [{"numeric": [">"]}]}),
        json!({"f": [{"numeric": ["!", 1]}]}),
        json!({"f": [{"numeric": [">", "1"]}]}),
        json!({"f": [{"numeric": ["<", 1, ">", 0]}]}),
        json!({"f": [{"numeric": [">", 5, "<", 1]}]}),
        json!({"f": [{"numeric": [">", 0, "<", 1, "<", 2]}]}),
        json!({"f": [{"cidr": "10.0.0.0"}]}),
        json!({"f": [{"cidr": "10.0.0.0/32"}]}),
        json!({"f": [{"cidr": "x/8"}]}),
        json!({"f": [{"wildcard": "a**b"}]}),
        json!({"f": [{"wildcard": "a\\b"}]}),
        json!({"f": [{"wildcard": 1}]}),
        json!({"f": [{"anything-but": []}]}),
        json!({"f": [{"anything-but": ["a", 1]}]}),
        json!({"f": [{"anything-but": true}]}),
        json!({"f": [{"anything-but": {"prefix": []}}]}),
        json!({"f": [{"anything-but": {"numeric": ["=", 1]}}]}),
        json!({"f": [{"anything-but": null}]}),
        json!({"f": [{"anything-but": [null]}]}),
        json!({"f": [{"anything-but": [true]}]}),
        json!({"f": [{"anything-but": [["a"]]}]}),
        json!({"f": [{"anything-but": {}}]}),
        json!({"f": [{"anything-but": {"prefix": {"equals-ignore-case": "ab"}}}]}),
        json!({"f": [{"anything-but": {"prefix": 1}}]}),
        json!({"f": [{"anything-but": {"prefix": null}}]}),
        json!({"f": [{"anything-but": {"suffix": ["a", 1]}}]}),
        json!({"f": [{"anything-but": {"suffix": []}}]}),
        json!({"f": [{"anything-but": {"wildcard": "a**"}}]}),
        json!({"f": [{"anything-but": {"wildcard": []}}]}),
        json!({"f": [{"anything-but": {"equals-ignore-case": 5}}]}),
        json!({"f": [{"anything-but": {"equals-ignore-case": []}}]}),
        json!({"f": [{"anything-but": {"exists": true}}]}),
        json!({"f": [{"anything-but": {"cidr": "10.0.0.0/8"}}]}),
        json!({"f": [{"anything-but": {"anything-but": "a"}}]}),
        json!({"f": [{"anything-but": {"prefix": "a", "suffix": "b"}}]}),
        json!({"f": [{"equals-ignore-case": ["a"]}]}),
        json!({"f": [{"equals-ignore-case": null}]}),
        json!({"f": [{"suffix": ["a"]}]}),
        json!({"f": [{"suffix": {"prefix": "a"}}]}),
        json!({"f": [{"suffix": {"equals-ignore-case": 1}}]}),
        json!({"f": [{"prefix": {}}]}),
        json!({"f": [{"prefix": null}]}),
        json!({"f": [{"wildcard": "a\\"}]}),
        json!({"f": [{"wildcard": ["a"]}]}),
        json!({"f": [{"exists": null}]}),
        json!({"f": [{"exists": [true]}]}),
        json!({"f": [{"numeric": 5}]}),
        json!({"f": [{"numeric": [5]}]}),
        json!({"f": [{"numeric": ["=", 1, "<", 2]}]}),
        json!({"f": [{"numeric": [">", 1, "<"]}]}),
        json!({"f": [{"numeric": [">", 1, ">", 2]}]}),
        json!({"f": [{"numeric": [">", 1, "<", 1]}]}),
        json!({"f": [{"numeric": ["==", 1]}]}),
        json!({"f": [{"cidr": "::/128"}]}),
        json!({"f": [{"cidr": "2001:db8::1"}]}),
        json!({"f": [{"cidr": "2001:db8:::/32"}]}),
        json!({"f": [{"cidr": "10.0.0.0/-1"}]}),
        json!({"f": [{"cidr": "10.0.0/8"}]}),
        json!({"f": [{"cidr": "10.0.0.256/8"}]}),
        json!({"f": [{"cidr": ["10.0.0.0/8"]}]}),
        json!({"$or": [{"a": [1]}]}),
        json!({"$or": [{"a": [1]}, {}]}),
        json!({"x": {"$or": deep}, "y": {"$or": deep}}),
        json!({"f": ["x".repeat(4096)]}),
    ] {
        assert!(Pattern::parse(&bad.to_string()).is_err(), "{bad}");
    }
    assert!(Pattern::parse("{\"f\":").is_err());
}

#[test]
fn an_event_of_any_source_can_be_matched() {
    let event = Event {
        attributes: vec![
            ("source".into(), "shop".into()),
            ("resource".into(), "arn:1".into()),
            ("resource".into(), "arn:2".into()),
        ],
        meta: vec![("queue".into(), "orders".into())],
        body: r#"{"total":12}"#.into(),
        ..Event::default()
    };
    for pattern in [
        json!({"source": ["shop"], "resources": ["arn:2"], "detail": {"total": [12]}}),
        json!({"body": {"total": [{"numeric": [">", 10]}]}, "meta": {"queue": ["orders"]}}),
    ] {
        let pattern = Pattern::parse(&pattern.to_string()).unwrap();
        assert!(pattern.matches_event(&event));
    }
    let text = Event {
        body: "hi there".into(),
        ..Event::default()
    };
    let pattern = Pattern::parse(r#"{"body":[{"prefix":"hi"}]}"#).unwrap();
    assert!(pattern.matches_event(&text));
}
