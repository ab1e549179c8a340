//! Lambda: a function is invoked for each message, in the shape of a broker's event.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Kind, Sent, Target};
use crate::aws::{Service, Settings};
use crate::config::Section;
use crate::event::Event;
use crate::metrics::FlowMetrics;
use crate::retry_after::asked_by_aws;
use crate::source::SourceError;

/// Settings of a Lambda sink.
#[derive(Clone, Debug)]
struct Lambda {
    service: Settings,
    function: String,
    /// Wait for the function's end; else Lambda queues the event.
    wait: bool,
}

/// Reads the settings.
pub(super) fn read(section: &mut Section) -> Arc<dyn Kind> {
    let function = section.required_text("function");
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '$');
    if !function.chars().all(fits) {
        section.problem("function", "must be a function's name or ARN");
    }
    Arc::new(Lambda {
        service: Settings::read(section),
        function,
        wait: section.flag("wait", true),
    })
}

impl Kind for Lambda {
    fn open(
        &self,
        _: String,
        _: Arc<FlowMetrics>,
    ) -> BoxFuture<'_, Result<Box<dyn Target>, SourceError>> {
        async move {
            let service = self.service.connect("lambda").await?;
            let settings = self.clone();
            Ok(Box::new(Connected { service, settings }) as Box<dyn Target>)
        }
        .boxed()
    }
}

struct Connected {
    service: Service,
    settings: Lambda,
}

impl Target for Connected {
    fn send<'a>(&'a self, messages: &'a [Event]) -> BoxFuture<'a, Vec<Sent>> {
        async move {
            let mut results = Vec::new();
            for message in messages {
                results.push(self.invoke(message).await);
            }
            results
        }
        .boxed()
    }
}

impl Connected {
    async fn invoke(&self, message: &Event) -> Sent {
        let path = format!(
            "/2015-03-31/functions/{}/invocations",
            self.settings.function
        );
        let kind = if self.settings.wait {
            "RequestResponse"
        } else {
            "Event"
        };
        let headers = [
            ("content-type", "application/json"),
            ("x-amz-invocation-type", kind),
        ];
        let body = Bytes::from(payload(message).to_string());
        match self.service.post(&path, &headers, body).await {
            Err(error) => Sent::failed(&error),
            Ok(answer) if answer.status().is_success() => {
                match answer.headers().get("x-amz-function-error") {
                    None => Sent::Accepted,
                    Some(_) => Sent::retry(String::from_utf8_lossy(answer.body())),
                }
            }
            Ok(answer) => {
                let reason = String::from_utf8_lossy(answer.body()).into_owned();
                match answer.status().as_u16() {
                    400 | 413 | 415 => Sent::Refused(reason),
                    _ => {
                        let now = SystemTime::now();
                        let after = asked_by_aws(answer.status(), answer.headers(), now);
                        Sent::Retry { reason, after }
                    }
                }
            }
        }
    }
}

/// JSON stays JSON, text a text; other bytes go as base64.
fn payload(message: &Event) -> Value {
    let text = std::str::from_utf8(&message.body);
    let is_json = message
        .content_type
        .as_deref()
        .is_some_and(|kind| kind.contains("json"));
    let parsed = text
        .ok()
        .filter(|_| is_json)
        .and_then(|text| serde_json::from_str(text).ok());
    let (kind, data) = match (parsed, text) {
        (Some(value), _) => ("json", value),
        (None, Ok(text)) => ("text", json!(text)),
        (None, Err(_)) => ("base64", json!(BASE64_STANDARD.encode(&message.body))),
    };
    let properties: Vec<_> = message
        .attributes
        .iter()
        .map(|(name, value)| json!([name, value]))
        .collect();
    json!({
        "topic": message.topic,
        "dataType": kind,
        "data": data,
        "contentType": message.content_type,
        "replyTo": message.meta("response-topic"),
        "correlationId": message.meta("correlation-data"),
        "userProperties": properties,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_reads_data_by_its_type() {
        let event = |body: &'static [u8], kind: &str| Event {
            body: body.into(),
            content_type: Some(kind.into()),
            topic: Some("t".into()),
            ..Event::default()
        };
        let shown = |event: &Event| {
            let payload = payload(event);
            (payload["dataType"].clone(), payload["data"].clone())
        };
        assert_eq!(
            shown(&event(b"{\"a\":1}", "application/json")),
            (json!("json"), json!({"a": 1}))
        );
        assert_eq!(
            shown(&event(b"{\"a\"", "application/json")),
            (json!("text"), json!("{\"a\""))
        );
        assert_eq!(
            shown(&event(b"\xff", "x")),
            (json!("base64"), json!("/w=="))
        );
    }
}
