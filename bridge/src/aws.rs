//! Signed calls of AWS services that need no SDK of their own.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::{Request, Response};

use crate::config::Section;
use crate::http::HttpClient;
use crate::source::SourceError;

const TIMEOUT: Duration = Duration::from_mins(1);

/// Where a service is, and in which region.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    endpoint: Option<String>,
    region: Option<String>,
}

impl Settings {
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
        let credentials = self.credentials.provide_credentials().await;
        let identity = credentials.map_err(SourceError::new)?.into();
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
}
