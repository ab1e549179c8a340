//! Topic aliases, both ways `[MQTT-3.3.2.3.4]`: short numbers that stand for topics within one
//! connection. Both tables are bounded by the limits that CONNECT and CONNACK agreed on.

use std::collections::HashMap;

use bytestring::ByteString;

use crate::model::Topic;

/// The aliases of a connection, both ways.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// Those of the client.
    pub(super) incoming: AliasesIn,
    /// Those towards it, if it takes any.
    pub(super) outgoing: Option<AliasesOut>,
}

/// Topics that the client gave a number. Empty until the first one is set.
#[derive(Debug, Default)]
pub(super) struct AliasesIn(Vec<Option<Topic>>);

impl AliasesIn {
    /// The topic of an alias; `None` if it was never set.
    pub(super) fn topic(&self, alias: u16) -> Option<&Topic> {
        self.0.get(usize::from(alias).checked_sub(1)?)?.as_ref()
    }

    /// Sets or replaces an alias from 1 to the announced maximum.
    pub(super) fn set(&mut self, alias: u16, topic: Topic) {
        let length = usize::from(alias);
        if self.0.len() < length {
            self.0.resize(length, None);
        }
        if let Some(slot) = length.checked_sub(1).and_then(|at| self.0.get_mut(at)) {
            *slot = Some(topic);
        }
    }
}

/// Numbers that stand for topics towards the client.
///
/// Filled in order of first use. When all numbers are taken, a clock hand goes round: a topic
/// that was used since the last visit is spared, another one gives its number away. So topics in
/// steady use keep their numbers beside any amount of topics that come once.
#[derive(Debug)]
pub(super) struct AliasesOut {
    numbers: HashMap<ByteString, u16>,
    slots: Vec<Slot>,
    maximum: u16,
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    topic: ByteString,
    used: bool,
}

/// How a topic is written in one PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alias {
    /// By its name.
    None,
    /// By its name, and with this number from now on.
    New(u16),
    /// By its number alone.
    Known(u16),
}

impl AliasesOut {
    /// Up to `maximum` numbers.
    pub(super) fn new(maximum: u16) -> Self {
        Self {
            numbers: HashMap::new(),
            slots: Vec::new(),
            maximum,
            hand: 0,
        }
    }

    /// Chooses how to write a topic. The packet must then be sent.
    pub(super) fn choose(&mut self, topic: &Topic) -> Alias {
        if let Some(number) = self.numbers.get(topic.text()) {
            if let Some(slot) = self.slots.get_mut(usize::from(*number) - 1) {
                slot.used = true;
            }
            return Alias::Known(*number);
        }
        // The number itself costs three bytes.
        if topic.as_str().len() <= 3 || self.maximum == 0 {
            return Alias::None;
        }
        // A copy: the topic may share its allocation with a large payload.
        let text = ByteString::from(topic.as_str());
        if self.slots.len() < usize::from(self.maximum) {
            self.slots.push(Slot {
                topic: text.clone(),
                used: false,
            });
            return self.assign(self.slots.len() - 1, text);
        }
        let at = self.hand;
        self.hand = (at + 1) % self.slots.len();
        let slot = &mut self.slots[at];
        if std::mem::take(&mut slot.used) {
            return Alias::None;
        }
        let old = std::mem::replace(&mut slot.topic, text.clone());
        self.numbers.remove(&old);
        self.assign(at, text)
    }

    fn assign(&mut self, at: usize, topic: ByteString) -> Alias {
        let number = u16::try_from(at + 1).unwrap_or(self.maximum);
        self.numbers.insert(topic, number);
        Alias::New(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::parse(text.into(), 1024, 32).unwrap()
    }

    #[test]
    fn an_alias_of_the_client_is_set_and_replaced() {
        let mut aliases = AliasesIn::default();
        assert_eq!(aliases.topic(0), None);
        assert_eq!(aliases.topic(2), None);
        aliases.set(2, topic("a"));
        assert_eq!(aliases.topic(1), None);
        assert_eq!(aliases.topic(2), Some(&topic("a")));
        aliases.set(2, topic("b"));
        assert_eq!(aliases.topic(2), Some(&topic("b")));
        assert_eq!(aliases.topic(u16::MAX), None);
    }

    #[test]
    fn topics_in_use_keep_their_numbers() {
        let mut aliases = AliasesOut::new(2);
        assert_eq!(aliases.choose(&topic("hot/1")), Alias::New(1));
        assert_eq!(aliases.choose(&topic("cold")), Alias::New(2));
        assert_eq!(aliases.choose(&topic("hot/1")), Alias::Known(1));
        assert_eq!(aliases.choose(&topic("new/1")), Alias::None, "1 is spared");
        assert_eq!(aliases.choose(&topic("new/1")), Alias::New(2), "2 is taken");
        assert_eq!(aliases.choose(&topic("hot/1")), Alias::Known(1));
        assert_eq!(aliases.choose(&topic("cold")), Alias::None);
        assert_eq!(aliases.choose(&topic("new/1")), Alias::Known(2));
    }

    #[test]
    fn short_topics_need_no_number() {
        let mut aliases = AliasesOut::new(2);
        assert_eq!(aliases.choose(&topic("a/b")), Alias::None);
        assert_eq!(AliasesOut::new(0).choose(&topic("long")), Alias::None);
    }

    #[test]
    fn any_number_of_topics_stays_within_the_maximum() {
        let mut aliases = AliasesOut::new(16);
        for number in 0..1000 {
            match aliases.choose(&topic(&format!("topic/{number}"))) {
                Alias::New(alias) => assert!((1..=16).contains(&alias)),
                other => assert_eq!(other, Alias::None),
            }
        }
        assert_eq!((aliases.numbers.len(), aliases.slots.len()), (16, 16));
    }
}
