//! Finds out who a client is: the methods of the configuration, in their order.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::Context as _;
use bytestring::ByteString;
use protocols::connection::Refusal;
use protocols::model::Timestamp;

use super::callback::{Cache, Callback};
use super::credentials::{Credentials, Rejection};
use super::fetch::Fetcher;
use super::gate::Gate;
use super::jwks::Jwks;
use super::passwords::{Passwords, Verdict};
use super::reach::Reach;
use super::revocation::{Revocations, Subject};
use super::signature::Material;
use super::token::{self, Key, Terms};
use super::{Identity, Method};
use crate::clock::Clock;
use crate::config::{Auth, AuthMethod, Config, Unavailable};
use crate::telemetry::{Metrics, Untrusted};

/// Bytes of a file with a key or a secret.
const KEY_FILE_BYTES: usize = 64 * 1024;

/// Finds out who clients are. One for each configuration.
pub struct Authenticator {
    methods: Vec<AuthMethod>,
    /// Whether clients without any proof are let in where only this machine reaches, and
    /// elsewhere.
    anonymous: (bool, bool),
    terms: Terms,
    keys: Vec<Key>,
    jwks: Option<Arc<Jwks>>,
    passwords: Option<Passwords>,
    callback: Option<Callback>,
    if_unavailable: Unavailable,
    warning: Duration,
    revocation_time: Duration,
    revocations: Arc<Revocations>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// The answer to a login that takes its time.
pub type Asking = Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send>>;

/// Who a client is, now or later.
pub enum Answer {
    /// It is known already.
    Now(Result<Identity, Refusal>),
    /// Something has to be waited for.
    Later(Asking),
}

/// What one method says.
enum Word {
    /// Nothing; the next one is asked.
    Pass,
    Yes(Identity),
    No(Rejection),
}

impl Authenticator {
    /// Lets everyone in who comes to a listener that only this machine reaches.
    pub fn none(clock: Clock, metrics: Arc<Metrics>) -> Arc<Self> {
        let revocations = Arc::new(Revocations::new(0));
        Arc::new(Self::bare(&Config::default(), clock, metrics, revocations))
    }

    /// Without any method.
    fn bare(
        config: &Config,
        clock: Clock,
        metrics: Arc<Metrics>,
        revocations: Arc<Revocations>,
    ) -> Self {
        let auth = &config.auth;
        Self {
            methods: auth.methods.0.clone(),
            anonymous: config.lets_anonymous_in(),
            terms: Terms::new(auth),
            keys: Vec::new(),
            jwks: None,
            passwords: None,
            callback: None,
            if_unavailable: auth.callback_unavailable,
            warning: auth.expiry_warning,
            revocation_time: auth.revocation_time,
            revocations,
            metrics,
            clock,
        }
    }

    /// Reads keys and files. `older` is the one that this one replaces: what it has fetched is
    /// used on.
    pub fn new(
        config: &Config,
        clock: Clock,
        metrics: Arc<Metrics>,
        revocations: Arc<Revocations>,
        older: Option<&Self>,
    ) -> anyhow::Result<Arc<Self>> {
        let auth = &config.auth;
        let has = |method| auth.methods.0.contains(&method);
        let needs_fetcher = auth.token_jwks_url.0.is_some() || has(AuthMethod::Callback);
        let fetcher = needs_fetcher.then(|| {
            let reach = Reach::within(auth.service_networks.as_slice());
            Fetcher::new(auth.ca_file.0.as_deref(), reach)
        });
        let fetcher = fetcher.transpose()?;
        let (mut keys, mut jwks) = (Vec::new(), None);
        if has(AuthMethod::Token) {
            keys = local_keys(auth)?;
            jwks = key_set(auth, fetcher.as_ref(), clock, older);
        }
        let passwords = match &auth.password_file.0 {
            Some(path) if has(AuthMethod::Password) => {
                let (at_a_time, waiting) = (auth.password_checks, auth.password_waiting);
                Some(Passwords::open(path, at_a_time, waiting)?)
            }
            _ => None,
        };
        let callback = match fetcher {
            Some(fetcher) if has(AuthMethod::Callback) => callback(auth, fetcher, clock)?,
            _ => None,
        };
        revocations.set_max(auth.revocations);
        Ok(Arc::new(Self {
            keys,
            jwks,
            passwords,
            callback,
            ..Self::bare(config, clock, metrics, revocations)
        }))
    }

    /// Begins to fetch what will be needed. Within a runtime.
    pub fn prime(&self) {
        if let Some(jwks) = &self.jwks {
            jwks.prime();
        }
    }

    /// Whether clients can prove who they are. If not, the user is whatever they say.
    pub fn is_on(&self) -> bool {
        !self.methods.is_empty()
    }

    /// When a client is told that its credentials end, if they do and it is.
    pub fn warns_at(&self, identity: &Identity) -> Option<Timestamp> {
        let end = identity.expires_at.filter(|_| !self.warning.is_zero())?;
        let before = u64::try_from(self.warning.as_millis()).unwrap_or(u64::MAX);
        Some(Timestamp(end.0.saturating_sub(before)))
    }

    /// Who a client is that logs in. Does not wait: what takes time is for the caller to await.
    pub fn log_in(self: &Arc<Self>, credentials: Credentials) -> Answer {
        if !self.is_on() || credentials.is_empty() {
            let answer = self.anonymous(&credentials);
            return Answer::Now(self.conclude(answer, &credentials));
        }
        let me = Arc::clone(self);
        at_once(Box::pin(async move {
            let answer = me.ask_all(&credentials).await;
            me.conclude(answer, &credentials)
        }))
    }

    /// Who a client is now that brings new credentials on a live connection: the user that it was.
    pub fn refresh(self: &Arc<Self>, credentials: Credentials, user: Option<ByteString>) -> Answer {
        let me = Arc::clone(self);
        at_once(Box::pin(async move {
            let answer = me.ask_all(&credentials).await.and_then(|identity| {
                if identity.user == user {
                    Ok(identity)
                } else {
                    Err(Rejection::OtherUser)
                }
            });
            me.conclude(answer, &credentials)
        }))
    }

    /// Whether an identity is revoked. To be asked again once the session of a client that was
    /// let in can be seen, as a revocation may have come in between.
    pub fn is_revoked(&self, identity: &Identity, client_id: &str) -> bool {
        self.revocations
            .covers(identity, Some(client_id), self.clock.now())
    }

    /// Refuses what is revoked from now on. What is connected is the hub's.
    pub fn revoke(&self, subject: &Subject, until: Option<Timestamp>) {
        let now = self.clock.now();
        let until = until.unwrap_or(now + self.revocation_time);
        self.revocations.add(subject, now, until);
        if let Some(callback) = &self.callback {
            callback.cache.clear();
        }
    }

    /// The list of what is revoked.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    fn anonymous(&self, credentials: &Credentials) -> Result<Identity, Rejection> {
        let (on_loopback, elsewhere) = self.anonymous;
        if !(elsewhere || on_loopback && credentials.on_loopback) {
            return Err(Rejection::Missing);
        }
        let mut identity = Identity::default();
        if !self.is_on() {
            identity.user.clone_from(&credentials.username);
        }
        Ok(identity)
    }

    async fn ask_all(&self, credentials: &Credentials) -> Result<Identity, Rejection> {
        let mut last = Rejection::NotAccepted;
        for method in &self.methods {
            let word = match method {
                AuthMethod::Certificate => certificate(credentials),
                AuthMethod::Token => self.ask_token(credentials).await,
                AuthMethod::Password => self.ask_password(credentials).await,
                AuthMethod::Callback => self.ask_callback(credentials).await,
            };
            match word {
                Word::Yes(identity) => return self.check_revoked(identity, credentials),
                Word::No(rejection) if self.goes_on(rejection) => last = rejection,
                Word::No(rejection) => return Err(rejection),
                Word::Pass => {}
            }
        }
        Err(last)
    }

    fn goes_on(&self, rejection: Rejection) -> bool {
        rejection == Rejection::ServiceUnavailable && self.if_unavailable == Unavailable::Next
    }

    fn check_revoked(
        &self,
        identity: Identity,
        credentials: &Credentials,
    ) -> Result<Identity, Rejection> {
        let client_id = credentials.client_id.as_deref();
        if self
            .revocations
            .covers(&identity, client_id, self.clock.now())
        {
            return Err(Rejection::Revoked);
        }
        Ok(identity)
    }

    async fn ask_token(&self, credentials: &Credentials) -> Word {
        let Some(token) = &credentials.token else {
            return Word::Pass;
        };
        let mut result = self.verify(&token.0);
        if result == Err(Rejection::UnknownKey)
            && let Some(jwks) = &self.jwks
        {
            result = match jwks.renew().await {
                Ok(()) => self.verify(&token.0),
                Err(rejection) => Err(rejection),
            };
            if result == Err(Rejection::UnknownKey) && jwks.keys().is_empty() {
                result = Err(Rejection::KeysUnavailable);
            }
        }
        match result {
            Ok(identity) => Word::Yes(identity),
            // Not a JWT at all: a token of another kind, for the service to judge.
            Err(Rejection::Malformed) if self.callback.is_some() => Word::Pass,
            Err(rejection) => Word::No(rejection),
        }
    }

    fn verify(&self, token: &[u8]) -> Result<Identity, Rejection> {
        let fetched = self.jwks.as_ref().map(Jwks::keys);
        let fetched = fetched.as_ref().map_or(&[][..], |keys| keys.as_slice());
        token::verify(token, &self.terms, &[&self.keys, fetched], self.clock.now())
    }

    async fn ask_password(&self, credentials: &Credentials) -> Word {
        let (Some(passwords), Some(user), Some(password)) = (
            &self.passwords,
            &credentials.username,
            &credentials.password,
        ) else {
            return Word::Pass;
        };
        match passwords.check(user, &password.0).await {
            Ok(Verdict::Right) => Word::Yes(Identity {
                user: Some(user.clone()),
                method: Method::Password,
                ..Identity::default()
            }),
            Ok(Verdict::Wrong) => Word::No(Rejection::Password),
            Ok(Verdict::Unknown) => Word::Pass,
            Err(rejection) => Word::No(rejection),
        }
    }

    async fn ask_callback(&self, credentials: &Credentials) -> Word {
        let Some(callback) = &self.callback else {
            return Word::Pass;
        };
        let asked = callback.ask(credentials).await;
        asked.map_or_else(Word::No, Word::Yes)
    }

    /// Counts and logs the outcome, and puts it into words for the client.
    fn conclude(
        &self,
        result: Result<Identity, Rejection>,
        credentials: &Credentials,
    ) -> Result<Identity, Refusal> {
        match result {
            Ok(identity) => {
                self.metrics.authenticated(identity.method.as_str());
                Ok(identity)
            }
            Err(rejection) => {
                self.metrics.authentication_refused(rejection.as_str());
                let shown = |name: &Option<ByteString>| {
                    Untrusted(name.as_deref().unwrap_or("-")).to_string()
                };
                tracing::warn!(
                    peer = %credentials.peer.map_or("-".to_owned(), |peer| peer.to_string()),
                    protocol = %credentials.protocol,
                    client = %shown(&credentials.client_id),
                    user = %shown(&credentials.username),
                    reason = rejection.as_str(),
                    "a client could not prove who it is"
                );
                Err(rejection.refusal())
            }
        }
    }
}

/// Goes as far as it can without waiting.
fn at_once(mut asking: Asking) -> Answer {
    match asking
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(answer) => Answer::Now(answer),
        // Whoever awaits it polls it again, with a waker of its own.
        Poll::Pending => Answer::Later(asking),
    }
}

fn certificate(credentials: &Credentials) -> Word {
    match &credentials.certificate_user {
        Some(user) => Word::Yes(Identity {
            user: Some(user.clone()),
            method: Method::Certificate,
            ..Identity::default()
        }),
        None => Word::Pass,
    }
}

fn key_set(
    auth: &Auth,
    fetcher: Option<&Fetcher>,
    clock: Clock,
    older: Option<&Authenticator>,
) -> Option<Arc<Jwks>> {
    let jwks = Jwks::new(
        auth.token_jwks_url.0.clone()?,
        auth,
        fetcher?.clone(),
        clock,
    );
    if let Some(older) = older.and_then(|older| older.jwks.as_ref()) {
        jwks.inherit(older);
    }
    Some(Arc::new(jwks))
}

fn callback(auth: &Auth, fetcher: Fetcher, clock: Clock) -> anyhow::Result<Option<Callback>> {
    let Some(url) = auth.callback_url.0.clone() else {
        return Ok(None);
    };
    let secret = match (auth.callback_secret.reveal(), &auth.callback_secret_file.0) {
        (_, Some(path)) => Some(read_text(path, "auth.callback_secret_file")?),
        (secret, None) => secret.map(str::to_owned),
    };
    Ok(Some(Callback {
        url,
        secret,
        timeout: auth.callback_timeout,
        fetcher,
        gate: Gate::new(auth.callback_open, auth.callback_waiting),
        cache: Cache::new(auth.callback_cached),
        clock,
    }))
}

/// The keys of the configuration and its files.
fn local_keys(auth: &Auth) -> anyhow::Result<Vec<Key>> {
    let mut keys = Vec::new();
    let mut secrets: Vec<String> = auth
        .token_secret
        .reveal()
        .map(str::to_owned)
        .into_iter()
        .collect();
    if let Some(path) = &auth.token_secret_file.0 {
        let secret = read_text(path, "auth.token_secret_file")?;
        anyhow::ensure!(
            secret.len() >= 32,
            "auth.token_secret_file {}: a secret of less than 32 bytes",
            path.display()
        );
        secrets.push(secret);
    }
    keys.extend(secrets.iter().map(|secret| Key {
        id: None,
        algorithm: None,
        material: Material::from_secret(secret.as_bytes()),
    }));
    for path in &auth.token_key_files.0 {
        let pem = read_text(path, "auth.token_key_files")?;
        let name = path
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned());
        keys.push(Key {
            id: name.filter(|_| auth.token_key_files.0.len() > 1),
            algorithm: None,
            material: public_key(pem.as_bytes())
                .with_context(|| format!("auth.token_key_files {}", path.display()))?,
        });
    }
    Ok(keys)
}

/// A public key of any kind that signatures are made with.
fn public_key(pem: &[u8]) -> anyhow::Result<Material> {
    anyhow::ensure!(
        !pem.windows(11).any(|part| part == b"PRIVATE KEY"),
        "this is a private key; the broker needs the public one"
    );
    Material::from_pem(pem).context("not a public key (PEM) of RSA, ECDSA or Ed25519")
}

/// A small file of text, without the line ends at its end.
fn read_text(path: &Path, key: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{key} {} cannot be read", path.display()))?;
    anyhow::ensure!(
        text.len() <= KEY_FILE_BYTES,
        "{key} {} is too large",
        path.display()
    );
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;
