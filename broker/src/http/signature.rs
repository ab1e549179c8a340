//! AWS Signature Version 4, as the SDKs send it in the `Authorization` header, and as presigned
//! addresses have it in their query.
//!
//! The path is encoded a second time for the signature, as every service but S3 does it; whatever
//! headers are listed as signed are checked, and `host` must be among them.

use std::borrow::Cow;
use std::fmt::Write as _;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use protocols::model::Timestamp;

use super::guard::sha256;
use super::problem::Problem;
use super::text::{Query, percent_encode};
use crate::config::Permissions;

/// How far a signature's time may lie from ours.
const SKEW_MS: u64 = 15 * 60 * 1000;

/// Seconds that a presigned address may be good for: a week, as AWS has it.
const EXPIRES_MAX: u64 = 7 * 24 * 3600;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SIGNATURE: &str = "X-Amz-Signature";
const TOKEN: &str = "X-Amz-Security-Token";

/// The service that devices sign for when they open a WebSocket.
const DEVICES: &str = "/iotdevicegateway/";

/// An access key.
pub(super) struct Secret {
    /// Its public part.
    pub(super) id: String,
    /// What it allows.
    pub(super) permissions: Permissions,
    /// Its secret part.
    pub(super) key: String,
}

/// What of a request is signed, beside its body.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
}

/// What an `Authorization` header says, or the query of a presigned address.
#[derive(Debug)]
pub(super) struct Signature<'a> {
    id: Cow<'a, str>,
    /// `20261123/eu-west-1/execute-api/aws4_request`
    scope: Cow<'a, str>,
    /// Names of signed headers, with `;` between.
    headers: Cow<'a, str>,
    hex: Cow<'a, str>,
    /// When and for how long it was signed, if the address is presigned.
    presigned: Option<Presigned>,
}

#[derive(Debug)]
struct Presigned {
    date: String,
    seconds: u64,
}

/// The signature of a request, if it claims to have one.
pub(super) fn of(head: Head<'_>) -> Option<Result<Signature<'_>, Problem>> {
    let value = header_text(head.headers, "authorization");
    if let Some(rest) = value.and_then(|value| value.strip_prefix(ALGORITHM)) {
        return Some(parse(rest).ok_or_else(|| {
            forbidden("the Authorization header is not Credential=…, SignedHeaders=…, Signature=…")
        }));
    }
    let query = head.uri.query().filter(|query| query.contains(SIGNATURE))?;
    Some(presigned(query).ok_or_else(|| {
        forbidden(
            "the query has no good X-Amz-Algorithm, X-Amz-Credential, X-Amz-Date, \
             X-Amz-SignedHeaders and X-Amz-Signature, or X-Amz-Expires is not 1 to 604800",
        )
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
    Signature {
        id: id.into(),
        scope: scope.into(),
        headers: headers?.into(),
        hex: hex?.into(),
        presigned: None,
    }
    .checked()
}

fn presigned(query: &str) -> Option<Signature<'static>> {
    let query = Query::parse(Some(query));
    let text = |name| query.text(name).map(str::to_owned);
    let seconds = match query.text("X-Amz-Expires") {
        None => SKEW_MS / 1000,
        Some(text) => text.parse().ok()?,
    };
    let (id, scope) = query.text("X-Amz-Credential")?.split_once('/')?;
    let is_good =
        query.text("X-Amz-Algorithm")? == ALGORITHM && (1..=EXPIRES_MAX).contains(&seconds);
    let signature = Signature {
        id: id.to_owned().into(),
        scope: scope.to_owned().into(),
        headers: text("X-Amz-SignedHeaders")?.into(),
        hex: text(SIGNATURE)?.into(),
        presigned: Some(Presigned {
            date: text("X-Amz-Date")?,
            seconds,
        }),
    };
    signature.checked().filter(|_| is_good)
}

fn forbidden(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "badSignature", detail)
}

impl<'a> From<&'a Parts> for Head<'a> {
    fn from(head: &'a Parts) -> Self {
        Self {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
        }
    }
}

impl<'a, B> From<&'a Request<B>> for Head<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
        }
    }
}

impl Signature<'_> {
    fn checked(self) -> Option<Self> {
        let is_scope = self.scope.split('/').count() == 4 && self.scope.ends_with("/aws4_request");
        let has_host = self.headers.split(';').any(|name| name == "host");
        (is_scope && has_host).then_some(self)
    }

    /// The key that the request says it was signed with, and the time when, if both can be. All
    /// that can be said before the body is read: whoever knows no key has none read.
    pub(super) fn signer<'k>(
        &self,
        head: Head<'_>,
        now_ms: u64,
        secrets: &'k [Secret],
    ) -> Result<(&'k Secret, String), Problem> {
        let secret = secrets.iter().find(|secret| secret.id == self.id);
        let secret = secret.ok_or_else(|| {
            forbidden("the security token is invalid: its access key is not in `api.aws_keys`")
        })?;
        let (date, back_ms) = match &self.presigned {
            Some(presigned) => (Some(&*presigned.date), presigned.seconds * 1000),
            None => (header_text(head.headers, "x-amz-date"), SKEW_MS),
        };
        let date = date.ok_or_else(|| forbidden("the header X-Amz-Date is missing"))?;
        let is_of_scope = self.scope.starts_with(date.get(..8).unwrap_or("-"));
        if !is_between(date, now_ms.saturating_sub(back_ms), now_ms + SKEW_MS) || !is_of_scope {
            return Err(forbidden(
                "the signature is not of this time: it has expired, or the clocks of both machines differ",
            ));
        }
        Ok((secret, date.to_owned()))
    }

    /// The key that the request was signed with, if it was.
    pub(super) fn verify<'k>(
        &self,
        head: Head<'_>,
        body: &[u8],
        now_ms: u64,
        secrets: &'k [Secret],
    ) -> Result<&'k Secret, Problem> {
        let (secret, date) = self.signer(head, now_ms, secrets)?;
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

    fn canonical(&self, head: Head<'_>, body: &[u8]) -> Result<String, Problem> {
        let query = head.uri.query().unwrap_or_default();
        let mut text = format!(
            "{}\n{}\n{}\n",
            head.method,
            percent_encode(head.uri.path(), b"/"),
            canonical_query(query, |name| self.is_unsigned(name)),
        );
        for name in self.headers.split(';') {
            let values: Vec<String> = head
                .headers
                .get_all(name)
                .into_iter()
                .map(trimmed)
                .collect();
            if values.is_empty() {
                return Err(forbidden(format!("the signed header {name:?} is missing")));
            }
            // Writing into a string does not fail.
            let _ = writeln!(text, "{name}:{}", values.join(","));
        }
        let _ = write!(text, "\n{}\n", self.headers);
        let actual = hex(&sha256(body));
        match header_text(head.headers, "x-amz-content-sha256") {
            Some("UNSIGNED-PAYLOAD") => text.push_str("UNSIGNED-PAYLOAD"),
            Some(claimed) if claimed != actual => {
                return Err(forbidden("X-Amz-Content-SHA256 is not that of the body"));
            }
            _ => text.push_str(&actual),
        }
        Ok(text)
    }

    /// Whether a parameter was put into the query after it was signed. That of the session is, where
    /// devices of AWS IoT open a WebSocket.
    fn is_unsigned(&self, name: &str) -> bool {
        self.presigned.is_some()
            && (name == SIGNATURE || (name == TOKEN && self.scope.contains(DEVICES)))
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

fn canonical_query(query: &str, is_unsigned: impl Fn(&str) -> bool) -> String {
    let mut pairs: Vec<(&str, &str)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| !is_unsigned(name))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

/// Whether `20261123T031500Z` lies between two moments.
fn is_between(date: &str, from_ms: u64, to_ms: u64) -> bool {
    let text = |at| {
        let text = super::text::moment(Timestamp(at));
        text[..19].replace(['-', ':'], "") + "Z"
    };
    // The form is fixed, so that texts compare as moments do.
    date.len() == 16 && *date >= *text(from_ms) && *date <= *text(to_ms)
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
        let signature = of(head.into()).unwrap()?;
        let secrets = secrets();
        signature.verify(head.into(), body, now_ms, &secrets)?;
        Ok(())
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

    /// What the query of a presigned address says, which is all signed but the signature.
    const SAID: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256\
        &X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Fus-east-1%2FSERVICE%2Faws4_request\
        &X-Amz-Date=20150830T123600Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host";

    /// A GET of `/mqtt` with this query, signed as the standard says: `query` is sorted.
    fn presigned_for(query: &str, behind: &str) -> Parts {
        let service = if query.contains("iotdevicegateway") {
            "iotdevicegateway"
        } else {
            "iotdata"
        };
        let scope = format!("20150830/us-east-1/{service}/aws4_request");
        let canonical = format!(
            "GET\n/mqtt\n{query}\nhost:example.amazonaws.com\n\nhost\n{}",
            hex(&sha256(b""))
        );
        let to_sign = format!(
            "{ALGORITHM}\n20150830T123600Z\n{scope}\n{}",
            hex(&sha256(canonical.as_bytes()))
        );
        let mut key = hmac::sign(
            &hmac::Key::new(HMAC_SHA256, b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            b"20150830",
        );
        for part in ["us-east-1", service, "aws4_request"] {
            key = sign(&key, part);
        }
        let signature = hex(sign(&key, &to_sign).as_ref());
        let uri = format!("/mqtt?{query}&{SIGNATURE}={signature}{behind}");
        let request = Request::get(uri).header("host", "example.amazonaws.com");
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_presigned_address_is_good_until_it_expires() {
        let head = presigned_for(&SAID.replace("SERVICE", "iotdata"), "");
        verify(&head, b"", NOW_MS).unwrap();
        verify(&head, b"", NOW_MS + 60_000).unwrap();
        assert!(verify(&head, b"", NOW_MS + 61_000).is_err());
        // The clock of who signed may be ahead of ours.
        verify(&head, b"", NOW_MS - SKEW_MS).unwrap();
        assert!(verify(&head, b"", NOW_MS - SKEW_MS - 1000).is_err());
        assert!(verify(&head, b"x", NOW_MS).is_err());
    }

    #[test]
    fn what_is_added_to_a_presigned_address_is_refused() {
        let query = SAID.replace("SERVICE", "iotdata");
        for behind in ["&a=1", "&X-Amz-Security-Token=t", "&X-Amz-Expires=600"] {
            assert!(verify(&presigned_for(&query, behind), b"", NOW_MS).is_err());
        }
        let query = SAID.replace("SERVICE", "iotdevicegateway");
        verify(
            &presigned_for(&query, "&X-Amz-Security-Token=t"),
            b"",
            NOW_MS,
        )
        .unwrap();
        assert!(verify(&presigned_for(&query, "&a=1"), b"", NOW_MS).is_err());
    }

    #[test]
    fn broken_queries_are_refused() {
        let good = SAID.replace("SERVICE", "iotdata") + "&X-Amz-Signature=0";
        assert!(presigned(&good).is_some());
        for (from, to) in [
            ("HMAC-SHA256", "HMAC-SHA1"),
            ("Expires=60", "Expires=0"),
            ("Expires=60", "Expires=604801"),
            ("Expires=60", "Expires=-1"),
            ("Headers=host", "Headers=x-amz-date"),
            ("aws4_request", "aws4"),
            ("X-Amz-Date", "Date"),
            ("X-Amz-Credential", "Credential"),
        ] {
            assert!(presigned(&good.replace(from, to)).is_none(), "{to}");
        }
    }

    #[test]
    fn the_path_is_encoded_again() {
        let path = percent_encode("/prod/@connections/R0o%3D", b"/");
        assert_eq!(path, "/prod/%40connections/R0o%253D");
    }
}
