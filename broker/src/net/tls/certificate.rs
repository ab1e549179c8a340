//! What is read from a certificate: its end and its names. Signatures are rustls' part.

use bytestring::ByteString;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Bytes of a user's name.
const NAME_BYTES: usize = 256;

/// When a certificate ends, in seconds since the epoch.
pub(super) fn expires_at(der: &[u8]) -> Result<i64, String> {
    Ok(parse(der)?.validity().not_after.timestamp())
}

/// The user that a client's certificate names, if there is such a name and it is fit for one.
pub(super) fn user(der: &[u8], alternative_name: bool) -> Option<ByteString> {
    let certificate = parse(der).ok()?;
    let name = if alternative_name {
        let names = certificate.subject_alternative_name().ok()??;
        names
            .value
            .general_names
            .iter()
            .find_map(|name| match name {
                GeneralName::DNSName(name)
                | GeneralName::RFC822Name(name)
                | GeneralName::URI(name) => Some(ByteString::from(*name)),
                _ => None,
            })
    } else {
        let name = certificate.subject().iter_common_name().next();
        name.and_then(|name| name.as_str().ok())
            .map(ByteString::from)
    };
    // Such names end up in topics, in rules and in logs.
    name.filter(|name| {
        !name.is_empty() && name.len() <= NAME_BYTES && !name.contains(char::is_control)
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|error| format!("it cannot be understood: {error}"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(common_name: &str, names: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_found() {
        let der = certificate("anna", &["192.0.2.1", "anna.example.org", "b.example.org"]);
        assert_eq!(user(&der, false).as_deref(), Some("anna"));
        assert_eq!(user(&der, true).as_deref(), Some("anna.example.org"));
        let der = certificate("anna", &["192.0.2.1"]);
        assert_eq!(user(&der, true), None, "an address is no name");
        assert!(expires_at(&der).unwrap() > 0);
    }

    #[test]
    fn names_that_are_none_are_not_taken() {
        for name in ["", "a\0b", "a\nb", &"x".repeat(257)] {
            assert_eq!(user(&certificate(name, &[]), false), None, "{name:?}");
        }
        assert_eq!(user(b"junk", false), None);
        assert!(expires_at(b"").is_err());
    }
}
