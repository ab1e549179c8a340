//! The algorithms that tokens are signed with (JWA, RFC 7518 §3.1), and the keys that check them.
//!
//! All come from the library for tokens but ES512, which it does not know: that one is here. A key
//! is looked at once, when it is read; a point that is on none of the curves is no key. Which
//! algorithms are taken and what a token says is the matter of `token`, for all of them alike.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    EcdsaVerificationAlgorithm, ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, EllipticCurveKeyParameters, Jwk};
use jsonwebtoken::{AlgorithmFamily, DecodingKey};

/// An algorithm of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// One that the library knows.
    Known(jsonwebtoken::Algorithm),
    /// ECDSA with the curve P-521 and SHA-512.
    Es512,
}

/// There is no such algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAlgorithm;

impl FromStr for Algorithm {
    type Err = NoAlgorithm;

    /// By the value that `alg` has in tokens.
    fn from_str(name: &str) -> Result<Self, NoAlgorithm> {
        match name {
            "ES512" => Ok(Self::Es512),
            _ => name.parse().map(Self::Known).map_err(|_| NoAlgorithm),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(known) => write!(f, "{known:?}"),
            Self::Es512 => f.write_str("ES512"),
        }
    }
}

/// What signatures are checked with: a shared secret or a public key.
#[derive(Clone, Debug)]
pub(super) enum Material {
    /// For the algorithms that the library knows.
    Known(DecodingKey),
    /// For ES512.
    P521(ParsedPublicKey),
}

impl Material {
    /// A shared secret.
    pub(super) fn from_secret(secret: &[u8]) -> Self {
        Self::Known(DecodingKey::from_secret(secret))
    }

    /// A public key of any kind (PEM, `SubjectPublicKeyInfo`; for RSA PKCS#1 too).
    pub(super) fn from_pem(pem: &[u8]) -> Option<Self> {
        DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .ok()
            .and_then(Self::checked)
    }

    /// A key of a set.
    pub(super) fn from_jwk(jwk: &Jwk) -> Option<Self> {
        if let AlgorithmParameters::EllipticCurve(point) = &jwk.algorithm
            && !has_whole_coordinates(point)
        {
            return None;
        }
        DecodingKey::from_jwk(jwk).ok().and_then(Self::checked)
    }

    /// On which curve a point is, it says by itself.
    fn checked(key: DecodingKey) -> Option<Self> {
        if key.family() != AlgorithmFamily::Ec {
            return Some(Self::Known(key));
        }
        let point = key.try_get_as_bytes().ok()?;
        let on = |curve: &'static EcdsaVerificationAlgorithm| ParsedPublicKey::new(curve, point);
        if on(&ECDSA_P256_SHA256_FIXED).is_ok() || on(&ECDSA_P384_SHA384_FIXED).is_ok() {
            return Some(Self::Known(key));
        }
        on(&ECDSA_P521_SHA512_FIXED).ok().map(Self::P521)
    }

    /// Whether the algorithm is one of this kind of key. A public key is never a shared secret.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        match (self, algorithm) {
            (Self::Known(key), Algorithm::Known(known)) => key.family() == known.family(),
            (Self::P521(_), Algorithm::Es512) => true,
            _ => false,
        }
    }

    /// Whether the signature, in the base64 of tokens, is that of the message.
    pub(super) fn has_signed(&self, message: &[u8], signature: &str, algorithm: Algorithm) -> bool {
        match (self, algorithm) {
            (Self::Known(key), Algorithm::Known(known)) => {
                jsonwebtoken::crypto::verify(signature, message, key, known).is_ok_and(|good| good)
            }
            (Self::P521(key), Algorithm::Es512) => URL_SAFE_NO_PAD
                .decode(signature)
                .is_ok_and(|signature| key.verify_sig(message, &signature).is_ok()),
            _ => false,
        }
    }
}

/// Coordinates are as long as the curve has it, zeros in front included [RFC 7518 §6.2.1.2].
fn has_whole_coordinates(point: &EllipticCurveKeyParameters) -> bool {
    let length = match point.curve {
        EllipticCurve::P256 => 32,
        EllipticCurve::P384 => 48,
        EllipticCurve::P521 => 66,
        _ => return false,
    };
    [&point.x, &point.y].into_iter().all(|coordinate| {
        URL_SAFE_NO_PAD
            .decode(coordinate)
            .is_ok_and(|bytes| bytes.len() == length)
    })
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
