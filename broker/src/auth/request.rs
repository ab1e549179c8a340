//! Credentials in an HTTP request: `Authorization: Bearer`, `Authorization: Basic`, or
//! `?access_token=` where a browser can set no header. Cookies say nothing here.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use protocols::connection::{Refusal, Secret};

use super::Identity;
use super::authenticator::{Answer, Authenticator};
use super::credentials::{Credentials, Door};

impl Authenticator {
    /// Who sends an HTTP request. `door` says where it comes from; its token is not looked at.
    pub async fn authenticate_http(
        self: &Arc<Self>,
        headers: &HeaderMap,
        query: Option<&str>,
        door: &Door,
    ) -> Result<Identity, Refusal> {
        let mut credentials = Credentials {
            peer: Some(door.peer),
            on_loopback: door.on_loopback,
            protocol: "http".to_owned(),
            client_id: None,
            username: None,
            password: None,
            token: token_of_request(headers, query),
            certificate_user: door.certificate_user.clone(),
        };
        if credentials.token.is_none()
            && let Some((user, password)) = basic(headers)
        {
            credentials.username = Some(user);
            credentials.password = Some(password);
        }
        match self.log_in(credentials) {
            Answer::Now(answer) => answer,
            Answer::Later(asking) => asking.await,
        }
    }
}

/// The token of a request; the header counts more than the query.
pub fn token_of_request(headers: &HeaderMap, query: Option<&str>) -> Option<Secret> {
    let of_header = credentials_of(headers, "bearer").map(|text| text.as_bytes().to_vec());
    let of_query = || {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let mut tokens = pairs.filter(|(name, _)| name == "access_token");
        tokens
            .next()
            .map(|(_, token)| token.into_owned().into_bytes())
    };
    let token = of_header.or_else(of_query)?;
    (!token.is_empty()).then(|| Secret(Bytes::from(token)))
}

fn basic(headers: &HeaderMap) -> Option<(ByteString, Secret)> {
    let bytes = STANDARD.decode(credentials_of(headers, "basic")?).ok()?;
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let user = ByteString::try_from(&bytes[..colon]).ok()?;
    Some((user, Secret(Bytes::copy_from_slice(&bytes[colon + 1..]))))
}

fn credentials_of<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (given, credentials) = value.trim().split_once(' ')?;
    given
        .eq_ignore_ascii_case(scheme)
        .then(|| credentials.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
        headers
    }

    fn token(value: &'static str, query: Option<&str>) -> Option<Vec<u8>> {
        token_of_request(&headers(value), query).map(|secret| secret.0.to_vec())
    }

    #[test]
    fn a_token_is_in_the_header_or_in_the_query() {
        assert_eq!(
            token("Bearer abc", Some("access_token=x")),
            Some(b"abc".to_vec())
        );
        assert_eq!(token("bearer  abc ", None), Some(b"abc".to_vec()));
        assert_eq!(
            token("Basic abc", Some("a=1&access_token=x%2Ey")),
            Some(b"x.y".to_vec())
        );
        for query in [
            None,
            Some(""),
            Some("access_token="),
            Some("Access_token=x"),
        ] {
            assert_eq!(token("Bearer", query), None);
        }
    }

    #[test]
    fn basic_is_a_user_and_a_password() {
        let (user, password) = basic(&headers("Basic YW5uOmE6Yg==")).unwrap();
        assert_eq!((&*user, &password.0[..]), ("ann", &b"a:b"[..]));
        for wrong in ["Basic", "Basic !!", "Basic YW5u", "Bearer YW5uOmI="] {
            assert!(basic(&headers(wrong)).is_none(), "{wrong}");
        }
    }
}
