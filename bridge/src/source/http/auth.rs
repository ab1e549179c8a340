//! Who may call: API key, Basic, or OAuth client credentials; anybody only if the settings say so.

use std::time::{SystemTime, UNIX_EPOCH};

use ::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use crate::config::{Secret, Section};
use crate::http::{Answer, Request, answer, say};

/// How long a token of ours is good.
const TOKEN_SECS: u64 = 3600;

/// What callers must show; one of the ways is enough.
#[derive(Clone, Debug, Default)]
pub(super) struct Auth {
    api_key: Option<(HeaderName, Secret)>,
    basic: Option<(String, Secret)>,
    oauth: Option<(String, Secret)>,
    anonymous: bool,
}

impl Auth {
    /// Reads it. `anonymous = true` lets anybody in.
    pub(super) fn read(section: &mut Section) -> Self {
        let mut section = section.section("auth");
        let header = section
            .text("api_key_header")
            .unwrap_or_else(|| "x-api-key".to_owned());
        let header = header
            .parse()
            .map_err(|_| section.problem("api_key_header", "is no header name"));
        let api_key = section
            .secret("api_key")
            .zip(header.ok())
            .map(|(key, name)| (name, key));
        Self {
            api_key,
            basic: section.text("username").zip(section.secret("password")),
            oauth: section
                .text("client_id")
                .zip(section.secret("client_secret")),
            anonymous: section.flag("anonymous", false),
        }
    }

    /// Whether there is a way to be let in.
    pub(super) fn is_set(&self) -> bool {
        self.api_key.is_some() || self.basic.is_some() || self.oauth.is_some() || self.anonymous
    }

    /// Whether a request may come in.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Box<Answer>> {
        if self.anonymous || self.has_key(headers) || self.has_authorization(headers) {
            return Ok(());
        }
        let mut answer = say(StatusCode::UNAUTHORIZED, "credentials are missing or wrong");
        if self.basic.is_some() {
            let basic = ::http::HeaderValue::from_static("Basic realm=\"polycast\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        }
        Err(Box::new(answer))
    }

    /// Answers a request for a token (RFC 6749 section 4.4), if tokens are used.
    pub(super) fn token(&self, request: &Request) -> Option<Answer> {
        let (id, secret) = self.oauth.as_ref()?;
        if !matches!(*request.method(), Method::POST | Method::PUT) {
            return Some(say(StatusCode::METHOD_NOT_ALLOWED, "only POST"));
        }
        let body = String::from_utf8_lossy(request.body());
        let form = |name: &str| {
            let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
            let mut found = pairs
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned());
            found.next_back()
        };
        let shown =
            basic(request.headers()).or_else(|| form("client_id").zip(form("client_secret")));
        let good = shown.is_some_and(|(shown_id, shown_secret)| {
            same(&shown_id, id) & same(&shown_secret, secret.reveal())
        });
        let kind = "application/json";
        if !good {
            let body = json!({"error": "invalid_client"}).to_string();
            return Some(answer(StatusCode::UNAUTHORIZED, kind, body));
        }
        let token = make_token(secret, now_secs() + TOKEN_SECS);
        let body = json!({"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_SECS});
        Some(answer(StatusCode::OK, kind, body.to_string()))
    }

    fn has_key(&self, headers: &HeaderMap) -> bool {
        self.api_key.as_ref().is_some_and(|(name, key)| {
            let shown = headers.get(name).and_then(|value| value.to_str().ok());
            shown.is_some_and(|shown| same(shown, key.reveal()))
        })
    }

    fn has_authorization(&self, headers: &HeaderMap) -> bool {
        let by_basic = self.basic.as_ref().is_some_and(|(username, password)| {
            let shown = basic(headers);
            shown.is_some_and(|(name, word)| same(&name, username) & same(&word, password.reveal()))
        });
        let by_token = self.oauth.as_ref().is_some_and(|(_, secret)| {
            let shown = authorization(headers, "Bearer ");
            shown.is_some_and(|token| is_token(secret, token, now_secs()))
        });
        by_basic || by_token
    }
}

fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (head, rest) = value.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest.trim())
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let bytes = BASE64_STANDARD
        .decode(authorization(headers, "Basic ")?)
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

/// Takes as long for a wrong text as for a right one of the same length.
fn same(shown: &str, expected: &str) -> bool {
    verify_slices_are_equal(shown.as_bytes(), expected.as_bytes()).is_ok()
}

fn make_token(secret: &Secret, until_secs: u64) -> String {
    let until = until_secs.to_string();
    let tag = hmac::sign(&token_key(secret), until.as_bytes());
    format!("{until}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

fn is_token(secret: &Secret, token: &str, now_secs: u64) -> bool {
    let Some((until, tag)) = token.split_once('.') else {
        return false;
    };
    let Ok(tag) = BASE64_URL_SAFE_NO_PAD.decode(tag) else {
        return false;
    };
    let good = hmac::verify(&token_key(secret), until.as_bytes(), &tag).is_ok();
    good && until.parse().is_ok_and(|until: u64| now_secs < until)
}

fn token_key(secret: &Secret) -> hmac::Key {
    hmac::Key::new(
        hmac::HMAC_SHA256,
        format!("token {}", secret.reveal()).as_bytes(),
    )
}

pub(super) fn now_secs() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;

    fn auth() -> Auth {
        Auth {
            api_key: Some((HeaderName::from_static("x-api-key"), Secret::new("key"))),
            basic: Some(("ann".into(), Secret::new("pass:word"))),
            oauth: Some(("id".into(), Secret::new("secret"))),
            anonymous: false,
        }
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(HeaderName::from_static(name), value)])
    }

    #[test]
    fn each_way_lets_in_and_nothing_else_does() {
        let auth = auth();
        let basic = |text: &str| format!("basic {}", BASE64_STANDARD.encode(text));
        assert!(auth.check(&with("x-api-key", "key")).is_ok());
        assert!(
            auth.check(&with("authorization", &basic("ann:pass:word")))
                .is_ok()
        );
        for headers in [
            HeaderMap::new(),
            with("x-api-key", "kex"),
            with("x-api-key", ""),
            with("authorization", &basic("ann:pass")),
            with("authorization", &basic("bob:pass:word")),
            with("authorization", "Basic ???"),
            with("authorization", "Bearer 1.x"),
            with("authorization", "é"),
        ] {
            let refusal = auth.check(&headers).unwrap_err();
            assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
        }
        assert!(Auth::default().check(&HeaderMap::new()).is_err());
        let anonymous = Auth {
            anonymous: true,
            ..Auth::default()
        };
        assert!(anonymous.check(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn tokens_are_given_for_the_secret_and_end() {
        let request = |body: &'static str| {
            ::http::Request::post("/token")
                .body(bytes::Bytes::from_static(body.as_bytes()))
                .unwrap()
        };
        let refused = auth()
            .token(&request("client_id=id&client_secret=wrong"))
            .unwrap();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let body = "grant_type=client_credentials&client_id=id&client_secret=secret";
        assert_eq!(
            auth().token(&request(body)).unwrap().status(),
            StatusCode::OK
        );
        assert!(Auth::default().token(&request(body)).is_none());

        let (secret, other) = (Secret::new("secret"), Secret::new("other"));
        let token = make_token(&secret, 100);
        assert!(is_token(&secret, &token, 99));
        assert!(!is_token(&secret, &token, 100), "its time is over");
        assert!(!is_token(&other, &token, 99));
        assert!(!is_token(&secret, &token.replacen("100", "900", 1), 99));
    }
}
