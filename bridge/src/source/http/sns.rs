//! A subscription of an SNS topic: confirmed by itself, every message's signature checked.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, StatusCode, Uri};
use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Map, Value};
use tracing::{info, warn};

use super::{Inbox, answer_all, read_path, read_patience};
use crate::config::Section;
use crate::envelope::Envelope;
use crate::event::Event;
use crate::http::{Answer, Handler, HttpClient, Request, later, say};
use crate::source::{Context, Kind, Source, SourceError};

/// For a confirmation, or a certificate.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings.
#[derive(Clone, Debug)]
struct Sns {
    path: String,
    patience: Duration,
    topic_arns: Vec<String>,
    verify_signatures: bool,
    /// An emulator, from which certificates and confirmations may come besides AWS.
    endpoint: Option<Uri>,
}

/// Reads the settings.
pub(in crate::source) fn read(section: &mut Section) -> Arc<dyn Kind> {
    let endpoint = section.text("endpoint");
    let parsed = endpoint
        .as_deref()
        .and_then(|text| text.parse::<Uri>().ok());
    if endpoint.is_some() && parsed.as_ref().and_then(Uri::host).is_none() {
        section.problem("endpoint", "must be a URL");
    }
    let source = Sns {
        path: read_path(section, "/sns"),
        patience: read_patience(section),
        topic_arns: section.texts("topic_arns").unwrap_or_default(),
        verify_signatures: section.flag("verify_signatures", true),
        endpoint: parsed,
    };
    if source.topic_arns.is_empty() {
        section.problem("topic_arns", "is missing: the topics that may send here");
    }
    Arc::new(source)
}

impl Kind for Sns {
    fn open(&self, context: Context) -> BoxFuture<'_, Result<Vec<Box<dyn Source>>, SourceError>> {
        async move {
            let client = HttpClient::new(CALL_TIMEOUT, None).map_err(SourceError::new)?;
            let settings = self.clone();
            let certificate = Mutex::default();
            let source = Inbox::open(&context, &self.path, self.patience, |inbox| {
                Arc::new(Calls {
                    settings,
                    inbox,
                    client,
                    certificate,
                })
            });
            Ok(vec![source])
        }
        .boxed()
    }

    fn sample(&self, file: &[u8]) -> Result<Vec<Event>, SourceError> {
        Ok(vec![notification(Bytes::copy_from_slice(file))])
    }

    fn envelope(&self) -> Envelope {
        Envelope::Sns
    }

    fn path(&self) -> Option<&str> {
        Some(&self.path)
    }
}

fn notification(body: Bytes) -> Event {
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    Event {
        id: value["MessageId"].as_str().unwrap_or_default().to_owned(),
        body,
        ..Event::default()
    }
}

struct Calls {
    settings: Sns,
    inbox: Inbox,
    client: HttpClient,
    /// The last certificate and where it came from; they change about once a year.
    certificate: Mutex<Option<(String, Bytes)>>,
}

impl Handler for Calls {
    fn handle(&self, request: Request) -> BoxFuture<'_, Answer> {
        self.respond(request).boxed()
    }
}

impl Calls {
    async fn respond(&self, request: Request) -> Answer {
        if request.method() != Method::POST {
            return say(StatusCode::METHOD_NOT_ALLOWED, "only POST");
        }
        let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(request.body()) else {
            return say(StatusCode::BAD_REQUEST, "not an SNS message");
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        if !text("TopicArn")
            .is_some_and(|arn| self.settings.topic_arns.iter().any(|one| one == arn))
        {
            return say(StatusCode::FORBIDDEN, "this topic may not send here");
        }
        if self.settings.verify_signatures
            && let Err(why) = self.verify(&fields).await
        {
            warn!(why, "an SNS message was refused");
            return say(StatusCode::FORBIDDEN, why);
        }
        match text("Type") {
            Some("Notification") => answer_all(
                &self
                    .inbox
                    .offer(vec![notification(request.into_body())])
                    .await,
            ),
            Some("SubscriptionConfirmation") => self.confirm(text("SubscribeURL")).await,
            Some("UnsubscribeConfirmation") => say(StatusCode::OK, "a pity"),
            _ => say(StatusCode::BAD_REQUEST, "not an SNS message"),
        }
    }

    async fn confirm(&self, url: Option<&str>) -> Answer {
        let Some(uri) = url.and_then(|url| trusted(url, self.settings.endpoint.as_ref())) else {
            return say(StatusCode::FORBIDDEN, "SubscribeURL is not AWS's");
        };
        match self.get(uri).await {
            Ok(_) => {
                info!("an SNS subscription is confirmed");
                say(StatusCode::OK, "confirmed")
            }
            Err(error) => later(StatusCode::SERVICE_UNAVAILABLE, 5, error),
        }
    }

    async fn get(&self, uri: Uri) -> Result<Bytes, String> {
        let mut request = ::http::Request::new(Bytes::new());
        *request.uri_mut() = uri;
        let answer = self
            .client
            .send(request)
            .await
            .map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            status => Err(format!("answered with {status}")),
        }
    }

    async fn verify(&self, fields: &Map<String, Value>) -> Result<(), &'static str> {
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let url = text("SigningCertURL").ok_or("the certificate's address is missing")?;
        let certificate = self.certificate(url).await?;
        let signature = text("Signature").and_then(|text| BASE64_STANDARD.decode(text).ok());
        let signature = signature.ok_or("the signature is missing")?;
        let algorithm = match text("SignatureVersion") {
            Some("1") => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Some("2") => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err("the signature's version is not known"),
        };
        let signed = signed_text(fields).ok_or("a signed field is missing")?;
        check(&certificate, algorithm, signed.as_bytes(), &signature)
    }

    async fn certificate(&self, url: &str) -> Result<Bytes, &'static str> {
        if let Some((known, certificate)) = &*self.certificate.lock()
            && known == url
        {
            return Ok(certificate.clone());
        }
        let uri = trusted(url, self.settings.endpoint.as_ref());
        let uri = uri.ok_or("the certificate's address is not AWS's")?;
        let certificate = self
            .get(uri)
            .await
            .map_err(|_| "the certificate cannot be fetched")?;
        *self.certificate.lock() = Some((url.to_owned(), certificate.clone()));
        Ok(certificate)
    }
}

fn check(
    pem: &[u8],
    algorithm: &'static RsaParameters,
    signed: &[u8],
    signature: &[u8],
) -> Result<(), &'static str> {
    let wrong = "the certificate cannot be read";
    let der = CertificateDer::from_pem_slice(pem).map_err(|_| wrong)?;
    let key = public_key(&der).ok_or(wrong)?;
    let key = UnparsedPublicKey::new(algorithm, key);
    key.verify(signed, signature)
        .map_err(|_| "the signature is wrong")
}

/// What is signed: names and values of some fields, in their order, a line each.
fn signed_text(fields: &Map<String, Value>) -> Option<String> {
    let names: &[&str] = match fields.get("Type")?.as_str()? {
        "Notification" => &[
            "Message",
            "MessageId",
            "Subject",
            "Timestamp",
            "TopicArn",
            "Type",
        ],
        _ => &[
            "Message",
            "MessageId",
            "SubscribeURL",
            "Timestamp",
            "Token",
            "TopicArn",
            "Type",
        ],
    };
    let mut text = String::new();
    for name in names {
        match fields.get(*name).and_then(Value::as_str) {
            Some(value) => {
                let _ = write!(text, "{name}\n{value}\n");
            }
            None if *name == "Subject" => {}
            None => return None,
        }
    }
    Some(text)
}

/// An address that may be called because a message says so: AWS's SNS by HTTPS, or the emulator's.
fn trusted(url: &str, endpoint: Option<&Uri>) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host()?;
    if uri.authority()?.as_str().contains('@') {
        return None;
    }
    let aws = uri.scheme_str() == Some("https")
        && uri.port_u16().is_none_or(|port| port == 443)
        && host.strip_prefix("sns.").is_some_and(|rest| {
            let region = rest.strip_suffix(".amazonaws.com");
            let region = region.or_else(|| rest.strip_suffix(".amazonaws.com.cn"));
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            region.is_some_and(|region| !region.is_empty() && region.chars().all(fits))
        });
    let same = |endpoint: &Uri| {
        endpoint.scheme() == uri.scheme() && endpoint.authority() == uri.authority()
    };
    (aws || endpoint.is_some_and(same)).then_some(uri)
}

/// The RSA key inside a certificate: the bit string of its `SubjectPublicKeyInfo` (RFC 5280 section 4.1).
fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    let (_, whole, _) = element(certificate)?;
    let (_, body, _) = element(whole)?;
    let mut rest = body;
    // The version is there or not; then serial, algorithm, issuer, validity and subject.
    if element(rest)?.0 == 0xa0 {
        rest = element(rest)?.2;
    }
    for _ in 0..5 {
        rest = element(rest)?.2;
    }
    let (_, info, _) = element(rest)?;
    let (_, _, after) = element(info)?;
    let (tag, bits, _) = element(after)?;
    (tag == 0x03 && bits.first() == Some(&0)).then(|| &bits[1..])
}

/// Tag, content and rest of a DER element.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let count = usize::from(first & 0x7f);
            let (digits, rest) = rest.split_at_checked(count)?;
            let len = digits
                .iter()
                .fold(0, |len, digit| len << 8 | usize::from(*digit));
            (len, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_aws_and_the_endpoint_are_called() {
        let endpoint: Uri = "http://127.0.0.1:4566".parse().unwrap();
        for good in [
            "https://sns.eu-west-1.amazonaws.com/x.pem",
            "https://sns.cn-north-1.amazonaws.com.cn:443/x",
            "http://127.0.0.1:4566/?Action=ConfirmSubscription",
        ] {
            assert!(trusted(good, Some(&endpoint)).is_some(), "{good}");
        }
        for bad in [
            "http://sns.eu-west-1.amazonaws.com/x.pem",
            "https://sns.eu-west-1.amazonaws.com.evil.org/x",
            "https://sns.x.y.amazonaws.com/x",
            "https://evil.org/sns.eu-west-1.amazonaws.com",
            "https://sns.eu-west-1.amazonaws.com:8443/x",
            "https://user@sns.eu-west-1.amazonaws.com/x",
            "http://127.0.0.1:4567/",
            "file:///etc/passwd",
            "",
        ] {
            assert!(trusted(bad, Some(&endpoint)).is_none(), "{bad}");
        }
        assert!(trusted("http://127.0.0.1:4566/", None).is_none());
    }

    #[test]
    fn the_signed_text_is_sorted_and_leaves_out_a_missing_subject() {
        let fields = serde_json::json!({"Type": "Notification", "MessageId": "m", "TopicArn": "t",
            "Message": "hi", "Timestamp": "now", "Other": "x"});
        let text = signed_text(fields.as_object().unwrap()).unwrap();
        assert_eq!(
            text,
            "Message\nhi\nMessageId\nm\nTimestamp\nnow\nTopicArn\nt\nType\nNotification\n"
        );
        let mut without = fields.as_object().unwrap().clone();
        without.remove("Message");
        assert_eq!(signed_text(&without), None);
    }
}
