//! Answers of an authorizer of the type REQUEST: an IAM policy and a context.

use serde_json::{Map, Value};

use super::event::Upgrade;

/// Bytes of an authorizer's answer, as at API Gateway.
const ANSWER_BYTES: usize = 8 * 1024;

/// What an authorizer decided.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    /// Who the client is, and `requestContext.authorizer` of its events.
    Allowed(String, Map<String, Value>),
    /// Not allowed (403).
    Denied,
    /// The answer makes no sense (500).
    Broken,
}

/// Whether a request has what the authorizer is asked about.
pub(super) fn has_sources(sources: &[String], upgrade: &Upgrade) -> bool {
    sources.iter().all(|source| {
        let found = if let Some(name) = source.strip_prefix("route.request.header.") {
            upgrade.header(name)
        } else if let Some(name) = source.strip_prefix("route.request.querystring.") {
            upgrade.parameter(name)
        } else {
            None
        };
        found.is_some_and(|value| !value.is_empty())
    })
}

/// Reads an answer: whether its policy allows `execute-api:Invoke` of `arn`. A denial counts more.
pub(super) fn decide(answer: &Value, arn: &str, latency_ms: u64) -> Decision {
    if answer.to_string().len() > ANSWER_BYTES {
        return Decision::Broken;
    }
    let Some(object) = answer.as_object() else {
        return Decision::Broken;
    };
    let principal = match object.get("principalId") {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        _ => return Decision::Denied,
    };
    let Some(statements) = object
        .get("policyDocument")
        .and_then(|policy| policy.get("Statement"))
    else {
        return Decision::Denied;
    };
    let mut allowed = false;
    for statement in list(statements) {
        let fits = |name: &str, wanted: &str| {
            let patterns = statement.get(name).map(list).unwrap_or_default();
            let mut patterns = patterns.into_iter().filter_map(Value::as_str);
            patterns.any(|pattern| matches(pattern.as_bytes(), wanted.as_bytes()))
        };
        if !fits("Action", "execute-api:Invoke") || !fits("Resource", arn) {
            continue;
        }
        match statement.get("Effect").and_then(Value::as_str) {
            Some("Allow") => allowed = true,
            _ => return Decision::Denied,
        }
    }
    if !allowed {
        return Decision::Denied;
    }
    let mut context = Map::new();
    match object.get("context") {
        None | Some(Value::Null) => {}
        Some(Value::Object(given)) => {
            for (name, value) in given {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(_) | Value::Bool(_) => value.to_string(),
                    Value::Null => continue,
                    _ => return Decision::Broken,
                };
                context.insert(name.clone(), text.into());
            }
        }
        Some(_) => return Decision::Broken,
    }
    context.insert("principalId".to_owned(), principal.clone().into());
    context.insert("integrationLatency".to_owned(), latency_ms.into());
    Decision::Allowed(principal, context)
}

/// One thing or a list of them.
fn list(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        other => vec![other],
    }
}

/// Whether a pattern with `*` and `?` matches all of a text.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Where to go on if what follows the last star does not fit: never further back than that.
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, read));
                at += 1;
            }
            Some(byte) if *byte == b'?' || byte.eq_ignore_ascii_case(&text[read]) => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((behind, from)) => {
                    star = Some((behind, from + 1));
                    (at, read) = (behind, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ARN: &str = "arn:aws:execute-api:us-east-1:000000000000:polycast/prod/$connect";

    fn answer(statements: &Value) -> Value {
        json!({"principalId": "ann", "context": {"n": 1, "t": true, "s": "x"},
               "policyDocument": {"Version": "2012-10-17", "Statement": statements}})
    }

    fn statement(effect: &str, resource: &str) -> Value {
        json!({"Action": "execute-api:Invoke", "Effect": effect, "Resource": resource})
    }

    #[test]
    fn an_allowed_client_has_its_context_as_texts() {
        let decision = decide(&answer(&json!([statement("Allow", ARN)])), ARN, 7);
        let Decision::Allowed(principal, context) = decision else {
            panic!("{decision:?}");
        };
        assert_eq!(principal, "ann");
        assert_eq!(
            Value::Object(context),
            json!({"n": "1", "t": "true", "s": "x", "principalId": "ann", "integrationLatency": 7})
        );
    }

    #[test]
    fn policies_are_read_as_iam_reads_them() {
        let allows = |statements: &Value| {
            matches!(decide(&answer(statements), ARN, 0), Decision::Allowed(..))
        };
        assert!(allows(&statement("Allow", "*")));
        assert!(allows(&json!([statement(
            "Allow",
            "arn:aws:execute-api:*:*:*/prod/*"
        )])));
        assert!(allows(
            &json!([{"Action": ["x", "execute-api:*"], "Effect": "Allow",
                                "Resource": ["nothing", "arn:aws:*/?rod/$connect"]}])
        ));
        assert!(!allows(&json!([])));
        assert!(!allows(&json!([statement("Allow", "arn:aws:*/test/*")])));
        assert!(!allows(&json!([
            statement("Allow", "*"),
            statement("Deny", ARN)
        ])));
        assert!(!allows(
            &json!([{"Action": "sqs:*", "Effect": "Allow", "Resource": "*"}])
        ));
        assert!(!allows(&json!([{"Effect": "Allow", "Resource": "*"}])));
    }

    #[test]
    fn what_is_no_policy_lets_nobody_in() {
        for (value, expected) in [
            (json!(null), Decision::Broken),
            (json!("Unauthorized"), Decision::Broken),
            (json!({}), Decision::Denied),
            (json!({"principalId": "a"}), Decision::Denied),
            (
                json!({"principalId": "", "policyDocument": {"Statement": []}}),
                Decision::Denied,
            ),
        ] {
            assert_eq!(decide(&value, ARN, 0), expected, "{value}");
        }
        let mut nested = answer(&json!([statement("Allow", "*")]));
        nested["context"] = json!({"a": {"b": 1}});
        assert_eq!(decide(&nested, ARN, 0), Decision::Broken);
        nested["context"] = json!({"a": "x".repeat(9000)});
        assert_eq!(decide(&nested, ARN, 0), Decision::Broken);
    }

    #[test]
    fn sources_must_be_there() {
        let upgrade = Upgrade {
            headers: vec![("Authorization".into(), "x".into())],
            query: vec![("token".into(), String::new())],
        };
        let has = |source: &str| has_sources(&[source.to_owned()], &upgrade);
        assert!(has("route.request.header.authorization"));
        assert!(!has("route.request.header.Cookie"));
        assert!(!has("route.request.querystring.token"));
        assert!(!has("nonsense"));
    }
}
