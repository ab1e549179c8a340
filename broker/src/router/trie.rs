//! Wildcard filters that have no place among the [shapes](super::shapes): a trie whose edges are
//! in one hash table.
//!
//! It holds filters of any shape and depth, at a higher price: a match visits every node that
//! agrees with a beginning of the topic. Nodes are counted by their children and go with the
//! last filter below them. Nothing here recurses.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use protocols::model::{Filter, Topic};
use slab::Slab;
use smallvec::SmallVec;

use super::subscribers::Subscribers;

/// Levels of a topic, and the nodes waiting to be visited, that need no allocation.
const INLINE: usize = 64;

/// Filters by their levels.
pub(super) struct EdgeTrie<K, V> {
    nodes: Slab<Node<K, V>>,
    /// By parent and level.
    edges: HashTable<Edge>,
    filters: usize,
}

struct Edge {
    hash: u64,
    child: usize,
}

struct Node<K, V> {
    /// The node above; the root's own key for the root.
    parent: usize,
    level: Box<str>,
    edge_hash: u64,
    children: usize,
    /// Subscribers of the filter that ends here.
    exact: Subscribers<K, V>,
    /// Subscribers of the filter that ends here with `#`.
    tail: Subscribers<K, V>,
}

impl<K: Copy + Eq + Hash, V> EdgeTrie<K, V> {
    pub(super) fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::below(0, "", 0));
        Self {
            nodes,
            edges: HashTable::new(),
            filters: 0,
        }
    }

    /// Filters.
    pub(super) fn len(&self) -> usize {
        self.filters
    }

    /// Whether the filter has a subscriber here.
    pub(super) fn contains(&self, seed: &RandomState, filter: &Filter) -> bool {
        self.filters > 0
            && self
                .find(seed, filter)
                .is_some_and(|(node, tail)| !self.nodes[node].subscribers(tail).is_empty())
    }

    /// Puts a subscriber, and returns the value that the key had before.
    pub(super) fn insert(
        &mut self,
        seed: &RandomState,
        filter: &Filter,
        key: K,
        value: V,
    ) -> Option<V> {
        let mut node = ROOT;
        let mut tail = false;
        for level in filter.levels() {
            if level == "#" {
                tail = true;
                break;
            }
            let hash = edge_hash(seed.hash_one(level), node);
            node = match self.child(node, level, hash) {
                Some(child) => child,
                None => self.add(node, level, hash),
            };
        }
        let subscribers = self.nodes[node].subscribers_mut(tail);
        let is_new = subscribers.is_empty();
        let before = subscribers.insert(seed, key, value);
        self.filters += usize::from(is_new);
        before
    }

    /// Takes a subscriber's value out, and with the last one the nodes that only its filter
    /// needed.
    pub(super) fn remove(&mut self, seed: &RandomState, filter: &Filter, key: K) -> Option<V> {
        let (node, tail) = self.find(seed, filter)?;
        let subscribers = self.nodes[node].subscribers_mut(tail);
        let value = subscribers.remove(seed, key)?;
        if subscribers.is_empty() {
            self.filters -= 1;
            self.prune(node);
        }
        Some(value)
    }

    /// Visits the subscribers of each filter that matches.
    pub(super) fn matches(
        &self,
        seed: &RandomState,
        topic: &Topic,
        visit: &mut impl FnMut(&Subscribers<K, V>),
    ) {
        if self.filters == 0 {
            return;
        }
        let levels: SmallVec<[(&str, u64); INLINE]> = topic
            .levels()
            .map(|level| (level, seed.hash_one(level)))
            .collect();
        let plus = seed.hash_one("+");
        let system = topic.is_system();
        let mut waiting: SmallVec<[(usize, usize); INLINE]> = SmallVec::new();
        waiting.push((ROOT, 0));
        while let Some((at, depth)) = waiting.pop() {
            let node = &self.nodes[at];
            let wild = depth > 0 || !system;
            if wild && !node.tail.is_empty() {
                visit(&node.tail);
            }
            let Some((level, hash)) = levels.get(depth) else {
                if !node.exact.is_empty() {
                    visit(&node.exact);
                }
                continue;
            };
            let literal = self.child(at, level, edge_hash(*hash, at));
            waiting.extend(literal.map(|child| (child, depth + 1)));
            if wild {
                let plus = self.child(at, "+", edge_hash(plus, at));
                waiting.extend(plus.map(|child| (child, depth + 1)));
            }
        }
    }

    fn find(&self, seed: &RandomState, filter: &Filter) -> Option<(usize, bool)> {
        let mut node = ROOT;
        for level in filter.levels() {
            if level == "#" {
                return Some((node, true));
            }
            node = self.child(node, level, edge_hash(seed.hash_one(level), node))?;
        }
        Some((node, false))
    }

    fn child(&self, parent: usize, level: &str, hash: u64) -> Option<usize> {
        let found = self.edges.find(hash, |edge| {
            let node = &self.nodes[edge.child];
            edge.hash == hash && node.parent == parent && *node.level == *level
        });
        found.map(|edge| edge.child)
    }

    fn add(&mut self, parent: usize, level: &str, hash: u64) -> usize {
        let child = self.nodes.insert(Node::below(parent, level, hash));
        self.nodes[parent].children += 1;
        self.edges
            .insert_unique(hash, Edge { hash, child }, |edge| edge.hash);
        child
    }

    /// Removes the node and its ancestors as long as nothing needs them.
    fn prune(&mut self, mut at: usize) {
        while at != ROOT && self.nodes[at].is_unused() {
            let node = self.nodes.remove(at);
            if let Ok(edge) = self
                .edges
                .find_entry(node.edge_hash, |edge| edge.child == at)
            {
                edge.remove();
            }
            at = node.parent;
            self.nodes[at].children -= 1;
        }
        if self.filters == 0 {
            *self = Self::new();
        }
    }
}

/// The key of the first node of a slab.
const ROOT: usize = 0;

impl<K: Copy + Eq + Hash, V> Node<K, V> {
    fn below(parent: usize, level: &str, edge_hash: u64) -> Self {
        Self {
            parent,
            level: level.into(),
            edge_hash,
            children: 0,
            exact: Subscribers::default(),
            tail: Subscribers::default(),
        }
    }

    fn subscribers(&self, tail: bool) -> &Subscribers<K, V> {
        if tail { &self.tail } else { &self.exact }
    }

    fn subscribers_mut(&mut self, tail: bool) -> &mut Subscribers<K, V> {
        if tail {
            &mut self.tail
        } else {
            &mut self.exact
        }
    }

    fn is_unused(&self) -> bool {
        self.children == 0 && self.exact.is_empty() && self.tail.is_empty()
    }
}

/// The keyed hash of the level, moved on by its parent.
fn edge_hash(level: u64, parent: usize) -> u64 {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    level.wrapping_add((parent as u64).wrapping_mul(SPREAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::parse(text.into(), 65_535, 128).unwrap()
    }

    #[test]
    fn nodes_go_with_their_last_filter() {
        let seed = RandomState::default();
        let mut trie = EdgeTrie::new();
        for text in ["a/+/c", "a/+/#", "a/+", "#"] {
            assert_eq!(trie.insert(&seed, &filter(text), 1, text), None);
        }
        assert_eq!(trie.insert(&seed, &filter("a/+"), 1, "again"), Some("a/+"));
        assert_eq!((trie.len(), trie.nodes.len(), trie.edges.len()), (4, 4, 3));
        assert_eq!(trie.remove(&seed, &filter("a/+/c"), 1), Some("a/+/c"));
        assert_eq!(trie.remove(&seed, &filter("a/+/c"), 1), None);
        assert_eq!((trie.len(), trie.nodes.len(), trie.edges.len()), (3, 3, 2));
        assert!(trie.contains(&seed, &filter("a/+")));
        assert_eq!(trie.remove(&seed, &filter("a/+"), 1), Some("again"));
        assert!(!trie.contains(&seed, &filter("a/+")));
        assert_eq!(trie.remove(&seed, &filter("a/+/#"), 1), Some("a/+/#"));
        assert_eq!(trie.remove(&seed, &filter("a/+/#"), 2), None);
        assert_eq!((trie.len(), trie.nodes.len(), trie.edges.len()), (1, 1, 0));
    }

    #[test]
    fn a_match_with_every_combination_of_wildcards_visits_each_once() {
        let seed = RandomState::default();
        let mut trie = EdgeTrie::new();
        for combination in 0_u32..1 << 10 {
            let levels: Vec<_> = (0..10)
                .map(|level| {
                    if combination >> level & 1 == 1 {
                        "+"
                    } else {
                        "a"
                    }
                })
                .collect();
            trie.insert(&seed, &filter(&levels.join("/")), combination, combination);
        }
        let topic = Topic::parse(["a"; 10].join("/").into(), 64, 16).unwrap();
        let mut found = Vec::new();
        trie.matches(&seed, &topic, &mut |subscribers| {
            found.extend(subscribers.values().copied());
        });
        found.sort_unstable();
        assert_eq!(found, (0..1 << 10).collect::<Vec<_>>());
    }
}
