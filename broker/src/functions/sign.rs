//! Signatures of our own requests: AWS Signature Version 4 for Lambda, HMAC-SHA256 for webhooks.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use protocols::model::Timestamp;
use url::Url;

use crate::http::{moment, percent_encode};

/// The credentials of AWS.
#[derive(Clone)]
pub(super) struct AwsKey {
    pub(super) id: String,
    pub(super) secret: String,
    /// Of temporary credentials.
    pub(super) session_token: Option<String>,
    pub(super) region: String,
}

impl std::fmt::Debug for AwsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl AwsKey {
    /// Signs a request to a service: adds `X-Amz-Date`, `X-Amz-Security-Token` and
    /// `Authorization`. All headers that are there already, and `host`, are signed.
    pub(super) fn sign(
        &self,
        service: &str,
        (method, url): (&Method, &Url),
        headers: &mut HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) {
        let date = moment(now)[..19].replace(['-', ':'], "") + "Z";
        put(headers, "x-amz-date", &date);
        if let Some(token) = &self.session_token {
            put(headers, "x-amz-security-token", token);
        }
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let mut canonical = format!(
            "{method}\n{}\n{}\n",
            percent_encode(url.path(), b"/"),
            url.query().unwrap_or_default(),
        );
        for name in &names {
            let values = headers.get_all(*name).into_iter();
            let values: Vec<_> = values
                .map(|value| one_blank(&String::from_utf8_lossy(value.as_bytes())))
                .collect();
            // Writing into a string does not fail.
            let _ = writeln!(canonical, "{name}:{}", values.join(","));
        }
        let names = names.join(";");
        let _ = write!(
            canonical,
            "\n{names}\n{}",
            hex(digest(&SHA256, body).as_ref())
        );
        let scope = format!("{}/{}/{service}/aws4_request", &date[..8], self.region);
        let hashed = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashed}");
        let parts = [&date[..8], &self.region, service, "aws4_request", &to_sign];
        let signature = signature_of(&self.secret, &parts);
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.id
        );
        put(headers, header::AUTHORIZATION.as_str(), &value);
    }
}

/// A header's value without white space around it, and with single blanks in it.
fn one_blank(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn signature_of(secret: &str, parts: &[&str]) -> String {
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in parts {
        let signing = hmac::Key::new(HMAC_SHA256, &key);
        key = hmac::sign(&signing, part.as_bytes()).as_ref().to_vec();
    }
    hex(&key)
}

/// Signs a webhook: `X-Polycast-Signature: t=SECONDS,v1=HEX` over `SECONDS.BODY`, so that nobody can
/// send an old request again.
pub(super) fn sign_webhook(key: &[u8], headers: &mut HeaderMap, body: &[u8], now: Timestamp) {
    let secs = (now.0 / 1000).to_string();
    let mut context = hmac::Context::with_key(&hmac::Key::new(HMAC_SHA256, key));
    context.update(secs.as_bytes());
    context.update(b".");
    context.update(body);
    let hex = hex(context.sign().as_ref());
    put(
        headers,
        "x-polycast-signature",
        &format!("t={secs},v1={hex}"),
    );
}

/// Sets a header. What none can hold is left out.
pub(super) fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_str(value),
    ) {
        headers.insert(name, value);
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
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

    /// `get-vanilla-query-order-key-case` of the published test suite, whose query is sorted here as
    /// it must be before it is sent.
    #[test]
    fn the_published_example_comes_out() {
        let key = AwsKey {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            region: "us-east-1".to_owned(),
        };
        let url = Url::parse("https://example.amazonaws.com/?Param1=value1&Param2=value2").unwrap();
        let mut headers = HeaderMap::new();
        put(&mut headers, "host", "example.amazonaws.com");
        let now = Timestamp(1_440_938_160_000);
        key.sign("service", (&Method::GET, &url), &mut headers, b"", now);
        assert_eq!(headers["x-amz-date"], "20150830T123600Z");
        let expected = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500";
        assert_eq!(headers["authorization"], expected);
        assert!(!format!("{key:?}").contains("wJal"));
    }

    #[test]
    fn webhooks_are_signed_with_their_time() {
        let mut headers = HeaderMap::new();
        sign_webhook(b"key", &mut headers, b"{}", Timestamp(1_700_000_000_999));
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        let value = headers["x-polycast-signature"].to_str().unwrap();
        let (time, signature) = value.split_once(',').unwrap();
        assert_eq!(time, "t=1700000000");
        let key = hmac::Key::new(HMAC_SHA256, b"key");
        let expected = hex(hmac::sign(&key, b"1700000000.{}").as_ref());
        assert_eq!(signature, format!("v1={expected}"));
    }
}
