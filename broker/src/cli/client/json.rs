//! Polycast's JSON subprotocol, the client's side.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use protocols::connection::Position;
use protocols::json::client::{self, ReceivedMessage, ServerFrame};
use protocols::json::{ClientFrame, ConnectRequest, Content, Data, Expiry, Id, Options, Request};
use protocols::model::{Properties, QoS};

use super::wire::Wire;
use super::{Client, Incoming, Login, Outgoing, Subscription, WINDOW, unexpected};
use crate::telemetry::Untrusted;

/// A connection that speaks JSON.
pub(super) struct Json {
    wire: Wire,
    last_id: u64,
    /// Requests without an answer, with what they were about.
    open: BTreeMap<u64, String>,
    incoming: VecDeque<(Incoming, Option<Position>)>,
    unacknowledged: Option<Position>,
}

impl Json {
    /// Logs in.
    pub(super) async fn login(wire: Wire, login: &Login) -> Result<Self> {
        ensure!(
            login.will.is_none(),
            "the JSON subprotocol has no will; use MQTT for --will-topic"
        );
        let mut this = Self {
            wire,
            last_id: 0,
            open: BTreeMap::new(),
            incoming: VecDeque::new(),
            unacknowledged: None,
        };
        let text = |text: &Option<String>| text.clone().map(Cow::Owned);
        let connect = ClientFrame {
            id: None,
            request: Request::Connect(Box::new(ConnectRequest {
                client_id: text(&login.client_id),
                username: text(&login.username),
                password: text(&login.password),
                clean_start: Some(login.clean_start),
                session_expiry_secs: Some(login.session_expiry_secs),
                ..ConnectRequest::default()
            })),
        };
        this.put(&connect.to_json())?;
        this.wire.flush().await?;
        this.await_connected()
            .await
            .context("the broker did not accept the login")?;
        Ok(this)
    }

    async fn await_connected(&mut self) -> Result<()> {
        self.wire.fill().await?;
        let message = self.wire.input.split();
        match ServerFrame::parse(text(&message)?)? {
            ServerFrame::Connected(_) => Ok(()),
            ServerFrame::Error { code, message, .. } => bail!(refusal(&code, &message)),
            ServerFrame::Disconnect {
                reason, message, ..
            } => bail!(refusal(&reason, &message)),
            _ => Err(unexpected("another frame before `connected`")),
        }
    }

    fn put(&mut self, frame: &str) -> Result<()> {
        self.wire.put(frame.as_bytes())
    }

    fn next_id(&mut self, about: String) -> u64 {
        self.last_id += 1;
        self.open.insert(self.last_id, about);
        self.last_id
    }

    /// Writes, waits for one frame and deals with it.
    async fn step(&mut self) -> Result<()> {
        self.wire.flush().await?;
        self.wire.fill().await?;
        let message = self.wire.input.split();
        match ServerFrame::parse(text(&message)?)? {
            ServerFrame::Message(message) => {
                let ack = message.ack_id;
                self.incoming.push_back((incoming(*message), ack));
            }
            ServerFrame::Ack { id, results, .. } => {
                let about = self.answered(id.as_ref())?;
                if let Some((code, why)) = results.iter().find_map(|result| result.error.as_ref()) {
                    bail!("{about}: {}", refusal(code, why));
                }
            }
            ServerFrame::Error { id, code, message } => {
                let about = match id {
                    Some(_) => self.answered(id.as_ref())?,
                    None => "the broker answers".to_owned(),
                };
                bail!("{about}: {}", refusal(&code, &message));
            }
            ServerFrame::Ping { id } => self.put(&client::pong(id))?,
            ServerFrame::Disconnect {
                reason, message, ..
            } => {
                return Err(
                    anyhow!(refusal(&reason, &message)).context("the broker ended the connection")
                );
            }
            ServerFrame::Gap { dropped } => {
                crate::cli::say(&format!(
                    "{dropped} messages are missing: reading is too slow"
                ));
            }
            ServerFrame::Expiring { .. } => crate::cli::say("the token ends soon"),
            ServerFrame::Connected(_) | ServerFrame::Pong { .. } | ServerFrame::Other { .. } => {}
        }
        Ok(())
    }

    fn answered(&mut self, id: Option<&Id>) -> Result<String> {
        id.and_then(|id| self.open.remove(&id.as_json().parse().ok()?))
            .ok_or_else(|| unexpected("an answer that nobody asked for"))
    }

    fn put_publish(&mut self, message: &Outgoing) -> Result<()> {
        ensure!(
            message.qos != QoS::ExactlyOnce,
            "the JSON subprotocol knows QoS 0 and 1"
        );
        let id = (message.qos == QoS::AtLeastOnce).then(|| {
            let topic = Untrusted(&message.topic);
            self.next_id(format!("cannot publish to {topic}"))
        });
        let properties = &message.properties;
        let data = match std::str::from_utf8(&message.payload) {
            Ok(text) => Data::Text(text.into()),
            Err(_) => Data::Binary((&message.payload[..]).into()),
        };
        let content = Content {
            content_type: properties.content_type.as_deref().map(Into::into),
            correlation: properties.correlation.as_deref().map(Into::into),
            reply_to: properties.reply_to.as_deref().map(Into::into),
            headers: properties
                .user
                .iter()
                .map(|(name, value)| ((&**name).into(), (&**value).into()))
                .collect(),
            expiry: message
                .expiry_secs
                .map(|secs| Expiry::In(Duration::from_secs(secs.into()))),
            ..Content::from(data)
        };
        let qos = message.qos as u8;
        let frame = client::publish(id, &message.topic, content, qos, message.retain);
        self.put(&frame)
    }

    fn acknowledge(&mut self) -> Result<()> {
        match self.unacknowledged.take() {
            Some(position) => self.put(&client::ack(position)),
            None => Ok(()),
        }
    }

    async fn await_answers(&mut self) -> Result<()> {
        while !self.open.is_empty() {
            self.step().await?;
        }
        self.wire.flush().await
    }
}

impl Client for Json {
    fn publish(&mut self, message: Outgoing) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            while message.qos != QoS::AtMostOnce && self.open.len() >= WINDOW {
                self.step().await?;
            }
            self.put_publish(&message)?;
            self.wire.flush().await
        })
    }

    fn settle(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.await_answers())
    }

    fn subscribe(&mut self, subscriptions: Vec<Subscription>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            for subscription in subscriptions {
                let id = self.next_id(format!(
                    "the broker refused the subscription to {}",
                    Untrusted(&subscription.filter)
                ));
                let options = Options {
                    qos: (subscription.qos as u8).min(1),
                    no_local: subscription.no_local,
                    retained: subscription.retained,
                };
                self.put(&client::subscribe(id, &subscription.filter, options))?;
            }
            self.await_answers().await
        })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Incoming>> {
        Box::pin(async {
            self.acknowledge()?;
            loop {
                if let Some((message, ack)) = self.incoming.pop_front() {
                    self.unacknowledged = ack;
                    return Ok(message);
                }
                self.step().await?;
            }
        })
    }

    fn idle(&mut self) -> BoxFuture<'_, Result<Infallible>> {
        Box::pin(async {
            loop {
                self.step().await?;
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.acknowledge()?;
            self.put(&client::disconnect())?;
            self.wire.close().await
        })
    }
}

fn text(message: &[u8]) -> Result<&str> {
    std::str::from_utf8(message).context("the broker sent a frame that is not UTF-8")
}

fn refusal(code: &str, message: &str) -> String {
    format!("{} ({})", Untrusted(message), Untrusted(code))
}

fn incoming(message: ReceivedMessage<'_>) -> Incoming {
    let content = message.content;
    Incoming {
        topic: message.topic.into_owned(),
        payload: Bytes::copy_from_slice(content.data.as_bytes()),
        qos: None,
        retained: message.retained,
        redelivered: message.delivery_count > 1,
        properties: Properties {
            content_type: content.content_type.map(|text| text.into_owned().into()),
            reply_to: content.reply_to.map(|text| text.into_owned().into()),
            correlation: content
                .correlation
                .map(|bytes| Bytes::from(bytes.into_owned())),
            user: content
                .headers
                .into_iter()
                .map(|(name, value)| (name.into_owned().into(), value.into_owned().into()))
                .collect(),
        },
        expiry_secs: match content.expiry {
            Some(Expiry::In(span)) => Some(span.as_secs()),
            _ => None,
        },
    }
}
