//! A client of the JSON subprotocol and the broker's side of the seam, both under the test's hand.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use protocols::connection::{
    CloseReason, Command, Connected, Connection, Delivered, Delivery, Granted, Matched, Notice,
    Open, Output, Protocol, Refusal, RefusalCode, Reply, SubscriptionId, WebSocketUse,
};
use protocols::json::Json;
use protocols::limits::Limits;
use protocols::model::{Message, QoS, Timestamp, Topic};
use protocols::outbox::Outbox;

pub(crate) struct Client {
    pub(crate) connection: Box<dyn Connection>,
    pub(crate) outbox: Outbox,
    pub(crate) now: Timestamp,
    pub(crate) commands: VecDeque<Command>,
    /// The last [`Command::Refused`], which is kept out of `commands`.
    pub(crate) refused: Option<&'static str>,
    pub(crate) closed: Option<CloseReason>,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let now = Timestamp(1_000_000);
        Self {
            connection: Json.open(Open {
                subprotocol: Some("polycast.json.v1"),
                connection_id: "c-1".into(),
                limits: Arc::new(limits),
                now,
            }),
            outbox: Outbox::web_socket(WebSocketUse::TextMessages),
            now,
            commands: VecDeque::new(),
            refused: None,
            closed: None,
        }
    }

    /// A client that is in, with nothing left to read.
    pub(crate) fn logged_in() -> Self {
        Self::logged_in_with(Limits::default())
    }

    pub(crate) fn logged_in_with(limits: Limits) -> Self {
        let mut client = Self::with(limits);
        client.send(r#"{"type":"connect"}"#);
        client.take();
        client.let_in();
        client.frames();
        client
    }

    pub(crate) fn let_in(&mut self) {
        self.reply(Reply::Connected(Connected {
            client_id: "ann-1".into(),
            user: Some("ann".into()),
            ..Connected::default()
        }));
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let used = self.drive(|connection, now, out| connection.receive(bytes, now, out));
        assert_eq!(used, bytes.len(), "a message is used up whole");
    }

    pub(crate) fn reply(&mut self, reply: Reply) {
        self.drive(|connection, now, out| connection.reply(reply, now, out));
    }

    pub(crate) fn time_out(&mut self) {
        self.now = self.connection.next_timeout().expect("no deadline");
        self.drive(|connection, now, out| connection.handle_timeout(now, out));
    }

    pub(crate) fn drive<T>(
        &mut self,
        act: impl FnOnce(&mut dyn Connection, Timestamp, &mut Output<'_>) -> T,
    ) -> T {
        let mut commands = Vec::new();
        let mut out = Output {
            outbox: &mut self.outbox,
            commands: &mut commands,
            close: &mut self.closed,
        };
        let result = act(&mut *self.connection, self.now, &mut out);
        for command in commands {
            match command {
                Command::Refused { reason } => self.refused = Some(reason),
                asked => self.commands.push_back(asked),
            }
        }
        result
    }

    pub(crate) fn deliver(&mut self, message: Message, how: &How) -> Delivered {
        let matched = [Matched {
            id: SubscriptionId(1),
            identifier: None,
        }];
        self.connection.deliver(
            &Delivery {
                message: &Arc::new(message),
                qos: if how.position.is_some() {
                    QoS::AtLeastOnce
                } else {
                    QoS::AtMostOnce
                },
                retain: how.retain,
                position: how.position,
                attempts: how.attempts,
                matched: &matched,
            },
            self.now,
            &mut self.outbox,
        )
    }

    pub(crate) fn notify(&mut self, notice: &Notice) {
        self.connection.notify(notice, self.now, &mut self.outbox);
    }

    /// The next command.
    pub(crate) fn take(&mut self) -> Command {
        self.commands.pop_front().expect("no command")
    }

    /// The frames written since the last call.
    pub(crate) fn frames(&mut self) -> Vec<String> {
        let wire: Vec<u8> = self
            .outbox
            .take()
            .iter()
            .flat_map(|piece| piece.to_vec())
            .collect();
        let mut rest = wire.as_slice();
        let mut frames = Vec::new();
        while let [0x81, length, following @ ..] = rest {
            let (length, following) = match length {
                126 => (
                    usize::from(u16::from_be_bytes([following[0], following[1]])),
                    &following[2..],
                ),
                127 => {
                    let long = u64::from_be_bytes(following[..8].try_into().expect("8 bytes"));
                    (usize::try_from(long).expect("a length"), &following[8..])
                }
                short => (usize::from(*short), following),
            };
            frames.push(String::from_utf8(following[..length].to_vec()).expect("UTF-8"));
            rest = &following[length..];
        }
        assert!(rest.is_empty(), "not a text frame: {rest:?}");
        frames
    }

    /// The one frame written since the last call.
    pub(crate) fn frame(&mut self) -> String {
        let mut frames = self.frames();
        assert_eq!(frames.len(), 1, "{frames:?}");
        frames.remove(0)
    }

    /// Answers every command as an obliging broker would: three receivers for each message,
    /// nothing below `secret/`, no message open above position 90.
    pub(crate) fn obey(&mut self) {
        while let Some(command) = self.commands.pop_front() {
            if let Some(reply) = answer(command) {
                self.reply(reply);
            }
        }
    }
}

/// How a message reaches a client.
#[derive(Default)]
pub(crate) struct How {
    pub(crate) position: Option<u64>,
    pub(crate) retain: bool,
    pub(crate) attempts: u32,
}

pub(crate) fn message(topic: &str, payload: &[u8]) -> Message {
    let topic = Topic::parse(topic.into(), 1024, 32).expect("a topic");
    let payload = Bytes::copy_from_slice(payload);
    Message::new(topic, payload, QoS::AtMostOnce, false)
}

fn answer(command: Command) -> Option<Reply> {
    use protocols::connection::Settle;
    Some(match command {
        Command::Connect(connect) => match connect.token.as_ref().map(|token| &token.0[..]) {
            Some(b"wrong") => Reply::Refused(Refusal::new(
                RefusalCode::BadCredentials,
                "the token is not valid",
            )),
            token => Reply::Connected(Connected {
                assigned: connect.client_id.is_none(),
                client_id: connect.client_id.unwrap_or_else(|| "auto-1".into()),
                session_present: !connect.clean_start,
                user: token.map(|_| "ann".into()),
                session: 1,
            }),
        },
        Command::Refresh { token, credentials } => Reply::Refreshed {
            token,
            result: match &credentials.0[..] {
                b"wrong" => Err(Refusal::new(
                    RefusalCode::BadCredentials,
                    "the token is not valid",
                )),
                _ => Ok(Some(Timestamp(1_767_225_600_000))),
            },
        },
        Command::Barrier { token } => Reply::Passed { token },
        Command::Publish(publish) => Reply::Published {
            token: publish.token?,
            result: Ok(3),
        },
        Command::Subscribe(subscribe) => Reply::Subscribed {
            token: subscribe.token,
            results: subscribe
                .requests
                .into_iter()
                .map(|request| {
                    let request = request?;
                    if request.key.starts_with("secret/") {
                        let detail = "not allowed to subscribe to this";
                        return Err(Refusal::new(RefusalCode::NotAuthorized, detail));
                    }
                    Ok(Granted {
                        id: SubscriptionId(1),
                        qos: request.qos,
                    })
                })
                .collect(),
        },
        Command::Unsubscribe { token, keys } => Reply::Unsubscribed {
            token,
            existed: keys.iter().map(|key| !key.starts_with("never/")).collect(),
        },
        Command::Settle { token, settle } => Reply::Settled {
            token: token?,
            result: match settle {
                Settle::Done(position) if position > 90 => Err(Refusal::new(
                    RefusalCode::Unknown,
                    "no such message is open",
                )),
                _ => Ok(()),
            },
        },
        Command::Transaction { token, .. } => Reply::Committed {
            token,
            result: Ok(()),
        },
        Command::Release { .. } | Command::Refused { .. } | Command::Disconnect { .. } => {
            return None;
        }
    })
}
