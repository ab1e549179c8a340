//! A client that speaks to one STOMP connection, and the broker behind it, both by hand.
//!
//! Frames are written as text with `^@` for NUL.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use bytes::Bytes;
use protocols::connection::{
    Cause, CloseReason, Command, Connect, Connected, Connection, Delivered, Delivery, Granted,
    Matched, Open, Output, Position, Protocol, Publish, Refusal, Reply, SubscribeRequest,
    SubscriptionId, Token,
};
use protocols::model::{Message, QoS, Timestamp, Topic};
use protocols::stomp::Stomp;
use protocols::{Limits, Outbox};

/// When every story begins.
pub(crate) const START: u64 = 1_000_000;

pub(crate) struct Peer {
    pub(crate) connection: Box<dyn Connection>,
    pub(crate) outbox: Outbox,
    pub(crate) commands: Vec<Command>,
    pub(crate) close: Option<CloseReason>,
    pub(crate) now: Timestamp,
    rest: Vec<u8>,
}

impl Peer {
    pub(crate) fn open(subprotocol: Option<&'static str>, limits: Limits) -> Self {
        let now = Timestamp(START);
        let connection = Stomp.open(Open {
            subprotocol,
            connection_id: "c1".into(),
            limits: Arc::new(limits),
            now,
        });
        Self {
            connection,
            outbox: Outbox::new(),
            commands: Vec::new(),
            close: None,
            now,
            rest: Vec::new(),
        }
    }

    pub(crate) fn new() -> Self {
        Self::open(None, Limits::default())
    }

    /// Logged in with this version.
    pub(crate) fn connected(version: &str) -> Self {
        Self::connected_with(version, "", Limits::default())
    }

    /// Logged in with more headers and other limits.
    pub(crate) fn connected_with(version: &str, headers: &str, limits: Limits) -> Self {
        let mut peer = Self::open(None, limits);
        peer.send(&format!(
            "CONNECT\naccept-version:{version}\nhost:h\n{headers}\n^@"
        ));
        assert!(matches!(peer.command(), Command::Connect(_)));
        peer.reply(Reply::Connected(Connected::default()));
        assert!(peer.sent().starts_with("CONNECTED\n"));
        peer
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.send_bytes(text.replace("^@", "\0").as_bytes());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        self.receive();
    }

    fn receive(&mut self) {
        let input = std::mem::take(&mut self.rest);
        let mut out = Output {
            outbox: &mut self.outbox,
            commands: &mut self.commands,
            close: &mut self.close,
        };
        let used = self.connection.receive(&input, self.now, &mut out);
        self.rest = input[used..].to_vec();
    }

    /// Bytes that wait for more.
    pub(crate) fn unread(&self) -> usize {
        self.rest.len()
    }

    /// Answers, and then lets the connection read on.
    pub(crate) fn reply(&mut self, reply: Reply) {
        let mut out = Output {
            outbox: &mut self.outbox,
            commands: &mut self.commands,
            close: &mut self.close,
        };
        self.connection.reply(reply, self.now, &mut out);
        if !self.rest.is_empty() {
            self.receive();
        }
    }

    /// Time passes; the connection is called as it wishes.
    pub(crate) fn pass(&mut self, millis: u64) {
        let end = Timestamp(self.now.0 + millis);
        while let Some(at) = self.connection.next_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            let mut out = Output {
                outbox: &mut self.outbox,
                commands: &mut self.commands,
                close: &mut self.close,
            };
            self.connection.handle_timeout(self.now, &mut out);
        }
        self.now = end;
    }

    /// What the client got since the last call.
    pub(crate) fn sent(&mut self) -> String {
        let bytes: Vec<u8> = self
            .outbox
            .take()
            .iter()
            .flat_map(|all| all.to_vec())
            .collect();
        String::from_utf8_lossy(&bytes).replace('\0', "^@")
    }

    /// The one command that came.
    pub(crate) fn command(&mut self) -> Command {
        assert_eq!(self.commands.len(), 1, "{:?}", self.commands);
        self.commands.remove(0)
    }

    pub(crate) fn connect(&mut self) -> Box<Connect> {
        match self.command() {
            Command::Connect(connect) => connect,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn publish(&mut self) -> Publish {
        match self.command() {
            Command::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn request(&mut self) -> (Token, SubscribeRequest) {
        subscribe_request(self.command())
    }

    /// Subscribes and grants.
    pub(crate) fn subscribe(&mut self, headers: &str, id: u32) -> SubscribeRequest {
        self.send(&format!("SUBSCRIBE\n{headers}\n\n^@"));
        let (token, request) = self.request();
        self.reply(granted(token, id, request.qos));
        request
    }

    /// Delivers, and says what the client got.
    pub(crate) fn deliver(
        &mut self,
        message: Message,
        id: u32,
        position: Option<Position>,
    ) -> String {
        let (delivered, sent) = self.deliver_as(message, id, position, false, 0);
        assert_eq!(delivered, Delivered::Written);
        sent
    }

    pub(crate) fn deliver_as(
        &mut self,
        message: Message,
        id: u32,
        position: Option<Position>,
        retain: bool,
        attempts: u32,
    ) -> (Delivered, String) {
        let delivered = self.put(&Arc::new(message), id, position, retain, attempts);
        (delivered, self.sent())
    }

    /// Delivers a message that others get as well.
    pub(crate) fn put(
        &mut self,
        message: &Arc<Message>,
        id: u32,
        position: Option<Position>,
        retain: bool,
        attempts: u32,
    ) -> Delivered {
        let delivery = Delivery {
            message,
            qos: position.map_or(QoS::AtMostOnce, |_| QoS::AtLeastOnce),
            retain,
            position,
            attempts,
            matched: &[Matched {
                id: SubscriptionId(id),
                identifier: None,
            }],
        };
        self.connection
            .deliver(&delivery, self.now, &mut self.outbox)
    }

    /// That the client got an ERROR with these lines, and the connection is over.
    pub(crate) fn assert_error(&mut self, cause: Cause, lines: &[&str]) {
        let sent = self.sent();
        let error = sent.rfind("ERROR\n").map_or("", |at| &sent[at..]);
        assert!(
            error.starts_with("ERROR\nmessage:"),
            "no ERROR with {lines:?}: {sent} {:?}",
            self.commands
        );
        assert!(error.ends_with("^@"), "{sent}");
        for line in lines {
            assert!(error.lines().any(|all| all == *line), "{line} in {sent}");
        }
        let close = self.close.take().expect("the connection is over");
        assert_eq!(close.cause, cause, "{sent}");
        self.send("SEND\ndestination:/topic/a\n\n^@");
        assert!(self.commands.is_empty(), "nothing is read any more");
        assert_eq!(self.connection.next_timeout(), None);
    }
}

pub(crate) fn subscribe_request(command: Command) -> (Token, SubscribeRequest) {
    match command {
        Command::Subscribe(subscribe) => {
            let request = subscribe.requests[0].as_ref().expect("a request").clone();
            (subscribe.token, request)
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn granted(token: Token, id: u32, qos: QoS) -> Reply {
    let granted = Granted {
        id: SubscriptionId(id),
        qos,
    };
    Reply::Subscribed {
        token,
        results: [Ok(granted)].into_iter().collect(),
    }
}

pub(crate) fn published(publish: &Publish, result: Result<u32, Refusal>) -> Reply {
    Reply::Published {
        token: publish.token.expect("a token"),
        result,
    }
}

pub(crate) fn message(topic: &str, payload: &str) -> Message {
    let topic = Topic::parse(topic.into(), 1024, 32).expect("a topic");
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Message::new(topic, payload, QoS::AtMostOnce, false)
}
