//! SEND (STOMP 1.2 §SEND).

use std::sync::Arc;

use bytestring::ByteString;

use super::answers::Wait;
use super::fault::{Fault, quoted};
use super::subscribe::Request;
use super::{StompConnection, flag, required};
use crate::connection::{Cause, Command, Output, Publish, parse_filter, parse_topic, topics};
use crate::model::{Message, Properties, QoS, Timestamp, Topic};
use crate::stomp::Frame;
use crate::stomp::destination::{self, Style};
use crate::stomp::message::{self, Copied};

impl StompConnection {
    pub(super) fn send(&mut self, frame: &Frame<'_>, out: &mut Output<'_>) -> Result<Wait, Fault> {
        let copied = Copied::new(frame);
        let destination = required(frame, "destination")?;
        let (topic, _) = self.topic(&destination, Some(&copied))?;
        let qos = self.qos(frame, &topic)?;
        let retain = self.retain(frame)?;
        let properties = self.properties(frame, &copied, out)?;
        let mut message = Message::new(topic, copied.body(frame), qos, retain);
        message.properties = properties;
        if let Some(value) = frame.header("expires") {
            // As in JMS: 0 is never.
            let at = value
                .trim()
                .parse()
                .map_err(|_| Fault::invalid("expires", &value, "milliseconds since 1970"))?;
            message.expires_at = (at > 0).then_some(Timestamp(at));
        }
        let mut publish = Publish {
            token: None,
            exactly_once: None,
            idempotency_key: frame
                .header("idempotency-key")
                .map(|key| ByteString::from(&*key)),
            message: Arc::new(message),
        };
        if let Some(name) = frame.header("transaction") {
            let command = Command::Publish(publish);
            self.transactions
                .add(&name, command, frame.raw().len(), &self.limits)?;
            return Ok(Wait::Ready);
        }
        // Always with a token: a refusal is an ERROR, whether a receipt was asked or not.
        let token = self.answers.token();
        publish.token = Some(token);
        out.commands.push(Command::Publish(publish));
        Ok(Wait::Answer(token))
    }

    /// The topic that a destination of SEND stands for.
    fn topic(
        &mut self,
        destination: &str,
        copied: Option<&Copied<'_>>,
    ) -> Result<(Topic, Style), Fault> {
        let invalid = |error: &dyn std::fmt::Display| invalid(destination, error);
        let (text, style) =
            destination::to_topic(destination, &self.id).map_err(|error| invalid(&error))?;
        if let Some(topic) = self.last_topic.get(&text) {
            return Ok((topic, style));
        }
        let is_kept = copied.is_some() && self.last_topic.is_again(&text);
        let text = match copied {
            Some(copied) if !is_kept => copied.text(text),
            _ => ByteString::from(&*text),
        };
        let topic = parse_topic(text, &self.limits).map_err(|error| invalid(&error))?;
        if is_kept {
            self.last_topic.keep(&topic);
        }
        Ok((topic, style))
    }

    /// As asked by `qos`; otherwise at least once if the sender cares (`persistent`, `receipt`)
    /// or if it is for a queue, which keeps what nobody takes yet.
    fn qos(&self, frame: &Frame<'_>, topic: &Topic) -> Result<QoS, Fault> {
        let persistent = flag(frame, "persistent")?;
        let qos = match frame.header("qos") {
            Some(value) => value
                .parse()
                .ok()
                .and_then(QoS::from_u8)
                .ok_or_else(|| Fault::invalid("qos", &value, "0, 1 or 2"))?,
            None if persistent
                || frame.header("receipt").is_some()
                || topic.as_str().starts_with(topics::QUEUE) =>
            {
                QoS::AtLeastOnce
            }
            None => QoS::AtMostOnce,
        };
        Ok(qos.min(self.limits.maximum_qos))
    }

    fn retain(&self, frame: &Frame<'_>) -> Result<bool, Fault> {
        let retain = flag(frame, "retain")?;
        if retain && !self.limits.retain_available {
            let detail = "retained messages are switched off";
            return Err(Fault::protocol("Not supported", detail));
        }
        Ok(retain)
    }

    fn properties(
        &mut self,
        frame: &Frame<'_>,
        copied: &Copied<'_>,
        out: &mut Output<'_>,
    ) -> Result<Option<Box<Properties>>, Fault> {
        if !frame.has_header(message::is_property) {
            return Ok(None);
        }
        let user = message::user_properties(frame, copied);
        let bytes: usize = user
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let (max, max_bytes) = (self.limits.user_properties, self.limits.user_property_bytes);
        if user.len() > max || bytes > max_bytes {
            let detail = format!("a message has at most {max} headers of {max_bytes} bytes");
            return Err(Fault::of(Cause::TooLarge, detail));
        }
        let reply_to = match frame.header("reply-to") {
            None => None,
            Some(destination) => Some(self.reply_to(&destination, out)?),
        };
        let properties = Properties {
            content_type: frame.header("content-type").map(|text| copied.text(text)),
            reply_to,
            correlation: frame
                .header("correlation-id")
                .map(|text| message::correlation(copied.text(text))),
            user,
        };
        Ok((!properties.is_empty()).then(|| Box::new(properties)))
    }

    /// The topic for answers. A temporary queue is subscribed to without being asked: its answers
    /// come with its name as `subscription`.
    fn reply_to(&mut self, destination: &str, out: &mut Output<'_>) -> Result<ByteString, Fault> {
        let (topic, style) = self.topic(destination, None)?;
        if style == Style::Temp && !self.subscriptions.contains(destination) {
            let filter = parse_filter(topic.text().clone(), &self.limits)
                .map_err(|error| invalid(destination, &error))?;
            let wait = self.add_subscription(Request::answers(destination, filter), out)?;
            self.wait(wait, None)?;
        }
        Ok(topic.text().clone())
    }
}

/// A destination that means nothing.
pub(super) fn invalid(destination: &str, error: &dyn std::fmt::Display) -> Fault {
    let detail = format!("destination {}: {error}", quoted(destination));
    Fault::protocol("Invalid destination", detail)
}
