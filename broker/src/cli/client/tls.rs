//! TLS towards a broker.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Trust;

/// Shakes hands over `socket` with the host that it should lead to.
pub(in crate::cli) async fn connect(
    socket: TcpStream,
    host: &str,
    trust: &Trust,
) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .with_context(|| format!("{host} cannot be the name of a certificate"))?;
    let connector = TlsConnector::from(Arc::new(config(trust)?));
    connector.connect(name, socket).await.context(
        "the TLS handshake failed; --cafile FILE names certificates to trust, mqtt://, ws:// and \
         stomp:// go without TLS",
    )
}

fn config(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("TLS is not available")?;
    if trust.insecure {
        let anyone = Arc::new(Anyone(provider));
        let builder = builder.dangerous().with_custom_certificate_verifier(anyone);
        return with_identity(builder, trust);
    }
    let roots = match &trust.ca_file {
        Some(file) => from_file(file)?,
        None => from_system()?,
    };
    with_identity(builder.with_root_certificates(roots), trust)
}

/// Adds the certificate that is shown, if there is one.
fn with_identity(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    trust: &Trust,
) -> Result<ClientConfig> {
    let Some((certificate, key)) = &trust.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let named = || format!("{} (--cert)", certificate.display());
    let chain = CertificateDer::pem_file_iter(certificate).with_context(named)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().with_context(named)?;
    let key =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("{} (--key)", key.display()))?;
    builder
        .with_client_auth_cert(chain, key)
        .with_context(named)
}

fn from_file(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let named = || format!("{} (--cafile)", file.display());
    let certificates = CertificateDer::pem_file_iter(file).with_context(named)?;
    for certificate in certificates {
        roots
            .add(certificate.with_context(named)?)
            .with_context(named)?;
    }
    ensure!(
        !roots.is_empty(),
        "{}: there is no certificate in it",
        named()
    );
    Ok(roots)
}

fn from_system() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    ensure!(
        !roots.is_empty(),
        "the system has no certificates to trust; --cafile FILE names some"
    );
    Ok(roots)
}

/// Accepts every certificate, for `--insecure`.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
