//! The keys that sign tokens, in each algorithm that `signature` checks.
//!
//! The broker itself signs nothing: `polycast token` does, for development and tests. As with the
//! keys that check, the curve of an ECDSA key decides its one algorithm [RFC 7518 §3.4].

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm::{ES256, ES384, EdDSA, HS256, RS256};
use jsonwebtoken::{EncodingKey, Header};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Map, Value, json};

use super::Algorithm;

/// A shared secret or a private key.
pub struct SigningKey {
    material: Material,
    /// What it signs with if nothing else is wanted.
    usual: Algorithm,
}

enum Material {
    /// For the algorithms that the library knows.
    Known(EncodingKey),
    /// For ES512.
    P521(EcdsaKeyPair),
}

/// It could not be signed, and why.
#[derive(Debug, thiserror::Error)]
pub enum Unsigned {
    /// The algorithm is one of another kind of key, or of another curve.
    #[error("{0} is not for this kind of key")]
    Unfit(Algorithm),
    /// The key does not do what its kind should.
    #[error("the key does not sign")]
    Failed,
}

impl SigningKey {
    /// A shared secret.
    pub fn from_secret(secret: &[u8]) -> Self {
        Self::known(EncodingKey::from_secret(secret), HS256)
    }

    /// A private key that is not encrypted: RSA (PKCS#1 or PKCS#8), ECDSA on P-256, P-384 or P-521
    /// (SEC 1 or PKCS#8), Ed25519 (PKCS#8).
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        if let Ok(key) = EncodingKey::from_rsa_pem(pem) {
            return Some(Self::known(key, RS256));
        }
        if let Ok(key) = EncodingKey::from_ed_pem(pem) {
            return Some(Self::known(key, EdDSA));
        }
        let der = PrivateKeyDer::from_pem_slice(pem).ok()?;
        for (curve, algorithm) in [
            (&ECDSA_P256_SHA256_FIXED_SIGNING, ES256),
            (&ECDSA_P384_SHA384_FIXED_SIGNING, ES384),
        ] {
            if let Ok(pair) = EcdsaKeyPair::from_private_key_der(curve, der.secret_der()) {
                let pkcs8 = pair.to_pkcs8v1().ok()?;
                let key = EncodingKey::from_ec_der(pkcs8.as_ref());
                return Some(Self::known(key, algorithm));
            }
        }
        let curve = &ECDSA_P521_SHA512_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_der(curve, der.secret_der()).ok()?;
        Some(Self {
            material: Material::P521(pair),
            usual: Algorithm::Es512,
        })
    }

    fn known(key: EncodingKey, usual: jsonwebtoken::Algorithm) -> Self {
        Self {
            material: Material::Known(key),
            usual: Algorithm::Known(usual),
        }
    }

    /// Signs what a token says. `algorithm` is one of the key's kind, the usual one if there is
    /// none; `kid` is the name of the key.
    ///
    /// # Errors
    ///
    /// The algorithm is not one of this key's.
    pub fn sign(
        &self,
        claims: &Map<String, Value>,
        algorithm: Option<Algorithm>,
        kid: Option<&str>,
    ) -> Result<String, Unsigned> {
        let algorithm = algorithm.unwrap_or(self.usual);
        if !self.fits(algorithm) {
            return Err(Unsigned::Unfit(algorithm));
        }
        match (&self.material, algorithm) {
            (Material::Known(key), Algorithm::Known(known)) => {
                let header = Header {
                    kid: kid.map(str::to_owned),
                    ..Header::new(known)
                };
                jsonwebtoken::encode(&header, claims, key).map_err(|_| Unsigned::Failed)
            }
            (Material::P521(key), Algorithm::Es512) => es512(key, claims, kid),
            _ => Err(Unsigned::Unfit(algorithm)),
        }
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        match (&self.material, algorithm, self.usual) {
            (_, one, usual) if one == usual => true,
            // One algorithm for each curve.
            (_, _, Algorithm::Es512 | Algorithm::Known(ES256 | ES384)) => false,
            (Material::Known(key), Algorithm::Known(known), _) => key.family() == known.family(),
            _ => false,
        }
    }
}

impl fmt::Debug for SigningKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.usual)
    }
}

/// The compact form [RFC 7515 §7.1].
fn es512(
    key: &EcdsaKeyPair,
    claims: &Map<String, Value>,
    kid: Option<&str>,
) -> Result<String, Unsigned> {
    let mut header = json!({"typ": "JWT", "alg": Algorithm::Es512.to_string()});
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&header), part(&claims.clone().into()));
    let signature = key.sign(&SystemRandom::new(), message.as_bytes());
    let signature = signature.map_err(|_| Unsigned::Failed)?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jsonwebtoken::Algorithm::{HS512, PS384, RS512};

    use super::super::signature::Material as Public;
    use super::super::token::{Key, Terms, verify};
    use super::*;
    use crate::auth::Algorithm::{Es512, Known};
    use crate::config::Auth;

    const NOW: protocols::model::Timestamp = protocols::model::Timestamp(1_800_000_000_000);
    const SECRET: &[u8] = b"a-secret-0123456789abcdef-0123456789";

    fn made(kind: &'static rcgen::SignatureAlgorithm) -> (SigningKey, Public) {
        let made = rcgen::KeyPair::generate_for(kind).unwrap();
        let private = SigningKey::from_pem(made.serialize_pem().as_bytes()).unwrap();
        let public = Public::from_pem(made.public_key_pem().as_bytes()).unwrap();
        (private, public)
    }

    fn keys() -> Vec<(SigningKey, Public, Vec<Algorithm>)> {
        let of = |kind, algorithms: &[Algorithm]| {
            let (private, public) = made(kind);
            (private, public, algorithms.to_vec())
        };
        let rsa = include_bytes!("testdata/rsa.pem");
        vec![
            of(&rcgen::PKCS_ECDSA_P256_SHA256, &[Known(ES256)]),
            of(&rcgen::PKCS_ECDSA_P384_SHA384, &[Known(ES384)]),
            of(&rcgen::PKCS_ECDSA_P521_SHA512, &[Es512]),
            of(&rcgen::PKCS_ED25519, &[Known(EdDSA)]),
            (
                SigningKey::from_secret(SECRET),
                Public::from_secret(SECRET),
                vec![Known(HS256), Known(HS512)],
            ),
            (
                SigningKey::from_pem(rsa).unwrap(),
                Public::from_pem(include_bytes!("testdata/rsa.pub.pem")).unwrap(),
                vec![Known(RS256), Known(RS512), Known(PS384)],
            ),
        ]
    }

    fn claims() -> Map<String, Value> {
        let claims = json!({"sub": "ann", "exp": NOW.0 / 1000 + 600, "team": ["x", "ü"]});
        claims.as_object().unwrap().clone()
    }

    fn header(token: &str) -> Value {
        let part = token.split('.').next().unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn what_a_key_signs_is_taken_with_its_other_half() {
        for (private, public, algorithms) in keys() {
            for algorithm in algorithms {
                let token = private
                    .sign(&claims(), Some(algorithm), Some("k1"))
                    .unwrap();
                let expected = json!({"typ": "JWT", "alg": algorithm.to_string(), "kid": "k1"});
                assert_eq!(header(&token), expected);
                let key = Key {
                    id: Some("k1".into()),
                    algorithm: None,
                    material: public.clone(),
                };
                let found = verify(
                    token.as_bytes(),
                    &Terms::new(&Auth::default()),
                    &[&[key]],
                    NOW,
                );
                let identity = found.unwrap();
                assert_eq!(identity.user.as_deref(), Some("ann"), "{algorithm}");
                assert_eq!(identity.claims["team"], json!(["x", "ü"]), "{algorithm}");
            }
        }
    }

    #[test]
    fn the_usual_algorithm_is_the_keys_first_and_needs_no_name() {
        for (private, _, algorithms) in keys() {
            let token = private.sign(&claims(), None, None).unwrap();
            let expected = json!({"typ": "JWT", "alg": algorithms[0].to_string()});
            assert_eq!(header(&token), expected);
        }
    }

    #[test]
    fn an_algorithm_of_another_kind_or_curve_is_refused() {
        let all = [HS256, RS256, PS384, ES256, ES384, EdDSA].map(Known);
        for (private, _, algorithms) in keys() {
            for other in all.into_iter().chain([Es512]) {
                let is_mine = algorithms.contains(&other);
                let signed = private.sign(&claims(), Some(other), None);
                assert_eq!(signed.is_ok(), is_mine, "{other} with {private:?}");
            }
        }
    }

    #[test]
    fn what_is_no_private_key_is_none() {
        let made = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let public = made.public_key_pem();
        for text in ["", "nonsense", public.as_str()] {
            assert!(SigningKey::from_pem(text.as_bytes()).is_none(), "{text}");
        }
        let shown = format!("{:?}", SigningKey::from_secret(SECRET));
        assert_eq!(shown, "SigningKey(HS256)");
    }
}
