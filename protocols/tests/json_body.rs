//! Messages that come without a connection: the fields of a `publish` frame.

#![allow(clippy::unwrap_used)]

use protocols::Limits;
use protocols::json::{ErrorCode, PublishRequest, Target, object_of};
use protocols::model::{QoS, Timestamp};

fn read(text: &str) -> Result<(PublishRequest<'_>, Option<String>), ErrorCode> {
    PublishRequest::read_body(text, &Limits::default())
        .map(|(request, connection)| (request, connection.map(Into::into)))
        .map_err(|error| error.code)
}

#[test]
fn a_message_is_for_one_target() {
    let (request, connection) = read(r#"{"topic":"a","data":1}"#).unwrap();
    assert_eq!(
        (request.target, connection),
        (Target::Topic("a".into()), None)
    );
    let (request, _) = read(r#"{"broadcast":true,"data":1}"#).unwrap();
    assert_eq!(request.target, Target::Everyone);
    let (_, connection) = read(r#"{"connectionId":"c-1","data":1}"#).unwrap();
    assert_eq!(connection.as_deref(), Some("c-1"));
    for text in [
        r#"{"data":1}"#,
        r#"{"broadcast":false,"data":1}"#,
        r#"{"topic":"a","broadcast":true,"data":1}"#,
        r#"{"group":"a","connectionId":"c-1","data":1}"#,
        r#"{"broadcast":true,"connectionId":"c-1","data":1}"#,
        r#"{"topic":"a","topic":"b","data":1}"#,
        r#"{"topic":"a","qos":2,"data":1}"#,
    ] {
        assert_eq!(read(text), Err(ErrorCode::InvalidFrame), "{text}");
    }
}

#[test]
fn it_is_at_least_once_unless_it_says_otherwise() {
    let limits = Limits::default();
    let qos = |text| {
        let (request, _) = PublishRequest::read_body(text, &limits).unwrap();
        let publish = request.into_publish(&limits, Timestamp(0)).unwrap();
        publish.message.qos
    };
    assert_eq!(qos(r#"{"topic":"a","data":1}"#), QoS::AtLeastOnce);
    assert_eq!(qos(r#"{"topic":"a","data":1,"qos":0}"#), QoS::AtMostOnce);
}

#[test]
fn a_message_is_shown_as_one_object() {
    let limits = Limits::default();
    let text = r#"{"group":"g","data":{"a":[1]}}"#;
    let (request, _) = PublishRequest::read_body(text, &limits).unwrap();
    let publish = request.into_publish(&limits, Timestamp(0)).unwrap();
    assert_eq!(
        object_of(&publish.message),
        r#"{"topic":"$group/g","group":"g","dataType":"json","data":{"a":[1]},"contentType":"application/json"}"#
    );
}
