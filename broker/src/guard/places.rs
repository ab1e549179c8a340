//! Connections of each user, or other things of which it may have some.

use std::sync::Arc;

use bytestring::ByteString;
use dashmap::DashMap;

/// Counts what users have.
#[derive(Debug, Default)]
pub struct Places {
    taken: Arc<DashMap<ByteString, usize>>,
}

/// The place of one among its user's; given back when dropped.
#[derive(Debug)]
pub struct Place {
    user: ByteString,
    taken: Arc<DashMap<ByteString, usize>>,
}

impl Places {
    /// Takes a place, if the user has fewer than `max`.
    pub fn take(&self, user: &ByteString, max: usize) -> Option<Place> {
        let mut count = self.taken.entry(user.clone()).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place {
            user: user.clone(),
            taken: Arc::clone(&self.taken),
        })
    }
}

impl Place {
    /// Whose it is.
    pub fn user(&self) -> &ByteString {
        &self.user
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.remove_if_mut(&self.user, |_, count| {
            *count -= 1;
            *count == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let places = Places::default();
        let (anna, berta) = ("anna".into(), "berta".into());
        let first = places.take(&anna, 2).unwrap();
        let second = places.take(&anna, 2).unwrap();
        assert!(places.take(&anna, 2).is_none());
        assert_eq!(places.take(&berta, 1).unwrap().user(), "berta");
        drop(first);
        let third = places.take(&anna, 2).unwrap();
        drop((second, third));
        assert!(places.taken.is_empty(), "nobody is remembered");
    }
}
