//! Signatures of AWS clients, version 4, as a server checks them.
//!
//! Whatever `SignedHeaders` lists is verified; no fixed set is asked for, but the host must be in it.
//! The path is encoded a second time and the query sorted, as the official clients do for all services
//! but S3.

use std::fmt::Write as _;

use ::http::HeaderMap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac};

use super::time::parse_basic;
use crate::config::{Secret, Section};
use crate::http::Request;

/// How far a request's time may be from ours.
const SKEW_SECS: u64 = 15 * 60;

/// Access keys that are let in.
#[derive(Clone, Debug, Default)]
pub(super) struct AccessKeys(Vec<(String, Secret)>);

impl AccessKeys {
    /// Reads `[access_keys]`: identifiers and their secrets.
    pub(super) fn read(section: &mut Section) -> Self {
        let mut keys = Vec::new();
        let mut table = section.section("access_keys");
        for id in table.names() {
            keys.extend(table.secret(&id).map(|secret| (id, secret)));
        }
        Self(keys)
    }

    /// Whether nobody is let in by a signature.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request is signed with one of the keys, just now.
    pub(super) fn verify(&self, request: &Request, now_secs: u64) -> bool {
        self.try_verify(request, now_secs).unwrap_or(false)
    }

    fn try_verify(&self, request: &Request, now_secs: u64) -> Option<bool> {
        let headers = request.headers();
        let authorization = headers.get("authorization")?.to_str().ok()?;
        let fields = authorization.strip_prefix("AWS4-HMAC-SHA256")?;
        let field = |name: &str| {
            let mut all = fields.split(',').map(str::trim);
            all.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let (id, scope) = field("Credential")?.split_once('/')?;
        let (_, secret) = self.0.iter().find(|(known, _)| known == id)?;
        let signed: Vec<_> = field("SignedHeaders")?.split(';').collect();
        let time = headers.get("x-amz-date")?.to_str().ok()?;
        if !signed.contains(&"host") || parse_basic(time)?.abs_diff(now_secs) > SKEW_SECS {
            return None;
        }
        let canonical = canonical(request, &signed)?;
        let text = format!(
            "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
            hex_digest(canonical.as_bytes())
        );
        let expected = hex(sign_text(secret, scope, time, &text)?.as_ref());
        let shown = field("Signature")?;
        Some(verify_slices_are_equal(expected.as_bytes(), shown.as_bytes()).is_ok())
    }
}

fn canonical(request: &Request, signed: &[&str]) -> Option<String> {
    let uri = request.uri();
    let mut query: Vec<_> = uri
        .query()
        .unwrap_or("")
        .split('&')
        .filter(|pair| !pair.is_empty())
        .collect();
    query.sort_unstable();
    let mut text = format!(
        "{}\n{}\n{}\n",
        request.method(),
        encoded(uri.path()),
        query.join("&")
    );
    for name in signed {
        let value = value_of(request.headers(), name)?;
        let _ = writeln!(text, "{name}:{value}");
    }
    let _ = write!(
        text,
        "\n{}\n{}",
        signed.join(";"),
        hex_digest(request.body())
    );
    Some(text)
}

fn value_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers.get_all(name).into_iter().map(|value| {
        let text = value.to_str().ok()?;
        Some(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
    });
    let values: Vec<_> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.join(","))
}

fn encoded(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// The key is of the day, region and service of the scope.
fn sign_text(secret: &Secret, scope: &str, time: &str, text: &str) -> Option<hmac::Tag> {
    let mut steps = scope.split('/');
    let (day, region, service) = (steps.next()?, steps.next()?, steps.next()?);
    if steps.next() != Some("aws4_request") || !time.starts_with(day) {
        return None;
    }
    let first = format!("AWS4{}", secret.reveal());
    let mut key = sign(first.as_bytes(), day);
    for step in [region, service, "aws4_request"] {
        key = sign(key.as_ref(), step);
    }
    Some(sign(key.as_ref(), text))
}

fn sign(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

pub(super) fn hex_digest(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
    use aws_sigv4::sign::v4::SigningParams;
    use bytes::Bytes;

    use super::*;

    const NOW: u64 = 1_795_000_000;

    /// A request as the official client signs it.
    fn signed(path: &str, secret: &str) -> Request {
        let body = br#"{"Entries":[]}"#;
        let target = "AWSEvents.PutEvents";
        let identity = Credentials::new("AKID", secret, None, None, "test").into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region("eu-west-1")
            .name("events")
            .time(UNIX_EPOCH + Duration::from_secs(NOW))
            .settings(SigningSettings::default())
            .build()
            .unwrap();
        let headers = [("host", "localhost:80"), ("x-amz-target", target)].into_iter();
        let url = format!("http://localhost:80{path}");
        let signable =
            SignableRequest::new("POST", &url, headers, SignableBody::Bytes(body)).unwrap();
        let (instructions, _) = sign(signable, &params.into()).unwrap().into_parts();
        let mut request = ::http::Request::post(path)
            .header("host", "localhost:80")
            .header("x-amz-target", target)
            .body(Bytes::from_static(body))
            .unwrap();
        instructions.apply_to_request_http1x(&mut request);
        request
    }

    fn keys() -> AccessKeys {
        AccessKeys(vec![("AKID".into(), Secret::new("secret"))])
    }

    #[test]
    fn what_the_official_client_signs_is_good() {
        for path in ["/", "/events", "/a%20b/@x", "/?b=2&a=1"] {
            assert!(keys().verify(&signed(path, "secret"), NOW + 60), "{path}");
        }
    }

    #[test]
    fn whatever_is_changed_is_seen() {
        assert!(!keys().verify(&signed("/", "other"), NOW), "secret");
        assert!(
            !AccessKeys::default().verify(&signed("/", "secret"), NOW),
            "unknown key"
        );
        assert!(
            !keys().verify(&signed("/", "secret"), NOW + 16 * 60),
            "too old"
        );
        let mut request = signed("/", "secret");
        *request.body_mut() = Bytes::from_static(b"{}");
        assert!(!keys().verify(&request, NOW), "body");
        let mut request = signed("/", "secret");
        request
            .headers_mut()
            .insert("x-amz-target", "AWSEvents.Other".parse().unwrap());
        assert!(!keys().verify(&request, NOW), "header");
        let mut request = signed("/", "secret");
        *request.uri_mut() = "/x".parse().unwrap();
        assert!(!keys().verify(&request, NOW), "path");
        assert!(!keys().verify(&Request::default(), NOW), "not signed");
    }
}
