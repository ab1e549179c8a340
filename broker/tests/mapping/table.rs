//! The mapping between the protocols, as data: each row says the same thing in each of them.
//!
//! The tests publish a row in the words of one protocol and want to read it in the words of
//! another; `docs/mapping.md` shows the same rows.

/// A property of MQTT 5 that travels with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prop {
    ContentType(&'static str),
    ResponseTopic(&'static str),
    Correlation(&'static [u8]),
    User(&'static str, &'static str),
}

use Prop::{ContentType, Correlation, ResponseTopic, User};

/// One message in each protocol's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// What is shown.
    pub(crate) what: &'static str,
    /// The payload's bytes, the same everywhere.
    pub(crate) payload: &'static [u8],
    /// What JSON says about the payload together with the properties.
    pub(crate) data: &'static str,
    /// What JSON says about the payload alone: from MQTT 3.1.1, which has no properties.
    pub(crate) bare: &'static str,
    /// In MQTT 5.
    pub(crate) mqtt: &'static [Prop],
    /// In STOMP 1.2: header lines as they lie on the wire.
    pub(crate) stomp: &'static [&'static str],
    /// In JSON: the fields behind the data.
    pub(crate) json: &'static str,
}

const TEXT: &str = r#""dataType":"text","data":"hi""#;

const fn property(
    what: &'static str,
    mqtt: &'static [Prop],
    stomp: &'static [&'static str],
    json: &'static str,
) -> Row {
    Row {
        what,
        payload: b"hi",
        data: TEXT,
        bare: TEXT,
        mqtt,
        stomp,
        json,
    }
}

/// A message with nothing but its payload.
pub(crate) const PLAIN: Row = property("nothing but text", &[], &[], "");

/// Payloads.
pub(crate) const PAYLOADS: &[Row] = &[
    PLAIN,
    Row {
        what: "any characters",
        payload: "é雪\u{1f642} \"\\\n\r\t\0\u{1b}\u{2028}".as_bytes(),
        data: r#""dataType":"text","data":"é雪🙂 \"\\\n\r\t\u0000\u001b\u2028""#,
        bare: r#""dataType":"text","data":"é雪🙂 \"\\\n\r\t\u0000\u001b\u2028""#,
        ..PLAIN
    },
    Row {
        what: "empty",
        payload: b"",
        data: r#""dataType":"text","data":"""#,
        bare: r#""dataType":"text","data":"""#,
        ..PLAIN
    },
    Row {
        what: "JSON",
        payload: br#"{"on":true, "t":21.50,"a":[1,null]}"#,
        data: r#""dataType":"json","data":{"on":true, "t":21.50,"a":[1,null]}"#,
        bare: r#""dataType":"text","data":"{\"on\":true, \"t\":21.50,\"a\":[1,null]}""#,
        mqtt: &[ContentType("application/json")],
        stomp: &["content-type:application/json"],
        json: r#","contentType":"application/json""#,
    },
    Row {
        what: "bytes",
        payload: b"\x00\xff\xfe\x00",
        data: r#""dataType":"base64","data":"AP/+AA==""#,
        bare: r#""dataType":"base64","data":"AP/+AA==""#,
        mqtt: &[ContentType("application/octet-stream")],
        stomp: &["content-type:application/octet-stream"],
        json: r#","contentType":"application/octet-stream""#,
    },
    Row {
        what: "bytes that look like text",
        payload: b"hi",
        data: r#""dataType":"base64","data":"aGk=""#,
        bare: TEXT,
        mqtt: &[ContentType("application/octet-stream")],
        stomp: &["content-type:application/octet-stream"],
        json: r#","contentType":"application/octet-stream""#,
    },
];

/// Properties.
pub(crate) const PROPERTIES: &[Row] = &[
    property(
        "content type",
        &[ContentType("text/plain;charset=utf-8")],
        &["content-type:text/plain;charset=utf-8"],
        r#","contentType":"text/plain;charset=utf-8""#,
    ),
    property(
        "reply to a topic",
        &[ResponseTopic("answers/é/1")],
        &["reply-to:/topic/answers/é/1"],
        r#","replyTo":"answers/é/1""#,
    ),
    property(
        "reply to a queue",
        &[ResponseTopic("$queue/answers")],
        &["reply-to:/queue/answers"],
        r#","replyTo":"$queue/answers""#,
    ),
    property(
        "correlation, text",
        &[Correlation("req:7 é".as_bytes())],
        &[r"correlation-id:req\c7 é"],
        r#","correlationId":"req:7 é""#,
    ),
    property(
        "correlation, bytes",
        &[Correlation(b"\xff\x00\x10")],
        &[r"correlation-id:base64\c/wAQ"],
        r#","correlationIdBase64":"/wAQ""#,
    ),
    property(
        "correlation, text with NUL",
        &[Correlation(b"a\0b")],
        &[r"correlation-id:base64\cYQBi"],
        r#","correlationIdBase64":"YQBi""#,
    ),
    property(
        "correlation, text that looks coded",
        &[Correlation(b"base64:AAAA")],
        &[r"correlation-id:base64\cYmFzZTY0OkFBQUE="],
        r#","correlationId":"base64:AAAA""#,
    ),
    property(
        "correlation, empty",
        &[Correlation(b"")],
        &["correlation-id:"],
        r#","correlationId":"""#,
    ),
    property(
        "user property",
        &[User("trace", "4bf9")],
        &["trace:4bf9"],
        r#","headers":{"trace":"4bf9"}"#,
    ),
    property(
        "repeats, in their order",
        &[
            User("tag", "new"),
            User("tag", "eu"),
            User("tag", "new"),
            User("a", ""),
        ],
        &["tag:new", "tag:eu", "tag:new", "a:"],
        r#","headers":{"tag":["new","eu","new"],"a":""}"#,
    ),
    property(
        "spaces, quotes, colons, backslashes",
        &[User("a:b\\c \"d\"", " x:y\\z\\n \"q\" ")],
        &[r#"a\cb\\c "d": x\cy\\z\\n "q" "#],
        r#","headers":{"a:b\\c \"d\"":" x:y\\z\\n \"q\" "}"#,
    ),
    property(
        "line ends and control characters",
        &[User("a\nb\r", "1\r\n\n2\t\u{1}\u{7f}\u{2028}é")],
        &["a\\nb\\r:1\\r\\n\\n2\t\u{1}\u{7f}\u{2028}é"],
        r#","headers":{"a\nb\r":"1\r\n\n2\t\u0001\u007f\u2028é"}"#,
    ),
    property(
        "without a name",
        &[User("", "v")],
        &["user-:v"],
        r#","headers":{"":"v"}"#,
    ),
    property(
        "names that mean something in STOMP",
        &[
            User("content-type", "x"),
            User("redelivered", "true"),
            User("destination", "/queue/x"),
            User("user-ack", "1"),
            User("user-agent", "curl"),
        ],
        &[
            "user-content-type:x",
            "user-redelivered:true",
            "user-destination:/queue/x",
            "user-user-ack:1",
            "user-agent:curl",
        ],
        concat!(
            r#","headers":{"content-type":"x","redelivered":"true","destination":"/queue/x","#,
            r#""user-ack":"1","user-agent":"curl"}"#
        ),
    ),
    property(
        "names that mean something in JSON",
        &[
            User("type", "x"),
            User("topic", "y"),
            User("contentType", "z"),
        ],
        &["type:x", "topic:y", "contentType:z"],
        r#","headers":{"type":"x","topic":"y","contentType":"z"}"#,
    ),
    property(
        "all together",
        &[
            ContentType("text/plain"),
            ResponseTopic("answers"),
            Correlation(b"7"),
            User("k", "1"),
            User("k", "2"),
        ],
        &[
            "content-type:text/plain",
            "correlation-id:7",
            "reply-to:/topic/answers",
            "k:1",
            "k:2",
        ],
        concat!(
            r#","contentType":"text/plain","correlationId":"7","replyTo":"answers","#,
            r#""headers":{"k":["1","2"]}"#
        ),
    ),
];

/// Where a message goes, in each protocol's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// What is shown.
    pub(crate) what: &'static str,
    /// The topic, the same in both versions of MQTT.
    pub(crate) topic: &'static str,
    /// The destination, as it lies on the wire.
    pub(crate) stomp: &'static str,
    /// What a JSON client publishes with, behind the type.
    pub(crate) json: &'static str,
    /// What a JSON client reads.
    pub(crate) json_seen: &'static str,
}

/// The topic that the rows of other tables are published on.
pub(crate) const AB: Place = Place {
    what: "a topic",
    topic: "a/b",
    stomp: "/topic/a/b",
    json: r#""topic":"a/b""#,
    json_seen: r#""topic":"a/b""#,
};

/// Places.
pub(crate) const PLACES: &[Place] = &[
    AB,
    Place {
        what: "empty levels",
        topic: "/a//b/",
        stomp: "/topic//a//b/",
        json: r#""topic":"/a//b/""#,
        json_seen: r#""topic":"/a//b/""#,
    },
    Place {
        what: "other alphabets",
        topic: "maß/雪/🙂",
        stomp: "/topic/maß/雪/🙂",
        json: r#""topic":"maß/雪/🙂""#,
        json_seen: r#""topic":"maß/雪/🙂""#,
    },
    Place {
        what: "characters that are escaped",
        topic: " a:b\\c/\"d\"\n ",
        stomp: "/topic/ a\\cb\\\\c/\"d\"\\n ",
        json: r#""topic":" a:b\\c/\"d\"\n ""#,
        json_seen: r#""topic":" a:b\\c/\"d\"\n ""#,
    },
    Place {
        what: "a topic that looks like a destination",
        topic: "/topic/x",
        stomp: "/topic//topic/x",
        json: r#""topic":"/topic/x""#,
        json_seen: r#""topic":"/topic/x""#,
    },
    Place {
        what: "the members of a group",
        topic: "$group/chat",
        stomp: "/group/chat",
        json: r#""group":"chat""#,
        json_seen: r#""topic":"$group/chat","group":"chat""#,
    },
    Place {
        what: "a user's connections",
        topic: "$user/ann",
        stomp: "/user/ann",
        json: r#""user":"ann""#,
        json_seen: r#""topic":"$user/ann","user":"ann""#,
    },
    Place {
        what: "a topic of a user's connections",
        topic: "$user/ann/mail/new",
        stomp: "/user/ann/mail/new",
        json: r#""user":"ann","topic":"mail/new""#,
        json_seen: r#""topic":"$user/ann/mail/new","user":"ann""#,
    },
    Place {
        what: "everyone",
        topic: "$broadcast",
        stomp: "/broadcast",
        json: "",
        json_seen: r#""topic":"$broadcast","broadcast":true"#,
    },
    Place {
        what: "a queue",
        topic: "$queue/jobs/é",
        stomp: "/queue/jobs/é",
        json: r#""topic":"$queue/jobs/é""#,
        json_seen: r#""topic":"$queue/jobs/é""#,
    },
];

/// A subscription, in each protocol's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    /// What is shown.
    pub(crate) what: &'static str,
    /// The filter of MQTT.
    pub(crate) mqtt: &'static str,
    /// The headers of STOMP.
    pub(crate) stomp: &'static [&'static str],
    /// The fields of JSON.
    pub(crate) json: &'static str,
    /// Topics that it gets.
    pub(crate) gets: &'static [&'static str],
    /// Topics that it does not get.
    pub(crate) misses: &'static [&'static str],
}

/// Subscriptions.
pub(crate) const SUBSCRIPTIONS: &[Subscription] = &[
    Subscription {
        what: "one topic",
        mqtt: "a/b",
        stomp: &["destination:/topic/a/b"],
        json: r#""type":"subscribe","topic":"a/b""#,
        gets: &["a/b"],
        misses: &["a", "a/b/c", "/a/b", "A/b"],
    },
    Subscription {
        what: "any one level",
        mqtt: "a/+/c",
        stomp: &["destination:/topic/a/+/c"],
        json: r#""type":"subscribe","topic":"a/+/c""#,
        gets: &["a/b/c", "a//c", "a/雪/c"],
        misses: &["a/c", "a/b/b/c"],
    },
    Subscription {
        what: "all levels below, and the level itself",
        mqtt: "a/#",
        stomp: &["destination:/topic/a/#"],
        json: r#""type":"subscribe","topic":"a/#""#,
        gets: &["a", "a/b", "a/b/c", "a/"],
        misses: &["ab", "/a"],
    },
    Subscription {
        what: "everything but `$` topics",
        mqtt: "#",
        stomp: &["destination:/topic/#"],
        json: r##""type":"subscribe","topic":"#""##,
        gets: &["a", "/a/b"],
        misses: &["$group/g", "$x"],
    },
    Subscription {
        what: "a group",
        mqtt: "$group/g",
        stomp: &["destination:/group/g"],
        json: r#""type":"join","group":"g""#,
        gets: &["$group/g"],
        misses: &["$group/h", "$group/g/x"],
    },
    Subscription {
        what: "a user's topics",
        mqtt: "$user/ann/#",
        stomp: &["destination:/user/ann/#"],
        json: r#""type":"subscribe","topic":"$user/ann/#""#,
        gets: &["$user/ann", "$user/ann/mail"],
        misses: &["$user/bob/mail"],
    },
    Subscription {
        what: "a share of a topic",
        mqtt: "$share/g/a/+",
        stomp: &["destination:/topic/a/+", "share:g"],
        json: r#""type":"subscribe","topic":"a/+","share":"g""#,
        gets: &["a/b", "a/c"],
        misses: &["a", "a/b/c"],
    },
    Subscription {
        what: "a share of a queue's messages",
        mqtt: "$queue/jobs",
        stomp: &["destination:/queue/jobs"],
        json: r#""type":"subscribe","topic":"$queue/jobs""#,
        gets: &["$queue/jobs"],
        misses: &["$queue/other"],
    },
];

/// A level of delivery, in each protocol's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    /// What is shown.
    pub(crate) what: &'static str,
    /// The number that MQTT has for it.
    pub(crate) qos: u8,
    /// The header of SEND.
    pub(crate) stomp: &'static str,
    /// The fields of `publish`; `None` if JSON cannot ask for it.
    pub(crate) json: Option<&'static str>,
    /// Headers of MESSAGE.
    pub(crate) stomp_seen: &'static [&'static str],
    /// Fields of `message`; `N` stands for the number to acknowledge.
    pub(crate) json_seen: &'static str,
}

/// Levels.
pub(crate) const LEVELS: &[Level] = &[
    Level {
        what: "at most once",
        qos: 0,
        stomp: "qos:0",
        json: Some(r#","qos":0"#),
        stomp_seen: &[],
        json_seen: "",
    },
    Level {
        what: "at least once",
        qos: 1,
        stomp: "qos:1",
        json: Some(r#","qos":1"#),
        stomp_seen: &["persistent:true"],
        json_seen: r#""qos":1,"ackId":N,"#,
    },
    Level {
        what: "exactly once",
        qos: 2,
        stomp: "qos:2",
        json: None,
        stomp_seen: &["persistent:true"],
        json_seen: r#""qos":1,"ackId":N,"#,
    },
];

/// Something that is said about a delivery or its lifetime; `N` stands for a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// What is shown.
    pub(crate) what: &'static str,
    /// In MQTT 5.
    pub(crate) mqtt: &'static str,
    /// In MQTT 3.1.1.
    pub(crate) mqtt311: &'static str,
    /// The header of SEND, if there is one.
    pub(crate) stomp: &'static str,
    /// Headers of MESSAGE.
    pub(crate) stomp_seen: &'static [&'static str],
    /// The fields of `publish`, if there are any.
    pub(crate) json: &'static str,
    /// Fields of `message`.
    pub(crate) json_seen: &'static str,
}

/// Kept for later subscribers.
pub(crate) const RETAINED: Mark = Mark {
    what: "retained",
    mqtt: "retain flag",
    mqtt311: "retain flag",
    stomp: "retain:true",
    stomp_seen: &["retained:true"],
    json: r#","retain":true"#,
    json_seen: r#""retained":true,"#,
};

/// Delivered before, to this consumer or another.
pub(crate) const REDELIVERED: Mark = Mark {
    what: "redelivered",
    mqtt: "DUP",
    mqtt311: "DUP",
    stomp: "",
    stomp_seen: &["redelivered:true", "delivery-count:2"],
    json: "",
    json_seen: r#""redelivered":true,"deliveryCount":2,"#,
};

/// Of interest for a time only.
pub(crate) const EXPIRY: Mark = Mark {
    what: "expiry",
    mqtt: "message expiry interval: seconds, counted down",
    mqtt311: "not told, but what has expired is not delivered",
    stomp: "expires:N",
    stomp_seen: &["expires:N"],
    json: r#","expiresIn":N"#,
    json_seen: r#""expiresIn":N,"#,
};

/// An answer to a message that waits for one; `ID` stands for what the message gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// What is shown.
    pub(crate) what: &'static str,
    /// Whether MQTT has a word for it: PUBACK.
    pub(crate) mqtt: bool,
    /// The frame of STOMP, without its end.
    pub(crate) stomp: &'static str,
    /// The frame of JSON.
    pub(crate) json: &'static str,
    /// Whether another consumer gets the message.
    pub(crate) comes_again: bool,
}

/// Answers.
pub(crate) const ANSWERS: &[Answer] = &[
    Answer {
        what: "done",
        mqtt: true,
        stomp: "ACK\nid:ID",
        json: r#"{"type":"ack","ackId":ID}"#,
        comes_again: false,
    },
    Answer {
        what: "not taken: another consumer, or the same one again",
        mqtt: false,
        stomp: "NACK\nid:ID",
        json: r#"{"type":"nack","ackId":ID}"#,
        comes_again: true,
    },
    Answer {
        what: "not taken: drop it",
        mqtt: false,
        stomp: "NACK\nid:ID\nrequeue:false",
        json: r#"{"type":"nack","ackId":ID,"requeue":false}"#,
        comes_again: false,
    },
];
