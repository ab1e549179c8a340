//! Packet identifiers of QoS 2 publishes that were accepted and not released.

use std::collections::HashSet;

/// See the module. Most clients publish nothing at QoS 2, so the table is there only while it has
/// something in it. Bounded by the receive maximum.
#[derive(Debug, Default)]
pub struct Accepted(Option<Box<Identifiers>>);

#[derive(Debug, Default)]
struct Identifiers {
    set: HashSet<u16>,
}

impl Accepted {
    /// Adds an identifier; `false` if it was there.
    pub fn insert(&mut self, packet_id: u16) -> bool {
        self.0.get_or_insert_default().set.insert(packet_id)
    }

    /// Whether an identifier is there.
    pub fn contains(&self, packet_id: u16) -> bool {
        let held = self.0.as_ref();
        held.is_some_and(|held| held.set.contains(&packet_id))
    }

    /// Removes an identifier; `false` if it was not there.
    pub fn remove(&mut self, packet_id: u16) -> bool {
        let Some(held) = &mut self.0 else {
            return false;
        };
        let removed = held.set.remove(&packet_id);
        if held.set.is_empty() {
            self.0 = None;
        }
        removed
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
}
