//! How clients come: logins, new sessions and those that are taken over.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytestring::ByteString;
use protocols::connection::{
    Cause, CloseReason, Connect, Connected, Lane, Refusal, RefusalCode, RetainHandling, Subscribe,
    SubscribeRequest, Token, topics,
};
use protocols::model::{Message, QoS, SubscriptionFilter, Timestamp};
use protocols::{Command, Reply};

use super::{Hub, stripe};
use crate::auth::Identity;
use crate::auth::access::Standing;
use crate::guard::Place;
use crate::session::{Batch, Link, Session};
use crate::store::Urgency;
use crate::telemetry::{Untrusted, trace};

/// A client that is let in.
struct Admitted {
    client_id: ByteString,
    assigned: bool,
    standing: Standing,
    /// Of a new session among its user's.
    place: Option<Place>,
}

impl Hub {
    /// Lets a client in and hands its link to the session; or refuses and hands the link back
    /// with the refusal written. `commands` gets what the connection asks for when it learns that
    /// it was let in. `identity` is who it turned out to be.
    pub fn connect(
        &self,
        connect: Connect,
        identity: Identity,
        mut link: Box<Link>,
        commands: &mut Vec<Command>,
        batch: &mut Batch,
    ) -> Result<Arc<Session>, Refusal> {
        let (client_id, assigned) = match &connect.client_id {
            Some(id) => (id.clone(), false),
            None => (self.new_client_id(), true),
        };
        let admitted = self
            .admit(&connect)
            .and_then(|()| self.take_place(&connect, identity.user.as_ref(), &mut link, batch.now))
            .and_then(|()| self.standing(&connect, identity, &client_id, link.metrics.name));
        let standing = match admitted {
            Ok(standing) => standing,
            Err(refusal) => {
                self.refuse(link, &refusal, batch);
                return Err(refusal);
            }
        };
        // One login at a time for a client identifier: of fifty that come at once, each takes
        // over from the one before, and the last one stays.
        loop {
            let known = self.session(&client_id);
            // What the old connection is carrying out comes first; it takes the same locks in the
            // same order.
            let _turn = known.as_ref().map(|old| old.turn.lock());
            let _login = self.logins[stripe(&client_id)].lock();
            let now = self.session(&client_id);
            if known.as_ref().map(Arc::as_ptr) == now.as_ref().map(Arc::as_ptr) {
                if let Some(refusal) = now.as_ref().and_then(|old| self.guard(old, &standing.who)) {
                    self.refuse(link, &refusal, batch);
                    return Err(refusal);
                }
                let place = match self.session_place(&connect, &standing.who, now.as_deref()) {
                    Ok(place) => place,
                    Err(refusal) => {
                        self.refuse(link, &refusal, batch);
                        return Err(refusal);
                    }
                };
                let old = now.and_then(|old| self.take_over(&old, &connect, batch));
                let admitted = Admitted {
                    client_id,
                    assigned,
                    standing,
                    place,
                };
                return Ok(self.let_in(old, admitted, connect, link, commands, batch));
            }
        }
    }

    fn let_in(
        &self,
        old: Option<Arc<Session>>,
        admitted: Admitted,
        connect: Connect,
        link: Box<Link>,
        commands: &mut Vec<Command>,
        batch: &mut Batch,
    ) -> Arc<Session> {
        let Admitted {
            client_id,
            assigned,
            standing,
            place,
        } = admitted;
        let session_present = old.is_some();
        let user = standing.who.user.clone();
        let session = old.unwrap_or_else(|| self.new_session(client_id, user, &connect));
        self.keep_place(&session, place);
        session.lock().identify(&standing.who);
        // Before its connection is there: what waits for it may not be for it any more.
        self.stand(&session, standing, batch);
        let connected = Connected {
            client_id: session.client_id.clone(),
            assigned,
            session_present,
            user: session.user().cloned(),
            session: session.number,
        };
        if trace::is_on() {
            let more = serde_json::json!({
                "protocol": connect.protocol,
                "user": session.user_name(),
                "sessionPresent": session_present,
            });
            trace::client("connected", &session.client_id, more);
        }
        self.attach(&session, connect, connected, link, commands, batch);
        if session.rights.version() != Some(self.access.version()) {
            // The rules have changed since it was looked at, and the session was not there then.
            self.follow_rules(&session, batch);
        }
        session
    }

    /// Does not let a client in: writes the refusal and hands the link back.
    pub fn refuse(&self, mut link: Box<Link>, refusal: &Refusal, batch: &Batch) {
        self.metrics.login_refused(refusal.code);
        link.drive(&mut Vec::new(), |connection, out| {
            connection.reply(Reply::Refused(refusal.clone()), batch.now, out);
            out.end(refusal.code.login_cause(), refusal.detail.clone());
        });
        link.hand_back();
    }

    /// A session belongs to its user: nobody else takes it over, reads what waits in it, or ends
    /// it, once clients have to prove who they are.
    fn guard(&self, old: &Session, identity: &Identity) -> Option<Refusal> {
        if !self.owned.load(Ordering::Acquire) || old.user() == identity.user.as_ref() {
            return None;
        }
        tracing::warn!(
            client = %Untrusted(&old.client_id),
            user = %Untrusted(identity.user.as_deref().unwrap_or("-")),
            "a client asks for another user's session"
        );
        let detail = "this client identifier is another user's";
        Some(Refusal::new(RefusalCode::NotAuthorized, detail))
    }

    /// Whether there is room for a client.
    fn admit(&self, connect: &Connect) -> Result<(), Refusal> {
        if self.is_stopping() {
            return Err(Refusal::new(
                RefusalCode::Unavailable,
                "the broker is stopping",
            ));
        }
        self.guard.memory.check()?;
        let known = connect
            .client_id
            .as_ref()
            .is_some_and(|id| self.sessions.contains(id));
        if !known && self.sessions.len() >= self.bounds.load().sessions {
            self.metrics.quota_refused("sessions");
            return Err(Refusal::new(
                RefusalCode::Quota,
                "the broker has no room for a session",
            ));
        }
        Ok(())
    }

    /// Asks the guard whether this client may log in, and gives its connection a place among those
    /// of its user.
    fn take_place(
        &self,
        connect: &Connect,
        user: Option<&ByteString>,
        link: &mut Link,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if let Some(will) = &connect.will {
            self.guard.check_will(wire_size(&will.message))?;
        }
        let client_id = connect.client_id.as_ref();
        // A client that takes over from itself needs no second place.
        let replaces = client_id
            .and_then(|id| self.session(id))
            .is_some_and(|old| {
                let state = old.lock();
                let place = state.link.as_ref().and_then(|old| old.place.as_ref());
                place.is_some_and(|place| Some(place.user()) == user)
            });
        link.place = self
            .guard
            .log_in(client_id, user, replaces, now)?
            .map(Box::new);
        Ok(())
    }

    /// Takes an older session over, or ends it and returns `None`.
    fn take_over(
        &self,
        old: &Arc<Session>,
        connect: &Connect,
        batch: &mut Batch,
    ) -> Option<Arc<Session>> {
        let (will, ends) = {
            let mut state = old.lock();
            let reason = CloseReason::new(
                Cause::TakenOver,
                "another connection uses this client identifier",
            );
            state.dismiss(reason);
            // With the session it depends on the expiry whether it was to end with its
            // connection; a new one with clean start ends it in any case.
            let ends = connect.clean_start || state.expiry_secs == 0 || state.ended;
            state.set_ends_at(Timestamp::NEVER);
            state.set_will_at(Timestamp::NEVER);
            // A will that waits is not said if the client is back in time [MQTT-3.1.3-9].
            let said = state
                .take_will()
                .filter(|will| ends || will.delay_secs == 0);
            (said, ends)
        };
        if ends {
            self.end(old, batch);
        }
        self.publish_will(old, will, batch);
        (!ends).then(|| Arc::clone(old))
    }

    fn new_session(
        &self,
        client_id: ByteString,
        user: Option<ByteString>,
        connect: &Connect,
    ) -> Arc<Session> {
        let bounds = self.bounds.load();
        let store = self.store.as_ref();
        let store = store.filter(|_| connect.session_expiry_secs > 0);
        let session = Arc::new(Session::new(
            self.next_number(),
            client_id,
            user,
            match store {
                Some(_) => Arc::clone(&bounds.stored_session),
                None => Arc::clone(&bounds.session),
            },
            store.map(Arc::clone),
        ));
        self.sessions.insert(&session);
        session
    }

    fn attach(
        &self,
        session: &Arc<Session>,
        connect: Connect,
        connected: Connected,
        mut link: Box<Link>,
        commands: &mut Vec<Command>,
        batch: &mut Batch,
    ) {
        {
            let mut state = session.lock();
            state.expiry_secs = connect.session_expiry_secs;
            state.overlap = connect.overlap;
            state.set_will(connect.will);
            state.set_window(connect.in_flight, session.is_stored());
            link.origin.protocol = connect.protocol;
            self.connections.insert(link.id, Arc::clone(session));
            state.attach(link);
            state.record(session, batch, Urgency::Now);
            let seq = self.seal(batch);
            let Some(link) = &mut state.link else { return };
            link.cork = seq.max(batch.take_promised());
            link.drive(commands, |connection, out| {
                connection.reply(Reply::Connected(connected), batch.now, out);
            });
        }
        if connect.auto_subscribe {
            self.subscribe(session, auto_subscriptions(session), batch);
        }
        self.pump(session, batch);
    }

    fn new_client_id(&self) -> ByteString {
        let number = self.next_number();
        let random = foldhash::fast::RandomState::default()
            .build_hasher()
            .finish();
        format!("polycast-{random:016x}-{number}").into()
    }
}

/// Bytes of topic, payload and properties.
fn wire_size(message: &Message) -> usize {
    let properties = message.properties.as_ref();
    let properties = properties.map_or(0, |held| held.size() - size_of_val(&**held));
    message.topic.as_str().len() + message.payload.len() + properties
}

/// What every JSON client is subscribed to: everyone's topic, and its user's.
fn auto_subscriptions(session: &Session) -> Subscribe {
    let user = session
        .user()
        .filter(|user| !user.contains(['+', '#', '/']));
    let user = user.map(|user| format!("{}{user}/#", topics::USER));
    let filters = [Some(topics::BROADCAST.to_owned()), user]
        .into_iter()
        .flatten();
    let requests = filters.filter_map(|filter| {
        let any = usize::from(u16::MAX);
        let filter = SubscriptionFilter::parse(filter.into(), any, any).ok()?;
        Some(Ok(auto_subscription(filter)))
    });
    Subscribe {
        token: Token::default(),
        requests: requests.collect(),
    }
}

fn auto_subscription(filter: SubscriptionFilter) -> SubscribeRequest {
    SubscribeRequest {
        // Not what a client can name: its own subscription to the same filter stands beside it.
        key: format!("$auto/{}", filter.as_str()).into(),
        filter,
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::DoNotSend,
        identifier: None,
        lane: Lane::Session,
        auto_settle: false,
        durable: true,
    }
}
