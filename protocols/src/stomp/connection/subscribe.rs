//! SUBSCRIBE and UNSUBSCRIBE (STOMP 1.2 §SUBSCRIBE), and the table of subscriptions.

use std::borrow::Cow;

use bytestring::ByteString;
use smallvec::smallvec;

use super::answers::Wait;
use super::fault::{Fault, quoted};
use super::publish::invalid;
use super::{StompConnection, flag, required};
use crate::connection::{
    Cause, Command, Granted, Lane, Output, Refusal, RefusalCode, RetainHandling, Subscribe,
    SubscribeRequest, SubscriptionId, Token, parse_filter,
};
use crate::model::{QoS, SubscriptionFilter};
use crate::stomp::destination::{self, Style};
use crate::stomp::encode::put_header;
use crate::stomp::frame::{Escaping, buffer};
use crate::stomp::{Frame, GIVEN, Version};

/// How a subscription's messages are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckMode {
    /// Not at all.
    Auto,
    /// Each ACK is for all messages up to its own.
    Client,
    /// Each ACK is for one message.
    Individual,
}

/// A subscription of this connection.
#[derive(Debug)]
pub(super) struct Subscription {
    /// The token of its SUBSCRIBE, by which the broker's answer finds it.
    token: Token,
    /// Its `id`; in STOMP 1.0 without one, its destination.
    pub(super) key: ByteString,
    /// Beginning of its MESSAGE frames: the command and `subscription`.
    pub(super) head: Box<[u8]>,
    pub(super) ack: AckMode,
    /// How its destinations are spelt.
    pub(super) style: Style,
    /// One more than the last position that was delivered; 0 at the beginning.
    pub(super) next_position: u64,
}

/// The subscriptions of a connection, looked up by number when a message comes and by key when
/// the client speaks of them.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// Those that the broker has not answered.
    pending: Vec<Subscription>,
    /// The others, in the order of their numbers.
    granted: Vec<(SubscriptionId, Subscription)>,
}

impl Subscriptions {
    pub(super) fn by_id(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        let at = self.granted.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&mut self.granted[at].1)
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        let mut all = self.granted.iter().map(|(_, all)| all).chain(&self.pending);
        all.any(|subscription| subscription.key == key)
    }

    fn len(&self) -> usize {
        self.pending.len() + self.granted.len()
    }

    fn remove(&mut self, key: &str) -> bool {
        let before = self.len();
        self.pending.retain(|subscription| subscription.key != key);
        self.granted
            .retain(|(_, subscription)| subscription.key != key);
        self.len() < before
    }

    /// Takes the answer to a SUBSCRIBE, unless it was unsubscribed in the meantime.
    fn answered(&mut self, token: Token, granted: Option<SubscriptionId>) {
        let found = self.pending.iter().position(|all| all.token == token);
        let (Some(at), Some(id)) = (found, granted) else {
            self.pending.retain(|all| all.token != token);
            return;
        };
        let subscription = self.pending.remove(at);
        match self.granted.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(at) => self.granted[at].1 = subscription,
            Err(at) => self.granted.insert(at, (id, subscription)),
        }
    }
}

/// A subscription to be made.
pub(super) struct Request<'a> {
    key: Cow<'a, str>,
    /// The `subscription` header of its messages; none if STOMP 1.0 gave no `id`.
    header: Option<Cow<'a, str>>,
    filter: SubscriptionFilter,
    style: Style,
    ack: AckMode,
    lane: Lane,
    no_local: bool,
    retain_handling: RetainHandling,
    durable: bool,
}

impl<'a> Request<'a> {
    /// The subscription to a temporary queue that a `reply-to` names.
    pub(super) fn answers(destination: &'a str, filter: SubscriptionFilter) -> Self {
        Self {
            key: destination.into(),
            header: Some(destination.into()),
            filter,
            style: Style::Temp,
            ack: AckMode::Auto,
            lane: Lane::Session,
            no_local: false,
            retain_handling: RetainHandling::Send,
            durable: false,
        }
    }
}

impl StompConnection {
    pub(super) fn subscribe(
        &mut self,
        frame: &Frame<'_>,
        out: &mut Output<'_>,
    ) -> Result<Wait, Fault> {
        let destination = required(frame, "destination")?;
        let header = self.subscription_header(frame)?;
        let key = header.clone().unwrap_or_else(|| destination.clone());
        if self.subscriptions.contains(&key) {
            let detail = format!("the subscription {} exists already", quoted(&key));
            return Err(Fault::protocol("Duplicate subscription", detail));
        }
        let durable = flag(frame, "durable")?;
        if durable && !self.durable {
            let detail = "a durable subscription needs a client-id in CONNECT";
            return Err(Fault::protocol("Session not durable", detail));
        }
        let (filter, style) = self.filter(frame, &destination)?;
        let (ack, lane) = self.ack_mode(frame)?;
        let request = Request {
            key,
            header,
            filter,
            style,
            ack,
            lane,
            no_local: flag(frame, "no-local")?,
            retain_handling: retain_handling(frame)?,
            durable,
        };
        self.add_subscription(request, out)
    }

    /// The `id`, required since 1.1 (STOMP 1.2 §SUBSCRIBE id Header).
    fn subscription_header<'a>(&self, frame: &Frame<'a>) -> Result<Option<Cow<'a, str>>, Fault> {
        match (frame.header("id"), self.version) {
            (Some(id), _) => Ok(Some(id)),
            (None, Some(Version::V1_0)) => Ok(None),
            (None, _) => Err(Fault::missing(frame.command(), "id")),
        }
    }

    fn filter(
        &self,
        frame: &Frame<'_>,
        destination: &str,
    ) -> Result<(SubscriptionFilter, Style), Fault> {
        let (mut text, style) = destination::to_topic(destination, &self.id)
            .map_err(|error| invalid(destination, &error))?;
        if destination::is_foreign_temp(&text, &self.id) {
            let detail = "a temporary queue can be subscribed by its own connection only";
            return Err(Fault::new(Cause::Refused, "Not authorized", detail));
        }
        if let Some(group) = frame.header("share") {
            if group.contains('/') {
                return Err(Fault::invalid("share", &group, "a name without / + #"));
            }
            text = format!("$share/{group}/{text}").into();
        }
        let filter = parse_filter(ByteString::from(&*text), &self.limits)
            .map_err(|error| invalid(destination, &error))?;
        Ok((filter, style))
    }

    fn ack_mode(&self, frame: &Frame<'_>) -> Result<(AckMode, Lane), Fault> {
        let max = self.limits.in_flight_max;
        let in_flight = match frame.header("prefetch-count") {
            None => self.limits.in_flight.min(max),
            Some(value) => match value.parse::<u32>() {
                Ok(0) => max,
                Ok(count) => u16::try_from(count).unwrap_or(u16::MAX).min(max),
                Err(_) => return Err(Fault::invalid("prefetch-count", &value, "a number")),
            },
        };
        match frame.header("ack").as_deref() {
            None | Some("auto") => Ok((AckMode::Auto, Lane::Session)),
            Some("client") => Ok((AckMode::Client, Lane::Own { in_flight })),
            Some("client-individual") => Ok((AckMode::Individual, Lane::Own { in_flight })),
            Some(other) => {
                let wanted = "auto, client or client-individual";
                Err(Fault::invalid("ack", other, wanted))
            }
        }
    }

    /// Puts it into the table and asks the broker.
    pub(super) fn add_subscription(
        &mut self,
        request: Request<'_>,
        out: &mut Output<'_>,
    ) -> Result<Wait, Fault> {
        let max = self.limits.subscriptions_per_session;
        if self.subscriptions.len() >= max {
            let detail = format!("a session has at most {max} subscriptions");
            return Err(Fault::of(Cause::Quota, detail));
        }
        let token = self.answers.token();
        let key = ByteString::from(&*request.key);
        self.subscriptions.pending.push(Subscription {
            token,
            key: key.clone(),
            head: message_head(self.version, request.header.as_deref()),
            ack: request.ack,
            style: request.style,
            next_position: 0,
        });
        let acknowledged = request.ack != AckMode::Auto;
        // Nobody acknowledges, but what comes while the client is away is to be kept.
        let auto_settle = !acknowledged && request.durable;
        let lane = if auto_settle {
            Lane::Own {
                in_flight: self.limits.in_flight_max,
            }
        } else {
            request.lane
        };
        let qos = if acknowledged || auto_settle {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        let request = SubscribeRequest {
            key,
            filter: request.filter,
            qos: qos.min(self.limits.maximum_qos),
            no_local: request.no_local,
            retain_as_published: false,
            retain_handling: request.retain_handling,
            identifier: None,
            lane,
            auto_settle,
            durable: request.durable,
        };
        out.commands.push(Command::Subscribe(Box::new(Subscribe {
            token,
            requests: smallvec![Ok(request)],
        })));
        Ok(Wait::Answer(token))
    }

    /// Takes the broker's answer to a SUBSCRIBE.
    pub(super) fn subscribed(
        &mut self,
        token: Token,
        result: Option<Result<Granted, Refusal>>,
    ) -> Result<(), Refusal> {
        let missing = || Err(Refusal::new(RefusalCode::Unspecified, "no answer"));
        let result = result.unwrap_or_else(missing);
        let id = result.as_ref().ok().map(|granted| granted.id);
        self.subscriptions.answered(token, id);
        result.map(drop)
    }

    pub(super) fn unsubscribe(
        &mut self,
        frame: &Frame<'_>,
        out: &mut Output<'_>,
    ) -> Result<Wait, Fault> {
        let key = match self.subscription_header(frame)? {
            Some(id) => id,
            None => required(frame, "destination")?,
        };
        if !self.subscriptions.remove(&key) && !is_given(&key) {
            let detail = format!("there is no subscription {}", quoted(&key));
            return Err(Fault::protocol("Unknown subscription", detail));
        }
        let token = self.answers.token();
        out.commands.push(Command::Unsubscribe {
            token,
            keys: smallvec![ByteString::from(&*key)],
        });
        Ok(Wait::Answer(token))
    }
}

/// Whether a subscription may be one that was made in the client's place, which only the broker
/// knows.
fn is_given(key: &str) -> bool {
    let number = key.strip_prefix(GIVEN).map(str::parse::<u32>);
    matches!(number, Some(Ok(1..)))
}

fn message_head(version: Option<Version>, header: Option<&str>) -> Box<[u8]> {
    let mut head = buffer();
    head.extend_from_slice(b"MESSAGE\n");
    if let Some(header) = header {
        let escaping = Escaping::of("MESSAGE", version);
        put_header(&mut head, escaping, "subscription", header);
    }
    head.as_slice().into()
}

/// As the MQTT option of the same name: 0 all, 1 if the subscription is new, 2 none.
fn retain_handling(frame: &Frame<'_>) -> Result<RetainHandling, Fault> {
    match frame.header("retain-handling").as_deref() {
        None | Some("0") => Ok(RetainHandling::Send),
        Some("1") => Ok(RetainHandling::SendIfNew),
        Some("2") => Ok(RetainHandling::DoNotSend),
        Some(other) => Err(Fault::invalid("retain-handling", other, "0, 1 or 2")),
    }
}
