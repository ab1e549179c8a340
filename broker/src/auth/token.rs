//! Signed tokens (JWT, RFC 7519): which are taken, and what they say.
//!
//! The token chooses nothing: algorithms come from the configuration and from the kind of the key,
//! a key is found by name among those that are known already, and headers that point elsewhere
//! (`jku`, `x5u`, `jwk`) are not looked at (RFC 8725). No I/O and no clock: the keys and the time
//! are arguments.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytestring::ByteString;
use protocols::model::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::credentials::Rejection;
use super::signature::{Algorithm, Material};
use super::{Identity, Method};
use crate::config::Auth;

/// Bytes of a user's name, and of a token's.
pub(super) const NAME_BYTES: usize = 256;

/// Keys of one kind that are tried on a token that names none.
const KEYS_TRIED: usize = 8;

/// What tokens must be like.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    algorithms: Vec<Algorithm>,
    audiences: Vec<String>,
    issuers: Vec<String>,
    user_claim: String,
    leeway_secs: u64,
    needs_expiry: bool,
    max_bytes: usize,
}

impl Terms {
    pub(super) fn new(auth: &Auth) -> Self {
        Self {
            algorithms: auth.token_algorithms.0.clone(),
            audiences: auth.token_audiences.0.clone(),
            issuers: auth.token_issuers.0.clone(),
            user_claim: auth.token_user_claim.0.clone(),
            leeway_secs: auth.token_leeway.as_secs(),
            needs_expiry: auth.token_expiry_required,
            max_bytes: auth.token_size,
        }
    }
}

/// A key that signatures are checked with.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Its name; one without a name serves all tokens.
    pub(super) id: Option<String>,
    /// The one algorithm that it is meant for, if that is known.
    pub(super) algorithm: Option<Algorithm>,
    /// The key.
    pub(super) material: Material,
}

impl Key {
    fn fits(&self, algorithm: Algorithm) -> bool {
        self.material.fits(algorithm) && self.algorithm.is_none_or(|only| only == algorithm)
    }

    fn has_name(&self, name: Option<&str>) -> bool {
        self.id.is_none() || name.is_none() || self.id.as_deref() == name
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
    #[serde(default)]
    enc: Option<Value>,
}

/// Checks a token against all keys at hand and says whose it is.
pub(super) fn verify(
    token: &[u8],
    terms: &Terms,
    keys: &[&[Key]],
    now: Timestamp,
) -> Result<Identity, Rejection> {
    if token.len() > terms.max_bytes {
        return Err(Rejection::TooLarge);
    }
    let text = std::str::from_utf8(token).map_err(|_| Rejection::Malformed)?;
    let (message, signature) = text.rsplit_once('.').ok_or(Rejection::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(Rejection::Malformed)?;
    if claims.contains('.') || signature.is_empty() {
        return Err(Rejection::Malformed);
    }
    let header: Header = decode(header)?;
    // What must be understood and is not [RFC 7515 §4.1.11]; what is encrypted.
    if header.crit.is_some() || header.enc.is_some() {
        return Err(Rejection::Malformed);
    }
    let algorithm: Algorithm = header.alg.parse().map_err(|_| Rejection::Algorithm)?;
    if !terms.algorithms.contains(&algorithm) {
        return Err(Rejection::Algorithm);
    }
    let name = header.kid.as_deref();
    let all = || keys.iter().copied().flatten();
    if !all().any(|key| key.fits(algorithm)) {
        return Err(Rejection::UnknownKey);
    }
    let mut fitting = all()
        .filter(|key| key.fits(algorithm) && key.has_name(name))
        .peekable();
    if fitting.peek().is_none() {
        return Err(Rejection::UnknownKey);
    }
    let signed = |key: &Key| {
        let material = &key.material;
        material.has_signed(message.as_bytes(), signature, algorithm)
    };
    if !fitting.take(KEYS_TRIED).any(signed) {
        return Err(Rejection::Signature);
    }
    identity(decode(claims)?, terms, now)
}

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, Rejection> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Rejection::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Rejection::Malformed)
}

/// What the claims say, if they hold now.
fn identity(
    claims: Map<String, Value>,
    terms: &Terms,
    now: Timestamp,
) -> Result<Identity, Rejection> {
    let now_secs = now.0 / 1000;
    let end = match seconds(&claims, "exp")? {
        Some(end) => Some(end.saturating_add(terms.leeway_secs)),
        None if terms.needs_expiry => return Err(Rejection::NoExpiry),
        None => None,
    };
    if end.is_some_and(|end| end <= now_secs) {
        return Err(Rejection::Expired);
    }
    if let Some(begin) = seconds(&claims, "nbf")?
        && begin > now_secs.saturating_add(terms.leeway_secs)
    {
        return Err(Rejection::NotYet);
    }
    if !names_one_of(claims.get("aud"), &terms.audiences) {
        return Err(Rejection::Audience);
    }
    if !names_one_of(claims.get("iss"), &terms.issuers) {
        return Err(Rejection::Issuer);
    }
    let user = name(claims.get(&terms.user_claim)).ok_or(Rejection::NoUser)?;
    Ok(Identity {
        user: Some(user),
        method: Method::Token,
        expires_at: end.map(|end| Timestamp(end.saturating_mul(1000))),
        token_id: name(claims.get("jti")),
        claims,
    })
}

/// When a token was issued, in milliseconds since 1970.
pub(super) fn issued_at(claims: &Map<String, Value>) -> Option<Timestamp> {
    let secs = seconds(claims, "iat").ok().flatten()?;
    Some(Timestamp(secs.saturating_mul(1000)))
}

/// A `NumericDate` [RFC 7519 §2], without its fraction.
fn seconds(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, Rejection> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    let whole = value.as_u64();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, as it should
    let rounded = || {
        value
            .as_f64()
            .filter(|secs| secs.is_finite())
            .map(|secs| secs as u64)
    };
    whole.or_else(rounded).map(Some).ok_or(Rejection::Malformed)
}

/// Whether a text, or one of a list of texts, is one of those; always, if there are none.
fn names_one_of(value: Option<&Value>, allowed: &[String]) -> bool {
    let is_one = |text: &Value| {
        text.as_str()
            .is_some_and(|text| allowed.iter().any(|one| one == text))
    };
    allowed.is_empty()
        || match value {
            Some(Value::Array(list)) => list.iter().any(is_one),
            Some(value) => is_one(value),
            None => false,
        }
}

/// A name that can stand in logs and topics.
pub(super) fn name(value: Option<&Value>) -> Option<ByteString> {
    let text = value?.as_str()?;
    is_name(text).then(|| text.into())
}

/// Whether a text can be a user's name.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES && !text.contains(char::is_control)
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
