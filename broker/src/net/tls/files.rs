//! From files to what rustls needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::{ClientAuth, TlsSettings, certificate};

/// The names of [`super::Alpn`], in its order.
const ALPN: [&[u8]; 3] = [b"mqtt", b"stomp", b"http/1.1"];

const NEW_ONLY: &[&SupportedProtocolVersion] = &[&TLS13];
const OLD_TOO: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// What was read.
#[derive(Debug)]
pub(super) struct Loaded {
    /// By [`super::Alpn`].
    pub(super) configs: [Arc<ServerConfig>; 3],
    /// When the certificate ends, in seconds since the epoch.
    pub(super) expires_at: i64,
}

/// What changes when a file is written or replaced; links are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<(PathBuf, Option<Seen>)>);

/// A file that is there: its time, its number and its length.
type Seen = (SystemTime, u64, u64);

impl Stamp {
    pub(super) fn of(settings: &TlsSettings) -> Self {
        let files = [
            Some(&settings.certificate),
            Some(&settings.key),
            settings.client_ca.as_ref(),
            settings.client_crl.as_ref(),
        ];
        let stamp = |path: &PathBuf| (path.clone(), Self::of_file(path));
        Self(files.into_iter().flatten().map(stamp).collect())
    }

    fn of_file(path: &Path) -> Option<Seen> {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.ino(), found.len()))
    }
}

/// Reads the files and puts them together, or says what is wrong.
pub(super) fn load(settings: &TlsSettings) -> Result<Loaded, String> {
    let chain = certificates(&settings.certificate, "tls.certificate")?;
    let first = chain
        .first()
        .expect("a list that was found not to be empty");
    let expires_at = certificate::expires_at(first)
        .map_err(|wrong| named(&settings.certificate, "tls.certificate", &wrong))?;
    let key = PrivateKeyDer::from_pem_file(&settings.key)
        .map_err(|error| named(&settings.key, "tls.key", &error))?;
    let config = config(settings, chain, key)?;
    let configs = ALPN.map(|name| {
        let mut config = config.clone();
        config.alpn_protocols = vec![name.to_vec()];
        Arc::new(config)
    });
    Ok(Loaded {
        configs,
        expires_at,
    })
}

fn named(file: &Path, key: &str, wrong: &dyn std::fmt::Display) -> String {
    format!("{} ({key}): {wrong}", file.display())
}

fn certificates(file: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| named(file, key, &error))?;
    if found.is_empty() {
        return Err(named(file, key, &"there is no certificate in it"));
    }
    Ok(found)
}

fn config(
    settings: &TlsSettings,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = if settings.old_version {
        OLD_TOO
    } else {
        NEW_ONLY
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let builder = match settings.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional | ClientAuth::Required => {
            // An authority without a list has revoked nothing; the whole chain is looked at, and
            // what a list that has expired would have said is not known.
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(settings)?), provider)
                    .with_crls(revocation_lists(settings)?)
                    .allow_unknown_revocation_status()
                    .enforce_revocation_expiration();
            let verifier = match settings.client_auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            let verifier = verifier
                .build()
                .map_err(|error| format!("tls.client_ca and tls.client_crl: {error}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        format!(
            "{} (tls.certificate) and {} (tls.key): {error}",
            settings.certificate.display(),
            settings.key.display()
        )
    })?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if settings.client_auth == ClientAuth::None {
        // Resumed sessions would also skip the look at the client's certificate: with those, each
        // connection shows it anew. A reload makes new tickets, so that old ones are worth nothing.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()
            .map_err(|error| format!("no session tickets can be made: {error}"))?;
        // The next connection needs one.
        config.send_tls13_tickets = 1;
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn revocation_lists(
    settings: &TlsSettings,
) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let Some(file) = &settings.client_crl else {
        return Ok(Vec::new());
    };
    let found = CertificateRevocationListDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| named(file, "tls.client_crl", &error))?;
    if found.is_empty() {
        return Err(named(
            file,
            "tls.client_crl",
            &"there is no revocation list in it",
        ));
    }
    Ok(found)
}

fn roots(settings: &TlsSettings) -> Result<RootCertStore, String> {
    let Some(file) = &settings.client_ca else {
        return Err("tls.client_ca names no authorities".to_owned());
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, "tls.client_ca")? {
        roots
            .add(certificate)
            .map_err(|error| named(file, "tls.client_ca", &error))?;
    }
    Ok(roots)
}
