//! Signed calls of AWS services: the protocol is JSON over HTTP, an SDK for each would be more than is
//! needed, and slower.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;

use crate::config::Section;
use crate::http::HttpClient;
use crate::source::SourceError;

const TIMEOUT: Duration = Duration::from_mins(1);

/// Credentials are asked for again this long before they end, and those without an end this often.
const REFRESH: Duration = Duration::from_mins(5);

/// Where a service is, and in which region.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    endpoint: Option<String>,
    region: Option<String>,
}

impl Settings {
    pub(crate) fn of(endpoint: Option<String>, region: Option<String>) -> Self {
        Self { endpoint, region }
    }

    pub(crate) fn read(section: &mut Section) -> Self {
        let endpoint = section.text("endpoint");
        let region = section.text("region");
        Self { endpoint, region }
    }

    /// Connects to a service, with the credentials of AWS's usual chain.
    pub(crate) async fn connect(&self, service: &'static str) -> Result<Service, SourceError> {
        let loader = aws_config::defaults(BehaviorVersion::latest());
        let loader = match &self.region {
            Some(region) => loader.region(Region::new(region.clone())),
            None => loader,
        };
        let shared = loader.load().await;
        let region = shared
            .region()
            .map_or("us-east-1", Region::as_ref)
            .to_owned();
        let default = || format!("https://{service}.{region}.amazonaws.com");
        let endpoint = self.endpoint.clone().unwrap_or_else(default);
        let credentials = shared.credentials_provider();
        Ok(Service {
            client: HttpClient::new(TIMEOUT, None).map_err(SourceError::new)?,
            credentials: credentials.ok_or_else(|| SourceError::new("no credentials"))?,
            known: Mutex::default(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            region,
            name: service,
        })
    }
}

/// A service that can be called.
#[derive(Debug)]
pub(crate) struct Service {
    client: HttpClient,
    credentials: SharedCredentialsProvider,
    /// The last credentials and when they were given: the chain may ask another machine for them.
    known: Mutex<Option<(Credentials, SystemTime)>>,
    endpoint: String,
    region: String,
    name: &'static str,
}

impl Service {
    /// Signs a request and sends it.
    pub(crate) async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Bytes>, SourceError> {
        let request = self.signed(path, headers, body).await?;
        self.client.send(request).await.map_err(SourceError::new)
    }

    async fn signed(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Request<Bytes>, SourceError> {
        let url = format!("{}{path}", self.endpoint);
        let identity = self.credentials().await?.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.name)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(SourceError::new)?;
        let mut request = Request::post(&url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let signable = SignableRequest::new(
            "POST",
            &url,
            headers.iter().copied(),
            SignableBody::Bytes(&body),
        );
        let signable = signable.map_err(SourceError::new)?;
        let signed = sign(signable, &params.into()).map_err(SourceError::new)?;
        let mut request = request.body(body.clone()).map_err(SourceError::new)?;
        signed.into_parts().0.apply_to_request_http1x(&mut request);
        Ok(request)
    }

    async fn credentials(&self) -> Result<Credentials, SourceError> {
        let now = SystemTime::now();
        let known = self.known.lock().clone();
        if let Some((credentials, since)) = &known
            && is_fresh(credentials.expiry(), *since, now)
        {
            return Ok(credentials.clone());
        }
        match (self.credentials.provide_credentials().await, known) {
            (Ok(credentials), _) => {
                *self.known.lock() = Some((credentials.clone(), now));
                Ok(credentials)
            }
            // Whoever gives them is away: these are good for a while yet.
            (Err(_), Some((credentials, _)))
                if credentials.expiry().is_none_or(|end| end > now) =>
            {
                Ok(credentials)
            }
            (Err(error), _) => Err(SourceError::new(error)),
        }
    }
}

fn is_fresh(end: Option<SystemTime>, since: SystemTime, now: SystemTime) -> bool {
    match end {
        Some(end) => now + REFRESH < end,
        None => now.duration_since(since).is_ok_and(|age| age < REFRESH),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::{ProvideCredentials, future};

    use super::*;

    /// Gives credentials that end so many minutes from now, and counts.
    #[derive(Clone, Debug)]
    struct Fake {
        minutes: Vec<Option<u64>>,
        asked: Arc<AtomicUsize>,
    }

    impl ProvideCredentials for Fake {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let asked = self.asked.fetch_add(1, Relaxed);
            future::ProvideCredentials::ready(match self.minutes.get(asked) {
                Some(minutes) => {
                    let end =
                        minutes.map(|minutes| SystemTime::now() + Duration::from_mins(minutes));
                    Ok(Credentials::new("id", "secret", None, end, "test"))
                }
                None => Err(CredentialsError::not_loaded("away")),
            })
        }
    }

    fn service(minutes: &[Option<u64>]) -> (Service, Arc<AtomicUsize>) {
        let asked = Arc::<AtomicUsize>::default();
        let fake = Fake {
            minutes: minutes.to_vec(),
            asked: Arc::clone(&asked),
        };
        let service = Service {
            client: HttpClient::new(TIMEOUT, None).unwrap(),
            credentials: SharedCredentialsProvider::new(fake),
            known: Mutex::default(),
            endpoint: "http://127.0.0.1:1".to_owned(),
            region: "eu-west-1".to_owned(),
            name: "sqs",
        };
        (service, asked)
    }

    #[tokio::test]
    async fn credentials_are_asked_for_once_until_they_end() {
        let (lasting, asked) = service(&[Some(60)]);
        let (for_ever, asked_too) = service(&[None]);
        for _ in 0..3 {
            lasting.credentials().await.unwrap();
            for_ever.credentials().await.unwrap();
        }
        assert_eq!((asked.load(Relaxed), asked_too.load(Relaxed)), (1, 1));
    }

    #[tokio::test]
    async fn credentials_that_end_soon_are_used_if_there_are_no_others() {
        let (ending, asked) = service(&[Some(3)]);
        for _ in 0..3 {
            ending.credentials().await.unwrap();
        }
        assert_eq!(asked.load(Relaxed), 3);
        let (none, _) = service(&[]);
        assert!(none.credentials().await.is_err());
    }

    #[tokio::test]
    async fn a_call_is_signed_for_its_service() {
        let (service, _) = service(&[None]);
        let headers = [("x-amz-target", "AmazonSQS.ReceiveMessage")];
        let request = service.signed("/", &headers, Bytes::new()).await.unwrap();
        let signature = request.headers()["authorization"].to_str().unwrap();
        assert!(
            signature.contains("/eu-west-1/sqs/aws4_request"),
            "{signature}"
        );
        assert!(signature.contains("x-amz-target"), "{signature}");
    }
}
