//! NATS: core subjects, or JetStream with its acknowledgement.

use std::sync::Arc;

use async_nats::{Client, HeaderMap};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};

use super::{Kind, Sent, Target};
use crate::config::Section;
use crate::event::Event;
use crate::metrics::FlowMetrics;
use crate::nats::{Settings, subject_of};
use crate::source::SourceError;
use crate::template::{Template, View};

/// Settings of a NATS sink.
#[derive(Clone, Debug)]
struct Nats {
    connection: Settings,
    jetstream: bool,
    subject: Option<Template>,
    /// JetStream takes the same identifier once.
    message_id: Option<Template>,
}

/// Reads the settings.
pub(super) fn read(section: &mut Section) -> Arc<dyn Kind> {
    Arc::new(Nats {
        connection: Settings::read(section),
        jetstream: section.flag("jetstream", false),
        subject: section.template("subject"),
        message_id: section.template("message_id"),
    })
}

impl Kind for Nats {
    fn open(
        &self,
        name: String,
        metrics: Arc<FlowMetrics>,
    ) -> BoxFuture<'_, Result<Box<dyn Target>, SourceError>> {
        async move {
            let client = self.connection.connect(&name, metrics).await?;
            let settings = self.clone();
            let jetstream = async_nats::jetstream::new(client.clone());
            Ok(Box::new(Connected {
                client,
                jetstream,
                settings,
            }) as Box<dyn Target>)
        }
        .boxed()
    }
}

struct Connected {
    client: Client,
    jetstream: async_nats::jetstream::Context,
    settings: Nats,
}

/// A message as NATS has it.
struct Outgoing {
    subject: String,
    reply: Option<String>,
    headers: HeaderMap,
}

impl Target for Connected {
    fn max_batch(&self) -> usize {
        100
    }

    fn send<'a>(&'a self, messages: &'a [Event]) -> BoxFuture<'a, Vec<Sent>> {
        if self.settings.jetstream {
            self.send_jetstream(messages).boxed()
        } else {
            self.send_core(messages).boxed()
        }
    }
}

impl Connected {
    /// Published in order; the acknowledgements are waited for together.
    async fn send_jetstream(&self, messages: &[Event]) -> Vec<Sent> {
        let mut pending = Vec::new();
        for message in messages {
            pending.push(match self.outgoing(message) {
                Err(reason) => Err(Sent::Refused(reason)),
                Ok(out) => {
                    let body = message.body.clone();
                    let published = self
                        .jetstream
                        .publish_with_headers(out.subject, out.headers, body)
                        .await;
                    published.map_err(Sent::retry)
                }
            });
        }
        let acknowledged = pending.into_iter().map(|published| async {
            match published {
                Err(sent) => sent,
                Ok(ack) => match ack.await {
                    Ok(_) => Sent::Accepted,
                    Err(error) => Sent::retry(error),
                },
            }
        });
        join_all(acknowledged).await
    }

    /// Core NATS acknowledges nothing; the answer to a flush says that the server has read it.
    async fn send_core(&self, messages: &[Event]) -> Vec<Sent> {
        let mut results = Vec::new();
        for message in messages {
            results.push(match self.outgoing(message) {
                Err(reason) => Sent::Refused(reason),
                Ok(out) => {
                    let body = message.body.clone();
                    let published = match out.reply {
                        Some(reply) => {
                            let client = &self.client;
                            client
                                .publish_with_reply_and_headers(
                                    out.subject,
                                    reply,
                                    out.headers,
                                    body,
                                )
                                .await
                        }
                        None => {
                            self.client
                                .publish_with_headers(out.subject, out.headers, body)
                                .await
                        }
                    };
                    published.map_or_else(Sent::retry, |()| Sent::Accepted)
                }
            });
        }
        if let Err(error) = self.client.flush().await {
            let reason = error.to_string();
            for result in results
                .iter_mut()
                .filter(|result| **result == Sent::Accepted)
            {
                *result = Sent::retry(&reason);
            }
        }
        results
    }

    fn outgoing(&self, message: &Event) -> Result<Outgoing, String> {
        let view = View::new(message, "", true);
        let fill = |template: &Template| template.fill(&view).map_err(|error| error.to_string());
        let topic = message.topic.as_deref().unwrap_or_default();
        let subject = match &self.settings.subject {
            Some(template) => fill(template)?,
            None => subject_of(topic).map_err(|error| error.to_string())?,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &message.attributes {
            add(&mut headers, name, value);
        }
        if let Some(content_type) = &message.content_type {
            add(&mut headers, "Content-Type", content_type);
        }
        if let Some(template) = &self.settings.message_id {
            add(&mut headers, "Nats-Msg-Id", &fill(template)?);
        }
        let reply = message
            .meta("response-topic")
            .and_then(|topic| subject_of(topic).ok());
        Ok(Outgoing {
            subject,
            reply,
            headers,
        })
    }
}

/// What a header cannot say is left out: the message matters more.
fn add(headers: &mut HeaderMap, name: &str, value: &str) {
    let name_fits = !name.is_empty()
        && name
            .bytes()
            .all(|byte| (33..=126).contains(&byte) && byte != b':');
    if name_fits && let Ok(value) = value.parse::<async_nats::HeaderValue>() {
        headers.append(name, value);
    }
}
