//! Clients of all protocols on one hub: real connections, real bytes, no sockets, and a time that
//! passes when the test says so.

use std::sync::Arc;

use broker::auth::Identity;
use broker::hub::{Hub, HubBounds};
use broker::router::{CacheLimits, Retained, RetainedLimits, Router};
use broker::session::{Batch, Bounds, GroupBounds, Link, Session, WayBack};
use broker::telemetry::Metrics;
use protocols::connection::{Command, Open, Reply};
use protocols::model::Timestamp;
use protocols::{Limits, Outbox};

use crate::table::{Answer, Subscription};
use crate::tongue::{Said, Tongue};

/// The time when each story begins.
pub(crate) const START: Timestamp = Timestamp(1_000_000_000);

pub(crate) struct Story {
    hub: Arc<Hub>,
    batch: Batch,
    links: u64,
    /// Numbers for publishes and subscriptions.
    numbers: u16,
}

pub(crate) struct Client {
    pub(crate) tongue: Tongue,
    session: Arc<Session>,
    link: u64,
}

impl Story {
    pub(crate) fn new() -> Self {
        let retained = Retained::new(RetainedLimits {
            messages: 100,
            bytes: 1 << 20,
        });
        let router = Router::new(CacheLimits::default());
        let metrics = Arc::new(Metrics::default());
        Self {
            hub: Hub::new(bounds(), router, retained, metrics, None),
            batch: Batch::new(START),
            links: 0,
            numbers: 0,
        }
    }

    /// Lets seconds pass.
    pub(crate) fn wait(&mut self, secs: u32) {
        self.batch.now = self.batch.now.plus_secs(secs);
        self.hub.tick(&mut self.batch);
    }

    /// A client of the user `ann` that has logged in.
    pub(crate) fn connect(&mut self, tongue: Tongue) -> Client {
        self.links += 1;
        let id = broker::session::connection_id(self.links);
        let protocol = tongue.protocol();
        let open = Open {
            subprotocol: None,
            connection_id: id.clone().into(),
            limits: Arc::new(Limits::default()),
            now: self.batch.now,
        };
        let mut link = Box::new(Link::new(
            self.links,
            self.hub.metrics.protocol(protocol.name()),
            protocol.open(open),
            Outbox::new(),
            WayBack::default(),
        ));
        let (login, now) = (tongue.login(&id), self.batch.now);
        let mut commands = Vec::new();
        let used = link.drive(&mut commands, |connection, out| {
            connection.receive(&login, now, out)
        });
        assert_eq!((used, &link.end), (login.len(), &None));
        let Some(Command::Connect(connect)) = commands.pop() else {
            panic!("no login");
        };
        let identity = Identity {
            user: connect.username.clone(),
            ..Identity::default()
        };
        let session = self
            .hub
            .connect(*connect, identity, link, &mut commands, &mut self.batch)
            .unwrap();
        assert!(commands.is_empty());
        let client = Client {
            tongue,
            session,
            link: self.links,
        };
        // CONNECTED in STOMP is not escaped like the frames behind it.
        client.take();
        client
    }

    pub(crate) fn subscribe(&mut self, client: &Client, to: &Subscription, qos: u8) {
        let number = self.number();
        self.send(client, &client.tongue.subscribe(to, qos, number));
    }

    pub(crate) fn publish(&mut self, client: &Client, said: &Said<'_>) {
        let number = self.number();
        self.send(client, &client.tongue.publish(said, number));
    }

    /// The connection is lost.
    pub(crate) fn leave(&mut self, client: &Client) {
        self.hub
            .disconnect(&client.session, client.link, true, None, &mut self.batch);
    }

    /// Answers the one message that came since the last look; `false` if the client cannot.
    pub(crate) fn answer(&mut self, client: &Client, answer: &Answer) -> bool {
        let bytes = client.take();
        let answer = client.tongue.answer(&bytes, answer);
        if let Some(answer) = &answer {
            self.send(client, answer);
        }
        answer.is_some()
    }

    /// Gives a client's bytes to its connection and carries out what comes of them.
    pub(crate) fn send(&mut self, client: &Client, bytes: &[u8]) {
        let now = self.batch.now;
        let mut commands = Vec::new();
        client.with(|link| {
            let used = link.drive(&mut commands, |connection, out| {
                connection.receive(bytes, now, out)
            });
            assert_eq!(used, bytes.len());
        });
        for command in commands {
            self.carry_out(client, command);
        }
        // Whoever refuses says so in its outbox; whoever ends, here.
        client.with(|link| assert_eq!(link.end, None));
    }

    fn carry_out(&mut self, client: &Client, command: Command) {
        let session = &client.session;
        match command {
            Command::Publish(publish) => {
                let token = publish.token;
                let result = self.hub.publish_for(session, publish, &mut self.batch);
                result.as_ref().unwrap();
                if let Some(token) = token {
                    self.reply(client, Reply::Published { token, result });
                }
            }
            Command::Subscribe(subscribe) => {
                let token = subscribe.token;
                let results = self.hub.subscribe(session, *subscribe, &mut self.batch);
                assert!(results.iter().all(Result::is_ok), "{results:?}");
                self.reply(client, Reply::Subscribed { token, results });
                self.hub.pump(session, &mut self.batch);
            }
            Command::Settle { token, settle } => {
                assert!(self.hub.settle(session, settle, false, &mut self.batch));
                if let Some(token) = token {
                    let result = Ok(());
                    self.reply(client, Reply::Settled { token, result });
                }
            }
            other => panic!("no story needs {other:?}"),
        }
    }

    fn reply(&self, client: &Client, reply: Reply) {
        let now = self.batch.now;
        client.with(|link| {
            link.drive(&mut Vec::new(), |connection, out| {
                connection.reply(reply, now, out);
            });
        });
    }

    fn number(&mut self) -> u16 {
        self.numbers += 1;
        self.numbers
    }
}

impl Client {
    /// The messages that came since the last look.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.tongue.read(&self.take())
    }

    fn with<R>(&self, step: impl FnOnce(&mut Link) -> R) -> R {
        self.session.with_link(self.link, step).unwrap()
    }

    fn take(&self) -> Vec<u8> {
        let pieces = self.with(|link| link.outbox.take());
        pieces.into_iter().flatten().collect()
    }
}

fn bounds() -> HubBounds {
    HubBounds {
        session: Bounds {
            queue_messages: 100,
            queue_bytes: 1 << 20,
            outbox_bytes: 1 << 20,
            outbox_hard_bytes: 1 << 21,
            drop_oldest: false,
            memory_bytes: 1 << 16,
            spare_bytes: 0,
        },
        stored_session: Bounds {
            queue_messages: 100,
            queue_bytes: 1 << 20,
            outbox_bytes: 1 << 20,
            outbox_hard_bytes: 1 << 21,
            drop_oldest: false,
            memory_bytes: 1 << 16,
            spare_bytes: 0,
        },
        group: GroupBounds {
            memory_bytes: 1 << 16,
            stored_messages: 10,
            stored_bytes: 1 << 20,
            messages: 100,
            bytes: 1 << 20,
            total_bytes: 1 << 24,
        },
        groups: 100,
        subscriptions: 100,
        sessions_per_user: 0,
        sessions: 1000,
        retain_available: true,
        idempotency_keys: 100,
        idempotency_ms: 1000,
    }
}
