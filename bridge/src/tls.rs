//! TLS from files: for the broker, for HTTPS calls, and for the HTTP port. One provider, aws-lc-rs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{file}: {error}")]
    File {
        /// Its path.
        file: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// What they hold does not go together.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    /// The client's certificate or key is missing.
    #[error("cert_file and key_file belong together")]
    Half,
}

/// As a client: the system's authorities or those of a file, and a certificate of our own if there
/// is one.
pub(crate) fn client(
    ca_file: Option<&Path>,
    own: &(Option<PathBuf>, Option<PathBuf>),
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match own {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            builder.with_client_auth_cert(certificates(cert)?, private_key(key)?)?
        }
        _ => return Err(TlsError::Half),
    };
    Ok(Arc::new(config))
}

/// As a server.
pub(crate) fn server(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates(cert)?, private_key(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong(file, "no certificate in it")),
        Err(error) => Err(wrong(file, error)),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| wrong(file, error))
}

fn wrong(file: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
    TlsError::File {
        file: file.to_owned(),
        error: io::Error::other(error),
    }
}
