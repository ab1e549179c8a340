//! HTTP: a request for each message.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};

use super::{Kind, Sent, Target};
use crate::config::{Secret, Section};
use crate::event::Event;
use crate::http::HttpClient;
use crate::mapping::VIA_PROPERTY;
use crate::metrics::FlowMetrics;
use crate::retry_after::asked;
use crate::source::SourceError;
use crate::template::{Template, View};

/// Before user properties among the headers.
const USER: &str = "x-user-";

/// Settings of a webhook.
#[derive(Clone, Debug)]
struct Webhook {
    url: Option<Template>,
    headers: Vec<(HeaderName, Secret)>,
    timeout: Duration,
    ca_file: Option<std::path::PathBuf>,
}

/// Reads the settings.
pub(super) fn read(section: &mut Section) -> Arc<dyn Kind> {
    let second = Duration::from_secs(1);
    if !section.has("url") {
        section.problem("url", "is missing");
    }
    let url = section.template("url");
    if let Some(fixed) = url.as_ref().and_then(Template::fixed)
        && fixed
            .parse::<http::Uri>()
            .ok()
            .and_then(|uri| uri.host().map(str::len))
            .is_none()
    {
        section.problem("url", format!("must be a URL, not \"{fixed}\""));
    }
    let mut table = section.section("headers");
    let mut headers = Vec::new();
    for name in table.names() {
        let value = table.secret(&name);
        match (name.parse(), value) {
            (Ok(name), Some(value)) => headers.push((name, value)),
            (Err(_), _) => table.problem(&name, "is no header name"),
            _ => {}
        }
    }
    Arc::new(Webhook {
        url,
        headers,
        timeout: section.duration(
            "timeout",
            10 * second,
            Duration::from_millis(10)..=3600 * second,
        ),
        ca_file: section.path("ca_file"),
    })
}

impl Kind for Webhook {
    fn open(
        &self,
        _: String,
        _: Arc<FlowMetrics>,
    ) -> BoxFuture<'_, Result<Box<dyn Target>, SourceError>> {
        async move {
            let client = HttpClient::new(self.timeout, self.ca_file.as_deref());
            let client = client.map_err(SourceError::new)?;
            let settings = self.clone();
            Ok(Box::new(Connected { client, settings }) as Box<dyn Target>)
        }
        .boxed()
    }
}

struct Connected {
    client: HttpClient,
    settings: Webhook,
}

impl Target for Connected {
    fn send<'a>(&'a self, messages: &'a [Event]) -> BoxFuture<'a, Vec<Sent>> {
        async move {
            let mut results = Vec::new();
            for message in messages {
                results.push(self.send_one(message).await);
            }
            results
        }
        .boxed()
    }
}

impl Connected {
    async fn send_one(&self, message: &Event) -> Sent {
        let request = match self.request(message) {
            Ok(request) => request,
            Err(reason) => return Sent::Refused(reason),
        };
        match self.client.send(request).await {
            Ok(answer) => judge(answer.status(), answer.headers()),
            Err(error) => Sent::retry(error),
        }
    }

    fn request(&self, message: &Event) -> Result<Request<bytes::Bytes>, String> {
        let template = self.settings.url.as_ref().ok_or("no url")?;
        let view = View::new(message, "", true);
        let url = template.fill(&view).map_err(|error| error.to_string())?;
        let mut request = Request::post(url)
            .body(message.body.clone())
            .map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        let mut add = |name: &str, value: &str| {
            // What a header cannot say is left out: the message matters more.
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), HeaderValue::from_str(value))
            {
                headers.append(name, value);
            }
        };
        add("topic", message.topic.as_deref().unwrap_or_default());
        if let Some(content_type) = &message.content_type {
            add("content-type", content_type);
        }
        for (name, value) in &message.meta {
            if name != "topic" {
                add(name, value);
            }
        }
        for (name, value) in &message.attributes {
            add(&format!("{USER}{name}"), value);
            // The name under which a bridge's own webhook source looks for it.
            if name == VIA_PROPERTY {
                add(name, value);
            }
        }
        for (name, value) in &self.settings.headers {
            add(name.as_str(), value.reveal());
        }
        Ok(request)
    }
}

/// 429, 408 and 5xx may go better the next time; other refusals will not.
fn judge(status: StatusCode, headers: &HeaderMap) -> Sent {
    let reason = format!("answered with {status}");
    let may_pass = status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        );
    if status.is_success() {
        Sent::Accepted
    } else if may_pass {
        let after = asked(status, headers, SystemTime::now());
        Sent::Retry { reason, after }
    } else {
        Sent::Refused(reason)
    }
}

#[cfg(test)]
mod tests {
    use http::header::RETRY_AFTER;

    use super::*;

    #[test]
    fn what_an_answer_means() {
        let kind = |code: u16| match judge(StatusCode::from_u16(code).unwrap(), &HeaderMap::new()) {
            Sent::Accepted => 'a',
            Sent::Retry { .. } => 'r',
            Sent::Refused(_) => 'x',
        };
        let kinds: String = [200, 204, 301, 400, 404, 408, 410, 429, 500, 503]
            .map(kind)
            .iter()
            .collect();
        assert_eq!(kinds, "aaxxxrxrrr");
    }

    #[test]
    fn a_busy_target_says_for_how_long() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
        for (status, expected) in [
            (StatusCode::SERVICE_UNAVAILABLE, Some(7)),
            (StatusCode::BAD_GATEWAY, None),
        ] {
            let Sent::Retry { after, .. } = judge(status, &headers) else {
                panic!("{status}");
            };
            assert_eq!(after, expected.map(Duration::from_secs), "{status}");
        }
    }
}
