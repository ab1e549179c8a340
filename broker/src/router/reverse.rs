//! The reverse match: which of many topics does a filter match, without looking at all of them.
//!
//! Topics are kept in order, level by level, so those below a level stand together. A walk goes
//! through them from the left; a topic that does not match tells the smallest one behind it that
//! could, and the walk leaps there. So the cost is that of the matches and of the branches under
//! `+`, not of the topics in between. There is no recursion and no state but the last topic, so
//! a walk can stop anywhere and go on later.

use std::cmp::Ordering;
use std::sync::Arc;

use bytestring::ByteString;
use protocols::model::{Filter, Topic};
use smallvec::SmallVec;

/// A topic with NUL, which no topic contains, for `/`: then the order of the bytes is that of the
/// levels, and `a/b` comes before `a!`.
pub(super) type Key = Arc<[u8]>;

/// What takes the place of `/`.
const SEPARATOR: u8 = 0;

/// The byte after the separator: with it begins what follows a level and all below it.
const AFTER_SEPARATOR: u8 = 1;

/// Where the topics end that begin with `$`.
const AFTER_SYSTEM: u8 = b'$' + 1;

/// A filter on its way through topics in order.
pub(super) struct Walk<'a> {
    levels: SmallVec<[&'a [u8]; 32]>,
    tail: bool,
}

/// What a topic means for the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It matches; the next topic may, too.
    Match,
    /// It does not, and none does before the place that was written to `leap`.
    Leap,
    /// It does not, and none behind it does.
    End,
}

/// The key of a topic.
pub(super) fn key(topic: &Topic) -> Key {
    let bytes = topic.as_str().bytes();
    bytes
        .map(|byte| if byte == b'/' { SEPARATOR } else { byte })
        .collect()
}

/// The topic of a key.
pub(super) fn topic(key: &[u8]) -> Option<Topic> {
    let bytes = key.iter();
    let bytes = bytes.map(|byte| if *byte == SEPARATOR { b'/' } else { *byte });
    let text = ByteString::try_from(bytes.collect::<Vec<u8>>()).ok()?;
    Topic::parse(text, usize::MAX, usize::MAX).ok()
}

impl<'a> Walk<'a> {
    pub(super) fn of(filter: &'a Filter) -> Self {
        let mut walk = Self {
            levels: filter.levels().map(str::as_bytes).collect(),
            tail: false,
        };
        if walk.levels.last() == Some(&&b"#"[..]) {
            walk.tail = true;
            walk.levels.pop();
        }
        walk
    }

    /// Writes the smallest place where a match can be to `leap`.
    pub(super) fn start(&self, leap: &mut Vec<u8>) {
        leap.clear();
        self.descend(0, leap);
    }

    /// Judges a topic `[MQTT-4.7.1-2]` `[MQTT-4.7.1-3]` `[MQTT-4.7.2-1]`.
    pub(super) fn judge(&self, key: &[u8], leap: &mut Vec<u8>) -> Verdict {
        let system = key.first() == Some(&b'$');
        if system && self.levels.first().is_none_or(|level| *level == b"+") {
            return leap_to(leap, &[], AFTER_SYSTEM);
        }
        // The key's level that is looked at begins at `at`; `None` behind the last one.
        let mut at = Some(0);
        let mut last_plus = None;
        for (depth, wanted) in self.levels.iter().enumerate() {
            let Some(begin) = at else {
                leap.clear();
                leap.extend_from_slice(key);
                self.descend(depth, leap);
                return Verdict::Leap;
            };
            let length = key[begin..].iter().position(|byte| *byte == SEPARATOR);
            let end = length.map(|length| begin + length);
            let level = &key[begin..end.unwrap_or(key.len())];
            if *wanted == b"+" {
                last_plus = Some(begin + level.len());
            } else {
                match level.cmp(wanted) {
                    Ordering::Equal => {}
                    Ordering::Less => {
                        leap.clear();
                        leap.extend_from_slice(&key[..begin]);
                        leap.extend_from_slice(wanted);
                        self.descend(depth + 1, leap);
                        return Verdict::Leap;
                    }
                    Ordering::Greater => return past(last_plus, key, leap),
                }
            }
            at = end.map(|end| end + 1);
        }
        if self.tail || at.is_none() {
            Verdict::Match
        } else {
            past(last_plus, key, leap)
        }
    }

    /// Extends a beginning of `depth` levels to the smallest one that can match.
    fn descend(&self, depth: usize, leap: &mut Vec<u8>) {
        for (depth, level) in self.levels.iter().enumerate().skip(depth) {
            if depth > 0 {
                leap.push(SEPARATOR);
            }
            if *level == b"+" {
                return;
            }
            leap.extend_from_slice(level);
        }
    }
}

/// Leaps over all that have the key's level under the last `+`, which ends at `last_plus`.
fn past(last_plus: Option<usize>, key: &[u8], leap: &mut Vec<u8>) -> Verdict {
    match last_plus {
        Some(end) => leap_to(leap, &key[..end], AFTER_SEPARATOR),
        None => Verdict::End,
    }
}

fn leap_to(leap: &mut Vec<u8>, beginning: &[u8], then: u8) -> Verdict {
    leap.clear();
    leap.extend_from_slice(beginning);
    leap.push(then);
    Verdict::Leap
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{filter, filters, topic, topics};
    use super::*;

    fn judged(wanted: &str, on: &str) -> (Verdict, String) {
        let (wanted, mut leap) = (filter(wanted), Vec::new());
        let verdict = Walk::of(&wanted).judge(&key(&topic(on)), &mut leap);
        (verdict, String::from_utf8(leap).unwrap().replace('\0', "/"))
    }

    #[test]
    fn leaps_to_the_next_place_that_can_match() {
        for (wanted, on, to) in [
            ("b/c", "a", "b/c"),
            ("b/+/d/e", "a/z", "b/"),
            ("b/+/d/e", "b", "b/"),
            ("b/+/d/e", "b/x", "b/x/d/e"),
            ("b/+/d/e", "b/x/c/z", "b/x/d/e"),
            ("b/+/d/e", "b/x/d/f", "b/x\u{1}"),
            ("b/+/d/e", "b/x/d/e/f", "b/x\u{1}"),
            ("b/+/+", "b/x/y/z", "b/x/y\u{1}"),
            ("+/b", "$SYS/b", "%"),
            ("#", "$SYS", "%"),
            ("b/c/#", "b", "b/c"),
        ] {
            assert_eq!(
                judged(wanted, on),
                (Verdict::Leap, to.into()),
                "{wanted} on {on}"
            );
        }
        for (wanted, on) in [
            ("b/c", "b/d"),
            ("b/c/#", "c"),
            ("b", "b/a"),
            ("$a/+", "b/c"),
        ] {
            assert_eq!(judged(wanted, on).0, Verdict::End, "{wanted} on {on}");
        }
    }

    proptest! {
        /// No match is leapt over, every leap leads forward, and a match is one.
        #[test]
        fn a_verdict_is_true(wanted in filters(), on in topics(), other in topics()) {
            let (walk, mut leap) = (Walk::of(&wanted), Vec::new());
            let (from, later) = (key(&on), key(&other));
            walk.start(&mut leap);
            prop_assert!(!wanted.matches(&other) || *later >= *leap);
            let verdict = walk.judge(&from, &mut leap);
            prop_assert_eq!(verdict == Verdict::Match, wanted.matches(&on));
            if verdict == Verdict::Leap {
                prop_assert!(*leap > *from);
            }
            if later > from && wanted.matches(&other) {
                prop_assert!(verdict != Verdict::End);
                prop_assert!(verdict != Verdict::Leap || *later >= *leap);
            }
        }

        #[test]
        fn the_order_is_that_of_the_levels(a in topics(), b in topics()) {
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.levels().cmp(b.levels()));
        }
    }
}
