//! The decision against a plain one, and the stories that the rules tell.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use protocols::model::{Filter, Topic};
use serde_json::{Value, json};

use super::*;

fn topic(text: &str) -> Topic {
    Topic::parse(text.to_owned().into(), 1024, 64).unwrap()
}

fn filter(text: &str) -> Filter {
    Filter::parse(text.to_owned().into(), 1024, 64).unwrap()
}

fn policy(unmatched: bool, rules: &Value) -> Policy {
    let rules = rules.as_array().unwrap().iter();
    Policy {
        rules: rules.map(|rule| Rule::from_json(rule).unwrap()).collect(),
        unmatched,
    }
}

fn user(name: &str) -> Identity {
    Identity {
        user: Some(name.to_owned().into()),
        ..Identity::default()
    }
}

fn with_claims(name: &str, claims: &Value) -> Identity {
    Identity {
        claims: claims.as_object().cloned().unwrap(),
        ..user(name)
    }
}

fn permissions(unmatched: bool, rules: &Value, who: &Identity) -> Permissions {
    let access = Access::default();
    access.set(policy(unmatched, rules));
    let found = access.permissions(who, "c1", "mqtt").unwrap();
    Arc::unwrap_or_clone(found.expect("not everything is allowed"))
}

#[test]
fn without_rules_everything_is_allowed_at_no_cost() {
    let access = Access::default();
    assert!(
        access
            .permissions(&user("u"), "c", "mqtt")
            .unwrap()
            .is_none()
    );
    assert!(access.may(&Identity::default(), "", Action::Manage, &topic("x")));
    // Rules that concern others leave it so.
    access.set(policy(true, &json!([{"deny": "all", "users": ["v"]}])));
    assert!(
        access
            .permissions(&user("u"), "c", "mqtt")
            .unwrap()
            .is_none()
    );
}

#[test]
fn what_no_rule_allows_is_denied_but_for_what_is_everyones() {
    let none = permissions(false, &json!([]), &user("ann"));
    for action in Action::ALL {
        assert!(!none.may(action, &topic("a")), "{action:?}");
        assert!(!none.may(action, &topic("$SYS/x")));
    }
    assert_eq!(none.subscription(&filter("$broadcast")), Verdict::Full);
    assert_eq!(none.subscription(&filter("$user/ann/#")), Verdict::Full);
    assert_eq!(none.subscription(&filter("$user/bob/#")), Verdict::Refused);
    assert_eq!(none.subscription(&filter("$user/+/x")), Verdict::Refused);
    assert!(none.may(Action::Publish, &topic("$auth/refresh")));
    assert!(!none.may(Action::Broadcast, &topic("$broadcast")));
    let denied = permissions(
        false,
        &json!([{"deny": "subscribe", "topics": ["$broadcast"]}]),
        &user("ann"),
    );
    assert_eq!(denied.subscription(&filter("$broadcast")), Verdict::Refused);
}

#[test]
fn a_denial_wins_wherever_it_stands() {
    let allow = json!({"allow": "all"});
    let deny = json!({"deny": "publish", "topics": ["secret/#"]});
    for rules in [json!([allow, deny]), json!([deny, allow])] {
        let held = permissions(false, &rules, &user("u"));
        assert!(!held.may(Action::Publish, &topic("secret")));
        assert!(held.may(Action::Publish, &topic("public")));
        assert!(held.may(Action::Subscribe, &topic("secret")));
        assert!(held.may(Action::Subscribe, &topic("$SYS/x")));
    }
}

#[test]
fn a_subscription_is_checked_as_a_filter() {
    let rules = json!([
        {"allow": "subscribe", "topics": ["a/b", "w/+", "all/#"]},
        {"deny": "subscribe", "topics": ["all/secret/#"]},
    ]);
    let held = permissions(false, &rules, &user("u"));
    for (text, expected) in [
        ("a/b", Verdict::Full),
        ("a/#", Verdict::Refused),
        ("a/+", Verdict::Refused),
        ("#", Verdict::Refused),
        ("w/x", Verdict::Full),
        ("w/+", Verdict::Full),
        ("w/#", Verdict::Refused),
        ("w", Verdict::Refused),
        ("all/x/#", Verdict::Full),
        ("all/#", Verdict::Filtered),
        ("all/+/x", Verdict::Filtered),
        ("all/secret/x", Verdict::Refused),
        ("all/secret/#", Verdict::Refused),
        ("$group/g", Verdict::Refused),
    ] {
        assert_eq!(held.subscription(&filter(text)), expected, "{text}");
    }
}

#[test]
fn a_wildcard_reaches_no_system_topic() {
    let rules = json!([{"allow": ["subscribe", "join", "publish"], "topics": ["#", "+/#"]}]);
    let held = permissions(false, &rules, &user("u"));
    assert_eq!(held.subscription(&filter("#")), Verdict::Full);
    assert_eq!(held.subscription(&filter("$SYS/#")), Verdict::Refused);
    assert_eq!(held.subscription(&filter("$group/g")), Verdict::Refused);
    assert!(!held.may(Action::Publish, &topic("$user/bob/x")));
}

#[test]
fn groups_and_broadcasts_are_actions_of_their_own() {
    let rules = json!([
        {"allow": "join", "topics": ["$group/g1"]},
        {"allow": "broadcast"},
        {"allow": "subscribe"},
    ]);
    let held = permissions(false, &rules, &user("u"));
    assert_eq!(held.subscription(&filter("$group/g1")), Verdict::Full);
    assert_eq!(held.subscription(&filter("$group/g2")), Verdict::Refused);
    assert_eq!(held.subscription(&filter("$group/#")), Verdict::Refused);
    assert_eq!(held.subscription(&filter("$groups/g2")), Verdict::Full);
    let everyone = topic("$broadcast");
    assert_eq!(Action::of_publish(&everyone), Action::Broadcast);
    assert_eq!(Action::of_publish(&topic("$broadcasts")), Action::Publish);
    assert!(held.may(Action::Broadcast, &everyone));
    assert!(!held.may(Action::Publish, &topic("$group/g1")));
}

#[test]
fn who_may_subscribe_may_read_what_is_retained_unless_that_is_denied() {
    let rules = json!([
        {"allow": "subscribe", "topics": ["a/#"]},
        {"deny": "retained", "topics": ["a/b"]},
        {"allow": "retained", "topics": ["c"]},
    ]);
    let held = permissions(false, &rules, &user("u"));
    assert!(held.may(Action::Retained, &topic("a/c")));
    assert!(!held.may(Action::Retained, &topic("a/b")));
    assert!(held.may(Action::Subscribe, &topic("a/b")));
    assert!(held.may(Action::Retained, &topic("c")));
    assert!(!held.may(Action::Subscribe, &topic("c")));
}

#[test]
fn a_token_brings_its_own_rules() {
    let claims = json!({
        "site": "s1",
        "permissions": [
            "read:others",
            {"allow": ["publish"], "topics": ["sites/${site}/%u"]},
            {"allow": ["publish"], "topics": ["admin"]},
        ],
    });
    let rules = json!([{"deny": "publish", "topics": ["admin"]}]);
    let held = permissions(false, &rules, &with_claims("ann", &claims));
    assert!(held.may(Action::Publish, &topic("sites/s1/ann")));
    assert!(!held.may(Action::Publish, &topic("sites/s2/ann")));
    assert!(!held.may(Action::Publish, &topic("admin")));
}

#[test]
fn unclear_permissions_let_nobody_in() {
    let access = Access::default();
    for permissions in [
        json!("all"),
        json!([{"allow": "everything"}]),
        json!([{"deny": "publish", "topics": ["a"], "user": ["x"]}]),
        json!([7]),
    ] {
        let who = with_claims("ann", &json!({"permissions": permissions}));
        let refusal = access.permissions(&who, "c", "mqtt").unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NotAuthorized);
        assert!(!access.may(&who, "c", Action::Publish, &topic("a")));
    }
}

#[test]
fn a_change_of_the_rules_is_seen_at_once() {
    let access = Access::default();
    let rights = Rights::default();
    let standing = |access: &Access| access.standing(user("u").into(), "c", "mqtt").unwrap();
    rights.set(standing(&access));
    let there = topic("a");
    assert!(rights.may(Action::Publish, &there));
    access.set(policy(true, &json!([{"deny": "publish", "topics": ["a"]}])));
    assert_ne!(rights.version(), Some(access.version()));
    rights.set(standing(&access));
    for _ in 0..2 {
        assert!(!rights.may(Action::Publish, &there));
        assert!(rights.may(Action::Subscribe, &there));
        assert!(rights.may(Action::Publish, &topic("b")));
    }
    access.set(policy(true, &json!([])));
    rights.set(standing(&access));
    assert!(rights.may(Action::Publish, &there));
}

/// A rule in the plainest form: `(denies, actions, topics)`.
type Plain = (bool, Vec<Action>, Vec<String>);

const ACTIONS: [Action; 4] = [
    Action::Publish,
    Action::Subscribe,
    Action::Join,
    Action::Retained,
];
const USERS: [&str; 6] = ["a", "+", "#", "a/b", "", "$SYS"];
const CLIENTS: [&str; 4] = ["a", "z/", "+", "$SYS"];
const RULE_LEVELS: [&str; 8] = ["a", "b", "+", "", "%u", "%c", "k%u", "$SYS"];
/// All names that a rule can come to hold, and one that none does.
const LEVELS: [&str; 7] = ["a", "b", "ka", "k$SYS", "", "fresh", "$SYS"];
const FILTER_LEVELS: [&str; 7] = ["a", "b", "ka", "+", "+", "", "$SYS"];
/// Levels of a rule and of a filter, at most; a topic that decides has one more.
const DEPTH: usize = 3;

fn some_filter(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    let names = proptest::collection::vec(select(levels), 0..=DEPTH);
    (names, any::<bool>()).prop_filter_map("not empty", |(names, rest)| {
        let mut names = names;
        if rest && names.len() < DEPTH {
            names.push("#");
        }
        let text = names.join("/");
        (!text.is_empty()).then_some(text)
    })
}

fn some_rule() -> impl Strategy<Value = Plain> {
    let actions = proptest::collection::vec(select(&ACTIONS[..]), 1..3);
    let topics = proptest::collection::vec(some_filter(&RULE_LEVELS), 0..4);
    (prop::bool::weighted(0.3), actions, topics)
}

fn as_json((denies, actions, topics): &Plain) -> Value {
    let actions: Vec<_> = actions.iter().map(|action| action.as_str()).collect();
    let effect = if *denies { "deny" } else { "allow" };
    if topics.is_empty() {
        json!({effect: actions})
    } else {
        json!({effect: actions, "topics": topics})
    }
}

/// Whether a filter's levels match a topic's, as the standard says it, one level at a time.
fn matches(filter: &[&str], topic: &[&str], first: bool) -> bool {
    let hidden = first && topic.first().is_some_and(|level| level.starts_with('$'));
    match (filter, topic) {
        (["#"], _) => !hidden,
        ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => !hidden && matches(filter, topic, false),
        ([name, filter @ ..], [level, topic @ ..]) => {
            name == level && matches(filter, topic, false)
        }
        _ => false,
    }
}

/// The topics of a rule for a client, each as its levels; `None` for all topics.
fn plainly(rule: &Plain, user: &str, client: &str) -> Option<Vec<Vec<String>>> {
    let (denies, _, topics) = rule;
    if topics.is_empty() {
        return None;
    }
    let fill = |(depth, level): (usize, &str)| -> Option<String> {
        let value = match level {
            "%c" => client,
            "%u" | "k%u" => user,
            plain => return Some(plain.to_owned()),
        };
        let bad = value.is_empty() || value.contains(['+', '#', '/']);
        let leads = !denies && depth == 0 && level != "k%u" && value.starts_with('$');
        match (bad || leads, denies) {
            (true, true) => Some("+".to_owned()),
            (true, false) => None,
            (false, _) => Some(level.replace("%u", user).replace("%c", client)),
        }
    };
    let fill_all = |text: &String| text.split('/').enumerate().map(fill).collect();
    Some(topics.iter().filter_map(fill_all).collect())
}

/// What the rules say, without any preparation: `(allowed, denied)`.
fn says(rules: &[Plain], user: &str, client: &str, action: Action, topic: &str) -> (bool, bool) {
    let levels: Vec<&str> = topic.split('/').collect();
    let speaks = |rule: &&Plain| {
        let named = rule.1.contains(&action);
        let implied = action == Action::Retained
            && (rule.1.contains(&Action::Subscribe) || rule.1.contains(&Action::Join));
        (named || implied)
            && plainly(rule, user, client).is_none_or(|filters| {
                filters.iter().any(|filter| {
                    let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
                    matches(&filter, &levels, true)
                })
            })
    };
    let (denying, allowing): (Vec<_>, Vec<_>) =
        rules.iter().filter(speaks).partition(|rule| rule.0);
    (!allowing.is_empty(), !denying.is_empty())
}

fn all_topics() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut deepest: Vec<String> = vec![String::new()];
    for depth in 0..=DEPTH {
        deepest = deepest
            .iter()
            .flat_map(|topic| {
                LEVELS.iter().map(move |level| match depth {
                    0 => (*level).to_owned(),
                    _ => format!("{topic}/{level}"),
                })
            })
            .collect();
        all.extend(deepest.iter().cloned());
    }
    all.retain(|topic| !topic.is_empty());
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_fast_decision_is_the_plain_one(
        rules in proptest::collection::vec(some_rule(), 0..6),
        unmatched in any::<bool>(),
        user_name in select(&USERS[..]),
        client in select(&CLIENTS[..]),
        topics in proptest::collection::vec(select(all_topics()), 1..24),
    ) {
        let access = Access::default();
        let as_json: Vec<Value> = rules.iter().map(as_json).collect();
        access.set(policy(unmatched, &json!(as_json)));
        let rights = Rights::default();
        rights.set(access.standing(user(user_name).into(), client, "mqtt").unwrap());
        // Often enough for the verdicts to be remembered and to push each other out.
        for text in topics.iter().chain(&topics) {
            for action in ACTIONS {
                let (allowed, denied) = says(&rules, user_name, client, action, text);
                let expected = !denied && (unmatched || allowed);
                prop_assert_eq!(rights.may(action, &topic(text)), expected, "{:?} {}", action, text);
            }
        }
    }

    #[test]
    fn a_filter_is_judged_by_all_its_topics(
        rules in proptest::collection::vec(some_rule(), 0..6),
        unmatched in prop::bool::weighted(0.2),
        user_name in select(&USERS[..]),
        client in select(&CLIENTS[..]),
        wanted in some_filter(&FILTER_LEVELS),
    ) {
        let access = Access::default();
        let as_json: Vec<Value> = rules.iter().map(as_json).collect();
        access.set(policy(unmatched, &json!(as_json)));
        let rights = Rights::default();
        rights.set(access.standing(user(user_name).into(), client, "mqtt").unwrap());
        let levels: Vec<&str> = wanted.split('/').collect();
        let (mut all_allowed, mut all_denied, mut some_denied) = (true, true, false);
        for text in all_topics() {
            if matches(&levels, &text.split('/').collect::<Vec<_>>(), true) {
                let (allowed, denied) = says(&rules, user_name, client, Action::Subscribe, &text);
                all_allowed &= unmatched || allowed;
                all_denied &= denied;
                some_denied |= denied;
            }
        }
        let expected = match (all_allowed && !all_denied, some_denied) {
            (false, _) => Verdict::Refused,
            (true, true) => Verdict::Filtered,
            (true, false) => Verdict::Full,
        };
        let (verdict, _) = rights.subscription(&filter(&wanted));
        prop_assert_eq!(verdict, expected, "{}", wanted);
    }
}
