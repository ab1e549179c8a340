//! AWS Signature Version 4, as the SDKs send it in the `Authorization` header.
//!
//! The path is encoded a second time for the signature, as every service but S3 does it; whatever
//! headers are listed as signed are checked, and `host` must be among them.

use std::borrow::Cow;
use std::fmt::Write as _;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::guard::sha256;
use super::problem::Problem;
use super::text::percent_encode;
use crate::config::Permissions;

/// How far a signature's time may lie from ours.
const SKEW_MS: u64 = 15 * 60 * 1000;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// An access key.
pub(super) struct Secret {
    /// Its public part.
    pub(super) id: String,
    /// What it allows.
    pub(super) permissions: Permissions,
    /// Its secret part.
    pub(super) key: String,
}

/// What an `Authorization` header says.
#[derive(Debug)]
pub(super) struct Signature<'a> {
    id: &'a str,
    /// `20261123/eu-west-1/execute-api/aws4_request`
    scope: &'a str,
    headers: Vec<&'a str>,
    hex: &'a str,
}

/// The signature of a request, if it claims to have one.
pub(super) fn of(head: &Parts) -> Option<Result<Signature<'_>, Problem>> {
    let value = head.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let rest = value.strip_prefix(ALGORITHM)?;
    Some(parse(rest).ok_or_else(|| {
        forbidden("the Authorization header is not Credential=…, SignedHeaders=…, Signature=…")
    }))
}

fn parse(text: &str) -> Option<Signature<'_>> {
    let (mut credential, mut headers, mut hex) = (None, None, None);
    for part in text.split(',') {
        let (name, value) = part.trim().split_once('=')?;
        match name {
            "Credential" => credential = Some(value),
            "SignedHeaders" => headers = Some(value),
            "Signature" => hex = Some(value),
            _ => return None,
        }
    }
    let (id, scope) = credential?.split_once('/')?;
    let headers: Vec<&str> = headers?.split(';').collect();
    let is_scope = scope.split('/').count() == 4 && scope.ends_with("/aws4_request");
    (is_scope && headers.contains(&"host")).then_some(Signature {
        id,
        scope,
        headers,
        hex: hex?,
    })
}

fn forbidden(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "badSignature", detail)
}

impl Signature<'_> {
    /// The key that the request was signed with, if it was.
    pub(super) fn verify<'k>(
        &self,
        head: &Parts,
        body: &[u8],
        now_ms: u64,
        secrets: &'k [Secret],
    ) -> Result<&'k Secret, Problem> {
        let secret = secrets.iter().find(|secret| secret.id == self.id);
        let secret = secret.ok_or_else(|| {
            forbidden("the security token is invalid: its access key is not in `api.aws_keys`")
        })?;
        let date = header_text(&head.headers, "x-amz-date")
            .ok_or_else(|| forbidden("the header X-Amz-Date is missing"))?;
        if !is_recent(date, now_ms) || !self.scope.starts_with(date.get(..8).unwrap_or("-")) {
            return Err(forbidden(
                "the signature is not of this time: look at the clocks of both machines",
            ));
        }
        let to_sign = format!(
            "{ALGORITHM}\n{date}\n{}\n{}",
            self.scope,
            hex(&sha256(self.canonical(head, body)?.as_bytes()))
        );
        let expected = hex(sign(&self.signing_key(&secret.key), &to_sign).as_ref());
        verify_slices_are_equal(expected.as_bytes(), self.hex.as_bytes())
            .map(|()| secret)
            .map_err(|_| {
                forbidden(
                    "the request signature we calculated does not match the one given: look at the \
                     secret of the access key",
                )
            })
    }

    fn signing_key(&self, secret: &str) -> hmac::Tag {
        let mut parts = self.scope.split('/');
        let mut next = || parts.next().unwrap_or_default();
        let key = hmac::Key::new(HMAC_SHA256, format!("AWS4{secret}").as_bytes());
        let mut tag = hmac::sign(&key, next().as_bytes());
        for _ in 0..3 {
            tag = sign(&tag, next());
        }
        tag
    }

    fn canonical(&self, head: &Parts, body: &[u8]) -> Result<String, Problem> {
        let mut text = format!(
            "{}\n{}\n{}\n",
            head.method,
            percent_encode(head.uri.path(), b"/"),
            canonical_query(head.uri.query().unwrap_or_default()),
        );
        for name in &self.headers {
            let values: Vec<String> = head
                .headers
                .get_all(*name)
                .into_iter()
                .map(trimmed)
                .collect();
            if values.is_empty() {
                return Err(forbidden(format!("the signed header {name:?} is missing")));
            }
            // Writing into a string does not fail.
            let _ = writeln!(text, "{name}:{}", values.join(","));
        }
        let _ = write!(text, "\n{}\n", self.headers.join(";"));
        let actual = hex(&sha256(body));
        match header_text(&head.headers, "x-amz-content-sha256") {
            Some("UNSIGNED-PAYLOAD") => text.push_str("UNSIGNED-PAYLOAD"),
            Some(claimed) if claimed != actual => {
                return Err(forbidden("X-Amz-Content-SHA256 is not that of the body"));
            }
            _ => text.push_str(&actual),
        }
        Ok(text)
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A header's value without white space around it, and with single blanks in it.
fn trimmed(value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<(&str, &str)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

/// Whether `20261123T031500Z` is near a moment.
fn is_recent(date: &str, now_ms: u64) -> bool {
    let near = |offset: i64| {
        let at = now_ms.saturating_add_signed(offset);
        let text = super::text::moment(protocols::model::Timestamp(at));
        text[..19].replace(['-', ':'], "") + "Z"
    };
    let skew = SKEW_MS.cast_signed();
    // The form is fixed, so that texts compare as moments do.
    date.len() == 16 && *date >= *near(-skew) && *date <= *near(skew)
}

fn sign(key: &hmac::Tag, text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(HMAC_SHA256, key.as_ref()), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::Request;

    use super::*;

    /// `get-vanilla-query-order-key-case` of the published test suite of Signature Version 4, with
    /// its example key.
    const NOW_MS: u64 = 1_440_938_160_000;

    fn secrets() -> [Secret; 1] {
        [Secret {
            id: "AKIDEXAMPLE".to_owned(),
            permissions: Permissions::ALL,
            key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
        }]
    }

    fn request(uri: &str, date: &str, signature: &str) -> Parts {
        let authorization = format!(
            "{ALGORITHM} Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature={signature}"
        );
        let request = Request::get(uri)
            .header("host", "example.amazonaws.com")
            .header("x-amz-date", date)
            .header("authorization", authorization);
        request.body(()).unwrap().into_parts().0
    }

    const GOOD: &str = "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500";

    fn verify(head: &Parts, body: &[u8], now_ms: u64) -> Result<(), Problem> {
        let signature = of(head).unwrap()?;
        signature.verify(head, body, now_ms, &secrets()).map(|_| ())
    }

    #[test]
    fn the_published_example_is_accepted() {
        let head = request("/?Param2=value2&Param1=value1", "20150830T123600Z", GOOD);
        verify(&head, b"", NOW_MS).unwrap();
        verify(&head, b"", NOW_MS + SKEW_MS).unwrap();
    }

    #[test]
    fn whatever_differs_is_refused() {
        let date = "20150830T123600Z";
        let uri = "/?Param2=value2&Param1=value1";
        for (uri, date, hex) in [
            ("/?Param2=value2&Param1=value2", date, GOOD),
            ("/x?Param2=value2&Param1=value1", date, GOOD),
            (uri, "20150830T123601Z", GOOD),
            (uri, "20150831T123600Z", GOOD),
            (uri, date, &GOOD[1..]),
            (uri, date, ""),
        ] {
            assert!(verify(&request(uri, date, hex), b"", NOW_MS).is_err());
        }
        let head = request(uri, date, GOOD);
        assert!(verify(&head, b"x", NOW_MS).is_err());
        assert!(verify(&head, b"", NOW_MS + SKEW_MS + 1000).is_err());
        assert!(verify(&head, b"", NOW_MS - SKEW_MS - 1000).is_err());
    }

    #[test]
    fn broken_headers_are_refused() {
        for text in [
            "",
            " Credential=A",
            " Credential=A/b/c/d/aws4_request, SignedHeaders=x-amz-date, Signature=0",
            " Credential=A/b/c/aws4_request, SignedHeaders=host, Signature=0",
            " Credential=A/b/c/d/aws4_request, SignedHeaders=host",
            " Nonsense=1",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_path_is_encoded_again() {
        let path = percent_encode("/prod/@connections/R0o%3D", b"/");
        assert_eq!(path, "/prod/%40connections/R0o%253D");
    }
}
