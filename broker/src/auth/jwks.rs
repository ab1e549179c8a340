//! A set of public keys that an identity provider publishes (JWKS, RFC 7517), and when it is
//! fetched again.
//!
//! - A token whose key is not known makes the set be fetched: keys rotate by `kid`. Attempts have a
//!   pause between them whatever tokens say, and all who wait share one.
//! - A set that gets old is fetched in the background while the old keys are used.
//! - While the host is down the keys at hand are used, up to an age; without keys logins are told
//!   that they cannot be checked now.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use parking_lot::Mutex;
use protocols::model::Timestamp;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;
use url::Url;

use super::credentials::Rejection;
use super::fetch::{Fetcher, Question};
use super::signature::Material;
use super::token::Key;
use crate::clock::Clock;
use crate::config::Auth;

/// Bytes of a key set.
const SET_BYTES: usize = 256 * 1024;

/// Keys of a set.
const SET_KEYS: usize = 64;

/// Time that the host has for its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Age of a set that a token may have been looked up before.
const JUST_NOW: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Jwks {
    url: Url,
    fetcher: Fetcher,
    clock: Clock,
    refresh: Duration,
    pause: Duration,
    max_age: Duration,
    keys: ArcSwap<Vec<Key>>,
    history: Mutex<History>,
    /// Held while the set is fetched.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct History {
    tried: Option<Timestamp>,
    fetched: Option<Timestamp>,
}

impl Jwks {
    pub(super) fn new(url: Url, auth: &Auth, fetcher: Fetcher, clock: Clock) -> Self {
        Self {
            url,
            fetcher,
            clock,
            refresh: auth.token_jwks_refresh,
            pause: auth.token_jwks_pause,
            max_age: auth.token_jwks_max_age,
            keys: ArcSwap::default(),
            history: Mutex::default(),
            fetching: Arc::default(),
        }
    }

    /// Takes over what an older one of the same address knows.
    pub(super) fn inherit(&self, older: &Self) {
        if self.url == older.url {
            self.keys.store(older.keys.load_full());
            self.history.lock().fetched = older.history.lock().fetched;
        }
    }

    /// The keys at hand; fetches them again in the background if they get old.
    pub(super) fn keys(self: &Arc<Self>) -> Arc<Vec<Key>> {
        let now = self.clock.now();
        let age = {
            let history = self.history.lock();
            history.fetched.map(|fetched| since(fetched, now))
        };
        if age.is_some_and(|age| age > self.refresh) {
            self.fetch_behind(now);
        }
        match age {
            Some(age) if age <= self.max_age => self.keys.load_full(),
            _ => Arc::default(),
        }
    }

    /// A token needs a key that is not at hand: fetches the set, unless that was done a moment
    /// ago. `Ok` if it is worth looking again.
    pub(super) async fn renew(&self) -> Result<(), Rejection> {
        let now = self.clock.now();
        if let Some(turn) = self.may_try(now) {
            self.fetch(now, turn).await;
            return Ok(());
        }
        // Someone may be at it; then that is the answer for this one too.
        drop(self.fetching.lock().await);
        let fetched = self.history.lock().fetched;
        match fetched {
            // Also if it ended between the look at the keys and this one.
            Some(fetched) if since(fetched, now) <= JUST_NOW => Ok(()),
            Some(fetched) if since(fetched, now) <= self.max_age => Err(Rejection::UnknownKey),
            _ => Err(Rejection::KeysUnavailable),
        }
    }

    /// Fetches the keys before the first token comes.
    pub(super) fn prime(self: &Arc<Self>) {
        self.fetch_behind(self.clock.now());
    }

    fn fetch_behind(self: &Arc<Self>, now: Timestamp) {
        if let Some(turn) = self.may_try(now) {
            let jwks = Arc::clone(self);
            tokio::spawn(async move { jwks.fetch(now, turn).await });
        }
    }

    /// Whether the pause since the last attempt is over; then the attempt is the caller's. Whoever
    /// asks from then on finds it under way, although it may not have begun.
    fn may_try(&self, now: Timestamp) -> Option<OwnedMutexGuard<()>> {
        let mut history = self.history.lock();
        let tried = history.tried;
        if tried.is_some_and(|tried| since(tried, now) < self.pause) {
            return None;
        }
        let turn = Arc::clone(&self.fetching).try_lock_owned().ok()?;
        history.tried = Some(now);
        Some(turn)
    }

    /// Fetches the keys; nobody else does until the turn is over.
    async fn fetch(&self, now: Timestamp, turn: OwnedMutexGuard<()>) {
        match self.keys_of_host().await {
            Ok(keys) => {
                tracing::info!(url = %self.url, keys = keys.len(), "a key set was fetched");
                self.keys.store(Arc::new(keys));
                self.history.lock().fetched = Some(now.max(self.clock.now()));
            }
            Err(error) => {
                tracing::error!(url = %self.url, %error, "a key set could not be fetched");
            }
        }
        drop(turn);
    }

    async fn keys_of_host(&self) -> Result<Vec<Key>, String> {
        let question = Question {
            url: &self.url,
            secret: None,
            json: None,
            timeout: TIMEOUT,
            max_bytes: SET_BYTES,
        };
        let answer = self
            .fetcher
            .ask(question)
            .await
            .map_err(|error| error.to_string())?;
        if !answer.status.is_success() {
            return Err(format!("the host answers {}", answer.status));
        }
        read(&answer.body)
    }
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(now.0.saturating_sub(then.0))
}

/// The keys of a set that signatures can be checked with. Others are passed over, shared secrets
/// among them: what is published is no secret.
fn read(json: &[u8]) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(json).map_err(|error| format!("not JSON: {error}"))?;
    let list = set.get("keys").and_then(Value::as_array);
    let list = list.ok_or("there is no list of keys")?;
    let keys = list
        .iter()
        .filter_map(key)
        .take(SET_KEYS)
        .collect::<Vec<_>>();
    if keys.is_empty() {
        return Err("there is no key that signatures could be checked with".to_owned());
    }
    Ok(keys)
}

fn key(value: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_))
        || matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption))
    {
        return None;
    }
    // One that is not for signatures makes the key one that is not.
    let algorithm = match value.get("alg") {
        None | Some(Value::Null) => None,
        Some(name) => Some(name.as_str()?.parse().ok()?),
    };
    Some(Key {
        id: jwk.common.key_id.clone(),
        algorithm,
        material: Material::from_jwk(&jwk)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_keys_for_signatures_are_taken() {
        let set = serde_json::json!({"keys": [
            {"kty": "oct", "kid": "secret", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA",
             "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "for encryption", "use": "enc",
             "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty": "RSA", "kid": "rsa", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB"},
            {"kty": "unheard of", "kid": "x"},
            7,
        ]});
        let keys = read(set.to_string().as_bytes()).unwrap();
        let names: Vec<_> = keys.iter().map(|key| key.id.as_deref()).collect();
        assert_eq!(names, [Some("ed")]);
        assert_eq!(keys[0].algorithm, "EdDSA".parse().ok());
        for wrong in ["", "[]", "{}", r#"{"keys":[]}"#, r#"{"keys":7}"#] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
