//! Packet identifiers of QoS 2 publishes that were accepted and not released.

use std::collections::VecDeque;

/// See the module. Most clients publish nothing at QoS 2, so the table is there only while it has
/// something in it. Bounded by the receive maximum.
///
/// It is sorted: clients count their identifiers up and release them in that order, so that one
/// comes at an end and goes from the other.
#[derive(Debug, Default)]
pub struct Accepted(Option<Box<Identifiers>>);

#[derive(Debug, Default)]
struct Identifiers {
    sorted: VecDeque<u16>,
}

impl Accepted {
    /// Adds an identifier; `false` if it was there.
    pub fn insert(&mut self, packet_id: u16) -> bool {
        let held = &mut self.0.get_or_insert_default().sorted;
        if held.back().is_none_or(|&last| last < packet_id) {
            held.push_back(packet_id);
            return true;
        }
        match held.binary_search(&packet_id) {
            Ok(_) => false,
            Err(at) => {
                held.insert(at, packet_id);
                true
            }
        }
    }

    /// Whether an identifier is there.
    pub fn contains(&self, packet_id: u16) -> bool {
        let held = self.0.as_ref();
        held.is_some_and(|held| held.sorted.binary_search(&packet_id).is_ok())
    }

    /// Removes an identifier; `false` if it was not there.
    pub fn remove(&mut self, packet_id: u16) -> bool {
        let Some(Identifiers { sorted: held }) = self.0.as_deref_mut() else {
            return false;
        };
        if held.pop_front_if(|first| *first == packet_id).is_none() {
            let Ok(at) = held.binary_search(&packet_id) else {
                return false;
            };
            held.remove(at);
        }
        if held.is_empty() {
            self.0 = None;
        }
        true
    }
}

impl Extend<u16> for Accepted {
    fn extend<I: IntoIterator<Item = u16>>(&mut self, packet_ids: I) {
        for packet_id in packet_ids {
            self.insert(packet_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holds_each_once_and_nothing_when_empty() {
        let mut accepted = Accepted::default();
        assert!(accepted.insert(7));
        assert!(!accepted.insert(7));
        assert!(accepted.contains(7) && !accepted.contains(8));
        assert!(!accepted.remove(8));
        assert!(accepted.remove(7));
        assert!(!accepted.remove(7));
        assert!(!accepted.contains(7) && accepted.0.is_none());
    }

    proptest! {
        #[test]
        fn is_a_set(steps in proptest::collection::vec((any::<bool>(), 1_u16..12), 0..60)) {
            let (mut accepted, mut model) = (Accepted::default(), BTreeSet::new());
            for (comes, id) in steps {
                if comes {
                    prop_assert_eq!(accepted.insert(id), model.insert(id));
                } else {
                    prop_assert_eq!(accepted.remove(id), model.remove(&id));
                }
                for id in 1..12 {
                    prop_assert_eq!(accepted.contains(id), model.contains(&id));
                }
            }
        }
    }
}
