//! Clients that come and go: exactly one `disconnected` for each `connected`, whatever happens to the
//! broker in between.
//!
//! A client is present or not; which connection it has does not matter. With a grace, a client that is
//! back in time was never away; without, a connection that takes over from another ends that first.
//! Each `connected` has a version that is greater than all before, and its `disconnected` has the same:
//! who keeps a table forgets an older one. What the last run of the broker left open is told with the
//! reason `broker-restart`, or goes on if its client is back within the grace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::connection::{Cause, CloseReason};
use protocols::model::Timestamp;
use serde_json::{Value, json};

use super::event::{Event, new_id};
use super::queue::Queue;
use crate::session::Origin;

/// See the module.
pub(super) struct Presence {
    queue: Arc<Queue>,
    grace: Duration,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    present: BTreeMap<ByteString, Held>,
    /// When those that are away are given up.
    due: BTreeSet<(Timestamp, ByteString)>,
}

struct Held {
    /// Its connection's number; 0 of one that ended with the last run.
    link: u64,
    /// What the `connected` said.
    facts: Value,
    away: Option<Away>,
}

struct Away {
    until: Timestamp,
    /// The `disconnected` that is told then.
    event: Event,
}

/// A client that was let in.
pub(super) struct Arrived<'a> {
    /// Its name.
    pub client_id: &'a ByteString,
    /// Its user.
    pub user: Option<&'a str>,
    /// Its connection's number in this run.
    pub link: u64,
    /// Its connection's name.
    pub connection_id: &'a str,
    /// Where it came from.
    pub origin: &'a Origin,
}

impl Presence {
    /// Goes on from what is in the queue.
    pub(super) fn new(queue: Arc<Queue>, grace: Duration, now: Timestamp) -> Self {
        let mut clients = Clients::default();
        for (key, last) in queue.still_open() {
            let client_id = ByteString::from(key);
            clients.due.insert((now + grace, client_id.clone()));
            let away = Away {
                until: now + grace,
                event: last,
            };
            let held = Held {
                link: 0,
                facts: away.event.body.clone(),
                away: Some(away),
            };
            clients.present.insert(client_id, held);
        }
        Self {
            queue,
            grace,
            clients: Mutex::new(clients),
        }
    }

    pub(super) fn is_of(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(&self.queue, queue)
    }

    /// A client was let in.
    pub(super) fn arrived(&self, arrived: &Arrived<'_>, now: Timestamp) {
        let mut clients = self.clients.lock();
        let Clients { present, due } = &mut *clients;
        if let Some(held) = present.get_mut(arrived.client_id) {
            if !self.grace.is_zero() {
                if let Some(away) = held.away.take() {
                    due.remove(&(away.until, arrived.client_id.clone()));
                }
                held.link = arrived.link;
                return;
            }
            let event = match held.away.take() {
                Some(away) => {
                    due.remove(&(away.until, arrived.client_id.clone()));
                    away.event.at(now)
                }
                None => disconnected(&held.facts, "taken_over", false, now),
            };
            self.queue.end(arrived.client_id, &event);
            present.remove(arrived.client_id);
        }
        let facts = facts(arrived, self.queue.next_version(now));
        let connected = event("connected", with(&facts, "connected", now), now);
        let last = disconnected(&facts, "broker-restart", false, now);
        if self.queue.begin(arrived.client_id, &last, Some(&connected)) {
            let held = Held {
                link: arrived.link,
                facts,
                away: None,
            };
            present.insert(arrived.client_id.clone(), held);
        }
    }

    /// A client's connection is over.
    pub(super) fn left(
        &self,
        client_id: &ByteString,
        link: u64,
        reason: &CloseReason,
        now: Timestamp,
    ) {
        let mut clients = self.clients.lock();
        let Clients { present, due } = &mut *clients;
        let Some(held) = present.get_mut(client_id).filter(|held| held.link == link) else {
            return;
        };
        let by_client = reason.cause == Cause::Normal;
        let event = disconnected(&held.facts, reason.cause.as_str(), by_client, now);
        if self.grace.is_zero() {
            self.queue.end(client_id, &event);
            present.remove(client_id);
            return;
        }
        let until = now + self.grace;
        held.away = Some(Away { until, event });
        due.insert((until, client_id.clone()));
    }

    /// The broker stops: all that are still there go. With a grace they may be back in time, and the
    /// next run sees to them.
    pub(super) fn stop(&self, now: Timestamp) {
        if !self.grace.is_zero() {
            return;
        }
        let present = std::mem::take(&mut self.clients.lock().present);
        for (client_id, held) in present {
            let event = match held.away {
                Some(away) => away.event.at(now),
                None => disconnected(&held.facts, "shutdown", false, now),
            };
            self.queue.end(&client_id, &event);
        }
    }

    /// Gives up those that were away for too long.
    pub(super) fn tick(&self, now: Timestamp) {
        let mut clients = self.clients.lock();
        let Clients { present, due } = &mut *clients;
        while due.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, client_id)) = due.pop_first() else {
                return;
            };
            if let Some(away) = present.remove(&client_id).and_then(|held| held.away) {
                self.queue.end(&client_id, &away.event.at(now));
            }
        }
    }

    /// How long it is until the first grace ends.
    pub(super) fn until_due(&self, now: Timestamp) -> Option<Duration> {
        let clients = self.clients.lock();
        let (first, _) = clients.due.first()?;
        Some(Duration::from_millis(first.0.saturating_sub(now.0)))
    }
}

fn facts(arrived: &Arrived<'_>, version: u64) -> Value {
    json!({
        "clientId": &**arrived.client_id,
        "connectionId": arrived.connection_id,
        "user": arrived.user,
        "protocol": arrived.origin.protocol,
        "transport": arrived.origin.carrier.as_str(),
        "ipAddress": arrived.origin.ip().map(|ip| ip.to_canonical().to_string()),
        "versionNumber": version,
    })
}

fn with(facts: &Value, kind: &str, now: Timestamp) -> Value {
    let mut body = facts.clone();
    body["eventType"] = kind.into();
    body["timestamp"] = now.0.into();
    body
}

fn disconnected(facts: &Value, reason: &str, by_client: bool, now: Timestamp) -> Event {
    let mut body = with(facts, "disconnected", now);
    body["disconnectReason"] = reason.into();
    body["clientInitiatedDisconnect"] = by_client.into();
    event("disconnected", body, now)
}

fn event(kind: &'static str, body: Value, now: Timestamp) -> Event {
    let subject = body["clientId"].as_str().unwrap_or_default().to_owned();
    Event {
        kind: kind.into(),
        id: new_id(),
        subject,
        time: now,
        body,
        content: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    struct World {
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
        grace: Duration,
        presence: Presence,
    }

    impl World {
        fn new(grace: Duration) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("t");
            let presence = open(&path, grace, NOW);
            Self {
                _folder: folder,
                path,
                grace,
                presence,
            }
        }

        fn arrive(&self, link: u64, now: Timestamp) {
            let arrived = Arrived {
                client_id: &"c".into(),
                user: None,
                link,
                connection_id: "x-1",
                origin: &Origin::default(),
            };
            self.presence.arrived(&arrived, now);
        }

        fn leave(&self, link: u64, cause: Cause, now: Timestamp) {
            self.presence
                .left(&"c".into(), link, &CloseReason::new(cause, ""), now);
        }

        /// As after `kill -9`.
        fn restart(&mut self, now: Timestamp) {
            self.presence = open(&self.path, self.grace, now);
        }

        /// What was told: kinds with their reasons, and versions.
        fn told(&self) -> (Vec<String>, Vec<u64>) {
            let text = std::fs::read_to_string(format!("{}.log", self.path.display())).unwrap();
            let (mut told, mut versions) = (Vec::new(), Vec::new());
            for line in text.lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                let Some(event) = line.get("send").map(|send| &send["event"]) else {
                    continue;
                };
                let reason = event["disconnectReason"].as_str().unwrap_or("+");
                told.push(reason.to_owned());
                versions.push(event["versionNumber"].as_u64().unwrap());
            }
            (told, versions)
        }
    }

    fn open(path: &std::path::Path, grace: Duration, now: Timestamp) -> Presence {
        let queue = Arc::new(Queue::open(Some(path), 1_000_000).unwrap());
        Presence::new(queue, grace, now)
    }

    #[test]
    fn each_coming_has_one_going_with_its_version() {
        let world = World::new(Duration::ZERO);
        world.arrive(1, NOW);
        world.arrive(2, NOW);
        world.leave(1, Cause::TakenOver, NOW);
        world.leave(2, Cause::Lost, NOW);
        world.leave(2, Cause::Lost, NOW);
        let (told, versions) = world.told();
        assert_eq!(told, ["+", "taken_over", "+", "lost"]);
        assert_eq!(versions[0], versions[1]);
        assert_eq!(versions[2], versions[3]);
        assert!(versions[2] > versions[0]);
    }

    #[test]
    fn flapping_within_the_grace_is_quiet() {
        let world = World::new(Duration::from_secs(5));
        world.arrive(1, NOW);
        world.leave(1, Cause::Lost, NOW);
        world.arrive(2, NOW + Duration::from_secs(4));
        world.presence.tick(NOW + Duration::from_mins(1));
        assert_eq!(world.told().0, ["+"]);
        world.leave(1, Cause::Lost, NOW);
        world.leave(2, Cause::Normal, NOW + Duration::from_mins(1));
        world.presence.tick(NOW + Duration::from_secs(64));
        assert_eq!(world.told().0, ["+"]);
        world.presence.tick(NOW + Duration::from_secs(65));
        assert_eq!(world.told().0, ["+", "normal"]);
    }

    #[test]
    fn what_a_crash_cut_off_is_told_by_the_next_run() {
        for grace in [Duration::ZERO, Duration::from_secs(5)] {
            let mut world = World::new(grace);
            world.arrive(1, NOW);
            world.restart(NOW);
            world.presence.tick(NOW + grace);
            world.presence.tick(NOW + grace);
            world.restart(NOW);
            world.presence.tick(NOW + grace);
            let (told, versions) = world.told();
            assert_eq!(told, ["+", "broker-restart"], "{grace:?}");
            assert_eq!(versions[0], versions[1]);
            world.arrive(1, NOW);
            assert!(
                world.told().1[2] > versions[0],
                "also when the clock went back"
            );
        }
    }

    #[test]
    fn a_client_that_is_back_after_a_crash_was_never_away_or_is_told_in_order() {
        let mut world = World::new(Duration::from_secs(5));
        world.arrive(1, NOW);
        world.restart(NOW);
        world.arrive(1, NOW + Duration::from_secs(1));
        world.presence.tick(NOW + Duration::from_mins(1));
        assert_eq!(world.told().0, ["+"]);
        let mut world = World::new(Duration::ZERO);
        world.arrive(1, NOW);
        world.restart(NOW);
        world.arrive(1, NOW);
        world.presence.tick(NOW);
        assert_eq!(world.told().0, ["+", "broker-restart", "+"]);
    }
}
