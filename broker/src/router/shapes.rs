//! Wildcard filters in one hash table, found by their shape.
//!
//! The shape of a filter is its number of levels, where its `+` stand, and whether it ends with
//! `#`. For a topic and a shape there is at most one filter: the topic with its levels masked.
//! So a publish hashes each level once and then probes the table once per shape that fits,
//! however many filters there are. The number of shapes is bounded; filters of further shapes
//! go to the [trie](super::trie). The hashes are keyed per index, and the filter itself is
//! compared on a hit, so nobody can choose filters that collide.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use protocols::model::{Filter, Topic};

use super::subscribers::Subscribers;

/// Shapes in use at a time.
pub(super) const MAX_SHAPES: usize = 256;

/// Levels of a filter that can have a shape, `#` not counted: the bits of the `+` mask.
pub(super) const MAX_LEVELS: usize = 64;

/// Capacity below which memory is not given back.
const KEPT: usize = 1024;

/// Where the wildcards of a filter stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Bit `i` is set if level `i` is `+`.
    plus: u64,
    /// Levels, `#` not counted.
    levels: u8,
    /// Whether `#` follows.
    tail: bool,
}

/// Sums of the level hashes of a topic or filter: `sums[i]` is that of the first `i` levels.
///
/// A sum lets a shape take its `+` levels out again, instead of adding all the others up.
pub(super) struct LevelSums {
    sums: [u64; MAX_LEVELS + 1],
    levels: usize,
}

/// The wildcard filters whose shapes fit in, with their subscribers.
pub(super) struct ShapeTable<K, V> {
    shapes: Vec<KnownShape>,
    entries: HashTable<Entry<K, V>>,
}

struct KnownShape {
    shape: Shape,
    salt: u64,
    filters: usize,
}

struct Entry<K, V> {
    hash: u64,
    shape: Shape,
    filter: Filter,
    subscribers: Subscribers<K, V>,
}

impl Shape {
    /// The shape of a filter; `None` if it has too many levels for one.
    pub(super) fn of(filter: &Filter) -> Option<Self> {
        let mut shape = Self {
            plus: 0,
            levels: 0,
            tail: false,
        };
        for level in filter.levels() {
            if level == "#" {
                shape.tail = true;
                break;
            }
            if usize::from(shape.levels) == MAX_LEVELS {
                return None;
            }
            if level == "+" {
                shape.plus |= 1 << shape.levels;
            }
            shape.levels += 1;
        }
        Some(shape)
    }

    /// Whether a topic with that many levels can match; `#` stands for its parent level too, and
    /// a leading wildcard for no `$` topic `[MQTT-4.7.1-2]` `[MQTT-4.7.2-1]`.
    fn fits(self, levels: usize, system: bool) -> bool {
        let own = usize::from(self.levels);
        if system && (self.plus & 1 == 1 || own == 0) {
            return false;
        }
        own == levels || (self.tail && own < levels)
    }
}

impl LevelSums {
    /// Hashes each level once.
    pub(super) fn of(seed: &RandomState, text: &str) -> Self {
        let mut sums = Self {
            sums: [0; MAX_LEVELS + 1],
            levels: 0,
        };
        let mut sum = 0_u64;
        for level in text.split('/') {
            if let Some(next) = sums.sums.get_mut(sums.levels + 1) {
                let mut hasher = seed.build_hasher();
                hasher.write_usize(sums.levels);
                hasher.write(level.as_bytes());
                sum = sum.wrapping_add(hasher.finish());
                *next = sum;
            }
            sums.levels += 1;
        }
        sums
    }

    /// The sum of the levels that `shape` does not leave open.
    fn masked(&self, shape: Shape) -> u64 {
        let mut sum = self.sums[usize::from(shape.levels)];
        let mut plus = shape.plus;
        while plus != 0 {
            let level = plus.trailing_zeros() as usize;
            let hash = self.sums[level + 1].wrapping_sub(self.sums[level]);
            sum = sum.wrapping_sub(hash);
            plus &= plus - 1;
        }
        sum
    }
}

impl<K, V> Default for ShapeTable<K, V> {
    fn default() -> Self {
        Self {
            shapes: Vec::new(),
            entries: HashTable::new(),
        }
    }
}

impl<K: Copy + Eq + Hash, V> ShapeTable<K, V> {
    /// Whether filters of this shape belong here.
    pub(super) fn admits(&self, shape: Shape) -> bool {
        self.shapes.len() < MAX_SHAPES || self.shapes.iter().any(|known| known.shape == shape)
    }

    /// Filters.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Shapes in use.
    pub(super) fn shapes(&self) -> usize {
        self.shapes.len()
    }

    /// Puts a subscriber of a filter whose shape is [admitted](Self::admits), and returns the
    /// value that the key had before.
    pub(super) fn insert(
        &mut self,
        seed: &RandomState,
        (filter, shape): (&Filter, Shape),
        key: K,
        value: V,
    ) -> Option<V> {
        let hash = hash(seed, filter, shape);
        if let Some(entry) = self.entries.find_mut(hash, |entry| entry.filter == *filter) {
            return entry.subscribers.insert(seed, key, value);
        }
        let mut subscribers = Subscribers::default();
        subscribers.insert(seed, key, value);
        let entry = Entry {
            hash,
            shape,
            filter: super::index::detached(filter),
            subscribers,
        };
        self.entries.insert_unique(hash, entry, |entry| entry.hash);
        self.count_in(seed, shape);
        None
    }

    /// Takes a subscriber's value out, and the filter with its last one.
    pub(super) fn remove(
        &mut self,
        seed: &RandomState,
        (filter, shape): (&Filter, Shape),
        key: K,
    ) -> Option<V> {
        let hash = hash(seed, filter, shape);
        let mut found = self
            .entries
            .find_entry(hash, |entry| entry.filter == *filter)
            .ok()?;
        let value = found.get_mut().subscribers.remove(seed, key);
        if found.get().subscribers.is_empty() {
            found.remove();
            self.count_out(shape);
        }
        value
    }

    /// Visits the subscribers of each filter that matches. Allocates nothing.
    pub(super) fn matches(
        &self,
        seed: &RandomState,
        topic: &Topic,
        visit: &mut impl FnMut(&Subscribers<K, V>),
    ) {
        if self.shapes.is_empty() {
            return;
        }
        let sums = LevelSums::of(seed, topic.as_str());
        let system = topic.is_system();
        for known in &self.shapes {
            if !known.shape.fits(sums.levels, system) {
                continue;
            }
            let hash = sums.masked(known.shape).wrapping_add(known.salt);
            let found = self.entries.find(hash, |entry| {
                entry.hash == hash && entry.shape == known.shape && entry.filter.matches(topic)
            });
            if let Some(entry) = found {
                visit(&entry.subscribers);
            }
        }
    }

    fn count_in(&mut self, seed: &RandomState, shape: Shape) {
        if let Some(known) = self.shapes.iter_mut().find(|known| known.shape == shape) {
            known.filters += 1;
        } else {
            self.shapes.push(KnownShape {
                shape,
                salt: seed.hash_one(shape),
                filters: 1,
            });
        }
    }

    fn count_out(&mut self, shape: Shape) {
        if let Some(at) = self.shapes.iter().position(|known| known.shape == shape) {
            self.shapes[at].filters -= 1;
            if self.shapes[at].filters == 0 {
                self.shapes.swap_remove(at);
            }
        }
        if self.entries.capacity() > KEPT && self.entries.len() < self.entries.capacity() / 8 {
            self.entries
                .shrink_to(self.entries.len() * 2, |entry| entry.hash);
        }
    }
}

fn hash(seed: &RandomState, filter: &Filter, shape: Shape) -> u64 {
    LevelSums::of(seed, filter.as_str())
        .masked(shape)
        .wrapping_add(seed.hash_one(shape))
}
