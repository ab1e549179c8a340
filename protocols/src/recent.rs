//! What was seen lately, by name: the memory behind idempotency keys, in the broker and the bridge.
//!
//! A key that has never come before is the usual case, and the oldest goes whenever a new one comes:
//! so neither may cost much. The entries stand in a row in the order in which they came, and the
//! table that finds them holds eight bytes each. The oldest goes from the row alone; the table is
//! rid of many such at once, from one end to the other, and not at a place of its own for each.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// The hash of a text: two of 64 bits, made with secrets that nobody knows, so that nobody can make
/// two texts with the same one. It holds on to no packet that the text came in.
pub type Name = (u64, u64);

/// Makes names. Those of one maker mean nothing to another.
#[derive(Clone, Debug, Default)]
pub struct Namer(RandomState, RandomState);

/// A gap in the row costs as much as an entry: with more of them than this, beside as many as there
/// are entries, the row is closed up.
const GAPS: usize = 64;

/// Things by name, in the order in which they came. Whoever has it bounds it.
#[derive(Debug)]
pub struct Recent<T> {
    /// Where each is in the row, and some that are there no more.
    marks: HashTable<Mark>,
    len: usize,
    /// In order. What came again or was taken out leaves a gap, but not at the front.
    row: VecDeque<Option<(Name, T)>>,
    /// The number of the row's front. Numbers start again from 0 after the last; the row is much
    /// shorter than that.
    first: u32,
}

/// Says where something is.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Of its name, a part: the table can be made larger without a look at the row.
    part: u32,
    /// Its number in the row.
    number: u32,
}

impl Mark {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a part of a hash is a hash"
    )]
    fn new(name: &Name, number: u32) -> Self {
        let part = name.0 as u32;
        Self { part, number }
    }

    /// The table takes places from the low bits and tags from the high ones.
    fn hash(self) -> u64 {
        u64::from(self.part).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

impl Namer {
    /// The name of a text.
    #[must_use]
    pub fn name(&self, text: &str) -> Name {
        (self.0.hash_one(text), self.1.hash_one(text))
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            marks: HashTable::new(),
            len: 0,
            row: VecDeque::new(),
            first: 0,
        }
    }
}

impl<T> Recent<T> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What has a name.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&T> {
        let (_, thing) = self.row.get(self.find(name)?)?.as_ref()?;
        Some(thing)
    }

    /// The same, to be changed. It keeps its place in the order.
    pub fn get_mut(&mut self, name: &Name) -> Option<&mut T> {
        let place = self.find(name)?;
        let (_, thing) = self.row.get_mut(place)?.as_mut()?;
        Some(thing)
    }

    /// Puts something behind all others. What had its name goes, and is given back.
    pub fn push(&mut self, name: Name, thing: T) -> Option<T> {
        self.sweep();
        // The row is shorter than 2^32, and numbers may overflow.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        let number = self.first.wrapping_add(self.row.len() as u32);
        let mark = Mark::new(&name, number);
        let old = self.find(&name);
        self.marks
            .insert_unique(mark.hash(), mark, |mark| mark.hash());
        self.row.push_back(Some((name, thing)));
        self.len += 1;
        let (_, old) = self.take(old?)?;
        if self.row.len() > 2 * self.len + GAPS {
            self.rebuild(|_| ());
        }
        Some(old)
    }

    /// The one that came first.
    #[must_use]
    pub fn oldest(&self) -> Option<&T> {
        let (_, thing) = self.row.front()?.as_ref()?;
        Some(thing)
    }

    /// Takes out the one that came first.
    pub fn pop_oldest(&mut self) -> Option<T> {
        let (_, thing) = self.take(0)?;
        Some(thing)
    }

    /// Takes out those that are not wanted any more.
    pub fn retain(&mut self, mut wanted: impl FnMut(&T) -> bool) {
        self.rebuild(|row| row.retain(|(_, thing)| wanted(thing)));
    }

    /// Puts them in another order.
    pub fn sort_by_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        self.rebuild(|row| row.sort_by_key(|(_, thing)| key(thing)));
    }

    fn rebuild(&mut self, change: impl FnOnce(&mut Vec<(Name, T)>)) {
        let mut row: Vec<_> = std::mem::take(&mut self.row)
            .into_iter()
            .flatten()
            .collect();
        change(&mut row);
        *self = Self::default();
        self.marks.reserve(row.len(), |mark| mark.hash());
        for (name, thing) in row {
            self.push(name, thing);
        }
    }

    /// Where in the row a name is.
    fn find(&self, name: &Name) -> Option<usize> {
        let wanted = Mark::new(name, 0);
        let is_it = |mark: &Mark| {
            mark.part == wanted.part && {
                let entry = self.row.get(self.place(mark.number));
                matches!(entry, Some(Some((known, _))) if known == name)
            }
        };
        let mark = self.marks.find(wanted.hash(), is_it)?;
        Some(self.place(mark.number))
    }

    fn place(&self, number: u32) -> usize {
        number.wrapping_sub(self.first) as usize
    }

    /// Takes something out of the row; the front stays one that is there.
    fn take(&mut self, place: usize) -> Option<(Name, T)> {
        let taken = self.row.get_mut(place)?.take()?;
        self.len -= 1;
        while let Some(None) = self.row.front() {
            self.row.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        Some(taken)
    }

    /// Forgets where things were that are there no more, once they are as many as those that are.
    fn sweep(&mut self) {
        if self.marks.len() <= 2 * self.len + GAPS {
            return;
        }
        let (first, row) = (self.first, &self.row);
        self.marks.retain(|mark| {
            let place = mark.number.wrapping_sub(first) as usize;
            matches!(row.get(place), Some(Some(_)))
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_of_their_maker() {
        let namer = Namer::default();
        assert_eq!(namer.name("a"), namer.name("a"));
        assert_ne!(namer.name("a"), namer.name("b"));
        assert_ne!(namer.name("a"), Namer::default().name("a"));
    }

    #[test]
    fn what_comes_again_and_again_takes_no_more_room() {
        let mut recent = Recent::default();
        recent.push((0, 0), 0);
        for round in 0..10_000 {
            recent.push((1, 1), round);
        }
        assert_eq!(recent.len(), 2);
        assert!(recent.row.len() <= 2 * 2 + GAPS + 1);
        assert!(recent.marks.len() <= 2 * 2 + GAPS + 1);
        assert_eq!(
            (recent.oldest(), recent.get(&(1, 1))),
            (Some(&0), Some(&9_999))
        );
    }

    #[test]
    fn what_has_gone_takes_no_more_room() {
        let mut recent = Recent::default();
        for name in 0..10_000 {
            recent.push((name, name), ());
            if recent.len() > 100 {
                recent.pop_oldest();
            }
        }
        assert_eq!((recent.len(), recent.row.len()), (100, 100));
        assert!(recent.marks.len() <= 2 * 100 + GAPS + 1);
        assert!(recent.get(&(9_899, 9_899)).is_none() && recent.get(&(9_900, 9_900)).is_some());
    }

    #[test]
    fn numbers_start_again() {
        let mut recent = Recent {
            first: u32::MAX - 1,
            ..Recent::default()
        };
        for name in 0..4 {
            recent.push((name, 0), name);
        }
        assert_eq!(recent.get(&(3, 0)), Some(&3));
        assert_eq!(recent.pop_oldest(), Some(0));
        assert_eq!(recent.push((1, 0), 10), Some(1));
        let rest: Vec<_> = std::iter::from_fn(|| recent.pop_oldest()).collect();
        assert_eq!(rest, [2, 3, 10]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Change(u64),
        PopOldest,
        Retain(u32),
        Sort,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Few names, and of each two whose first halves agree: hashes may.
        prop_oneof![
            8 => (0_u64..24).prop_map(Step::Push),
            2 => (0_u64..24).prop_map(Step::Change),
            4 => Just(Step::PopOldest),
            1 => (2_u32..5).prop_map(Step::Retain),
            1 => Just(Step::Sort),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_row_of_pairs(steps in proptest::collection::vec(step(), 0..300)) {
            let mut recent = Recent::default();
            let mut model: Vec<(Name, u32)> = Vec::new();
            for (at, step) in (0_u32..).zip(steps) {
                match step {
                    Step::Push(name) => {
                        let name = (name / 2, name % 2);
                        let known = model.iter().position(|(other, _)| *other == name);
                        let old = known.map(|known| model.remove(known).1);
                        model.push((name, at));
                        prop_assert_eq!(recent.push(name, at), old);
                    }
                    Step::Change(name) => {
                        let name = (name / 2, name % 2);
                        let mut known = model.iter_mut().find(|(other, _)| *other == name);
                        if let Some(thing) = recent.get_mut(&name) {
                            *thing += 1000;
                        }
                        if let Some((_, thing)) = &mut known {
                            *thing += 1000;
                        }
                    }
                    Step::PopOldest => {
                        let oldest = (!model.is_empty()).then(|| model.remove(0).1);
                        prop_assert_eq!(recent.pop_oldest(), oldest);
                    }
                    Step::Retain(every) => {
                        recent.retain(|thing| thing % every != 0);
                        model.retain(|(_, thing)| thing % every != 0);
                    }
                    Step::Sort => {
                        recent.sort_by_key(|thing| std::cmp::Reverse(thing % 7));
                        model.sort_by_key(|(_, thing)| std::cmp::Reverse(thing % 7));
                    }
                }
                prop_assert_eq!(recent.len(), model.len());
                prop_assert_eq!(recent.is_empty(), model.is_empty());
                prop_assert_eq!(recent.oldest(), model.first().map(|(_, thing)| thing));
                for name in (0..24).map(|name| (name / 2, name % 2)) {
                    let known = model.iter().find(|(other, _)| *other == name);
                    prop_assert_eq!(recent.get(&name), known.map(|(_, thing)| thing));
                }
            }
        }
    }
}
