//! Whether filters cover or touch another filter.
//!
//! Both answers are exact for topics of any depth and any names. The idea behind [`covered`]: at a
//! `+` of the filter that is to be covered, the hardest topic is one whose level has a name that no
//! other filter mentions, because every filter that matches it there matches all other names there
//! as well. So one walk along such names decides for all topics.

use protocols::model::Filter;

/// One of the covering filters on the walk: its levels that are still ahead.
struct Walker<'a> {
    levels: Vec<&'a str>,
    /// It has met its `#`: it matches whatever comes.
    rest: bool,
}

/// Whether each topic of `filter` is matched by at least one of `others`.
pub(super) fn covered<'a>(filter: &Filter, others: impl Iterator<Item = &'a Filter>) -> bool {
    let mut walkers: Vec<Walker<'_>> = others
        .map(|other| Walker {
            levels: other.levels().collect(),
            rest: false,
        })
        .collect();
    let mut depth = 0;
    // `/#` would match the empty topic too, which there is not [MQTT-4.7.3-1].
    let empty = filter.as_str() == "/#";
    for level in filter.levels() {
        if walkers.is_empty() {
            return false;
        }
        match level {
            "#" => return covered_below(&mut walkers, depth, empty),
            "+" => step(&mut walkers, depth, None),
            name => step(&mut walkers, depth, Some(name)),
        }
        depth += 1;
    }
    ends(&walkers, depth)
}

/// Whether the walkers match all that lies below here, and the level here itself
/// unless that is `empty`.
fn covered_below(walkers: &mut Vec<Walker<'_>>, mut depth: usize, mut empty: bool) -> bool {
    loop {
        // A topic has at least one level.
        if depth > 0 && !std::mem::take(&mut empty) && !ends(walkers, depth) {
            return false;
        }
        if walkers.iter().any(|walker| walker.rest) {
            return true;
        }
        if walkers.is_empty() {
            return false;
        }
        step(walkers, depth, None);
        depth += 1;
    }
}

/// Goes one level down, by its name or by one that nobody knows, and leaves those behind that do
/// not match it.
fn step(walkers: &mut Vec<Walker<'_>>, depth: usize, name: Option<&str>) {
    let is_system = depth == 0 && name.is_some_and(|name| name.starts_with('$'));
    walkers.retain_mut(|walker| {
        if walker.rest {
            return true;
        }
        match walker.levels.get(depth).copied() {
            Some("#") if !is_system => {
                walker.rest = true;
                true
            }
            Some("+") => !is_system,
            Some("#") | None => false,
            Some(level) => Some(level) == name,
        }
    });
}

/// Whether one of the walkers matches a topic that ends here.
fn ends(walkers: &[Walker<'_>], depth: usize) -> bool {
    walkers.iter().any(|walker| {
        walker.rest || walker.levels.len() == depth || walker.levels.get(depth) == Some(&"#")
    })
}

/// Whether there is a topic that both filters match.
pub(super) fn overlaps(one: &Filter, other: &Filter) -> bool {
    let is_wild = |filter: &Filter| filter.as_str().starts_with(['+', '#']);
    let is_system = |filter: &Filter| filter.as_str().starts_with('$');
    if (is_wild(one) && is_system(other)) || (is_wild(other) && is_system(one)) {
        return false;
    }
    // The only topic that both would match is the empty one, which there is not [MQTT-4.7.3-1].
    if matches!((one.as_str(), other.as_str()), ("/#", "+") | ("+", "/#")) {
        return false;
    }
    let (mut ones, mut others) = (one.levels(), other.levels());
    loop {
        match (ones.next(), others.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (Some(a), Some(b)) if a == "+" || b == "+" || a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::parse(text.to_owned().into(), 256, 32).unwrap()
    }

    fn is_covered(text: &str, others: &[&str]) -> bool {
        let others: Vec<_> = others.iter().map(|text| filter(text)).collect();
        covered(&filter(text), others.iter())
    }

    #[test]
    fn one_filter_covers_another() {
        for (text, other, expected) in [
            ("a/b", "a/b", true),
            ("a/#", "a/b", false),
            ("a/b", "a/+", true),
            ("a/+", "a/+", true),
            ("a/#", "a/+", false),
            ("a/+", "a/#", true),
            ("a", "a/#", true),
            ("a/b/#", "a/#", true),
            ("a/b/#", "a/+/#", true),
            ("a/#", "a/+/#", false),
            ("#", "+/#", true),
            ("+/#", "#", true),
            ("#", "+", false),
            ("+", "#", true),
            ("+", "a", false),
            ("/a", "a", false),
            ("/a", "+/a", true),
            ("/a", "/+", true),
            ("/#", "+/+/#", true),
            ("/#", "/+", false),
            ("+/+", "/+", false),
            ("a", "A", false),
            ("a/b", "a", false),
            ("a", "a/b", false),
            ("$SYS/x", "#", false),
            ("$SYS/x", "+/x", false),
            ("$SYS/#", "#", false),
            ("$SYS/x", "$SYS/#", true),
            ("#", "$SYS/#", false),
            ("a/b/c", "a/b/#", true),
            ("a/", "a/+", true),
            ("a/", "a", false),
        ] {
            assert_eq!(is_covered(text, &[other]), expected, "{text} by {other}");
        }
    }

    #[test]
    fn several_filters_cover_together() {
        assert!(is_covered("a/#", &["a", "a/+", "a/+/+/#"]));
        assert!(!is_covered("a/#", &["a", "a/+", "a/+/b/#"]));
        assert!(is_covered("#", &["+", "+/+/#"]));
        assert!(!is_covered("+/b", &["a/b", "b/b"]));
        assert!(!is_covered("a", &[]));
        assert!(!is_covered("#", &[]));
    }

    #[test]
    fn filters_touch() {
        for (one, other, expected) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "a", false),
            ("a/+/c", "a/b/+", true),
            ("a/+/c", "a/b/d", false),
            ("#", "a/b", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("+/+", "a", false),
            ("/#", "+", false),
            ("/#", "+/#", true),
        ] {
            assert_eq!(overlaps(&filter(one), &filter(other)), expected);
            assert_eq!(overlaps(&filter(other), &filter(one)), expected);
        }
    }
}
