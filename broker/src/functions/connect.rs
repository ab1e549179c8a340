//! Letting a WebSocket client in: the authorizer, then the function of `$connect`.

use std::sync::Arc;
use std::time::Instant;

use bytestring::ByteString;
use protocols::connection::{Cause, CloseReason, Refusal, RefusalCode};
use serde_json::{Map, Value, json};

use super::Functions;
use super::answer::{Answer, Failure};
use super::authorizer::{Decision, decide, has_sources};
use super::event::{Caller, Upgrade};
use super::guest::Guest;
use crate::auth::access::Rule;
use crate::auth::{Identity, Method};

/// Bytes of the state that a function may keep with a connection.
pub(super) const STATE_BYTES: usize = 8 * 1024;

/// Groups that a function may put a connection into.
const GROUPS_MAX: usize = 100;

/// Bytes of a user's name.
const USER_BYTES: usize = 1024;

/// A client that wants to come in.
pub struct Asking {
    /// What its events say of it.
    pub caller: Caller,
    /// Its request.
    pub upgrade: Upgrade,
    /// Whether it came over TLS.
    pub is_tls: bool,
    /// Who it is, as the broker's own logins say, or why it is nobody.
    pub login: Result<Identity, Refusal>,
}

/// A client that may come in.
pub struct Admitted {
    /// Its connection.
    pub visit: Visit,
    /// The subprotocol that the function chose.
    pub subprotocol: Option<String>,
}

/// A client that may not come in: the status of the answer, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// A guest that its functions know of: if it never gets as far as its connection, they are told
/// that it is gone when this is dropped.
pub struct Visit(Arc<Guest>);

impl Visit {
    /// The guest.
    pub fn guest(&self) -> &Arc<Guest> {
        &self.0
    }
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Visit")
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let reason = CloseReason::new(Cause::Lost, "the client went away before it came in");
        self.0.ended(&reason);
    }
}

impl Rejected {
    fn new(status: u16, message: &str) -> Self {
        Self {
            status,
            body: json!({"message": message}).to_string(),
        }
    }
}

impl Functions {
    /// Asks the authorizer and the function of `$connect`.
    pub async fn admit(self: &Arc<Self>, asking: Asking) -> Result<Admitted, Rejected> {
        let Asking {
            mut caller,
            upgrade,
            is_tls,
            mut login,
        } = asking;
        if self.authorizer.is_some() {
            let (principal, context) = self.authorize(&caller, &upgrade, is_tls).await?;
            login = Ok(identity_of(principal));
            caller.authorizer = Some(context);
        }
        let mut said = Said::default();
        let mut subprotocol = None;
        if let Some(route) = self.routes.get("$connect") {
            let event = caller.connect(&upgrade, is_tls, self.clock.now());
            let answer = self.call(&route.target, &event).await.map_err(|failure| {
                tracing::info!(target = %route.target.name, %failure, "a WebSocket was refused");
                Rejected::new(502, "Internal server error")
            })?;
            let broken = |problem: &str| {
                tracing::warn!(target = %route.target.name, problem, "the answer to $connect makes no sense");
                Rejected::new(502, "Internal server error")
            };
            let status = answer
                .status
                .ok_or_else(|| broken("there is no statusCode"))?;
            if !(200..300).contains(&status) {
                let body = answer.body.unwrap_or_default();
                let status = if (400..600).contains(&status) {
                    status
                } else {
                    502
                };
                return Err(Rejected { status, body });
            }
            subprotocol = chosen(&answer, &upgrade).map_err(broken)?;
            said = Said::read(&answer.value).map_err(broken)?;
        }
        let identity = said.identity(login)?;
        let guest = Guest::new(self, caller, identity, said.groups, said.state);
        Ok(Admitted {
            visit: Visit(guest),
            subprotocol,
        })
    }

    async fn authorize(
        &self,
        caller: &Caller,
        upgrade: &Upgrade,
        is_tls: bool,
    ) -> Result<(String, Map<String, Value>), Rejected> {
        let Some(target) = &self.authorizer else {
            return Err(Rejected::new(500, "Internal server error"));
        };
        if !has_sources(self.config.identity_sources.as_slice(), upgrade) {
            return Err(Rejected::new(401, "Unauthorized"));
        }
        let event = caller.authorize(upgrade, is_tls, self.clock.now());
        let began = Instant::now();
        let answer = self.call(target, &event).await.map_err(|failure| {
            let says_no = matches!(&failure, Failure::Function(reason) if is_unauthorized(reason));
            if says_no {
                return Rejected::new(401, "Unauthorized");
            }
            tracing::warn!(target = %target.name, %failure, "the authorizer does not answer");
            Rejected::new(500, "Internal server error")
        })?;
        match answer.status {
            // A webhook that says no by its status.
            Some(401) => return Err(Rejected::new(401, "Unauthorized")),
            Some(403) => return Err(Rejected::new(403, "Forbidden")),
            _ => {}
        }
        let latency = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match decide(&answer.value, &caller.method_arn(), latency) {
            Decision::Allowed(principal, context) => Ok((principal, context)),
            Decision::Denied => Err(Rejected::new(
                403,
                "User is not authorized to access this resource",
            )),
            Decision::Broken => Err(Rejected::new(500, "Internal server error")),
        }
    }
}

/// A function that throws exactly this says no.
fn is_unauthorized(reason: &str) -> bool {
    let thrown: Value = serde_json::from_str(reason).unwrap_or_default();
    thrown.get("errorMessage").and_then(Value::as_str) == Some("Unauthorized")
}

/// The subprotocol that the function chose; it must be one that the client offers.
fn chosen(answer: &Answer, upgrade: &Upgrade) -> Result<Option<String>, &'static str> {
    let Some(chosen) = answer.header("sec-websocket-protocol") else {
        return Ok(None);
    };
    let mut offers = upgrade
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"))
        .flat_map(|(_, value)| value.split(','));
    if offers.any(|offer| offer.trim() == chosen) {
        return Ok(Some(chosen.to_owned()));
    }
    Err("the subprotocol is none that the client offers")
}

fn identity_of(user: String) -> Identity {
    Identity {
        user: Some(user.into()),
        method: Method::Callback,
        ..Identity::default()
    }
}

/// What a function says of a client beside letting it in.
#[derive(Debug, Default, PartialEq)]
struct Said {
    user: Option<String>,
    groups: Vec<ByteString>,
    permissions: Vec<Value>,
    state: Value,
}

impl Said {
    fn read(value: &Value) -> Result<Self, &'static str> {
        let user = match value.get("user") {
            None | Some(Value::Null) => None,
            Some(Value::String(user)) if !user.is_empty() && user.len() <= USER_BYTES => {
                Some(user.clone())
            }
            Some(_) => return Err("`user` is no name"),
        };
        let mut groups = Vec::new();
        for group in array(value, "groups").ok_or("`groups` is no list")? {
            let name = group
                .as_str()
                .filter(|name| !name.is_empty() && !name.contains(['+', '#', '\0']));
            groups.push(ByteString::from(
                name.ok_or("`groups` has what is no name")?,
            ));
        }
        if groups.len() > GROUPS_MAX {
            return Err("`groups` has too many");
        }
        let permissions = array(value, "permissions").ok_or("`permissions` is no list")?;
        if permissions
            .iter()
            .any(|rule| Rule::from_json(rule).is_err())
        {
            return Err("`permissions` has what is no rule");
        }
        let state = value.get("state").cloned().unwrap_or_default();
        if state.to_string().len() > STATE_BYTES {
            return Err("`state` is too large");
        }
        Ok(Self {
            user,
            groups,
            permissions: permissions.to_vec(),
            state,
        })
    }

    /// Who the client is: the function's word counts more than the broker's own logins.
    fn identity(&self, login: Result<Identity, Refusal>) -> Result<Identity, Rejected> {
        let mut identity = match (&self.user, login) {
            (Some(user), _) => identity_of(user.clone()),
            (None, Ok(identity)) => identity,
            (None, Err(refusal)) => {
                let status = match refusal.code {
                    RefusalCode::BadCredentials | RefusalCode::NotAuthorized => 401,
                    _ => 503,
                };
                return Err(Rejected::new(status, &refusal.detail));
            }
        };
        let mut rules = self.permissions.clone();
        // Who is put into a group may be in it.
        rules.extend(self.groups.iter().map(
            |group| json!({"allow": ["subscribe", "join"], "topics": [format!("$group/{group}")]}),
        ));
        if !rules.is_empty() {
            let claimed = identity
                .claims
                .entry("permissions")
                .or_insert_with(|| json!([]));
            if let Value::Array(claimed) = claimed {
                claimed.extend(rules);
            }
        }
        Ok(identity)
    }
}

/// A list that may be missing.
fn array<'a>(value: &'a Value, name: &str) -> Option<&'a [Value]> {
    match value.get(name) {
        None | Some(Value::Null) => Some(&[]),
        Some(Value::Array(items)) => Some(items),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_function_says_who_a_client_is_and_what_it_may() {
        let said = Said::read(&json!({
            "statusCode": 200, "user": "ann", "groups": ["red"], "state": {"n": 1},
            "permissions": [{"allow": ["publish"], "topics": ["a/#"]}],
        }));
        let said = said.unwrap();
        let refusal = Refusal::new(RefusalCode::NotAuthorized, "a login is needed");
        let identity = said.identity(Err(refusal.clone())).unwrap();
        assert_eq!(identity.user.as_deref(), Some("ann"));
        assert_eq!(
            identity.claims["permissions"],
            json!([{"allow": ["publish"], "topics": ["a/#"]},
                   {"allow": ["subscribe", "join"], "topics": ["$group/red"]}])
        );
        assert_eq!(said.state, json!({"n": 1}));
        let nothing = Said::read(&json!({"statusCode": 200})).unwrap();
        assert_eq!(nothing, Said::default());
        assert_eq!(nothing.identity(Err(refusal)).unwrap_err().status, 401);
        assert!(nothing.identity(Ok(Identity::default())).is_ok());
    }

    #[test]
    fn what_makes_no_sense_lets_nobody_in() {
        for said in [
            json!({"user": 7}),
            json!({"user": ""}),
            json!({"groups": "red"}),
            json!({"groups": ["a/#"]}),
            json!({"permissions": [{"allow": ["fly"]}]}),
            json!({"state": "x".repeat(STATE_BYTES)}),
        ] {
            assert!(Said::read(&said).is_err(), "{said}");
        }
    }

    #[test]
    fn a_subprotocol_is_one_that_was_offered() {
        let upgrade = Upgrade {
            headers: vec![("Sec-WebSocket-Protocol".into(), "chat, other".into())],
            query: Vec::new(),
        };
        let answer = |protocol: &str| Answer {
            headers: [("sec-websocket-protocol".to_owned(), protocol.to_owned())].into(),
            ..Answer::default()
        };
        assert_eq!(chosen(&answer("other"), &upgrade), Ok(Some("other".into())));
        assert!(chosen(&answer("third"), &upgrade).is_err());
        assert_eq!(chosen(&Answer::default(), &upgrade), Ok(None));
        assert!(is_unauthorized(r#"{"errorMessage":"Unauthorized"}"#));
        assert!(!is_unauthorized(r#"{"errorMessage":"Unauthorized "}"#));
    }
}
