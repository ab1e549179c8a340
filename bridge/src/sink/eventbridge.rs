//! EventBridge: PutEvents with ten entries, of which some may fail.

use std::sync::Arc;
use std::time::SystemTime;

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
use crate::template::{Template, View};

/// Settings of an EventBridge sink.
#[derive(Clone, Debug)]
struct EventBridge {
    service: Settings,
    bus: Option<String>,
    source: Option<Template>,
    detail_type: Option<Template>,
}

/// Reads the settings.
pub(super) fn read(section: &mut Section) -> Arc<dyn Kind> {
    Arc::new(EventBridge {
        service: Settings::read(section),
        bus: section.text("bus"),
        source: section.template("source"),
        detail_type: section.template("detail_type"),
    })
}

impl Kind for EventBridge {
    fn open(
        &self,
        _: String,
        _: Arc<FlowMetrics>,
    ) -> BoxFuture<'_, Result<Box<dyn Target>, SourceError>> {
        async move {
            let service = self.service.connect("events").await?;
            let settings = self.clone();
            Ok(Box::new(Connected { service, settings }) as Box<dyn Target>)
        }
        .boxed()
    }
}

struct Connected {
    service: Service,
    settings: EventBridge,
}

impl Target for Connected {
    fn max_batch(&self) -> usize {
        10
    }

    fn send<'a>(&'a self, messages: &'a [Event]) -> BoxFuture<'a, Vec<Sent>> {
        async move {
            let entries: Vec<_> = messages.iter().map(|message| self.entry(message)).collect();
            let good: Vec<_> = entries
                .iter()
                .filter_map(|entry| entry.as_ref().ok())
                .collect();
            let mut sent = if good.is_empty() {
                Vec::new()
            } else {
                self.put(&json!({ "Entries": good }), good.len()).await
            }
            .into_iter();
            let results = entries.into_iter().map(|entry| match entry {
                Ok(_) => sent
                    .next()
                    .unwrap_or_else(|| Sent::retry("no answer for it")),
                Err(reason) => Sent::Refused(reason),
            });
            results.collect()
        }
        .boxed()
    }
}

impl Connected {
    fn entry(&self, message: &Event) -> Result<Value, String> {
        let view = View::new(message, "", true);
        let fill = |template: &Option<Template>, default: &str| match template {
            Some(template) => template.fill(&view).map_err(|error| error.to_string()),
            None => Ok(default.to_owned()),
        };
        let detail = std::str::from_utf8(&message.body).ok();
        let is_object =
            |text: &&str| serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object());
        let detail = detail
            .filter(is_object)
            .ok_or("the payload is not a JSON object")?;
        let topic = message.topic.as_deref().unwrap_or_default();
        let mut entry = json!({
            "Source": fill(&self.settings.source, "polycast")?,
            "DetailType": fill(&self.settings.detail_type, topic)?,
            "Detail": detail,
        });
        if let Some(bus) = &self.settings.bus {
            entry["EventBusName"] = json!(bus);
        }
        Ok(entry)
    }

    async fn put(&self, body: &Value, count: usize) -> Vec<Sent> {
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", "AWSEvents.PutEvents"),
        ];
        let answer = self
            .service
            .post("/", &headers, Bytes::from(body.to_string()))
            .await;
        let all = |sent: Sent| vec![sent; count];
        match answer {
            Err(error) => all(Sent::failed(&error)),
            Ok(answer) if answer.status().is_success() => results(answer.body()),
            Ok(answer) => {
                let reason = String::from_utf8_lossy(answer.body()).into_owned();
                // Access that is missing today may be there tomorrow; only sizes never change. Fewer
                // may fit where these do not.
                match answer.status().as_u16() {
                    413 if count == 1 => all(Sent::Refused(reason)),
                    _ => {
                        let now = SystemTime::now();
                        let after = asked_by_aws(answer.status(), answer.headers(), now);
                        all(Sent::Retry { reason, after })
                    }
                }
            }
        }
    }
}

/// One result for each entry of an answer; throttled and failed ones may be tried again.
fn results(body: &[u8]) -> Vec<Sent> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let entries = body["Entries"].as_array().into_iter().flatten();
    let results = entries.map(|entry| match entry["ErrorCode"].as_str() {
        None => Sent::Accepted,
        Some(code) => {
            let reason = format!(
                "{code}: {}",
                entry["ErrorMessage"].as_str().unwrap_or_default()
            );
            match code {
                "InvalidArgument" | "MalformedDetail" => Sent::Refused(reason),
                _ => Sent::retry(reason),
            }
        }
    });
    results.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fail_each_for_itself() {
        let body = json!({"FailedEntryCount": 2, "Entries": [
            {"EventId": "1"},
            {"ErrorCode": "ThrottlingException", "ErrorMessage": "slow"},
            {"ErrorCode": "MalformedDetail", "ErrorMessage": "bad"},
        ]});
        let expected = [
            Sent::Accepted,
            Sent::retry("ThrottlingException: slow"),
            Sent::Refused("MalformedDetail: bad".into()),
        ];
        assert_eq!(results(body.to_string().as_bytes()), expected);
    }
}
