//! Core subjects: a subscription each, merged.

use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::future::BoxFuture;
use futures_util::stream::{SelectAll, select_all};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tracing::warn;

use super::{Order, message};
use crate::event::Event;
use crate::nats::topic_of;
use crate::source::{Delivery, Outcome, Settle, Source, SourceError};

/// Subscribed subjects.
pub(super) struct Core {
    client: Client,
    messages: SelectAll<Subscriber>,
    order: Order,
    /// Events that the run loop gave back: nobody else has them.
    again: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
}

pub(super) async fn open(
    client: Client,
    subjects: &[String],
    group: Option<&str>,
    order: Order,
) -> Result<Core, SourceError> {
    let mut subscribers = Vec::new();
    for subject in subjects {
        let subscribed = match group {
            Some(group) => {
                client
                    .queue_subscribe(subject.clone(), group.to_owned())
                    .await
            }
            None => client.subscribe(subject.clone()).await,
        };
        subscribers.push(subscribed.map_err(SourceError::new)?);
    }
    client.flush().await.map_err(SourceError::new)?;
    Ok(Core {
        client,
        messages: select_all(subscribers),
        order,
        again: mpsc::unbounded_channel(),
    })
}

impl Core {
    fn delivery(&self, event: Event) -> Delivery {
        let handle = Box::new(Handle {
            event: event.clone(),
            again: self.again.0.clone(),
        });
        Delivery { event, handle }
    }

    fn event(&self, message: &Message) -> Event {
        let mut event = message::event(message, self.order);
        let reply = message
            .reply
            .as_deref()
            .and_then(|reply| topic_of(reply).ok());
        if let Some(topic) = reply
            && event.attribute("response-topic").is_none()
        {
            event.attributes.push(("response-topic".to_owned(), topic));
        }
        event
    }
}

impl Source for Core {
    fn receive(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, SourceError>> {
        async move {
            let first = tokio::select! {
                biased;
                event = self.again.1.recv() => event,
                message = self.messages.next() => message.map(|message| self.event(&message)),
            };
            let first = first.ok_or_else(|| SourceError::new("the subscription has ended"))?;
            let mut deliveries = vec![self.delivery(first)];
            while deliveries.len() < max
                && let Some(Some(message)) = self.messages.next().now_or_never()
            {
                deliveries.push(self.delivery(self.event(&message)));
            }
            Ok(deliveries)
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            // Nothing is owed to the server.
            let _ = self.client.drain().await;
        }
        .boxed()
    }
}

/// Core NATS keeps nothing: an event that is given back waits here.
struct Handle {
    event: Event,
    again: mpsc::UnboundedSender<Event>,
}

impl Settle for Handle {
    fn settle(self: Box<Self>, outcome: Outcome) {
        match outcome {
            Outcome::Done | Outcome::DeadLettered => {}
            Outcome::Retry { after } => {
                tokio::spawn(async move {
                    tokio::time::sleep(after.max(Duration::from_millis(10))).await;
                    let _ = self.again.send(self.event);
                });
            }
            Outcome::Poison { reason } => {
                warn!(
                    subject = self.event.meta("subject"),
                    reason, "lost: core NATS keeps nothing"
                );
            }
            Outcome::Released => {
                warn!(
                    subject = self.event.meta("subject"),
                    "lost: the bridge stops"
                );
            }
        }
    }
}
