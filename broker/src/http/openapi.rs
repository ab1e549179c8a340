//! The OpenAPI 3.1 document, made from the list of operations, so that it cannot say anything else.
//!
//! What an operation takes and answers is said here, beside no code; `schemas.json` holds the shapes.
//! A test of the whole broker asks each operation with what the document allows, and compares.

#![allow(non_upper_case_globals)] // a documentation has the name of its operation

use std::sync::OnceLock;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::problem::{Face, Problem};
use super::route::{ROUTES, Route};
use super::{Answer, Call, body};

/// What is said of an operation.
pub(super) struct Doc {
    summary: &'static str,
    /// Parameters of the query, and headers with a capital letter.
    params: &'static [Param],
    /// The shape of its body in JSON, or `*` for a payload or that of a message.
    body: &'static str,
    /// Its answers beside the errors: status, and the shape, a media type, or nothing.
    answers: &'static [(u16, &'static str)],
    /// Errors of its own, beside those of all.
    errors: &'static [u16],
}

struct Param(&'static str, Kind, &'static str);

enum Kind {
    Text,
    Texts,
    Truth,
    Number(u64, u64),
}
use Kind::{Number, Text, Texts, Truth};

const CURSOR: Param = Param(
    "cursor",
    Text,
    "Where to go on: the `cursor` of the answer before.",
);
const LIMIT: Param = Param(
    "limit",
    Number(1, 1_000_000),
    "Rows, at most `api.page_rows`.",
);
const KEY: Param = Param(
    "Idempotency-Key",
    Text,
    "The same key again within `limits.idempotency_window` is answered alike, and nothing is done twice.",
);
const QOS: Param = Param("qos", Number(0, 1), "0 or 1.");
const RETAIN: Param = Param("retain", Truth, "Whether it is kept for later subscribers.");

const USER: Param = Param("user", Text, "A user's name.");
const CLIENT: Param = Param("clientId", Text, "A client identifier.");

macro_rules! docs {
    ($($id:ident $summary:literal [$($param:expr),*] $body:literal [$($status:literal $shape:literal),*] [$($error:literal),*];)*) => {
        $(pub(super) const $id: Doc = Doc {
            summary: $summary,
            params: &[$($param),*],
            body: $body,
            answers: &[$(($status, $shape)),*],
            errors: &[$($error),*],
        };)*
    };
}

docs! {
    publish "Publishes a message. The answer promises what a subscriber that is kept must get: it is on disk."
        [KEY,
         Param("topic", Text, "The topic, if the body is the payload; instead of it group, user, connectionId or broadcast."),
         Param("group", Text, "To the members of a group."),
         Param("user", Text, "To all connections of a user; with `topic` below the user's own."),
         Param("connectionId", Text, "To one connection, at most once."),
         Param("broadcast", Truth, "To everyone."),
         Param("qos", Number(0, 1), "0 or 1; 1 if it is left out."), RETAIN,
         Param("expiresIn", Number(0, 4_294_967_295), "Seconds after which it is of no interest."),
         Param("replyTo", Text, "Topic for the answer."),
         Param("correlationId", Text, "Ties an answer to its request."),
         Param("header", Texts, "A header of the message, `NAME:VALUE`; may come again."),
         Param("idempotencyKey", Text, "As the header Idempotency-Key.")]
        "*" [200 "Published", 202 "Published"] [410, 413, 415, 507];
    publish_batch "Publishes many messages, each with a result of its own." [KEY] "Batch" [200 "BatchResult"] [413, 415];
    subscribe "A stream of Server-Sent Events."
        [Param("topic", Texts, "A topic filter; may come again."),
         Param("group", Texts, "A group; may come again."),
         Param("qos", Number(0, 1), "0 or 1; 1 with a session."),
         Param("retained", Truth, "Whether retained messages come first."),
         Param("session", Text, "Name of a session that keeps messages while its client is away."),
         Param("expiry", Number(1, 4_294_967_295), "Seconds that the session is kept, at most `limits.session_expiry_max`."),
         Param("lastEventId", Text, "As the header Last-Event-ID."),
         Param("Last-Event-ID", Text, "The `id` of the last event that the client has."),
         Param("access_token", Text, "The key, for browsers, whose EventSource sends no headers.")]
        "" [200 "text/event-stream"] [507];
    list_retained "Retained messages, in the order of their topics."
        [Param("filter", Text, "Only those that a topic filter matches."), CURSOR, LIMIT] "" [200 "RetainedList"] [];
    show_retained "The retained message of a topic." [Param("raw", Truth, "The payload alone, with its type.")]
        "" [200 "Retained"] [404];
    delete_retained "Removes the retained message of a topic, without telling its subscribers." [] "" [204 ""] [404];
    list_clients "Connected clients, the oldest session first."
        [Param("user", Text, "Only those of a user."), Param("protocol", Text, "Only those that speak it: `mqtt`, or `mqtt 5`."),
         Param("transport", Text, "Only those that came by it: tcp, tls, ws, wss, http."),
         Param("clientIdPrefix", Text, "Only those whose identifier begins so."),
         Param("search", Text, "Only those whose identifier or user has this in it; the case of ASCII letters does not matter."), CURSOR, LIMIT] "" [200 "ClientList"] [];
    show_client "A client, connected or not." [] "" [200 "Client"] [404];
    kick_client "Ends a client's connection." [Param("endSession", Truth, "Ends its session too.")] "" [204 ""] [404];
    list_client_subscriptions "What a client has subscribed to." [CURSOR, LIMIT] "" [200 "SubscriptionList"] [404];
    subscribe_client "Subscribes in the place of a client." [] "Subscribe" [200 "SubscribeResult"] [404];
    unsubscribe_client "Unsubscribes in the place of a client."
        [Param("topic", Texts, "A subscription; may come again.")] "" [200 "SubscribeResult"] [404];
    join_group "Makes a client a member of a group." [QOS] "" [204 ""] [404, 507];
    leave_group "Ends a client's membership of a group." [] "" [204 ""] [404];
    show_connection "The client that has a connection." [] "" [200 "Client"] [410];
    kick_connection "Ends a connection." [] "" [204 ""] [410];
    list_sessions "Sessions, the oldest first, whether their clients are connected or not."
        [Param("connected", Truth, "Only those that are, or are not."), Param("user", Text, "Only those of a user."),
         Param("protocol", Text, "Only those that speak it."), Param("transport", Text, "Only those that came by it."),
         Param("clientIdPrefix", Text, "Only those whose identifier begins so."),
         Param("search", Text, "Only those whose identifier or user has this in it; the case of ASCII letters does not matter."), CURSOR, LIMIT] "" [200 "SessionList"] [];
    end_session "Ends a session, and its connection if it has one." [] "" [204 ""] [404];
    list_subscriptions "Subscriptions of all clients." [CURSOR, LIMIT] "" [200 "SubscriptionList"] [];
    show_status "The broker as a whole." [] "" [200 "Status"] [];
    explain "Who would receive a message, as what frame, and which rule allows or denies it."
        [Param("topic", Text, "The topic that is published to."), Param("from", Text, "What the publisher speaks: mqtt, stomp, json, http."),
         Param("as", Text, "Only receivers that speak it: mqtt, stomp, json."), Param("qos", Number(0, 2), "The level; 1 if it is left out."),
         Param("clientId", Text, "The publisher, a client that is known."), Param("user", Text, "The publisher, by its user name."), CURSOR, LIMIT]
        "" [200 "Explanation"] [404];
    trace "What happens to a client or on topics, as lines of JSON, while it happens."
        [Param("clientId", Text, "The client."), Param("topic", Text, "A topic filter."), Param("seconds", Number(1, 3600), "When it ends; 60 if it is left out.")]
        "" [200 "application/x-ndjson"] [];
    list_topics "Topics with a retained message, then those that were published to lately."
        [Param("filter", Text, "Only those that a topic filter matches."), CURSOR, LIMIT] "" [200 "TopicList"] [];
    list_groups "Shared groups and queues." [CURSOR, LIMIT] "" [200 "GroupList"] [];
    show_topic "Whom a message on a topic would go to." [] "" [200 "Topic"] [];
    list_members "Who of a group is connected." [CURSOR, LIMIT] "" [200 "MemberList"] [];
    list_revocations "Credentials that were revoked and have not ended." [CURSOR, LIMIT] "" [200 "RevocationList"] [];
    revoke "Revokes credentials: of a user, one token, or those that a client has used. Its connections are closed, its sessions and wills end."
        [] "Revoke" [200 "Revoked"] [503];
    lift_revocation "Takes a revocation back."
        [USER, Param("tokenId", Text, "The token's `jti`."), CLIENT] "" [204 ""] [404, 503];
    list_bans "Who is kept out." [CURSOR, LIMIT] "" [200 "BanList"] [];
    ban "Keeps somebody out, and closes its connections." [] "Ban" [200 "Banned"] [];
    lift_ban "Lets somebody in again." [USER, Param("address", Text, "An IP address or network."), CLIENT] "" [204 ""] [404, 409];
    reload "Reads the configuration again, as SIGHUP does." [] "" [200 "Reloaded"] [422];
    drain "Sends all clients away over a time, then ends the broker." [] "Drain" [202 "Draining"] [409];
    live "Whether the process answers." [] "" [200 "Health"] [];
    ready "Whether clients should be sent here." [] "" [200 "Health", 503 "Health"] [];
    metrics "Metrics in Prometheus' form." [] "" [200 "text/plain"] [];
    openapi "This document." [] "" [200 "application/json"] [];
    post_to_connection "API Gateway: PostToConnection." [] "*" [200 ""] [410, 413, 429];
    get_connection "API Gateway: GetConnection." [] "" [200 "AwsConnection"] [410];
    delete_connection "API Gateway: DeleteConnection." [] "" [204 ""] [410];
    iot_publish "AWS IoT: Publish."
        [QOS, RETAIN, Param("contentType", Text, "MIME type of the payload."), Param("responseTopic", Text, "Topic for the answer."),
         Param("messageExpiry", Number(0, 4_294_967_295), "Seconds after which it is of no interest.")]
        "*" [200 "AwsPublished"] [413, 507];
    iot_list_retained "AWS IoT: ListRetainedMessages."
        [Param("maxResults", Number(1, 200), "Rows."), Param("nextToken", Text, "Where to go on.")] "" [200 "AwsRetainedList"] [];
    iot_retained "AWS IoT: GetRetainedMessage." [] "" [200 "AwsRetained"] [404];
}

/// `GET /api/openapi.json`
#[allow(clippy::unnecessary_wraps)] // all operations look alike
pub(super) fn document(_call: &Call<'_>) -> Result<Answer, Problem> {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let text = TEXT.get_or_init(|| build().to_string().into());
    Ok(body::typed(StatusCode::OK, "application/json", text.clone()).into())
}

fn build() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = route.path.replace("*}", "}");
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[route.method.as_str().to_lowercase()] = operation(route);
    }
    let schemas: Value = serde_json::from_str(include_str!("schemas.json")).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Polycast",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Publish, subscribe and look after clients without holding a connection.",
            "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"key": []}, {"apiKey": []}, {}],
    })
}

fn operation(route: &Route) -> Value {
    let tag = match route.face {
        Face::Rest => "polycast",
        Face::Connections => "API Gateway",
        Face::Iot => "AWS IoT",
    };
    let mut value = json!({
        "operationId": route.id,
        "summary": route.doc.summary,
        "tags": [tag],
        "parameters": parameters(route),
        "responses": responses(route),
    });
    if route.needs.is_none() {
        value["security"] = json!([]);
    }
    match route.doc.body {
        "" => {}
        "*" => {
            let payload = json!({"schema": {}});
            let content = if route.face == Face::Rest {
                json!({"application/json": {"schema": reference("Message")}})
            } else {
                json!({"application/octet-stream": payload})
            };
            value["requestBody"] = json!({"required": false, "content": content});
        }
        shape => {
            let content = json!({"application/json": {"schema": reference(shape)}});
            value["requestBody"] = json!({"required": true, "content": content});
        }
    }
    value
}

fn reference(shape: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{shape}")})
}

fn parameters(route: &Route) -> Vec<Value> {
    let named = route.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        let name = name.trim_end_matches('*');
        let schema = json!({"type": "string", "minLength": 1});
        Some(json!({"name": name, "in": "path", "required": true, "schema": schema}))
    });
    let asked = route.doc.params.iter().map(|Param(name, kind, about)| {
        let is_header = name.starts_with(char::is_uppercase);
        let schema = match kind {
            Text => json!({"type": "string"}),
            Texts => json!({"type": "array", "items": {"type": "string"}}),
            Truth => json!({"type": "boolean"}),
            Number(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
        };
        json!({
            "name": name,
            "in": if is_header { "header" } else { "query" },
            "description": about,
            "schema": schema,
        })
    });
    named.chain(asked).collect()
}

fn responses(route: &Route) -> Value {
    let mut all = Map::new();
    for (status, shape) in route.doc.answers {
        let content = match *shape {
            "" => None,
            kind if kind.contains('/') => Some(json!({kind: {"schema": {}}})),
            shape => Some(json!({"application/json": {"schema": reference(shape)}})),
        };
        let status = StatusCode::from_u16(*status).unwrap_or_default();
        let mut value = json!({"description": status.canonical_reason()});
        if let Some(mut content) = content {
            if route.id == "show_retained" {
                // With `raw=true` it is whatever the publisher said.
                content["*/*"] = json!({"schema": {}});
            }
            value["content"] = content;
        }
        all.insert(status.as_u16().to_string(), value);
    }
    // Everybody may be too early, too late or somebody else; and a path may be badly encoded.
    let common: &[u16] = match route.needs {
        Some(_) => &[400, 401, 403, 503],
        None => &[400, 403, 503],
    };
    for status in common.iter().chain(route.doc.errors) {
        let entry = all.entry(status.to_string());
        let status = StatusCode::from_u16(*status).unwrap_or_default();
        entry.or_insert_with(|| {
            let (kind, shape) = match route.face {
                Face::Rest => ("application/problem+json", "Problem"),
                _ => ("application/json", "AwsError"),
            };
            json!({
                "description": status.canonical_reason(),
                "content": {kind: {"schema": reference(shape)}},
            })
        });
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(text)) = map.get("$ref") {
                    found.push(text.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_shape_is_there_and_used() {
        let document = build();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        let named = |name: &str| format!("#/components/schemas/{name}");
        for reference in &found {
            let known = schemas.keys().any(|name| named(name) == *reference);
            assert!(known, "{reference} is not in schemas.json");
        }
        for name in schemas.keys() {
            assert!(found.contains(&named(name)), "{name} is used nowhere");
        }
    }

    #[test]
    fn every_operation_is_in_the_document() {
        let document = build();
        for route in ROUTES {
            let path = route.path.replace("*}", "}");
            let method = route.method.as_str().to_lowercase();
            let operation = &document["paths"][path.as_str()][method.as_str()];
            assert_eq!(operation["operationId"], route.id);
            assert!(route.body != route.doc.body.is_empty(), "{}", route.id);
        }
    }
}
