//! Logins and renewals of credentials: they may have to wait for a password's hash, a key set or
//! an HTTP service.
//!
//! Until the login a connection keeps what came with it, the [`Door`]; while it waits, what its
//! client asked for. Afterwards it keeps nothing. While it waits nothing is read from its client,
//! and what was read already stays where it is.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use protocols::connection::{Connect, Publish, Refusal, RefusalCode, Secret, Token, topics};
use protocols::model::{Message, Timestamp};
use protocols::{Command, Reply};

use super::execute::{Home, Replies, Step};
use crate::auth::{Answer, Asking, Credentials, Door, Identity};
use crate::session::Session;
use crate::telemetry::Untrusted;

/// What a connection keeps until its login, or while it waits. Most have none.
#[derive(Default)]
pub(super) struct Gate(Option<Box<State>>);

enum State {
    /// Nobody has logged in.
    Open(Door),
    /// Something is asked.
    Waiting {
        asking: Asking,
        about: About,
        /// What the client has asked for behind it.
        rest: Vec<Command>,
    },
}

/// What is asked.
enum About {
    Login(Box<Connect>),
    Refresh(Asked),
}

/// How a client asked to go on with new credentials.
#[derive(Clone, Copy)]
enum Asked {
    Refresh(Token),
    Publish {
        token: Option<Token>,
        packet_id: Option<u16>,
    },
}

/// What came of waiting.
pub(super) struct Answered {
    answer: Result<Identity, Refusal>,
    about: About,
    rest: Vec<Command>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.as_deref() {
            None => "none",
            Some(State::Open(_)) => "open",
            Some(State::Waiting { .. }) => "waiting",
        })
    }
}

impl Gate {
    /// Of a connection that has just come.
    pub(super) fn new(door: Door) -> Self {
        Self(Some(Box::new(State::Open(door))))
    }

    /// Whether something is asked.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.0.as_deref(), Some(State::Waiting { .. }))
    }

    /// Puts commands behind those that wait.
    pub(super) fn put_off(&mut self, commands: impl IntoIterator<Item = Command>) {
        if let Some(State::Waiting { rest, .. }) = self.0.as_deref_mut() {
            rest.extend(commands);
        }
    }

    /// Looks for the answer; `None` if nothing is asked.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answered>> {
        let Some(State::Waiting { asking, .. }) = self.0.as_deref_mut() else {
            return Poll::Ready(None);
        };
        let Poll::Ready(answer) = Pin::as_mut(asking).poll(cx) else {
            return Poll::Pending;
        };
        let Some(State::Waiting { about, rest, .. }) = self.0.take().map(|state| *state) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Answered {
            answer,
            about,
            rest,
        }))
    }

    fn take_door(&mut self) -> Door {
        match self.0.take().map(|state| *state) {
            Some(State::Open(door)) => door,
            _ => Door::default(),
        }
    }

    fn wait(&mut self, asking: Asking, about: About) {
        self.0 = Some(Box::new(State::Waiting {
            asking,
            about,
            rest: Vec::new(),
        }));
    }
}

/// Whether a message is for the broker itself: a new token.
pub(super) fn is_refresh(message: &Message) -> bool {
    message.topic.as_str() == topics::AUTH_REFRESH
}

impl Step<'_> {
    /// Lets a client in, or finds out first who it is.
    pub(super) fn log_in(&mut self, home: &mut Home, connect: Connect, replies: &mut Replies) {
        let mut door = home.gate.take_door();
        if let Some(identity) = door.identity.take() {
            return self.admit(home, connect, Ok(*identity), replies);
        }
        let credentials = Credentials::of_login(&connect, &door);
        match self.net.auth.load().log_in(credentials) {
            Answer::Now(answer) => self.admit(home, connect, answer, replies),
            Answer::Later(asking) => home.gate.wait(asking, About::Login(Box::new(connect))),
        }
    }

    /// Goes on where it had to wait.
    pub(super) fn go_on(mut self, home: &mut Home, answered: Answered) {
        let Answered {
            answer,
            about,
            mut rest,
        } = answered;
        let mut replies = Replies::new();
        match about {
            About::Login(connect) => self.admit(home, *connect, answer, &mut replies),
            About::Refresh(asked) => {
                if let Some(session) = home.session().map(Arc::clone) {
                    self.refreshed(home, &session, asked, answer, &mut replies);
                }
            }
        }
        self.answer(home, &mut replies);
        if !rest.is_empty() {
            self.run(home, &mut rest);
        }
    }

    fn admit(
        &mut self,
        home: &mut Home,
        mut connect: Connect,
        answer: Result<Identity, Refusal>,
        replies: &mut Replies,
    ) {
        let Some(mut link) = home.take_link() else {
            return;
        };
        connect.password = None;
        connect.token = None;
        let protocol = connect.protocol;
        let hub = &self.net.hub;
        let auth = self.net.auth.load();
        let identity = match answer {
            Ok(identity) => identity,
            Err(refusal) => {
                if let (RefusalCode::BadCredentials, Some(ip)) = (refusal.code, link.origin.ip()) {
                    hub.guard.failed_login(ip, self.batch.now);
                }
                hub.refuse(link, &refusal, self.batch);
                self.net.admission.end_login(home.number());
                return;
            }
        };
        link.due = first_due(auth.warns_at(&identity), &identity);
        let mut more = Vec::new();
        let admitted = hub.connect(connect, identity.clone(), link, &mut more, self.batch);
        self.net.admission.end_login(home.number());
        let Ok(session) = admitted else {
            return;
        };
        tracing::info!(
            connection = home.number(),
            protocol = %protocol,
            client = %Untrusted(&session.client_id),
            user = %Untrusted(identity.user.as_deref().unwrap_or("-")),
            by = identity.method.as_str(),
            "connection opened"
        );
        if auth.is_revoked(&identity, &session.client_id) {
            // It was revoked after it was looked at, and before the session could be seen.
            hub.end_revoked(&session, self.batch);
        }
        if let Some(functions) = self.net.functions.get() {
            functions.arrived(&session, home.number());
        }
        self.enter(home, &session, more, replies);
    }

    /// A client brings new credentials.
    pub(super) fn refresh(
        &mut self,
        home: &mut Home,
        session: &Arc<Session>,
        (token, credentials): (Token, Secret),
        replies: &mut Replies,
    ) {
        self.ask_again(home, session, credentials, Asked::Refresh(token), replies);
    }

    /// The same by a message on [`topics::AUTH_REFRESH`]: its payload is the token.
    pub(super) fn refresh_by(
        &mut self,
        home: &mut Home,
        session: &Arc<Session>,
        publish: &Publish,
        replies: &mut Replies,
    ) {
        let asked = Asked::Publish {
            token: publish.token,
            packet_id: publish.exactly_once,
        };
        let credentials = Secret(publish.message.payload.clone());
        self.ask_again(home, session, credentials, asked, replies);
    }

    fn ask_again(
        &mut self,
        home: &mut Home,
        session: &Arc<Session>,
        credentials: Secret,
        asked: Asked,
        replies: &mut Replies,
    ) {
        let auth = self.net.auth.load();
        if !auth.is_on() {
            let detail = "this broker knows no tokens (auth.methods)";
            let refusal = Refusal::new(RefusalCode::Implementation, detail);
            return self.refreshed(home, session, asked, Err(refusal), replies);
        }
        let credentials = Credentials::of_refresh(credentials, session.client_id.clone());
        match auth.refresh(credentials, session.user().cloned()) {
            Answer::Now(answer) => self.refreshed(home, session, asked, answer, replies),
            Answer::Later(asking) => home.gate.wait(asking, About::Refresh(asked)),
        }
    }

    fn refreshed(
        &mut self,
        home: &Home,
        session: &Arc<Session>,
        asked: Asked,
        answer: Result<Identity, Refusal>,
        replies: &mut Replies,
    ) {
        let auth = self.net.auth.load();
        let hub = &self.net.hub;
        let identified = answer.and_then(|identity| {
            let who = Arc::new(identity);
            hub.set_identity(session, &who, self.batch).map(|()| who)
        });
        let result = identified.map(|who| {
            let end = who.expires_at;
            let due = first_due(auth.warns_at(&who), &who);
            let is_revoked = auth.is_revoked(&who, &session.client_id);
            session.lock().renew(home.number(), &who, due);
            if is_revoked {
                hub.end_revoked(session, self.batch);
            }
            end
        });
        let reply = match asked {
            Asked::Refresh(token) => Reply::Refreshed { token, result },
            Asked::Publish { token, packet_id } => {
                let result = result.map(|_| 1);
                if let (Some(packet_id), Ok(_)) = (packet_id, &result) {
                    // Its PUBREL will ask for it.
                    session.lock().accepted.insert(packet_id);
                }
                let Some(token) = token else {
                    if let Err(refusal) = result {
                        self.refused(home, refusal.code.as_str());
                    }
                    return;
                };
                Reply::Published { token, result }
            }
        };
        self.promise(replies, reply);
    }
}

/// When a connection has to look at its credentials first: to warn, or to end.
pub(super) fn first_due(warning: Option<Timestamp>, identity: &Identity) -> Timestamp {
    warning.or(identity.expires_at).unwrap_or(Timestamp::NEVER)
}
