//! What one user may have: sessions that outlive their connections, and retained messages.

use super::*;
use crate::auth::{Method, stored};
use crate::router::Users;
use crate::session::Restart;
use crate::store::Store;
use crate::store::memory::MemoryStore;

struct World {
    story: Story,
    store: Arc<MemoryStore>,
}

impl World {
    /// Two sessions and two retained messages for each user.
    fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        Self {
            story: Self::story(&store),
            store,
        }
    }

    fn story(store: &Arc<MemoryStore>) -> Story {
        let bounds = HubBounds {
            sessions_per_user: 2,
            ..bounds()
        };
        let retained = Retained::new(RetainedLimits::default()).for_users(Users {
            messages: 2,
            bytes: 0,
            of: stored::holder_of,
        });
        Story::keeping(bounds, Some(Arc::clone(store) as Arc<dyn Store>), retained)
    }

    /// The broker dies and is started again.
    fn crash(&mut self) {
        while self.store.is_urgent() {
            self.store.commit();
        }
        let (store, recovered) = self.store.crash();
        self.story = Self::story(&store);
        self.store = store;
        let restart = Restart {
            now: self.story.batch.now,
            grace_secs: 5,
        };
        self.story.hub.restore(recovered, restart);
    }

    fn enter(&mut self, user: &str, connect: Connect) -> Result<Client, RefusalCode> {
        let identity = Identity {
            user: (!user.is_empty()).then(|| user.to_owned().into()),
            method: match user {
                "" => Method::Anonymous,
                _ => Method::Password,
            },
            ..Identity::default()
        };
        let (result, log, way_back) = self.story.try_connect_as(identity, connect);
        let session = result.map_err(|refusal| refusal.code)?;
        Ok(Client {
            session,
            link: self.story.links,
            log,
            way_back,
        })
    }

    fn retain(&mut self, client: &Client, topic: &str, payload: &str) -> Result<u32, RefusalCode> {
        let mut message = message(topic, payload, QoS::AtLeastOnce);
        message.retain = true;
        let publish = Publish {
            token: None,
            exactly_once: None,
            idempotency_key: None,
            message: message.into(),
        };
        let (hub, batch) = (&self.story.hub, &mut self.story.batch);
        let result = hub.publish_for(&client.session, publish, batch);
        result.map_err(|refusal| refusal.code)
    }

    fn refused(&self, limit: &str) -> u64 {
        let line = format!("polycast_quota_refused_total{{limit=\"{limit}\"}} ");
        let text = self.story.hub.metrics.render();
        let found = text.lines().find_map(|found| found.strip_prefix(&line));
        found.map_or(0, |count| count.parse().unwrap())
    }
}

fn short(client_id: &str) -> Connect {
    Connect {
        session_expiry_secs: 0,
        ..lasting(client_id)
    }
}

fn clean(client_id: &str) -> Connect {
    Connect {
        clean_start: true,
        ..lasting(client_id)
    }
}

const FULL: Option<RefusalCode> = Some(RefusalCode::Quota);

#[test]
fn a_user_has_as_many_lasting_sessions_as_it_may() {
    let mut world = World::new();
    let one = world.enter("ann", lasting("1")).unwrap();
    let two = world.enter("ann", lasting("2")).unwrap();
    assert_eq!(world.enter("ann", lasting("3")).err(), FULL);
    assert_eq!(world.refused("sessions_per_user"), 1);
    assert!(world.story.hub.session("3").is_none());
    // Sessions that end with their connections are not counted, nor are those of others.
    assert!(world.enter("ann", short("4")).is_ok());
    assert!(world.enter("bob", lasting("5")).is_ok());
    // Away or not is all the same, and who comes back needs no second place.
    world.story.leave(&one);
    assert_eq!(world.enter("ann", lasting("3")).err(), FULL);
    assert!(world.enter("ann", lasting("1")).is_ok());
    assert!(world.enter("ann", clean("2")).is_ok());
    assert!(two.log.lock().contains(&Seen::Closed(Cause::TakenOver)));
    assert_eq!(world.story.hub.places_held(), 3);
    // What ends makes place.
    let two = world.enter("ann", short("2")).unwrap();
    world.story.leave(&two);
    assert!(world.story.hub.session("2").is_none());
    assert!(world.enter("ann", lasting("3")).is_ok());
    assert_eq!(world.enter("ann", lasting("6")).err(), FULL);
}

#[test]
fn a_refused_login_leaves_the_session_that_was_there() {
    let mut world = World::new();
    world.enter("ann", lasting("1")).unwrap();
    world.enter("ann", lasting("2")).unwrap();
    let third = world.enter("ann", short("3")).unwrap();
    assert_eq!(world.enter("ann", lasting("3")).err(), FULL);
    assert!(third.session.lock().link.is_some(), "it goes on");
}

#[test]
fn a_session_does_not_begin_to_last_when_its_client_goes() {
    let mut world = World::new();
    let client = world.enter("ann", short("1")).unwrap();
    let (hub, batch) = (&world.story.hub, &mut world.story.batch);
    hub.disconnect(&client.session, client.link, false, Some(3600), batch);
    assert!(hub.session("1").is_none());
    let lasts = world.enter("ann", lasting("2")).unwrap();
    let (hub, batch) = (&world.story.hub, &mut world.story.batch);
    hub.disconnect(&lasts.session, lasts.link, false, Some(3600), batch);
    assert!(hub.session("2").is_some());
}

#[test]
fn clients_without_a_proof_are_one_user() {
    let mut world = World::new();
    let named = |client: &str, user: &str| Connect {
        username: Some(user.to_owned().into()),
        ..lasting(client)
    };
    assert!(world.story.try_connect(named("1", "ann")).0.is_ok());
    assert!(world.story.try_connect(named("2", "bob")).0.is_ok());
    let refused = world.story.try_connect(named("3", "eve")).0;
    assert_eq!(refused.err().map(|no| no.code), FULL);
    assert!(world.enter("ann", lasting("4")).is_ok());
    // The broker's own clients are nobody's.
    let inside = Connect {
        protocol: "function",
        ..lasting("5")
    };
    assert!(world.enter("", inside).is_ok());
    // A session whose client has proved who it is counts for it from then on.
    assert!(world.enter("ann", lasting("1")).is_ok());
    assert_eq!(world.enter("ann", lasting("6")).err(), FULL);
    assert!(world.enter("", lasting("3")).is_ok());
}

#[test]
fn sessions_count_again_after_a_crash() {
    let mut world = World::new();
    world.enter("ann", lasting("1")).unwrap();
    world.enter("ann", lasting("2")).unwrap();
    world.enter("", lasting("3")).unwrap();
    world.crash();
    assert_eq!(world.story.hub.places_held(), 3);
    assert_eq!(world.enter("ann", lasting("4")).err(), FULL);
    assert!(world.enter("ann", lasting("1")).is_ok());
    assert!(world.enter("", lasting("5")).is_ok());
    assert_eq!(world.enter("", lasting("6")).err(), FULL);
    // Those that ended while nobody looked have given their places back.
    world.story.wait(3600);
    assert_eq!(world.story.hub.session_count(), 2, "1 and 5 are connected");
    assert_eq!(world.story.hub.places_held(), 2);
    assert!(world.enter("ann", lasting("4")).is_ok());
}

#[test]
fn retained_messages_count_for_who_published_them_also_after_a_crash() {
    let mut world = World::new();
    let ann = world.enter("ann", lasting("1")).unwrap();
    let again = world.enter("ann", lasting("2")).unwrap();
    let bob = world.enter("bob", lasting("3")).unwrap();
    assert!(world.retain(&ann, "a", "x").is_ok());
    assert!(world.retain(&again, "b", "x").is_ok());
    assert_eq!(world.retain(&ann, "c", "x").err(), FULL, "of both clients");
    assert_eq!(world.refused("retained_messages_per_user"), 1);
    assert!(world.retain(&bob, "c", "x").is_ok());
    world.crash();
    let ann = world.enter("ann", lasting("1")).unwrap();
    let bob = world.enter("bob", lasting("3")).unwrap();
    assert_eq!(world.retain(&ann, "d", "x").err(), FULL);
    assert!(world.retain(&bob, "b", "y").is_ok(), "it is bob's now");
    assert_eq!(world.retain(&bob, "d", "x").err(), FULL);
    assert!(world.retain(&ann, "d", "x").is_ok());
    assert!(world.retain(&ann, "a", "").is_ok());
    assert!(world.retain(&ann, "e", "x").is_ok());
}

#[test]
fn what_clients_without_a_proof_retain_counts_for_all_of_them() {
    let mut world = World::new();
    let one = world.enter("", lasting("1")).unwrap();
    let two = world.enter("", lasting("2")).unwrap();
    assert!(world.retain(&one, "a", "x").is_ok());
    assert!(world.retain(&two, "b", "x").is_ok());
    assert_eq!(world.retain(&two, "c", "x").err(), FULL);
    world.crash();
    let one = world.enter("", lasting("1")).unwrap();
    assert_eq!(world.retain(&one, "c", "x").err(), FULL);
    assert!(world.retain(&one, "a", "y").is_ok());
}

#[test]
fn a_transaction_is_taken_as_a_whole_or_not_at_all() {
    let mut world = World::new();
    let ann = world.enter("ann", lasting("1")).unwrap();
    let publish = |topic: &str| {
        let mut message = message(topic, "x", QoS::AtLeastOnce);
        message.retain = true;
        Command::Publish(Publish {
            token: None,
            exactly_once: None,
            idempotency_key: None,
            message: message.into(),
        })
    };
    let commands = vec![publish("a"), publish("b"), publish("c")];
    let (hub, batch) = (&world.story.hub, &mut world.story.batch);
    let refused = hub.commit(&ann.session, commands, batch);
    assert_eq!(refused.err().map(|no| no.code), FULL);
    assert_eq!(hub.retained.stats().messages, 0);
    let commands = vec![publish("a"), publish("b"), publish("a")];
    assert!(hub.commit(&ann.session, commands, batch).is_ok());
    assert_eq!(hub.retained.stats().messages, 2);
}
