//! A session's subscriptions. One that has none has no table either: many clients only publish.

use bytestring::ByteString;
use hashbrown::HashMap;

use super::Subscription;

/// By [`protocols::connection::SubscribeRequest::key`].
#[derive(Debug, Default)]
pub struct Subscriptions(Option<Box<HashMap<ByteString, Subscription>>>);

impl Subscriptions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one with that key.
    pub fn get(&self, key: &str) -> Option<&Subscription> {
        self.0.as_ref()?.get(key)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Subscription> {
        self.0.as_mut()?.get_mut(key)
    }

    /// Whether there is one with that key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All, in no order.
    pub fn values(&self) -> impl Iterator<Item = &Subscription> {
        self.0.iter().flat_map(|held| held.values())
    }

    /// Their keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &ByteString> {
        self.0.iter().flat_map(|held| held.keys())
    }

    /// Adds one, or puts it in the place of the one with its key.
    pub(super) fn insert(&mut self, new: Subscription) {
        let held = self.0.get_or_insert_default();
        held.insert(new.request.key.clone(), new);
    }

    /// Takes the one with that key out.
    pub(super) fn remove(&mut self, key: &str) -> Option<Subscription> {
        let held = self.0.as_mut()?;
        let removed = held.remove(key);
        if held.is_empty() {
            self.0 = None;
        }
        removed
    }

    /// Takes all out.
    pub(super) fn take(&mut self) -> Vec<Subscription> {
        let all = self.0.take();
        all.map_or_else(Vec::new, |held| held.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use protocols::connection::{Lane, RetainHandling, SubscribeRequest, SubscriptionId};
    use protocols::model::{QoS, SubscriptionFilter};

    use super::*;

    fn subscription(key: &'static str) -> Subscription {
        let request = SubscribeRequest {
            key: key.into(),
            filter: SubscriptionFilter::parse(key.into(), 64, 8).unwrap(),
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
            identifier: None,
            lane: Lane::Session,
            auto_settle: false,
            durable: true,
        };
        Subscription {
            id: SubscriptionId(1),
            request,
            group: None,
        }
    }

    #[test]
    fn the_table_is_there_while_something_is_in_it() {
        let mut held = Subscriptions::default();
        assert!(held.remove("a").is_none() && held.get("a").is_none());
        held.insert(subscription("a"));
        held.insert(subscription("a"));
        held.insert(subscription("b"));
        assert_eq!((held.len(), held.values().count()), (2, 2));
        assert!(held.remove("a").is_some() && !held.contains_key("a"));
        assert!(held.remove("b").is_some());
        assert!(held.0.is_none() && held.is_empty() && held.keys().next().is_none());
        held.insert(subscription("c"));
        assert_eq!(held.take().len(), 1);
        assert!(held.is_empty());
    }
}
