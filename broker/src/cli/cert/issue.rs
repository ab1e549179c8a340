//! Making keys and signing certificates.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use super::files::Pair;

/// Clocks that are a little behind take a fresh certificate too.
const LEEWAY: Duration = Duration::from_hours(1);

/// What a certificate is for.
pub(super) enum Kind {
    /// A broker.
    Server,
    /// A client.
    Client,
}

/// A new authority, signed by itself.
pub(super) fn authority(name: &str, days: u32) -> Result<Pair> {
    let mut params = params(name, &[], days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate().context("no key could be made")?;
    let certificate = params.self_signed(&key).context("it cannot be signed")?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// A certificate that an authority signs. `names` are host names, addresses and the like.
pub(super) fn certificate(
    authority: &Pair,
    kind: &Kind,
    common_name: &str,
    names: &[String],
    days: u32,
) -> Result<Pair> {
    let mut params = params(common_name, names, days)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match kind {
        Kind::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Kind::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    let signer = KeyPair::from_pem(&authority.key).context("the authority's key (ca-key.pem)")?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, signer)
        .context("the authority's certificate (ca.pem)")?;
    let key = KeyPair::generate().context("no key could be made")?;
    let certificate = params
        .signed_by(&key, &issuer)
        .context("it cannot be signed")?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn params(common_name: &str, names: &[String], days: u32) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)
        .with_context(|| format!("{} cannot be names of a certificate", names.join(", ")))?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - LEEWAY).into();
    params.not_after = (now + Duration::from_hours(24) * days).into();
    Ok(params)
}
