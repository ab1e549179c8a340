//! What the tests of AWS's open rule engine look at, area by area, as patterns and events of ours.
//!
//! Each row: what it shows, a pattern, an event, whether it matches. Answers were compared with the
//! engine's own (2.0.1), also for some hundred thousand generated pairs.

use serde_json::Value;

use super::Pattern;

type Row = (&'static str, &'static str, &'static str, bool);

fn check(rows: &[Row]) {
    for (what, pattern, event, expected) in rows {
        let parsed = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{what}: {error}"));
        let event: Value = serde_json::from_str(event).unwrap_or_else(|_| panic!("{what}: event"));
        let found = parsed.matches(&event);
        assert_eq!(found, *expected, "{what}: {pattern} {event}");
    }
}

fn check_refused(rows: &[(&str, &str)]) {
    for (pattern, reason) in rows {
        let error = Pattern::parse(pattern).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(reason), "{pattern}: {error}");
    }
}

#[test]
fn numbers_however_they_are_written() {
    for written in ["7", "7.0", "7e0", "70e-1", "0.7E1"] {
        for pattern in [
            r#"{"n":[7]}"#,
            r#"{"n":[7.00]}"#,
            r#"{"n":[{"numeric":["=",7e0]}]}"#,
            r#"{"n":[{"numeric":[">=",7,"<",7.5]}]}"#,
        ] {
            let event = format!(r#"{{"n":{written}}}"#);
            let event: Value = serde_json::from_str(&event).unwrap();
            assert!(Pattern::parse(pattern).unwrap().matches(&event), "{event}");
        }
    }
    check(&[
        ("zero has no sign", r#"{"n":[0]}"#, r#"{"n":-0.0}"#, true),
        ("a text is no number", r#"{"n":[7]}"#, r#"{"n":"7"}"#, false),
        ("a number is no text", r#"{"n":["7"]}"#, r#"{"n":7}"#, false),
        ("a text that looks like one", r#"{"n":[{"numeric":["=",7]}]}"#, r#"{"n":"7"}"#, false),
        ("twelve digits", r#"{"n":[123456789012]}"#, r#"{"n":123456789012}"#, true),
        ("beyond five thousand million", r#"{"n":[{"numeric":[">",5000000000]}]}"#, r#"{"n":6e9}"#, true),
        ("fractions", r#"{"n":[{"numeric":["<",0.30001]}]}"#, r#"{"n":0.3}"#, true),
        ("very small", r#"{"n":[{"numeric":[">",0]}]}"#, r#"{"n":1e-300}"#, true),
        ("no double holds it: digit by digit", r#"{"n":[9007199254740993]}"#, r#"{"n":9007199254740993}"#, true),
        ("its neighbour is another", r#"{"n":[9007199254740993]}"#, r#"{"n":9007199254740992}"#, false),
        ("it is not compared", r#"{"n":[{"numeric":[">",0]}]}"#, r#"{"n":9007199254740993}"#, false),
        ("and is anything but", r#"{"n":[{"anything-but":9007199254740992}]}"#, r#"{"n":9007199254740993}"#, true),
    ]);
}

#[test]
fn bounds_of_ranges() {
    for (range, within, without) in [
        (r#"["<",10]"#, "9.99", "10"),
        (r#"["<=",10]"#, "10", "10.01"),
        (r#"[">",10]"#, "10.01", "10"),
        (r#"[">=",10]"#, "10", "9.99"),
        (r#"["=",10]"#, "10", "-10"),
        (r#"[">",-3,"<",3]"#, "-2.9", "-3"),
        (r#"[">",-3,"<=",3]"#, "3", "3.1"),
        (r#"[">=",-3,"<",3]"#, "-3", "3"),
        (r#"[">=",-3,"<=",3]"#, "3", "-3.1"),
    ] {
        let pattern = format!(r#"{{"n":[{{"numeric":{range}}}]}}"#);
        let pattern = Pattern::parse(&pattern).unwrap();
        for (number, expected) in [(within, true), (without, false)] {
            let event: Value = serde_json::from_str(&format!(r#"{{"n":{number}}}"#)).unwrap();
            assert_eq!(pattern.matches(&event), expected, "{range} {number}");
        }
    }
    check(&[
        ("ranges beside each other", r#"{"n":[{"numeric":["<",1]},{"numeric":[">",9]}]}"#, r#"{"n":10}"#, true),
        ("between them", r#"{"n":[{"numeric":["<",1]},{"numeric":[">",9]}]}"#, r#"{"n":5}"#, false),
        ("a range or a text", r#"{"n":[{"numeric":["<",1]},"none"]}"#, r#"{"n":"none"}"#, true),
    ]);
}

#[test]
fn null_empty_and_absent_are_three_things() {
    for (event, null, empty, there) in [
        (r#"{"f":null}"#, true, false, true),
        (r#"{"f":""}"#, false, true, true),
        (r#"{"f":[]}"#, false, false, false),
        (r#"{"f":{}}"#, false, false, false),
        (r#"{"f":[null]}"#, true, false, true),
        (r#"{"f":["",null]}"#, true, true, true),
        (r#"{"f":"null"}"#, false, false, true),
        ("{}", false, false, false),
    ] {
        for (pattern, expected) in [
            (r#"{"f":[null]}"#, null),
            (r#"{"f":[""]}"#, empty),
            (r#"{"f":[{"exists":true}]}"#, there),
            (r#"{"f":[{"exists":false}]}"#, !there),
            (r#"{"f":[{"anything-but":"x"}]}"#, there),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            let value: Value = serde_json::from_str(event).unwrap();
            assert_eq!(parsed.matches(&value), expected, "{pattern} {event}");
        }
    }
    check(&[
        ("truth is no text", r#"{"f":[true]}"#, r#"{"f":"true"}"#, false),
        ("nor a text truth", r#"{"f":["false"]}"#, r#"{"f":false}"#, false),
        ("any text begins with nothing", r#"{"f":[{"prefix":""}]}"#, r#"{"f":""}"#, true),
        ("but only a text", r#"{"f":[{"prefix":""}]}"#, r#"{"f":0}"#, false),
        ("any text ends with nothing", r#"{"f":[{"suffix":{"equals-ignore-case":""}}]}"#, r#"{"f":"x"}"#, true),
        ("a star is any text", r#"{"f":[{"wildcard":"*"}]}"#, r#"{"f":""}"#, true),
        ("but no number", r#"{"f":[{"wildcard":"*"}]}"#, r#"{"f":3}"#, false),
        ("null is anything but a prefix", r#"{"f":[{"anything-but":{"prefix":"x"}}]}"#, r#"{"f":null}"#, true),
        ("a number is anything but texts", r#"{"f":[{"anything-but":["1"]}]}"#, r#"{"f":1}"#, true),
        ("a text is anything but numbers", r#"{"f":[{"anything-but":[1]}]}"#, r#"{"f":"1"}"#, true),
        ("one of several is enough", r#"{"f":[{"anything-but":["a","b"]}]}"#, r#"{"f":["a","b","c"]}"#, true),
    ]);
}

#[test]
fn texts_without_regard_to_case() {
    check(&[
        ("each letter either way", r#"{"f":[{"equals-ignore-case":"OnLine"}]}"#, r#"{"f":"oNlINE"}"#, true),
        ("the whole text", r#"{"f":[{"equals-ignore-case":"OnLine"}]}"#, r#"{"f":"onlines"}"#, false),
        ("letters of other alphabets", r#"{"f":[{"equals-ignore-case":"жÉΣ"}]}"#, r#"{"f":"ЖéΣ"}"#, true),
        ("sigma at a word's end", r#"{"f":[{"equals-ignore-case":"ς"}]}"#, r#"{"f":"Σ"}"#, true),
        ("is another one than within", r#"{"f":[{"equals-ignore-case":"σ"}]}"#, r#"{"f":"ς"}"#, false),
        ("two letters in upper case", r#"{"f":[{"equals-ignore-case":"maß"}]}"#, r#"{"f":"MASS"}"#, true),
        ("not so in lower case", r#"{"f":[{"equals-ignore-case":"maß"}]}"#, r#"{"f":"mass"}"#, false),
        ("a beginning", r#"{"f":[{"prefix":{"equals-ignore-case":"éta"}}]}"#, r#"{"f":"ÉTAT"}"#, true),
        ("a beginning alone", r#"{"f":[{"prefix":{"equals-ignore-case":"eta"}}]}"#, r#"{"f":"beta"}"#, false),
        ("an end", r#"{"f":[{"suffix":{"equals-ignore-case":".JpEg"}}]}"#, r#"{"f":"p.jpeg"}"#, true),
        ("an end of more bytes", r#"{"f":[{"suffix":{"equals-ignore-case":"Ñé"}}]}"#, r#"{"f":"xñÉ"}"#, true),
        ("an end alone", r#"{"f":[{"suffix":{"equals-ignore-case":".jpeg"}}]}"#, r#"{"f":"p.jpeg2"}"#, false),
        ("none of these", r#"{"f":[{"anything-but":{"equals-ignore-case":["ON","off"]}}]}"#, r#"{"f":"Off"}"#, false),
        ("something else", r#"{"f":[{"anything-but":{"equals-ignore-case":["ON","off"]}}]}"#, r#"{"f":"Offer"}"#, true),
        ("exactly is exact", r#"{"f":[{"exactly":"On"}]}"#, r#"{"f":"on"}"#, false),
    ]);
}

#[test]
fn stars_and_what_they_stand_for() {
    for (wildcard, yes, no) in [
        ("a*", "a,ab,a*", "ba,,A"),
        ("*a", "a,ba,aa", "ab,"),
        ("*a*", "a,bab,aa", "b,"),
        ("a*a", "aa,aba,aaa", "a,ab"),
        ("ab*cd*ef", "abcdef,abxcdyef,abcdcdef", "abcef,abcde,xabcdef"),
        ("*ab*ab*", "abab,xabyabz", "ab,aba,baba"),
        (r"a\\*b", "a*b", "ab,axb"),
        (r"a\\\\*", r"a\\,a\\x", "a,ax"),
        ("né*", "né,née", "ne,n"),
    ] {
        let pattern = format!(r#"{{"f":[{{"wildcard":"{wildcard}"}}]}}"#);
        let but = format!(r#"{{"f":[{{"anything-but":{{"wildcard":"{wildcard}"}}}}]}}"#);
        let (pattern, but) = (
            Pattern::parse(&pattern).unwrap(),
            Pattern::parse(&but).unwrap(),
        );
        for (texts, expected) in [(yes, true), (no, false)] {
            for text in texts.split(',') {
                let event: Value = serde_json::from_str(&format!(r#"{{"f":"{text}"}}"#)).unwrap();
                assert_eq!(pattern.matches(&event), expected, "{wildcard} {text}");
                assert_eq!(but.matches(&event), !expected, "but {wildcard} {text}");
            }
        }
    }
}

#[test]
fn addresses_and_networks() {
    for (network, within, without) in [
        ("10.4.0.0/16", "10.4.255.255,10.4.0.0", "10.5.0.0,10.3.255.255,x,10.4.1"),
        ("10.4.9.9/16", "10.4.0.1", "10.5.9.9"),
        ("192.0.2.6/31", "192.0.2.6,192.0.2.7", "192.0.2.5,192.0.2.8"),
        ("0.0.0.0/1", "127.255.255.255", "128.0.0.0"),
        ("010.004.000.000/16", "10.4.1.1,010.4.1.1", "8.4.1.1"),
        ("2001:db8:7::/48", "2001:db8:7::1,2001:0DB8:7:0:0::ffff", "2001:db8:8::,10.4.0.1,::1.2.3.4"),
        ("::1/127", "::,::1,0:0:0:0:0:0:0:1", "::2"),
        ("::ffff:c000:200/24", "192.0.2.77,::ffff:c000:24d", "192.0.3.1"),
    ] {
        let pattern = format!(r#"{{"ip":[{{"cidr":"{network}"}}]}}"#);
        let pattern = Pattern::parse(&pattern).unwrap();
        for (addresses, expected) in [(within, true), (without, false)] {
            for address in addresses.split(',') {
                let event: Value =
                    serde_json::from_str(&format!(r#"{{"ip":"{address}"}}"#)).unwrap();
                assert_eq!(pattern.matches(&event), expected, "{network} {address}");
            }
        }
    }
    check(&[
        ("an address however written", r#"{"ip":["2001:db8::1"]}"#, r#"{"ip":"2001:DB8:0:0::0001"}"#, true),
        ("only that one", r#"{"ip":["2001:db8::1"]}"#, r#"{"ip":"2001:db8::2"}"#, false),
        ("not when it must be exact", r#"{"ip":[{"exactly":"::1"}]}"#, r#"{"ip":"0::1"}"#, false),
        ("not in what it must not be", r#"{"ip":[{"anything-but":"::1"}]}"#, r#"{"ip":"0::1"}"#, true),
        ("a number is in no network", r#"{"ip":[{"cidr":"0.0.0.0/0"}]}"#, r#"{"ip":10}"#, false),
    ]);
}

#[test]
fn elements_of_arrays_stay_together() {
    let crew = r#"{"crew":[{"name":"Ada","role":"pilot","at":["A","B"]},{"name":"Bo","role":"cook"}],"ship":"X"}"#;
    let decks =
        r#"{"decks":[[{"no":1,"open":true},{"no":2,"open":false}],[{"no":3,"open":true}]]}"#;
    check(&[
        ("one element has both", r#"{"crew":{"name":["Bo"],"role":["cook"]}}"#, crew, true),
        ("two elements have one each", r#"{"crew":{"name":["Bo"],"role":["pilot"]}}"#, crew, false),
        ("with an array within", r#"{"crew":{"at":["B"],"role":["pilot"]}}"#, crew, true),
        ("of another element", r#"{"crew":{"at":["B"],"role":["cook"]}}"#, crew, false),
        ("beside what is in none", r#"{"crew":{"name":["Ada"]},"ship":["X"]}"#, crew, true),
        ("arrays in arrays", r#"{"decks":{"no":[3],"open":[true]}}"#, decks, true),
        ("in the same inner one", r#"{"decks":{"no":[2],"open":[true]}}"#, decks, false),
        ("arrays beside each other are apart", r#"{"a":{"x":[1]},"b":{"x":[2]}}"#, r#"{"a":[{"x":0},{"x":1}],"b":[{"x":2},{"x":3}]}"#, true),
        ("scalars beside objects belong to none of them", r#"{"a":[1],"a":{"x":[2]}}"#, r#"{"a":[1,{"x":2}]}"#, true),
        ("but an inner array's belong to it", r#"{"a":[1],"a":{"x":[2]}}"#, r#"{"a":[[1],[{"x":2}]]}"#, false),
        ("deep below", r#"{"d":{"l":{"m":{"k":["v"],"n":[2]}}}}"#, r#"{"d":[{"l":[{"m":[{"k":"v","n":1}]},{"m":[{"k":"w","n":2},{"k":"v","n":2}]}]}]}"#, true),
        ("and not across", r#"{"d":{"l":{"i":["1"],"m":{"n":[2]}}}}"#, r#"{"d":[{"l":[{"i":"1","m":[{"n":1}]},{"i":"2","m":[{"n":2}]}]}]}"#, false),
    ]);
}

#[test]
fn absence_within_arrays() {
    check(&[
        ("nowhere", r#"{"a":{"x":[{"exists":false}]}}"#, r#"{"a":[{"y":1},{"y":2}]}"#, true),
        ("somewhere", r#"{"a":{"x":[{"exists":false}]}}"#, r#"{"a":[{"y":1},{"x":2}]}"#, false),
        ("an empty array", r#"{"a":{"x":[{"exists":false}]}}"#, r#"{"a":[]}"#, true),
        ("scalars have nothing within", r#"{"a":{"x":[{"exists":false}]}}"#, r#"{"a":[1,"s"]}"#, true),
        ("an object is no leaf", r#"{"a":[{"exists":false}]}"#, r#"{"a":{"x":1}}"#, true),
        ("nor present", r#"{"a":[{"exists":true}]}"#, r#"{"a":{"x":1}}"#, false),
        ("in the element that another field was found in", r#"{"a":{"id":[1],"x":[{"exists":false}]}}"#, r#"{"a":[{"id":1},{"id":2,"x":0}]}"#, true),
        ("which has it", r#"{"a":{"id":[2],"x":[{"exists":false}]}}"#, r#"{"a":[{"id":1},{"id":2,"x":0}]}"#, false),
        ("a field that comes later in the order of names finds none", r#"{"a":{"z":[1],"x":[{"exists":false}]}}"#, r#"{"a":[{"z":1},{"z":2,"x":0}]}"#, false),
        ("absent or a value", r#"{"a":[{"exists":false},"s"]}"#, r#"{"a":"s"}"#, true),
        ("or another", r#"{"a":[{"exists":false},"s"]}"#, r#"{"a":"t"}"#, false),
        ("both must hold", r#"{"a":[{"exists":true}],"b":[{"exists":false}]}"#, r#"{"a":0,"b":0}"#, false),
    ]);
}

#[test]
fn or_and_what_is_beside_it() {
    let rule = r#"{"source":["shop"],"$or":[{"sku":["a","b"]},{"kind":["k"],"$or":[{"n":[1]},{"m":[2]}]},{"all":["yes"]}]}"#;
    check(&[
        ("the first", rule, r#"{"source":"shop","sku":"b"}"#, true),
        ("the second needs one more", rule, r#"{"source":"shop","kind":"k"}"#, false),
        ("the second", rule, r#"{"source":"shop","kind":"k","m":2}"#, true),
        ("the third", rule, r#"{"source":"shop","all":"yes"}"#, true),
        ("without what is beside", rule, r#"{"source":"x","all":"yes"}"#, false),
        ("two that must both hold", r#"{"$or":[{"a":[1]},{"b":[1]}],"d":{"$or":[{"a":[2]},{"b":[2]}]}}"#, r#"{"b":1,"d":{"a":2}}"#, true),
        ("one of them does not", r#"{"$or":[{"a":[1]},{"b":[1]}],"d":{"$or":[{"a":[2]},{"b":[2]}]}}"#, r#"{"b":1,"a":2}"#, false),
        ("objects within", r#"{"$or":[{"with":{"m":{"ns":["x"]}}},{"without":{"name":["y"]}}]}"#, r#"{"without":{"name":"y"}}"#, true),
        ("the last written counts", r#"{"a":["1"],"$or":[{"a":["2"]},{"b":["3"]}]}"#, r#"{"a":"2"}"#, true),
        ("not the first", r#"{"a":["1"],"$or":[{"a":["2"]},{"b":["3"]}]}"#, r#"{"a":"1"}"#, false),
        ("written after it", r#"{"$or":[{"a":["2"]},{"b":["3"]}],"a":["1"]}"#, r#"{"a":"1"}"#, true),
        ("a name said twice", r#"{"a":["1"],"a":["2"]}"#, r#"{"a":"2"}"#, true),
        ("objects said twice", r#"{"a":{"x":[1]},"a":{"y":[2]}}"#, r#"{"a":{"x":1,"y":0}}"#, false),
        ("operators make it a name", r#"{"$or":[{"cidr":"10.0.0.0/8"}]}"#, r#"{"$or":"10.1.1.1"}"#, true),
        ("several of them too", r#"{"$or":[{"numeric":[">",0,"<=",5]},{"numeric":[">",10]}]}"#, r#"{"$or":11}"#, true),
        ("an object makes it a name", r#"{"$or":{"a":["x"]}}"#, r#"{"$or":{"a":"x"}}"#, true),
        ("one that is a name makes all names", r#"{"$or":["x"],"a":{"$or":[{"exists":true},"y"]}}"#, r#"{"$or":"x","a":{"$or":"z"}}"#, true),
    ]);
}

#[test]
fn names_with_dots_are_paths() {
    check(&[
        ("dots in the pattern", r#"{"a.b.c":[1]}"#, r#"{"a":{"b":{"c":1}}}"#, true),
        ("dots in the event", r#"{"a":{"b":{"c":[1]}}}"#, r#"{"a.b":{"c":1}}"#, true),
        ("in both, otherwise", r#"{"a.b":{"c":[1]}}"#, r#"{"a":{"b.c":1}}"#, true),
        ("a value and what is below it", r#"{"a":["x"],"a.b":[1]}"#, r#"{"a":"x","a.b":1}"#, true),
        ("one of them missing", r#"{"a":["x"],"a.b":[1]}"#, r#"{"a.b":1}"#, false),
        ("names are exact", r#"{"A":[1]}"#, r#"{"a":1}"#, false),
        ("an empty name", r#"{"":[1]}"#, r#"{"":1}"#, true),
    ]);
}

#[test]
fn what_is_refused_and_why() {
    check_refused(&[
        ("[]", "it must be an object"),
        ("{}", "an empty object"),
        (r#"{"a":{}}"#, "an empty object"),
        (r#"{"a":[]}"#, "\"a\" is an empty array"),
        (r#"{"a":"x"}"#, "\"a\" must be an object or an array"),
        (r#"{"a":[["x"]]}"#, "an array within an array"),
        (r#"{"a":[{}]}"#, "one name"),
        (r#"{"a":[{"prefix":"x","suffix":"y"}]}"#, "one name"),
        (r#"{"a":[{"like":"x"}]}"#, "\"like\" is no operator"),
        (r#"{"a":[{"prefix":["x"]}]}"#, "takes a string"),
        (r#"{"a":[{"prefix":{"wildcard":"x"}}]}"#, "\"wildcard\" is no operator here"),
        (r#"{"a":[{"exactly":1}]}"#, "takes a string"),
        (r#"{"a":[{"exists":1}]}"#, "true or false"),
        (r#"{"a":[{"numeric":[">",3,"<",3]}]}"#, "numeric takes"),
        (r#"{"a":[{"numeric":["<",3,">",1]}]}"#, "numeric takes"),
        (r#"{"a":[{"numeric":["=","3"]}]}"#, "not a number"),
        (r#"{"a":[{"numeric":["<",9007199254740993]}]}"#, "not a number that can be compared"),
        (r#"{"a":[{"anything-but":[1,9007199254740993]}]}"#, "not a number that can be compared"),
        (r#"{"a":[{"anything-but":["x",1]}]}"#, "anything-but takes"),
        (r#"{"a":[{"anything-but":[]}]}"#, "anything-but takes"),
        (r#"{"a":[{"anything-but":{"prefix":""}}]}"#, "an empty prefix"),
        (r#"{"a":[{"anything-but":{"suffix":["x",""]}}]}"#, "an empty suffix"),
        (r#"{"a":[{"anything-but":{"numeric":["=",1]}}]}"#, "\"numeric\" is no operator here"),
        (r#"{"a":[{"anything-but":{"prefix":{"equals-ignore-case":"x"}}}]}"#, "takes a string"),
        (r#"{"a":[{"wildcard":"x**y"}]}"#, "two stars"),
        (r#"{"a":[{"wildcard":"x\\y"}]}"#, "stands only before"),
        (r#"{"a":[{"wildcard":"x\\"}]}"#, "stands only before"),
        (r#"{"a":[{"cidr":"10.0.0.0"}]}"#, "is not ADDRESS/BITS"),
        (r#"{"a":[{"cidr":"10.0.0.1/32"}]}"#, "is not ADDRESS/BITS"),
        (r#"{"a":[{"cidr":"::1/128"}]}"#, "is not ADDRESS/BITS"),
        (r#"{"a":[{"cidr":"300.0.0.0/8"}]}"#, "is not ADDRESS/BITS"),
        (r#"{"a":[{"cidr":"::ffff:10.0.0.0/8"}]}"#, "is not ADDRESS/BITS"),
        (r#"{"a":[{"cidr":"10.0.0.0/8/"}]}"#, "is not ADDRESS/BITS"),
        (r#"{"$or":[{"a":[1]}]}"#, "at least two"),
        (r#"{"$or":[{"a":[1]},["b"]]}"#, "at least two objects"),
        (r#"{"$or":[{"a":[1]},{"regex":["b"]}]}"#, "\"regex\" cannot be a field's name"),
        (r#"{"$or":[{"a":[1]},{"b":{"=":["b"]}}]}"#, "\"=\" cannot be a field's name"),
    ]);
}
