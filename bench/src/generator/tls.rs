//! TLS of one connection of the generator.
//!
//! Certificates are not checked: what is measured is on the same machine, with a certificate that
//! was made for it.

use mio::net::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, LazyLock};

/// The client's side, which begins the handshake with the first write.
#[derive(Debug)]
pub(super) struct Tls(ClientConnection);

impl Default for Tls {
    fn default() -> Self {
        /// One for all, so that the broker may resume what it can.
        static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
            let provider = Arc::new(aws_lc_rs::default_provider());
            let verifier = Arc::new(Anyone(Arc::clone(&provider)));
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider has the versions of its own library")
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            Arc::new(config)
        });
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::clone(&CONFIG), name);
        Self(connection.expect("the configuration is complete"))
    }
}

impl Tls {
    /// Reads what was decrypted; `WouldBlock` if the socket has no more.
    pub(super) fn read(&mut self, into: &mut [u8], stream: &mut TcpStream) -> io::Result<usize> {
        loop {
            match self.0.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
            if self.0.read_tls(stream)? == 0 {
                return Ok(0);
            }
            self.0.process_new_packets().map_err(io::Error::other)?;
            self.flush(stream)?;
        }
    }

    /// Encrypts what there is room for; `WouldBlock` if the socket takes no more.
    pub(super) fn write(&mut self, bytes: &[u8], stream: &mut TcpStream) -> io::Result<usize> {
        let taken = self.0.writer().write(bytes)?;
        self.flush(stream)?;
        if taken == 0 {
            // During the handshake it keeps what fits into its buffer.
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Writes what is encrypted, as far as the socket takes it.
    pub(super) fn flush(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Takes every certificate; the signatures of the handshake are checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
