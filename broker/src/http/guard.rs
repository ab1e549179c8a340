//! Who asks, and whether it may: the one place where a request becomes an [`Identity`].
//!
//! A request shows a key (`Authorization: Bearer`, `X-API-Key`, or as a password), or is signed by an
//! AWS SDK ([`super::signature`]); where clients have to log in it may show what they show, and may
//! then do what the access rules allow. Without keys and logins, whoever is on this machine may do
//! everything, and nobody else may do anything.

use std::borrow::Cow;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use protocols::connection::RefusalCode;
use protocols::model::{Message, Timestamp, Topic};
use protocols::negotiation;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::signature::{self, Secret};
use super::text::Query;
use crate::auth::{Door, Identity, Method, access, stored};
use crate::config::{Api, KeyEntry, Permissions, Source};
use crate::net::{Ends, Live, Net, is_address};

/// What someone wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// To publish.
    Publish,
    /// To read messages.
    Subscribe,
    /// To see and to change what clients have.
    Manage,
}

/// Someone who was recognised.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Who it is.
    pub(super) identity: Identity,
    may: May,
}

/// What it may do.
#[derive(Clone, Debug)]
enum May {
    /// What its key says.
    Key(Permissions),
    /// What the access rules say; `None` is everything.
    Rules(Option<Arc<access::Permissions>>),
}

/// The keys of the configuration, with their secrets.
#[derive(Default)]
pub(super) struct Keys {
    keys: Vec<Key>,
    secrets: Vec<Secret>,
}

struct Key {
    name: String,
    permissions: Permissions,
    digest: [u8; 32],
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Manage => "manage",
        }
    }
}

impl Caller {
    fn new(name: Option<&str>, method: Method, permissions: Permissions) -> Self {
        let identity = Identity {
            user: name.map(Into::into),
            method,
            claims: claims(permissions),
            ..Identity::default()
        };
        Self {
            identity,
            may: May::Key(permissions),
        }
    }

    /// Whoever asks what everybody may know.
    pub(super) fn nobody() -> Self {
        Self::new(None, Method::Anonymous, Permissions::default())
    }

    /// Who it is, for names that must not be mixed up with those of others.
    pub(super) fn name(&self) -> &str {
        self.identity.user.as_deref().unwrap_or_default()
    }

    /// Whether it may be shown a retained message: by its own rights, and by those that the
    /// message's publisher has now. Who manages sees what is there.
    pub(super) fn may_read(&self, net: &Net, message: &Message) -> bool {
        let topic = Some(message.topic.as_str());
        self.require(Action::Subscribe, topic).is_ok()
            && (net.hub.access.may_still_publish(message)
                || self.require(Action::Manage, None).is_ok())
    }

    /// Who it is, as it is written down with messages that are kept; `None` for keys, which may do
    /// what their configuration says.
    pub(super) fn source(&self) -> Option<Arc<str>> {
        let May::Rules(rules) = &self.may else {
            return None;
        };
        let is_known = rules.is_some() || self.identity.method != Method::Anonymous;
        is_known.then(|| stored::write(&self.identity, "", "http").into())
    }

    /// Refuses what it may not do. `topic` is what it wants to do it with, if it is one.
    pub(super) fn require(&self, action: Action, topic: Option<&str>) -> Result<(), Problem> {
        let may = match &self.may {
            May::Key(permissions) => match action {
                Action::Publish => permissions.publish,
                Action::Subscribe => permissions.subscribe,
                Action::Manage => permissions.manage,
            },
            May::Rules(None) => true,
            May::Rules(Some(rules)) => allow(rules, action, topic),
        };
        if may {
            return Ok(());
        }
        let what = topic.map_or(String::new(), |topic| format!(" `{topic}`"));
        let (name, action) = (self.name(), action.as_str());
        let detail = format!(
            "`{name}` may not {action}{what}: add `{action}` to its permissions, or a rule that allows it"
        );
        Err(Problem::new(StatusCode::FORBIDDEN, "notAuthorized", detail))
    }
}

impl Keys {
    /// Reads the secrets.
    pub(super) fn load(config: &Api) -> Result<Self, String> {
        let mut loaded = Self::default();
        for entry in config.keys.entries() {
            let digest = match &entry.source {
                Source::Sha256(digest) => *digest,
                _ => sha256(secret(entry, "api.keys")?.as_bytes()),
            };
            loaded.keys.push(Key {
                name: entry.name.clone(),
                permissions: entry.permissions,
                digest,
            });
        }
        for entry in config.aws_keys.entries() {
            loaded.secrets.push(Secret {
                id: entry.name.clone(),
                permissions: entry.permissions,
                key: secret(entry, "api.aws_keys")?,
            });
        }
        Ok(loaded)
    }

    /// Whether whoever is on this machine may do everything, if clients need no login.
    fn is_open(&self, ends: &Ends) -> bool {
        !self.are_there() && ends.is_local
    }

    /// Whether there are any.
    pub(super) fn are_there(&self) -> bool {
        !self.keys.is_empty() || !self.secrets.is_empty()
    }

    /// The caller that a request shows itself to be; `None` if it shows none of the keys, and
    /// clients have to log in. `body` is what a signature covers; whoever asks without a signature
    /// needs none.
    pub(super) fn identify(
        &self,
        (has_logins, now): (bool, Timestamp),
        (head, query): (&Parts, &Query),
        ends: &Ends,
        body: Option<&Bytes>,
    ) -> Result<Option<Caller>, Problem> {
        let is_open = !has_logins && self.is_open(ends);
        if let (Some(signature), Some(body), false) = (signature::of(head.into()), body, is_open) {
            let secret = signature?.verify(head.into(), body, now.0, &self.secrets)?;
            return Ok(Some(secret.caller()));
        }
        if is_open {
            check_host(&head.headers)?;
            let (method, permissions) = (Method::Anonymous, Permissions::ALL);
            return Ok(Some(Caller::new(None, method, permissions)));
        }
        match shown_key(&head.headers, query) {
            Some((name, key)) => match self.find(name.as_deref(), &key) {
                Some(caller) => Ok(Some(caller)),
                None if has_logins => Ok(None),
                None => Err(unauthorized(
                    "the key is none of those that `api.keys` lists",
                )),
            },
            None if has_logins => Ok(None),
            None if !self.are_there() => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "notConfigured",
                "without keys the API is open on loopback addresses only: configure `api.keys`, \
                 for example keys = [\"ops publish+manage env:OPS_KEY\"]",
            )),
            None => Err(unauthorized(
                "no key: send one that `api.keys` lists, as `Authorization: Bearer KEY` or \
                 `X-API-Key: KEY`",
            )),
        }
    }

    /// Who signed the upgrade to a WebSocket; `None` if nobody did, or nobody is known who could.
    pub(super) fn signer(
        &self,
        head: signature::Head<'_>,
        now: Timestamp,
    ) -> Option<Result<Identity, Problem>> {
        let signature = signature::of(head).filter(|_| !self.secrets.is_empty())?;
        let verified = signature.and_then(|held| held.verify(head, b"", now.0, &self.secrets));
        Some(verified.map(|secret| secret.caller().identity))
    }

    /// Refuses a signed request of whom nobody knows, before its body is read.
    pub(super) fn check_signer(
        &self,
        (has_logins, now): (bool, Timestamp),
        head: &Parts,
        ends: &Ends,
    ) -> Result<(), Problem> {
        let is_open = !has_logins && self.is_open(ends);
        match signature::of(head.into()) {
            Some(signature) if !is_open => signature?
                .signer(head.into(), now.0, &self.secrets)
                .map(drop),
            _ => Ok(()),
        }
    }

    /// Looks at all keys, so that the time tells nothing.
    fn find(&self, name: Option<&str>, shown: &str) -> Option<Caller> {
        let shown = sha256(shown.as_bytes());
        let mut found = None;
        for key in &self.keys {
            let same = verify_slices_are_equal(&key.digest, &shown).is_ok();
            if same && name.is_none_or(|name| name == key.name) {
                found = Some(key);
            }
        }
        found.map(|key| Caller::new(Some(&key.name), Method::ApiKey, key.permissions))
    }
}

impl Secret {
    fn caller(&self) -> Caller {
        Caller::new(Some(&self.id), Method::ApiKey, self.permissions)
    }
}

/// Whether a refusal is that of a secret that was shown and is none: it counts as a failed login.
pub(super) fn is_guess(refusal: &Problem, head: &Parts, query: &Query) -> bool {
    match refusal.code {
        "badSignature" => true,
        "badCredentials" => shown_key(&head.headers, query).is_some(),
        _ => false,
    }
}

/// The caller by what clients log in with: a token, or a name and a password.
pub(super) async fn log_in(net: &Net, head: &Parts, ends: &Ends) -> Result<Caller, Problem> {
    let door = Door {
        peer: ends.peer,
        on_loopback: ends.on_loopback,
        certificate_user: ends.certificate_user.clone(),
        ..Door::default()
    };
    let auth = net.auth.load_full();
    let answer = auth.authenticate_http(&head.headers, head.uri.query(), &door);
    let identity = answer.await.map_err(|refusal| {
        if refusal.code == RefusalCode::BadCredentials {
            net.hub.guard.failed_login(ends.peer.ip(), net.clock.now());
        }
        match refusal.code {
            RefusalCode::BadCredentials | RefusalCode::NotAuthorized => {
                unauthorized(refusal.detail)
            }
            _ => refusal.into(),
        }
    })?;
    let rules = net.hub.access.permissions(&identity, "", "http")?;
    Ok(Caller {
        identity,
        may: May::Rules(rules),
    })
}

/// Whether the access rules allow it. What is asked of no topic in particular is asked again for
/// each topic that it comes to.
fn allow(rules: &access::Permissions, action: Action, topic: Option<&str>) -> bool {
    let any = usize::from(u16::MAX);
    let parse = |text: &str| Topic::parse(text.into(), any, any).ok();
    match (action, topic) {
        (Action::Manage, _) => {
            parse("$manage").is_some_and(|topic| rules.may(access::Action::Manage, &topic))
        }
        (_, None) => true,
        (Action::Publish, Some(topic)) => {
            parse(topic).is_some_and(|topic| rules.may(access::Action::of_publish(&topic), &topic))
        }
        // Whether the rules cover it is asked where the subscription is made.
        (Action::Subscribe, Some(filter)) if filter.contains(['+', '#']) => true,
        (Action::Subscribe, Some(topic)) => parse(topic).is_some_and(|topic| {
            let action = access::Action::of_delivery(&topic);
            rules.may(action, &topic) && rules.may(access::Action::Retained, &topic)
        }),
    }
}

/// What a key may do, in the words of the access rules.
fn claims(permissions: Permissions) -> Map<String, Value> {
    let mut allow = Vec::new();
    if permissions.publish {
        allow.extend(["publish", "broadcast"]);
    }
    if permissions.subscribe {
        allow.extend(["subscribe", "join", "retained"]);
    }
    if permissions.manage {
        allow.push("manage");
    }
    let mut claims = Map::new();
    if !allow.is_empty() {
        claims.insert("permissions".to_owned(), json!([{ "allow": allow }]));
    }
    claims
}

fn unauthorized(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "badCredentials", detail).with(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"polycast\""),
    )
}

/// On a loopback address a name proves nothing: whoever owns one can point it here, and a page of
/// that name would be of the same site (DNS rebinding).
fn check_host(headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    if host.is_none_or(is_address) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "notConfigured",
        "without keys the API answers to localhost and to addresses, not to other names: \
         configure `api.keys`",
    ))
}

/// Refuses what a web page of another site asks, unless it is listed.
pub(super) fn check_origin(headers: &HeaderMap, ends: &Ends, live: &Live) -> Result<(), Problem> {
    let origins = headers.get_all(header::ORIGIN).into_iter();
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let host = host.filter(|host| !ends.is_local || is_address(host));
    let origins = origins.map(HeaderValue::as_bytes);
    negotiation::check_origin(origins, host, &live.allowed_origins).map_err(|_| {
        Problem::new(
            StatusCode::FORBIDDEN,
            "originNotAllowed",
            "pages of this origin may not use the API: add it to `websocket.allowed_origins`",
        )
    })
}

/// The key that a request shows, with a name if it shows one.
fn shown_key(headers: &HeaderMap, query: &Query) -> Option<(Option<String>, String)> {
    if let Some(key) = headers.get("x-api-key") {
        return Some((None, key.to_str().ok()?.to_owned()));
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some((None, rest.trim().to_owned()));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
            let (name, key) = pair.split_once(':')?;
            return Some((Some(name.to_owned()), key.to_owned()));
        }
        return None;
    }
    // `EventSource` of browsers cannot send headers.
    let token = query.text("access_token")?;
    Some((None, token.to_owned()))
}

/// The secret of an entry; it is never part of an error.
fn secret(entry: &KeyEntry, list: &str) -> Result<String, String> {
    let name = &entry.name;
    let found = match &entry.source {
        Source::File(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("{list}: the file {path} of `{name}`: {error}"))?,
        Source::Environment(variable) => std::env::var(variable)
            .map_err(|_| format!("{list}: the variable {variable} of `{name}` is not set"))?,
        Source::Sha256(_) => return Err(format!("{list}: `{name}` must not be hashed")),
    };
    match found.trim() {
        "" => Err(format!("{list}: the secret of `{name}` is empty")),
        secret => Ok(secret.to_owned()),
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::Request;

    use super::*;

    fn keys() -> Keys {
        let key = |name: &str, key: &str, permissions| Key {
            name: name.to_owned(),
            permissions,
            digest: sha256(key.as_bytes()),
        };
        let publish = Permissions {
            publish: true,
            ..Permissions::default()
        };
        Keys {
            keys: vec![key("fn", "k1", publish), key("ops", "k2", Permissions::ALL)],
            secrets: Vec::new(),
        }
    }

    fn ends(is_local: bool) -> Ends {
        Ends {
            peer: ([127, 0, 0, 1], 1).into(),
            is_local,
            on_loopback: is_local,
            is_tls: false,
            certificate_user: None,
        }
    }

    fn ask(keys: &Keys, is_local: bool, headers: &[(&str, &str)]) -> Result<Caller, u16> {
        let mut request = Request::get("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let request = (&head, &Query::default());
        let found = keys.identify((false, Timestamp(0)), request, &ends(is_local), None);
        let found = found.map_err(|problem| problem.status.as_u16())?;
        Ok(found.unwrap())
    }

    #[test]
    fn keys_are_shown_in_four_ways() {
        let keys = keys();
        for headers in [
            ("authorization", "Bearer k1"),
            ("authorization", "bearer  k1"),
            ("x-api-key", "k1"),
            ("authorization", "Basic Zm46azE="), // fn:k1
        ] {
            let caller = ask(&keys, true, &[headers]).unwrap();
            assert_eq!(caller.name(), "fn");
            assert!(caller.require(Action::Publish, Some("a")).is_ok());
            let refused = caller.require(Action::Manage, None).unwrap_err();
            assert_eq!(refused.status, StatusCode::FORBIDDEN);
        }
        for headers in [
            ("authorization", "Bearer k3"),
            ("authorization", "Bearer"),
            ("authorization", "Basic b3BzOmsx"), // ops:k1
            ("x-api-key", ""),
            ("x-other", "k1"),
        ] {
            assert_eq!(
                ask(&keys, true, &[headers]).unwrap_err(),
                401,
                "{headers:?}"
            );
        }
    }

    #[test]
    fn where_clients_log_in_no_key_is_a_login() {
        let (head, ()) = Request::get("/x").body(()).unwrap().into_parts();
        for keys in [Keys::default(), keys()] {
            let request = (&head, &Query::default());
            let found = keys.identify((true, Timestamp(0)), request, &ends(true), None);
            assert!(found.unwrap().is_none());
        }
    }

    #[test]
    fn without_keys_it_is_open_on_this_machine_only() {
        let none = Keys::default();
        let host = |host| [("host", host)];
        assert!(ask(&none, true, &host("localhost:8080")).is_ok());
        assert!(ask(&none, true, &host("127.0.0.1")).is_ok());
        assert_eq!(ask(&none, true, &host("evil.test")).unwrap_err(), 403);
        assert_eq!(ask(&none, false, &host("10.0.0.1")).unwrap_err(), 403);
        assert_eq!(ask(&keys(), true, &host("localhost")).unwrap_err(), 401);
    }
}
