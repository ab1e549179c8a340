use std::os::unix::fs::PermissionsExt as _;

use clap::Parser;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    cert: Cert,
}

/// `polycast cert …` in a directory.
fn cert(dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let dir = dir.to_str().unwrap();
    let line = ["cert"].iter().chain(arguments).copied();
    let line =
        Line::try_parse_from(line.chain(["--dir", dir])).map_err(|error| error.to_string())?;
    make(&line.cert.what).map_err(|error| format!("{error:#}"))
}

fn mode(path: PathBuf) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn der(path: PathBuf) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

#[test]
fn an_authority_is_made_when_it_is_needed_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new");
    let said = cert(&dir, &["server"]).unwrap();
    assert!(
        said.contains("ca.pem") && said.contains("server-key.pem"),
        "{said}"
    );
    let ca = der(dir.join("ca.pem"));
    let said = cert(&dir, &["client", "anna", "--san", "anna@example.org"]).unwrap();
    assert!(!said.contains("ca.pem"), "{said}");
    assert_eq!(der(dir.join("ca.pem")), ca);
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    for (file, name) in [("server.pem", "localhost"), ("anna.pem", "anna")] {
        let der = der(dir.join(file));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.issuer(), ca.subject(), "{file}");
        let common = certificate.subject().iter_common_name().next().unwrap();
        assert_eq!(common.as_str().unwrap(), name);
        assert!(!certificate.is_ca());
    }
    for file in ["ca-key.pem", "server-key.pem", "anna-key.pem"] {
        assert_eq!(mode(dir.join(file)), 0o600, "{file}");
    }
    assert!(
        std::fs::read_dir(&dir).unwrap().count() == 6,
        "nothing else is left"
    );
}

#[test]
fn days_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    cert(dir.path(), &["server", "--days", "7"]).unwrap();
    let der = der(dir.path().join("server.pem"));
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let left = certificate.validity().time_to_expiration().unwrap();
    assert_eq!(left.whole_days().clamp(6, 7), left.whole_days());
    assert!(cert(dir.path(), &["ca", "--days", "0"]).is_err());
}

#[test]
fn nothing_is_overwritten_unless_told_to() {
    let dir = tempfile::tempdir().unwrap();
    cert(dir.path(), &["client", "anna"]).unwrap();
    let before = der(dir.path().join("anna.pem"));
    let refused = cert(dir.path(), &["client", "anna"]).unwrap_err();
    assert!(
        refused.contains("anna.pem exists; --force overwrites it"),
        "{refused}"
    );
    assert!(cert(dir.path(), &["ca"]).is_err());
    assert_eq!(der(dir.path().join("anna.pem")), before);
    cert(dir.path(), &["client", "anna", "--force"]).unwrap();
    assert_ne!(der(dir.path().join("anna.pem")), before);
    // Half a pair is as good as a pair.
    std::fs::remove_file(dir.path().join("anna.pem")).unwrap();
    assert!(cert(dir.path(), &["client", "anna"]).is_err());
    assert!(!dir.path().join("anna.pem").exists());
}

#[test]
fn names_of_files_are_harmless() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["../x", "a/b", ".x", "ca", "a b"] {
        let refused = cert(dir.path(), &["client", name]).unwrap_err();
        assert!(refused.contains("--file"), "{refused}");
        assert!(cert(dir.path(), &["server", "--file", name]).is_err());
    }
    cert(dir.path(), &["client", "a b", "--file", "ab"]).unwrap();
    assert!(dir.path().join("ab.pem").exists());
}

#[test]
fn an_authority_without_its_key_signs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    cert(dir.path(), &["ca"]).unwrap();
    std::fs::remove_file(dir.path().join("ca-key.pem")).unwrap();
    let refused = cert(dir.path(), &["server"]).unwrap_err();
    assert!(refused.contains("ca-key.pem is missing"), "{refused}");
}
