//! What clients may do: questions before a command is carried out, and what a change of the rules
//! means for those who are there.
//!
//! A subscription stays with its session when it is not allowed any more; from then on each message
//! is looked at before it is delivered, so that what is forbidden stops at once, whether it has just
//! been published, waits in a queue or is retained. A member that may not have all messages of its
//! shared group leaves the group, as others could wait for what it must not take.

use std::sync::{Arc, LazyLock};

use protocols::connection::{Connect, Publish, Refusal, RefusalCode, SubscribeRequest};
use protocols::model::{Filter, Kind, Message, Timestamp, Topic};

use super::Hub;
use crate::auth::Identity;
use crate::auth::access::{Action, Permissions, Policy, Rights, Standing, Verdict};
use crate::session::{Batch, Session, SubRoute, Subscription};
use crate::store::Urgency;
use crate::telemetry::{Drop as DropReason, Untrusted, trace};

impl Hub {
    /// Puts other rules in force, for everyone who is there at once.
    pub fn set_policy(&self, policy: Policy, now: Timestamp) {
        self.access.set(policy);
        let sessions = self.sessions.all();
        let mut lost = 0;
        for session in &sessions {
            let mut batch = Batch::new(now);
            lost += self.follow_rules(session, &mut batch);
            self.commit_batch(&mut batch);
            batch.finish(&self.metrics);
        }
        tracing::info!(
            sessions = sessions.len(),
            subscriptions_revoked = lost,
            "other access rules are in force"
        );
    }

    /// A client has shown other credentials while it is connected: what it may do follows from
    /// them at once.
    ///
    /// # Errors
    ///
    /// If they bring rules that cannot be understood; then nothing has changed.
    pub fn set_identity(
        &self,
        session: &Arc<Session>,
        who: &Arc<Identity>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let protocol = session.rights.protocol();
        let standing = self
            .access
            .standing(Arc::clone(who), &session.client_id, protocol)?;
        self.stand(session, standing, batch);
        {
            let mut state = session.lock();
            state.identify(who);
            state.record(session, batch, Urgency::Later);
        }
        if session.rights.version() != Some(self.access.version()) {
            self.follow_rules(session, batch);
        }
        self.commit_batch(batch);
        Ok(())
    }

    /// Where a client stands that wants to come in: its will is a publish.
    pub(super) fn standing(
        &self,
        connect: &Connect,
        who: Identity,
        client_id: &str,
        protocol: &'static str,
    ) -> Result<Standing, Refusal> {
        let standing = self.access.standing(shared(who), client_id, protocol)?;
        if let (Some(will), Some(permissions)) = (&connect.will, &standing.permissions) {
            let topic = &will.message.topic;
            let action = Action::of_publish(topic);
            if !permissions.may(action, topic) {
                return Err(self.denied(protocol, client_id, action, topic.as_str()));
            }
        }
        Ok(standing)
    }

    /// Whether a client may publish this.
    #[inline]
    pub(super) fn check_publish(
        &self,
        session: &Session,
        message: &Message,
    ) -> Result<(), Refusal> {
        if !session.rights.is_restricted() {
            return Ok(());
        }
        let action = Action::of_publish(&message.topic);
        if session.rights.may(action, &message.topic) {
            return Ok(());
        }
        let protocol = session.rights.protocol();
        let topic = message.topic.as_str();
        Err(self.denied(protocol, &session.client_id, action, topic))
    }

    /// Whether a client may publish all that a transaction holds.
    pub(super) fn check_publishes<'a>(
        &self,
        session: &Session,
        publishes: impl Iterator<Item = &'a Publish>,
    ) -> Result<(), Refusal> {
        for publish in publishes {
            self.check_publish(session, &publish.message)?;
        }
        Ok(())
    }

    /// Whether a will may be published now. Of a session that came back after a restart and whose
    /// client has proved nothing only the user is known: its will was allowed at the login, so what
    /// counts is what denies.
    pub(super) fn check_will(&self, session: &Session, topic: &Topic) -> Result<(), Refusal> {
        let action = Action::of_publish(topic);
        let allowed = if session.rights.standing().is_some() {
            session.rights.may(action, topic)
        } else {
            let who = Identity {
                user: session.user().cloned(),
                ..Identity::default()
            };
            let known = self.access.permissions(&who, &session.client_id, "none");
            known.is_ok_and(|held| held.is_none_or(|held| !held.denies(action, topic)))
        };
        if allowed {
            return Ok(());
        }
        let protocol = session.rights.protocol();
        Err(self.denied(protocol, &session.client_id, action, topic.as_str()))
    }

    /// Whether a client may make a subscription. Returns what becomes of it and the version of
    /// the rules that say so.
    pub(super) fn check_subscribe(
        &self,
        session: &Session,
        request: &SubscribeRequest,
    ) -> Result<(Verdict, Option<u64>), Refusal> {
        let filter = request.filter.filter();
        let (verdict, version) = session.rights.subscription(filter);
        let is_shared = *request.filter.kind() != Kind::Plain;
        if verdict == Verdict::Refused || (is_shared && verdict != Verdict::Full) {
            let action = Action::of_filter(filter);
            let protocol = session.rights.protocol();
            let mut refusal = self.denied(protocol, &session.client_id, action, filter.as_str());
            if verdict == Verdict::Filtered {
                refusal.detail = "a shared subscription must not touch what is denied".into();
            }
            return Err(refusal);
        }
        Ok((verdict, version))
    }

    /// Sees to it that a subscription that was just made is known by the rules that are in force.
    pub(super) fn checked_subscribe(
        &self,
        session: &Arc<Session>,
        version: Option<u64>,
        batch: &mut Batch,
    ) {
        if version.is_some() && session.rights.version() != version {
            let _changing = session.rights.changing.lock();
            self.recheck(session, None, batch);
        }
    }

    /// Whether a client may be sent a retained message: by its own rights, and by those that the
    /// message's publisher has now.
    pub(super) fn may_read(&self, session: &Session, message: &Message) -> bool {
        if !self.access.may_still_publish(message) {
            self.metrics
                .access_denied(Action::of_publish(&message.topic).as_str(), "none");
            return false;
        }
        let rights = &session.rights;
        if !rights.is_restricted() {
            return true;
        }
        let topic = &message.topic;
        if rights.may_receive(topic) && rights.may(Action::Retained, topic) {
            return true;
        }
        self.metrics
            .access_denied(Action::Retained.as_str(), rights.protocol());
        false
    }

    /// Gives a session its standing, and looks over what it has. To be called before messages go
    /// to a new connection.
    pub(super) fn stand(&self, session: &Arc<Session>, standing: Standing, batch: &mut Batch) {
        let _changing = session.rights.changing.lock();
        let restricted = standing.permissions.is_some();
        let old = session.rights.set(standing);
        let old = old.as_ref().and_then(|old| old.permissions.as_deref());
        if restricted || old.is_some() {
            self.recheck(session, old, batch);
        }
    }

    /// Brings a session's permissions up to the rules in force. Returns how many of its
    /// subscriptions are not allowed any more.
    pub(super) fn follow_rules(&self, session: &Arc<Session>, batch: &mut Batch) -> usize {
        let _changing = session.rights.changing.lock();
        loop {
            // Little is known of a restored session whose client has proved nothing.
            let Some(old) = session.rights.standing() else {
                return 0;
            };
            let protocol = old.protocol;
            let version = self.access.version();
            let found = self
                .access
                .permissions(&old.who, &session.client_id, protocol);
            let permissions = found.unwrap_or_else(|refusal| {
                tracing::warn!(
                    client = %Untrusted(&session.client_id), reason = %refusal.detail,
                    "a client may do nothing any more"
                );
                Some(Arc::new(Permissions::nothing()))
            });
            let new = Standing {
                who: Arc::clone(&old.who),
                protocol,
                version,
                permissions,
            };
            session.rights.set(new);
            let lost = self.recheck(session, old.permissions.as_deref(), batch);
            if self.access.version() == version {
                return lost;
            }
        }
    }

    /// Looks over the subscriptions and queues of a session whose permissions have changed.
    fn recheck(
        &self,
        session: &Arc<Session>,
        old: Option<&Permissions>,
        batch: &mut Batch,
    ) -> usize {
        let rights = &session.rights;
        let mut lost = 0;
        let mut shared = Vec::new();
        let returned = {
            let mut state = session.lock();
            let mut guarded = false;
            for held in state.subscriptions.values() {
                let filter = held.request.filter.filter();
                let (verdict, _) = rights.subscription(filter);
                guarded |= verdict != Verdict::Full;
                if verdict == Verdict::Refused
                    && old.is_none_or(|old| old.subscription(filter) != Verdict::Refused)
                {
                    lost += 1;
                    self.revoked(session, rights, held);
                }
                if held.group.is_some() {
                    shared.push((held.clone(), verdict == Verdict::Full));
                }
            }
            state.guard(rights, guarded)
        };
        for (held, stays) in shared {
            self.regroup(session, &held, stays, batch);
        }
        self.give_back(session, returned, batch);
        lost
    }

    /// Takes a shared subscription into its group again, or out of it.
    fn regroup(&self, session: &Arc<Session>, held: &Subscription, stays: bool, batch: &mut Batch) {
        let Some(group) = &held.group else { return };
        if stays {
            let sub = SubRoute::new(held, session.lock().overlap);
            if let Err(refusal) = self.join(group, session, held, sub) {
                tracing::error!(reason = %refusal.detail, "a shared subscription is not served");
            }
            batch.thirst(group);
        } else {
            group.leave(session, held.id);
            self.drop_group_of(held, batch);
        }
    }

    fn revoked(&self, session: &Session, rights: &Rights, held: &Subscription) {
        let filter = held.request.filter.filter();
        let action = Action::of_filter(filter).as_str();
        self.metrics.subscriptions_revoked.inc();
        tracing::info!(
            client = %Untrusted(&session.client_id),
            protocol = rights.protocol(),
            filter = %Untrusted(filter.as_str()),
            action,
            "a subscription is not allowed any more: its deliveries have stopped"
        );
    }

    /// Counts a denial, writes it down for who looks for it, and puts it into words.
    fn denied(
        &self,
        protocol: &'static str,
        client_id: &str,
        action: Action,
        topic: &str,
    ) -> Refusal {
        self.metrics.access_denied(action.as_str(), protocol);
        if trace::is_on() {
            let any = usize::from(u16::MAX);
            trace::note(&trace::Event {
                what: "denied",
                client: client_id,
                topic: Topic::parse(topic.into(), any, any).ok().as_ref(),
                filter: Filter::parse(topic.into(), any, any)
                    .ok()
                    .filter(Filter::is_wild)
                    .as_ref(),
                more: serde_json::json!({"action": action.as_str(), "protocol": protocol}),
            });
        }
        tracing::debug!(
            client = %Untrusted(client_id), protocol, action = action.as_str(),
            topic = %Untrusted(topic), "denied"
        );
        let detail = match action {
            Action::Publish => "publishing to this topic is not allowed",
            Action::Broadcast => "publishing to everyone is not allowed",
            Action::Join => "joining this group is not allowed",
            Action::Subscribe => "subscribing to this filter is not allowed",
            Action::Retained | Action::Manage => "this is not allowed",
        };
        Refusal::new(RefusalCode::NotAuthorized, detail)
    }
}

/// The identity, which is one for all of whom nothing is known.
fn shared(who: Identity) -> Arc<Identity> {
    static NOBODY: LazyLock<Arc<Identity>> = LazyLock::new(Arc::default);
    if who == **NOBODY {
        Arc::clone(&NOBODY)
    } else {
        Arc::new(who)
    }
}

/// The reason for which messages are dropped that a client must not get.
pub(super) const FORBIDDEN: DropReason = DropReason::NotAuthorized;
