//! Route selection expressions, as API Gateway reads them: what a message's content says about its
//! route.
//!
//! `$request.body.PATH`, the same in braces (`${request.body.PATH}`), text between them, and `\$` for
//! a dollar sign. A path has names with points between, `[0]` and `["name"]`. What is not there is the
//! empty text; numbers, lists and objects are written as JSON.

use serde_json::Value;

/// An expression that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Body(Vec<Step>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(usize),
}

const BODY: &str = "request.body";

impl Expression {
    /// Reads an expression, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some(behind) = rest.strip_prefix("\\$") {
                plain.push('$');
                rest = behind;
            } else if first == '$' {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                let (part, behind) = variable(&rest[1..])?;
                parts.push(part);
                rest = behind;
            } else {
                plain.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        if parts.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self(parts))
    }

    /// What it says about a message; `None` if it asks for the content and that is not JSON.
    pub(super) fn evaluate(&self, message: &str) -> Option<String> {
        let asks = self.0.iter().any(|part| matches!(part, Part::Body(_)));
        let content: Value = if asks {
            serde_json::from_str(message).ok()?
        } else {
            Value::Null
        };
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Body(path) => shown(find(&content, path)),
        });
        Some(parts.collect())
    }
}

/// Reads what stands behind a dollar sign, and returns what is left.
fn variable(text: &str) -> Result<(Part, &str), String> {
    let (inner, behind) = match text.strip_prefix('{') {
        Some(braced) => braced
            .split_once('}')
            .ok_or("a `${` has no `}`".to_owned())?,
        None => text.split_at(length(text)),
    };
    let path = inner
        .strip_prefix(BODY)
        .ok_or_else(|| format!("`${inner}` is not `$request.body` and a path"))?;
    Ok((Part::Body(parse_path(path)?), behind))
}

/// Bytes of a variable without braces: names with points between, and indices.
fn length(text: &str) -> usize {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'[' => match text[at..].find(']') {
                Some(end) => at += end + 1,
                None => return at,
            },
            b'.' if bytes.get(at + 1).is_some_and(|next| is_name(*next)) => at += 1,
            byte if is_name(byte) => at += 1,
            _ => return at,
        }
    }
    at
}

fn parse_path(text: &str) -> Result<Vec<Step>, String> {
    let wrong = || format!("`{text}` is not a path: `.name`, `[0]` and `[\"name\"]` are");
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(name) = rest.strip_prefix('.') {
            let end = name.find(['.', '[']).unwrap_or(name.len());
            if end == 0 {
                return Err(wrong());
            }
            steps.push(Step::Name(name[..end].to_owned()));
            rest = &name[end..];
        } else {
            let inner = rest.strip_prefix('[').ok_or_else(wrong)?;
            let (inner, behind) = inner.split_once(']').ok_or_else(wrong)?;
            let quoted = ['"', '\''].iter().find_map(|quote| {
                inner
                    .strip_prefix(*quote)
                    .and_then(|name| name.strip_suffix(*quote))
            });
            steps.push(match quoted {
                Some(name) => Step::Name(name.to_owned()),
                None => Step::Index(inner.parse().map_err(|_| wrong())?),
            });
            rest = behind;
        }
    }
    Ok(steps)
}

fn find<'a>(content: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(content, |value, step| match step {
        Step::Name(name) => value.get(name),
        Step::Index(index) => value.get(index),
    })
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn evaluate(expression: &str, message: &str) -> Option<String> {
        Expression::parse(expression).unwrap().evaluate(message)
    }

    #[test]
    fn what_the_grammar_allows() {
        let message = r#"{"action":"send","n":7,"a":{"b":[1,{"c":"x"}]},"odd name":true,"z":null}"#;
        for (expression, value) in [
            ("$request.body.action", "send"),
            ("${request.body.action}", "send"),
            ("${request.body.a.b}", r#"[1,{"c":"x"}]"#),
            ("$request.body.a.b[1].c", "x"),
            ("$request.body['odd name']", "true"),
            ("$request.body.n", "7"),
            ("$request.body.missing.deep", ""),
            ("$request.body.z", ""),
            ("${request.body.action}/${request.body.n}", "send/7"),
            ("$request.body.action/$request.body.n", "send/7"),
            ("$request.body.action.", "send."),
            ("\\$default", "$default"),
            ("constant", "constant"),
        ] {
            let found = evaluate(expression, message);
            assert_eq!(found.as_deref(), Some(value), "{expression}");
        }
        assert_eq!(
            evaluate("$request.body", "[1, 2]").as_deref(),
            Some("[1,2]")
        );
    }

    #[test]
    fn what_is_no_json_says_nothing() {
        assert_eq!(evaluate("$request.body.action", "hello"), None);
        assert_eq!(evaluate("constant", "hello").as_deref(), Some("constant"));
        assert_eq!(evaluate("$request.body.action", "[]").as_deref(), Some(""));
        let deep = "[".repeat(100_000);
        assert_eq!(evaluate("$request.body.action", &deep), None);
    }

    #[test]
    fn mistakes_are_refused() {
        for text in [
            "",
            "$",
            "$context.x",
            "${request.body.x",
            "$request.body[x]",
            "${request.body..x}",
            "$default",
        ] {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }
}
