//! ES512 beside the algorithms of the library: whose signatures are taken, and whose keys.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair as _,
};
use jsonwebtoken::Algorithm::{ES256, ES384, HS512};
use serde_json::{Value, json};

use super::super::credentials::Rejection;
use super::super::token::{Key, Terms, verify};
use super::Algorithm::{Es512, Known};
use super::*;
use crate::config::Auth;

const NOW: protocols::model::Timestamp = protocols::model::Timestamp(1_800_000_000_000);
const MESSAGE: &[u8] = b"what is signed";

/// Bytes of a coordinate on P-521, and of half a signature.
const HALF: usize = 66;

struct Pair {
    made: rcgen::KeyPair,
    curve: &'static str,
    signing: &'static EcdsaSigningAlgorithm,
}

fn p521() -> Pair {
    Pair {
        made: rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap(),
        curve: "P-521",
        signing: &ECDSA_P521_SHA512_FIXED_SIGNING,
    }
}

fn p384() -> Pair {
    Pair {
        made: rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        curve: "P-384",
        signing: &ECDSA_P384_SHA384_FIXED_SIGNING,
    }
}

fn p256() -> Pair {
    Pair {
        made: rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        curve: "P-256",
        signing: &ECDSA_P256_SHA256_FIXED_SIGNING,
    }
}

impl Pair {
    fn pem(&self) -> Material {
        Material::from_pem(self.made.public_key_pem().as_bytes()).unwrap()
    }

    fn private(&self, signing: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
        EcdsaKeyPair::from_pkcs8(signing, &self.made.serialize_der()).unwrap()
    }

    fn coordinates(&self) -> (Vec<u8>, Vec<u8>) {
        let private = self.private(self.signing);
        let point = &private.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        (x.to_vec(), y.to_vec())
    }

    fn jwk(&self) -> Option<Material> {
        let (x, y) = self.coordinates();
        of_set(self.curve, &x, &y)
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let private = self.private(self.signing);
        let signature = private.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }

    fn token(&self, algorithm: &str, claims: &Value) -> String {
        let header = text(json!({"alg": algorithm}).to_string().as_bytes());
        let message = format!("{header}.{}", text(claims.to_string().as_bytes()));
        format!("{message}.{}", text(&self.sign(message.as_bytes())))
    }
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn of_set(curve: &str, x: &[u8], y: &[u8]) -> Option<Material> {
    of_json(json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)}))
}

fn of_json(jwk: Value) -> Option<Material> {
    Material::from_jwk(&serde_json::from_value(jwk).unwrap())
}

fn takes(key: &Material, signature: &[u8]) -> bool {
    key.has_signed(MESSAGE, &text(signature), Es512)
}

fn check(token: &str, key: Material) -> Result<(), Rejection> {
    let terms = Terms::new(&Auth::default());
    let key = Key {
        id: None,
        algorithm: None,
        material: key,
    };
    verify(token.as_bytes(), &terms, &[&[key]], NOW).map(drop)
}

fn claims() -> Value {
    json!({"sub": "ann", "exp": NOW.0 / 1000 + 600})
}

/// The example of [RFC 7515 §A.4].
#[test]
fn the_signature_of_the_standard_is_taken() {
    let key = of_json(json!({
        "kty": "EC",
        "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp\
              5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S\
              1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
    }))
    .unwrap();
    let signature = "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZq\
                     wqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8Kp\
                     EHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    assert!(key.has_signed(b"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA", signature, Es512));
    assert!(!key.has_signed(b"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZB", signature, Es512));
}

#[test]
fn names_are_those_of_tokens() {
    for name in ["ES512", "ES384", "HS256", "EdDSA"] {
        assert_eq!(name.parse::<Algorithm>().unwrap().to_string(), name);
    }
    for name in ["es512", "ES512 ", "ES521", "none", ""] {
        assert_eq!(name.parse::<Algorithm>(), Err(NoAlgorithm), "{name}");
    }
}

#[test]
fn a_key_is_read_from_a_file_and_from_a_set() {
    let pair = p521();
    let signature = pair.sign(MESSAGE);
    for key in [pair.pem(), pair.jwk().unwrap()] {
        assert!(takes(&key, &signature));
        assert!(!takes(&key, &p521().sign(MESSAGE)), "of another key");
        assert!(!key.has_signed(b"another text", &text(&signature), Es512));
    }
}

/// What is said by a token of ES512 is looked at as with any other.
#[test]
fn the_claims_count_too() {
    let pair = p521();
    let with = |claim: &str, value: Value| {
        let mut claims = claims();
        claims[claim] = value;
        check(&pair.token("ES512", &claims), pair.pem())
    };
    assert_eq!(with("x", json!(1)), Ok(()));
    assert_eq!(with("exp", json!(1)), Err(Rejection::Expired));
    assert_eq!(with("nbf", json!(u64::MAX)), Err(Rejection::NotYet));
    assert_eq!(with("sub", json!("")), Err(Rejection::NoUser));
    let token = pair.token("ES512", &claims());
    let mut fewer = Auth::default();
    fewer.token_algorithms.0.retain(|one| *one != Es512);
    let key = Key {
        id: None,
        algorithm: None,
        material: pair.pem(),
    };
    let refused = verify(token.as_bytes(), &Terms::new(&fewer), &[&[key]], NOW);
    assert_eq!(refused.map(drop), Err(Rejection::Algorithm));
}

/// A key checks the algorithm of its curve, whatever the token says.
#[test]
fn a_key_of_one_curve_never_serves_another() {
    let (small, middle, large) = (p256(), p384(), p521());
    for (key, mine) in [(&small, "ES256"), (&middle, "ES384"), (&large, "ES512")] {
        for name in ["ES256", "ES384", "ES512"] {
            for signer in [&small, &middle, &large] {
                let token = signer.token(name, &claims());
                let good = name == mine && std::ptr::eq(signer, key);
                for material in [key.pem(), key.jwk().unwrap()] {
                    assert_eq!(check(&token, material).is_ok(), good, "{mine} {name}");
                }
            }
        }
    }
    assert!(!large.pem().fits(Known(ES256)) && !large.pem().fits(Known(ES384)));
    assert!(!small.pem().fits(Es512) && !middle.pem().fits(Es512));
    let secret = Material::from_secret(large.made.public_key_pem().as_bytes());
    assert!(!secret.fits(Es512) && !large.pem().fits(Known(HS512)));
    assert!(
        !large
            .pem()
            .has_signed(MESSAGE, &text(&large.sign(MESSAGE)), Known(ES256))
    );
    assert!(
        !small
            .pem()
            .has_signed(MESSAGE, &text(&small.sign(MESSAGE)), Es512)
    );
}

#[test]
fn a_signature_has_one_form() {
    let pair = p521();
    let key = pair.pem();
    let good = pair.sign(MESSAGE);
    assert_eq!(good.len(), 2 * HALF);
    assert!(takes(&key, &good));
    for length in 0..good.len() {
        assert!(!takes(&key, &good[..length]), "cut to {length}");
    }
    let with = |more: &[u8]| [&good[..], more].concat();
    assert!(!takes(&key, &with(&[0])) && !takes(&key, &with(&good)));
    assert!(!takes(&key, &[&[0], &good[..]].concat()));
    let zeros = [0; HALF];
    for half in [zeros, [0xff; HALF]] {
        assert!(!takes(&key, &[half, half].concat()));
        assert!(!takes(&key, &[&half[..], &good[HALF..]].concat()));
        assert!(!takes(&key, &[&good[..HALF], &half[..]].concat()));
    }
    for at in 0..good.len() {
        let mut bent = good.clone();
        bent[at] ^= 1;
        assert!(!takes(&key, &bent), "bent at {at}");
    }
    let der = pair.private(&ECDSA_P521_SHA512_ASN1_SIGNING);
    let der = der.sign(&SystemRandom::new(), MESSAGE).unwrap();
    assert!(!takes(&key, der.as_ref()), "the form of certificates");
    for touched in [text(&good) + "=", text(&good) + " ", String::new()] {
        assert!(!key.has_signed(MESSAGE, &touched, Es512), "{touched}");
    }
}

#[test]
fn a_point_must_be_whole_and_on_its_curve() {
    for pair in [p256(), p384(), p521()] {
        let (curve, (x, y)) = (pair.curve, pair.coordinates());
        assert!(of_set(curve, &x, &y).is_some());
        // As long together as they should be, but not each.
        let all = [&x[..], &y[..]].concat();
        let (left, right) = all.split_at(x.len() - 1);
        assert!(of_set(curve, left, right).is_none(), "{curve}");
        for wrong in [&x[1..], &x[..x.len() - 1], &[&[0], &x[..]].concat(), &[]] {
            assert!(of_set(curve, wrong, &y).is_none(), "{curve}");
            assert!(of_set(curve, &x, wrong).is_none(), "{curve}");
        }
        assert!(of_set(curve, &y, &x).is_none(), "not on the curve");
        let zeros = vec![0; x.len()];
        assert!(of_set(curve, &zeros, &zeros).is_none());
        for other in ["P-256", "P-384", "P-521"] {
            assert_eq!(of_set(other, &x, &y).is_some(), other == curve);
        }
    }
}

/// A file with a point that is bent is no key, not one of another curve.
#[test]
fn a_broken_file_is_no_key() {
    let pem = p521().made.public_key_pem();
    let lines: Vec<_> = pem.lines().collect();
    let mut der = base64::engine::general_purpose::STANDARD
        .decode(lines[1..lines.len() - 1].concat())
        .unwrap();
    let file = |der: &[u8]| {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    };
    assert!(Material::from_pem(file(&der).as_bytes()).is_some());
    assert!(Material::from_pem(file(&der[..der.len() - 1]).as_bytes()).is_none());
    *der.last_mut().unwrap() ^= 1;
    assert!(Material::from_pem(file(&der).as_bytes()).is_none());
    for wrong in [
        "",
        "ES512",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
    ] {
        assert!(Material::from_pem(wrong.as_bytes()).is_none());
    }
}
