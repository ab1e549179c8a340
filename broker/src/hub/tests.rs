//! Stories of clients on a hub, without sockets, clocks or bytes: a connection that writes down
//! what it is given. The modules below tell them, one theme each.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::Mutex;
use protocols::connection::{
    Cause, CloseReason, Connect, Connection, Delivered, Granted, Lane, Notice, Publish, Refusal,
    RefusalCode, RetainHandling, Settle, Subscribe, SubscribeRequest, Token, Will,
};
use protocols::model::{Message, QoS, SubscriptionFilter, Timestamp, Topic};
use protocols::outbox::FrameType;
use protocols::{Command, Delivery, Outbox, Output, Reply};

use super::{Hub, HubBounds};
use crate::auth::Identity;
use crate::router::{CacheLimits, Retained, RetainedLimits, Router};
use crate::session::{Batch, Bounds, GroupBounds, Link, Session, WayBack};
use crate::store::Store;
use crate::telemetry::Metrics;

mod access;
mod delivery;
mod durable;
mod groups;
mod outside;
mod owner;
mod publishing;
mod queues;
mod quotas;
mod retained;
mod sessions;
mod system;
mod wills;

/// A payload that no client takes.
const TOO_LARGE: &str = "too large";

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Connected {
        present: bool,
    },
    Refused(RefusalCode),
    Message {
        topic: String,
        payload: String,
        qos: u8,
        retain: bool,
        attempts: u32,
        position: Option<u64>,
        ids: usize,
    },
    Released(u64),
    Gap(u64),
    Closed(Cause),
}

type Log = Arc<Mutex<Vec<Seen>>>;

struct Recorder {
    log: Log,
    frame_bytes: usize,
    known: Option<HashSet<u32>>,
}

impl Connection for Recorder {
    fn receive(&mut self, input: &[u8], _: Timestamp, _: &mut Output<'_>) -> usize {
        input.len()
    }

    fn reply(&mut self, reply: Reply, _: Timestamp, _: &mut Output<'_>) {
        let seen = match reply {
            Reply::Connected(connected) => Seen::Connected {
                present: connected.session_present,
            },
            Reply::Refused(refusal) => Seen::Refused(refusal.code),
            Reply::Received { position, .. } => Seen::Released(position),
            _ => return,
        };
        self.log.lock().push(seen);
    }

    fn deliver(&mut self, delivery: &Delivery<'_>, _: Timestamp, outbox: &mut Outbox) -> Delivered {
        let unknown = |known: &HashSet<u32>| !known.contains(&delivery.matched[0].id.0);
        if self.known.as_ref().is_some_and(unknown) {
            return Delivered::NotSubscribed;
        }
        if delivery.message.payload == TOO_LARGE {
            return Delivered::TooLarge;
        }
        outbox.frame(FrameType::Binary, &[&vec![0; self.frame_bytes]]);
        self.log.lock().push(Seen::Message {
            topic: delivery.message.topic.to_string(),
            payload: String::from_utf8_lossy(&delivery.message.payload).into_owned(),
            qos: delivery.qos as u8,
            retain: delivery.retain,
            attempts: delivery.attempts,
            position: delivery.position,
            ids: delivery.matched.len(),
        });
        Delivered::Written
    }

    fn notify(&mut self, notice: &Notice, _: Timestamp, _: &mut Outbox) {
        if let Notice::Gap { dropped } = notice {
            self.log.lock().push(Seen::Gap(*dropped));
        }
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }

    fn handle_timeout(&mut self, _: Timestamp, _: &mut Output<'_>) {}

    fn close(&mut self, reason: &CloseReason, _: &mut Outbox) {
        self.log.lock().push(Seen::Closed(reason.cause));
    }
}

/// A client with its log.
struct Client {
    session: Arc<Session>,
    link: u64,
    log: Log,
    way_back: WayBack,
}

struct Story {
    hub: Arc<Hub>,
    batch: Batch,
    links: u64,
    /// Bytes that clients to come are written for each message.
    frame_bytes: usize,
}

fn bounds() -> HubBounds {
    HubBounds {
        session: Bounds {
            queue_messages: 10,
            queue_bytes: 1 << 20,
            outbox_bytes: 1000,
            outbox_hard_bytes: 8000,
            drop_oldest: false,
            memory_bytes: 1 << 16,
            spare_bytes: 0,
        },
        stored_session: Bounds {
            queue_messages: 10,
            queue_bytes: 1 << 20,
            outbox_bytes: 1000,
            outbox_hard_bytes: 8000,
            drop_oldest: false,
            memory_bytes: 1 << 16,
            spare_bytes: 0,
        },
        group: GroupBounds {
            memory_bytes: 1 << 16,
            stored_messages: 10,
            stored_bytes: 1 << 20,
            messages: 10,
            bytes: 1 << 20,
            total_bytes: 1 << 24,
        },
        groups: 10,
        subscriptions: 5,
        sessions: 100,
        sessions_per_user: 0,
        retain_available: true,
        idempotency_keys: 10,
        idempotency_ms: 1000,
    }
}

fn message(topic: &str, payload: &str, qos: QoS) -> Message {
    let topic = Topic::parse(topic.to_owned().into(), 1024, 32).unwrap();
    Message::new(topic, Bytes::from(payload.to_owned()), qos, false)
}

fn request(filter: &str, qos: QoS) -> SubscribeRequest {
    SubscribeRequest {
        key: filter.to_owned().into(),
        filter: SubscriptionFilter::parse(filter.to_owned().into(), 1024, 32).unwrap(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
        identifier: None,
        lane: Lane::Session,
        auto_settle: false,
        durable: true,
    }
}

fn lasting(client_id: &str) -> Connect {
    Connect {
        client_id: Some(client_id.to_owned().into()),
        session_expiry_secs: 60,
        in_flight: 4,
        ..Connect::default()
    }
}

fn with_will(client_id: &str, delay_secs: u32, expiry_secs: u32) -> Connect {
    let will = Will {
        message: message("will", client_id, QoS::AtMostOnce),
        delay_secs,
        expiry_secs: None,
    };
    Connect {
        will: Some(Box::new(will)),
        session_expiry_secs: expiry_secs,
        ..lasting(client_id)
    }
}

impl Story {
    fn new() -> Self {
        Self::with(bounds())
    }

    fn with(bounds: HubBounds) -> Self {
        Self::on(bounds, None)
    }

    fn on(bounds: HubBounds, store: Option<Arc<dyn Store>>) -> Self {
        let retained = Retained::new(RetainedLimits {
            messages: 100,
            bytes: 1 << 20,
        });
        Self::keeping(bounds, store, retained)
    }

    fn keeping(bounds: HubBounds, store: Option<Arc<dyn Store>>, retained: Retained) -> Self {
        let router = Router::new(CacheLimits::default());
        let metrics = Arc::new(Metrics::new(&["test"]));
        let hub = Hub::new(bounds, router, retained, metrics, store);
        Self {
            hub,
            batch: Batch::new(Timestamp(1_000_000)),
            links: 0,
            frame_bytes: 10,
        }
    }

    fn try_connect(&mut self, connect: Connect) -> (Result<Arc<Session>, Refusal>, Log, WayBack) {
        let identity = Identity {
            user: connect.username.clone(),
            ..Identity::default()
        };
        self.try_connect_as(identity, connect)
    }

    fn try_connect_as(
        &mut self,
        identity: Identity,
        connect: Connect,
    ) -> (Result<Arc<Session>, Refusal>, Log, WayBack) {
        self.links += 1;
        let (link, log, way_back) = Self::link(&self.hub, self.links, self.frame_bytes);
        (
            self.hub
                .connect(connect, identity, link, &mut Vec::new(), &mut self.batch),
            log,
            way_back,
        )
    }

    fn link(hub: &Hub, number: u64, frame_bytes: usize) -> (Box<Link>, Log, WayBack) {
        let log = Log::default();
        let recorder = Recorder {
            log: Arc::clone(&log),
            frame_bytes,
            known: None,
        };
        let way_back = WayBack::default();
        let link = Link::new(
            number,
            hub.metrics.protocol("test"),
            Box::new(recorder),
            Outbox::new(),
            Arc::clone(&way_back),
        );
        (Box::new(link), log, way_back)
    }

    fn connect(&mut self, connect: Connect) -> Client {
        let (result, log, way_back) = self.try_connect(connect);
        Client {
            session: result.unwrap(),
            link: self.links,
            log,
            way_back,
        }
    }

    fn subscribe(&mut self, client: &Client, request: SubscribeRequest) -> Granted {
        let requests = [Ok(request)].into_iter().collect();
        let subscribe = Subscribe {
            token: Token(0),
            requests,
        };
        let results = self
            .hub
            .subscribe(&client.session, subscribe, &mut self.batch);
        self.hub.pump(&client.session, &mut self.batch);
        results[0].clone().unwrap()
    }

    fn publish(&mut self, message: Message) -> u32 {
        self.hub.publish(message, &mut self.batch).unwrap()
    }

    fn leave(&mut self, client: &Client) {
        self.hub
            .disconnect(&client.session, client.link, true, None, &mut self.batch);
    }

    fn settle(&mut self, client: &Client, settle: Settle) -> bool {
        self.hub
            .settle(&client.session, settle, false, &mut self.batch)
    }

    fn wait(&mut self, secs: u32) {
        self.batch.now = self.batch.now.plus_secs(secs);
        self.hub.tick(&mut self.batch);
    }
}

impl Client {
    /// The payloads that came since the last look.
    fn payloads(&self) -> Vec<String> {
        self.seen()
            .into_iter()
            .filter_map(|seen| match seen {
                Seen::Message { payload, .. } => Some(payload),
                _ => None,
            })
            .collect()
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.log.lock())
    }

    /// The client reads all that was written.
    fn reads(&self, story: &mut Story) {
        self.session
            .with_link(self.link, |link| drop(link.outbox.take()));
        story.hub.pump(&self.session, &mut story.batch);
    }
}
