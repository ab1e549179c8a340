//! Who clients are: the keys of `[auth]`, and the values that only they have.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::Config;
use super::protection::Networks;
use super::section::section;
use super::setting::Bounds::{Count, Size, Time, Type};
use super::setting::{Bounds, KIB, Raw, Setting, quote, texts};
use super::values::{Anonymous, Listen};
use crate::auth::Algorithm;

const SECOND: u64 = 1000;
const DAY: u64 = 24 * 3600 * SECOND;

/// Bytes that a shared secret has at least: as many as the shortest hash (RFC 7518 §3.2).
const SECRET_BYTES: usize = 32;

section! {
    /// Who clients are. Without any method there are only anonymous clients.
    pub struct Auth in "auth" {
        /// How clients prove who they are, in the order in which it is tried. The first method
        /// that a client has something for decides; `password` passes a user that it does not
        /// know on to the methods behind it.
        methods: AuthMethods = AuthMethods::default(), Type, Live;
        /// Time before the end of its credentials at which a client is told of it; 0 for never.
        expiry_warning: Duration = Duration::from_mins(1), Time(0, DAY), Live;
        /// Revocations that are remembered. When there are more, those that end first are dropped.
        revocations: usize = 10_000, Count(1, 1_000_000), Live;
        /// How long the revocation of a user, or of a token whose end is not known, is remembered:
        /// at least as long as the longest token lives.
        revocation_time: Duration = Duration::from_hours(7 * 24), Time(60 * SECOND, 3650 * DAY), Live;
        /// File with certificates (PEM) of authorities that are trusted, beside the system's, when
        /// keys are fetched and the HTTP service is asked.
        ca_file: FileName = FileName::default(), Type, Live;
        /// Networks in which the hosts of `token_jwks_url` and `callback_url` may be, by the address
        /// that is connected to. Without any, they may be anywhere but at link-local addresses and
        /// others at which clouds tell machines their credentials.
        service_networks: Networks = Networks::default(), Type, Live;
        /// Algorithms that a token may be signed with. A key takes only those of its own kind.
        token_algorithms: Algorithms = Algorithms::default(), Type, Live;
        /// Secret of tokens signed with HS256, HS384 or HS512, of at least 32 bytes. Better kept
        /// in a file or in the variable.
        token_secret: SecretText = SecretText::default(), Type, Live;
        /// File with that secret; line ends at its end do not count.
        token_secret_file: FileName = FileName::default(), Type, Live;
        /// Files with public keys (PEM). A file's name without its ending is the key's name: the
        /// `kid` of tokens, if they have one.
        token_key_files: FileNames = FileNames::default(), Type, Live;
        /// URL of a key set (JWKS) with public keys.
        token_jwks_url: WebAddress = WebAddress::default(), Type, Live;
        /// How often the key set is fetched again while tokens come.
        token_jwks_refresh: Duration = Duration::from_mins(10), Time(SECOND, DAY), Live;
        /// Time between two attempts to fetch the key set, whatever unknown keys tokens name.
        token_jwks_pause: Duration = Duration::from_secs(30), Time(100, DAY), Live;
        /// How long keys are used that could not be fetched again.
        token_jwks_max_age: Duration = Duration::from_hours(24), Time(SECOND, 30 * DAY), Live;
        /// Audiences (`aud`) of which a token must name one; empty: not looked at.
        token_audiences: Texts = Texts::default(), Type, Live;
        /// Issuers (`iss`) of which a token must name one; empty: not looked at.
        token_issuers: Texts = Texts::default(), Type, Live;
        /// By how much clocks may differ: a token is taken, and a connection kept, for so long
        /// after its `exp` and before its `nbf`.
        token_leeway: Duration = Duration::from_mins(1), Time(0, 3600 * SECOND), Live;
        /// Whether a token must have an end (`exp`).
        token_expiry_required: bool = true, Type, Live;
        /// Claim that holds the name of the user.
        token_user_claim: Text = Text::new("sub"), Type, Live;
        /// Size of a token.
        token_size: usize = 8 * 1024, Size(256, 64 * KIB), Live;
        /// File with users and hashed passwords, written by `polycast passwd`. A change counts
        /// from the next login on.
        password_file: FileName = FileName::default(), Type, Live;
        /// Passwords that are checked at a time; each takes a processor and 19 MiB meanwhile.
        password_checks: usize = 2, Count(1, 64), Live;
        /// Logins that wait for their password to be checked; more are told to come later.
        password_waiting: usize = 256, Count(1, 65_536), Live;
        /// URL of an HTTP service that is asked who a client is.
        callback_url: WebAddress = WebAddress::default(), Type, Live;
        /// What the service is shown as `Authorization: Bearer`, so that it knows who asks.
        callback_secret: SecretText = SecretText::default(), Type, Live;
        /// File with that secret.
        callback_secret_file: FileName = FileName::default(), Type, Live;
        /// Time that the service has for its answer.
        callback_timeout: Duration = Duration::from_secs(5), Time(10, 60 * SECOND), Live;
        /// Questions that are open at a time.
        callback_open: usize = 32, Count(1, 1024), Live;
        /// Logins that wait until they can be asked about; more are told to come later.
        callback_waiting: usize = 1024, Count(1, 65_536), Live;
        /// Answers that are remembered, each as long as its `Cache-Control: max-age` says.
        callback_cached: usize = 10_000, Count(0, 1_000_000), Live;
        /// What happens when the service cannot answer: the login is refused, or the next method
        /// is tried.
        callback_unavailable: Unavailable = Unavailable::Refuse, Type, Live;
    }
}

/// A way to prove who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// A client certificate.
    Certificate,
    /// A signed token.
    Token,
    /// The password file.
    Password,
    /// The HTTP service.
    Callback,
}

impl AuthMethod {
    const ALL: [Self; 4] = [
        Self::Certificate,
        Self::Token,
        Self::Password,
        Self::Callback,
    ];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
            Self::Password => "password",
            Self::Callback => "callback",
        }
    }
}

/// An ordered list of methods, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthMethods(pub Vec<AuthMethod>);

impl Setting for AuthMethods {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let mut methods = Vec::new();
        for name in texts(raw)? {
            let method = AuthMethod::ALL
                .into_iter()
                .find(|method| method.as_str() == name)
                .ok_or_else(|| format!("there is no method `{name}`"))?;
            if methods.contains(&method) {
                return Err(format!("`{name}` comes twice"));
            }
            methods.push(method);
        }
        self.0 = methods;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        list(self.0.iter().map(|method| method.as_str()))
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of \"certificate\", \"token\", \"password\" and \"callback\"".to_owned()
    }
}

/// Algorithms of signatures; all that are known, unless fewer are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms(pub Vec<Algorithm>);

impl Default for Algorithms {
    fn default() -> Self {
        use jsonwebtoken::Algorithm::{
            ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
        };
        let known = [
            HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384,
        ];
        let mut all: Vec<_> = known.into_iter().map(Algorithm::Known).collect();
        all.extend([Algorithm::Es512, Algorithm::Known(EdDSA)]);
        Self(all)
    }
}

impl Setting for Algorithms {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let known = Self::default().0;
        let read = |name: String| {
            let algorithm = name.parse().ok();
            algorithm
                .filter(|algorithm| known.contains(algorithm))
                .ok_or_else(|| format!("there is no algorithm `{name}`"))
        };
        let list: Vec<_> = texts(raw)?
            .into_iter()
            .map(read)
            .collect::<Result<_, _>>()?;
        if list.is_empty() {
            return Err("it is empty".to_owned());
        }
        self.0 = list;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        let names: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        list(names.iter().map(String::as_str))
    }

    fn allowed(&self, bounds: Bounds) -> String {
        format!("a list of some of {}", Self::default().literal(bounds))
    }
}

/// A list of texts, which may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts(pub Vec<String>);

impl Setting for Texts {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        self.0 = texts(raw)?;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        list(self.0.iter().map(String::as_str))
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of texts".to_owned()
    }
}

/// A text that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl Text {
    fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Setting for Text {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let text = raw.text()?;
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        text.clone_into(&mut self.0);
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(&self.0)
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a text".to_owned()
    }
}

/// A file, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileName(pub Option<PathBuf>);

impl Setting for FileName {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let text = raw.text()?;
        if text.contains('\0') {
            return Err("it is not the name of a file".to_owned());
        }
        self.0 = (!text.is_empty()).then(|| text.into());
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        let name = self.0.as_ref().map(|path| path.to_string_lossy());
        quote(&name.unwrap_or_default())
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a path, or \"\" for none".to_owned()
    }
}

/// Some files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileNames(pub Vec<PathBuf>);

impl Setting for FileNames {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        self.0 = texts(raw)?.into_iter().map(PathBuf::from).collect();
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        let names: Vec<_> = self.0.iter().map(|path| path.to_string_lossy()).collect();
        list(names.iter().map(AsRef::as_ref))
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of paths".to_owned()
    }
}

/// The address of an HTTP service, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebAddress(pub Option<Url>);

impl Setting for WebAddress {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let text = raw.text()?;
        if text.is_empty() {
            self.0 = None;
            return Ok(());
        }
        let url = Url::parse(text).map_err(|error| format!("it is not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err("it does not begin with http:// or https:// and a host".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it holds a user or a password, which would be shown".to_owned());
        }
        self.0 = Some(url);
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(self.0.as_ref().map_or("", Url::as_str))
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "\"https://…\", \"http://…\" or \"\" for none".to_owned()
    }
}

/// A secret. It is never shown: not in logs, not in messages about mistakes, not as a default.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// The secret, if there is one.
    pub fn reveal(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(&*self.0)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "***" })
    }
}

impl Setting for SecretText {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let text = raw.text()?;
        if !text.is_empty() && text.len() < SECRET_BYTES {
            return Err(format!("it has less than {SECRET_BYTES} bytes"));
        }
        text.clone_into(&mut self.0);
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(if self.0.is_empty() { "" } else { "***" })
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        format!("a text of {SECRET_BYTES} bytes or more, or \"\" for none")
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// What a service that cannot answer means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unavailable {
    /// No.
    #[default]
    Refuse,
    /// Nothing: the next method is tried.
    Next,
}

impl Setting for Unavailable {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        *self = match raw.text()? {
            "refuse" => Self::Refuse,
            "next" => Self::Next,
            _ => return Err("there is no such choice".to_owned()),
        };
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(match self {
            Self::Refuse => "refuse",
            Self::Next => "next",
        })
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "\"refuse\", \"next\"".to_owned()
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items: Vec<_> = items.map(quote).collect();
    format!("[{}]", items.join(", "))
}

impl Config {
    /// Whether clients may stay anonymous at listeners that only this machine reaches, and at the
    /// others.
    pub fn lets_anonymous_in(&self) -> (bool, bool) {
        match self.security.anonymous {
            Anonymous::Auto => (self.auth.methods.0.is_empty(), false),
            Anonymous::Never => (false, false),
            Anonymous::Loopback => (true, false),
            Anonymous::Everywhere => (true, true),
        }
    }
}

/// What is wrong with `[auth]`, and with listeners that it leaves open: key, mistake, advice.
pub(super) fn problems(config: &Config) -> Vec<(&'static str, String, String)> {
    let mut problems = incomplete(&config.auth);
    let (_, everywhere) = config.lets_anonymous_in();
    if config.auth.methods.0.is_empty() && !everywhere {
        let listeners = config.listeners();
        let exposed = listeners.iter().filter(|(_, listen)| !listen.is_loopback());
        problems.extend(exposed.map(|(key, listen)| open_to_all(key, listen)));
    }
    problems
}

fn open_to_all(key: &'static str, listen: &Listen) -> (&'static str, String, String) {
    let what = format!(
        "{key} = \"{listen}\": others than this machine could connect, and no client needs a login"
    );
    let advice = "to ask for a login, write\n    \
                  auth.methods = [\"password\"]\n    \
                  auth.password_file = \"passwords\"\n\
                  at the top of the file, and run `polycast passwd passwords NAME`;\n\
                  to let everyone in all the same, write\n    \
                  [security]\n    \
                  anonymous = \"everywhere\"\n\
                  or listen on 127.0.0.1, [::1] or localhost";
    (key, what, advice.to_owned())
}

fn incomplete(auth: &Auth) -> Vec<(&'static str, String, String)> {
    let mut problems = Vec::new();
    let mut missing = |method: AuthMethod, is_there: bool, needs: &str| {
        if auth.methods.0.contains(&method) && !is_there {
            let what = format!(
                "auth.methods has \"{}\", but nothing to check it with",
                method.as_str()
            );
            problems.push(("auth.methods", what, format!("set {needs}")));
        }
    };
    let has_keys = auth.token_secret.reveal().is_some()
        || auth.token_secret_file.0.is_some()
        || !auth.token_key_files.0.is_empty()
        || auth.token_jwks_url.0.is_some();
    let needs = "auth.token_secret_file, auth.token_key_files or auth.token_jwks_url";
    missing(AuthMethod::Token, has_keys, needs);
    let has_file = auth.password_file.0.is_some();
    missing(AuthMethod::Password, has_file, "auth.password_file");
    let has_url = auth.callback_url.0.is_some();
    missing(AuthMethod::Callback, has_url, "auth.callback_url");
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn load(variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables = variables.iter();
        let sources = super::super::Sources {
            variables: variables
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            ..Default::default()
        };
        Config::load(&sources).map_err(|problems| problems.to_string())
    }

    #[test]
    fn secrets_are_never_shown() {
        let config = load(&[
            ("POLYCAST_AUTH__METHODS", "token"),
            ("POLYCAST_AUTH__TOKEN_SECRET", SECRET),
        ])
        .unwrap();
        assert_eq!(config.auth.token_secret.reveal(), Some(SECRET));
        assert!(!format!("{config:?}").contains(SECRET));
        let (_, changes) = Config::default().reload(&config);
        assert!(!format!("{changes:?}").contains(SECRET), "{changes:?}");
        let short = "a-short-secret";
        let wrong = load(&[("POLYCAST_AUTH__TOKEN_SECRET", short)]).unwrap_err();
        assert!(wrong.contains("less than 32 bytes"), "{wrong}");
        assert!(!wrong.contains(short), "{wrong}");
    }

    #[test]
    fn a_method_needs_its_material() {
        for (method, needs) in [
            ("token", "token_jwks_url"),
            ("password", "password_file"),
            ("callback", "callback_url"),
        ] {
            let wrong = load(&[("POLYCAST_AUTH__METHODS", method)]).unwrap_err();
            assert!(wrong.contains(needs), "{wrong}");
        }
        assert!(load(&[("POLYCAST_AUTH__METHODS", "certificate")]).is_ok());
        let wrong = load(&[("POLYCAST_AUTH__METHODS", "token,token")]).unwrap_err();
        assert!(wrong.contains("comes twice"), "{wrong}");
    }

    #[test]
    fn an_open_listener_needs_a_login() {
        let open = ("POLYCAST_MQTT__LISTEN", "0.0.0.0:1883");
        let wrong = load(&[open]).unwrap_err();
        for line in [
            "auth.methods = [\"password\"]",
            "auth.password_file = \"passwords\"",
        ] {
            assert!(wrong.contains(line), "{wrong}");
        }
        let password = [
            open,
            ("POLYCAST_AUTH__METHODS", "password"),
            ("POLYCAST_AUTH__PASSWORD_FILE", "passwords"),
        ];
        assert_eq!(load(&password).unwrap().lets_anonymous_in(), (false, false));
        let everyone = load(&[open, ("POLYCAST_SECURITY__ANONYMOUS", "everywhere")]);
        assert_eq!(everyone.unwrap().lets_anonymous_in(), (true, true));
        assert_eq!(Config::default().lets_anonymous_in(), (true, false));
    }

    #[test]
    fn the_hardened_configuration_of_the_page_is_taken() {
        let page = include_str!("../../../docs/security.md");
        let hardened = page.split("## A hardened configuration").nth(1).unwrap();
        let text = hardened
            .split("```toml")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("polycast.toml");
        std::fs::write(&file, text).unwrap();
        let sources = super::super::Sources {
            file: Some(file),
            ..Default::default()
        };
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.lets_anonymous_in(), (false, false));
    }

    #[test]
    fn addresses_hold_no_secrets() {
        let mut address = WebAddress::default();
        let mut read = |text: &str| address.read(&Raw::Bare(text.into()), Type);
        assert!(read("https://keys.example/jwks").is_ok());
        assert!(read("ftp://keys.example").is_err());
        assert!(read("https://user:word@keys.example").is_err());
        assert!(read("file:///etc/passwd").is_err());
    }
}
