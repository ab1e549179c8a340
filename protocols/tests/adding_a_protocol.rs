//! `lines.v1`: a protocol of one line a frame, for people with a terminal.
//!
//! ```text
//! HELLO name          log in           OK | ERR reason
//! SUB filter          subscribe        OK | ERR reason
//! PUB topic text      publish          OK | ERR reason
//! BYE                 go               BYE normal
//!                                      MSG topic text
//! ```
//!
//! Lines end in a line feed. A message from elsewhere may hold anything: see `one_line`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocols::connection::{
    Cause, CloseReason, Command, Connect, Connection, Delivered, Delivery, Lane, Open, Output,
    Protocol, Publish, Refusal, Reply, RetainHandling, Subscribe, SubscribeRequest, Token,
    WebSocketUse,
};
use protocols::limits::Limits;
use protocols::model::{Encoding, Message, QoS, SubscriptionFilter, Timestamp, Topic};
use protocols::outbox::{FrameType, Outbox};
use smallvec::smallvec;

/// The protocol, for the registry.
#[derive(Debug)]
pub struct Lines;

impl Protocol for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn subprotocols(&self) -> &'static [&'static str] {
        &["lines.v1"]
    }

    fn web_socket_use(&self) -> WebSocketUse {
        WebSocketUse::FramedStream
    }

    fn open(&self, open: Open) -> Box<dyn Connection> {
        let login = Duration::from_millis(open.limits.login_ms.into());
        Box::new(LinesConnection {
            state: State::Greeting,
            deadline: Some(open.now + login),
            limits: open.limits,
        })
    }
}

/// One client.
struct LinesConnection {
    state: State,
    /// When the login has to be there.
    deadline: Option<Timestamp>,
    limits: Arc<Limits>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Connecting,
    Open,
    Ended,
}

impl Connection for LinesConnection {
    fn receive(&mut self, input: &[u8], _now: Timestamp, out: &mut Output<'_>) -> usize {
        let mut used = 0;
        // What stands behind a HELLO is offered again when it is answered.
        while matches!(self.state, State::Greeting | State::Open) {
            let rest = &input[used..];
            let longest = match self.state {
                State::Open => self.limits.packet_bytes,
                _ => self.limits.packet_bytes_before_login,
            };
            let end = memchr::memchr(b'\n', &rest[..rest.len().min(longest)]);
            let Some(end) = end else {
                if rest.len() >= longest {
                    self.end(Cause::TooLarge, "the line is too long", out);
                }
                break;
            };
            used += end + 1;
            match std::str::from_utf8(&rest[..end]) {
                Ok(line) => self.line(line.trim_end_matches('\r'), out),
                Err(_) => self.end(Cause::NotUtf8, "the line is not UTF-8", out),
            }
        }
        used
    }

    fn reply(&mut self, reply: Reply, _now: Timestamp, out: &mut Output<'_>) {
        let result = match reply {
            Reply::Connected(_) => {
                self.state = State::Open;
                self.deadline = None;
                Ok(())
            }
            Reply::Refused(refusal) => {
                self.end(Cause::Refused, refusal.detail, out);
                return;
            }
            Reply::Published { result, .. } => result.map(|_| ()),
            Reply::Subscribed { results, .. } => {
                let refused = results.into_iter().find_map(Result::err);
                refused.map_or(Ok(()), Err)
            }
            // Answers to what this protocol never asks.
            _ => return,
        };
        // Answers come in the order of the questions, so nothing has to be remembered.
        answer(result.map_err(|refusal| refusal.detail), out.outbox);
    }

    fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        _now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        if self.state == State::Ended {
            return Delivered::NotSubscribed;
        }
        // Written once, however many read it.
        let line = delivery.message.encoded(Encoding("lines"), message_line);
        outbox.frame_shared(FrameType::Text, &[], line, b"");
        Delivered::Written
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        self.deadline
    }

    fn handle_timeout(&mut self, now: Timestamp, out: &mut Output<'_>) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.end(Cause::LoginTimeout, "no HELLO in time", out);
        }
    }

    fn close(&mut self, reason: &CloseReason, outbox: &mut Outbox) {
        if self.state != State::Ended {
            self.state = State::Ended;
            self.deadline = None;
            put(outbox, &format!("BYE {}", reason.cause.as_str()));
        }
    }
}

impl LinesConnection {
    fn line(&mut self, line: &str, out: &mut Output<'_>) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let asked = match (self.state, word) {
            (State::Greeting, "HELLO") => {
                self.state = State::Connecting;
                Ok(hello(rest))
            }
            (State::Open, "SUB") => self.subscribe(rest),
            (State::Open, "PUB") => self.publish(rest),
            (State::Open, "BYE") => {
                self.disconnect(out);
                return;
            }
            (State::Greeting, _) => {
                self.end(Cause::ProtocolError, "HELLO comes first", out);
                return;
            }
            _ => Err("known are SUB, PUB and BYE".to_owned()),
        };
        match asked {
            Ok(command) => out.commands.push(command),
            Err(detail) => answer(Err(detail.into()), out.outbox),
        }
    }

    fn subscribe(&self, filter: &str) -> Result<Command, String> {
        let Limits {
            topic_bytes,
            topic_levels,
            ..
        } = *self.limits;
        let filter = SubscriptionFilter::parse(filter.into(), topic_bytes, topic_levels)
            .map_err(|error| error.to_string())?;
        let request = SubscribeRequest {
            key: filter.text().clone(),
            filter,
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
            identifier: None,
            lane: Lane::Session,
            auto_settle: false,
            durable: false,
        };
        Ok(Command::Subscribe(Box::new(Subscribe {
            token: Token(0),
            requests: smallvec![Ok::<_, Refusal>(request)],
        })))
    }

    fn publish(&self, rest: &str) -> Result<Command, String> {
        let (topic, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let Limits {
            topic_bytes,
            topic_levels,
            ..
        } = *self.limits;
        let topic = Topic::parse(topic.into(), topic_bytes, topic_levels)
            .map_err(|error| error.to_string())?;
        let payload = Bytes::copy_from_slice(text.as_bytes());
        Ok(Command::Publish(Publish {
            token: Some(Token(0)),
            exactly_once: None,
            idempotency_key: None,
            message: Message::new(topic, payload, QoS::AtMostOnce, false).into(),
        }))
    }

    fn disconnect(&mut self, out: &mut Output<'_>) {
        out.commands.push(Command::Disconnect {
            publish_will: false,
            session_expiry_secs: None,
        });
        self.end(Cause::Normal, "as the client asked", out);
    }

    fn end(&mut self, cause: Cause, detail: impl Into<Cow<'static, str>>, out: &mut Output<'_>) {
        let reason = CloseReason::new(cause, detail);
        if cause != Cause::Normal {
            answer(Err(reason.detail.clone()), out.outbox);
        }
        self.close(&reason, out.outbox);
        out.end(reason.cause, reason.detail);
    }
}

fn hello(name: &str) -> Command {
    Command::Connect(Box::new(Connect {
        protocol: "lines 1",
        client_id: (!name.is_empty()).then(|| name.into()),
        clean_start: true,
        in_flight: 1,
        ..Connect::default()
    }))
}

fn answer(result: Result<(), Cow<'static, str>>, outbox: &mut Outbox) {
    match result {
        Ok(()) => put(outbox, "OK"),
        Err(detail) => put(outbox, &format!("ERR {}", one_line(&detail))),
    }
}

fn put(outbox: &mut Outbox, line: &str) {
    outbox.frame(FrameType::Text, &[line.as_bytes(), b"\n"]);
}

fn message_line(message: &Message) -> Bytes {
    let topic = one_line(message.topic.as_str()).replace(' ', "\\s");
    let text = String::from_utf8_lossy(&message.payload);
    format!("MSG {topic} {}\n", one_line(&text)).into()
}

/// Other protocols let line feeds into topics and payloads: here they would begin a new frame.
fn one_line(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

// What follows tests it, and that `docs/adding-a-protocol.md` shows exactly what stands above.

use protocols::connection::{Connected, Granted, SubscriptionId};

const PAGE: &str = include_str!("../../docs/adding-a-protocol.md");
const FILE: &str = include_str!("adding_a_protocol.rs");

#[test]
fn the_page_shows_this_file() {
    let shown = PAGE
        .split("```rust\n")
        .skip(1)
        .filter_map(|block| block.split_once("\n```\n"))
        .map(|(block, _)| block)
        .collect::<Vec<_>>()
        .join("\n\n");
    let (code, _) = FILE.split_once("\n// What follows tests it").unwrap();
    for (shown, code) in shown.lines().zip(code.lines()) {
        assert_eq!(
            shown, code,
            "docs/adding-a-protocol.md is not what compiles"
        );
    }
    assert_eq!(shown.lines().count(), code.lines().count());
}

struct Client {
    connection: Box<dyn Connection>,
    outbox: Outbox,
    commands: Vec<Command>,
    close: Option<CloseReason>,
}

impl Client {
    fn new() -> Self {
        Self {
            connection: Lines.open(Open {
                subprotocol: Some("lines.v1"),
                connection_id: "1".into(),
                limits: Arc::default(),
                now: Timestamp(0),
            }),
            outbox: Outbox::new(),
            commands: Vec::new(),
            close: None,
        }
    }

    fn logged_in() -> Self {
        let mut client = Self::new();
        client.send("HELLO me\n");
        client.reply(Reply::Connected(Connected::default()));
        assert_eq!(client.read(), "OK\n");
        client.commands.clear();
        client
    }

    fn send(&mut self, text: &str) -> usize {
        self.drive(|connection, out| connection.receive(text.as_bytes(), Timestamp(0), out))
    }

    fn reply(&mut self, reply: Reply) {
        self.drive(|connection, out| connection.reply(reply, Timestamp(0), out));
    }

    fn drive<T>(&mut self, act: impl FnOnce(&mut dyn Connection, &mut Output<'_>) -> T) -> T {
        let mut out = Output {
            outbox: &mut self.outbox,
            commands: &mut self.commands,
            close: &mut self.close,
        };
        act(&mut *self.connection, &mut out)
    }

    fn read(&mut self) -> String {
        let bytes: Vec<u8> = self.outbox.take().into_iter().flatten().collect();
        String::from_utf8(bytes).expect("UTF-8")
    }
}

#[test]
fn a_whole_conversation() {
    let mut client = Client::new();
    assert_eq!(client.send("HELLO m"), 0, "half a line waits for the rest");
    assert_eq!(
        client.send("HELLO me\r\nSUB a/+\n"),
        10,
        "the rest waits for the login"
    );
    assert!(matches!(&client.commands[..], [Command::Connect(connect)]
        if connect.client_id.as_deref() == Some("me")));
    client.reply(Reply::Connected(Connected::default()));
    assert_eq!(client.send("SUB a/+\nPUB a/b hello you\nPU"), 26);
    let [Command::Subscribe(subscribe), Command::Publish(publish)] = &client.commands[1..] else {
        panic!("{:?}", client.commands)
    };
    assert_eq!(subscribe.requests[0].as_ref().unwrap().key, "a/+");
    assert_eq!(publish.message.topic.as_str(), "a/b");
    assert_eq!(publish.message.payload, "hello you");
    let granted = Granted {
        id: SubscriptionId(1),
        qos: QoS::AtMostOnce,
    };
    client.reply(Reply::Subscribed {
        token: Token(0),
        results: smallvec![Ok(granted)],
    });
    client.reply(Reply::Published {
        token: Token(0),
        result: Ok(1),
    });
    assert_eq!(client.read(), "OK\nOK\nOK\n");
    client.send("BYE\n");
    assert_eq!(client.read(), "BYE normal\n");
    assert_eq!(client.close.map(|reason| reason.cause), Some(Cause::Normal));
}

#[test]
fn mistakes_are_told() {
    let mut client = Client::logged_in();
    client.send("SUB a/#/b\nPUB a/# x\nHELLO again\n");
    let told = client.read();
    assert_eq!(
        told.lines().filter(|line| line.starts_with("ERR ")).count(),
        3,
        "{told}"
    );
    assert!(client.commands.is_empty() && client.close.is_none());
    let mut client = Client::new();
    client.send("SUB a\n");
    assert_eq!(client.read(), "ERR HELLO comes first\nBYE protocol_error\n");
    let mut client = Client::new();
    client.send(&"x".repeat(64 * 1024));
    assert_eq!(client.read(), "ERR the line is too long\nBYE too_large\n");
    let mut client = Client::new();
    let deadline = client.connection.next_timeout().unwrap();
    client.drive(|connection, out| connection.handle_timeout(deadline, out));
    assert_eq!(client.read(), "ERR no HELLO in time\nBYE login_timeout\n");
}

#[test]
fn a_message_is_one_line_whatever_is_in_it() {
    let mut client = Client::logged_in();
    let topic = Topic::parse("a b\nMSG".into(), 64, 8).unwrap();
    let message = Message::new(topic, "x\ny\\\r".into(), QoS::AtMostOnce, false);
    let delivery = Delivery {
        message: &Arc::new(message),
        qos: QoS::AtMostOnce,
        retain: false,
        position: None,
        attempts: 0,
        matched: &[],
    };
    let written = client
        .connection
        .deliver(&delivery, Timestamp(0), &mut client.outbox);
    assert_eq!(written, Delivered::Written);
    assert_eq!(client.read(), "MSG a\\sb\\nMSG x\\ny\\\\\\r\n");
}
