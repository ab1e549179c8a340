//! From a pattern's JSON to rules, and whether a rule matches.
//!
//! `$or` is written out: each way through its alternatives is a [`Rule`] of its own, in which every
//! path has one list of alternatives, the one that was written last.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::PatternError;
use super::document::Document;
use super::json::Json;
use super::leaf::{Leaf, is_reserved};

/// Most combinations that `$or` may make.
const MAX_COMBINATIONS: usize = 1000;

/// What an event must have, by paths.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    root: Place,
    /// The paths that may be absent: presence is a matter of the whole event.
    absent: Vec<Vec<String>>,
}

/// A place of a rule. It may have a list of alternatives and places below it, by dotted names.
#[derive(Clone, Debug, Default)]
struct Place {
    leaf: Option<Arc<Leaf>>,
    /// The leaf's number among the paths that may be absent.
    absent: Option<usize>,
    fields: BTreeMap<String, Place>,
}

/// Paths with their alternatives.
type Flat = BTreeMap<Vec<String>, Arc<Leaf>>;

/// The rules of a pattern, of which one must match.
pub(super) fn compile(pattern: &Json) -> Result<Vec<Rule>, PatternError> {
    let fields = pattern
        .as_object()
        .ok_or_else(|| PatternError::new("it must be an object"))?;
    let too_many = || PatternError::new("$or makes more than 1000 combinations");
    if combinations(pattern) > MAX_COMBINATIONS {
        return Err(too_many());
    }
    let read = |or| {
        let mut compiler = Compiler::new(or);
        compiler.object(fields, false).map(|()| compiler.flats)
    };
    // A `$or` that is none makes each `$or` the name of a field.
    let flats = read(true).or_else(|error| read(false).map_err(|_| error))?;
    if flats.len() > MAX_COMBINATIONS {
        return Err(too_many());
    }
    Ok(flats.into_iter().map(Rule::new).collect())
}

/// How many combinations EventBridge counts: the product of the lengths of all `$or`.
fn combinations(value: &Json) -> usize {
    let fields = value.as_object().unwrap_or_default().iter();
    let each = fields.map(|(name, value)| match value {
        Json::Array(items) if name == "$or" => items
            .iter()
            .map(combinations)
            .fold(items.len().max(1), usize::saturating_mul),
        value => combinations(value),
    });
    each.fold(1, usize::saturating_mul)
}

struct Compiler {
    /// Whether `$or` is the operator.
    or: bool,
    path: Vec<String>,
    flats: Vec<Flat>,
}

impl Compiler {
    fn new(or: bool) -> Self {
        Self {
            or,
            path: Vec::new(),
            flats: vec![Flat::new()],
        }
    }

    fn object(&mut self, fields: &[(String, Json)], in_or: bool) -> Result<(), PatternError> {
        if fields.is_empty() {
            return Err(PatternError::new("an empty object"));
        }
        for (name, value) in fields {
            if self.or && name == "$or" {
                self.alternatives(value)?;
                continue;
            }
            if in_or && is_reserved(name) {
                let what = format!("\"{name}\" cannot be a field's name within $or");
                return Err(PatternError::new(what));
            }
            let above = self.path.len();
            self.path.extend(name.split('.').map(str::to_owned));
            self.field(name, value, in_or)?;
            self.path.truncate(above);
        }
        Ok(())
    }

    fn field(&mut self, name: &str, value: &Json, in_or: bool) -> Result<(), PatternError> {
        match value {
            Json::Object(fields) => self.object(fields, in_or),
            Json::Array(items) if items.is_empty() => {
                Err(PatternError::new(format!("\"{name}\" is an empty array")))
            }
            Json::Array(items) => {
                let leaf = Arc::new(Leaf::parse(items)?);
                for flat in &mut self.flats {
                    flat.insert(self.path.clone(), Arc::clone(&leaf));
                }
                Ok(())
            }
            _ => Err(PatternError::new(format!(
                "\"{name}\" must be an object or an array"
            ))),
        }
    }

    /// Each alternative goes on from what was there before.
    fn alternatives(&mut self, value: &Json) -> Result<(), PatternError> {
        let wrong = || PatternError::new("$or takes an array of at least two objects");
        let items = value.as_array().ok_or_else(wrong)?;
        if items.len() < 2 {
            return Err(wrong());
        }
        let before = std::mem::take(&mut self.flats);
        let mut after = Vec::new();
        for item in items {
            self.flats.clone_from(&before);
            self.object(item.as_object().ok_or_else(wrong)?, true)?;
            after.append(&mut self.flats);
        }
        self.flats = after;
        Ok(())
    }
}

impl Rule {
    fn new(flat: Flat) -> Self {
        let mut rule = Self::default();
        for (path, leaf) in flat {
            let mut place = &mut rule.root;
            for step in &path {
                place = place.fields.entry(step.clone()).or_default();
            }
            if leaf.may_be_absent() {
                place.absent = Some(rule.absent.len());
                rule.absent.push(path);
            }
            place.leaf = Some(leaf);
        }
        rule
    }

    pub(super) fn matches(&self, event: &Document<'_>) -> bool {
        let absent = self.absent.iter().map(|path| !event.has(path)).collect();
        let mut search = Search {
            rule: self,
            absent,
            elements: Vec::new(),
            bound: 0,
        };
        search.place(&self.root, 0, &mut Vec::new(), &[event])
    }
}

/// Looks for elements of arrays, at most one of each, with which a rule matches.
///
/// A path is absent if there is nothing in the elements that a path before it, in the order of names,
/// was found in.
struct Search<'a> {
    rule: &'a Rule,
    /// Whether each path that may be absent is so in all of the event.
    absent: Vec<bool>,
    /// The elements on the way to the present place, and how many steps lead to each.
    elements: Vec<(&'a Document<'a>, usize)>,
    /// In how many of them, from the first on, something was found.
    bound: usize,
}

/// What stands right at a place, and how many elements lead to it.
type Settled<'a> = Vec<(&'a Document<'a>, usize)>;

impl<'a> Search<'a> {
    /// Whether a place matches. Of `settled` what is right there counts, of `open` the elements may
    /// too. `depth` steps lead to it.
    fn place(
        &mut self,
        place: &'a Place,
        depth: usize,
        settled: &mut Settled<'a>,
        open: &[&'a Document<'a>],
    ) -> bool {
        let (known, bound) = (settled.len(), self.bound);
        let elements = self.elements.len();
        settled.extend(open.iter().map(|document| (*document, elements)));
        let mut found = self.fields(place, depth, settled);
        for item in open.iter().flat_map(|document| &document.items) {
            if found {
                break;
            }
            self.bound = bound;
            self.elements.push((item, depth));
            found = self.place(place, depth, settled, &[item]);
            self.elements.pop();
        }
        settled.truncate(known);
        self.bound = if found {
            self.bound.min(elements)
        } else {
            bound
        };
        found
    }

    fn fields(&mut self, place: &'a Place, depth: usize, settled: &Settled<'a>) -> bool {
        self.leaf(place, settled)
            && place.fields.iter().all(|(name, place)| {
                let fields = settled
                    .iter()
                    .filter_map(|(document, _)| document.fields.get(name.as_str()));
                let fields: Vec<_> = fields.collect();
                self.place(place, depth + 1, &mut Vec::new(), &fields)
            })
    }

    fn leaf(&mut self, place: &Place, settled: &Settled<'a>) -> bool {
        let Some(leaf) = &place.leaf else {
            return true;
        };
        for (document, elements) in settled {
            if document.scalars.iter().any(|scalar| leaf.matches(scalar)) {
                self.bound = self.bound.max(*elements);
                return true;
            }
        }
        place.absent.is_some_and(|number| self.is_absent(number))
    }

    fn is_absent(&self, number: usize) -> bool {
        let last = self.bound.checked_sub(1);
        match last.and_then(|last| self.elements.get(last)) {
            None => self.absent[number],
            Some((element, depth)) => {
                self.absent[number] || !element.has(&self.rule.absent[number][*depth..])
            }
        }
    }
}
