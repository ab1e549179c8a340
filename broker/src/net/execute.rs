//! Where a connection's link is, and carrying out its commands.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use protocols::connection::{
    Cause, CloseReason, Connect, Position, Refusal, RefusalCode, Settle, Token,
};
use protocols::{Command, Reply};
use smallvec::SmallVec;

use super::Net;
use super::login::{self, Gate};
use crate::auth::Identity;
use crate::hub::Hub;
use crate::session::{Batch, Link, PATIENCE, Session, WayBack};
use crate::store::Seq;

/// Finds a connection's [`Link`]: it is in its slot before the login, with the session after it,
/// and in its slot again once the session has let it go.
#[derive(Debug)]
pub(super) struct Home {
    /// The session, once the client was let in.
    session: Option<Arc<Session>>,
    /// The link's number.
    link: u64,
    slot: WayBack,
    /// Answers that wait for the disk, if any do.
    held: Option<Box<Held>>,
    /// What is kept until the login, or while something is asked about credentials.
    pub(super) gate: Gate,
}

#[derive(Debug, Default)]
struct Held {
    /// Each with the unit that must be on disk, in order.
    answers: VecDeque<(Seq, Reply)>,
    /// Up to which unit the task has asked to be woken.
    asked_for: Seq,
}

/// What a connection's task finds to write.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// The bytes.
    pub(super) pieces: VecDeque<Bytes>,
    /// Whether the session may have something new to send.
    pub(super) nudged: bool,
    /// Nothing may be written before this unit is on disk.
    pub(super) cork: Option<Seq>,
}

impl Home {
    /// The home of a link that has just been made.
    pub(super) fn new(link: Link) -> Self {
        let (id, slot) = (link.id, Arc::clone(&link.way_back));
        *slot.lock() = Some(Box::new(link));
        Self {
            session: None,
            link: id,
            slot,
            held: None,
            gate: Gate::default(),
        }
    }

    /// Runs a step on the link, wherever it is.
    pub(super) fn with<R>(&self, step: impl FnOnce(&mut Link) -> R) -> R {
        if let Some(session) = &self.session {
            let mut state = session.lock();
            let held = state.link.as_mut();
            if let Some(held) = held.filter(|held| held.id == self.link) {
                return step(held);
            }
        }
        let mut slot = self.slot.lock();
        // A session puts the link here before it releases the lock under which it let go.
        let link = slot
            .as_mut()
            .expect("a link is with its session or in its slot");
        step(link)
    }

    /// The link's number.
    pub(super) fn number(&self) -> u64 {
        self.link
    }

    /// The link, to be given to a session; `None` if the connection is over.
    pub(super) fn take_link(&self) -> Option<Box<Link>> {
        self.slot.lock().take_if(|link| link.end.is_none())
    }

    /// Lets the client in, for a connection whose login is none of the protocol's.
    pub(super) fn let_in(
        &mut self,
        hub: &Hub,
        (connect, identity): (Connect, Identity),
        batch: &mut Batch,
    ) -> Result<Arc<Session>, Refusal> {
        let link = self.slot.lock().take();
        let link = link.expect("nobody else takes the link before the login");
        let session = hub.connect(connect, identity, link, &mut Vec::new(), batch)?;
        self.session = Some(Arc::clone(&session));
        Ok(session)
    }

    /// The link's number and slot, for those who watch over logins.
    pub(super) fn slot(&self) -> (u64, &WayBack) {
        (self.link, &self.slot)
    }

    /// Whether the session still holds the link.
    fn holds_session(&self) -> bool {
        let held = |session: &Arc<Session>| session.with_link(self.link, |_| ()).is_some();
        self.session.as_ref().is_some_and(held)
    }

    /// The session, once the client was let in.
    pub(super) fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// Takes what waits in the outbox; the client has read all before, so it is not slow.
    pub(super) fn take_outgoing(&self, hub: &Hub) -> Outgoing {
        self.with(|link| {
            link.sleeper = None;
            link.stalled = false;
            link.patience = PATIENCE;
            let nudged = std::mem::take(&mut link.nudged);
            if link.cork != 0 {
                if !hub.is_durable(link.cork) {
                    return Outgoing {
                        nudged,
                        cork: Some(link.cork),
                        ..Outgoing::default()
                    };
                }
                link.cork = 0;
            }
            let pieces = if link.outbox.is_empty() {
                VecDeque::new()
            } else {
                link.handed_over();
                link.outbox.take()
            };
            Outgoing {
                pieces,
                nudged,
                cork: None,
            }
        })
    }

    /// Whether answers wait for the disk, and how many.
    pub(super) fn held(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.answers.len())
    }

    /// Sees to it that the task is woken when the first of the answers that wait may be given.
    pub(super) fn wake_for_answers(&mut self, hub: &Hub, waker: &Waker) {
        let (Some(held), Some(store)) = (&mut self.held, hub.store()) else {
            return;
        };
        let first = held.answers.front().map_or(0, |(seq, _)| *seq);
        if held.asked_for < first {
            held.asked_for = first;
            store.wake_at(first, waker);
        }
    }

    /// Whether the connection belongs to no session, or its session has let it go: there is nothing
    /// to leave then.
    pub(super) fn has_left(&self, hub: &Hub) -> bool {
        let is_back = self.session.is_none() || self.slot.lock().is_some();
        if is_back && self.session.is_some() {
            hub.forget(self.link);
        }
        is_back
    }

    /// The connection is over: the session, if it still holds the link, lets it go.
    pub(super) fn leave(
        &self,
        hub: &Hub,
        say_will: bool,
        expiry_secs: Option<u32>,
        batch: &mut Batch,
    ) {
        if let Some(session) = &self.session {
            hub.disconnect(session, self.link, say_will, expiry_secs, batch);
        }
    }
}

/// One run over a batch's commands.
pub(super) struct Step<'a> {
    /// The shared parts.
    pub(super) net: &'a Net,
    /// The batch.
    pub(super) batch: &'a mut Batch,
}

/// Answers for which a thread keeps room from one batch to the next.
const REPLIES_KEPT: usize = 4096;

thread_local! {
    static REPLIES: Cell<Replies> = const { Cell::new(Replies::new()) };
}

/// Answers that were not given yet, each with the unit that must be on disk first.
pub(super) type Replies = Vec<(Seq, Reply)>;

impl Step<'_> {
    /// Gives the answers whose time has come.
    pub(super) fn release(mut self, home: &mut Home) {
        let session = home.session.clone();
        let _turn = session.as_ref().map(|session| session.turn.lock());
        self.answer(home, &mut Replies::new());
    }

    /// Carries commands out in their order. Answers of publishes are given together, before the
    /// next command of another kind and at the end.
    pub(super) fn run(&mut self, home: &mut Home, commands: &mut Vec<Command>) {
        let mut replies = REPLIES.take();
        let session = home.session.clone();
        let _turn = session.as_ref().map(|session| session.turn.lock());
        if session.is_some() && !home.holds_session() {
            // Another connection has the session; what this one asks for would come behind it.
            commands.clear();
        }
        // Acknowledgements come in rows: they are carried out together.
        let mut done: SmallVec<[Position; 16]> = SmallVec::new();
        let mut commands = commands.drain(..);
        while !home.gate.is_waiting()
            && let Some(command) = commands.next()
        {
            if let (Some(session), Some(position)) = (&session, unasked(&command)) {
                done.push(position);
                if done.len() == done.inline_size() {
                    self.settle_all(session, &mut done);
                }
                continue;
            }
            if let Some(session) = &session {
                self.settle_all(session, &mut done);
                self.one(home, session, command, &mut replies);
                continue;
            }
            match (home.session.clone(), command) {
                (Some(session), command) => self.one(home, &session, command, &mut replies),
                (None, Command::Refused { reason }) => self.refused(home, reason),
                (None, Command::Connect(connect)) => self.log_in(home, *connect, &mut replies),
                // Refused, or a protocol that asks before it logs in: nobody would answer.
                (None, _) => tracing::debug!("a command without a session"),
            }
        }
        if let Some(session) = &session {
            self.settle_all(session, &mut done);
        }
        home.gate.put_off(commands);
        self.answer(home, &mut replies);
        replies.clear();
        if replies.capacity() <= REPLIES_KEPT {
            REPLIES.set(replies);
        }
    }

    fn settle_all(&mut self, session: &Arc<Session>, done: &mut SmallVec<[Position; 16]>) {
        if !done.is_empty() {
            self.net.hub.settle_all(session, done, self.batch);
            done.clear();
        }
    }

    fn one(
        &mut self,
        home: &mut Home,
        session: &Arc<Session>,
        command: Command,
        replies: &mut Replies,
    ) {
        let hub = &self.net.hub;
        // What was promised before concerns other answers.
        self.batch.take_promised();
        match command {
            Command::Publish(publish) if login::is_refresh(&publish.message) => {
                self.batch.count_received(publish.message.qos);
                self.refresh_by(home, session, &publish, replies);
            }
            Command::Refresh { token, credentials } => {
                self.refresh(home, session, (token, credentials), replies);
            }
            Command::Publish(publish) => {
                self.batch.count_received(publish.message.qos);
                let token = publish.token;
                let result = hub.publish_for(session, publish, self.batch);
                match (token, result) {
                    (Some(token), result) => {
                        self.promise(replies, Reply::Published { token, result });
                    }
                    (None, Ok(_)) => {}
                    (None, Err(refusal)) => {
                        self.refused(home, refusal.code.as_str());
                        tracing::debug!(
                            client = %session.client_id, reason = %refusal.detail,
                            "a message was refused"
                        );
                    }
                }
            }
            Command::Release { packet_id } => {
                let found = hub.release(session, packet_id, self.batch);
                self.promise(replies, Reply::Released { packet_id, found });
            }
            Command::Settle { token, settle } => {
                let asked = token.is_some() || matches!(settle, Settle::Received(_));
                let found = hub.settle(session, settle, asked, self.batch);
                if let Some(reply) = settled(token, settle, found) {
                    self.promise(replies, reply);
                }
            }
            Command::Barrier { token } => self.promise(replies, Reply::Passed { token }),
            Command::Transaction { token, commands } => {
                let result = hub.commit(session, commands, self.batch);
                self.promise(replies, Reply::Committed { token, result });
            }
            // Of a connection whose session was taken over meanwhile; its client is gone, and the
            // session's subscriptions are another's.
            Command::Subscribe(_) | Command::Unsubscribe { .. } if !home.holds_session() => {}
            Command::Subscribe(subscribe) => {
                self.answer(home, replies);
                let token = subscribe.token;
                let results = hub.subscribe(session, *subscribe, self.batch);
                self.reply(home, Reply::Subscribed { token, results });
                hub.pump(session, self.batch);
            }
            Command::Unsubscribe { token, keys } => {
                self.answer(home, replies);
                let existed = hub.unsubscribe(session, &keys, self.batch);
                self.reply(home, Reply::Unsubscribed { token, existed });
            }
            Command::Disconnect {
                publish_will,
                session_expiry_secs,
            } => {
                self.answer(home, replies);
                home.leave(hub, publish_will, session_expiry_secs, self.batch);
            }
            Command::Refused { reason } => self.refused(home, reason),
            Command::Connect(_) => {
                let reason = CloseReason::new(Cause::ProtocolError, "a second login");
                home.with(|link| link.close(reason));
            }
        }
    }

    /// Adds an answer behind the others. It waits for what it promises.
    pub(super) fn promise(&mut self, replies: &mut Replies, reply: Reply) {
        replies.push((self.batch.take_promised(), reply));
    }

    pub(super) fn refused(&self, home: &Home, reason: &'static str) {
        let protocol = home.with(|link| link.metrics.name);
        self.net.hub.metrics.request_refused(protocol, reason);
    }

    /// The client is in: goes on with what its connection asks for because of that.
    pub(super) fn enter(
        &mut self,
        home: &mut Home,
        session: &Arc<Session>,
        more: Vec<Command>,
        replies: &mut Replies,
    ) {
        home.session = Some(Arc::clone(session));
        let _turn = session.turn.lock();
        if home.holds_session() {
            self.further(home, more, replies);
        }
    }

    /// Gives answers, as far as what they promise is on disk, and those to what the connection
    /// asks for because of them. The others are held, and all that come behind them.
    pub(super) fn answer(&mut self, home: &mut Home, replies: &mut Replies) {
        if home.held.is_none() && replies.iter().all(|(seq, _)| *seq == 0) {
            // Nothing waits for the disk: the usual case.
            let mut more = Replies::new();
            self.answer_once(home, replies.drain(..).map(|(_, reply)| reply), &mut more);
            if more.is_empty() {
                return;
            }
            *replies = more;
        }
        loop {
            let ready = self.take_ready(home, replies);
            if ready.is_empty() {
                return;
            }
            let ready = ready.into_iter().map(|(_, reply)| reply);
            self.answer_once(home, ready, replies);
        }
    }

    /// Takes what may be said now; what may not is held with `replies` behind it.
    fn take_ready(&self, home: &mut Home, replies: &mut Replies) -> Replies {
        let hub = &self.net.hub;
        let is_ready = |(seq, _): &&(Seq, Reply)| hub.is_durable(*seq);
        let Some(held) = &mut home.held else {
            let ready = replies.iter().take_while(is_ready).count();
            if ready < replies.len() {
                home.held = Some(Box::new(Held {
                    answers: replies.drain(ready..).collect(),
                    asked_for: 0,
                }));
            }
            return std::mem::take(replies);
        };
        held.answers.extend(replies.drain(..));
        let ready = held.answers.iter().take_while(is_ready).count();
        let taken = held.answers.drain(..ready).collect();
        if held.answers.is_empty() {
            // Keeps nothing while idle.
            home.held = None;
        }
        taken
    }

    fn answer_once(
        &mut self,
        home: &mut Home,
        ready: impl Iterator<Item = Reply>,
        replies: &mut Replies,
    ) {
        let now = self.batch.now;
        let mut more = Vec::new();
        let limit = self.net.hub.outbox_hard_bytes();
        home.with(|link| {
            let name = link.metrics.name;
            link.drive(&mut more, |connection, out| {
                for reply in ready {
                    self.net.hub.metrics.replied(name, &reply);
                    // Behind the last words that a fault has called for, nothing may be written.
                    let close = out.close.as_ref();
                    if close.is_none_or(|end| end.cause == Cause::Normal) {
                        connection.reply(reply, now, out);
                    }
                }
            });
            link.bound(limit);
        });
        self.further(home, more, replies);
    }

    /// Carries out what a connection asks for because of an answer: a good-bye that waited for
    /// it, a first request that waited for the login.
    fn further(&mut self, home: &mut Home, commands: Vec<Command>, replies: &mut Replies) {
        let Some(session) = home.session.clone() else {
            return;
        };
        let mut commands = commands.into_iter();
        while !home.gate.is_waiting()
            && let Some(command) = commands.next()
        {
            self.one(home, &session, command, replies);
        }
        home.gate.put_off(commands);
    }

    fn reply(&mut self, home: &mut Home, reply: Reply) {
        let promised = self.batch.take_promised();
        self.answer(home, &mut vec![(promised, reply)]);
    }
}

/// The message that a client is done with, if nobody waits for the answer.
fn unasked(command: &Command) -> Option<Position> {
    match command {
        Command::Settle {
            token: None,
            settle: Settle::Done(position),
        } => Some(*position),
        _ => None,
    }
}

fn settled(token: Option<Token>, settle: Settle, found: bool) -> Option<Reply> {
    if let Settle::Received(position) = settle {
        return Some(Reply::Received { position, found });
    }
    let token = token?;
    let cumulative = matches!(
        settle,
        Settle::DoneThrough(..) | Settle::RejectedThrough(..)
    );
    let result = if found || cumulative {
        Ok(())
    } else {
        Err(Refusal::new(
            RefusalCode::Unknown,
            "no such message is waiting for an acknowledgement",
        ))
    };
    Some(Reply::Settled { token, result })
}
