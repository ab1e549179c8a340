//! Things that get numbers in a row and are taken out by them, nearly always the oldest first.

use std::collections::VecDeque;

/// What is there, by number.
#[derive(Debug)]
pub(crate) struct Numbered<T> {
    /// From number `first` on; what was taken out leaves a gap until those before it are gone too.
    places: VecDeque<Option<T>>,
    first: u64,
    len: usize,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            places: VecDeque::new(),
            first: 0,
            len: 0,
        }
    }
}

impl<T> Numbered<T> {
    /// Puts something in and says its number.
    pub(crate) fn push(&mut self, thing: T) -> u64 {
        let number = self.first + self.places.len() as u64;
        self.places.push_back(Some(thing));
        self.len += 1;
        number
    }

    /// What has a number, if it is there.
    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        self.places.get(self.place(number)?)?.as_ref()
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let place = self.place(number)?;
        self.places.get_mut(place)?.as_mut()
    }

    /// Takes it out. Its number is not given again.
    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        let place = self.place(number)?;
        let thing = self.places.get_mut(place)?.take()?;
        self.len -= 1;
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.first += 1;
        }
        Some(thing)
    }

    /// Takes all out, in their order. Numbers go on.
    pub(crate) fn take(&mut self) -> impl DoubleEndedIterator<Item = T> + use<T> {
        self.first += self.places.len() as u64;
        self.len = 0;
        std::mem::take(&mut self.places).into_iter().flatten()
    }

    /// All, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_once_in_whatever_order_things_go() {
        let mut things = Numbered::default();
        let numbers: Vec<u64> = ["a", "b", "c", "d"].map(|thing| things.push(thing)).into();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!(things.remove(2), Some("c"));
        assert_eq!(things.remove(2), None);
        assert_eq!(things.remove(0), Some("a"));
        assert_eq!(
            (things.get(0), things.get(1), things.len()),
            (None, Some(&"b"), 2)
        );
        if let Some(thing) = things.get_mut(3) {
            *thing = "D";
        }
        assert_eq!(things.iter().copied().collect::<Vec<_>>(), ["b", "D"]);
        assert_eq!(things.remove(1), Some("b"));
        assert_eq!(things.push("e"), 4);
        assert_eq!(things.take().collect::<Vec<_>>(), ["D", "e"]);
        assert!(things.is_empty());
        assert_eq!(
            (things.push("f"), things.get(4), things.get(9)),
            (5, None, None)
        );
    }
}
