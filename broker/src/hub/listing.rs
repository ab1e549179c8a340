//! What there is, a page at a time: topics and groups. Called by `http`.

use std::sync::Arc;

use protocols::model::{Filter, Timestamp, Topic};

use super::Hub;
use crate::session::{Group, Session, SubRoute};

/// Topics that are looked at for one page, matching or not.
const LOOKS: usize = 10_000;

/// Some of the topics to which something was published lately.
#[derive(Debug)]
pub struct KnownTopics {
    /// In the order of their texts.
    pub topics: Vec<Topic>,
    /// The text behind which to go on; `None` when there are no more.
    pub next: Option<String>,
}

impl Hub {
    /// At most `limit` topics behind a text to which something was published lately (as far as
    /// their routes are remembered) and that have no retained message.
    pub fn known_topics(
        &self,
        filter: Option<&Filter>,
        after: &str,
        limit: usize,
        now: Timestamp,
    ) -> KnownTopics {
        let any = usize::from(u16::MAX);
        let found = self.router.known_topics(after, LOOKS);
        let is_all = found.len() < LOOKS;
        let mut topics = Vec::new();
        let mut last = None;
        for text in &found {
            if topics.len() == limit {
                return KnownTopics { topics, next: last };
            }
            last = Some(text.to_string());
            let topic = Topic::parse((&**text).into(), any, any).ok();
            let topic = topic.filter(|topic| filter.is_none_or(|filter| filter.matches(topic)));
            topics.extend(topic.filter(|topic| self.retained.message(topic, now).is_none()));
        }
        let next = last.filter(|_| !is_all);
        KnownTopics { topics, next }
    }

    /// All shared groups and queues, in the order of their names.
    pub fn groups(&self) -> Vec<(String, Arc<Group>)> {
        let groups: Vec<_> = self.groups.lock().by_name.values().cloned().collect();
        let named = groups.into_iter().map(|group| {
            let name = match &group.name.share {
                Some(share) => format!("$share/{share}/{}", group.name.filter.as_str()),
                None => group.name.filter.as_str().to_owned(),
            };
            (name, group)
        });
        let mut named: Vec<_> = named.collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }
}

/// Someone whom a message on a topic would go to.
#[derive(Debug)]
pub struct Receiver {
    /// Whose session it is.
    pub session: Arc<Session>,
    /// On which terms: one, unless its subscriptions are delivered together.
    pub terms: Vec<SubRoute>,
}

impl Hub {
    /// Why nobody may publish to a topic, if it is the broker's own.
    pub fn reserved(topic: &Topic) -> Option<String> {
        let refused = super::publish::check_topic(topic.as_str()).err()?;
        Some(refused.detail.into_owned())
    }

    /// At most `limit` of those whom a message on a topic would go to, behind so many others, the
    /// oldest sessions first; groups that share it are not among them. Says how many there are.
    pub fn receivers(&self, topic: &Topic, skip: usize, limit: usize) -> (Vec<Receiver>, usize) {
        let routes = self.router.routes(topic);
        let targets = routes.targets.iter().skip(skip).take(limit);
        let found = targets.map(|target| Receiver {
            session: Arc::clone(target.session()),
            terms: target.subs().to_vec(),
        });
        (found.collect(), routes.targets.len())
    }
}
