//! An HTTP service of the operator's that is asked who a client is.
//!
//! The question is a POST of what the client said, as JSON; the answer `200` with
//! `{"allow": true, "user": …, "permissions": […], "claims": {…}, "expiresAt": …}`, or
//! `{"allow": false}`, `401` or `403`. Anything else is no answer. A yes is remembered for as long
//! as its `max-age` says, for exactly the same credentials; a no never is.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hashbrown::HashMap;
use http::StatusCode;
use jsonwebtoken::{Algorithm, EncodingKey};
use parking_lot::Mutex;
use protocols::connection::Secret;
use protocols::model::Timestamp;
use serde_json::{Map, Value, json};
use url::Url;

use super::credentials::{Credentials, Rejection};
use super::fetch::{Answer, FetchError, Fetcher, Question};
use super::gate::Gate;
use super::token::name;
use super::{Identity, Method, random};
use crate::clock::Clock;

/// Bytes of an answer.
const ANSWER_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct Callback {
    pub(super) url: Url,
    pub(super) secret: Option<String>,
    pub(super) timeout: Duration,
    pub(super) fetcher: Fetcher,
    pub(super) gate: Gate,
    pub(super) cache: Cache,
    pub(super) clock: Clock,
}

impl Callback {
    /// Asks the service, or remembers what it said.
    pub(super) async fn ask(&self, credentials: &Credentials) -> Result<Identity, Rejection> {
        let question = question(credentials);
        let key = self.cache.key(&question);
        if let Some(identity) = self.cache.find(key.as_ref(), self.clock.now()) {
            return Ok(identity);
        }
        let _place = self.gate.enter().await.map_err(|_| Rejection::Busy)?;
        let asked = self.fetcher.ask(Question {
            url: &self.url,
            secret: self.secret.as_deref(),
            json: Some(question),
            timeout: self.timeout,
            max_bytes: ANSWER_BYTES,
        });
        let answer = asked.await.map_err(|error| self.no_answer(&error))?;
        let now = self.clock.now();
        let identity = self.read(&answer, credentials, now)?;
        let until = now + answer.max_age;
        let until = identity.expires_at.map_or(until, |end| end.min(until));
        self.cache.keep(key, &identity, until, now);
        Ok(identity)
    }

    fn no_answer(&self, error: &FetchError) -> Rejection {
        tracing::error!(url = %self.url, %error, "the HTTP service for logins does not answer");
        Rejection::ServiceUnavailable
    }

    fn read(
        &self,
        answer: &Answer,
        credentials: &Credentials,
        now: Timestamp,
    ) -> Result<Identity, Rejection> {
        match answer.status {
            StatusCode::OK => read(&answer.body, credentials, now).inspect_err(|rejection| {
                if *rejection == Rejection::ServiceUnavailable {
                    tracing::error!(url = %self.url, "the HTTP service for logins answers nonsense");
                }
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Rejection::Denied),
            status => {
                tracing::error!(url = %self.url, %status, "the HTTP service for logins fails");
                Err(Rejection::ServiceUnavailable)
            }
        }
    }
}

/// All that the service may want to know. What is not UTF-8 comes as base64.
fn question(credentials: &Credentials) -> Bytes {
    let mut question = Map::new();
    let mut put = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            question.insert(name.to_owned(), value.into());
        }
    };
    put("clientId", credentials.client_id.as_deref());
    put("username", credentials.username.as_deref());
    put("certificateUser", credentials.certificate_user.as_deref());
    put("protocol", Some(&credentials.protocol));
    let address = credentials.peer.map(|peer| peer.ip().to_string());
    put("address", address.as_deref());
    let secrets = [
        ("password", &credentials.password),
        ("token", &credentials.token),
    ];
    for (name, Secret(secret)) in secrets
        .iter()
        .filter_map(|(name, secret)| Some((name, secret.as_ref()?)))
    {
        match std::str::from_utf8(secret) {
            Ok(text) => put(name, Some(text)),
            Err(_) => put(&format!("{name}Base64"), Some(&STANDARD.encode(secret))),
        }
    }
    Value::Object(question).to_string().into()
}

fn read(body: &[u8], credentials: &Credentials, now: Timestamp) -> Result<Identity, Rejection> {
    let nonsense = Rejection::ServiceUnavailable;
    let Ok(Value::Object(mut answer)) = serde_json::from_slice(body) else {
        return Err(nonsense);
    };
    match answer.get("allow") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Err(Rejection::Denied),
        _ => return Err(nonsense),
    }
    let user = match answer.get("user") {
        None | Some(Value::Null) => {
            let given = credentials
                .username
                .as_ref()
                .or(credentials.certificate_user.as_ref());
            name(Some(&json!(given.map(|user| &**user)))).ok_or(Rejection::NoUser)?
        }
        given => name(given).ok_or(nonsense)?,
    };
    let expires_at = match answer.get("expiresAt") {
        None | Some(Value::Null) => None,
        Some(at) => Some(Timestamp(at.as_u64().ok_or(nonsense)?)),
    };
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Rejection::Expired);
    }
    let mut claims = match answer.remove("claims") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(claims)) => claims,
        Some(_) => return Err(nonsense),
    };
    if let Some(permissions) = answer.remove("permissions") {
        claims.insert("permissions".to_owned(), permissions);
    }
    Ok(Identity {
        user: Some(user),
        method: Method::Callback,
        claims,
        expires_at,
        token_id: name(answer.get("tokenId")),
    })
}

/// What the service said lately. Keys are keyed hashes, so that no password lies in memory.
pub(super) struct Cache {
    secret: EncodingKey,
    max: usize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<String, (Timestamp, Identity)>,
    /// The first to end comes first.
    by_end: BTreeSet<(Timestamp, String)>,
}

impl Cache {
    pub(super) fn new(max: usize) -> Self {
        Self {
            secret: EncodingKey::from_secret(&random::<32>()),
            max,
            entries: Mutex::default(),
        }
    }

    /// The name of a question; `None` if it is not to be remembered.
    fn key(&self, question: &[u8]) -> Option<String> {
        if self.max == 0 {
            return None;
        }
        jsonwebtoken::crypto::sign(question, &self.secret, Algorithm::HS256).ok()
    }

    fn find(&self, key: Option<&String>, now: Timestamp) -> Option<Identity> {
        let entries = self.entries.lock();
        let (until, identity) = entries.by_key.get(key?)?;
        (*until > now).then(|| identity.clone())
    }

    fn keep(&self, key: Option<String>, identity: &Identity, until: Timestamp, now: Timestamp) {
        let Some(key) = key.filter(|_| until > now) else {
            return;
        };
        let mut entries = self.entries.lock();
        entries.remove(&key);
        while entries.by_key.len() >= self.max {
            let Some((_, first)) = entries.by_end.pop_first() else {
                break;
            };
            entries.by_key.remove(&first);
        }
        entries.by_end.insert((until, key.clone()));
        entries.by_key.insert(key, (until, identity.clone()));
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        *self.entries.lock() = Entries::default();
    }
}

impl Entries {
    fn remove(&mut self, key: &str) {
        if let Some((until, _)) = self.by_key.remove(key) {
            self.by_end.remove(&(until, key.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Door;
    use protocols::connection::Connect;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn credentials() -> Credentials {
        let connect = Connect {
            client_id: Some("c".into()),
            username: Some("ann".into()),
            password: Some(Bytes::from_static(b"\xff")),
            ..Connect::default()
        };
        Credentials::of_login(&connect, &Door::default())
    }

    fn answered(answer: &Value) -> Result<Identity, Rejection> {
        read(answer.to_string().as_bytes(), &credentials(), NOW)
    }

    #[test]
    fn asks_all_that_is_known() {
        let question: Value = serde_json::from_slice(&question(&credentials())).unwrap();
        assert_eq!(
            question,
            json!({"clientId": "c", "username": "ann", "passwordBase64": "/w==",
                   "protocol": "", "address": "127.0.0.1"})
        );
    }

    #[test]
    fn the_answer_says_who_and_what_and_until_when() {
        let identity = answered(&json!({
            "allow": true, "user": "bob", "permissions": ["p"], "claims": {"team": "x"},
            "expiresAt": NOW.0 + 1,
        }))
        .unwrap();
        assert_eq!(identity.user.as_deref(), Some("bob"));
        assert_eq!(identity.expires_at, Some(Timestamp(NOW.0 + 1)));
        assert_eq!(
            Value::Object(identity.claims),
            json!({"team": "x", "permissions": ["p"]})
        );
        let plain = answered(&json!({"allow": true})).unwrap();
        assert_eq!(
            plain.user.as_deref(),
            Some("ann"),
            "the name that was given"
        );
    }

    #[test]
    fn what_is_no_yes_lets_nobody_in() {
        assert_eq!(answered(&json!({"allow": false})), Err(Rejection::Denied));
        let old = json!({"allow": true, "expiresAt": NOW.0});
        assert_eq!(answered(&old), Err(Rejection::Expired));
        for nonsense in [
            json!({}),
            json!({"allow": "true"}),
            json!({"allow": 1}),
            json!([true]),
            json!({"allow": true, "user": 7}),
            json!({"allow": true, "user": ""}),
            json!({"allow": true, "claims": []}),
            json!({"allow": true, "expiresAt": "never"}),
        ] {
            assert_eq!(
                answered(&nonsense),
                Err(Rejection::ServiceUnavailable),
                "{nonsense}"
            );
        }
        assert_eq!(
            read(b"yes", &credentials(), NOW),
            Err(Rejection::ServiceUnavailable)
        );
    }

    #[test]
    fn a_yes_is_remembered_for_its_time_and_no_more_than_fit() {
        let cache = Cache::new(2);
        let identity = Identity::default();
        let at = |ms: u64| Timestamp(NOW.0 + ms);
        for (name, ms) in [("a", 10), ("b", 30), ("c", 20)] {
            cache.keep(cache.key(name.as_bytes()), &identity, at(ms), NOW);
        }
        let is_known = |name: &str, now| {
            cache
                .find(cache.key(name.as_bytes()).as_ref(), now)
                .is_some()
        };
        assert!(!is_known("a", NOW), "the first to end made room");
        assert!(is_known("b", NOW) && is_known("c", NOW) && is_known("b", at(29)));
        assert!(!is_known("c", at(20)));
        cache.keep(cache.key(b"d"), &identity, NOW, NOW);
        assert!(!is_known("d", NOW), "no max-age");
        cache.clear();
        assert!(!is_known("b", NOW));
        assert_eq!(Cache::new(0).key(b"a"), None);
    }
}
