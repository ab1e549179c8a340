//! Topic rules: messages of every protocol that go to functions.
//!
//! Each rule is a client of the broker's own with one subscription. With `qos` 1 its session is
//! durable: messages wait on disk while the function cannot be called and while the broker is down,
//! and are settled when the function has them or they have become dead letters. With `qos` 0 they are
//! given once to a function that can take them at that moment.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use protocols::Outbox;
use protocols::connection::{
    CloseReason, Connect, Connection, Delivered, Delivery, Lane, Output, Position, Refusal,
    RefusalCode, Reply, RetainHandling, Settle, Subscribe, SubscribeRequest, Token,
};
use protocols::model::{Message, QoS, SubscriptionFilter, Timestamp};
use serde_json::{Map, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Functions;
use super::event::of_message;
use super::target::Target;
use crate::auth::Identity;
use crate::config::RuleEntry;
use crate::net::{Net, ServiceLink};
use crate::session::Batch;

/// How the client identifiers of rules begin.
const PREFIX: &str = "$function/";

/// The user that rules are.
const USER: &str = "$functions";

/// Messages at QoS 0 that may wait for a call.
const WAITING_MAX: usize = 1000;

/// How long a rule waits before it begins anew, should it not be let in.
const AGAIN: Duration = Duration::from_secs(1);

/// What came and was not given to a function.
#[derive(Default)]
struct Inbox {
    inner: Mutex<Inner>,
    more: Notify,
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    is_over: bool,
}

struct Job {
    message: Arc<Message>,
    position: Option<Position>,
}

/// The connection of a rule: it writes nothing.
struct RuleConnection(Arc<Inbox>);

impl Connection for RuleConnection {
    fn receive(&mut self, input: &[u8], _now: Timestamp, _out: &mut Output<'_>) -> usize {
        input.len()
    }

    fn reply(&mut self, _reply: Reply, _now: Timestamp, _out: &mut Output<'_>) {}

    fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        _now: Timestamp,
        _outbox: &mut Outbox,
    ) -> Delivered {
        let mut inner = self.0.inner.lock();
        // Those with a position are bounded by the session's window.
        if delivery.position.is_none() && inner.jobs.len() >= WAITING_MAX {
            return Delivered::TooLarge;
        }
        inner.jobs.push_back(Job {
            message: Arc::clone(delivery.message),
            position: delivery.position,
        });
        drop(inner);
        self.0.more.notify_one();
        Delivered::Written
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }

    fn handle_timeout(&mut self, _now: Timestamp, _out: &mut Output<'_>) {}

    fn close(&mut self, _reason: &CloseReason, _outbox: &mut Outbox) {
        self.0.inner.lock().is_over = true;
        self.0.more.notify_one();
    }
}

/// One rule at work.
struct Rule {
    functions: Arc<Functions>,
    net: Arc<Net>,
    entry: RuleEntry,
    target: Arc<Target>,
}

/// Begins a rule.
pub(super) fn start(
    functions: &Arc<Functions>,
    net: &Arc<Net>,
    entry: &RuleEntry,
    target: &Arc<Target>,
) {
    let rule = Arc::new(Rule {
        functions: Arc::clone(functions),
        net: Arc::clone(net),
        entry: entry.clone(),
        target: Arc::clone(target),
    });
    // At once, so that nothing that clients publish comes before it.
    let inbox = Arc::new(Inbox::default());
    let entered = rule.enter(&inbox);
    functions
        .runtime
        .spawn(async move { rule.run(inbox, entered).await });
}

/// Ends what earlier runs kept for rules that are not there any more.
pub(super) fn forget_others(net: &Net, entries: &[RuleEntry]) {
    let mut after = 0;
    let reason = CloseReason::new(
        protocols::connection::Cause::Administrative,
        "its topic rule is not configured any more",
    );
    loop {
        let page = net.hub.sessions_page(after, 1000);
        for session in page.rows {
            let Some(name) = session.client_id.strip_prefix(PREFIX) else {
                continue;
            };
            if session.user_name() == Some(USER) && !entries.iter().any(|entry| entry.name == name)
            {
                let mut batch = Batch::new(net.clock.now());
                net.hub.end_session(&session, &reason, &mut batch);
                batch.finish(&net.hub.metrics);
            }
        }
        let Some(last) = page.next else { return };
        after = last;
    }
}

impl Rule {
    async fn run(
        self: &Arc<Self>,
        mut inbox: Arc<Inbox>,
        mut entered: Result<ServiceLink, Refusal>,
    ) {
        loop {
            match entered {
                Ok(link) => self.work(&inbox, &link).await,
                Err(refusal) => {
                    let (rule, reason) = (&self.entry.name, &refusal.detail);
                    tracing::error!(%rule, %reason, "a topic rule does not work");
                }
            }
            if self.net.hub.is_stopping() {
                return;
            }
            tokio::time::sleep(AGAIN).await;
            inbox = Arc::new(Inbox::default());
            entered = self.enter(&inbox);
        }
    }

    /// Logs in and subscribes.
    fn enter(&self, inbox: &Arc<Inbox>) -> Result<ServiceLink, Refusal> {
        let entry = &self.entry;
        let any = usize::from(u16::MAX);
        let filter = SubscriptionFilter::parse(entry.filter.as_str().into(), any, any);
        let filter =
            filter.map_err(|error| Refusal::new(RefusalCode::FilterInvalid, error.to_string()))?;
        let is_durable = entry.qos > 0;
        let connect = Connect {
            protocol: "function",
            client_id: Some(format!("{PREFIX}{}", entry.name).into()),
            clean_start: !is_durable,
            session_expiry_secs: if is_durable { u32::MAX } else { 0 },
            in_flight: entry.in_flight,
            ..Connect::default()
        };
        let mut batch = Batch::new(self.net.clock.now());
        let link = self.net.open_service(
            Box::new(RuleConnection(Arc::clone(inbox))),
            (connect, self.identity()),
            &mut batch,
        );
        let result = link.and_then(|link| {
            self.subscribe(&link, filter, &mut batch)?;
            Ok(link)
        });
        batch.finish(&self.net.hub.metrics);
        result
    }

    fn subscribe(
        &self,
        link: &ServiceLink,
        filter: SubscriptionFilter,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let (hub, session) = (&self.net.hub, link.session());
        let key = bytestring::ByteString::from(self.entry.filter.as_str());
        // What an older configuration wanted under this name.
        let mut old: Vec<_> = {
            let state = session.lock();
            let keys = state.subscriptions.keys();
            keys.filter(|held| **held != key).cloned().collect()
        };
        old.sort();
        if !old.is_empty() {
            hub.unsubscribe(session, &old, batch);
        }
        let request = SubscribeRequest {
            key,
            filter,
            qos: if self.entry.qos > 0 {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            },
            no_local: false,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
            identifier: None,
            lane: Lane::Session,
            auto_settle: false,
            durable: self.entry.qos > 0,
        };
        let subscribe = Subscribe {
            token: Token::default(),
            requests: [Ok(request)].into_iter().collect(),
        };
        let results = hub.subscribe(session, subscribe, batch);
        hub.pump(session, batch);
        results
            .into_iter()
            .find_map(Result::err)
            .map_or(Ok(()), Err)
    }

    /// It may read its own topics, whatever the rules for clients say.
    fn identity(&self) -> Identity {
        let filter = &self.entry.filter;
        let mut claims = Map::new();
        let allowed = json!([{"allow": ["subscribe", "join"], "topics": [filter]}, {"allow": ["subscribe", "join"]}]);
        claims.insert("permissions".to_owned(), allowed);
        Identity {
            user: Some(USER.into()),
            claims,
            ..Identity::default()
        }
    }

    /// Gives messages to the function until the link is over.
    async fn work(self: &Arc<Self>, inbox: &Arc<Inbox>, link: &ServiceLink) {
        let mut calls = JoinSet::new();
        loop {
            while calls.len() < usize::from(self.entry.in_flight) {
                let job = inbox.inner.lock().jobs.pop_front();
                let Some(job) = job else { break };
                let me = Arc::clone(self);
                calls.spawn(async move { me.give(job).await });
            }
            if inbox.inner.lock().is_over {
                // What was not settled comes again with the session.
                return;
            }
            tokio::select! {
                () = inbox.more.notified() => {}
                () = link.nudged() => self.pump(link),
                Some(done) = calls.join_next() => {
                    if let Ok(Some(position)) = done {
                        self.settle(link, position);
                    }
                }
            }
        }
    }

    /// Gives one message to the function, and returns what is to be settled.
    async fn give(&self, job: Job) -> Option<Position> {
        let qos = u8::from(job.position.is_some());
        let about = (
            self.entry.name.as_str(),
            self.functions.config.stage.0.as_str(),
        );
        let event = of_message(&job.message, about, qos, self.net.clock.now());
        if job.position.is_some() {
            self.functions.deliver(&self.target, &event).await;
        } else if self.functions.offer(&self.target, &event).await.is_err() {
            self.target.counts.dead.fetch_add(1, Ordering::Relaxed);
        }
        job.position
    }

    fn pump(&self, link: &ServiceLink) {
        let mut batch = Batch::new(self.net.clock.now());
        self.net.hub.pump(link.session(), &mut batch);
        batch.finish(&self.net.hub.metrics);
    }

    fn settle(&self, link: &ServiceLink, position: Position) {
        let (hub, session) = (&self.net.hub, link.session());
        let mut batch = Batch::new(self.net.clock.now());
        hub.settle(session, Settle::Done(position), false, &mut batch);
        hub.pump(session, &mut batch);
        batch.finish(&hub.metrics);
    }
}
