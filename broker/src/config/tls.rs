//! Keys of TLS: what the encrypted listeners show and ask for.
//!
//! The listeners themselves are `mqtt.tls_listen`, `stomp.tls_listen` and `http.tls_listen`. Files
//! are read by `net::tls`, which also notices when they change; here it is only checked that the
//! keys fit together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Config;
use super::section::section;
use super::setting::Bounds::{Time, Type};
use super::setting::{Bounds, Raw, Setting, quote};
use super::values::{Listen, choice};

const SECOND: u64 = 1000;

section! {
    /// TLS, for the listeners `mqtt.tls_listen`, `stomp.tls_listen` and `http.tls_listen`. The
    /// files are read again when they change; connections stay.
    pub struct Tls in "tls" {
        /// The certificate that the broker shows, with those between it and the root (PEM).
        certificate: FilePath = FilePath::default(), Type, Live;
        /// The certificate's private key (PEM).
        key: FilePath = FilePath::default(), Type, Live;
        /// Whether clients show a certificate: `none` does not ask, `optional` takes one that is
        /// signed by `client_ca`, `required` lets nobody in without.
        client_auth: ClientAuth = ClientAuth::default(), Type, Live;
        /// The authorities that sign the clients' certificates (PEM).
        client_ca: FilePath = FilePath::default(), Type, Live;
        /// Revocation lists (CRLs, PEM) of those authorities: certificates on them are refused.
        /// Authorities without a list revoke nothing; one that has expired refuses all of its own.
        client_crl: FilePath = FilePath::default(), Type, Live;
        /// Which name in a client's certificate is its user: the subject's common name, or the
        /// first DNS name, mail address or URI among the alternative names.
        client_name: ClientName = ClientName::default(), Type, Live;
        /// The oldest version of TLS that is spoken.
        minimum_version: TlsVersion = TlsVersion::default(), Type, Live;
        /// Time from accepting a connection to the end of the TLS handshake.
        handshake_timeout: Duration = Duration::from_secs(10), Time(100, 300 * SECOND), Live;
        /// How often it is looked whether the files have changed.
        reload_interval: Duration = Duration::from_secs(10), Time(100, 24 * 3600 * SECOND), Live;
    }
}

choice! {
    /// Whether clients show a certificate.
    pub enum ClientAuth {
        /// They are not asked.
        #[default]
        None = "none",
        /// They may; one that cannot be verified is refused.
        Optional = "optional",
        /// They must.
        Required = "required",
    }
}

choice! {
    /// Which name in a certificate is the user.
    pub enum ClientName {
        /// The common name of the subject.
        #[default]
        CommonName = "cn",
        /// The first name among the subject's alternative names.
        AlternativeName = "san",
    }
}

choice! {
    /// A version of TLS.
    pub enum TlsVersion {
        /// TLS 1.3 and nothing older.
        #[default]
        V13 = "1.3",
        /// TLS 1.2 too.
        V12 = "1.2",
    }
}

/// A file, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePath(Option<PathBuf>);

impl FilePath {
    /// The file, if one was named.
    pub fn get(&self) -> Option<&Path> {
        self.0.as_deref()
    }
}

impl From<PathBuf> for FilePath {
    fn from(path: PathBuf) -> Self {
        Self(Some(path))
    }
}

impl Setting for FilePath {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let text = raw.text()?;
        if text.contains('\0') {
            return Err("it is not the name of a file".to_owned());
        }
        self.0 = (!text.is_empty()).then(|| PathBuf::from(text));
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        let path = self.0.as_deref().unwrap_or(Path::new(""));
        quote(&path.to_string_lossy())
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "the path of a file, or \"\" for none".to_owned()
    }
}

/// A mistake in how keys fit together.
pub(super) struct Misfit {
    /// The keys that it is about; the first one that was set is where it is shown.
    pub(super) keys: &'static [&'static str],
    /// What is wrong.
    pub(super) what: String,
    /// What to do.
    pub(super) allowed: &'static str,
}

/// Checks the keys of TLS against each other.
pub(super) fn misfits(config: &Config) -> Vec<Misfit> {
    let tls = &config.tls;
    let mut found = Vec::new();
    let listening = [
        ("mqtt.tls_listen", &config.mqtt.tls_listen),
        ("stomp.tls_listen", &config.stomp.tls_listen),
        ("http.tls_listen", &config.http.tls_listen),
    ];
    let listening = listening.iter().find(|(_, listen)| **listen != Listen::Off);
    let complete = tls.certificate.get().is_some() && tls.key.get().is_some();
    if let (Some((key, listen)), false) = (listening, complete) {
        found.push(Misfit {
            keys: &["mqtt.tls_listen", "stomp.tls_listen", "http.tls_listen"],
            what: format!("{key} = \"{listen}\": there is no certificate for it"),
            allowed: "to make one for a test, run\n    polycast cert server\nand write\n    [tls]\n    \
                      certificate = \"polycast-certs/server.pem\"\n    \
                      key = \"polycast-certs/server-key.pem\"",
        });
    } else if tls.certificate.get().is_some() != tls.key.get().is_some() {
        found.push(Misfit {
            keys: &["tls.certificate", "tls.key"],
            what: "a certificate and its key belong together".to_owned(),
            allowed: "write both tls.certificate and tls.key",
        });
    }
    if tls.client_auth != ClientAuth::None && tls.client_ca.get().is_none() {
        found.push(Misfit {
            keys: &["tls.client_auth"],
            what: "clients' certificates cannot be checked: no authority is named".to_owned(),
            allowed: "write tls.client_ca, the file with the authorities that sign them",
        });
    }
    if tls.client_crl.get().is_some() && tls.client_auth == ClientAuth::None {
        found.push(Misfit {
            keys: &["tls.client_crl"],
            what: "there are revocation lists, but nobody is asked for a certificate".to_owned(),
            allowed: "write tls.client_auth = \"required\" (or \"optional\"), or leave the lists out",
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(config: &Config) -> Vec<&'static str> {
        misfits(config)
            .into_iter()
            .map(|misfit| misfit.keys[0])
            .collect()
    }

    #[test]
    fn keys_fit_together() {
        let mut config = Config::default();
        assert!(about(&config).is_empty());
        config.stomp.tls_listen = Listen::loopback(0);
        assert_eq!(about(&config), ["mqtt.tls_listen"]);
        config.tls.certificate = PathBuf::from("a").into();
        assert_eq!(about(&config), ["mqtt.tls_listen"]);
        config.tls.key = PathBuf::from("b").into();
        assert!(about(&config).is_empty());
        config.tls.client_auth = ClientAuth::Optional;
        assert_eq!(about(&config), ["tls.client_auth"]);
        config.tls.client_ca = PathBuf::from("c").into();
        assert!(about(&config).is_empty());
        config.tls.client_crl = PathBuf::from("d").into();
        assert!(about(&config).is_empty());
        config.tls.client_auth = ClientAuth::None;
        assert_eq!(about(&config), ["tls.client_crl"]);
        config.tls.client_crl = FilePath::default();
        config.stomp.tls_listen = Listen::Off;
        config.tls.key = FilePath::default();
        assert_eq!(about(&config), ["tls.certificate"]);
    }

    #[test]
    fn no_file_is_an_empty_text() {
        let mut path = FilePath::from(PathBuf::from("x"));
        assert_eq!(path.literal(Type), "\"x\"");
        path.read(&Raw::Text(String::new()), Type).unwrap();
        assert_eq!(path.get(), None);
        assert!(path.read(&Raw::Text("a\0b".into()), Type).is_err());
    }
}
