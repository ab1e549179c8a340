//! One typed, documented configuration: flags over environment over file over defaults.
//!
//! A key is declared once, as a field with a doc comment, a default and bounds (see
//! `section.rs`); reading, checking, `polycast default-config` and `docs/configuration.md` follow
//! from that. Every limit and its default is in `limits.rs`. [`Config::load`] reports all
//! mistakes at once, each with its place. Called by `cli` at the start and again at SIGHUP.

mod access;
mod api;
mod auth;
mod drain;
mod functions;
mod limits;
mod load;
mod pages;
mod problem;
mod protection;
mod reference;
mod section;
mod setting;
mod telemetry;
mod tls;
mod values;

use std::path::PathBuf;

pub use access::{Access, AccessRules};
pub use api::{Api, KeyEntry, Permissions, Source};
pub use auth::{Auth, AuthMethod, Unavailable};
pub use drain::{Drain, Server};
pub use functions::{Envelope, Functions, Invocation, RouteEntry, RuleEntry, TargetEntry};
pub use limits::{Limits, Mqtt, Store};
pub use load::{Flag, Sources};
pub use pages::Pages;
pub use problem::{Place, Problem, Problems};
pub use protection::{Names, Networks, Protection};
pub use reference::{default_file, reference};
pub use section::{Apply, Key};
pub use setting::{Bounds, duration};
pub use telemetry::Telemetry;
pub use tls::{ClientAuth, ClientName, FilePath, Tls, TlsVersion};
pub use values::{
    Anonymous, Durability, FullQueue, Listen, LogFilter, LogFormat, MetricsAccess, Origins,
    Persistence, Unmatched,
};

use section::{Section, Visitor, section};
use setting::{Bounds::Type, Setting};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the broker keeps its files.
    pub data_dir: PathBuf,
    /// MQTT.
    pub mqtt: Mqtt,
    /// STOMP.
    pub stomp: Stomp,
    /// HTTP and WebSocket.
    pub http: Http,
    /// The HTTP API.
    pub api: Api,
    /// Pages for browsers.
    pub pages: Pages,
    /// What a WebSocket may do.
    pub websocket: WebSocket,
    /// What encrypted listeners show and ask for.
    pub tls: Tls,
    /// What survives the process.
    pub store: Store,
    /// Who may come in.
    pub security: Security,
    /// What clients may do.
    pub access: Access,
    /// Who clients are.
    pub auth: Auth,
    /// Functions that connections and messages are given to.
    pub functions: Functions,
    /// Who is kept out.
    pub protection: Protection,
    /// How clients are sent away.
    pub drain: Drain,
    /// What is logged.
    pub log: Log,
    /// What the broker says about itself.
    pub telemetry: Telemetry,
    /// What may be used.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "./polycast-data".into(),
            mqtt: Mqtt::default(),
            stomp: Stomp::default(),
            http: Http::default(),
            api: Api::default(),
            pages: Pages::default(),
            websocket: WebSocket::default(),
            tls: Tls::default(),
            store: Store::default(),
            security: Security::default(),
            access: Access::default(),
            auth: Auth::default(),
            functions: Functions::default(),
            protection: Protection::default(),
            drain: Drain::default(),
            log: Log::default(),
            telemetry: Telemetry::default(),
            limits: Limits::default(),
        }
    }
}

section! {
    /// STOMP 1.0, 1.1 and 1.2.
    pub struct Stomp in "stomp" {
        /// Where to listen for STOMP over TCP.
        listen: Listen = Listen::loopback(61_613), Type, Restart;
        /// Where to listen for STOMP over TLS, by habit at port 61614; see `[tls]`.
        tls_listen: Listen = Listen::Off, Type, Restart;
    }
}

section! {
    /// One port for HTTP and for WebSocket, whatever protocol is spoken in it.
    pub struct Http in "http" {
        /// Where to listen for HTTP and WebSocket.
        listen: Listen = Listen::loopback(8080), Type, Restart;
        /// Where to listen for HTTP and WebSocket over TLS, by habit at port 8443; see `[tls]`.
        tls_listen: Listen = Listen::Off, Type, Restart;
        /// Who may read `/metrics`: everyone (`open`), who shows a login or a key of the API that
        /// may `manage` (`protected`), or nobody (`off`). `auto` is `open` for requests that come
        /// straight from this machine, and for all as long as there are neither logins nor keys;
        /// for others it is `protected`. What answers about the broker's health tell of its
        /// version, connections and sessions is for the same readers.
        metrics: MetricsAccess = MetricsAccess::Auto, Type, Live;
    }
}

section! {
    /// WebSocket, whatever protocol is spoken in it.
    pub struct WebSocket in "websocket" {
        /// Web pages that may connect, by their origin. Pages of the broker's own host and port
        /// need not be listed; programs that are no browsers send no origin and are not asked.
        allowed_origins: Origins = Origins::default(), Type, Live;
        /// Whether messages are compressed for clients that offer it (permessage-deflate). It
        /// costs processor time and saves bandwidth.
        permessage_deflate: bool = false, Type, Live;
    }
}

section! {
    /// Who may come in.
    pub struct Security in "security" {
        /// Where clients need no login: nowhere, on listeners that this machine alone can reach, or
        /// everywhere. `auto` is `loopback` as long as `auth.methods` is empty, and `never` then.
        /// Without any method the broker refuses to listen where others than this machine could
        /// connect, unless this is `everywhere`.
        anonymous: Anonymous = Anonymous::Auto, Type, Restart;
    }
}

section! {
    /// The log, written to the standard error.
    pub struct Log in "log" {
        /// What is logged: a level, or levels by module.
        level: LogFilter = LogFilter::default(), Type, Live;
        /// How it looks: text for people or a JSON object a line; `auto` is text on a terminal
        /// and JSON otherwise.
        format: LogFormat = LogFormat::Auto, Type, Restart;
    }
}

const DATA_DIR: Key = Key {
    path: "data_dir",
    doc: " Directory where the broker keeps its files. It is made if it does not exist.",
    bounds: Type,
    apply: Apply::Restart,
};

/// What a reload would do, in words for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes that take effect now.
    pub applied: Vec<String>,
    /// Changes that wait for a restart.
    pub need_restart: Vec<String>,
}

impl Config {
    /// Reads all sources, or says everything that is wrong with them.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        load::load(sources)
    }

    /// Compares this running configuration with one that was just loaded and returns the one to
    /// run with from now on: new where a change is safe, old where it needs a restart.
    #[must_use]
    pub fn reload(&self, loaded: &Self) -> (Self, Changes) {
        let mut changes = Changes::default();
        let (old, new) = (reference::settings(self), reference::settings(loaded));
        for ((key, was), (_, is)) in old.iter().zip(&new).filter(|(old, new)| old.1 != new.1) {
            match key.apply {
                Apply::Live => changes
                    .applied
                    .push(format!("{} is now {is} (it was {was})", key.path)),
                Apply::Restart => changes.need_restart.push(format!(
                    "{} stays {was} until the next start ({is} is configured)",
                    key.path
                )),
            }
        }
        let mut next = loaded.clone();
        next.keep_restart(self);
        (next, changes)
    }

    /// The addresses to listen at, each with the key that sets it.
    pub fn listeners(&self) -> [(&'static str, &Listen); 6] {
        [
            ("mqtt.listen", &self.mqtt.listen),
            ("stomp.listen", &self.stomp.listen),
            ("http.listen", &self.http.listen),
            ("mqtt.tls_listen", &self.mqtt.tls_listen),
            ("stomp.tls_listen", &self.stomp.tls_listen),
            ("http.tls_listen", &self.http.tls_listen),
        ]
    }
}

impl Section for Config {
    fn visit(&mut self, visitor: &mut dyn Visitor) {
        visitor.setting(&DATA_DIR, &mut self.data_dir as &mut dyn Setting);
        self.mqtt.visit(visitor);
        self.stomp.visit(visitor);
        self.http.visit(visitor);
        self.api.visit(visitor);
        self.pages.visit(visitor);
        self.websocket.visit(visitor);
        self.tls.visit(visitor);
        self.store.visit(visitor);
        self.security.visit(visitor);
        self.access.visit(visitor);
        self.auth.visit(visitor);
        self.functions.visit(visitor);
        self.protection.visit(visitor);
        self.drain.visit(visitor);
        self.log.visit(visitor);
        self.telemetry.visit(visitor);
        self.limits.visit(visitor);
    }

    fn keep_restart(&mut self, running: &Self) {
        self.data_dir.clone_from(&running.data_dir);
        self.mqtt.keep_restart(&running.mqtt);
        self.stomp.keep_restart(&running.stomp);
        self.http.keep_restart(&running.http);
        self.api.keep_restart(&running.api);
        self.pages.keep_restart(&running.pages);
        self.websocket.keep_restart(&running.websocket);
        self.tls.keep_restart(&running.tls);
        self.store.keep_restart(&running.store);
        self.security.keep_restart(&running.security);
        self.access.keep_restart(&running.access);
        self.auth.keep_restart(&running.auth);
        self.functions.keep_restart(&running.functions);
        self.protection.keep_restart(&running.protection);
        self.drain.keep_restart(&running.drain);
        self.log.keep_restart(&running.log);
        self.telemetry.keep_restart(&running.telemetry);
        self.limits.keep_restart(&running.limits);
    }
}

#[cfg(test)]
mod tests;
