//! Counters that are found by their labels when something happens: for what is rare.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use super::Text;
use crate::telemetry::Counter;

/// Counters that appear when their labels first do.
#[derive(Debug)]
pub(super) struct Family<const N: usize>(RwLock<BTreeMap<[&'static str; N], Counter>>);

impl<const N: usize> Default for Family<N> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<const N: usize> Family<N> {
    pub(super) fn inc(&self, labels: [&'static str; N]) {
        if let Some(counter) = self.0.read().get(&labels) {
            return counter.inc();
        }
        self.0.write().entry(labels).or_default().inc();
    }

    pub(super) fn render(&self, text: &mut Text, name: &str, help: &str, labels: [&str; N]) {
        text.family(name, "counter", help);
        for (values, counter) in self.0.read().iter() {
            let pairs = std::array::from_fn::<_, N, _>(|index| (labels[index], values[index]));
            text.sample(name, &pairs, counter.value());
        }
    }
}
